//! Publishing: from `basic.publish` to the whole message. One whose frames lie in one piece is
//! published from where it lies, any other is assembled first.

use super::assembler::{Assembly, PartialBody, PartialMessage, PublishHead, check_class};
use super::channel::ChannelState;
use super::host::Host;
use super::{Connection, Fault, Pause, State, Step};
use crate::broker::{ChannelKey, Command, Exception, Publish};
use crate::message::{Body, Message};
use crate::wire::content::ContentHeader;
use crate::wire::decoder::{self, Decoded};
use crate::wire::error::WireError;
use crate::wire::frame::{FRAME_OVERHEAD, FRAME_PREFIX};
use crate::wire::method::basic;
use crate::wire::{FrameKind, MethodFields as _, ReplyCode};

/// Largest body RabbitMQ's framing takes, whatever is configured.
const BODY_OCTETS_HARD_MAX: u64 = 536_870_912;

/// Messages up to this many octets of body are waited for whole, so that they are published from
/// where they lie.
const WHOLE_BODY_OCTETS_MAX: u64 = 4096;

/// A body frame whose payload is taken piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFrame {
    channel: u16,
    pub(super) remaining: u32,
}

impl Connection {
    /// Takes a `basic.publish` whose frame starts at `input[*consumed]` and has `octets` octets.
    #[inline]
    pub(super) fn publish<H: Host>(
        &mut self,
        input: &[u8],
        consumed: &mut usize,
        (at, number, key): (usize, u16, ChannelKey),
        arguments: &[u8],
        octets: usize,
        host: &mut H,
    ) -> Result<Step, Fault> {
        if !host.may_publish() {
            self.publishes = true;
            return Ok(Step::Pause(Pause::Publishing));
        }
        let method = basic::Publish::decode_arguments(arguments)?;
        let names = &arguments[2..arguments.len() - 1];
        let content = &input[*consumed + octets..];
        match whole_content(content, number, self.frame_max) {
            Content::Whole {
                properties,
                body,
                octets: content_octets,
            } if body.len() as u64 <= host.offer().whole_body_octets_max => {
                let summary = self.properties.check(properties)?;
                let publish = Publish {
                    message: Message {
                        names,
                        properties,
                        body: Body::Octets(body),
                    },
                    mandatory: method.mandatory,
                    immediate: method.immediate,
                    persistent: summary.persistent,
                    has_checked_property: summary.has_checked,
                };
                *consumed += octets + content_octets;
                self.publishes = true;
                if let Err(exception) = host.apply(key, &Command::Publish(publish)) {
                    let ids = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
                    self.channel_fault(number, Fault::Exception(exception, ids), host)?;
                }
            }
            Content::Awaited => {}
            Content::Whole { .. } | Content::InParts => {
                self.publishes = true;
                self.channels[at].1.assembly = Assembly::Header(PublishHead {
                    names: names.to_vec(),
                    mandatory: method.mandatory,
                    immediate: method.immediate,
                });
                *consumed += octets;
            }
        }
        Ok(Step::Done)
    }

    /// The channel that a content frame belongs to; `None` when the frame is to be ignored.
    fn content_channel(
        &mut self,
        number: u16,
        kind: FrameKind,
        payload: &[u8],
    ) -> Result<Option<(usize, ChannelKey)>, Fault> {
        if matches!(self.state, State::Closing) {
            return Ok(None);
        }
        let found = self.find(number);
        let (State::Open(_), Some(at)) = (&self.state, found) else {
            return match self.state {
                // RabbitMQ looks at the kind of the frame before it looks for the channel.
                State::Open(_) => Err(Fault::Exception(method_expected(), (0, 0))),
                _ => Err(WireError::unexpected_frame(kind as u8, payload).into()),
            };
        };
        match self.channels[at].1.state {
            ChannelState::Closing | ChannelState::Draining => Ok(None),
            ChannelState::Open(key) => Ok(Some((at, key))),
        }
    }

