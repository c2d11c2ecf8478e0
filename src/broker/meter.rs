//! How fast something grows: totals that are looked at every few seconds.
//!
//! Counting a message costs one addition; what the rates cost is paid by whoever samples.

use crate::clock::Now;

/// The rates of `N` totals, from one look to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meter<const N: usize> {
    last: [u64; N],
    rates: [f32; N],
    at_us: u64,
    moved_ms: u64,
}

impl<const N: usize> Meter<N> {
    /// A meter that counts from `totals` on.
    pub fn start(now: Now, totals: [u64; N]) -> Self {
        Meter {
            last: totals,
            rates: [0.0; N],
            at_us: now.monotonic_us,
            moved_ms: now.wall_ms,
        }
    }

    /// Looks at the totals; says whether any has grown since the last look.
    ///
    /// * `since`: nothing grew before this moment, so that a long sleep does not thin a rate.
    pub fn sample(&mut self, now: Now, since: Now, totals: [u64; N]) -> bool {
        let last_us = self.at_us.max(since.monotonic_us);
        let elapsed_us = now.monotonic_us.saturating_sub(last_us);
        if elapsed_us == 0 {
            return self.is_moving();
        }
        let has_moved = totals != self.last;
        for ((rate, last), total) in self.rates.iter_mut().zip(self.last).zip(totals) {
            *rate = a_second(total.saturating_sub(last), elapsed_us);
        }
        (self.last, self.at_us) = (totals, now.monotonic_us);
        if has_moved {
            self.moved_ms = now.wall_ms;
        }
        has_moved
    }

    /// A second, each total's growth between the last two looks.
    pub fn rates(&self) -> [f32; N] {
        self.rates
    }

    /// Whether anything grew between the last two looks.
    pub fn is_moving(&self) -> bool {
        self.rates.iter().any(|&rate| rate > 0.0)
    }

    /// When growth was seen last, in milliseconds since 1970.
    pub fn moved_ms(&self) -> u64 {
        self.moved_ms
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate of more than 2^24 a second is not read to its last digit"
)]
fn a_second(growth: u64, elapsed_us: u64) -> f32 {
    (growth as f64 * 1e6 / elapsed_us as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            monotonic_us: seconds * 1_000_000,
            wall_ms: 1_000_000 + seconds * 1000,
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these numbers are exact")]
    fn a_rate_is_growth_by_time_and_ends_when_growth_does() {
        let mut meter = Meter::start(at(0), [10, 0]);
        assert!(meter.sample(at(5), at(0), [60, 0]));
        assert_eq!(meter.rates(), [10.0, 0.0]);
        assert!(meter.sample(at(5), at(0), [99, 0]), "no time has gone by");
        assert_eq!(meter.rates(), [10.0, 0.0]);
        assert!(!meter.sample(at(10), at(5), [60, 0]));
        assert_eq!((meter.rates(), meter.moved_ms()), ([0.0, 0.0], 1_005_000));
        assert!(meter.sample(at(100), at(96), [60, 2]));
        assert_eq!(meter.rates(), [0.0, 0.5]);
    }
}
