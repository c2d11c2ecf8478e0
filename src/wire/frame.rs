//! What every frame has (spec 4.2.3), drawn:
//!
//! ```text
//! offset  octets  field
//!      0       1  type      1 method, 2 content header, 3 content body, 8 heartbeat
//!      1       2  channel   big-endian, 0 for the connection itself
//!      3       4  length    big-endian, octets of payload
//!      7       n  payload
//!    7+n       1  frame-end 206
//! ```

use std::fmt;

/// The octet that ends every frame (spec 4.2.3).
pub const FRAME_END: u8 = 206;

/// Octets of a frame that are not payload: the prefix and frame-end.
pub const FRAME_OVERHEAD: usize = 8;

/// Octets before the payload.
pub const FRAME_PREFIX: usize = 7;

/// The least `frame_max` that may be agreed on, and the one that holds until then. The
/// specification says 4096, RabbitMQ 4 says 8192 and clients are tuned by it.
pub const FRAME_MIN_SIZE: u32 = 8192;

/// What a client sends first for AMQP 0-9-1 (spec 4.2.2), and what the server answers to a header
/// of another version.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// The header of AMQP 0-9 (protocol 1.1, 0-9), which RabbitMQ takes as 0-9-1.
pub const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\x00\x09";

/// RabbitMQ 4's answer to octets that are no AMQP header at all: the SASL header of AMQP 1.0.
pub const PROTOCOL_HEADER_SASL_1_0: [u8; 8] = *b"AMQP\x03\x01\x00\x00";

/// The type octet of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Carries one method.
    Method = 1,
    /// Carries a content header: class, body size, properties.
    Header = 2,
    /// Carries a piece of a body.
    Body = 3,
    /// Says that the peer is alive.
    Heartbeat = 8,
}

impl FrameKind {
    /// The kind with the type octet `octet`, if there is one.
    #[inline]
    pub fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(FrameKind::Method),
            2 => Some(FrameKind::Header),
            3 => Some(FrameKind::Body),
            8 => Some(FrameKind::Heartbeat),
            _ => None,
        }
    }
}

/// Number of a channel within its connection; 0 is the connection itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(pub u16);

impl ChannelNumber {
    /// The connection itself.
    pub const CONNECTION: ChannelNumber = ChannelNumber(0);
}

impl fmt::Display for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A channel's number for one delivery, or for one publish that awaits its confirm; counts from 1
/// (spec 1.8.3.13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryTag(pub u64);

impl fmt::Display for DeliveryTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
