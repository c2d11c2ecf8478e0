//! Appends whole frames to an outbox. None of these checks a bound: the caller knows beforehand what
//! room an answer takes, see [`content_octets`] and [`deliver_octets`].

use super::content::{CLASS_BASIC, HEADER_OCTETS};
use super::frame::{
    ChannelNumber, DeliveryTag, FRAME_END, FRAME_OVERHEAD, FRAME_PREFIX, FrameKind,
};
use super::method::{Method, MethodFields, basic};
use super::short_string::ShortString;

/// Octets of the class and method number before a method's arguments.
const METHOD_IDS: usize = 4;

/// What stands before the payload of a frame.
#[inline]
pub fn frame_prefix(kind: FrameKind, channel: ChannelNumber, length: u32) -> [u8; FRAME_PREFIX] {
    let [c1, c0] = channel.0.to_be_bytes();
    let [l3, l2, l1, l0] = length.to_be_bytes();
    [kind as u8, c1, c0, l3, l2, l1, l0]
}

/// Appends a method frame.
#[inline]
pub fn method_frame<M: MethodFields>(out: &mut Vec<u8>, channel: ChannelNumber, method: &M) {
    framed(out, FrameKind::Method, channel, |out| {
        out.extend_from_slice(&M::CLASS_ID.to_be_bytes());
        out.extend_from_slice(&M::METHOD_ID.to_be_bytes());
        method.encode_arguments(out);
    });
}

/// Appends a method frame for a method that is known only at run time.
pub fn any_method_frame(out: &mut Vec<u8>, channel: ChannelNumber, method: &Method<'_>) {
    framed(out, FrameKind::Method, channel, |out| method.encode(out));
}

