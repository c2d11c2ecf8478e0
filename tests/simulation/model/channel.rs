//! Connections and channels of the model, what each waits for, and how each ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::{Code, ConnectionKey, Model};
use crate::operation::Publication;
use crate::topology::Uid;

/// What a channel has with one of its deliveries.
#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    pub(crate) queue: Uid,
    pub(crate) sequence: u64,
    /// The consumer that holds it, while it exists.
    pub(super) consumer: Option<String>,
    /// It counts against the channel's common limit.
    pub(super) counts: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: Uid,
    pub(crate) no_ack: bool,
    pub(super) exclusive: bool,
    pub(super) prefetch: u16,
    pub(super) unacked: u32,
    pub(super) last_sequence: Option<u64>,
    /// consume-ok was seen, or is not to come.
    pub(crate) is_announced: bool,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    Gone,
    Back,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    pub(super) publishes: Vec<Rc<Publication>>,
    pub(super) settlements: Vec<(u64, Outstanding, Settlement)>,
}

/// A publish that waits for its confirm.
#[derive(Clone, Debug)]
pub(super) struct Unconfirmed {
    pub(super) targets: Vec<(Uid, u64)>,
    pub(super) turn: u64,
    /// It surely went to the log.
    pub(super) is_logged: bool,
    /// basic.return comes first.
    pub(super) is_returned: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Mode {
    Plain,
    Confirm {
        confirmed: u64,
        waiting: VecDeque<Unconfirmed>,
    },
    Tx(Transaction),
}

/// An answer that must come on a channel, in this order.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// The method of that name; then everything up to the turn is on the disk.
    Method(&'static str, Option<u64>),
    /// queue.declare-ok: name (`None`: generated), ready messages from–to, consumers.
    Declared(Option<String>, Uid, (u64, u64), u32, Option<u64>),
    /// A method with a count from–to.
    Count(&'static str, (u64, u64), Option<u64>),
    Consuming(String),
    /// basic.get-ok with one of these sequences, or, if allowed, get-empty.
    Got {
        queue: Uid,
        sequences: Vec<u64>,
        or_empty: bool,
        no_ack: bool,
        ready: (u64, u64),
    },
    /// channel.close with that code.
    Close(u16),
}

#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) is_closing: bool,
    /// The client has closed it; close-ok is under way.
    pub(crate) closed_by_client: bool,
    pub(crate) next_tag: u64,
    pub(crate) outstanding: BTreeMap<u64, Outstanding>,
    pub(crate) consumers: BTreeMap<String, Consumer>,
    pub(super) consumer_unacked: u32,
    pub(super) prefetch: u16,
    pub(super) global: u16,
    pub(super) mode: Mode,
    pub(super) last_queue: Option<String>,
    pub(crate) expected: VecDeque<Expected>,
    pub(super) returns: VecDeque<Rc<Publication>>,
    /// Consumers whose queue has gone: the client must be told.
    pub(crate) cancelled: BTreeSet<String>,
}

impl Channel {
    pub(super) fn new() -> Self {
        Channel {
            is_closing: false,
            closed_by_client: false,
            next_tag: 1,
            outstanding: BTreeMap::new(),
            consumers: BTreeMap::new(),
            consumer_unacked: 0,
            prefetch: 0,
            global: 0,
            mode: Mode::Plain,
            last_queue: None,
            expected: VecDeque::new(),
            returns: VecDeque::new(),
            cancelled: BTreeSet::new(),
        }
    }

    pub(super) fn expect(&mut self, expected: Expected) {
        self.expected.push_back(expected);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Until connection.open-ok.
    Handshake,
    /// The log-in was refused.
    Refused,
    Open,
    /// connection.close was sent by the server.
    Closing,
    Over,
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) state: State,
    /// Channels in the order in which they were opened.
    pub(crate) channels: Vec<(u16, Channel)>,
    /// Answers on channel 0, by name.
    pub(crate) expected: VecDeque<&'static str>,
    /// The code of the connection.close to come.
    pub(crate) close_code: Option<u16>,
    pub(crate) is_blocked: bool,
}

impl Connection {
    pub(crate) fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels
            .iter_mut()
            .find(|(other, _)| *other == number)
            .map(|(_, it)| it)
    }
}

impl Model {
    pub(crate) fn accept(&mut self, key: ConnectionKey) {
        let connection = Connection {
            state: State::Handshake,
            channels: Vec::new(),
            expected: VecDeque::new(),
            close_code: None,
            is_blocked: false,
        };
        self.connections.insert(key, connection);
    }

    /// The peer is gone.
    pub(crate) fn dropped(&mut self, key: ConnectionKey) {
        if self.connections[&key].state == State::Open {
            self.end_session(key);
        }
        self.connections.remove(&key);
    }

