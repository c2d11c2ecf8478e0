//! What a worker brings home.

use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use crate::perf::check::{Findings, QueueCheck};
use crate::perf::histogram::Histogram;

/// What a worker brings home.
#[derive(Debug)]
pub(in crate::perf) struct Tally {
    /// From when a message was due to its delivery, in microseconds.
    pub(in crate::perf) end_to_end_us: Histogram,
    /// From when a message was due to its confirm, in microseconds.
    pub(in crate::perf) confirm_us: Histogram,
    /// From when a round beside the messages was due to its end, in microseconds.
    pub(in crate::perf) set_up_us: Histogram,
    /// What the checks found.
    pub(in crate::perf) findings: Findings,
    /// CPU time of the thread in nanoseconds.
    pub(in crate::perf) cpu_ns: u64,
    pub(super) queues: Vec<QueueCheck>,
    pub(super) counts: Counts,
    pub(super) closing: bool,
}

impl Tally {
    /// Both threads' tallies in one.
    pub(in crate::perf) fn merged(mut self, other: &Tally) -> Self {
        self.end_to_end_us.merge(&other.end_to_end_us);
        self.confirm_us.merge(&other.confirm_us);
        self.set_up_us.merge(&other.set_up_us);
        self.findings.merge(&other.findings);
        self.cpu_ns += other.cpu_ns;
        self
    }
}

/// What happened since the counters were last published.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) confirmed: u64,
    pub(super) nacked: u64,
    pub(super) returned: u64,
    pub(super) delivered: u64,
    pub(super) blocked: u64,
}

impl Counts {
    /// Publishes what happened since the last call.
    pub(super) fn flush(&mut self, shared: &Shared, now_us: u64) {
        let mut moved = 0;
        for (count, counter) in [
            (self.published, &shared.published),
            (self.confirmed, &shared.confirmed),
            (self.nacked, &shared.nacked),
            (self.returned, &shared.returned),
            (self.delivered, &shared.delivered),
            (self.blocked, &shared.blocked),
        ] {
            if count != 0 {
                counter.fetch_add(count, Relaxed);
                moved += count;
            }
        }
        if moved != 0 {
            shared.last_us.store(now_us, Relaxed);
            *self = Counts::default();
        }
    }
}
