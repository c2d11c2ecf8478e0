//! Heartbeats (spec 4.2.7): any octets count as life, in both directions.
//!
//! The connection looks twice an interval: it sends a heartbeat when nothing else was sent since
//! the last look, and gives the peer up when nothing came for two whole intervals.

use crate::clock::{Deadline, Now};

/// Looks in a row without a sign of life at which the peer is given up: what came last came before
/// the look ahead of them, two intervals ago or more.
const SILENT_LOOKS: u8 = 4;

/// The heartbeat of one connection.
#[derive(Debug)]
pub(super) struct Heartbeat {
    half_interval_ms: u64,
    next_look: Deadline,
    has_received: bool,
    has_sent: bool,
    silent_looks: u8,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing to do.
    Fine,
    /// Nothing was sent for half an interval: send a heartbeat.
    Send,
    /// The peer is gone.
    Dead,
}

impl Heartbeat {
    /// Heartbeats every `interval_s` seconds; `None` when that is 0.
    pub(super) fn start(interval_s: u16, now: Now) -> Option<Self> {
        let half_interval_ms = u64::from(interval_s) * 500;
        (interval_s != 0).then(|| Heartbeat {
            half_interval_ms,
            next_look: now.after_ms(half_interval_ms),
            has_received: true,
            has_sent: false,
            silent_looks: 0,
        })
    }

    pub(super) fn received(&mut self) {
        self.has_received = true;
    }

    pub(super) fn sent(&mut self) {
        self.has_sent = true;
    }

    pub(super) fn next_look(&self) -> Deadline {
        self.next_look
    }

    /// Looks, when it is time. `is_deaf`: we do not read from the peer at the moment, so its
    /// silence says nothing.
    pub(super) fn look(&mut self, now: Now, is_deaf: bool) -> Look {
        if !self.next_look.is_due(now) {
            return Look::Fine;
        }
        self.next_look = now.after_ms(self.half_interval_ms);
        if std::mem::take(&mut self.has_received) || is_deaf {
            self.silent_looks = 0;
        } else {
            self.silent_looks += 1;
        }
        let has_sent = std::mem::take(&mut self.has_sent);
        if self.silent_looks >= SILENT_LOOKS {
            Look::Dead
        } else if has_sent {
            Look::Fine
        } else {
            Look::Send
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_silent_intervals_are_death_and_half_a_silent_one_is_a_heartbeat() {
        let at = |ms: u64| Now {
            monotonic_us: ms * 1000,
            wall_ms: 0,
        };
        let mut heartbeat = Heartbeat::start(1, at(0)).expect("an interval");
        assert_eq!(heartbeat.look(at(499), false), Look::Fine);
        assert_eq!(heartbeat.look(at(500), false), Look::Send);
        heartbeat.sent();
        assert_eq!(heartbeat.look(at(1000), false), Look::Fine);
        heartbeat.received();
        for ms in [1500, 2000, 2500, 3000] {
            assert_eq!(heartbeat.look(at(ms), false), Look::Send, "{ms}");
        }
        assert_eq!(heartbeat.look(at(3500), true), Look::Send);
        for ms in [4000, 4500, 5000] {
            assert_eq!(heartbeat.look(at(ms), false), Look::Send, "{ms}");
        }
        assert_eq!(heartbeat.look(at(5500), false), Look::Dead);
        assert!(Heartbeat::start(0, at(0)).is_none());
    }
}
