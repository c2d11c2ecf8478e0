//! One server in a world made of seeds: clients, a network that cuts and delays, helpers that
//! answer when they like, a disk that fails, time that jumps, and power that goes.
//!
//! Everything the engine does happens in a call; after each call all that it wrote is read from the
//! outboxes, before a client gets to see it, and held against the model.

mod audit;
mod damage;
mod helpers;
mod rest;
mod restart;
mod step;
mod traffic;

use std::collections::{BTreeSet, VecDeque};

use leveret::clock::Now;
use leveret::config::Config;
use leveret::engine::{ConnectionId, Engine};
use leveret::storage::{Answer, MemoryStorage};

use super::client::{Client, Life, Role, Shared};
use super::model::{ConnectionKey, Model};
use super::observe::{Event, Tap};
use super::operation::Operation;
use super::random::Random;
use damage::Damage;
use helpers::Jobs;

type Storage = MemoryStorage;

/// A client, its connection, and the octets between.
struct Peer {
    key: ConnectionKey,
    id: ConnectionId,
    client: Client,
    /// Octets on their way to the engine, first those that it left.
    octets_in: Vec<u8>,
    /// What they mean: where each operation ends in the whole stream, its channel.
    pending: VecDeque<(u64, u16, Operation)>,
    sent: u64,
    consumed: u64,
    tap: Tap,
    /// Octets in the outbox that were read already.
    seen: usize,
    /// What the client will learn when it has got so many octets.
    events: VecDeque<(u64, Event)>,
    tapped: u64,
    written: u64,
    /// Its socket takes nothing.
    is_slow: bool,
    /// When octets came from it last.
    heard_us: u64,
    /// When its last heartbeat went on its way.
    beaten_us: u64,
    accepted_us: u64,
}

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Operations of clients, at least.
    pub(crate) operations: u64,
    /// Restarts, at least.
    pub(crate) restarts: u64,
    /// Segments are full soon, so that they are indexed, rewritten and recycled all the time.
    pub(crate) has_small_segments: bool,
    /// Every step is printed as it happens.
    pub(crate) is_traced: bool,
}

/// Lines of the trace that are kept for the case that something is found.
const TRACE_LINES: usize = 60;

const HEARTBEAT_OCTETS: usize = 8;

pub(crate) struct World {
    plan: Plan,
    random: Random,
    config: Config,
    storage: Storage,
    engine: Engine<Storage>,
    jobs: Jobs,
    flush_answers: VecDeque<Answer<Storage>>,
    keep_answers: VecDeque<Answer<Storage>>,
    now: Now,
    pub(crate) model: Model,
    peers: Vec<Peer>,
    next_key: ConnectionKey,
    shared: Shared,
    restarts: u64,
    /// Files of large bodies, when they were looked at last.
    bodies: BTreeSet<String>,
    /// What was hit on the disk so far.
    damages: Vec<Damage>,
    /// An error was put into the disk: the server may end.
    is_disk_failing: bool,
    is_disk_full: bool,
    /// The run has ended this life.
    is_over: bool,
    /// The power has gone in the middle of something.
    is_power_lost: bool,
    /// Large transactions when the flusher was busy last.
    commits_flushed: u64,
    trace: VecDeque<String>,
    steps: u64,
}

fn config(plan: Plan, random: &mut Random) -> Config {
    let mut config = Config::default();
    let limits = &mut config.limits;
    limits.segment_octets_min = *random.pick(&[8 << 10, 16 << 10, 64 << 10]);
    limits.segment_octets_max = *random.pick(&[16 << 10, 64 << 10, 256 << 10]);
    limits.segment_octets_max = limits.segment_octets_max.max(limits.segment_octets_min);
    limits.segment_slack = *random.pick(&[0, 0, 4]);
    limits.segment_look_ms = *random.pick(&[0, 0, 20, 250]);
    if !plan.has_small_segments {
        (limits.segment_octets_min, limits.segment_octets_max) = (256 << 10, 256 << 10);
    }
    limits.arena_octets_max = *random.pick(&[16 << 10, 512 << 10]);
    limits.tail_octets_max = *random.pick(&[8 << 10, 64 << 10, 1 << 20]);
    limits.outbox_octets_low = 1 << 10;
    limits.outbox_octets_high = *random.pick(&[2 << 10, 16 << 10, 256 << 10]);
    limits.outbox_octets_max = limits.outbox_octets_high * 2;
    limits.large_body_octets_min = *random.pick(&[16 << 10, 64 << 10, 1 << 20]);
    limits.slice_entries_max = *random.pick(&[16, 4096]);
    limits.login_refusal_delay_ms = 100;
    limits.close_timeout_ms = 1000;
    config
}

