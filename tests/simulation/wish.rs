//! What clients ask for: publishing, settling, reading, topology, each as a seed decides.

use std::rc::Rc;

use super::client::{Channel, Mode, Shared, Stage};
use super::operation::{
    Bind, Consume, Criteria, ExchangeDeclare, Kind, Operation, Publication, QueueDeclare,
};
use super::random::Random;

const QUEUES: [&str; 7] = ["q0", "q1", "q2", "q3", "q4", "q5", "q6"];
const EXCHANGES: [&str; 6] = ["x0", "x1", "x2", "x3", "x4", "x5"];
const KEYS: [&str; 7] = ["a", "b", "a.b", "a.b.c", "c.a", "", "a..c"];
const PATTERNS: [&str; 9] = ["a", "b", "a.*", "#", "*.b", "a.#", "#.c", "a.b.c", ""];

pub(crate) fn publish(shared: &mut Shared, random: &mut Random) -> Operation {
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

pub(crate) fn settle(channel: &mut Channel, random: &mut Random) -> Option<Operation> {
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

pub(crate) fn read(channel: &mut Channel, shared: &mut Shared, random: &mut Random) -> Operation {
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
    Operation::Consume(Consume {
        queue,
        tag,
        no_ack,
        exclusive,
        no_wait: random.one_in(5),
    })
}

/// What a queue of that name is mostly declared as.
fn usual_queue(name: &str) -> QueueDeclare {
    let (durable, exclusive, auto_delete) = match name {
        "q3" => (false, false, false),
        "q4" => (true, false, true),
        "q5" => (false, true, false),
        _ => (true, false, false),
    };
    QueueDeclare {
        name: name.to_owned(),
        passive: false,
        durable,
        exclusive,
        auto_delete,
        no_wait: false,
    }
}

/// What an exchange of that name is mostly declared as.
fn usual_exchange(name: &str) -> ExchangeDeclare {
    let (kind, durable, auto_delete, internal) = match name {
        "x0" => (Kind::Direct, true, false, false),
        "x1" => (Kind::Fanout, true, false, false),
        "x2" => (Kind::Topic, true, false, false),
        "x3" => (Kind::Headers, true, false, false),
        "x4" => (Kind::Topic, false, true, false),
        _ => (Kind::Fanout, true, true, true),
    };
    ExchangeDeclare {
        name: name.to_owned(),
        kind,
        passive: false,
        durable,
        auto_delete,
        internal,
        no_wait: false,
    }
}

/// The name of some exchange, mostly of one that clients declare.
fn some_exchange(random: &mut Random) -> String {
    if random.one_in(10) {
        (*random.pick(&["amq.topic", "amq.direct", "amq.headers", ""])).to_owned()
    } else {
        (*random.pick(&EXCHANGES)).to_owned()
    }
}

/// The name of some queue; empty for the one that the channel declared last.
fn some_queue(random: &mut Random) -> String {
    if random.one_in(30) {
        String::new()
    } else {
        (*random.pick(&QUEUES)).to_owned()
    }
}

/// Binds what `destination` names to some exchange.
fn some_binding(
    no_wait: bool,
    destination: impl FnOnce(&mut Random) -> String,
    random: &mut Random,
) -> Bind {
    let source = some_exchange(random);
    let criteria = if matches!(source.as_str(), "x3" | "amq.headers") {
        criteria(random, true)
    } else {
        Criteria::default()
    };
    Bind {
        destination: destination(random),
        source,
        key: (*random.pick(&PATTERNS)).to_owned(),
        criteria,
        no_wait,
    }
}

pub(crate) fn topology(shared: &mut Shared, random: &mut Random) -> Operation {
    let no_wait = random.one_in(6);
    match random.weighted(&[26, 20, 26, 6, 8, 3, 5, 2, 4]) {
        0 => Operation::QueueDeclare(declare_queue(&some_queue(random), no_wait, random)),
        1 => {
            let mut declare = usual_exchange(&some_exchange(random));
            match random.below(50) {
                0 | 1 => declare.durable = !declare.durable,
                2 | 3 => declare.kind = *random.pick(&Kind::ALL),
                _ => {}
            }
            declare.passive = random.one_in(8);
            declare.no_wait = no_wait;
            Operation::ExchangeDeclare(declare)
        }
        2 => Operation::QueueBind(some_binding(no_wait, some_queue, random)),
        3 => Operation::QueueUnbind(some_binding(false, some_queue, random)),
        4 => Operation::ExchangeBind(some_binding(no_wait, some_exchange, random)),
        5 => Operation::ExchangeUnbind(some_binding(no_wait, some_exchange, random)),
        6 => Operation::QueuePurge {
            name: some_queue(random),
            no_wait,
        },
        7 => Operation::ExchangeDelete {
            name: some_exchange(random),
            if_unused: random.one_in(2),
            no_wait,
        },
        _ => Operation::QueueDelete {
            name: some_queue(random),
            if_unused: random.one_in(3),
            if_empty: shared.is_exact && random.one_in(3),
            no_wait,
        },
    }
}

fn declare_queue(name: &str, no_wait: bool, random: &mut Random) -> QueueDeclare {
    let passive = random.one_in(4);
    if name.is_empty() && !passive {
        // The server chooses the name: it must be told.
        return QueueDeclare {
            durable: false,
            auto_delete: random.one_in(2),
            exclusive: random.one_in(2),
            ..usual_queue("")
        };
    }
    let mut declare = QueueDeclare {
        passive,
        no_wait,
        ..usual_queue(name)
    };
    match random.below(50) {
        0 | 1 => declare.durable = !declare.durable,
        2 | 3 => declare.auto_delete = !declare.auto_delete,
        _ => {}
    }
    declare
}

pub(crate) fn rest(channel: &mut Channel, random: &mut Random) -> Operation {
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
        operations.push(Operation::QueueDeclare(QueueDeclare {
            no_wait: random.one_in(4),
            ..usual_queue(name)
        }));
    }
    for name in EXCHANGES {
        operations.push(Operation::ExchangeDeclare(ExchangeDeclare {
            no_wait: random.one_in(4),
            ..usual_exchange(name)
        }));
    }
    for _ in 0..random.between(5, 14) {
        let source = *random.pick(&EXCHANGES);
        let criteria = if source == "x3" {
            criteria(random, true)
        } else {
            Criteria::default()
        };
        let (key, no_wait) = ((*random.pick(&PATTERNS)).to_owned(), random.one_in(4));
        let is_between_exchanges = random.one_in(5);
        let destination = if is_between_exchanges {
            *random.pick(&["x1", "x2", "x5"])
        } else {
            *random.pick(&["q0", "q1", "q2", "q3", "q4", "q6"])
        };
        let bind = Bind {
            destination: destination.to_owned(),
            source: source.to_owned(),
            key,
            criteria,
            no_wait,
        };
        operations.push(if is_between_exchanges {
            Operation::ExchangeBind(bind)
        } else {
            Operation::QueueBind(bind)
        });
    }
    operations
}
