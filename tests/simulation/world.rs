//! One server in a world made of seeds: clients, a network that cuts and delays, helpers that
//! answer when they like, a disk that fails, time that jumps, and power that goes.
//!
//! Everything the engine does happens in a call; after each call all that it wrote is read from the
//! outboxes, before a client gets to see it, and held against the model.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use leveret::broker::Destination as EngineDestination;
use leveret::clock::Now;
use leveret::config::Config;
use leveret::engine::{ConnectionId, Engine};
use leveret::storage::{
    Answer, DiskFault, FlushJob, Helpers, KeeperJob, MemoryStorage, Storage as _,
};

use super::client::{Client, Life, Role, Shared};
use super::counts;
use super::disk;
use super::model::{ConnectionKey, Model, State};
use super::observe::{Event, Tap};
use super::operation::{Criteria, Operation};
use super::random::Random;
use super::topology::{Binding, Destination, QueueName, Topology};

type Storage = MemoryStorage;

/// The helpers' jobs that wait to be run.
#[derive(Debug, Default)]
struct Jobs {
    flush: VecDeque<FlushJob<Storage>>,
    keep: VecDeque<KeeperJob<Storage>>,
}

impl Helpers<Storage> for Jobs {
    fn flush(&mut self, job: FlushJob<Storage>) {
        self.flush.push_back(job);
    }

