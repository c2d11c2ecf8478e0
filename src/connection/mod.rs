//! One AMQP connection as a state machine: octets in, commands for the router out; answers in,
//! octets out. It knows no socket, no queue and no clock; what it needs of the world it asks of
//! its [`Host`].
//!
//! How to drive it: [`Connection::accept`] when the peer is there; [`Connection::receive`] with
//! the octets that came and were not consumed, whenever there are some; [`Connection::tick`] at
//! [`Connection::next_deadline`] at the latest; [`Connection::release_answers`] when the log was
//! flushed; [`Connection::abandon`] when the peer is gone. When [`Connection::is_over`] says so,
//! write out what the outbox still has and close the socket.
//!
//! Order of answers: those of one channel leave in the order of its commands; one that waits for
//! the disk holds back the later ones of its channel. Deliveries and confirms pass it.

mod assembler;
mod channel;
mod handshake;
mod heartbeat;
pub mod host;

use self::assembler::{
    Assembly, PartialBody, PartialMessage, PropertyCheck, PublishHead, check_class,
};
use self::channel::{ChannelSlot, ChannelState, encode_answer, encode_close};
use self::heartbeat::{Heartbeat, Look};
pub use self::host::{Client, Host, LogInError, Offer};
use crate::broker::{Answer, ChannelKey, Command, Exception, Outcome, Publish, SessionKey};
use crate::clock::{Deadline, Now};
use crate::message::{Body, Message};
use crate::wire::content::ContentHeader;
use crate::wire::decoder::{self, Decoded};
use crate::wire::encode::{heartbeat, method_frame};
use crate::wire::error::WireError;
use crate::wire::frame::{FRAME_OVERHEAD, FRAME_PREFIX};
use crate::wire::method::{basic, channel as channel_methods, connection, split_ids};
use crate::wire::reply_code::reply_text;
use crate::wire::{ChannelNumber, FrameKind, Method, MethodFields as _, ReplyCode, ShortString};

/// Largest body RabbitMQ's framing takes, whatever is configured.
const BODY_OCTETS_HARD_MAX: u64 = 536_870_912;

/// Messages up to this many octets of body are waited for whole, so that they are published from
/// where they lie.
const WHOLE_BODY_OCTETS_MAX: u64 = 4096;

/// Where a connection is in its life.
#[derive(Debug)]
enum State {
    /// The protocol header is expected.
    Header,
    /// `connection.start` was sent.
    Start,
    /// `connection.tune` was sent.
    Tune,
    /// tune-ok came, `connection.open` is expected.
    Tuned,
    /// Commands are taken.
    Open(SessionKey),
    /// A refused log-in waits for its answer.
    Refused,
    /// `connection.close` was sent: everything but its answer is ignored.
    Closing,
    /// Nothing more comes or goes, once the outbox is empty.
    Over,
}

/// Why input was left where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The storage has to read something, or to take something, first.
    Storage,
    /// Publishers wait for the log or for an alarm to end.
    Publishing,
    /// The outbox has no room for more answers.
    Outbox,
}

/// What became of octets handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Octets that are done with.
    pub consumed: usize,
    /// Why the rest was left although it may hold a whole frame.
    pub pause: Option<Pause>,
}

/// A body frame whose payload is taken piece by piece.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    channel: u16,
    remaining: u32,
}

/// What ends a connection or a channel, and in which method.
enum Fault {
    Wire(WireError),
    Exception(Exception, (u16, u16)),
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Fault::Wire(error)
    }
}

/// What became of one frame.
enum Step {
    /// It was done.
    Done,
    /// It was left where it was.
    Pause(Pause),
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    state: State,
    /// What the client said of itself.
    pub client: Client,
    frame_max: u32,
    deadline: Option<Deadline>,
    heartbeat: Option<Heartbeat>,
    /// Open and closing channels, by number.
    channels: Vec<(u16, Box<ChannelSlot>)>,
    /// Where the last channel was found.
    last_channel: usize,
    open_frame: Option<OpenFrame>,
    properties: PropertyCheck,
    /// A content frame was seen: the connection publishes.
    pub publishes: bool,
    /// `connection.blocked` was sent and not taken back.
    pub is_blocked: bool,
    is_holding: bool,
}

