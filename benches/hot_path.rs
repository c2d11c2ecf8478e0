//! Micro-benchmarks of the hot path without sockets, threads or disk: octets into the engine, octets
//! out of it, jobs of the helpers run in between and not counted.
//!
//! ```text
//! cargo bench                              nanoseconds and octets for each scenario
//! cargo bench -- topic                     those whose name contains a word
//! … --count NAME ROUNDS                    runs so many rounds of one, for callgrind
//! ```
//!
//! Everything that counts runs inside [`measured`], which is a function of its own so that
//! callgrind can be told to count there only (`scripts/bench-check.py`).

use leveret::clock::Now;
use leveret::config::Config;
use leveret::engine::{ConnectionId, Engine};
use leveret::storage::{Answer, FlushJob, Helpers, KeeperJob, MemoryStorage};
use leveret::wire::content::{ContentHeader, PropertyList};
use leveret::wire::decoder::{Decoded, decode};
use leveret::wire::field_table::FieldValue;
use leveret::wire::frame::PROTOCOL_HEADER;
use leveret::wire::method::{basic, channel, confirm, connection, exchange, queue};
use leveret::wire::{
    ChannelNumber, DeliveryTag, FieldTable, FrameKind, Method, MethodFields, ShortString, encode,
};
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

const CHANNEL: ChannelNumber = ChannelNumber(1);
const FRAME_MAX: u32 = 131_072;
/// Messages of a round.
const ROUND: usize = 1_000;
/// Octets that one turn receives at most, as from a socket.
const TURN_OCTETS: usize = 64 << 10;
/// Turns after which whatever waits for the helpers must have come to rest.
const TURNS_MAX: usize = 10_000;

/// When every engine starts.
const START: Now = Now {
    monotonic_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

/// One thing to measure.
trait Scenario {
    /// Operations in a round.
    fn operations(&self) -> u64;
    /// What is done between rounds and does not count.
    fn prepare(&mut self);
    /// The next part of the round that counts; `false` when there was none. What does not count is
    /// done between two parts, in [`Scenario::between`].
    fn part(&mut self) -> bool;
    /// What other threads would do meanwhile.
    fn between(&mut self);
    /// Panics unless the round did what it should.
    fn check(&mut self);
}

/// The only place that counts.
#[inline(never)]
fn measured(scenario: &mut dyn Scenario) -> bool {
    scenario.part()
}

/// Runs a round and returns how long its counted parts took.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn round(scenario: &mut dyn Scenario) -> Duration {
    scenario.prepare();
    let mut took = Duration::ZERO;
    loop {
        let start = Instant::now();
        let is_more = measured(scenario);
        took += start.elapsed();
        if !is_more {
            scenario.check();
            return took;
        }
        scenario.between();
    }
}

// ---- the engine and its clients ----

/// Keeps jobs until the benchmark runs them.
#[derive(Debug, Default)]
struct Jobs {
    flush: Vec<FlushJob<MemoryStorage>>,
    keep: Vec<KeeperJob<MemoryStorage>>,
}

impl Helpers<MemoryStorage> for Jobs {
    fn flush(&mut self, job: FlushJob<MemoryStorage>) {
        self.flush.push(job);
    }

    fn keep(&mut self, job: KeeperJob<MemoryStorage>) {
        self.keep.push(job);
    }
}

/// An engine with its disk, its jobs and its virtual clock.
struct Rig {
    engine: Engine<MemoryStorage>,
    storage: MemoryStorage,
    jobs: Jobs,
    answers: Vec<Answer<MemoryStorage>>,
    now: Now,
    dead: Vec<ConnectionId>,
    /// Octets that went out, of all clients.
    octets_out: u64,
    /// What went out, while it is asked for.
    log: Option<Vec<u8>>,
}