    fn keep(&mut self, job: KeeperJob<Storage>) {
        self.keep.push_back(job);
    }
}

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
    /// An error was put into the disk: the server may end.
    is_disk_failing: bool,
    is_disk_full: bool,
    /// The run has ended this life.
    is_over: bool,
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
                hostile_one_in,
                is_exact: true,
            },
            restarts: 0,
            bodies: BTreeSet::new(),
            is_disk_failing: false,
            is_disk_full: false,
            is_over: false,
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
                lived = self.settle();
            }
            self.end_life(lived);
        }
        if self.settle() {
            self.model.check_quiet();
            self.check_bodies();
            self.model.counts.add("quiet ends");
        }
        if self.plan.restarts > 0 {
            self.end_life(true);
            self.audit(false);
        }
    }

    /// A client declares what is usual, which may fail where something else bears the name.
    fn set_up(&mut self) {
        self.connect_as(Role::Auditor);
        let at = self.peers.len() - 1;
        let key = self.peers[at].key;
        self.pump_until(|world| {
            world
                .peer(key)
                .is_none_or(|peer| peer.client.life == Life::Open)
        });
        if self
            .peer(key)
            .is_none_or(|peer| peer.client.life != Life::Open)
        {
            // The disk has ended the server; the next step sees it.
            return;
        }
        for (index, operation) in super::client::setup(&mut self.random)
            .into_iter()
            .enumerate()
        {
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
        let at = self.peers.len() - 1;
        let key = self.peers[at].key;
        self.pump_until(|world| {
            world
                .peer(key)
                .is_some_and(|peer| peer.client.life == Life::Open)
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

    // ---- steps ----

    /// One step of the world; whether the server lives on.
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.pass_time();
        match self.random.weighted(&[40, 34, 18, 9, 9, 9, 12, 3, 1]) {
            0 => self.want(),
            1 => self.hand_in(),
            2 => self.end_turn(),
            3 => self.run_flush(),
            4 => self.run_keeper(),
            5 => self.answer(),
            6 => self.write_out(),
            7 => self.come_and_go(),
            _ => self.disturb(),
        }
        if self.steps.is_multiple_of(64) {
            self.recount();
        }
        self.is_alive()
    }

    fn is_alive(&mut self) -> bool {
        let Some(error) = self.engine.fatal() else {
            return !self.is_over;
        };
        let line = error.to_string();
        self.note(|| format!("the server gives up: {line}"));
        assert!(
            self.is_disk_failing,
            "the server gave up on a disk that was full at worst: {line}"
        );
        self.model.counts.add("ended by a failed disk");
        false
    }

    fn pass_time(&mut self) {
        let us = if self.random.one_in(400) {
            self.random.between(100_000, 1_500_000)
        } else if self.random.one_in(30) {
            self.random.between(500, 20_000)
        } else {
            self.random.below(60)
        } as u64;
        self.advance(us);
    }

    fn advance(&mut self, us: u64) {
        self.now.monotonic_us += us;
        self.now.wall_ms += us / 1000;
        if self.random.one_in(5000) {
            // Clocks on walls are set.
            self.now.wall_ms = self.now.wall_ms.saturating_sub(3_600_000);
            self.model.counts.add("wall clock set back");
        }
        for peer in &mut self.peers {
            let half_us = u64::from(peer.client.heartbeat_s) * 500_000;
            let silent_us = self.now.monotonic_us - peer.heard_us.max(peer.beaten_us);
            if half_us > 0 && silent_us >= half_us && peer.client.life == Life::Open {
                peer.beaten_us = self.now.monotonic_us;
                send(peer, 0, Operation::Heartbeat);
            }
        }
    }

    /// A client wants something.
    fn want(&mut self) {
        if self.peers.is_empty() {
            return self.connect();
        }
        let at = self.random.below(self.peers.len());
        let peer = &mut self.peers[at];
        // The network takes only so much in advance.
        if peer.octets_in.len() > 256 << 10 || peer.pending.len() > 60 {
            return;
        }
        for (channel, operation) in peer.client.due() {
            send(peer, channel, operation);
        }
        if peer.client.is_hostile {
            return;
        }
        for _ in 0..self.random.between(1, 6) {
            if let Some((channel, operation)) = peer.client.next(&mut self.shared, &mut self.random)
            {
                send(peer, channel, operation);
            }
        }
    }

    fn connect(&mut self) {
        let role = *self.random.pick(&[
            Role::Publisher,
            Role::Publisher,
            Role::Consumer,
            Role::Consumer,
            Role::Operator,
            Role::Everything,
        ]);
        self.connect_as(role);
    }

    fn connect_as(&mut self, role: Role) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 5672));
        let id = self.engine.accept(self.now, address, local);
        let key = self.next_key;
        self.next_key += 1;
        self.model.accept(key);
        self.model.counts.add("connections");
        self.note(|| format!("connection {key} ({role:?})"));
        self.peers.push(Peer {
            key,
            id,
            client: Client::new(role, &mut self.random),
            octets_in: Vec::new(),
            pending: VecDeque::new(),
            sent: 0,
            consumed: 0,
            tap: Tap::new(self.config.limits.large_body_octets_min),
            seen: 0,
            events: VecDeque::new(),
            tapped: 0,
            written: 0,
            is_slow: false,
            heard_us: self.now.monotonic_us,
            beaten_us: self.now.monotonic_us,
            accepted_us: self.now.monotonic_us,
        });
    }

    fn hand_in(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let at = self.random.below(self.peers.len());
        self.hand_in_from(at, false);
    }

    /// Hands octets of a client in: as many as arrive together.
    fn hand_in_from(&mut self, at: usize, is_whole: bool) -> bool {
        if self.peers[at].octets_in.is_empty() || self.engine.is_paused(self.peers[at].id) {
            return false;
        }
        let allowed = self.allowed(at);
        let octets = if is_whole || !self.random.one_in(3) {
            allowed
        } else {
            self.model.counts.add("octets cut");
            self.random.between(1, allowed)
        };
        let peer = &mut self.peers[at];
        let (key, now) = (peer.key, self.now);
        self.model.begin_call();
        peer.heard_us = now.monotonic_us;
        let received = self.engine.receive(now, peer.id, &peer.octets_in[..octets]);
        if received.pause.is_some() {
            self.model.counts.add("paused");
        }
        peer.octets_in.drain(..received.consumed);
        peer.consumed += received.consumed as u64;
        while let Some(&(end, _, _)) = self.peers[at].pending.front() {
            if end > self.peers[at].consumed {
                break;
            }
            let (_, channel, operation) = self.peers[at].pending.pop_front().expect("seen above");
            self.note(|| format!("{key} → {channel} {operation}"));
            self.model.execute(key, channel, &operation);
        }
        if let Some((_, channel, Operation::Get { queue, .. })) = self.peers[at].pending.front()
            && received.pause.is_some()
        {
            // The permission to deliver is on its way although nothing was fetched yet.
            self.model.may_read(key, *channel, queue);
        }
        self.note_log_ids();
        self.after_call();
        // What hangs on a thing with very many bindings goes a little later than itself, which the
        // model does not know.
        for _ in 0..1000 {
            if !self.engine.broker().is_removing() {
                break;
            }
            self.model.counts.add("removals in slices");
            self.end_turn();
        }
        received.consumed > 0
    }

    /// Octets that may be handed in at once: an operation whose outcome depends on what was
    /// delivered goes alone.
    fn allowed(&self, at: usize) -> usize {
        let peer = &self.peers[at];
        let mut tags = BTreeSet::new();
        let mut allowed = 0;
        for (end, channel, operation) in &peer.pending {
            let octets = (end - peer.consumed) as usize;
            if self.sweeps(peer.key, *channel, operation, &mut tags) {
                return if allowed == 0 { octets } else { octets - 1 };
            }
            allowed = octets;
        }
        peer.octets_in.len()
    }

    fn sweeps(
        &self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
        tags: &mut BTreeSet<(u16, u64)>,
    ) -> bool {
        let connection = &self.model.connections[&key];
        let channel = connection
            .channels
            .iter()
            .find(|(other, _)| *other == number);
        match operation {
            Operation::Publish(publication) => self
                .model
                .topology
                .exchanges
                .get(&publication.exchange)
                .is_none_or(|exchange| exchange.internal),
            Operation::Ack {
                tag,
                multiple: false,
            }
            | Operation::Nack {
                tag,
                multiple: false,
                ..
            }
            | Operation::Reject { tag, .. } => {
                !tags.insert((number, *tag))
                    || channel.is_none_or(|(_, it)| !it.outstanding.contains_key(tag))
            }
            _ => operation.is_sweeping(),
        }
    }

    /// Learns how the log calls new queues.
    fn note_log_ids(&mut self) {
        let model = &mut self.model;
        if model
            .queues
            .values()
            .all(|it| !it.durable || it.log_id.is_some())
        {
            return;
        }
        for (_, queue) in self.engine.broker().queues() {
            let name = String::from_utf8_lossy(&queue.name);
            if let Some(id) = queue.id
                && let Some(named) = model.topology.queues.get(&*name)
                && let Some(known) = model.queues.get_mut(&named.uid)
            {
                known.log_id = Some(id.0);
            }
        }
    }

    /// Reads everything that the call has written.
    fn after_call(&mut self) {
        for peer in &mut self.peers {
            let waiting = self.engine.octets_for(peer.id);
            let waiting_octets = waiting.len();
            let new = waiting.get(peer.seen..).unwrap_or_default().to_vec();
            let behind: Vec<&[u8]> = self.engine.octets_behind(peer.id).collect();
            if peer.tap.is_idle(&new, &behind) {
                continue;
            }
            peer.tapped += new.len() as u64;
            let key = peer.key;
            let (trace, is_traced, steps, now) =
                (&mut self.trace, self.plan.is_traced, self.steps, self.now);
            let mut noted =
                |line: String| note(trace, is_traced, steps, now, || format!("{key} ← {line}"));
            let events = (peer.tap).take(&new, &behind, &mut self.model, key, &mut noted);
            peer.seen = waiting_octets;
            let at = peer.tapped;
            peer.events
                .extend(events.into_iter().map(|event| (at, event)));
        }
        self.model.end_call();
    }

    fn end_turn(&mut self) {
        let mut dead = Vec::new();
        self.model.begin_call();
        self.engine.end_turn(self.now, &mut self.jobs, &mut dead);
        self.after_call();
        self.model.end_turn();
        for id in dead {
            let at = self
                .peers
                .iter()
                .position(|peer| peer.id == id)
                .expect("a peer that is there");
            let peer = &self.peers[at];
            let state = self.model.connections[&peer.key].state;
            let silent_us = self.now.monotonic_us - peer.heard_us;
            let interval_us = u64::from(peer.client.heartbeat_s) * 1_000_000;
            let age_us = self.now.monotonic_us - peer.accepted_us;
            let is_just = match state {
                State::Open => interval_us > 0 && silent_us >= 2 * interval_us,
                State::Handshake => age_us >= self.config.limits.handshake_timeout_ms * 1000,
                State::Closing | State::Over | State::Refused => true,
            };
            assert!(
                is_just,
                "connection {} was given up after {silent_us} µs of silence",
                peer.key
            );
            if state == State::Open {
                self.model.counts.add("given up for silence");
            }
            self.drop_peer(at);
        }
        for id in self.engine.take_resumed() {
            // Its input is looked at again in some later step.
            let _ = id;
            self.model.counts.add("resumed");
        }
        self.close_what_is_over();
    }

    fn close_what_is_over(&mut self) {
        let mut at = 0;
        while at < self.peers.len() {
            if self.engine.is_over(self.peers[at].id) {
                let key = self.peers[at].key;
                assert!(
                    self.model.connections[&key].state != State::Open || self.is_disk_failing,
                    "connection {key} is given up, perhaps in the middle of a content"
                );
                self.drop_peer(at);
            } else {
                at += 1;
            }
        }
    }

    /// A connection is gone, wherever its octets are.
    fn drop_peer(&mut self, at: usize) {
        let peer = self.peers.remove(at);
        let key = peer.key;
        self.note(|| format!("connection {key} is gone"));
        self.model.begin_call();
        self.engine.drop_peer(self.now, peer.id);
        self.model.dropped(key);
        self.after_call();
    }

    // ---- helpers ----

    fn run_flush(&mut self) {
        if let Some(job) = self.jobs.flush.pop_front() {
            self.note(|| "flush".to_owned());
            let answer = job.run(&self.storage);
            self.count_hits();
            self.flush_answers.push_back(answer);
        }
    }

    fn run_keeper(&mut self) {
        if let Some(job) = self.jobs.keep.pop_front() {
            let is_failing = self.is_disk_failing;
            let line = if self.plan.is_traced || is_failing {
                format!("{job:?}")
            } else {
                String::new()
            };
            self.note(|| format!("keeper {}", line.chars().take(90).collect::<String>()));
            let answer = job.run(&self.storage);
            let failed = self.count_hits();
            let is_read = ["Read", "LargeRead", "Populate"]
                .iter()
                .any(|it| line.starts_with(&format!("KeeperJob({it}")));
            if failed && is_read {
                // What cannot be read counts as damage, which another run looks at: here the
                // server does not live to hear of it.
                self.model.counts.add("unreadable");
                self.is_over = true;
            }
            self.keep_answers.push_back(answer);
        }
    }

    /// Counts the calls that met a fault, by kind; whether one failed for good.
    fn count_hits(&mut self) -> bool {
        let mut has_failed = false;
        for hit in self.storage.take_hits() {
            has_failed |= hit.fault == DiskFault::Eio;
            self.note(|| format!("{:?} in {} of '{}'", hit.fault, hit.call, hit.name));
            if let Some(name) = counts::name_of(&hit) {
                self.model.counts.add(name);
            }
        }
        has_failed
    }

    fn answer(&mut self) {
        if self.is_over {
            self.keep_answers.clear();
            self.flush_answers.clear();
            return;
        }
        let first_flush = self.random.one_in(2);
        let answer = if first_flush {
            self.flush_answers
                .pop_front()
                .or_else(|| self.keep_answers.pop_front())
        } else {
            self.keep_answers
                .pop_front()
                .or_else(|| self.flush_answers.pop_front())
        };
        if let Some(answer) = answer {
            self.note(|| format!("answer {answer:?}").chars().take(160).collect());
            self.model.begin_call();
            self.engine.answer(self.now, answer);
            self.after_call();
        }
    }

    // ---- writing ----

    fn write_out(&mut self) {
        for id in self.engine.take_writable() {
            let at = self.peers.iter().position(|peer| peer.id == id);
            let Some(at) = at else { continue };
            let waiting = self.engine.octets_for(id).len();
            if waiting == 0 {
                continue;
            }
            let (octets, is_blocked) = if self.peers[at].is_slow {
                (self.random.below(waiting.min(64)), true)
            } else if self.random.one_in(4) {
                self.model.counts.add("short writes to sockets");
                (self.random.below(waiting), true)
            } else {
                (waiting, false)
            };
            self.wrote(at, octets, is_blocked);
        }
        for at in 0..self.peers.len() {
            if !self.peers[at].is_slow {
                self.engine.socket_ready(self.peers[at].id);
            }
        }
        self.close_what_is_over();
    }

    fn wrote(&mut self, at: usize, octets: usize, is_blocked: bool) {
        let peer = &mut self.peers[at];
        peer.seen -= octets;
        peer.written += octets as u64;
        self.engine.wrote(peer.id, octets, is_blocked);
        self.after_call();
        let peer = &mut self.peers[at];
        while peer
            .events
            .front()
            .is_some_and(|&(end, _)| end <= peer.written)
        {
            let (_, event) = peer.events.pop_front().expect("seen above");
            peer.client.learn(event, &mut self.random);
        }
    }

    // ---- disturbances ----

    fn come_and_go(&mut self) {
        match self.random.below(12) {
            0 if !self.peers.is_empty() => {
                let at = self.random.below(self.peers.len());
                self.model.counts.add("connections cut");
                self.drop_peer(at);
            }
            1 | 2 if !self.peers.is_empty() => {
                let at = self.random.below(self.peers.len());
                let peer = &mut self.peers[at];
                peer.is_slow = !peer.is_slow;
                self.model.counts.add("readers made slow or quick");
            }
            _ if self.peers.len() < 6 => self.connect(),
            _ => {}
        }
    }

    fn disturb(&mut self) {
        match self.random.below(12) {
            0 if self.plan.restarts > 0 => {
                self.is_disk_failing = true;
                self.fail_disk(DiskFault::Eio, "EIO");
            }
            1..=3 => self.fail_disk(DiskFault::Short, "short reads and writes"),
            4..=6 => self.fail_disk(DiskFault::Eintr, "EINTR"),
            7 | 8 if !self.is_disk_full && self.plan.restarts > 0 => {
                self.is_disk_full = true;
                let free = self.random.below(100_000) as u64;
                self.storage.set_free_octets(Some(free));
                self.note(|| format!("{free} octets left on the disk"));
                self.model.counts.add("disk full");
            }
            _ if self.is_disk_full => self.make_room(),
            _ => {}
        }
    }

    fn fail_disk(&mut self, fault: DiskFault, name: &'static str) {
        let calls = self.random.between(1, 40) as u64;
        self.storage.fail(calls, fault);
        self.note(|| format!("{name} in {calls} calls"));
        self.model.counts.add(name);
    }

    fn make_room(&mut self) {
        self.is_disk_full = false;
        self.storage.set_free_octets(None);
        self.note(|| "room on the disk again".to_owned());
    }

    // ---- rest ----

    /// Lets everything that is under way come to its end; whether the server lives on.
    fn settle(&mut self) -> bool {
        if self.is_disk_full {
            self.make_room();
        }
        for peer in &mut self.peers {
            peer.is_slow = false;
        }
        let mut idle = 0;
        for _ in 0..20_000 {
            let moved = self.pump();
            if !self.is_alive() {
                return false;
            }
            idle = if moved { 0 } else { idle + 1 };
            // Long enough for what is tried again once a second; a disk that was nearly full is
            // looked at every five.
            let is_blocked = self.model.connections.values().any(|it| it.is_blocked);
            if idle > if is_blocked { 20 } else { 6 } {
                return true;
            }
            self.advance(if moved { 600 } else { 300_000 });
        }
        panic!("the server does not come to rest");
    }

    /// Moves everything that can move, once.
    fn pump(&mut self) -> bool {
        self.steps += 1;
        let mut moved = false;
        for peer in &mut self.peers {
            for (channel, operation) in peer.client.due() {
                send(peer, channel, operation);
                moved = true;
            }
        }
        let mut at = 0;
        while at < self.peers.len() {
            // A hostile peer's last octets may never make a frame; heartbeats never end.
            let is_beat = matches!(
                self.peers[at].pending.front(),
                Some((_, _, Operation::Heartbeat))
            );
            moved |= self.hand_in_from(at, true) && !is_beat;
            at += 1;
        }
        self.end_turn();
        moved |= !self.jobs.flush.is_empty() || !self.jobs.keep.is_empty();
        while !self.jobs.flush.is_empty() {
            self.run_flush();
        }
        while !self.jobs.keep.is_empty() {
            self.run_keeper();
        }
        while !self.flush_answers.is_empty() || !self.keep_answers.is_empty() {
            self.answer();
        }
        for at in 0..self.peers.len() {
            self.engine.socket_ready(self.peers[at].id);
        }
        for id in self.engine.take_writable() {
            let Some(at) = self.peers.iter().position(|peer| peer.id == id) else {
                continue;
            };
            loop {
                let waiting = self.engine.octets_for(id).len();
                if waiting == 0 {
                    break;
                }
                moved |= waiting > HEARTBEAT_OCTETS;
                self.wrote(at, waiting, false);
            }
        }
        self.close_what_is_over();
        moved
    }

    /// Files of large bodies, by name.
    fn bodies(&self) -> BTreeSet<String> {
        let names = self.storage.list().unwrap_or_default().into_iter();
        names
            .map(|(name, _)| name)
            .filter(|name| name.contains(".body"))
            .collect()
    }

    /// Counts the files of large bodies that are gone since it was asked last.
    fn count_bodies(&mut self) {
        let there = self.bodies();
        for _ in self.bodies.difference(&there) {
            self.model.counts.add("large bodies removed");
        }
        self.bodies = there;
    }

    /// When nothing is under way, no large body has a file that nobody needs.
    fn check_bodies(&mut self) {
        self.count_bodies();
        let needed = self
            .model
            .large_bodies(self.config.limits.large_body_octets_min);
        assert!(
            self.bodies.len() <= needed || self.is_disk_failing,
            "{} files of large bodies, {needed} are needed: {:?}",
            self.bodies.len(),
            self.bodies
        );
    }

    /// Holds the engine's own numbers against the model's.
    fn recount(&mut self) {
        let broker = self.engine.broker();
        if let Err(why) = broker.audit() {
            panic!("the router does not agree with itself: {why}");
        }
        let mut names = BTreeSet::new();
        for (_, queue) in broker.queues() {
            let name = String::from_utf8_lossy(&queue.name).into_owned();
            let named = self.model.topology.queues.get(&name).or_else(|| {
                // A generated name of which the answer is not seen yet.
                let unnamed = |it: &&String| it.starts_with('?');
                let held = self.model.topology.queues.keys().find(unnamed)?;
                self.model.topology.queues.get(held)
            });
            let Some(named) = named else {
                panic!("queue '{name}' should not be there")
            };
            names.insert(name.clone());
            let (required, possible) = self.model.bounds(named.uid);
            let there = queue.message_count() + queue.unacked;
            assert!(
                (required <= there && there <= possible) || self.model.is_damaged,
                "queue '{name}' (id {:?}) holds {there} messages, {required}..={possible} are possible: {:?}",
                queue.id,
                self.model.sure(named.uid)
            );
            if self.model.is_vague(named.uid) || name.starts_with("amq.gen-") {
                continue;
            }
            let ready = self.model.ready(named.uid).0;
            let found = (queue.message_count(), queue.unacked, queue.consumers.len());
            let wanted = (
                ready,
                self.model.unacked(named.uid),
                self.model.queues[&named.uid].consumers.len(),
            );
            assert_eq!(
                found, wanted,
                "queue '{name}': ready, unacknowledged, consumers"
            );
        }
        assert_eq!(
            names.len(),
            self.model.topology.queues.len(),
            "number of queues"
        );
        self.count_bodies();
        self.model.counts.add("recounts");
    }

    // ---- restarts ----

    /// Says in the trace which records lie in each file.
    fn trace_files(&mut self) {
        if !self.plan.is_traced {
            return;
        }
        for (name, octets) in self.storage.list().unwrap_or_default() {
            let contents = self.storage.contents(&name).unwrap_or_default();
            let records = disk::records(&contents);
            let (first, last) = (records.first(), records.last());
            let kinds: BTreeSet<u8> = records.iter().map(|it| it.kind).collect();
            let text = format!(
                "{name}: {octets} octets, {} records of kinds {kinds:?}, numbers {:?} to {:?}",
                records.len(),
                first.map(|it| it.lsn),
                last.map(|it| it.lsn)
            );
            self.note(|| text);
        }
    }

    /// The server ends, in some way, and starts again.
    fn end_life(&mut self, lived: bool) {
        loop {
            let kind = self.random.below(3);
            if kind == 0 {
                self.storage = self.storage.killed();
                self.model.counts.add("kills");
                self.note(|| "==== killed".to_owned());
            } else {
                let seed = self.random.draw();
                self.storage = self.storage.crash(seed);
                self.model.counts.add("power losses");
                self.note(|| "==== power is lost".to_owned());
            }
            let _ = lived;
            self.trace_files();
            self.bodies = self.bodies();
            if self.random.one_in(6) {
                self.lose_what_can_be_lost();
            }
            if self.start() && self.look_around() {
                return;
            }
        }
    }

    /// Removes or damages a file that another stands in for: that costs nothing.
    fn lose_what_can_be_lost(&mut self) {
        let names = self.storage.list().unwrap_or_default();
        let indexes = names.iter().filter(|(name, _)| name.contains(".idx"));
        let indexes: Vec<String> = indexes.map(|(name, _)| name.clone()).collect();
        let (checkpoint, spare) = ("checkpoint", "checkpoint.spare");
        let copies = [checkpoint, spare].map(|name| self.storage.contents(name));
        let [first, second] = copies.map(|it| it.map(|it| disk::until_zeros(&it).to_vec()));
        // While the next one is being written there is no copy.
        let has_copy = first.is_some() && first == second;
        let (name, is_removed, what) = match self.random.below(5) {
            0 if !indexes.is_empty() => {
                (self.random.pick(&indexes).clone(), true, "lost: an index")
            }
            1 if !indexes.is_empty() => {
                let name = self.random.pick(&indexes).clone();
                (name, false, "damaged: an index")
            }
            2 if has_copy => (checkpoint.to_owned(), true, "lost: the checkpoint"),
            3 if has_copy => (checkpoint.to_owned(), false, "damaged: the checkpoint"),
            4 if has_copy => (spare.to_owned(), true, "lost: the spare checkpoint"),
            _ => return,
        };
        self.note(|| format!("{what} ({name})"));
        self.model.counts.add(what);
        if is_removed {
            self.storage.remove(&name).expect("it is there");
            self.storage.sync_dir().expect("nothing fails yet");
            return;
        }
        let octets = self.storage.contents(&name).unwrap_or_default();
        let octets = disk::until_zeros(&octets).len();
        if octets > 0 {
            let (at, bit) = (self.random.below(octets), self.random.below(8) as u8);
            assert!(self.storage.flip(&name, at, bit), "it is there");
        }
    }

    /// Starts a server on what is left; whether that went well.
    fn start(&mut self) -> bool {
        self.restarts += 1;
        self.peers.clear();
        self.jobs = Jobs::default();
        self.flush_answers.clear();
        self.keep_answers.clear();
        (self.is_disk_failing, self.is_disk_full, self.is_over) = (false, false, false);
        self.model.crash();
        self.now = fresh_now(&mut self.random);
        let is_disturbed = self.random.one_in(6);
        if is_disturbed {
            let calls = self.random.between(1, 60) as u64;
            self.storage.fail(calls, DiskFault::Eio);
        }
        if self.random.one_in(8) {
            self.is_disk_full = true;
            let free = self.random.below(20_000) as u64;
            self.storage.set_free_octets(Some(free));
            self.model.counts.add("starts on a full disk");
        }
        let opened = Engine::open(
            self.storage.clone(),
            &self.config,
            self.now,
            self.random.draw(),
        );
        let has_failed = self.count_hits();
        self.engine = match opened {
            Ok(engine) => engine,
            Err(error) => {
                assert!(has_failed, "the server does not start again: {error}");
                self.note(|| format!("start fails: {error}"));
                self.model.counts.add("starts cut off by a fault");
                return false;
            }
        };
        assert_eq!(
            self.engine.lost_records(),
            0,
            "records are missed on a disk that lost nothing that was synced"
        );
        self.is_disk_failing = is_disturbed;
        self.model.counts.add("restarts");
        let found = self.found_topology();
        self.model.restarted(&found);
        self.shared.is_exact = false;
        self.recount();
        true
    }

    /// Reads all queues, or leaves them to the clients. Whether the server lives on.
    fn look_around(&mut self) -> bool {
        if self.random.one_in(3) {
            self.model.counts.add("restarts without audit");
            return true;
        }
        let may_end = self.random.one_in(4);
        self.audit(may_end)
    }

    /// The durable topology that the engine has, in the model's words.
    fn found_topology(&self) -> Topology {
        let broker = self.engine.broker();
        let mut topology = Topology {
            exchanges: BTreeMap::new(),
            ..self.model.topology.durable_part()
        };
        (topology.queues, topology.bindings) = (BTreeMap::new(), BTreeSet::new());
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let mut exchange_names = BTreeMap::new();
        for (slot, exchange) in broker.exchanges() {
            let name = text(&exchange.name);
            exchange_names.insert(slot as u32, name.clone());
            topology.exchanges.insert(
                name,
                super::topology::Exchange {
                    kind: *super::operation::Kind::ALL
                        .iter()
                        .find(|kind| kind.name() == exchange.properties.exchange_type.name())
                        .expect("a type that exists"),
                    durable: exchange.properties.durable,
                    auto_delete: exchange.properties.auto_delete,
                    internal: exchange.properties.internal,
                    is_predeclared: exchange.name.is_empty() || exchange.name.starts_with(b"amq."),
                },
            );
        }
        let mut queue_names = BTreeMap::new();
        for (slot, queue) in broker.queues() {
            let name = text(&queue.name);
            let id = queue.id.expect("only durable queues come back").0;
            let known = self
                .model
                .queues
                .iter()
                .find(|(_, it)| it.log_id == Some(id));
            let Some((&uid, _)) = known else {
                panic!("queue '{name}' (id {id}) comes from nowhere")
            };
            queue_names.insert(slot as u32, name.clone());
            topology
                .queues
                .insert(name, QueueName { uid, durable: true });
        }
        for (_, binding) in broker.bindings().iter() {
            topology.bindings.insert(Binding {
                source: exchange_names[&binding.source.slot].clone(),
                destination: match binding.destination {
                    EngineDestination::Queue(key) => {
                        Destination::Queue(queue_names[&key.slot].clone())
                    }
                    EngineDestination::Exchange(key) => {
                        Destination::Exchange(exchange_names[&key.slot].clone())
                    }
                },
                key: text(&binding.binding_key),
                criteria: Criteria::read(&binding.arguments),
            });
        }
        topology
    }

    /// A client fetches every message of every queue, so that all is known; what it does with them
    /// is up to the seed. Whether the server lives on.
    fn audit(&mut self, may_end: bool) -> bool {
        self.connect_as(Role::Auditor);
        self.pump_until(|world| world.peers[0].client.life == Life::Open);
        if !self.is_alive() {
            return false;
        }
        send(&mut self.peers[0], 1, Operation::ChannelOpen);
        let names: Vec<(String, u64)> = self
            .model
            .topology
            .queues
            .iter()
            .map(|(name, it)| (name.clone(), it.uid))
            .collect();
        for (name, uid) in names {
            loop {
                let possible = self.model.ready(uid).1;
                for _ in 0..=possible.min(200) {
                    send(
                        &mut self.peers[0],
                        1,
                        Operation::Get {
                            queue: name.clone(),
                            no_ack: false,
                        },
                    );
                }
                let rounds = if may_end && self.random.one_in(4) {
                    self.random.below(6)
                } else {
                    20_000
                };
                for _ in 0..rounds {
                    if self.peers[0].pending.is_empty() {
                        break;
                    }
                    if !self.pump_alive() {
                        return false;
                    }
                }
                if !self.peers[0].pending.is_empty() {
                    self.model.counts.add("ended during an audit");
                    return false;
                }
                if self.model.ready(uid).1 == 0 {
                    break;
                }
            }
        }
        self.model.counts.add("audits");
        let last = match self.random.below(4) {
            0 => Operation::Ack {
                tag: 0,
                multiple: true,
            },
            1 => Operation::Nack {
                tag: 0,
                multiple: true,
                requeue: true,
            },
            _ => Operation::ChannelClose,
        };
        send(&mut self.peers[0], 1, last);
        send(&mut self.peers[0], 0, Operation::ConnectionClose);
        while !self.peers.is_empty() {
            if !self.pump_alive() {
                return false;
            }
        }
        self.shared.is_exact = true;
        self.recount();
        true
    }

    fn pump_alive(&mut self) -> bool {
        // On a full disk there may be no segment left to note in what is delivered.
        if self.is_disk_full && self.random.one_in(20) {
            self.make_room();
        }
        self.pump();
        self.advance(600);
        self.is_alive()
    }

    fn pump_until(&mut self, is_reached: impl Fn(&World) -> bool) {
        for _ in 0..1000 {
            if is_reached(self) {
                return;
            }
            if self.is_disk_full && self.random.one_in(20) {
                self.make_room();
            }
            self.pump();
            self.advance(600);
            if self.engine.fatal().is_some() || self.is_over {
                return;
            }
        }
        panic!("the server does not answer");
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
