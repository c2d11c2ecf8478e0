//! Reads what a broker sends where it lies in the inbox: deliveries without copying or allocating,
//! everything else as whole methods.
//!
//! How to drive it: [`Parser::parse`] with all octets that are there and not consumed; it returns
//! how many it has used up. The rest, less than one method or header frame, must be there again
//! with more behind it the next time. Bodies are used up piece by piece, so an inbox need only hold
//! the greatest method frame. One channel a connection: contents never interleave.

use super::check::Stamp;
use crate::wire::content::ContentHeader;
use crate::wire::decoder::{Decoded, check_frame_end, decode, decode_prefix};
use crate::wire::method::split_ids;
use crate::wire::{FrameKind, WireError};

/// Numbers of the methods that matter on the hot path; all of class `basic`.
const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
const RETURN: u16 = 50;
const DELIVER: u16 = 60;

/// The end of the consumer tag of subscription `index` of a connection: four printable octets that
/// [`subscription`] reads back without a look-up.
pub(super) fn tag_octets(index: usize) -> [u8; 4] {
    [18, 12, 6, 0].map(|shift| b'0' + (index >> shift & 63) as u8)
}

/// The subscription with the consumer tag that ends so.
#[inline]
pub(super) fn subscription(octets: [u8; 4]) -> usize {
    let digit = |index: usize| usize::from(octets[index].wrapping_sub(b'0') & 63);
    digit(0) << 18 | digit(1) << 12 | digit(2) << 6 | digit(3)
}

/// A message that is there in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Whether it is a `basic.return`, not a delivery.
    pub(super) returned: bool,
    /// The last four octets of the consumer tag, 0 when it has less; see [`tag_octets`].
    pub(super) consumer: [u8; 4],
    /// The delivery tag, 0 when the message is no delivery.
    pub(super) delivery_tag: u64,
    /// The flag of the delivery.
    pub(super) redelivered: bool,
    /// Octets of the whole body.
    pub(super) body_size: u64,
    /// The body's first octets, 0 where it has less.
    pub(super) head: [u8; Stamp::OCTETS],
}

/// Takes what a parser finds.
pub(super) trait Events {
    /// A message, in the order of the stream.
    fn content(&mut self, content: &Content);

    /// The payload of any other method frame.
    fn method(&mut self, payload: &[u8]) -> Result<(), super::failure::Failure>;
}

/// What ends a stream.
#[derive(Debug)]
pub(super) enum ParseError {
    /// The octets are no frames, or frames that have no place here.
    Wire(WireError),
    /// [`Events::method`] did not like one.
    Refused(super::failure::Failure),
}

impl From<WireError> for ParseError {
    fn from(error: WireError) -> Self {
        ParseError::Wire(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A frame starts here.
    Frame,
    /// A content header must come next.
    Header,
    /// `content_left` octets of body are still to come; a body frame starts here.
    Body,
    /// Within a body frame, so many octets before its frame-end.
    Payload(u32),
}

/// State of one stream.
#[derive(Debug)]
pub(super) struct Parser {
    frame_max: u32,
    state: State,
    content: Content,
    content_left: u64,
}

impl Parser {
    /// At the start of a frame.
    pub(super) fn new(frame_max: u32) -> Self {
        Parser {
            frame_max,
            state: State::Frame,
            content: Content::default(),
            content_left: 0,
        }
    }

    /// Uses up as many octets of `input` as it can and returns their number.
    #[inline]
    pub(super) fn parse(
        &mut self,
        input: &[u8],
        events: &mut impl Events,
    ) -> Result<usize, ParseError> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let consumed = match self.state {
                State::Frame | State::Header => self.whole_frame(rest, events)?,
                State::Body => self.body_prefix(rest)?,
                State::Payload(left) => self.payload(rest, left, events)?,
            };
            if consumed == 0 {
                return Ok(at);
            }
            at += consumed;
        }
    }

    /// A frame that is looked at as a whole: method, header or heartbeat.
    #[inline]
    fn whole_frame(&mut self, rest: &[u8], events: &mut impl Events) -> Result<usize, ParseError> {
        let Decoded::Frame {
            kind,
            payload,
            consumed,
            ..
        } = decode(rest, self.frame_max)?
        else {
            return Ok(0);
        };
        match (kind, self.state) {
            (FrameKind::Heartbeat, _) => {}
            (FrameKind::Method, State::Frame) => self.method(payload, events)?,
            (FrameKind::Header, State::Header) => {
                let header = ContentHeader::decode(payload)?;
                self.content.body_size = header.body_size;
                self.content_left = header.body_size;
                self.state = State::Body;
                self.finish_if_whole(events);
            }
            _ => return Err(WireError::unexpected_frame(kind as u8, payload).into()),
        }
        Ok(consumed)
    }