    pub(super) fn connection(&mut self, key: ConnectionKey) -> &mut Connection {
        self.connections
            .get_mut(&key)
            .expect("a connection that is there")
    }

    /// The channel, when it is open and its client may use it.
    pub(crate) fn channel(&mut self, key: ConnectionKey, number: u16) -> &mut Channel {
        self.connection(key)
            .channel(number)
            .expect("an open channel")
    }

    pub(super) fn end_session(&mut self, key: ConnectionKey) {
        let numbers: Vec<u16> = self
            .connection(key)
            .channels
            .iter()
            .map(|&(number, _)| number)
            .collect();
        for number in numbers {
            self.end_channel(key, number);
            self.connection(key)
                .channels
                .retain(|&(other, _)| other != number);
        }
        let exclusive: Vec<Uid> = self
            .queues
            .iter()
            .filter(|(_, it)| it.exclusive_to == Some(key) && !it.dead)
            .map(|(&uid, _)| uid)
            .collect();
        for uid in exclusive {
            self.remove_queue(uid);
        }
        self.note_topology();
    }

    /// Gives back what a channel holds and ends its consumers.
    pub(super) fn end_channel(&mut self, key: ConnectionKey, number: u16) {
        let channel = self.channel(key, number);
        if channel.is_closing {
            return;
        }
        let mut back: Vec<Outstanding> = std::mem::take(&mut channel.outstanding)
            .into_values()
            .collect();
        // Confirms that are due go out before the answer to the close.
        if let Mode::Tx(transaction) = &mut channel.mode {
            let transaction = std::mem::take(transaction);
            back.extend(transaction.settlements.into_iter().map(|(_, it, _)| it));
        }
        let consumers = std::mem::take(&mut channel.consumers);
        for outstanding in back {
            self.give_back(&outstanding);
        }
        for (tag, consumer) in consumers {
            self.detach(key, number, &tag, &consumer);
        }
        self.note_topology();
    }

    /// Takes a consumer that the channel has let go of out of its queue.
    pub(super) fn detach(
        &mut self,
        key: ConnectionKey,
        number: u16,
        tag: &str,
        consumer: &Consumer,
    ) {
        let Some(queue) = self.queues.get_mut(&consumer.queue) else {
            return;
        };
        queue.consumers.remove(&(key, number, tag.to_owned()));
        queue.has_exclusive_consumer &= !consumer.exclusive;
        if queue.auto_delete && queue.consumers.is_empty() && !queue.dead {
            self.remove_queue(consumer.queue);
        }
    }

    /// Closes a channel for an exception.
    pub(super) fn fail_channel(&mut self, key: ConnectionKey, number: u16, code: Code) {
        self.counts.add("channel exceptions");
        self.end_channel(key, number);
        let channel = self.channel(key, number);
        channel.is_closing = true;
        channel.expect(Expected::Close(code));
    }

    pub(super) fn fail_connection(&mut self, key: ConnectionKey, code: Code) {
        self.counts.add("connection exceptions");
        if self.connection(key).state == State::Open {
            self.end_session(key);
        }
        let connection = self.connection(key);
        connection.state = State::Closing;
        connection.close_code = Some(code);
        connection.expected.clear();
    }

    /// What must hold when nothing is under way any more.
    pub(crate) fn check_quiet(&self) {
        for (key, connection) in &self.connections {
            assert!(
                connection.expected.is_empty() && connection.close_code.is_none(),
                "connection {key} waits for {:?} {:?}",
                connection.expected,
                connection.close_code
            );
            if connection.state != State::Open {
                continue;
            }
            for (number, channel) in &connection.channels {
                let at = format!("channel {number} of connection {key}");
                assert!(
                    channel.expected.is_empty(),
                    "{at} waits for {:?}",
                    channel.expected
                );
                assert!(channel.returns.is_empty(), "{at} waits for returns");
                assert!(
                    channel.cancelled.is_empty(),
                    "{at} waits for {:?} to be cancelled",
                    channel.cancelled
                );
                // A channel that was closed gets no more of them.
                if let Mode::Confirm { waiting, .. } = &channel.mode
                    && !channel.is_closing
                {
                    assert!(
                        waiting.is_empty(),
                        "{at} waits for {} confirms",
                        waiting.len()
                    );
                }
                let limit_reached =
                    channel.global != 0 && channel.consumer_unacked >= u32::from(channel.global);
                for (tag, consumer) in &channel.consumers {
                    let has_credit = consumer.no_ack
                        || (!limit_reached
                            && (consumer.prefetch == 0
                                || consumer.unacked < u32::from(consumer.prefetch)));
                    let ready = self.ready(consumer.queue).0;
                    assert!(
                        !has_credit || ready == 0,
                        "{at}: consumer '{tag}' has credit, and {ready} messages of its queue '{}' are ready",
                        self.queues[&consumer.queue].name
                    );
                }
            }
        }
    }
}
