//! Random commands to leveret and to another broker, side by side: what both answer must be the
//! same, up to what can never be (order across channels, how confirms are bundled).
//!
//! ```text
//! cargo test --test differential -- HOST:PORT [FIRST_SEED..LAST_SEED] [STEPS]
//! ```
//!
//! A difference is printed as a transcript of the commands that led to it.

#[expect(dead_code, reason = "transcripts use more of it")]
mod broker;
mod login;
mod methods;
#[expect(dead_code, reason = "transcripts use more of it")]
mod peer;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use broker::Broker;
use login::{Login, ask};
use peer::{Content, Method, Peer, Unit, now};
use value::{Field, Value};

const CONNECTIONS: usize = 2;
const CHANNELS: u16 = 2;
const QUEUES: [&str; 4] = ["q0", "q1", "q2", "q3"];
const EXCHANGES: [&str; 7] = [
    "x0",
    "x1",
    "x2",
    "amq.direct",
    "amq.fanout",
    "amq.topic",
    "amq.headers",
];
const TYPES: [&str; 4] = ["direct", "fanout", "topic", "headers"];
const KEYS: [&str; 8] = ["", "a", "b", "a.b", "*.b", "a.#", "#", "q0"];
/// How long a broker is listened to after it has answered, for what comes by itself.
const ECHO: Duration = Duration::from_millis(6);
/// The same, when the two have not said the same.
const PATIENT_ECHO: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|it| !it.starts_with("--"));
    let Some(other) = arguments.next() else {
        eprintln!("usage: cargo test --test differential -- HOST:PORT [FIRST..LAST] [STEPS]");
        return ExitCode::from(64);
    };
    let seeds = arguments.next().unwrap_or_else(|| "1..20".into());
    let steps = arguments
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or(150);
    match compare(&other, &seeds, steps) {
        Ok(compared) => {
            eprintln!("{compared} commands, answered alike");
            ExitCode::SUCCESS
        }
        Err(difference) => {
            eprintln!("{difference}");
            ExitCode::FAILURE
        }
    }
}

fn compare(other: &str, seeds: &str, steps: usize) -> Result<usize, String> {
    let (first, last) = seeds.split_once("..").unwrap_or((seeds, seeds));
    let number = |word: &str| {
        word.parse::<u64>()
            .map_err(|why| format!("{word:?}: {why}"))
    };
    let other = Broker::shared(other)?;
    clean_up(&other)?;
    let mut compared = 0;
    for seed in number(first)?..=number(last)? {
        let ours = Broker::start(&[])?;
        let mut sides = [Side::open(&ours)?, Side::open(&other)?];
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut history = Vec::new();
        let outcome = play(&mut sides, &mut dice, steps, &mut history);
        compared += history.iter().filter(|line| line.starts_with("C.")).count();
        let [_, theirs] = sides;
        drop(theirs);
        clean_up(&other)?;
        outcome.map_err(|why| format!("seed {seed}\n{}\n{why}", history.join("\n")))?;
    }
    Ok(compared)
}

fn play(
    sides: &mut [Side; 2],
    dice: &mut Dice,
    steps: usize,
    history: &mut Vec<String>,
) -> Result<(), String> {
    let mut first = overture(dice);
    for _ in 0..steps {
        let (connection, channel) = (
            dice.below(CONNECTIONS),
            dice.below(CHANNELS.into()) as u16 + 1,
        );
        let (method, content) = match first.pop() {
            Some(method) => (method, None),
            None => command(dice, &sides[0].lines[connection].channels[&channel]),
        };
        let name = ["a", "b"][connection];
        history.push(format!(
            "C.{name}: {}",
            Unit::Method(channel, method.clone(), content.clone())
        ));
        let [ours, theirs] = sides;
        let mut answers = [
            ours.step(connection, channel, &method, content.as_ref())?,
            theirs.step(connection, channel, &method, content.as_ref())?,
        ];
        if answers[0] != answers[1] {
            // Perhaps one of them was only slower.
            ours.listen(PATIENT_ECHO, &mut answers[0])?;
            theirs.listen(PATIENT_ECHO, &mut answers[1])?;
        }
        if answers[0] != answers[1] {
            return Err(format!(
                "leveret answers {:#?}\nthe other {:#?}",
                answers[0], answers[1]
            ));
        }
        if answers[0].keys().any(|(_, number, _)| *number == 0) {
            // What a connection that falls apart still gives to its own consumers is chance.
            return Ok(());
        }
        history.extend(
            answers[0]
                .values()
                .flatten()
                .map(|answer| format!("S: {answer}")),
        );
    }
    Ok(())
}

