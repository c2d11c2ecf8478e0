//! What workers share with the thread that watches them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::clock::Clock;

/// What workers tell the thread that watches them, and it them. Counters only grow.
#[derive(Debug)]
pub(in crate::perf) struct Shared {
    /// The run's clock.
    pub(in crate::perf) clock: Clock,
    /// Messages handed to the kernel in full or in part.
    pub(in crate::perf) published: AtomicU64,
    /// Publishes that the broker acknowledged.
    pub(in crate::perf) confirmed: AtomicU64,
    /// Publishes that the broker refused.
    pub(in crate::perf) nacked: AtomicU64,
    /// Mandatory messages that reached no queue.
    pub(in crate::perf) returned: AtomicU64,
    /// Deliveries read in full.
    pub(in crate::perf) delivered: AtomicU64,
    /// Times that the broker paused a publisher.
    pub(in crate::perf) blocked: AtomicU64,
    /// When the last message, delivery or confirm moved, in microseconds of the clock.
    pub(in crate::perf) last_us: AtomicU64,
    /// Producers send no further message.
    pub(in crate::perf) stop: AtomicBool,
    /// Workers say goodbye and end.
    pub(in crate::perf) finish: AtomicBool,
    /// A worker has failed; its result says why.
    pub(in crate::perf) failed: AtomicBool,
}

impl Shared {
    /// All counters at zero, the clock at zero now.
    pub(in crate::perf) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Shared {
            clock: Clock::start(),
            published: zero(),
            confirmed: zero(),
            nacked: zero(),
            returned: zero(),
            delivered: zero(),
            blocked: zero(),
            last_us: zero(),
            stop: AtomicBool::new(false),
            finish: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }
}

/// What holds for all peers of a run.
#[derive(Clone, Debug)]
pub(in crate::perf) struct Plan {
    /// Octets of one write.
    pub(in crate::perf) burst_octets: usize,
    /// Octets of one read.
    pub(in crate::perf) inbox_octets: usize,
    /// Octets of a body; consumers check it.
    pub(in crate::perf) size: Option<usize>,
    /// Whether stamps are looked at, for order, loss and latency.
    pub(in crate::perf) stamped: bool,
    /// Never sleep in poll.
    pub(in crate::perf) spin: bool,
    /// Times are recorded of messages due within, in microseconds of the clock.
    pub(in crate::perf) measured_us: Range<u64>,
    /// Deliveries that may be outstanding before producers pause; 0 for no bound.
    pub(in crate::perf) in_flight_max: u64,
    /// Deliveries that each publish causes.
    pub(in crate::perf) copies: u64,
    /// Seconds between heartbeats; 0 for none.
    pub(in crate::perf) heartbeat_s: u16,
    /// Whether peers speak AMQP: they say goodbye. The relay's do not.
    pub(in crate::perf) amqp: bool,
    /// Core to run on.
    pub(in crate::perf) pin: Option<usize>,
}
