//! Alarms: the disk or the memory runs out, and publishers are stopped until there is room again.

use super::{ConnectionId, Engine};
use crate::clock::Now;
use crate::storage::Storage;

/// What is on.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// Why publishers are stopped, as `connection.blocked` words it.
    pub(super) reason: Option<&'static str>,
    pub(super) is_disk_low: bool,
    pub(super) is_memory_high: bool,
    /// Octets at which the memory alarm is raised.
    pub(super) memory_limit_octets: Option<u64>,
}

impl<S: Storage> Engine<S> {
    /// The disk is (nearly) full, or no longer.
    pub(super) fn disk_alarm(&mut self, now: Now, is_on: bool) {
        self.alarms.is_disk_low = is_on;
        self.alarms_changed(now, "disk", is_on);
    }

    /// The process uses more memory than it should, or no longer.
    ///
    /// * `limit_octets`: where the alarm is raised, for the lists.
    pub fn memory_alarm(&mut self, now: Now, is_on: bool, limit_octets: Option<u64>) {
        self.alarms.memory_limit_octets = limit_octets;
        if is_on != self.alarms.is_memory_high {
            self.alarms.is_memory_high = is_on;
            self.alarms_changed(now, "memory", is_on);
        }
    }

    /// Tells publishers that they are stopped and why, or that they may go on.
    fn alarms_changed(&mut self, now: Now, what: &str, is_on: bool) {
        self.alarms.reason = match (self.alarms.is_memory_high, self.alarms.is_disk_low) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        };
        if is_on {
            log::warn!(
                "{what} resource limit alarm set. Publishers will be blocked until this alarm clears"
            );
        } else {
            log::warn!("{what} resource limit alarm cleared");
        }
        let ids: Vec<ConnectionId> = self.ids().collect();
        for id in ids {
            let reason = self.alarms.reason;
            self.with_connection(now, id, |connection, turn| {
                connection.set_blocked(reason, turn);
            });
        }
        if self.alarms.reason.is_none() {
            self.resume_paused();
        }
    }
}
