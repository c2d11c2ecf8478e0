//! What one client knows and what it asks for next.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::observe::Event;
use super::operation::{Criteria, Hostility, Kind, Operation, Publication};
use super::random::Random;

/// How a client opens its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Confirm,
    Tx,
}

/// Where a channel is, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    /// channel.close was sent.
    Closing,
}

#[derive(Clone, Debug)]
struct Channel {
    stage: Stage,
    mode: Mode,
    is_mode_set: bool,
    /// Deliveries that it has not acknowledged, oldest first.
    tags: Vec<u64>,
    consumers: Vec<String>,
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
    /// How often a client does what it should not.
    pub(crate) hostile_one_in: u64,
    /// `if_empty` may be asked.
    pub(crate) is_exact: bool,
}

const QUEUES: [&str; 7] = ["q0", "q1", "q2", "q3", "q4", "q5", "q6"];
const EXCHANGES: [&str; 6] = ["x0", "x1", "x2", "x3", "x4", "x5"];
const KEYS: [&str; 7] = ["a", "b", "a.b", "a.b.c", "c.a", "", "a..c"];
const PATTERNS: [&str; 9] = ["a", "b", "a.*", "#", "*.b", "a.#", "#.c", "a.b.c", ""];

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
        if channel.mode == Mode::Tx && random.one_in(6) {
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
            0 => Some(publish(shared, random)),
            1 => settle(channel, random),
            2 => Some(read(channel, shared, random)),
            3 => Some(topology(shared, random)),
            _ => Some(rest(channel, random)),
        }
    }
}

fn publish(shared: &mut Shared, random: &mut Random) -> Operation {
    let id = shared.next_message;
    shared.next_message += 1;
    let exchange = if random.one_in(3) {
        ""
    } else if random.one_in(25) {
        *random.pick(&[
            "amq.topic",
            "amq.fanout",
            "amq.headers",
            "amq.rabbitmq.trace",
            "nowhere",
        ])
    } else {
        random.pick(&EXCHANGES)
    };
    let routing_key = if exchange.is_empty() {
        *random.pick(&QUEUES)
    } else {
        *random.pick(&KEYS)
    };
    let body_octets = if random.one_in(shared.large_one_in) {
        let (least, most) = *random.pick(&[(16_384, 100_000), (100_000, 1_100_000)]);
        random.between(least, most)
    } else if random.one_in(40) {
        random.between(3000, 20_000)
    } else {
        random.between(8, 200)
    };
    Operation::Publish(Rc::new(Publication {
        id,
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        headers: if random.one_in(4) {
            criteria(random, false)
        } else {
            Criteria::default()
        },
        persistent: !random.one_in(4),
        mandatory: random.one_in(8),
        body_octets,
    }))
}

fn criteria(random: &mut Random, is_binding: bool) -> Criteria {
    let any = (is_binding && random.one_in(2)).then(|| random.one_in(2));
    let pairs = (0..random.below(3))
        .map(|index| (['h', 'i', 'j'][index], i32::from(random.one_in(2))))
        .collect();
    Criteria { any, pairs }
}

fn settle(channel: &mut Channel, random: &mut Random) -> Option<Operation> {
    if random.one_in(400) {
        // A tag that was never given out.
        return Some(Operation::Ack {
            tag: 1_000_000,
            multiple: random.one_in(2),
        });
    }
    if channel.tags.is_empty() {
        return None;
    }
    if random.one_in(50) {
        channel.tags.clear();
        return Some(match random.below(4) {
            0 => Operation::Recover { wants_answer: true },
            1 => Operation::Recover {
                wants_answer: false,
            },
            2 => Operation::Ack {
                tag: 0,
                multiple: true,
            },
            _ => Operation::Nack {
                tag: 0,
                multiple: true,
                requeue: random.one_in(2),
            },
        });
    }
    let at = if random.one_in(3) {
        random.below(channel.tags.len())
    } else {
        0
    };
    let multiple = random.one_in(4);
    let tag = if multiple {
        let tag = channel.tags[at];
        channel.tags.drain(..=at);
        tag
    } else {
        channel.tags.remove(at)
    };
    Some(match random.below(8) {
        0 => Operation::Nack {
            tag,
            multiple,
            requeue: true,
        },
        1 => Operation::Nack {
            tag,
            multiple,
            requeue: false,
        },
        2 if !multiple => Operation::Reject {
            tag,
            requeue: random.one_in(2),
        },
        _ => Operation::Ack { tag, multiple },
    })
}