impl Rig {
    /// Opens what lies in `storage`.
    fn open(storage: MemoryStorage) -> Self {
        Rig {
            engine: Engine::open(storage.clone(), &Config::default(), START, 7)
                .expect("the directory opens"),
            storage,
            jobs: Jobs::default(),
            answers: Vec::new(),
            now: START,
            dead: Vec::new(),
            octets_out: 0,
            log: None,
        }
    }

    /// Hands octets in, ends the turn and takes what goes out.
    fn turn(&mut self, id: ConnectionId, octets: &[u8]) -> usize {
        let consumed = self.engine.receive(self.now, id, octets).consumed;
        self.end_turn();
        consumed
    }

    fn end_turn(&mut self) {
        self.now.monotonic_us += 50;
        self.engine
            .end_turn(self.now, &mut self.jobs, &mut self.dead);
        for id in self.engine.take_writable() {
            loop {
                let octets = self.engine.octets_for(id);
                let written = octets.len();
                if written == 0 {
                    break;
                }
                if let Some(log) = &mut self.log {
                    log.extend_from_slice(octets);
                }
                black_box(octets);
                self.octets_out += written as u64;
                self.engine.wrote(id, written, false);
            }
        }
        assert!(self.dead.is_empty(), "no peer is given up");
    }

    /// What the helpers' threads do.
    fn run_jobs(&mut self) {
        for job in self.jobs.flush.drain(..) {
            self.answers.push(job.run(&self.storage));
        }
        for job in self.jobs.keep.drain(..) {
            self.answers.push(job.run(&self.storage));
        }
    }

    /// Takes the helpers' answers; `false` when there is none and nothing is under way.
    fn take_answers(&mut self) -> bool {
        let is_quiet =
            self.answers.is_empty() && self.jobs.flush.is_empty() && self.jobs.keep.is_empty();
        if is_quiet && self.engine.is_flushed() {
            return false;
        }
        for answer in std::mem::take(&mut self.answers) {
            self.engine.answer(self.now, answer);
        }
        self.end_turn();
        true
    }

    /// Lets everything come to rest.
    fn rest(&mut self) {
        for _ in 0..TURNS_MAX {
            self.run_jobs();
            if !self.take_answers() {
                return;
            }
        }
        panic!("the helpers never come to rest");
    }

    /// Sends octets however many turns they take.
    fn send(&mut self, id: ConnectionId, octets: &[u8]) {
        let mut rest = octets;
        for _ in 0..TURNS_MAX {
            let consumed = self.turn(id, rest);
            rest = &rest[consumed..];
            self.rest();
            self.engine.take_resumed();
            if rest.is_empty() {
                return;
            }
        }
        panic!("octets are never taken");
    }

    /// A client that is logged in and has its channel.
    fn connect(&mut self) -> ConnectionId {
        let id = self.engine.accept(
            self.now,
            ([127, 0, 0, 1], 40_000).into(),
            ([127, 0, 0, 1], 5_672).into(),
        );
        self.send(id, &PROTOCOL_HEADER);
        let zero = ChannelNumber::CONNECTION;
        let start_ok = connection::StartOk {
            client_properties: FieldTable::EMPTY,
            mechanism: ShortString::literal("PLAIN"),
            response: b"\0guest\0guest",
            locale: ShortString::literal("en_US"),
        };
        let tune_ok = connection::TuneOk {
            channel_max: 10,
            frame_max: FRAME_MAX,
            heartbeat: 0,
        };
        let open = connection::Open {
            virtual_host: ShortString::literal("/"),
            ..connection::Open::default()
        };
        self.call(id, zero, &start_ok);
        self.call(id, zero, &tune_ok);
        self.call(id, zero, &open);
        self.call(id, CHANNEL, &channel::Open::default());
        id
    }

    fn call<M: MethodFields>(&mut self, id: ConnectionId, channel: ChannelNumber, method: &M) {
        let mut octets = Vec::new();
        encode::method_frame(&mut octets, channel, method);
        self.send(id, &octets);
    }
}