/// Declarations to begin with, so that later commands find something.
fn overture(dice: &mut Dice) -> Vec<Method> {
    let exchanges = EXCHANGES[..3].iter().map(|name| {
        let kind = text(dice.pick(&TYPES));
        Method::new(
            "exchange.declare",
            &[("exchange", text(name)), ("type", kind)],
        )
    });
    let mut first: Vec<Method> = exchanges.collect();
    first.extend(QUEUES.iter().map(|name| {
        let durable = Value::Bit(dice.one_in(2));
        Method::new(
            "queue.declare",
            &[("queue", text(name)), ("durable", durable)],
        )
    }));
    first
}

/// A small generator of numbers (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

fn text(octets: &str) -> Value {
    Value::Text(octets.into())
}

/// What one channel has been through, as far as the next command depends on it.
#[derive(Clone, Default)]
struct Channel {
    /// Messages published since confirm.select, and those not yet answered.
    published: Option<u64>,
    unconfirmed: BTreeSet<u64>,
    delivery_tag_max: u64,
    consumed: u64,
}

/// The next command of a channel.
fn command(dice: &mut Dice, channel: &Channel) -> (Method, Option<Content>) {
    let bit = |dice: &mut Dice, n| Value::Bit(dice.one_in(n));
    let queue = text(dice.pick(&QUEUES));
    let exchange = text(dice.pick(&EXCHANGES));
    let key = text(dice.pick(&KEYS));
    let tag = Value::Number(match dice.below(10) {
        0 => 0,
        1 => channel.delivery_tag_max + 1,
        _ => dice.below(channel.delivery_tag_max as usize + 1) as u64,
    });
    let binding_arguments = Value::Table(match dice.below(5) {
        0 => vec![(b"n".to_vec(), Field::Integer(b'I', 1))],
        1 => vec![
            (b"x-match".to_vec(), Field::Octets(b'S', b"any".to_vec())),
            (b"n".to_vec(), Field::Integer(b'l', 1)),
            (b"t".to_vec(), Field::Void),
        ],
        _ => Vec::new(),
    });
    let method = match dice.below(100) {
        0..14 => Method::new(
            "queue.declare",
            &[
                ("queue", queue),
                ("passive", bit(dice, 6)),
                ("durable", bit(dice, 4)),
                ("exclusive", bit(dice, 8)),
                ("auto_delete", bit(dice, 6)),
                (
                    "arguments",
                    Value::Table(match dice.below(8) {
                        0 => vec![(b"x-message-ttl".to_vec(), Field::Integer(b'l', 3_600_000))],
                        1 => vec![(b"x-unknown".to_vec(), Field::Void)],
                        _ => Vec::new(),
                    }),
                ),
            ],
        ),
        14..17 => Method::new(
            "queue.delete",
            &[
                ("queue", queue),
                ("if_unused", bit(dice, 3)),
                ("if_empty", bit(dice, 3)),
            ],
        ),
        17..19 => Method::new("queue.purge", &[("queue", queue)]),
        19..27 => Method::new(
            "queue.bind",
            &[
                ("queue", queue),
                ("exchange", exchange),
                ("routing_key", key),
                ("arguments", binding_arguments),
            ],
        ),
        27..30 => Method::new(
            "queue.unbind",
            &[
                ("queue", queue),
                ("exchange", exchange),
                ("routing_key", key),
                ("arguments", binding_arguments),
            ],
        ),
        30..35 => Method::new(
            "exchange.declare",
            &[
                ("exchange", text(dice.pick(&EXCHANGES[..3]))),
                ("type", text(dice.pick(&TYPES))),
                ("passive", bit(dice, 8)),
                ("durable", bit(dice, 6)),
                ("auto_delete", bit(dice, 6)),
                ("internal", bit(dice, 12)),
            ],
        ),
        35..37 => Method::new(
            "exchange.delete",
            &[
                ("exchange", text(dice.pick(&EXCHANGES[..4]))),
                ("if_unused", bit(dice, 2)),
            ],
        ),
        37..40 => Method::new(
            if dice.one_in(3) {
                "exchange.unbind"
            } else {
                "exchange.bind"
            },
            &[
                ("destination", text(dice.pick(&EXCHANGES[..3]))),
                ("source", exchange),
                ("routing_key", key),
            ],
        ),
        40..62 => return publish(dice, queue, exchange, key),
        62..69 => Method::new("basic.get", &[("queue", queue), ("no_ack", bit(dice, 3))]),
        69..75 => Method::new(
            "basic.consume",
            &[
                ("queue", queue),
                ("consumer_tag", text(&format!("c{}", channel.consumed))),
                ("no_ack", bit(dice, 3)),
                ("exclusive", bit(dice, 8)),
            ],
        ),
        75..78 => {
            let number = dice.below(channel.consumed as usize + 1);
            Method::new(
                "basic.cancel",
                &[("consumer_tag", text(&format!("c{number}")))],
            )
        }
        78..85 => Method::new(
            "basic.ack",
            &[("delivery_tag", tag), ("multiple", bit(dice, 4))],
        ),
        85..88 => Method::new(
            "basic.nack",
            &[
                ("delivery_tag", tag),
                ("multiple", bit(dice, 3)),
                ("requeue", bit(dice, 2)),
            ],
        ),
        88..90 => Method::new(
            "basic.reject",
            &[("delivery_tag", tag), ("requeue", bit(dice, 2))],
        ),
        // Not global: RabbitMQ then holds back consumers without acknowledgement too.
        90..93 => Method::new(
            "basic.qos",
            &[("prefetch_count", Value::Number(dice.below(4) as u64))],
        ),
        93..94 => Method::new("basic.recover", &[("requeue", Value::Bit(!dice.one_in(6)))]),
        94..96 => Method::new("confirm.select", &[]),
        96..97 => Method::new("tx.select", &[]),
        97..98 => Method::new("tx.commit", &[]),
        98..99 => Method::new("tx.rollback", &[]),
        _ => Method::new("channel.close", &[]),
    };
    (method, None)
}