fn fresh_now(random: &mut Random) -> Now {
    Now {
        monotonic_us: 1000,
        wall_ms: 1_700_000_000_000 + random.below(1 << 30) as u64,
    }
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let config = config(plan, &mut random);
        let storage = MemoryStorage::new();
        let now = fresh_now(&mut random);
        let engine = Engine::open(storage.clone(), &config, now, random.draw())
            .expect("an empty directory opens");
        let large_one_in = *random.pick(&[40, 400, 4000]);
        let commit_one_in = *random.pick(&[6, 6, 30]);
        let hostile_one_in = *random.pick(&[100, 400, 4000]);
        let mut model = Model::new();
        model.large_octets_min = config.limits.large_body_octets_min;
        World {
            plan,
            random,
            config,
            storage,
            engine,
            jobs: Jobs::default(),
            flush_answers: VecDeque::new(),
            keep_answers: VecDeque::new(),
            now,
            model,
            peers: Vec::new(),
            next_key: 1,
            shared: Shared {
                next_message: 1,
                next_consumer: 1,
                large_one_in,
                commit_one_in,
                hostile_one_in,
                is_exact: true,
            },
            restarts: 0,
            bodies: BTreeSet::new(),
            damages: Vec::new(),
            is_disk_failing: false,
            is_disk_full: false,
            is_over: false,
            is_power_lost: false,
            commits_flushed: 0,
            trace: VecDeque::new(),
            steps: 0,
        }
    }

    /// The last steps, for whoever wants to know what went wrong.
    pub(crate) fn last_steps(&self) -> impl Iterator<Item = &String> {
        self.trace.iter()
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        note(
            &mut self.trace,
            self.plan.is_traced,
            self.steps,
            self.now,
            line,
        );
    }

    /// Runs the whole plan.
    pub(crate) fn run(&mut self) {
        let per_life = self.plan.operations / (self.plan.restarts + 1);
        loop {
            if !self.random.one_in(4) {
                self.set_up();
            }
            let until = self.model.counts.get("operations") + per_life;
            let mut lived = true;
            while self.model.counts.get("operations") < until {
                if !self.step() {
                    lived = false;
                    break;
                }
            }
            let is_enough = self.restarts >= self.plan.restarts
                && self.model.counts.get("operations") >= self.plan.operations;
            if is_enough && lived {
                break;
            }
            if self.plan.restarts == 0 {
                assert!(lived, "nothing was done to the disk");
                break;
            }
            if lived && self.random.one_in(3) {
                // In full flight otherwise.
                self.settle();
            }
            self.end_life();
        }
        if self.settle() {
            self.model.check_quiet();
            self.check_told();
            self.check_bodies();
            self.model.counts.add("quiet ends");
        }
        if self.plan.restarts > 0 {
            self.end_life();
            if self.audit(false) {
                self.settle();
                self.check_told();
            }
        }
    }

    /// A client declares what is usual, which may fail where something else bears the name.
    fn set_up(&mut self) {
        let key = self.client();
        if self
            .peer(key)
            .is_none_or(|peer| peer.client.life != Life::Open)
        {
            // The disk has ended the server; the next step sees it.
            return;
        }
        for (index, operation) in super::wish::setup(&mut self.random).into_iter().enumerate() {
            let at = self
                .peers
                .iter()
                .position(|peer| peer.key == key)
                .expect("it is there");
            // A channel for each, since a refusal takes its channel along.
            let number = index as u16 + 1;
            send(&mut self.peers[at], number, Operation::ChannelOpen);
            send(&mut self.peers[at], number, operation);
            self.hand_in_from(at, true);
        }
        let at = self
            .peers
            .iter()
            .position(|peer| peer.key == key)
            .expect("it is there");
        send(&mut self.peers[at], 0, Operation::ConnectionClose);
        self.pump_until(|world| world.peer(key).is_none());
    }

    /// A client that asks what it is told to.
    pub(crate) fn client(&mut self) -> ConnectionKey {
        self.connect_as(Role::Auditor);
        let key = self.peers[self.peers.len() - 1].key;
        self.pump_until(|world| {
            world
                .peer(key)
                .is_none_or(|peer| peer.client.life == Life::Open)
        });
        key
    }

    /// Sends operations of a client on a channel, which is opened when it is not, and waits for
    /// all that comes of them.
    pub(crate) fn play(&mut self, key: ConnectionKey, number: u16, operations: &[Operation]) {
        let is_open = self.model.connections[&key]
            .channels
            .iter()
            .any(|&(it, _)| it == number);
        let at = self
            .peers
            .iter()
            .position(|peer| peer.key == key)
            .expect("a client");
        if !is_open {
            send(&mut self.peers[at], number, Operation::ChannelOpen);
        }
        for operation in operations {
            send(&mut self.peers[at], number, operation.clone());
        }
        assert!(self.settle(), "the server lives on");
        self.recount();
    }

    /// Lets everything end well.
    pub(crate) fn rest(&mut self) {
        assert!(self.settle(), "the server lives on");
        self.model.check_quiet();
    }

    fn peer(&self, key: ConnectionKey) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.key == key)
    }
}

/// Puts an operation on its way.
fn send(peer: &mut Peer, channel: u16, operation: Operation) {
    let octets = operation.encode(channel, peer.client.frame_max);
    peer.sent += octets.len() as u64;
    peer.octets_in.extend_from_slice(&octets);
    peer.pending.push_back((peer.sent, channel, operation));
}

fn note(
    trace: &mut VecDeque<String>,
    is_traced: bool,
    steps: u64,
    now: Now,
    line: impl FnOnce() -> String,
) {
    let line = format!("{steps} {}µs {}", now.monotonic_us, line());
    if is_traced {
        let mut out = std::io::stdout().lock();
        let _ = std::io::Write::write_fmt(&mut out, format_args!("{line}\n"));
    }
    if trace.len() == TRACE_LINES {
        trace.pop_front();
    }
    trace.push_back(line);
}