/// How the messages of a [`Flow`] go.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    exchange_type: &'static str,
    queues: usize,
    bindings: usize,
    size: usize,
    persistent: bool,
    confirm: bool,
    /// Deliveries for each acknowledgement; 0 for auto-ack.
    ack_every: u64,
    consumers: bool,
    /// Deliveries that a publish causes.
    copies: u64,
}

const PLAIN: Plan = Plan {
    name: "",
    exchange_type: "",
    queues: 1,
    bindings: 0,
    size: 16,
    persistent: false,
    confirm: false,
    ack_every: 0,
    consumers: true,
    copies: 1,
};

const PLANS: [Plan; 10] = [
    Plan {
        name: "deliver_16",
        ..PLAIN
    },
    Plan {
        name: "deliver_1k",
        size: 1_024,
        ..PLAIN
    },
    Plan {
        name: "deliver_acked",
        ack_every: 100,
        ..PLAIN
    },
    Plan {
        name: "persistent_confirmed_acked",
        persistent: true,
        confirm: true,
        ack_every: 100,
        ..PLAIN
    },
    Plan {
        name: "persistent_1k_confirmed_acked",
        size: 1_024,
        persistent: true,
        confirm: true,
        ack_every: 100,
        ..PLAIN
    },
    Plan {
        name: "append",
        size: 100,
        persistent: true,
        confirm: true,
        consumers: false,
        ..PLAIN
    },
    Plan {
        name: "route_direct_1000",
        exchange_type: "direct",
        bindings: 1_000,
        ..PLAIN
    },
    Plan {
        name: "route_fanout_10",
        exchange_type: "fanout",
        queues: 10,
        bindings: 10,
        copies: 10,
        ..PLAIN
    },
    Plan {
        name: "route_topic_1000",
        exchange_type: "topic",
        bindings: 1_000,
        ..PLAIN
    },
    Plan {
        name: "route_headers_20",
        exchange_type: "headers",
        bindings: 20,
        ..PLAIN
    },
];

/// Messages from one publisher through the engine to its consumers.
struct Flow {
    plan: Plan,
    rig: Rig,
    publisher: ConnectionId,
    consumers: Vec<ConnectionId>,
    frames: Vec<u8>,
    /// Parts of `frames` that a turn receives, cut between messages.
    turns: Vec<Range<usize>>,
    /// The acknowledgements of this round.
    acks: Vec<u8>,
    acked: u64,
    is_published: bool,
    /// Octets that a round sends out, once it is known.
    octets_out_of_round: Option<u64>,
}

fn queue_name(index: usize) -> String {
    format!("bench-{index}")
}

fn binding_key(exchange_type: &str, index: usize) -> String {
    match (exchange_type, index % 3) {
        ("topic", 0) => format!("k{index}.*.c"),
        ("topic", 1) => format!("k{index}.#"),
        ("topic", _) => format!("*.k{index}.*"),
        ("direct", _) => format!("k{index}"),
        _ => String::new(),
    }
}

fn routing_key(exchange_type: &str, index: usize) -> String {
    match (exchange_type, index % 3) {
        ("", _) => queue_name(index),
        ("topic", 2) => format!("a.k{index}.c"),
        ("topic", _) => format!("k{index}.b.c"),
        _ => binding_key(exchange_type, index),
    }
}

fn short(text: &str) -> ShortString<'_> {
    ShortString::try_from(text).expect("names are short")
}

/// The octets of a field table with these texts.
fn texts(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut octets = Vec::new();
    for (key, value) in pairs {
        short(key).encode(&mut octets);
        FieldValue::LongString(value.as_bytes()).encode(&mut octets);
    }
    octets
}