    pub(super) fn content_header<H: Host>(
        &mut self,
        number: u16,
        payload: &[u8],
        host: &mut H,
    ) -> Result<Step, Fault> {
        let Some((at, key)) = self.content_channel(number, FrameKind::Header, payload)? else {
            return Ok(Step::Done);
        };
        let ids = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
        let header = ContentHeader::decode(payload)?;
        if !matches!(self.channels[at].1.assembly, Assembly::Header(_)) {
            return Err(self.out_of_place(at));
        }
        if let Err(explanation) = check_class(&header) {
            let reply_code = ReplyCode::UnexpectedFrame;
            return Err(Fault::Exception(
                Exception {
                    reply_code,
                    explanation,
                },
                ids,
            ));
        }
        let summary = self.properties.check(header.properties)?;
        let body_size = header.body_size;
        if body_size > BODY_OCTETS_HARD_MAX {
            let text = format!(
                "content body size {body_size} exceeds maximum allowed size {BODY_OCTETS_HARD_MAX}"
            );
            return Err(Fault::Exception(Exception::frame_error(text), ids));
        }
        let body_octets_max = host.offer().body_octets_max;
        if body_size > body_octets_max {
            let exception = Exception::precondition_failed(format!(
                "message size {body_size} is larger than configured max size {body_octets_max}"
            ));
            self.channel_fault(number, Fault::Exception(exception, ids), host)?;
            return Ok(Step::Done);
        }
        let body = if body_size >= host.offer().large_body_octets_min {
            PartialBody::Large {
                body: host.large_begin(body_size, summary.persistent),
                is_behind: false,
            }
        } else {
            PartialBody::Octets(Vec::new())
        };
        let assembly = &mut self.channels[at].1.assembly;
        let Assembly::Header(head) = std::mem::take(assembly) else {
            unreachable!("checked above")
        };
        *assembly = Assembly::Body(Box::new(PartialMessage {
            head,
            properties: header.properties.to_vec(),
            summary,
            body_size,
            received: 0,
            body,
        }));
        if body_size == 0 {
            self.publish_assembled(at, number, key, host)?;
        }
        Ok(Step::Done)
    }

    pub(super) fn content_body<H: Host>(
        &mut self,
        number: u16,
        payload: &[u8],
        host: &mut H,
    ) -> Result<Step, Fault> {
        let Some((at, key)) = self.content_channel(number, FrameKind::Body, payload)? else {
            return Ok(Step::Done);
        };
        if let Step::Pause(pause) = self.append_to_body(at, payload, host)? {
            return Ok(Step::Pause(pause));
        }
        self.publish_if_whole(at, number, key, host)
    }

    /// Adds octets to the message that the channel is in the middle of.
    fn append_to_body<H: Host>(
        &mut self,
        at: usize,
        octets: &[u8],
        host: &mut H,
    ) -> Result<Step, Fault> {
        let Assembly::Body(partial) = &mut self.channels[at].1.assembly else {
            return Err(self.out_of_place(at));
        };
        if octets.len() as u64 > partial.remaining() {
            let text = "content body frame exceeds remaining content size";
            let ids = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
            return Err(Fault::Exception(Exception::frame_error(text), ids));
        }
        // What was begun before publishers were stopped takes memory and disk as what was not.
        if !octets.is_empty() && !host.may_publish() {
            return Ok(Step::Pause(Pause::Publishing));
        }
        match &mut partial.body {
            PartialBody::Octets(body) => body.extend_from_slice(octets),
            PartialBody::Large { body, is_behind } => {
                if *is_behind && !host.large_append(*body, &[]) {
                    return Ok(Step::Pause(Pause::Storage));
                }
                *is_behind = !host.large_append(*body, octets);
            }
        }
        partial.received += octets.len() as u64;
        Ok(Step::Done)
    }