impl Connection {
    /// A connection whose peer has just come.
    pub fn accept(now: Now, offer: &Offer) -> Self {
        Connection {
            state: State::Header,
            client: Client::default(),
            frame_max: offer.initial_frame_max,
            deadline: Some(now.after_ms(offer.handshake_timeout_ms)),
            heartbeat: None,
            channels: Vec::new(),
            last_channel: 0,
            open_frame: None,
            properties: PropertyCheck::default(),
            publishes: false,
            is_blocked: false,
            is_holding: false,
        }
    }

    /// Whether the socket may be closed once the outbox is empty.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// The session, while the connection is open.
    pub fn session(&self) -> Option<SessionKey> {
        match self.state {
            State::Open(session) => Some(session),
            _ => None,
        }
    }

    /// The state's name in RabbitMQ's lists.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Header | State::Start => "starting",
            State::Tune => "tuning",
            State::Tuned => "opening",
            State::Open(_) if self.is_blocked => "blocked",
            State::Open(_) => "running",
            State::Refused | State::Closing => "closing",
            State::Over => "closed",
        }
    }

    /// Numbers of the open channels, with their keys.
    pub fn open_channels(&self) -> impl Iterator<Item = (u16, ChannelKey)> {
        self.channels
            .iter()
            .filter_map(|(number, slot)| match slot.state {
                ChannelState::Open(key) => Some((*number, key)),
                ChannelState::Closing | ChannelState::Draining => None,
            })
    }

    // ---- octets in ----

    /// Takes octets in, frame by frame, as far as they go.
    pub fn receive<H: Host>(&mut self, input: &[u8], host: &mut H) -> Received {
        if let Some(heartbeat) = &mut self.heartbeat
            && !input.is_empty()
        {
            heartbeat.received();
        }
        let mut consumed = 0;
        let mut pause = None;
        if matches!(self.state, State::Header) {
            consumed = self.protocol_header(input, host);
        }
        while !matches!(self.state, State::Over | State::Header | State::Refused) {
            let at = consumed;
            match self.frame(input, &mut consumed, host) {
                Ok(Step::Done) if consumed > at => {}
                Ok(Step::Done) => break,
                Ok(Step::Pause(why)) => {
                    pause = Some(why);
                    break;
                }
                Err(fault) => {
                    self.fail(&fault, host);
                    // The stream may have lost its frames; what is left of it says nothing.
                    if !matches!(self.state, State::Open(_)) {
                        consumed = input.len();
                    }
                }
            }
        }
        if matches!(self.state, State::Over | State::Refused) {
            consumed = input.len();
        }
        Received { consumed, pause }
    }

    /// Takes one frame, or a piece of a body frame, from `input[*consumed..]` and advances
    /// `consumed` past what is done with; leaves it where it is when more octets are needed.
    #[inline]
    fn frame<H: Host>(
        &mut self,
        input: &[u8],
        consumed: &mut usize,
        host: &mut H,
    ) -> Result<Step, Fault> {
        if self.open_frame.is_some() {
            return self.more_of_body_frame(input, consumed, host);
        }
        if !host.has_room() {
            return Ok(Step::Pause(Pause::Outbox));
        }
        let rest = &input[*consumed..];
        let (kind, number, payload, octets) = match decoder::decode(rest, self.frame_max) {
            Ok(Decoded::Frame {
                kind,
                channel,
                payload,
                consumed,
            }) => (kind, channel.0, payload, consumed),
            Ok(Decoded::Incomplete { .. }) => return self.begin_body_frame(rest, consumed),
            // After our connection.close the peer may send anything.
            Err(_) if matches!(self.state, State::Closing) => {
                self.state = State::Over;
                return Ok(Step::Done);
            }
            Err(error) => return Err(error.into()),
        };
        if kind == FrameKind::Method && number != 0 {
            return self.channel_method(input, consumed, number, payload, octets, host);
        }
        let step = match kind {
            FrameKind::Method => self.connection_method(payload, host)?,
            FrameKind::Heartbeat if number == 0 && payload.is_empty() => Step::Done,
            FrameKind::Heartbeat if number == 0 && !matches!(self.state, State::Closing) => {
                return Err(WireError::unknown_frame(kind as u8, payload).into());
            }
            FrameKind::Header if number != 0 => self.content_header(number, payload, host)?,
            FrameKind::Body if number != 0 => self.content_body(number, payload, host)?,
            _ if matches!(self.state, State::Closing) => Step::Done,
            _ => return Err(WireError::unexpected_frame(kind as u8, payload).into()),
        };
        if let Step::Done = step {
            *consumed += octets;
        }
        Ok(step)
    }

    fn find(&mut self, number: u16) -> Option<usize> {
        if self
            .channels
            .get(self.last_channel)
            .is_some_and(|(other, _)| *other == number)
        {
            return Some(self.last_channel);
        }
        let found = self
            .channels
            .binary_search_by_key(&number, |&(number, _)| number)
            .ok()?;
        self.last_channel = found;
        Some(found)
    }

    /// Takes a method frame of a channel; a publish takes its content along when that is there.
    #[inline]
    fn channel_method<H: Host>(
        &mut self,
        input: &[u8],
        consumed: &mut usize,
        number: u16,
        payload: &[u8],
        octets: usize,
        host: &mut H,
    ) -> Result<Step, Fault> {
        const PUBLISH: (u16, u16) = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
        const ACK: (u16, u16) = (basic::Ack::CLASS_ID, basic::Ack::METHOD_ID);
        let State::Open(session) = self.state else {
            if matches!(self.state, State::Closing) {
                *consumed += octets;
                return Ok(Step::Done);
            }
            return Err(WireError::unexpected_frame(FrameKind::Method as u8, payload).into());
        };
        let (class_id, method_id, arguments) = split_ids(payload)?;
        let ids = (class_id, method_id);
        let Some(at) = self.find(number) else {
            let method = Method::decode(payload)?;
            self.open_channel(session, number, &method, host)?;
            *consumed += octets;
            return Ok(Step::Done);
        };
        let key = match self.channels[at].1.state {
            ChannelState::Open(key) => key,
            ChannelState::Closing => {
                self.closing_method(at, number, payload, host)?;
                *consumed += octets;
                return Ok(Step::Done);
            }
            // The client may use the number again once it has the answer to its close.
            ChannelState::Draining => return Ok(Step::Pause(Pause::Storage)),
        };
        if !matches!(self.channels[at].1.assembly, Assembly::Idle) {
            return Err(self.out_of_place(at));
        }
        match ids {
            PUBLISH => self.publish(input, consumed, (at, number, key), arguments, octets, host),
            ACK => {
                let ack = basic::Ack::decode_arguments(arguments)?;
                let outcome = host.apply(key, &Command::Ack(ack));
                *consumed += octets;
                outcome
                    .map_err(|exception| Fault::Exception(exception, ids))
                    .or_else(|fault| self.channel_fault(number, fault, host))?;
                Ok(Step::Done)
            }
            _ => {
                let method = Method::decode(payload)?;
                let step = self.command(at, number, key, &method, host)?;
                if let Step::Done = step {
                    *consumed += octets;
                }
                Ok(step)
            }
        }
    }

    /// A soft exception closes the channel, a hard one is passed on.
    #[cold]
    fn channel_fault<H: Host>(
        &mut self,
        number: u16,
        fault: Fault,
        host: &mut H,
    ) -> Result<Outcome, Fault> {
        match fault {
            Fault::Exception(exception, ids) if !exception.reply_code.is_hard() => {
                self.close_channel(number, &exception, ids, host);
                Ok(Outcome::now(Answer::Nothing))
            }
            fault => Err(fault),
        }
    }

    /// What stands where the rest of a message should be.
    #[cold]
    fn out_of_place(&mut self, at: usize) -> Fault {
        let mut ids = (basic::Publish::CLASS_ID, basic::Publish::METHOD_ID);
        let text = match self.channels[at].1.assembly {
            Assembly::Idle => {
                ids = (0, 0);
                "expected method frame, got non method frame instead"
            }
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

    // ---- publishing ----

    /// Takes a `basic.publish` whose frame starts at `input[*consumed]` and has `octets` octets.
    #[inline]
    fn publish<H: Host>(
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
            } if body.len() as u64 <= host.offer().body_octets_max => {
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
                State::Open(_) => Err(not_open((0, 0))),
                _ => Err(WireError::unexpected_frame(kind as u8, payload).into()),
            };
        };
        match self.channels[at].1.state {
            ChannelState::Closing | ChannelState::Draining => Ok(None),
            ChannelState::Open(key) => Ok(Some((at, key))),
        }
    }

    fn content_header<H: Host>(
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
        let body = if body_size > Body::INLINE_OCTETS_MAX {
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

    fn content_body<H: Host>(
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
    fn begin_body_frame(&mut self, rest: &[u8], consumed: &mut usize) -> Result<Step, Fault> {
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

    fn more_of_body_frame<H: Host>(
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

    // ---- commands of channels ----

    fn open_channel<H: Host>(
        &mut self,
        session: SessionKey,
        number: u16,
        method: &Method<'_>,
        host: &mut H,
    ) -> Result<(), Fault> {
        let Method::ChannelOpen(_) = method else {
            return Err(not_open(method.ids()));
        };
        let channel_max = self.client.channel_max;
        if channel_max != 0 && self.channels.len() >= usize::from(channel_max) {
            let open = self.channels.len();
            let exception = Exception::not_allowed(format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({channel_max})"
            ));
            return Err(Fault::Exception(exception, (0, 0)));
        }
        let key = host.open_channel(session, number);
        let at = self.channels.partition_point(|&(other, _)| other < number);
        self.channels
            .insert(at, (number, Box::new(ChannelSlot::new(key))));
        self.last_channel = at;
        let open_ok = channel_methods::OpenOk { channel_id: &[] };
        method_frame(host.out(), ChannelNumber(number), &open_ok);
        Ok(())
    }

    /// A method on a channel that we have closed: only the end of it counts.
    fn closing_method<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        payload: &[u8],
        host: &mut H,
    ) -> Result<(), Fault> {
        match Method::decode(payload) {
            Ok(Method::ChannelCloseOk(_)) => {
                self.channels.remove(at);
                self.last_channel = 0;
            }
            Ok(method @ Method::ChannelOpen(_)) => {
                let exception = Exception::channel_error("second 'channel.open' seen");
                return Err(Fault::Exception(exception, method.ids()));
            }
            Ok(Method::ChannelClose(_)) => {
                method_frame(
                    host.out(),
                    ChannelNumber(number),
                    &channel_methods::CloseOk {},
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn command<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        key: ChannelKey,
        method: &Method<'_>,
        host: &mut H,
    ) -> Result<Step, Fault> {
        let mut no_wait = false;
        let mut tag = ShortString::EMPTY;
        let mut noted = |is_set: bool| no_wait = is_set;
        let command = match *method {
            Method::BasicNack(nack) => Command::Nack(nack),
            Method::BasicReject(reject) => Command::Reject(reject),
            Method::BasicGet(_) | Method::BasicConsume(_) if self.channels[at].1.is_holding() => {
                // Their answers bring messages along, which could overtake answers held back.
                return Ok(Step::Pause(Pause::Storage));
            }
            Method::BasicGet(get) => Command::Get(get),
            Method::BasicConsume(consume) => {
                noted(consume.no_wait);
                Command::Consume(consume)
            }
            Method::BasicCancel(cancel) => {
                noted(cancel.no_wait);
                tag = cancel.consumer_tag;
                Command::Cancel(cancel)
            }
            Method::BasicQos(qos) => Command::Qos(qos),
            Method::BasicRecover(basic::Recover { requeue }) => Command::Recover {
                requeue,
                answer: true,
            },
            Method::BasicRecoverAsync(basic::RecoverAsync { requeue }) => Command::Recover {
                requeue,
                answer: false,
            },
            Method::ExchangeDeclare(declare) => {
                noted(declare.no_wait);
                Command::ExchangeDeclare(declare)
            }
            Method::ExchangeDelete(delete) => {
                noted(delete.no_wait);
                Command::ExchangeDelete(delete)
            }
            Method::ExchangeBind(bind) => {
                noted(bind.no_wait);
                Command::ExchangeBind(bind)
            }
            Method::ExchangeUnbind(unbind) => {
                noted(unbind.no_wait);
                Command::ExchangeUnbind(unbind)
            }
            Method::QueueDeclare(declare) => {
                noted(declare.no_wait);
                Command::QueueDeclare(declare)
            }
            Method::QueueDelete(delete) => {
                noted(delete.no_wait);
                Command::QueueDelete(delete)
            }
            Method::QueueBind(bind) => {
                noted(bind.no_wait);
                Command::QueueBind(bind)
            }
            Method::QueueUnbind(unbind) => Command::QueueUnbind(unbind),
            Method::QueuePurge(purge) => {
                noted(purge.no_wait);
                Command::QueuePurge(purge)
            }
            Method::ConfirmSelect(select) => {
                noted(select.no_wait);
                Command::ConfirmSelect
            }
            Method::TxSelect(_) => Command::TxSelect,
            Method::TxCommit(_) => Command::TxCommit,
            Method::TxRollback(_) => Command::TxRollback,
            _ => {
                return self
                    .channel_command(at, number, key, method, host)
                    .map(|()| Step::Done);
            }
        };
        match host.apply(key, &command) {
            Ok(Outcome {
                answer: Answer::NotYet,
                ..
            }) => Ok(Step::Pause(Pause::Storage)),
            Ok(_) if no_wait => Ok(Step::Done),
            Ok(Outcome { answer, after }) => {
                let after = after.filter(|&batch| !host.is_flushed(batch));
                self.is_holding |= after.is_some();
                let out = self.channels[at].1.answer_out(after, host.out());
                encode_answer(out, number, &answer, tag);
                Ok(Step::Done)
            }
            Err(exception) => {
                let fault = Fault::Exception(exception, method.ids());
                self.channel_fault(number, fault, host).map(|_| Step::Done)
            }
        }
    }

    /// Methods that concern the channel itself.
    fn channel_command<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        key: ChannelKey,
        method: &Method<'_>,
        host: &mut H,
    ) -> Result<(), Fault> {
        let slot = &mut self.channels[at].1;
        let channel = ChannelNumber(number);
        match method {
            Method::ChannelClose(_) => {
                self.drop_assembly(at, host);
                host.close_channel(key);
                let slot = &mut self.channels[at].1;
                let out = slot.answer_out(None, host.out());
                method_frame(out, channel, &channel_methods::CloseOk {});
                if slot.is_holding() {
                    slot.state = ChannelState::Draining;
                } else {
                    self.channels.remove(at);
                }
                Ok(())
            }
            Method::ChannelFlow(channel_methods::Flow { active: true }) => {
                let out = slot.answer_out(None, host.out());
                method_frame(out, channel, &channel_methods::FlowOk { active: true });
                Ok(())
            }
            Method::ChannelFlow(_) => {
                let exception = Exception::not_implemented("active=false");
                Err(Fault::Exception(exception, method.ids()))
            }
            Method::ChannelOpen(_) => {
                let exception = Exception::channel_error("second 'channel.open' seen");
                Err(Fault::Exception(exception, method.ids()))
            }
            // A late answer to a close that has crossed the client's own.
            Method::ChannelCloseOk(_) => Ok(()),
            Method::AccessRequest(_) => {
                let out = slot.answer_out(None, host.out());
                let request_ok = crate::wire::method::access::RequestOk { ticket: 1 };
                method_frame(out, channel, &request_ok);
                Ok(())
            }
            _ => {
                let exception = Exception::command_invalid("unimplemented method");
                Err(Fault::Exception(exception, method.ids()))
            }
        }
    }

    fn drop_assembly<H: Host>(&mut self, at: usize, host: &mut H) {
        let assembly = std::mem::take(&mut self.channels[at].1.assembly);
        if let Assembly::Body(partial) = assembly
            && let PartialBody::Large { body, .. } = partial.body
        {
            host.large_release(body);
        }
    }

    /// Closes a channel for an exception.
    fn close_channel<H: Host>(
        &mut self,
        number: u16,
        exception: &Exception,
        ids: (u16, u16),
        host: &mut H,
    ) {
        let Some(at) = self.find(number) else { return };
        let text = reply_text(exception.reply_code, &exception.explanation);
        log::error!("channel {number} of user '{}': {text}", self.client.user);
        self.drop_assembly(at, host);
        let slot = &mut self.channels[at].1;
        slot.drop_held();
        if let ChannelState::Open(key) = slot.state {
            slot.state = ChannelState::Closing;
            host.close_channel(key);
        }
        encode_close(
            host.out(),
            number,
            (exception.reply_code.as_u16(), &text),
            ids,
        );
    }

    // ---- the end ----

    fn fail<H: Host>(&mut self, fault: &Fault, host: &mut H) {
        let (code, text, ids) = match fault {
            Fault::Wire(error) => (
                error.reply_code(),
                error.reply_text(),
                error.failed_method(),
            ),
            Fault::Exception(exception, ids) => (
                exception.reply_code,
                reply_text(exception.reply_code, &exception.explanation),
                *ids,
            ),
        };
        if matches!(self.state, State::Header | State::Start) {
            // Nobody has logged in: as RabbitMQ does, nothing is said.
            log::error!("closing AMQP connection: {text}");
            self.abandon(host);
            return;
        }
        self.close(code, &text, ids, host);
    }

    /// Sends `connection.close` and lets go of everything the connection has.
    pub fn close<H: Host>(&mut self, code: ReplyCode, text: &str, ids: (u16, u16), host: &mut H) {
        if matches!(self.state, State::Closing | State::Over) {
            self.state = State::Over;
            return;
        }
        log::error!(
            "closing AMQP connection of user '{}': {text}",
            self.client.user
        );
        self.end_session(host);
        let close = connection::Close {
            reply_code: code.as_u16(),
            reply_text: ShortString::truncated(text),
            class_id: ids.0,
            method_id: ids.1,
        };
        method_frame(host.out(), ChannelNumber::CONNECTION, &close);
        let until = host.now().after_ms(host.offer().close_timeout_ms);
        (self.state, self.deadline) = (State::Closing, Some(until));
    }

    /// The peer is gone: everything the connection has is let go of.
    pub fn abandon<H: Host>(&mut self, host: &mut H) {
        self.end_session(host);
        self.state = State::Over;
    }

    fn end_session<H: Host>(&mut self, host: &mut H) {
        for at in 0..self.channels.len() {
            self.drop_assembly(at, host);
        }
        self.channels = Vec::new();
        self.open_frame = None;
        self.heartbeat = None;
        if let State::Open(session) = self.state {
            host.close_session(session);
        }
        self.deadline = Some(host.now().after_ms(host.offer().close_timeout_ms));
        self.state = State::Over;
    }

    // ---- time ----

    /// When [`Connection::tick`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Deadline> {
        let look = self.heartbeat.as_ref().map(Heartbeat::next_look);
        match (self.deadline, look) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does what time demands. `is_deaf`: we do not read from the peer at the moment. Says whether
    /// the peer is given up.
    pub fn tick<H: Host>(&mut self, is_deaf: bool, host: &mut H) -> bool {
        let now = host.now();
        if self.deadline.is_some_and(|deadline| deadline.is_due(now)) {
            self.deadline = None;
            match self.state {
                State::Refused => self.refuse(host),
                State::Closing => self.state = State::Over,
                State::Open(_) => {}
                // The peer does not take its last octets.
                State::Over => return true,
                _ => {
                    log::warn!("closing AMQP connection: handshake_timeout");
                    return true;
                }
            }
        }
        match self
            .heartbeat
            .as_mut()
            .map(|heartbeat| heartbeat.look(now, is_deaf))
        {
            Some(Look::Send) => heartbeat(host.out()),
            Some(Look::Dead) => {
                let interval_s = self.client.heartbeat_s;
                log::warn!(
                    "closing AMQP connection of user '{}': missed heartbeats from client, timeout: {interval_s}s",
                    self.client.user
                );
                return true;
            }
            Some(Look::Fine) | None => {}
        }
        false
    }

    /// Octets were written to the peer.
    pub fn wrote_out(&mut self) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.sent();
        }
    }

    // ---- answers that waited ----

    /// Whether answers are held back for the disk.
    #[inline]
    pub fn is_holding(&self) -> bool {
        self.is_holding
    }

    /// Sends the answers whose batch is on stable storage; says whether some are left.
    pub fn release_answers<H: Host>(&mut self, host: &mut H) -> bool {
        let mut is_left = false;
        for (_, slot) in &mut self.channels {
            if slot.is_holding() {
                let mut released = Vec::new();
                is_left |= slot.release(|batch| host.is_flushed(batch), &mut released);
                host.out().extend_from_slice(&released);
            }
        }
        self.is_holding = is_left;
        self.channels
            .retain(|(_, slot)| slot.is_holding() || !matches!(slot.state, ChannelState::Draining));
        is_left
    }

    /// Tells a publisher that it is blocked, or that it no longer is.
    pub fn set_blocked<H: Host>(&mut self, reason: Option<&str>, host: &mut H) {
        let is_wanted = self.client.connection_blocked && matches!(self.state, State::Open(_));
        match reason {
            Some(reason) if !self.is_blocked && self.publishes => {
                self.is_blocked = true;
                if is_wanted {
                    let blocked = connection::Blocked {
                        reason: ShortString::truncated(reason),
                    };
                    method_frame(host.out(), ChannelNumber::CONNECTION, &blocked);
                }
            }
            None if self.is_blocked => {
                self.is_blocked = false;
                if is_wanted {
                    method_frame(
                        host.out(),
                        ChannelNumber::CONNECTION,
                        &connection::Unblocked {},
                    );
                }
            }
            _ => {}
        }
    }
}

#[cold]
fn not_open(ids: (u16, u16)) -> Fault {
    Fault::Exception(Exception::channel_error("expected 'channel.open'"), ids)
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