impl Flow {
    fn new(plan: Plan) -> Self {
        let mut rig = Rig::open(MemoryStorage::new());
        let publisher = rig.connect();
        declare(&mut rig, publisher, &plan);
        if plan.confirm {
            rig.call(publisher, CHANNEL, &confirm::Select::default());
        }
        let mut consumers = Vec::new();
        for index in 0..if plan.consumers { plan.queues } else { 0 } {
            let id = rig.connect();
            let name = queue_name(index);
            let consume = basic::Consume {
                queue: short(&name),
                consumer_tag: ShortString::literal("c"),
                no_ack: plan.ack_every == 0,
                ..basic::Consume::default()
            };
            rig.call(id, CHANNEL, &consume);
            consumers.push(id);
        }
        let (frames, turns) = publishes(&plan, ROUND);
        Flow {
            plan,
            rig,
            publisher,
            consumers,
            frames,
            turns,
            acks: Vec::new(),
            acked: 0,
            is_published: false,
            octets_out_of_round: None,
        }
    }
}

fn declare(rig: &mut Rig, id: ConnectionId, plan: &Plan) {
    for index in 0..plan.queues {
        let name = queue_name(index);
        let declare = queue::Declare {
            queue: short(&name),
            durable: plan.persistent,
            ..queue::Declare::default()
        };
        rig.call(id, CHANNEL, &declare);
    }
    if plan.exchange_type.is_empty() {
        return;
    }
    let declare = exchange::Declare {
        exchange: ShortString::literal("bench"),
        exchange_type: short(plan.exchange_type),
        ..exchange::Declare::default()
    };
    rig.call(id, CHANNEL, &declare);
    for index in 0..plan.bindings {
        let arguments = match plan.exchange_type {
            "headers" => texts(&[("x-match", "all"), ("k", &format!("v{index}"))]),
            _ => Vec::new(),
        };
        let name = queue_name(index % plan.queues);
        let key = binding_key(plan.exchange_type, index);
        let bind = queue::Bind {
            queue: short(&name),
            exchange: ShortString::literal("bench"),
            routing_key: short(&key),
            arguments: FieldTable::check(&arguments).expect("well-formed"),
            ..queue::Bind::default()
        };
        rig.call(id, CHANNEL, &bind);
    }
}

/// The frames of `count` messages, and where to cut them into turns.
fn publishes(plan: &Plan, count: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    let body = vec![7; plan.size];
    let (mut frames, mut turns) = (Vec::new(), Vec::new());
    let mut start = 0;
    for index in 0..count {
        // A stride that is prime to the number of bindings: no key follows itself or its neighbour.
        let index = index * 7 % plan.bindings.max(1);
        let headers = match plan.exchange_type {
            "headers" => texts(&[("k", &format!("v{index}"))]),
            _ => Vec::new(),
        };
        let properties = PropertyList {
            headers: Some(FieldTable::check(&headers).expect("well-formed"))
                .filter(|headers| !headers.is_empty()),
            delivery_mode: plan.persistent.then_some(2),
            ..PropertyList::default()
        };
        let key = routing_key(plan.exchange_type, index);
        let publish = basic::Publish {
            exchange: ShortString::literal(if plan.exchange_type.is_empty() {
                ""
            } else {
                "bench"
            }),
            routing_key: short(&key),
            ..basic::Publish::default()
        };
        let before = frames.len();
        let properties = properties.to_octets();
        encode::content(
            &mut frames,
            CHANNEL,
            &publish,
            &properties,
            &body,
            FRAME_MAX,
        );
        if frames.len() - start > TURN_OCTETS {
            turns.push(start..before);
            start = before;
        }
    }
    turns.push(start..frames.len());
    (frames, turns)
}

impl Scenario for Flow {
    fn operations(&self) -> u64 {
        ROUND as u64 * self.plan.copies
    }