    fn publish_if_whole<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        key: ChannelKey,
        host: &mut H,
    ) -> Result<Step, Fault> {
        match &self.channels[at].1.assembly {
            Assembly::Body(partial) if partial.remaining() == 0 => {
                self.publish_assembled(at, number, key, host)?;
            }
            _ => {}
        }
        Ok(Step::Done)
    }

    fn publish_assembled<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        key: ChannelKey,
        host: &mut H,
    ) -> Result<(), Fault> {
        let Assembly::Body(partial) = std::mem::take(&mut self.channels[at].1.assembly) else {
            return Ok(());
        };
        let publish = Publish {
            message: partial.message(),
            mandatory: partial.head.mandatory,
            immediate: partial.head.immediate,
            persistent: partial.summary.persistent,
            has_checked_property: partial.summary.has_checked,
        };
        let outcome = host.apply(key, &Command::Publish(publish));
        if let PartialBody::Large { body, .. } = partial.body {
            host.large_release(body);
        }
        if let Err(exception) = outcome {
            let ids = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
            self.channel_fault(number, Fault::Exception(exception, ids), host)?;
        }
        Ok(())
    }

    /// When what is there is the start of a body frame, takes its payload piece by piece, so that
    /// a large frame needs no buffer of its size.
    #[cold]
    pub(super) fn begin_body_frame(
        &mut self,
        rest: &[u8],
        consumed: &mut usize,
    ) -> Result<Step, Fault> {
        /// Fewer octets than this are not worth a piece of their own.
        const PIECE_OCTETS_MIN: usize = 2048;
        if rest.len() < FRAME_PREFIX + PIECE_OCTETS_MIN {
            return Ok(Step::Done);
        }
        let Some(prefix) = decoder::decode_prefix(rest, self.frame_max)? else {
            return Ok(Step::Done);
        };
        if prefix.kind != FrameKind::Body || prefix.channel.0 == 0 {
            return Ok(Step::Done);
        }
        self.open_frame = Some(OpenFrame {
            channel: prefix.channel.0,
            remaining: prefix.length,
        });
        *consumed += FRAME_PREFIX;
        Ok(Step::Done)
    }

    pub(super) fn more_of_body_frame<H: Host>(
        &mut self,
        input: &[u8],
        consumed: &mut usize,
        host: &mut H,
    ) -> Result<Step, Fault> {
        let Some(frame) = self.open_frame else {
            return Ok(Step::Done);
        };
        let rest = &input[*consumed..];
        if frame.remaining > 0 {
            let piece = &rest[..rest.len().min(frame.remaining as usize)];
            if piece.is_empty() {
                return Ok(Step::Done);
            }
            if let Some((at, _)) = self.content_channel(frame.channel, FrameKind::Body, piece)?
                && let Step::Pause(pause) = self.append_to_body(at, piece, host)?
            {
                return Ok(Step::Pause(pause));
            }
            *consumed += piece.len();
            let remaining = frame.remaining - piece.len() as u32;
            self.open_frame = Some(OpenFrame { remaining, ..frame });
            return Ok(Step::Done);
        }
        let Some(&end) = rest.first() else {
            return Ok(Step::Done);
        };
        decoder::check_frame_end(FrameKind::Body, end, &[])?;
        *consumed += 1;
        self.open_frame = None;
        match self.content_channel(frame.channel, FrameKind::Body, &[])? {
            Some((at, key)) => self.publish_if_whole(at, frame.channel, key, host),
            None => Ok(Step::Done),
        }
    }

    /// What stands where the rest of a message should be.
    #[cold]
    pub(super) fn out_of_place(&mut self, at: usize) -> Fault {
        let ids = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
        let text = match self.channels[at].1.assembly {
            Assembly::Idle => return Fault::Exception(method_expected(), (0, 0)),
            Assembly::Header(_) => {
                "expected content header for class 60, got non content header frame instead"
            }
            Assembly::Body(_) => "expected content body, got non content body frame instead",
        };
        let (reply_code, explanation) = (ReplyCode::UnexpectedFrame, text.to_owned());
        Fault::Exception(
            Exception {
                reply_code,
                explanation,
            },
            ids,
        )
    }
}

/// What is said of content that no method announced.
#[cold]
fn method_expected() -> Exception {
    Exception {
        reply_code: ReplyCode::UnexpectedFrame,
        explanation: "expected method frame, got non method frame instead".to_owned(),
    }
}

/// What follows a `basic.publish`.
enum Content<'a> {
    /// The whole content lies there in one piece.
    Whole {
        properties: &'a [u8],
        body: &'a [u8],
        /// Octets of its frames.
        octets: usize,
    },
    /// It is small and has begun to come: worth waiting for.
    Awaited,
    /// It is large, split, or something else stands there: frame by frame.
    InParts,
}

/// Looks at the content header and body frame that follow a `basic.publish`.
#[inline]
fn whole_content(input: &[u8], number: u16, frame_max: u32) -> Content<'_> {
    // A malformed frame is found, and answered, when it is next to be taken.
    let header = match decoder::decode(input, frame_max) {
        Ok(Decoded::Frame {
            kind: FrameKind::Header,
            channel,
            payload,
            consumed,
        }) if channel.0 == number => (payload, consumed),
        Ok(Decoded::Incomplete { .. }) => return Content::Awaited,
        _ => return Content::InParts,
    };
    let Ok(ContentHeader {
        class_id: crate::wire::content::CLASS_BASIC,
        weight: 0,
        body_size,
        properties,
    }) = ContentHeader::decode(header.0)
    else {
        return Content::InParts;
    };
    if body_size == 0 {
        return Content::Whole {
            properties,
            body: &[],
            octets: header.1,
        };
    }
    match decoder::decode(&input[header.1..], frame_max) {
        Ok(Decoded::Frame {
            kind: FrameKind::Body,
            channel,
            payload,
            consumed,
        }) if channel.0 == number && payload.len() as u64 == body_size => Content::Whole {
            properties,
            body: payload,
            octets: header.1 + consumed,
        },
        Ok(Decoded::Incomplete { need })
            if body_size <= WHOLE_BODY_OCTETS_MAX
                && need <= WHOLE_BODY_OCTETS_MAX as usize + FRAME_OVERHEAD =>
        {
            Content::Awaited
        }
        _ => Content::InParts,
    }
}
