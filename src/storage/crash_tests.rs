//! The store against a small model of itself, over crashes, kills and damage.
//!
//! The model keeps the atomic units in the order in which they were logged, each with the batch it
//! belongs to. After a crash the state must be that of a prefix of the units that holds at least
//! everything whose batch was flushed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tests::{Bench, body_message, small_config};
use super::*;
use crate::broker::record::QueueId;
use crate::message::{Body, Entry};
#[cfg(feature = "planted-faults")]
use crate::planted;

/// What one unit does to the queues.
#[derive(Clone, Debug, Default)]
struct Unit {
    batch: u64,
    adds: Vec<(u32, u64)>,
    settles: Vec<(u32, u64)>,
}

type State = BTreeMap<u32, BTreeSet<u64>>;

fn apply(state: &mut State, unit: &Unit) {
    for &(queue, sequence) in &unit.adds {
        state.entry(queue).or_default().insert(sequence);
    }
    for (queue, sequence) in &unit.settles {
        if let Some(live) = state.get_mut(queue) {
            live.remove(sequence);
        }
    }
}

struct Model {
    bench: Bench,
    random: u64,
    /// State of all units that were dropped from `units`.
    base: State,
    units: Vec<Unit>,
    next_sequence: HashMap<u32, u64>,
    permitted: HashMap<u32, u64>,
    permitted_flushed: HashMap<u32, u64>,
    permits: Vec<(u64, u32, u64)>,
    entries: HashMap<(u32, u64), Entry>,
    live: Vec<(u32, u64)>,
    pending: Vec<(u32, u64)>,
    unit: Option<Unit>,
    defined: Vec<(u64, u32, u32)>,
    definitions: BTreeMap<u32, u32>,
    next_value: u32,
    crashes: u32,
}

/// The body that message `sequence` of `queue` has.
fn body_of(queue: u32, sequence: u64) -> Vec<u8> {
    let mixed = (u64::from(queue) * 31 + sequence).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let octets = (mixed >> 56) as usize * if mixed.is_multiple_of(50) { 20 } else { 1 };
    let tail = mixed.to_be_bytes();
    (0..octets)
        .map(|index| tail[index % 8] ^ index as u8)
        .collect()
}

