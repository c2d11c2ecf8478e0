//! Time as a value. This module is the only reader of the operating system's clocks; everything
//! else is handed a [`Now`], so that the engine is a function of what it is given and the
//! simulation can run it under a virtual clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks, taken once a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Microseconds since the process started. Never goes back; every timer uses it.
    pub monotonic_us: u64,
    /// Milliseconds since 1970-01-01 UTC. May jump; only shown to people and stored in records.
    pub wall_ms: u64,
}

impl Now {
    /// The moment `delay_ms` milliseconds from now, as a [`Deadline`].
    pub fn after_ms(self, delay_ms: u64) -> Deadline {
        self.after_us(delay_ms.saturating_mul(1000))
    }

    /// The moment `delay_us` microseconds from now, as a [`Deadline`].
    pub fn after_us(self, delay_us: u64) -> Deadline {
        Deadline(self.monotonic_us.saturating_add(delay_us))
    }
}

/// A moment on the monotonic clock, in microseconds since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u64);

impl Deadline {
    /// Whether the moment has come.
    pub fn is_due(self, now: Now) -> bool {
        now.monotonic_us >= self.0
    }

    /// How long from `now` until the moment; zero when it has come.
    pub fn wait(self, now: Now) -> Duration {
        Duration::from_micros(self.0.saturating_sub(now.monotonic_us))
    }
}

/// The operating system's clocks. One instance lives in the reactor; helpers' threads do not tell
/// time to the broker.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic part starts at zero now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clocks"
    )]
    pub fn start() -> Self {
        Clock {
            start: Instant::now(),
        }
    }

    /// Reads both clocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clocks"
    )]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            monotonic_us: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
