//! Appends whole frames to an outbox. None of these checks a bound: the caller knows beforehand
//! what room an answer takes, see [`content_octets`] and [`deliver_octets`].

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
///
/// As tags mostly are short it lies in place: a delivery then finds it where it finds its consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverPrefix(Octets);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Octets {
    Here {
        length: u8,
        octets: [u8; DeliverPrefix::OCTETS_HERE],
    },
    Elsewhere(Box<[u8]>),
}

impl DeliverPrefix {
    /// Enough for the tags that clients make up.
    const OCTETS_HERE: usize = 46;

    /// The prefix for the consumer `consumer_tag`.
    pub fn new(consumer_tag: ShortString<'_>) -> Self {
        let mut all = Vec::with_capacity(METHOD_IDS + 1 + consumer_tag.len());
        all.extend_from_slice(&basic::Deliver::CLASS_ID.to_be_bytes());
        all.extend_from_slice(&basic::Deliver::METHOD_ID.to_be_bytes());
        consumer_tag.encode(&mut all);
        let mut octets = [0; Self::OCTETS_HERE];
        DeliverPrefix(match octets.get_mut(..all.len()) {
            Some(here) => {
                here.copy_from_slice(&all);
                let length = all.len() as u8;
                Octets::Here { length, octets }
            }
            None => Octets::Elsewhere(all.into()),
        })
    }

    /// The octets.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Octets::Here { length, octets } => &octets[..usize::from(*length)],
            Octets::Elsewhere(octets) => octets,
        }
    }

    /// The consumer tag.
    pub fn consumer_tag(&self) -> ShortString<'_> {
        ShortString::new(&self.as_bytes()[METHOD_IDS + 1..]).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::content::ContentHeader;
    use crate::wire::decoder::{Decoded, decode};

    const CHANNEL: ChannelNumber = ChannelNumber(0x0102);
    const FRAME_MAX: u32 = 8192;

    /// Kind and payload of the frames in `octets`, all of them on [`CHANNEL`].
    fn frames(mut octets: &[u8]) -> Vec<(FrameKind, &[u8])> {
        let mut frames = Vec::new();
        while !octets.is_empty() {
            match decode(octets, FRAME_MAX) {
                Ok(Decoded::Frame {
                    kind,
                    channel,
                    payload,
                    consumed,
                }) => {
                    assert_eq!(channel, CHANNEL);
                    frames.push((kind, payload));
                    octets = &octets[consumed..];
                }
                other => panic!("{other:?}"),
            }
        }
        frames
    }

    fn check_content(octets: &[u8], method: &Method<'_>, properties: &[u8], body: &[u8]) {
        let frames = frames(octets);
        assert_eq!(frames[0].0, FrameKind::Method);
        assert_eq!(Method::decode(frames[0].1).as_ref(), Ok(method));
        assert_eq!(frames[1].0, FrameKind::Header);
        let header = ContentHeader::decode(frames[1].1).expect("a header");
        let expected = ContentHeader {
            class_id: 60,
            weight: 0,
            body_size: body.len() as u64,
            properties,
        };
        assert_eq!(header, expected);
        let payload_max = FRAME_MAX as usize - FRAME_OVERHEAD;
        assert_eq!(frames.len(), 2 + body.len().div_ceil(payload_max));
        assert!(frames[2..].iter().all(|&(kind, piece)| {
            kind == FrameKind::Body && (1..=payload_max).contains(&piece.len())
        }));
        let pieces: Vec<_> = frames[2..].iter().map(|&(_, piece)| piece).collect();
        assert_eq!(pieces.concat(), body);
    }

    #[test]
    fn contents_of_any_size_are_framed_and_need_room_once() {
        for size in [0, 1, 16, 8183, 8184, 8185, 16_368, 16_369, 100_000] {
            let body = vec![FRAME_END; size];
            let properties = b"\x10\0\x02";
            let publish = basic::Publish {
                routing_key: ShortString::literal("q"),
                ..Default::default()
            };
            let mut out = Vec::new();
            content(&mut out, CHANNEL, &publish, properties, &body, FRAME_MAX);
            check_content(&out, &publish.into(), properties, &body);

            let tag = ShortString::literal("consumer");
            let prefix = DeliverPrefix::new(tag);
            assert_eq!(prefix.consumer_tag(), tag);
            let delivery = Delivery {
                prefix: prefix.as_bytes(),
                delivery_tag: DeliveryTag(0x0102_0304_0506_0708),
                redelivered: size % 2 == 1,
                names: b"\x02ex\x03key",
                properties,
                body: &body,
            };
            let deliver_method = basic::Deliver {
                consumer_tag: tag,
                delivery_tag: delivery.delivery_tag,
                redelivered: delivery.redelivered,
                exchange: ShortString::literal("ex"),
                routing_key: ShortString::literal("key"),
            };
            let octets = deliver_octets(&delivery, FRAME_MAX);
            let mut out = Vec::with_capacity(octets);
            let (start, capacity) = (out.as_ptr(), out.capacity());
            deliver(&mut out, CHANNEL, &delivery, FRAME_MAX);
            assert_eq!(
                (out.len(), out.as_ptr(), out.capacity()),
                (octets, start, capacity)
            );
            check_content(&out, &deliver_method.into(), properties, &body);
        }
    }

    #[test]
    fn a_delivery_into_an_outbox_makes_room_once() {
        // A buffer that grows from nothing to exactly what is needed has grown once.
        let prefix = DeliverPrefix::new(ShortString::literal("c"));
        let delivery = Delivery {
            prefix: prefix.as_bytes(),
            delivery_tag: DeliveryTag(1),
            redelivered: false,
            names: b"\x00\x01q",
            properties: b"\0\0",
            body: &[b'x'; 9_000],
        };
        let mut out = Vec::new();
        deliver(&mut out, CHANNEL, &delivery, FRAME_MAX);
        assert_eq!(out.capacity(), deliver_octets(&delivery, FRAME_MAX));
        assert_eq!(out.len(), out.capacity());
    }

    #[test]
    fn single_frames_lie_as_drawn() {
        let mut out = Vec::new();
        heartbeat(&mut out);
        method_frame(&mut out, CHANNEL, &basic::QosOk {});
        any_method_frame(&mut out, CHANNEL, &basic::QosOk {}.into());
        let qos_ok = b"\x01\x01\x02\0\0\0\x04\0\x3C\0\x0B\xCE";
        let expected = [b"\x08\0\0\0\0\0\0\xCE".as_slice(), qos_ok, qos_ok].concat();
        assert_eq!(out, expected);
    }

    #[test]
    fn no_frame_max_means_one_frame() {
        let body = vec![0; 300_000];
        let mut out = Vec::new();
        body_frames(&mut out, CHANNEL, &body, 0);
        assert_eq!(out.len(), body_frames_octets(body.len(), 0));
        assert_eq!(out.len(), body.len() + FRAME_OVERHEAD);
    }
}