    #[inline]
    fn method(&mut self, payload: &[u8], events: &mut impl Events) -> Result<(), ParseError> {
        let (class_id, method_id, arguments) = split_ids(payload)?;
        match (class_id, method_id) {
            (BASIC, DELIVER) => {
                let tag_at = 1 + arguments.first().map_or(0, |&length| usize::from(length));
                let Some(&[t7, t6, t5, t4, t3, t2, t1, t0, redelivered]) =
                    arguments.get(tag_at..).and_then(<[u8]>::first_chunk)
                else {
                    return Err(
                        WireError::unexpected_frame(FrameKind::Method as u8, payload).into(),
                    );
                };
                let tag = u64::from_be_bytes([t7, t6, t5, t4, t3, t2, t1, t0]);
                self.start_content(false, tag, redelivered & 1 != 0);
                self.content.consumer = arguments[1..tag_at]
                    .last_chunk()
                    .copied()
                    .unwrap_or_default();
            }
            // A publish comes in only through the relay of `perf limit`.
            (BASIC, PUBLISH | RETURN) => self.start_content(method_id == RETURN, 0, false),
            _ => events.method(payload).map_err(ParseError::Refused)?,
        }
        Ok(())
    }

    #[inline]
    fn start_content(&mut self, returned: bool, delivery_tag: u64, redelivered: bool) {
        self.content = Content {
            returned,
            delivery_tag,
            redelivered,
            ..Content::default()
        };
        self.state = State::Header;
    }

    #[inline]
    fn body_prefix(&mut self, rest: &[u8]) -> Result<usize, ParseError> {
        let Some(prefix) = decode_prefix(rest, self.frame_max)? else {
            return Ok(0);
        };
        let length = u64::from(prefix.length);
        match prefix.kind {
            FrameKind::Body if length <= self.content_left => {
                self.state = State::Payload(prefix.length);
                Ok(crate::wire::frame::FRAME_PREFIX)
            }
            // A heartbeat may come between frames; it has no payload, only a frame-end.
            FrameKind::Heartbeat if length == 0 => {
                Ok(if rest.len() < crate::wire::frame::FRAME_OVERHEAD {
                    0
                } else {
                    crate::wire::frame::FRAME_OVERHEAD
                })
            }
            kind => Err(WireError::unexpected_frame(kind as u8, &[]).into()),
        }
    }

    #[inline]
    fn payload(
        &mut self,
        rest: &[u8],
        left: u32,
        events: &mut impl Events,
    ) -> Result<usize, ParseError> {
        let taken = rest.len().min(left as usize);
        let seen = self.content.body_size - self.content_left;
        if seen < Stamp::OCTETS as u64 {
            let seen = seen as usize;
            let head = taken.min(Stamp::OCTETS - seen);
            self.content.head[seen..seen + head].copy_from_slice(&rest[..head]);
        }
        self.content_left -= taken as u64;
        if taken < left as usize || taken == rest.len() {
            self.state = State::Payload(left - taken as u32);
            return Ok(taken);
        }
        check_frame_end(FrameKind::Body, rest[taken], &rest[..taken])?;
        self.state = State::Body;
        self.finish_if_whole(events);
        Ok(taken + 1)
    }