/// Appends a frame whose payload `payload` appends; its length is filled in afterwards.
#[inline]
fn framed(
    out: &mut Vec<u8>,
    kind: FrameKind,
    channel: ChannelNumber,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(&frame_prefix(kind, channel, 0));
    let start = out.len();
    payload(out);
    let length = out.len() - start;
    out[start - 4..start].copy_from_slice(&(length as u32).to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a content header frame of class `basic`.
///
/// * `body_size`: octets of the whole body.
/// * `properties`: flags and property list.
#[inline]
pub fn content_header_frame(
    out: &mut Vec<u8>,
    channel: ChannelNumber,
    body_size: u64,
    properties: &[u8],
) {
    out.extend_from_slice(&header_head(channel, body_size, properties.len()));
    out.extend_from_slice(properties);
    out.push(FRAME_END);
}

/// A content header frame up to its properties.
#[inline]
fn header_head(
    channel: ChannelNumber,
    body_size: u64,
    properties_octets: usize,
) -> [u8; FRAME_PREFIX + HEADER_OCTETS] {
    let mut head = [0; FRAME_PREFIX + HEADER_OCTETS];
    let length = (HEADER_OCTETS + properties_octets) as u32;
    head[..FRAME_PREFIX].copy_from_slice(&frame_prefix(FrameKind::Header, channel, length));
    head[FRAME_PREFIX..FRAME_PREFIX + 2].copy_from_slice(&CLASS_BASIC.to_be_bytes());
    head[FRAME_PREFIX + 4..].copy_from_slice(&body_size.to_be_bytes());
    head
}

/// Splits a body into body frames of at most `frame_max - 8` octets of payload (spec 4.2.6, 4.2.3)
/// and appends them.
///
/// * `body`: any length; an empty body yields no frame.
/// * `frame_max`: octets of a whole frame as tuned, more than [`FRAME_OVERHEAD`]; 0 means no limit.
#[inline]
pub fn body_frames(out: &mut Vec<u8>, channel: ChannelNumber, body: &[u8], frame_max: u32) {
    for piece in body.chunks(payload_max(frame_max)) {
        out.extend_from_slice(&frame_prefix(FrameKind::Body, channel, piece.len() as u32));
        out.extend_from_slice(piece);
        out.push(FRAME_END);
    }
}

/// Octets of payload that a frame can have.
#[inline]
pub fn payload_max(frame_max: u32) -> usize {
    let frame_max = if frame_max == 0 { u32::MAX } else { frame_max };
    (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1)
}

/// Octets that the body frames of a body take.
#[inline]
pub fn body_frames_octets(body_size: usize, frame_max: u32) -> usize {
    let payload_max = payload_max(frame_max);
    // A body of one frame is the rule; the division would cost more than the rest.
    let frames = if body_size <= payload_max {
        usize::from(body_size != 0)
    } else {
        body_size.div_ceil(payload_max)
    };
    body_size + frames * FRAME_OVERHEAD
}

/// Appends a heartbeat.
#[inline]
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[FrameKind::Heartbeat as u8, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

/// Octets that the content header and body frames of a content take.
#[inline]
pub fn content_octets(properties_octets: usize, body_size: usize, frame_max: u32) -> usize {
    FRAME_OVERHEAD + HEADER_OCTETS + properties_octets + body_frames_octets(body_size, frame_max)
}

/// Appends a method that carries content, the content header and the body frames; makes room once
/// for all of it.
pub fn content<M: MethodFields>(
    out: &mut Vec<u8>,
    channel: ChannelNumber,
    method: &M,
    properties: &[u8],
    body: &[u8],
    frame_max: u32,
) {
    // Arguments of methods with content: three short strings and some numbers at most.
    const ARGUMENTS_MAX: usize = 3 * 256 + 16;
    debug_assert!(M::HAS_CONTENT);
    let octets = content_octets(properties.len(), body.len(), frame_max);
    out.reserve(FRAME_OVERHEAD + METHOD_IDS + ARGUMENTS_MAX + octets);
    method_frame(out, channel, method);
    content_header_frame(out, channel, body.len() as u64, properties);
    body_frames(out, channel, body, frame_max);
}

/// What every `basic.deliver` of a consumer starts with: class, method and consumer tag as octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverPrefix(Box<[u8]>);

impl DeliverPrefix {
    /// The prefix for the consumer `consumer_tag`.
    pub fn new(consumer_tag: ShortString<'_>) -> Self {
        let mut octets = Vec::with_capacity(METHOD_IDS + 1 + consumer_tag.len());
        octets.extend_from_slice(&basic::Deliver::CLASS_ID.to_be_bytes());
        octets.extend_from_slice(&basic::Deliver::METHOD_ID.to_be_bytes());
        consumer_tag.encode(&mut octets);
        DeliverPrefix(octets.into())
    }

    /// The octets.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The consumer tag.
    pub fn consumer_tag(&self) -> ShortString<'_> {
        ShortString::new(&self.0[METHOD_IDS + 1..]).unwrap_or_default()
    }
}

/// One message as a consumer gets it; see [`deliver`].
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// See [`DeliverPrefix`].
    pub prefix: &'a [u8],
    /// The channel's number of the delivery.
    pub delivery_tag: DeliveryTag,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Exchange and routing key, each as a short string with its length octet, one after the other.
    pub names: &'a [u8],
    /// Flags and property list.
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

/// Octets that [`deliver`] appends.
#[inline]
pub fn deliver_octets(delivery: &Delivery<'_>, frame_max: u32) -> usize {
    deliver_head_octets(delivery) + body_frames_octets(delivery.body.len(), frame_max)
}

/// Octets that [`deliver_head`] appends.
#[inline]
pub fn deliver_head_octets(delivery: &Delivery<'_>) -> usize {
    let arguments = delivery.prefix.len() + 8 + 1 + delivery.names.len();
    arguments + FRAME_OVERHEAD + HEADER_OCTETS + FRAME_OVERHEAD + delivery.properties.len()
}

/// Appends a `basic.deliver` with its content: the hot path's encoder, which makes room once and
/// passes over the octets once.
#[inline]
pub fn deliver(out: &mut Vec<u8>, channel: ChannelNumber, delivery: &Delivery<'_>, frame_max: u32) {
    out.reserve(deliver_octets(delivery, frame_max));
    deliver_head(out, channel, delivery, delivery.body.len() as u64);
    body_frames(out, channel, delivery.body, frame_max);
}

/// Appends the method frame and the content header frame of a delivery, for a body that goes out
/// from where it lies; each of its frames is [`frame_prefix`], payload and [`FRAME_END`].
///
/// * `body_size`: octets of the whole body; `delivery.body` is not looked at.
#[inline]
pub fn deliver_head(
    out: &mut Vec<u8>,
    channel: ChannelNumber,
    delivery: &Delivery<'_>,
    body_size: u64,
) {
    let &Delivery {
        prefix,
        names,
        properties,
        ..
    } = delivery;
    let arguments = (prefix.len() + 8 + 1 + names.len()) as u32;
    out.extend_from_slice(&frame_prefix(FrameKind::Method, channel, arguments));
    out.extend_from_slice(prefix);
    let [t7, t6, t5, t4, t3, t2, t1, t0] = delivery.delivery_tag.0.to_be_bytes();
    let redelivered = u8::from(delivery.redelivered);
    out.extend_from_slice(&[t7, t6, t5, t4, t3, t2, t1, t0, redelivered]);
    out.extend_from_slice(names);
    let mut between = [FRAME_END; 1 + FRAME_PREFIX + HEADER_OCTETS];
    between[1..].copy_from_slice(&header_head(channel, body_size, properties.len()));
    out.extend_from_slice(&between);
    out.extend_from_slice(properties);
    out.push(FRAME_END);
}