fn read(channel: &mut Channel, shared: &mut Shared, random: &mut Random) -> Operation {
    let queue = if random.one_in(40) {
        ""
    } else {
        *random.pick(&QUEUES)
    }
    .to_owned();
    if random.one_in(2) {
        return Operation::Get {
            queue,
            no_ack: random.one_in(4),
        };
    }
    if !channel.consumers.is_empty() && (channel.consumers.len() > 2 || random.one_in(4)) {
        let at = random.below(channel.consumers.len());
        let tag = channel.consumers.remove(at);
        return Operation::Cancel {
            tag,
            no_wait: random.one_in(5),
        };
    }
    let tag = format!("c{}", shared.next_consumer);
    shared.next_consumer += 1;
    channel.consumers.push(tag.clone());
    let (no_ack, exclusive) = (random.one_in(6), random.one_in(30));
    Operation::Consume {
        queue,
        tag,
        no_ack,
        exclusive,
        no_wait: random.one_in(5),
    }
}

/// What a queue of that name is mostly declared as: durable, exclusive, auto-delete.
fn usual_queue(name: &str) -> (bool, bool, bool) {
    match name {
        "q3" => (false, false, false),
        "q4" => (true, false, true),
        "q5" => (false, true, false),
        _ => (true, false, false),
    }
}

/// What an exchange of that name is mostly declared as: type, durable, auto-delete, internal.
fn usual_exchange(name: &str) -> (Kind, bool, bool, bool) {
    match name {
        "x0" => (Kind::Direct, true, false, false),
        "x1" => (Kind::Fanout, true, false, false),
        "x2" => (Kind::Topic, true, false, false),
        "x3" => (Kind::Headers, true, false, false),
        "x4" => (Kind::Topic, false, true, false),
        _ => (Kind::Fanout, true, true, true),
    }
}

fn topology(shared: &mut Shared, random: &mut Random) -> Operation {
    let no_wait = random.one_in(6);
    let exchange = |random: &mut Random| {
        if random.one_in(10) {
            (*random.pick(&["amq.topic", "amq.direct", "amq.headers", ""])).to_owned()
        } else {
            (*random.pick(&EXCHANGES)).to_owned()
        }
    };
    let queue = |random: &mut Random| {
        if random.one_in(30) {
            String::new()
        } else {
            (*random.pick(&QUEUES)).to_owned()
        }
    };
    let key = |random: &mut Random| (*random.pick(&PATTERNS)).to_owned();
    let of_headers = |name: &str, random: &mut Random| {
        if matches!(name, "x3" | "amq.headers") {
            criteria(random, true)
        } else {
            Criteria::default()
        }
    };
    match random.weighted(&[26, 20, 26, 6, 8, 3, 5, 2, 4]) {
        0 => declare_queue(queue(random), no_wait, random),
        1 => {
            let name = exchange(random);
            let (mut kind, mut durable, auto_delete, internal) = usual_exchange(&name);
            match random.below(50) {
                0 | 1 => durable = !durable,
                2 | 3 => kind = *random.pick(&Kind::ALL),
                _ => {}
            }
            let passive = random.one_in(8);
            Operation::ExchangeDeclare {
                name,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
            }
        }
        2 => {
            let exchange = exchange(random);
            let criteria = of_headers(&exchange, random);
            Operation::QueueBind {
                queue: queue(random),
                exchange,
                key: key(random),
                criteria,
                no_wait,
            }
        }
        3 => {
            let exchange = exchange(random);
            let criteria = of_headers(&exchange, random);
            Operation::QueueUnbind {
                queue: queue(random),
                exchange,
                key: key(random),
                criteria,
            }
        }
        4 => {
            let source = exchange(random);
            let criteria = of_headers(&source, random);
            let destination = exchange(random);
            Operation::ExchangeBind {
                destination,
                source,
                key: key(random),
                criteria,
                no_wait,
            }
        }
        5 => {
            let source = exchange(random);
            let criteria = of_headers(&source, random);
            let destination = exchange(random);
            Operation::ExchangeUnbind {
                destination,
                source,
                key: key(random),
                criteria,
                no_wait,
            }
        }
        6 => Operation::QueuePurge {
            name: queue(random),
            no_wait,
        },
        7 => Operation::ExchangeDelete {
            name: exchange(random),
            if_unused: random.one_in(2),
            no_wait,
        },
        _ => Operation::QueueDelete {
            name: queue(random),
            if_unused: random.one_in(3),
            if_empty: shared.is_exact && random.one_in(3),
            no_wait,
        },
    }
}

