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
mod closing;
mod command;
mod handshake;
mod heartbeat;
pub mod host;
mod publish;

use self::assembler::{Assembly, PropertyCheck};
use self::channel::{ChannelSlot, ChannelState};
use self::heartbeat::{Heartbeat, Look};
pub use self::host::{Client, Host, LogInError, Offer};
use self::publish::OpenFrame;
use crate::broker::{Answer, Batch, ChannelKey, Command, Exception, Outcome, SessionKey};
use crate::clock::{Deadline, Now};
use crate::wire::decoder::{self, Decoded};
use crate::wire::encode::{heartbeat, method_frame};
use crate::wire::error::WireError;
use crate::wire::method::{basic, connection, split_ids};
use crate::wire::{ChannelNumber, FrameKind, Method, MethodFields as _, ShortString};

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
    /// What was done for the peer in this turn has cost enough; the next turn goes on.
    Turn,
}

/// What became of octets handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Octets that are done with.
    pub consumed: usize,
    /// Why the rest was left although it may hold a whole frame.
    pub pause: Option<Pause>,
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
    /// Octets of the answers that wait for the disk, all channels together.
    held_octets: usize,
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
            held_octets: 0,
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

    /// Octets of the body frame that has begun and that have not come yet.
    #[inline]
    pub fn open_frame_octets(&self) -> usize {
        let frame = self.open_frame.as_ref();
        frame.map_or(0, |frame| frame.remaining as usize)
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
        if !host.has_room(self.held_octets) {
            return Ok(Step::Pause(self.without_room()));
        }
        if !host.has_time() {
            return Ok(Step::Pause(Pause::Turn));
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

    /// What has to happen before there is room for another answer.
    #[cold]
    fn without_room(&self) -> Pause {
        if self.held_octets > 0 {
            Pause::Storage
        } else {
            Pause::Outbox
        }
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
                match host.apply(key, &Command::Ack(ack)) {
                    Ok(Outcome {
                        answer: Answer::GoesOn,
                        ..
                    }) => return Ok(Step::Pause(Pause::Turn)),
                    Ok(_) => *consumed += octets,
                    Err(exception) => {
                        *consumed += octets;
                        self.channel_fault(number, Fault::Exception(exception, ids), host)?;
                    }
                }
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

    // ---- answers that wait ----

    /// Sends an answer of a channel, or holds it back until `after` or what the answers before it
    /// wait for is on stable storage.
    fn answer<H: Host>(
        &mut self,
        at: usize,
        after: Option<Batch>,
        host: &mut H,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let slot = &mut self.channels[at].1;
        let out = slot.answer_out(after, host.out());
        let before = out.len();
        encode(out);
        let octets = out.len() - before;
        if slot.is_holding() {
            self.is_holding = true;
            self.held_octets += octets;
        }
    }

    /// Whether answers are held back for the disk.
    #[inline]
    pub fn is_holding(&self) -> bool {
        self.is_holding
    }

    /// Sends the answers whose batch is on stable storage; says whether some are left.
    pub fn release_answers<H: Host>(&mut self, host: &mut H) -> bool {
        let mut is_left = false;
        self.held_octets = 0;
        for (_, slot) in &mut self.channels {
            if slot.is_holding() {
                let mut released = Vec::new();
                is_left |= slot.release(|batch| host.is_flushed(batch), &mut released);
                host.out().extend_from_slice(&released);
                self.held_octets += slot.held_octets();
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