    fn prepare(&mut self) {
        self.is_published = false;
        self.acks.clear();
        if self.octets_out_of_round.is_none() {
            self.rig.log = Some(Vec::new());
        }
        self.rig.octets_out = 0;
        if let Some(acks) = (ROUND as u64).checked_div(self.plan.ack_every) {
            for _ in 0..acks {
                self.acked += self.plan.ack_every;
                let ack = basic::Ack {
                    delivery_tag: DeliveryTag(self.acked),
                    multiple: true,
                };
                encode::method_frame(&mut self.acks, CHANNEL, &ack);
            }
        }
    }

    fn part(&mut self) -> bool {
        if self.is_published {
            return self.rig.take_answers();
        }
        self.is_published = true;
        for turn in &self.turns {
            let octets = &self.frames[turn.clone()];
            let consumed = self.rig.turn(self.publisher, octets);
            assert_eq!(consumed, octets.len(), "a turn's octets are taken");
        }
        if !self.acks.is_empty() {
            self.rig.turn(self.consumers[0], &self.acks);
        }
        true
    }

    fn between(&mut self) {
        self.rig.run_jobs();
    }

    fn check(&mut self) {
        if let Some(log) = self.rig.log.take() {
            let expected = if self.plan.consumers {
                self.operations()
            } else {
                0
            };
            let (deliveries, confirmed) = count(&log);
            assert_eq!(deliveries, expected, "every message is delivered");
            let confirms = if self.plan.confirm { ROUND as u64 } else { 0 };
            assert_eq!(confirmed, confirms, "the last confirm covers every publish");
            self.octets_out_of_round = Some(self.rig.octets_out);
        } else if self.plan.consumers {
            // Confirms may be fewer or more frames from round to round; deliveries are as many.
            let least = self.octets_out_of_round.unwrap_or_default() * 9 / 10;
            assert!(
                self.rig.octets_out >= least,
                "every round delivers as the first did"
            );
        }
    }
}

/// Deliveries in a stream of frames, and the highest confirmed tag.
fn count(mut octets: &[u8]) -> (u64, u64) {
    let (mut deliveries, mut confirmed) = (0, 0);
    while let Ok(Decoded::Frame {
        kind,
        payload,
        consumed,
        ..
    }) = decode(octets, FRAME_MAX)
    {
        if kind == FrameKind::Method {
            match Method::decode(payload) {
                Ok(Method::BasicDeliver(_)) => deliveries += 1,
                Ok(Method::BasicAck(ack)) => confirmed = confirmed.max(ack.delivery_tag.0),
                _ => {}
            }
        }
        octets = &octets[consumed..];
    }
    assert!(octets.is_empty(), "whole frames go out");
    (deliveries, confirmed)
}

// ---- decoding alone ----

/// Cuts frames and reads methods and headers of a stream of publishes.
struct Decode {
    frames: Vec<u8>,
    is_done: bool,
    found: u64,
}

impl Scenario for Decode {
    fn operations(&self) -> u64 {
        ROUND as u64
    }

    fn prepare(&mut self) {
        (self.is_done, self.found) = (false, 0);
    }

    fn part(&mut self) -> bool {
        if std::mem::replace(&mut self.is_done, true) {
            return false;
        }
        let mut rest = &self.frames[..];
        while let Ok(Decoded::Frame {
            kind,
            payload,
            consumed,
            ..
        }) = decode(rest, FRAME_MAX)
        {
            match kind {
                FrameKind::Method => {
                    black_box(Method::decode(payload).expect("well-formed"));
                }
                FrameKind::Header => {
                    black_box(ContentHeader::decode(payload).expect("well-formed"));
                }
                _ => self.found += 1,
            }
            rest = &rest[consumed..];
        }
        true
    }

    fn between(&mut self) {}

    fn check(&mut self) {
        assert_eq!(self.found, ROUND as u64, "every body is found");
    }
}

// ---- draining a backlog ----

/// Messages of 100 octets that lie on the disk, their entries in pages, go to a consumer that
/// acknowledges each hundred. Between rounds as many are published as were consumed.
struct Drain {
    flow: Flow,
    consumer: ConnectionId,
    acks: Vec<u8>,
    acked: u64,
    /// Octets of `acks` that were sent.
    acks_taken: usize,
}

