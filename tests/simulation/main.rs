//! The engine under virtual time, a network that cuts, and a disk that fails: deterministic from
//! one seed. See `world/` for what happens and `model/` for what must hold.
//!
//! * `cargo test --test simulation`: the seeds from 1 to 1000.
//! * `LEVERET_SEED=7 cargo test --test simulation -- --nocapture`: one seed, with a trace of every
//!   frame and step.
//! * `LEVERET_GO_ON=1`: a line for each seed that fails, in place of an end at the first.
//! * `make sim SEED=5000 STEPS=1000000`: from that seed on, until so many operations were done.
//! * `LEVERET_RESTARTS=0`: no crash and no failing disk, in place of two crashes in each seed.

mod client;
mod counts;
mod disk;
mod encode;
mod hear;
mod model;
mod observe;
mod operation;
mod random;
mod symptoms;
mod topology;
mod wish;
mod world;

use std::io::Write as _;
use std::ops::RangeInclusive;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use counts::Counts;
use world::{Plan, World};

/// Runs one seed; what it counted, or what it found.
fn run(plan: Plan) -> Result<Counts, String> {
    let mut world = World::new(plan);
    match panic::catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => Ok(std::mem::take(&mut world.model.counts)),
        Err(cause) => {
            let what = (cause.downcast_ref::<String>().cloned())
                .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            let steps: Vec<&str> = world.last_steps().map(String::as_str).collect();
            let seed = plan.seed;
            Err(format!(
                "seed {seed}: {what}\nthe last steps:\n{}",
                steps.join("\n")
            ))
        }
    }
}

/// Runs seeds on as many threads as there are cores; what they counted, or what the smallest seed
/// that failed found.
fn run_all(
    seeds: RangeInclusive<u64>,
    plan: &(impl Fn(u64) -> Plan + Sync),
) -> Result<Counts, String> {
    let next = AtomicU64::new(*seeds.start());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut counts, mut failure) = (Counts::default(), None);
    thread::scope(|scope| {
        let worker = || {
            let (mut counts, mut failure) = (Counts::default(), None);
            while failure.is_none() {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed > *seeds.end() {
                    break;
                }
                match run(plan(seed)) {
                    Ok(it) => counts.merge(&it),
                    Err(what) if number("LEVERET_GO_ON") == Some(1) => {
                        let what = what.lines().next().unwrap_or_default();
                        let _ = writeln!(std::io::stdout().lock(), "{what}");
                    }
                    Err(what) => {
                        // The others stop, too.
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        failure = Some((seed, what));
                    }
                }
            }
            (counts, failure)
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let (counted, failed) = worker.join().expect("a worker catches what a run does");
            counts.merge(&counted);
            failure = [failure.take(), failed].into_iter().flatten().min();
        }
    });
    match failure {
        Some((_, what)) => Err(what),
        None => Ok(counts),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Operations of clients in one run.
const OPERATIONS: u64 = 2000;

/// The plan of one seed.
fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        operations: OPERATIONS,
        restarts: number("LEVERET_RESTARTS").unwrap_or(2),
        has_small_segments: number("LEVERET_LARGE_SEGMENTS") != Some(1),
        is_traced: false,
    }
}

