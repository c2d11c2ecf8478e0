//! A connection that publishes: which of its messages are due, and how many may go out.

use super::check::ConfirmWindow;
use super::template::Template;
use std::ops::Range;

/// When the messages of a producer are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When the first is due, in microseconds of the clock.
    pub(super) start_us: u64,
    /// Messages in `per_us` microseconds.
    pub(super) messages: u64,
    /// See `messages`; not 0.
    pub(super) per_us: u64,
}

impl Schedule {
    /// When the message `index` is due.
    #[inline]
    pub(super) fn due_us(&self, index: u64) -> u64 {
        self.start_us + index * self.per_us / self.messages
    }

    /// How many messages are due at `now_us`.
    #[inline]
    pub(super) fn due_count(&self, now_us: u64) -> u64 {
        if now_us < self.start_us {
            return 0;
        }
        (now_us - self.start_us) * self.messages / self.per_us + 1
    }
}

/// A publishing connection.
#[derive(Debug)]
pub(super) struct Producer {
    /// Number in the stamps.
    pub(super) number: u16,
    /// The messages.
    pub(super) template: Template,
    /// Present when confirms are on.
    pub(super) window: Option<ConfirmWindow>,
    /// Present when there is a rate.
    pub(super) schedule: Option<Schedule>,
    /// Messages that it sends at most.
    pub(super) quota: u64,
    /// Sequence of its first message.
    pub(super) first_sequence: u64,
    /// Messages sent.
    pub(super) sent: u64,
    /// Octets of the template that are taken and not yet written.
    pub(super) pending: Range<usize>,
}

impl Producer {
    /// Messages that it may send now.
    #[inline]
    pub(super) fn room(&self, now_us: u64, allowance: u64) -> u64 {
        let mut room = (self.quota - self.sent).min(allowance);
        if let Some(window) = &self.window {
            room = room.min(window.room());
        }
        if let Some(schedule) = &self.schedule {
            let due = if now_us == u64::MAX {
                u64::MAX
            } else {
                schedule.due_count(now_us)
            };
            room = room.min(due - self.sent.min(due));
        }
        room
    }

    /// Takes up to `room` messages out of the template for one write and notes when they were due.
    #[inline]
    pub(super) fn take(&mut self, room: u64, burst_octets: usize, now_us: u64) -> u64 {
        let (first, sent, schedule) = (self.first_sequence, self.sent, self.schedule);
        let due_us = move |sequence: u64| match &schedule {
            Some(schedule) => schedule.due_us(sequence - first),
            None => now_us,
        };
        let (taken, range) =
            self.template
                .take(room, burst_octets, self.number, first + sent, due_us);
        if let Some(window) = &mut self.window {
            for sequence in first + sent..first + sent + taken {
                window.sent(due_us(sequence));
            }
        }
        self.pending = range;
        self.sent += taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_counts_exactly_what_is_due() {
        for (messages, per_us) in [(1, 1_000), (3, 1_000_000), (400_000, 1_000_000), (7, 3)] {
            let schedule = Schedule {
                start_us: 50,
                messages,
                per_us,
            };
            assert_eq!(schedule.due_count(49), 0);
            for now_us in 50..5_000 {
                let due = schedule.due_count(now_us);
                assert!(
                    schedule.due_us(due - 1) <= now_us,
                    "{messages}/{per_us} at {now_us}"
                );
                // Above one a microsecond several share one.
                let next = due + 1 + messages / per_us;
                assert!(
                    schedule.due_us(next) > now_us,
                    "{messages}/{per_us} at {now_us}"
                );
            }
        }
    }
}