/// Messages that are always there: three times what the tail keeps in memory.
const BACKLOG: usize = 20_000;
const DRAIN_ACK_EVERY: u64 = 100;
const DRAIN_PREFETCH: u16 = 1_000;
/// Octets of acknowledgements that one turn receives: of two.
const DRAIN_TURN_OCTETS: usize = 2 * 21;
/// Room for what goes out in a round, so that no growing of the log counts.
const DRAIN_LOG_OCTETS: usize = 512 << 10;

impl Drain {
    fn new() -> Self {
        let plan = PLANS.iter().find(|plan| plan.name == "append");
        let mut flow = Flow::new(*plan.expect("a scenario of the list"));
        for _ in 0..BACKLOG / ROUND {
            flow.publish();
        }
        let consumer = flow.rig.connect();
        let qos = basic::Qos {
            prefetch_count: DRAIN_PREFETCH,
            ..basic::Qos::default()
        };
        flow.rig.call(consumer, CHANNEL, &qos);
        let name = queue_name(0);
        let consume = basic::Consume {
            queue: short(&name),
            consumer_tag: ShortString::literal("c"),
            ..basic::Consume::default()
        };
        flow.rig.call(consumer, CHANNEL, &consume);
        Drain {
            flow,
            consumer,
            acks: Vec::new(),
            acked: 0,
            acks_taken: 0,
        }
    }
}

impl Flow {
    /// Publishes a round's messages and lets everything come to rest.
    fn publish(&mut self) {
        for turn in &self.turns {
            let octets = &self.frames[turn.clone()];
            let consumed = self.rig.turn(self.publisher, octets);
            assert_eq!(consumed, octets.len(), "a turn's octets are taken");
        }
        self.rig.rest();
    }
}

impl Scenario for Drain {
    fn operations(&self) -> u64 {
        ROUND as u64
    }

    fn prepare(&mut self) {
        self.flow.publish();
        self.flow.rig.log = Some(Vec::with_capacity(DRAIN_LOG_OCTETS));
        self.acks.clear();
        self.acks_taken = 0;
        for _ in 0..ROUND as u64 / DRAIN_ACK_EVERY {
            self.acked += DRAIN_ACK_EVERY;
            let ack = basic::Ack {
                delivery_tag: DeliveryTag(self.acked),
                multiple: true,
            };
            encode::method_frame(&mut self.acks, CHANNEL, &ack);
        }
    }

    fn part(&mut self) -> bool {
        let rest = &self.acks[self.acks_taken..];
        if rest.is_empty() {
            return self.flow.rig.take_answers();
        }
        let octets = &rest[..DRAIN_TURN_OCTETS.min(rest.len())];
        let consumed = self.flow.rig.turn(self.consumer, octets);
        assert_eq!(consumed, octets.len(), "acknowledgements are taken");
        self.acks_taken += consumed;
        self.flow.rig.take_answers();
        true
    }

    fn between(&mut self) {
        self.flow.rig.run_jobs();
    }

    fn check(&mut self) {
        let log = self.flow.rig.log.take().unwrap_or_default();
        assert!(log.len() <= DRAIN_LOG_OCTETS, "the log has room");
        let (deliveries, _) = count(&log);
        assert_eq!(
            deliveries, ROUND as u64,
            "what was acknowledged is made up for"
        );
    }
}

// ---- recovery ----

/// Opens what a killed server left: [`ROUND`] × 20 persistent messages of 100 octets.
struct Recover {
    left: MemoryStorage,
    disk: Option<MemoryStorage>,
    opened: Option<Rig>,
}

impl Recover {
    const ROUNDS: usize = 20;

