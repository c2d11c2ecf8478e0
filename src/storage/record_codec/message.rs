//! The payload of a message's record.

use super::{RecordKind, u32_at, u64_at};
use crate::broker::record::QueueId;
use crate::message::{Body, Entry, LargeBody, Message};

/// Octets of a message payload before its list of queues.
const MESSAGE_FIXED_OCTETS: usize = 16;
/// Octets of one queue in a message's list: id (4), sequence (6).
const MESSAGE_QUEUE_OCTETS: usize = 10;
/// Octets that stand for a large body: file (8), length (8), checksum (4).
const LARGE_BODY_OCTETS: usize = 20;

/// Octets of the payload of `message` for `queues` queues.
#[inline]
pub fn message_octets(message: &Message<'_>, queues: usize) -> usize {
    let body = match message.body {
        Body::Octets(octets) => octets.len(),
        Body::Large(_) => LARGE_BODY_OCTETS,
    };
    MESSAGE_FIXED_OCTETS
        + queues * MESSAGE_QUEUE_OCTETS
        + message.names.len()
        + message.properties.len()
        + body
}

/// Writes the payload of a message; the kind of its record.
#[inline]
pub fn encode_message(
    into: &mut Vec<u8>,
    arrived_ms: u64,
    message: &Message<'_>,
    to: &[(QueueId, u64)],
    large_crc: u32,
) -> RecordKind {
    let mut fixed = [0; MESSAGE_FIXED_OCTETS];
    fixed[..8].copy_from_slice(&arrived_ms.to_be_bytes());
    fixed[8..12].copy_from_slice(&(message.properties.len() as u32).to_be_bytes());
    fixed[12..].copy_from_slice(&(to.len() as u32).to_be_bytes());
    into.extend_from_slice(&fixed);
    for &(queue, sequence) in to {
        let mut octets = [0; MESSAGE_QUEUE_OCTETS];
        octets[..4].copy_from_slice(&queue.0.to_be_bytes());
        octets[4..].copy_from_slice(&sequence.to_be_bytes()[2..]);
        into.extend_from_slice(&octets);
    }
    into.extend_from_slice(message.names);
    into.extend_from_slice(message.properties);
    match message.body {
        Body::Octets(octets) => {
            into.extend_from_slice(octets);
            RecordKind::Message
        }
        Body::Large(large) => {
            into.extend_from_slice(&large.file.to_be_bytes());
            into.extend_from_slice(&large.octets.to_be_bytes());
            into.extend_from_slice(&large_crc.to_be_bytes());
            RecordKind::LargeMessage
        }
    }
}

/// A message at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// Milliseconds since 1970-01-01 UTC when the broker took it.
    pub arrived_ms: u64,
    /// The message itself, as it came.
    pub message: Message<'a>,
}

/// The payload of a message record, not yet taken apart.
#[derive(Clone, Copy, Debug)]
pub struct MessagePayload<'a> {
    payload: &'a [u8],
    queues: usize,
    names_start: usize,
    large: bool,
}

impl<'a> MessagePayload<'a> {
    /// Takes a payload; `None` when it is not that of a message.
    #[inline]
    pub fn new(kind: RecordKind, payload: &'a [u8]) -> Option<Self> {
        let large = match kind {
            RecordKind::Message => false,
            RecordKind::LargeMessage => true,
            _ => return None,
        };
        let queues = u32_at(payload, 12)? as usize;
        let names_start = queues
            .checked_mul(MESSAGE_QUEUE_OCTETS)?
            .checked_add(MESSAGE_FIXED_OCTETS)?;
        (names_start <= payload.len()).then_some(MessagePayload {
            payload,
            queues,
            names_start,
            large,
        })
    }

    /// How many queues got it durably.
    pub fn queue_count(&self) -> usize {
        self.queues
    }

    /// The queues that got it durably, each with its sequence.
    #[inline]
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, u64)> + use<'a> {
        self.payload[MESSAGE_FIXED_OCTETS..self.names_start]
            .chunks_exact(MESSAGE_QUEUE_OCTETS)
            .map(|octets| {
                let mut sequence = [0; 8];
                sequence[2..].copy_from_slice(&octets[4..]);
                let id = u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]);
                (QueueId(id), u64::from_be_bytes(sequence))
            })
    }

    /// Whether some queue gave it this sequence.
    #[inline]
    pub fn is_of(&self, sequence: u64) -> bool {
        // Most messages go to one queue; its sequence ends the octets that are looked at.
        let first = u64_at(self.payload, MESSAGE_FIXED_OCTETS + 2);
        let is_first = first.is_some_and(|octets| octets & Entry::SEQUENCE_MAX == sequence);
        self.queues > 0 && (is_first || self.is_of_a_later(sequence))
    }

    #[cold]
    fn is_of_a_later(&self, sequence: u64) -> bool {
        self.queues().skip(1).any(|(_, its)| its == sequence)
    }

    /// The message.
    #[inline]
    pub fn message(&self) -> Option<StoredMessage<'a>> {
        let rest = &self.payload[self.names_start..];
        let exchange_octets = usize::from(*rest.first()?);
        let key_octets = usize::from(*rest.get(1 + exchange_octets)?);
        let names_octets = 2 + exchange_octets + key_octets;
        let properties_end = names_octets.checked_add(u32_at(self.payload, 8)? as usize)?;
        let tail = rest.get(properties_end..)?;
        let body = if self.large {
            Body::Large(large_body(tail)?.0)
        } else {
            Body::Octets(tail)
        };
        Some(StoredMessage {
            arrived_ms: u64_at(self.payload, 0)?,
            message: Message {
                names: rest.get(..names_octets)?,
                properties: rest.get(names_octets..properties_end)?,
                body,
            },
        })
    }

    /// The large body that it names, with its checksum.
    pub fn large(&self) -> Option<(LargeBody, u32)> {
        if !self.large {
            return None;
        }
        let start = self.payload.len().checked_sub(LARGE_BODY_OCTETS)?;
        large_body(&self.payload[start..])
    }
}

fn large_body(octets: &[u8]) -> Option<(LargeBody, u32)> {
    if octets.len() != LARGE_BODY_OCTETS {
        return None;
    }
    let large = LargeBody {
        file: u64_at(octets, 0)?,
        octets: u64_at(octets, 8)?,
    };
    Some((large, u32_at(octets, 16)?))
}
