//! What one client knows and what it asks for next.

use std::collections::BTreeMap;

use super::observe::Event;
use super::operation::{Hostility, Operation};
use super::random::Random;
use super::wish;

/// How a client opens its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Confirm,
    Tx,
}

/// Where a channel is, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Opening,
    Open,
    /// channel.close was sent.
    Closing,
}

#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) stage: Stage,
    pub(crate) mode: Mode,
    is_mode_set: bool,
    /// Deliveries that it has not acknowledged, oldest first.
    pub(crate) tags: Vec<u64>,
    pub(crate) consumers: Vec<String>,
}

/// Where the connection is, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Opening,
    Open,
    Closing,
    Closed,
}

/// What a client is mostly there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher,
    Consumer,
    Operator,
    Everything,
    /// Asks only what it is told to ask.
    Auditor,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) role: Role,
    pub(crate) life: Life,
    pub(crate) heartbeat_s: u16,
    pub(crate) frame_max: u32,
    /// Hostile octets were sent.
    pub(crate) is_hostile: bool,
    is_blocked: bool,
    channels: BTreeMap<u16, Channel>,
    /// Answers to events, sent before anything else.
    due: Vec<(u16, Operation)>,
}

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) next_message: u64,
    pub(crate) next_consumer: u64,
    /// One message in so many is large.
    pub(crate) large_one_in: u64,
    /// How often a transaction ends.
    pub(crate) commit_one_in: u64,
    /// How often a client does what it should not.
    pub(crate) hostile_one_in: u64,
    /// `if_empty` may be asked.
    pub(crate) is_exact: bool,
}

impl Client {
    pub(crate) fn new(role: Role, random: &mut Random) -> Self {
        let heartbeat_s = if random.one_in(3) {
            random.between(1, 3) as u16
        } else {
            0
        };
        let frame_max = *random.pick(&[4096, 4096, 8192, 131_072]);
        Client {
            role,
            life: Life::Opening,
            heartbeat_s,
            frame_max,
            is_hostile: false,
            is_blocked: false,
            channels: BTreeMap::new(),
            due: vec![(0, Operation::ProtocolHeader)],
        }
    }

    /// Something has come from the server.
    pub(crate) fn learn(&mut self, event: Event, random: &mut Random) {
        match event {
            Event::Answer(0, "connection.start") => {
                let password_is_right = self.role == Role::Auditor || !random.one_in(60);
                self.due.push((0, Operation::StartOk { password_is_right }));
            }
            Event::Answer(0, "connection.tune") => {
                let (heartbeat_s, frame_max) = (self.heartbeat_s, self.frame_max);
                self.due.push((
                    0,
                    Operation::TuneOk {
                        heartbeat_s,
                        frame_max,
                    },
                ));
                self.due.push((0, Operation::Open));
            }
            Event::Answer(0, "connection.open-ok") => self.life = Life::Open,
            Event::Answer(0, "connection.close-ok") => self.life = Life::Closed,
            Event::Answer(number, "channel.open-ok") => {
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.stage = Stage::Open;
                }
            }
            Event::Answer(number, "channel.close-ok") => {
                self.channels.remove(&number);
            }
            Event::Answer(..) => {}
            Event::Delivered(number, tag) => {
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.tags.push(tag);
                }
            }
            Event::ChannelClosed(number) => {
                self.due.push((number, Operation::ChannelCloseOk));
                // When its own close has crossed, close-ok is still to come.
                if self
                    .channels
                    .get(&number)
                    .is_some_and(|it| it.stage != Stage::Closing)
                {
                    self.channels.remove(&number);
                }
            }
            Event::ConnectionClosed => {
                self.due.push((0, Operation::ConnectionCloseOk));
                self.life = Life::Closed;
            }
            Event::ConsumerCancelled(number, tag) => {
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.consumers.retain(|other| *other != tag);
                }
            }
            Event::Blocked(is_blocked) => self.is_blocked = is_blocked,
        }
    }

    /// What must be said now, before anything else.
    pub(crate) fn due(&mut self) -> Vec<(u16, Operation)> {
        std::mem::take(&mut self.due)
    }

    /// The next thing that the client wants, if anything.
    pub(crate) fn next(
        &mut self,
        shared: &mut Shared,
        random: &mut Random,
    ) -> Option<(u16, Operation)> {
        if self.life != Life::Open || self.role == Role::Auditor {
            return None;
        }
        if random.one_in(900) {
            self.life = Life::Closing;
            return Some((0, Operation::ConnectionClose));
        }
        let usable: Vec<u16> = self
            .channels
            .iter()
            .filter(|(_, it)| it.stage == Stage::Open)
            .map(|(&number, _)| number)
            .collect();
        if self.channels.len() < 3 && (usable.is_empty() || random.one_in(60)) {
            let number = (1..=4).find(|number| !self.channels.contains_key(number))?;
            let mode = match self.role {
                Role::Publisher => {
                    *random.pick(&[Mode::Confirm, Mode::Confirm, Mode::Tx, Mode::Plain])
                }
                _ => *random.pick(&[Mode::Plain, Mode::Plain, Mode::Confirm, Mode::Tx]),
            };
            let channel = Channel {
                stage: Stage::Opening,
                mode,
                is_mode_set: mode == Mode::Plain,
                tags: Vec::new(),
                consumers: Vec::new(),
            };
            self.channels.insert(number, channel);
            return Some((number, Operation::ChannelOpen));
        }
        if usable.is_empty() {
            return None;
        }
        let number = *random.pick(&usable);
        if random.one_in(shared.hostile_one_in) {
            self.is_hostile = true;
            return Some((number, Operation::Hostile(*random.pick(&Hostility::ALL))));
        }
        self.on_channel(number, shared, random)
            .map(|operation| (number, operation))
    }

    fn on_channel(
        &mut self,
        number: u16,
        shared: &mut Shared,
        random: &mut Random,
    ) -> Option<Operation> {
        let role = self.role;
        let channel = self
            .channels
            .get_mut(&number)
            .expect("a channel that is open");
        if !channel.is_mode_set {
            channel.is_mode_set = true;
            return Some(match channel.mode {
                Mode::Confirm => Operation::ConfirmSelect {
                    no_wait: random.one_in(4),
                },
                _ => Operation::TxSelect,
            });
        }
        if channel.mode == Mode::Tx && random.one_in(shared.commit_one_in) {
            return Some(if random.one_in(4) {
                Operation::TxRollback
            } else {
                Operation::TxCommit
            });
        }
        // Publishing, settling, reading, topology, the rest.
        let weights = match role {
            Role::Publisher => [80, 5, 4, 8, 3],
            Role::Consumer => [6, 60, 22, 8, 4],
            Role::Operator => [15, 10, 12, 55, 8],
            Role::Everything | Role::Auditor => [38, 28, 14, 14, 6],
        };
        match random.weighted(&weights) {
            0 => Some(wish::publish(shared, random)),
            1 => wish::settle(channel, random),
            2 => Some(wish::read(channel, shared, random)),
            3 => Some(wish::topology(shared, random)),
            _ => Some(wish::rest(channel, random)),
        }
    }
}