impl Model {
    fn new(seed: u64) -> Self {
        Model {
            bench: Bench::open(MemoryStorage::new()),
            random: seed,
            base: State::new(),
            units: Vec::new(),
            next_sequence: HashMap::new(),
            permitted: HashMap::new(),
            permitted_flushed: HashMap::new(),
            permits: Vec::new(),
            entries: HashMap::new(),
            live: Vec::new(),
            pending: Vec::new(),
            unit: None,
            defined: Vec::new(),
            definitions: BTreeMap::new(),
            next_value: 0,
            crashes: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % below
    }

    fn note(&mut self, unit: Unit) {
        self.units.push(unit);
    }

    fn flush_pending(&mut self, batch: u64) {
        if !self.pending.is_empty() {
            let settles = std::mem::take(&mut self.pending);
            self.note(Unit {
                batch,
                settles,
                ..Unit::default()
            });
        }
    }

    fn append(&mut self) {
        let queues = match self.draw(8) {
            0 => vec![1, 2, 3],
            1 => vec![2, 3],
            2 | 3 => vec![2],
            _ => vec![1],
        };
        let mut to = Vec::new();
        for &queue in &queues {
            let skip = u64::from(self.draw(6) == 0);
            let next = self.next_sequence.entry(queue).or_insert(1);
            *next += skip;
            to.push((QueueId(queue), *next));
            *next += 1;
        }
        let body = body_of(to[0].0.0, to[0].1);
        let stored =
            self.bench
                .store
                .append(self.bench.now, &body_message(&body), &to, to.len() as u32);
        let adds: Vec<_> = to
            .iter()
            .map(|&(queue, sequence)| (queue.0, sequence))
            .collect();
        for &(queue, sequence) in &adds {
            let entry = Entry::new(stored.at, sequence, stored.share_octets, Entry::LOGGED);
            self.entries.insert((queue, sequence), entry);
            self.live.push((queue, sequence));
        }
        let batch = self.bench.store.batch().0;
        match &mut self.unit {
            Some(unit) => unit.adds.extend(adds),
            None => self.note(Unit {
                batch,
                adds,
                ..Unit::default()
            }),
        }
    }

    fn settle(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = if self.draw(3) == 0 {
            self.draw(self.live.len() as u64) as usize
        } else {
            0
        };
        let (queue, sequence) = self.live.remove(at);
        let entry = self.entries.remove(&(queue, sequence)).expect("live");
        self.bench.store.settle(QueueId(queue), entry);
        match &mut self.unit {
            Some(unit) => unit.settles.push((queue, sequence)),
            None => self.pending.push((queue, sequence)),
        }
    }

    fn group(&mut self) {
        let batch = self.bench.store.batch().0;
        self.flush_pending(batch);
        self.bench.store.group_begin();
        self.unit = Some(Unit::default());
        for _ in 0..=self.draw(12) {
            if self.draw(2) == 0 {
                self.append();
            } else {
                self.settle();
            }
        }
        self.bench.store.group_end();
        let mut unit = self.unit.take().expect("open");
        unit.batch = self.bench.store.batch().0;
        self.note(unit);
    }

    fn define(&mut self) {
        let key = self.draw(12) as u32;
        self.next_value += 1;
        let value = self.next_value;
        let (key_octets, value_octets) = (key.to_be_bytes(), value.to_be_bytes().repeat(40));
        self.bench
            .store
            .define(&[(&key_octets, Some(&value_octets))]);
        self.defined.push((self.bench.store.batch().0, key, value));
    }

    fn permit(&mut self) {
        let queue = 1 + self.draw(3) as u32;
        let up_to = self.next_sequence.get(&queue).copied().unwrap_or(1) + self.draw(20);
        if self
            .permitted
            .get(&queue)
            .is_none_or(|&before| before < up_to)
        {
            self.bench.store.permit(QueueId(queue), up_to);
            self.permitted.insert(queue, up_to);
            self.permits
                .push((self.bench.store.batch().0, queue, up_to));
        }
    }

    fn commit(&mut self) {
        let batch = self.bench.store.newest_batch().0;
        self.bench.now.monotonic_us += self.random % 700;
        self.bench.commit();
        // With nothing else to write they may be put off.
        if self.bench.store.settlements.is_empty() {
            self.flush_pending(batch);
        }
    }

    fn step(&mut self) {
        match self.draw(20) {
            0..=7 => self.append(),
            8..=12 => self.settle(),
            13 => self.group(),
            14 if self.draw(4) == 0 => self.define(),
            14 => self.permit(),
            15 | 16 => self.commit(),
            17 => {
                self.bench.flush_one();
            }
            18 if self.draw(200) == 0 => self.bench.store.checkpoint(),
            18 if self.draw(100) == 0 => {
                self.bench.now.monotonic_us += 1_000_000;
                self.commit();
            }
            _ => {
                self.bench.keep_one();
            }
        }
    }

    fn check_definitions(&mut self, flushed: u64) {
        let mut found = BTreeMap::new();
        for (key, value) in &self.bench.recovery.definitions {
            let number = |octets: &[u8]| octets[..4].iter().fold(0, |n, &o| n << 8 | u32::from(o));
            found.insert(number(key), number(value));
        }
        let mut state = self.definitions.clone();
        let (mut must, mut fits) = (0, None);
        for (index, &(batch, key, value)) in self.defined.iter().enumerate() {
            if batch <= flushed {
                must = index + 1;
            }
            let _ = (key, value);
        }
        for index in 0..=self.defined.len() {
            if index >= must && state == found {
                fits = Some(index);
            }
            if let Some(&(_, key, value)) = self.defined.get(index) {
                state.insert(key, value);
            }
        }
        assert!(fits.is_some(), "definitions are no prefix: {found:?}");
        self.definitions = found;
        self.defined.clear();
    }

    /// Loads all pages of the recovered queues.
    fn recovered(&mut self) -> State {
        let mut state = State::new();
        self.entries.clear();
        for queue in self.bench.recovery.queues.clone() {
            let live = state.entry(queue.id.0).or_default();
            let mut messages = 0;
            let mut last = None;
            for page in &queue.pages {
                let entries = loop {
                    if let Some(entries) = self.bench.store.load(page.page) {
                        break entries;
                    }
                    self.bench.settle_down();
                };
                assert_eq!(
                    entries.len(),
                    page.count as usize,
                    "{page:?} of {:?} {:?}",
                    queue.id,
                    self.bench.events
                );
                for entry in entries {
                    let sequence = entry.sequence();
                    assert!(page.first_sequence <= sequence);
                    assert!(last < Some(sequence), "queue {:?} in order", queue.id);
                    assert!(sequence < queue.next_sequence);
                    last = Some(sequence);
                    let seen = queue
                        .redelivered_up_to
                        .is_some_and(|up_to| sequence <= up_to);
                    assert_eq!(entry.has(Entry::REDELIVERED), seen);
                    self.entries.insert((queue.id.0, sequence), entry);
                    live.insert(sequence);
                    messages += 1;
                }
            }
            assert_eq!(messages, queue.messages);
        }
        state
    }

    fn reopen(&mut self, disk: MemoryStorage) {
        let flushed = self.bench.store.flushed().0;
        self.flush_pending(u64::MAX);
        self.crashes += 1;
        let seed = self.draw(u64::MAX);
        self.bench = Bench::open_seeded(disk, small_config(), seed).expect("opens");
        let told = |what| {
            self.bench
                .recovery
                .report
                .iter()
                .any(|line| line.contains(what))
        };
        assert!(
            !told("damaged") && !told("missing"),
            "{:?}",
            self.bench.recovery.report
        );
        self.check_definitions(flushed);
        let found = self.recovered();
        let must = self
            .units
            .iter()
            .rposition(|unit| unit.batch <= flushed)
            .map_or(0, |last| last + 1);
        let mut state = self.base.clone();
        let mut fits = false;
        let mut nearest = State::new();
        for index in 0..=self.units.len() {
            state.retain(|_, live| !live.is_empty());
            if index == must {
                nearest = state.clone();
            }
            let same = state
                .iter()
                .eq(found.iter().filter(|(_, live)| !live.is_empty()));
            if index >= must && same {
                fits = true;
                break;
            }
            if let Some(unit) = self.units.get(index) {
                apply(&mut state, unit);
            }
        }
        if !fits {
            for (queue, live) in &nearest {
                let there = found.get(queue).cloned().unwrap_or_default();
                let missing: Vec<_> = live.difference(&there).collect();
                let extra: Vec<_> = there.difference(live).collect();
                eprintln!("queue {queue}: missing {missing:?}, too many {extra:?}");
            }
            panic!(
                "no prefix of {} units from {must}: {:?}",
                self.units.len(),
                self.bench.recovery.report
            );
        }
        assert_eq!(
            self.bench.recovery.lost_records, 0,
            "{:?}",
            self.bench.recovery.report
        );
        for (batch, queue, up_to) in self.permits.drain(..) {
            if batch <= flushed {
                self.permitted_flushed.insert(queue, up_to);
            }
        }
        self.permitted.clear();
        for queue in &self.bench.recovery.queues {
            let up_to = queue.redelivered_up_to.unwrap_or(0);
            let flushed = self.permitted_flushed.get(&queue.id.0).copied();
            assert!(up_to >= flushed.unwrap_or(0), "permissions are kept");
            self.permitted.insert(queue.id.0, up_to);
            self.next_sequence.insert(queue.id.0, queue.next_sequence);
        }
        self.base = found;
        self.units.clear();
        self.live = self.entries.keys().copied().collect();
        self.live.sort_unstable();
        self.check_bodies();
    }

    /// A sample of the live messages has its octets.
    fn check_bodies(&mut self) {
        for _ in 0..20.min(self.live.len()) {
            let at = self.draw(self.live.len() as u64) as usize;
            let (queue, sequence) = self.live[at];
            let entry = self.entries[&(queue, sequence)];
            let mut scratch = Vec::new();
            let body = loop {
                match self.bench.store.read(entry, &mut scratch) {
                    Read::Here(stored) => match stored.message.body {
                        Body::Octets(octets) => break octets.to_vec(),
                        Body::Large(_) => panic!("not large"),
                    },
                    Read::Cold => self.bench.settle_down(),
                    Read::Lost => panic!("{queue} {sequence} is lost"),
                }
            };
            // A message of several queues has the body of the first.
            let expected: Vec<Vec<u8>> = [1, 2, 3]
                .iter()
                .flat_map(|&q| [body_of(q, sequence)])
                .collect();
            let shared = self
                .entries
                .iter()
                .any(|(&(_, s), e)| s != sequence && e.at == entry.at);
            assert!(
                expected.contains(&body) || shared || queue != 1,
                "{queue} {sequence}"
            );
        }
    }
}

fn run(seed: u64, steps: u64, kill: bool) -> (u32, Counters) {
    let mut model = Model::new(seed);
    let mut counters = Counters::default();
    for step in 0..steps {
        model.step();
        if model.draw(400) == 0 || step + 1 == steps {
            // Half of the crashes come in the middle of a job.
            let call = 1 + model.draw(8);
            match model.draw(4) {
                0 => {
                    model.bench.disk.fail(call, DiskFault::Eio);
                    model.bench.keep_one();
                }
                1 => {
                    model.commit();
                    model.bench.disk.fail(call.div_ceil(3), DiskFault::Eio);
                    model.bench.flush_one();
                }
                _ => {}
            }
            let disk = if kill || model.draw(3) == 0 {
                model.bench.disk.killed()
            } else {
                let crash_seed = model.draw(u64::MAX);
                model.bench.disk.crash(crash_seed)
            };
            let now = model.bench.store.counters();
            counters.checkpoints += now.checkpoints;
            counters.compacted += now.compacted;
            counters.retired += now.retired;
            model.reopen(disk);
        }
    }
    (model.crashes, counters)
}

#[test]
fn after_any_crash_the_state_is_a_prefix_that_holds_what_was_flushed() {
    let (mut crashes, mut all) = (0, Counters::default());
    let seeds = std::env::var("LEVERET_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(60) {
        let (here, counters) = run(seed, 4000, seed % 4 == 0);
        crashes += here;
        all.checkpoints += counters.checkpoints;
        all.compacted += counters.compacted;
        all.retired += counters.retired;
    }
    assert!(crashes > 300);
    assert!(
        all.checkpoints > 50 && all.compacted > 5 && all.retired > 50,
        "{all:?}"
    );
}

/// A group that crosses into a segment that was given back since looked unfinished to the next
/// start, which cut its messages off.
#[test]
fn a_group_whose_last_segment_was_given_back_is_whole() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.store.define(&[(b"queue/1", Some(b"durable"))]);
    let mut entries = Vec::new();
    // Appends until a message lies in another segment than the one before.
    let mut cross = |bench: &mut Bench| loop {
        let sequence = entries.len() as u64 + 1;
        let entry = bench.append(1, sequence, &body_of(1, sequence));
        entries.push(entry);
        let before = entries
            .len()
            .checked_sub(2)
            .map(|at| entries[at].at.segment);
        if before.is_some_and(|before| before != entry.at.segment) {
            break before.expect("seen above");
        }
    };
    bench.store.group_begin();
    let first = cross(&mut bench);
    bench.store.group_end();
    bench.settle_down();
    let second = cross(&mut bench);
    bench.settle_down();
    let (kept, consumed): (Vec<Entry>, Vec<Entry>) =
        entries.iter().partition(|entry| entry.at.segment == first);
    for entry in consumed {
        bench.store.settle(QueueId(1), entry);
    }
    // What a start has read is begun no more, and goes when nothing in it is needed.
    for _ in 0..2 {
        bench.settle_down();
        bench = Bench::open(bench.disk.killed());
        for _ in 0..4 {
            bench.store.checkpoint();
            bench.settle_down();
        }
    }
    let is_there = |bench: &Bench, number| bench.store.segments.get(number).is_some();
    assert!(is_there(&bench, first) && !is_there(&bench, second));
    let after = Bench::open(bench.disk.killed());
    assert_eq!(after.recovery.account.group_records_cut, 0);
    assert_eq!(after.recovery.queues[0].messages, kept.len() as u64);
}

/// Whether some of the first seeds finds the fault.
#[cfg(feature = "planted-faults")]
fn is_found(fault: Option<planted::Fault>) -> bool {
    use std::panic::catch_unwind;
    // The panics are the finding; their text is of no use here.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (1000..1300).any(|seed| {
        catch_unwind(|| {
            planted::plant(fault);
            run(seed, 4000, false)
        })
        .is_err()
    });
    std::panic::set_hook(before);
    planted::plant(None);
    found
}

#[cfg(feature = "planted-faults")]
#[test]
fn planted_faults_are_found() {
    assert!(!is_found(None), "what is not planted is not found");
    for fault in planted::Fault::of(planted::Finder::CrashTests) {
        assert!(is_found(Some(fault)), "{fault:?}");
    }
}