fn publish(
    dice: &mut Dice,
    queue: Value,
    exchange: Value,
    key: Value,
) -> (Method, Option<Content>) {
    let (exchange, key) = if dice.one_in(2) {
        (text(""), queue)
    } else {
        (exchange, key)
    };
    let method = Method::new(
        "basic.publish",
        &[
            ("exchange", exchange),
            ("routing_key", key),
            ("mandatory", Value::Bit(dice.one_in(3))),
            ("immediate", Value::Bit(dice.one_in(150))),
        ],
    );
    let mut properties = Vec::new();
    if dice.one_in(3) {
        let n = Field::Integer(b'I', i64::from(dice.one_in(2)));
        properties.push(("headers", Value::Table(vec![(b"n".to_vec(), n)])));
    }
    if dice.one_in(2) {
        properties.push(("delivery_mode", Value::Number(2)));
    }
    let body = format!("message {}", dice.below(1_000_000)).into_bytes();
    (
        method,
        Some(Content {
            properties,
            body,
            frames: Vec::new(),
        }),
    )
}

/// What came in a step: by connection, channel and kind, in order.
type Answers = BTreeMap<(usize, u16, &'static str), Vec<String>>;

/// One of the two brokers, with the connections to it.
struct Side {
    lines: Vec<Line>,
    address: std::net::SocketAddr,
}

struct Line {
    peer: Peer,
    channels: BTreeMap<u16, Channel>,
}

impl Side {
    fn open(broker: &Broker) -> Result<Self, String> {
        let address = broker.address();
        let lines = (0..CONNECTIONS).map(|_| Line::open(address));
        Ok(Side {
            lines: lines.collect::<Result<_, _>>()?,
            address,
        })
    }

    /// Says one command and gives what came of it, everywhere.
    fn step(
        &mut self,
        connection: usize,
        channel: u16,
        method: &Method,
        content: Option<&Content>,
    ) -> Result<Answers, String> {
        let mut answers = Answers::new();
        self.lines[connection].note_sent(channel, method);
        if method.spec.name == "channel.close" {
            self.ask(connection, channel, method, &mut answers)?;
            self.reopen(connection, channel, &mut answers)?;
        } else if method.spec.name == "tx.commit" {
            // RabbitMQ takes nothing else before it has answered.
            self.ask(connection, channel, method, &mut answers)?;
            self.settle(connection, channel, &mut answers)?;
        } else {
            self.lines[connection]
                .peer
                .put_method(channel, method, content)?;
            self.settle(connection, channel, &mut answers)?;
        }
        for other in 0..CONNECTIONS {
            for number in 1..=CHANNELS {
                self.settle(other, number, &mut answers)?;
            }
        }
        self.listen(ECHO, &mut answers)?;
        Ok(answers)
    }

    /// Takes what comes by itself within `time` on each connection.
    fn listen(&mut self, time: Duration, answers: &mut Answers) -> Result<(), String> {
        for connection in 0..CONNECTIONS {
            let until = now() + time;
            while let Some(unit) = self.lines[connection].peer.receive(until)? {
                self.take(connection, unit, answers)?;
            }
        }
        Ok(())
    }

    /// Waits until everything that was said on a channel is answered.
    fn settle(
        &mut self,
        connection: usize,
        channel: u16,
        answers: &mut Answers,
    ) -> Result<(), String> {
        let question = Method::new("channel.flow", &[("active", Value::Bit(true))]);
        self.ask(connection, channel, &question, answers)
    }

    /// Asks a question and files everything that comes before its answer. The end of the channel
    /// is an answer too.
    fn ask(
        &mut self,
        connection: usize,
        channel: u16,
        question: &Method,
        answers: &mut Answers,
    ) -> Result<(), String> {
        self.lines[connection]
            .peer
            .put_method(channel, question, None)?;
        let answer = format!("{}-ok", question.spec.name);
        let deadline = now() + login::PATIENCE;
        loop {
            let Some(unit) = self.lines[connection].peer.receive(deadline)? else {
                return Err(format!("{question} on {channel} is not answered"));
            };
            let Unit::Method(it, method, _) = &unit else {
                return Err(format!("{unit} came for an answer to {question}"));
            };
            if *it == channel && method.spec.name == answer {
                return Ok(());
            }
            let ends = *it == 0 || *it == channel && method.spec.name == "channel.close";
            self.take(connection, unit, answers)?;
            if ends {
                return Ok(());
            }
        }
    }

    fn reopen(
        &mut self,
        connection: usize,
        channel: u16,
        answers: &mut Answers,
    ) -> Result<(), String> {
        self.lines[connection]
            .channels
            .insert(channel, Channel::default());
        self.ask(
            connection,
            channel,
            &Method::new("channel.open", &[]),
            answers,
        )
    }

    /// Files what came, and answers it where it wants an answer.
    fn take(&mut self, connection: usize, unit: Unit, answers: &mut Answers) -> Result<(), String> {
        let line = &mut self.lines[connection];
        let words = unit.to_string();
        let Unit::Method(number, method, _) = unit else {
            return Err(format!("{words} on connection {connection}"));
        };
        let (kind, words) = match method.spec.name {
            "basic.deliver" => ("deliveries", words),
            "basic.cancel" => ("cancels", words),
            "basic.ack" | "basic.nack" => ("confirms", line.confirmed(number, &method)),
            _ => ("answers", words),
        };
        let words = words.split('\n').map(String::from);
        let filed = answers.entry((connection, number, kind)).or_default();
        filed.extend(words);
        if kind == "confirms" || kind == "cancels" {
            filed.sort();
        }
        line.note_received(number, &method);
        match method.spec.name {
            "channel.close" => {
                line.peer
                    .put_method(number, &Method::new("channel.close-ok", &[]), None)?;
                self.reopen(connection, number, answers)?;
            }
            "connection.close" => {
                line.peer
                    .put_method(0, &Method::new("connection.close-ok", &[]), None)?;
                while !matches!(
                    line.peer.receive(now() + login::PATIENCE)?,
                    Some(Unit::Closed) | None
                ) {}
                *line = Line::open(self.address)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Deletes what seeds declare; an exclusive queue of a connection before may take its time to go.
fn clean_up(broker: &Broker) -> Result<(), String> {
    let mut peer = broker.peer()?;
    Login::default().log_in(&mut peer)?;
    let until = now() + login::PATIENCE;
    for name in QUEUES.iter().chain(&EXCHANGES[..3]) {
        let (method, argument) = if name.starts_with('q') {
            ("queue.delete", "queue")
        } else {
            ("exchange.delete", "exchange")
        };
        loop {
            ask(&mut peer, 1, &Method::new("channel.open", &[]))?;
            peer.put_method(1, &Method::new(method, &[(argument, text(name))]), None)?;
            match peer.receive(until)? {
                Some(Unit::Method(_, answer, _)) if answer.spec.name == "channel.close" => {
                    peer.put_method(1, &Method::new("channel.close-ok", &[]), None)?;
                }
                Some(_) => {
                    ask(&mut peer, 1, &Method::new("channel.close", &[]))?;
                    break;
                }
                None => return Err(format!("{name} cannot be deleted")),
            }
        }
    }
    Ok(())
}

impl Line {
    fn open(address: std::net::SocketAddr) -> Result<Self, String> {
        let mut peer = Peer::connect(address, false).map_err(|e| format!("{address}: {e}"))?;
        Login::default().log_in(&mut peer)?;
        let mut line = Line {
            peer,
            channels: BTreeMap::new(),
        };
        for number in 1..=CHANNELS {
            ask(&mut line.peer, number, &Method::new("channel.open", &[]))?;
            line.channels.insert(number, Channel::default());
        }
        Ok(line)
    }

    fn note_sent(&mut self, number: u16, method: &Method) {
        let channel = self.channels.entry(number).or_default();
        match method.spec.name {
            "basic.publish" => {
                if let Some(published) = &mut channel.published {
                    *published += 1;
                    channel.unconfirmed.insert(*published);
                }
            }
            "basic.consume" => channel.consumed += 1,
            _ => {}
        }
    }

    fn note_received(&mut self, number: u16, method: &Method) {
        let channel = self.channels.entry(number).or_default();
        match method.spec.name {
            "confirm.select-ok" => drop(channel.published.get_or_insert(0)),
            "basic.deliver" | "basic.get-ok" => {
                if let Value::Number(tag) = method.get("delivery_tag") {
                    channel.delivery_tag_max = *tag;
                }
            }
            _ => {}
        }
    }

    /// The tags that a confirm answers, one a line.
    fn confirmed(&mut self, number: u16, method: &Method) -> String {
        let channel = self.channels.entry(number).or_default();
        let Value::Number(tag) = *method.get("delivery_tag") else {
            unreachable!("a delivery tag is a number")
        };
        let tags: Vec<u64> = if *method.get("multiple") == Value::Bit(true) {
            channel.unconfirmed.range(..=tag).copied().collect()
        } else {
            vec![tag]
        };
        channel.unconfirmed.retain(|tag| !tags.contains(tag));
        let lines = tags
            .iter()
            .map(|tag| format!("{number} {} {tag:06}", method.spec.name));
        lines.collect::<Vec<_>>().join("\n")
    }
}