/// What must have happened at least once in a thousand seeds.
const SHOULD_HAPPEN: [&str; 77] = [
    "audits",
    "audits cut off by a damaged body",
    "blocked",
    "confirmed",
    "commits",
    "damaged octets kept aside at the end",
    "damaged octets kept aside at the start",
    "damaged: a header of a segment",
    "damaged: a large body",
    "damaged: a mark",
    "damaged: a permission",
    "damaged: a settlement",
    "damaged: a table",
    "damaged: an index",
    "damaged: both headers of a segment",
    "damaged: padding",
    "damaged: the body of a message",
    "damaged: the checkpoint",
    "damaged: the head of a message",
    "ended by a failed disk",
    "ended between slices of bindings",
    "ended during an audit",
    "fault: EINTR",
    "fault: EIO, create",
    "fault: EIO, read",
    "fault: EIO, rename",
    "fault: EIO, sync of a segment",
    "fault: EIO, sync of definitions",
    "fault: EIO, sync of the directory",
    "fault: EIO, write of a checkpoint",
    "fault: EIO, write of a segment",
    "fault: EIO, write of an index",
    "fault: EIO, write of definitions",
    "fault: ENOSPC, checkpoint",
    "fault: ENOSPC, definitions",
    "fault: ENOSPC, index",
    "fault: ENOSPC, segment",
    "fault: short read",
    "fault: short write of a segment",
    "fault: short write of definitions",
    "kills",
    "large bodies back after a restart",
    "large bodies published",
    "large bodies read",
    "large bodies removed",
    "losses told",
    "lost by damage",
    "lost: a large body",
    "lost: a segment",
    "lost: an index",
    "lost: the checkpoint",
    "lost: the spare checkpoint",
    "not recovered",
    "power losses",
    "power lost during a flush",
    "recovered as promised",
    "recovered without promise",
    "start: checkpoint read",
    "start: copy of the checkpoint used",
    "start: damage kept aside",
    "start: damage told",
    "start: free segment found",
    "start: index made anew",
    "start: index used",
    "start: large body found",
    "start: large body missing",
    "start: rewritten segment found",
    "start: segment missing",
    "start: segment read by records",
    "start: segment set aside",
    "start: superfluous body removed",
    "start: table does not check",
    "start: torn definitions cut off",
    "start: torn end cut off",
    "start: unfinished group cut off",
    "starts cut off by a fault",
    "starts on a full disk",
];

fn print(counts: &Counts) {
    let mut out = std::io::stdout().lock();
    for (what, count) in counts.iter() {
        let _ = writeln!(out, "{count:>10} {what}");
    }
}

#[test]
fn a_thousand_lives_keep_every_promise() {
    if let Some(seed) = number("LEVERET_SEED") {
        // What the server says about itself goes between the steps.
        hear::listen(true);
        let counts = run(Plan {
            is_traced: true,
            ..plan(seed)
        })
        .unwrap_or_else(|what| panic!("{what}"));
        print(&counts);
        return;
    }
    let seeds = match (number("LEVERET_SIM_SEED"), number("LEVERET_SIM_STEPS")) {
        (Some(first), steps) => first..=first + steps.unwrap_or(0) / OPERATIONS,
        _ => 1..=number("LEVERET_SEEDS").unwrap_or(1000),
    };
    hear::listen(false);
    let counts = run_all(seeds, &plan).unwrap_or_else(|what| panic!("{what}"));
    print(&counts);
    // Fewer seeds, or none that crash, cannot be asked for all of it.
    let is_whole = [
        "LEVERET_SIM_SEED",
        "LEVERET_SEEDS",
        "LEVERET_RESTARTS",
        "LEVERET_GO_ON",
    ]
    .iter()
    .all(|name| number(name).is_none());
    if is_whole {
        for what in SHOULD_HAPPEN {
            assert!(
                counts.get(what) > 0,
                "'{what}' has not happened in any seed"
            );
        }
    }
}

/// Mistakes that are planted are found within so many seeds, which find nothing without them.
#[cfg(feature = "planted-faults")]
#[test]
fn planted_faults_are_found() {
    use leveret::planted::{Fault, Finder, plant};
    const SEEDS: u64 = 100;
    // With one that is not found, the others are looked at all the same.
    let mut missed = Vec::new();
    for fault in Fault::of(Finder::Simulation) {
        plant(Some(fault));
        let found = (1..=SEEDS).find_map(|seed| Some((seed, run(plan(seed)).err()?)));
        plant(None);
        let Some((seed, what)) = found else {
            missed.push(fault);
            continue;
        };
        let what = what.lines().next().unwrap_or_default();
        let _ = writeln!(std::io::stdout().lock(), "{fault:?}: {what}");
        assert!(what.starts_with(&format!("seed {seed}: ")));
    }
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