fn declare_queue(name: String, no_wait: bool, random: &mut Random) -> Operation {
    let passive = random.one_in(4);
    if name.is_empty() && !passive {
        // The server chooses the name: it must be told.
        let (durable, auto_delete) = (false, random.one_in(2));
        let exclusive = random.one_in(2);
        return Operation::QueueDeclare {
            name,
            passive,
            durable,
            exclusive,
            auto_delete,
            no_wait: false,
        };
    }
    let (mut durable, exclusive, mut auto_delete) = usual_queue(&name);
    match random.below(50) {
        0 | 1 => durable = !durable,
        2 | 3 => auto_delete = !auto_delete,
        _ => {}
    }
    Operation::QueueDeclare {
        name,
        passive,
        durable,
        exclusive,
        auto_delete,
        no_wait,
    }
}

fn rest(channel: &mut Channel, random: &mut Random) -> Operation {
    match random.weighted(&[10, 4, 2, 2, 1]) {
        0 => Operation::Qos {
            count: random.below(6) as u16,
            global: random.one_in(3),
        },
        1 => Operation::Flow,
        2 => Operation::Heartbeat,
        3 => {
            channel.stage = Stage::Closing;
            Operation::ChannelClose
        }
        // The modes exclude each other.
        _ if channel.mode == Mode::Plain => Operation::TxCommit,
        _ if channel.mode == Mode::Tx => Operation::ConfirmSelect { no_wait: false },
        _ => Operation::TxSelect,
    }
}

/// Declares what is usual and binds it in some way.
pub(crate) fn setup(random: &mut Random) -> Vec<Operation> {
    let mut operations = Vec::new();
    for name in QUEUES.into_iter().filter(|name| *name != "q5") {
        let (durable, exclusive, auto_delete) = usual_queue(name);
        let (name, passive, no_wait) = (name.to_owned(), false, random.one_in(4));
        operations.push(Operation::QueueDeclare {
            name,
            passive,
            durable,
            exclusive,
            auto_delete,
            no_wait,
        });
    }
    for name in EXCHANGES {
        let (kind, durable, auto_delete, internal) = usual_exchange(name);
        let (name, passive, no_wait) = (name.to_owned(), false, random.one_in(4));
        operations.push(Operation::ExchangeDeclare {
            name,
            kind,
            passive,
            durable,
            auto_delete,
            internal,
            no_wait,
        });
    }
    for _ in 0..random.between(5, 14) {
        let exchange = *random.pick(&EXCHANGES);
        let criteria = if exchange == "x3" {
            criteria(random, true)
        } else {
            Criteria::default()
        };
        let (exchange, key) = (exchange.to_owned(), (*random.pick(&PATTERNS)).to_owned());
        let no_wait = random.one_in(4);
        operations.push(if random.one_in(5) {
            let destination = (*random.pick(&["x1", "x2", "x5"])).to_owned();
            Operation::ExchangeBind {
                destination,
                source: exchange,
                key,
                criteria,
                no_wait,
            }
        } else {
            let queue = (*random.pick(&["q0", "q1", "q2", "q3", "q4", "q6"])).to_owned();
            Operation::QueueBind {
                queue,
                exchange,
                key,
                criteria,
                no_wait,
            }
        });
    }
    operations
}