    #[inline]
    fn finish_if_whole(&mut self, events: &mut impl Events) {
        if self.content_left == 0 {
            self.state = State::Frame;
            events.content(&self.content);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::perf::failure::Failure;
    use crate::wire::method::basic;
    use crate::wire::{ChannelNumber, DeliveryTag, ShortString, encode};

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Recorder {
        contents: Vec<Content>,
        methods: Vec<Vec<u8>>,
    }

    impl Events for Recorder {
        fn content(&mut self, content: &Content) {
            self.contents.push(*content);
        }

        fn method(&mut self, payload: &[u8]) -> Result<(), Failure> {
            self.methods.push(payload.to_owned());
            Ok(())
        }
    }

    /// All contents of `octets`, which must be whole frames.
    pub(in super::super) fn collect(octets: &[u8], frame_max: u32) -> Vec<Content> {
        feed(octets, &[octets.len()], frame_max).contents
    }

    /// Feeds `octets` in pieces that end at `cuts`, keeping what is not used up as an inbox does.
    fn feed(octets: &[u8], cuts: &[usize], frame_max: u32) -> Recorder {
        let mut recorder = Recorder::default();
        let mut parser = Parser::new(frame_max);
        let mut start = 0;
        for &end in cuts {
            start += parser
                .parse(&octets[start..end], &mut recorder)
                .expect("the octets are well-formed");
        }
        assert_eq!(start, octets.len(), "all octets are used up");
        recorder
    }

    fn stream() -> (Vec<u8>, Vec<Content>) {
        let mut octets = Vec::new();
        let mut contents = Vec::new();
        let channel = ChannelNumber(1);
        for (tag, size) in [(1, 0_usize), (2, 3), (3, 16), (4, 40), (300, 17)] {
            let body: Vec<u8> = (0..size as u8).map(|octet| octet ^ 0xCE).collect();
            let deliver = basic::Deliver {
                consumer_tag: ShortString::literal("c-0tag"),
                delivery_tag: DeliveryTag(tag),
                redelivered: tag == 3,
                exchange: ShortString::literal(""),
                routing_key: ShortString::literal("q"),
            };
            // Frames of 24 octets at most, so that some bodies take several.
            encode::content(&mut octets, channel, &deliver, &[0x10, 0, 2], &body, 24);
            let mut head = [0; 16];
            head[..size.min(16)].copy_from_slice(&body[..size.min(16)]);
            contents.push(Content {
                returned: false,
                consumer: *b"0tag",
                delivery_tag: tag,
                redelivered: tag == 3,
                body_size: size as u64,
                head,
            });
            encode::heartbeat(&mut octets);
            encode::method_frame(
                &mut octets,
                channel,
                &basic::Ack {
                    delivery_tag: DeliveryTag(tag),
                    multiple: true,
                },
            );
        }
        (octets, contents)
    }

    #[test]
    fn a_stream_reads_the_same_at_every_split_point_and_octet_by_octet() {
        let (octets, contents) = stream();
        let whole = feed(&octets, &[octets.len()], 8_192);
        assert_eq!(whole.contents, contents);
        assert_eq!(whole.methods.len(), contents.len());
        for cut in 0..octets.len() {
            assert_eq!(
                feed(&octets, &[cut, octets.len()], 8_192),
                whole,
                "cut at {cut}"
            );
        }
        let every: Vec<usize> = (0..=octets.len()).collect();
        assert_eq!(feed(&octets, &every, 8_192), whole);
    }

    #[test]
    fn a_tag_names_its_subscription() {
        for index in [0, 1, 63, 64, 9_999, (1 << 24) - 1] {
            let octets = tag_octets(index);
            assert_eq!(subscription(octets), index);
            assert!(octets.iter().all(u8::is_ascii_graphic), "{octets:?}");
        }
    }

    #[test]
    fn a_heartbeat_between_the_frames_of_a_content_is_passed_over() {
        let channel = ChannelNumber(1);
        let mut octets = Vec::new();
        encode::method_frame(&mut octets, channel, &basic::Return::default());
        encode::heartbeat(&mut octets);
        encode::content_header_frame(&mut octets, channel, 2, &[0, 0]);
        for octet in [7, 8] {
            encode::heartbeat(&mut octets);
            encode::body_frames(&mut octets, channel, &[octet], 0);
        }
        let every: Vec<usize> = (0..=octets.len()).collect();
        let found = feed(&octets, &every, 8_192).contents;
        assert_eq!(
            (found.len(), found[0].returned, &found[0].head[..2]),
            (1, true, &[7, 8][..])
        );
    }

    #[test]
    fn frames_that_have_no_place_are_refused() {
        let channel = ChannelNumber(1);
        let mut header = Vec::new();
        encode::content_header_frame(&mut header, channel, 1, &[0, 0]);
        let mut body = Vec::new();
        encode::body_frames(&mut body, channel, &[1, 2], 0);
        let mut deliver = Vec::new();
        encode::method_frame(&mut deliver, channel, &basic::Deliver::default());
        let mut cut_short = Vec::new();
        encode::method_frame(&mut cut_short, channel, &basic::Publish::default());
        cut_short[10] = 60;
        let streams = [
            header.clone(),
            body.clone(),
            [deliver.clone(), deliver.clone()].concat(),
            [deliver.clone(), header.clone(), body.clone()].concat(),
            [deliver, header, vec![1; 8]].concat(),
            cut_short,
        ];
        for (index, octets) in streams.iter().enumerate() {
            let mut parser = Parser::new(8_192);
            let result = parser.parse(octets, &mut Recorder::default());
            assert!(matches!(result, Err(ParseError::Wire(_))), "stream {index}");
        }
    }
}