    fn new() -> Self {
        let plan = PLANS
            .into_iter()
            .find(|plan| plan.name == "append")
            .expect("the plan is there");
        let mut fill = Flow::new(plan);
        for _ in 0..Self::ROUNDS {
            round(&mut fill);
        }
        fill.rig.rest();
        Recover {
            left: fill.rig.storage.killed(),
            disk: None,
            opened: None,
        }
    }
}

impl Scenario for Recover {
    fn operations(&self) -> u64 {
        (ROUND * Self::ROUNDS) as u64
    }

    fn prepare(&mut self) {
        self.opened = None;
        self.disk = Some(self.left.killed());
    }

    fn part(&mut self) -> bool {
        let Some(disk) = self.disk.take() else {
            return false;
        };
        self.opened = Some(Rig::open(disk));
        true
    }

    fn between(&mut self) {}

    fn check(&mut self) {
        let mut rig = self.opened.take().expect("it was opened");
        let id = rig.connect();
        rig.log = Some(Vec::new());
        let name = queue_name(0);
        let declare = queue::Declare {
            queue: short(&name),
            passive: true,
            ..queue::Declare::default()
        };
        rig.call(id, CHANNEL, &declare);
        let answer = rig.log.unwrap_or_default();
        let Ok(Decoded::Frame { payload, .. }) = decode(&answer, FRAME_MAX) else {
            panic!("the answer is a frame");
        };
        match Method::decode(payload) {
            Ok(Method::QueueDeclareOk(ok)) => assert_eq!(
                u64::from(ok.message_count),
                self.operations(),
                "every confirmed message is back"
            ),
            other => panic!("the queue is there: {other:?}"),
        }
    }
}

// ---- the command line ----

fn names() -> Vec<&'static str> {
    let mut names = vec!["decode"];
    names.extend(PLANS.iter().map(|plan| plan.name));
    names.extend(["drain", "recover"]);
    names
}

fn build(name: &str) -> Box<dyn Scenario> {
    match name {
        "decode" => Box::new(Decode {
            frames: publishes(&PLAIN, ROUND).0,
            is_done: false,
            found: 0,
        }),
        "drain" => Box::new(Drain::new()),
        "recover" => Box::new(Recover::new()),
        _ => {
            let plan = PLANS.iter().find(|plan| plan.name == name);
            Box::new(Flow::new(*plan.expect("a scenario of the list")))
        }
    }
}

/// Times a scenario for about a third of a second.
#[expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#[expect(
    clippy::cast_precision_loss,
    reason = "times and counts of a run are small"
)]
fn time(name: &str) {
    let mut scenario = build(name);
    let mut best = Duration::MAX;
    let mut total = Duration::ZERO;
    let mut rounds = 0;
    round(&mut *scenario);
    while rounds < 3 || total < Duration::from_millis(300) && rounds < 1_000 {
        let took = round(&mut *scenario);
        best = best.min(took);
        total += took;
        rounds += 1;
    }
    let per_operation = |took: Duration| took.as_nanos() as f64 / scenario.operations() as f64;
    println!(
        "{name:<32} {:>9.1} ns  (best round {:>9.1} ns, {rounds} rounds)",
        per_operation(total) / f64::from(rounds),
        per_operation(best)
    );
}

#[expect(
    clippy::print_stdout,
    reason = "callgrind's driver reads the number of operations"
)]
fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => println!("{}", names().join("\n")),
        ["--count", name, rounds] => {
            let rounds: u64 = rounds.parse().expect("a number of rounds");
            let mut scenario = build(name);
            for _ in 0..rounds {
                round(&mut *scenario);
            }
            println!("{}", rounds * scenario.operations());
        }
        // `cargo test --benches` runs every scenario once, with its checks.
        ["--test"] => {
            for name in names() {
                round(&mut *build(name));
            }
        }
        _ => {
            for name in names() {
                if words.iter().all(|word| name.contains(word)) {
                    time(name);
                }
            }
        }
    }
}
