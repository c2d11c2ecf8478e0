//! A connection that commits transactions or declares durable queues beside the messages of a run,
//! in the worker's own thread: what the others then wait for is the broker, not a second client
//! that wants the core too.
//!
//! A round is a persistent message in a transaction, or a durable queue declared and deleted. The
//! next one begins when it is due and the last one is over; its time counts from when it was due.

use super::client::CHANNEL;
use super::histogram::Histogram;
use super::producer::Schedule;
use crate::wire::content::{PERSISTENT, PropertyList};
use crate::wire::method::{basic, queue, tx};
use crate::wire::{Method, ShortString, encode};

/// What a setter does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetterKind {
    /// Commits.
    Tx,
    /// Declares and deletes.
    Queue,
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    Commit,
    Declare,
    Delete,
}

/// One such connection.
#[derive(Debug)]
pub(super) struct Setter {
    kind: SetterKind,
    /// Frames that a round begins with.
    first: Vec<u8>,
    /// The frame that deletes what was declared.
    delete: Vec<u8>,
    /// Absent when a round follows the other at once.
    schedule: Option<Schedule>,
    /// Rounds begun.
    rounds: u64,
    step: Step,
    /// When the round under way was due, in microseconds of the clock.
    due_us: u64,
}

impl Setter {
    /// A setter that has done nothing yet.
    ///
    /// * `queue`: what it declares, or commits to; then it is there, and the channel in
    ///   transaction mode.
    /// * `size`: octets of a committed body.
    pub(super) fn new(
        kind: SetterKind,
        queue: ShortString,
        size: usize,
        frame_max: u32,
        schedule: Option<Schedule>,
    ) -> Self {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        match kind {
            SetterKind::Tx => {
                append_publish(&mut first, queue, size, frame_max);
                encode::method_frame(&mut first, CHANNEL, &tx::Commit {});
            }
            SetterKind::Queue => {
                encode::method_frame(&mut first, CHANNEL, &declare_durable(queue));
                encode::method_frame(&mut last, CHANNEL, &delete(queue));
            }
        }
        Setter {
            kind,
            first,
            delete: last,
            schedule,
            rounds: 0,
            step: Step::Idle,
            due_us: 0,
        }
    }

    /// When the next round is due in microseconds of the clock; `None` while one is under way.
    pub(super) fn next_due_us(&self) -> Option<u64> {
        (self.step == Step::Idle).then(|| self.schedule.map_or(0, |s| s.due_us(self.rounds)))
    }

    /// Begins a round if it is due: appends its first frames and returns true.
    pub(super) fn begin(&mut self, now_us: u64, outbox: &mut Vec<u8>) -> bool {
        let Some(due_us) = self.next_due_us().filter(|&due_us| due_us <= now_us) else {
            return false;
        };
        self.due_us = if self.schedule.is_some() {
            due_us
        } else {
            now_us
        };
        self.rounds += 1;
        outbox.extend_from_slice(&self.first);
        self.step = match self.kind {
            SetterKind::Tx => Step::Commit,
            SetterKind::Queue => Step::Declare,
        };
        true
    }

    /// Takes the answer of its step: appends the next one's frame, or records the round.
    ///
    /// Returns false when `method` is not what it waits for.
    pub(super) fn answered(
        &mut self,
        method: &Method,
        outbox: &mut Vec<u8>,
        now_us: u64,
        rounds_us: &mut Histogram,
    ) -> bool {
        match (self.step, method) {
            (Step::Declare, Method::QueueDeclareOk(_)) => {
                outbox.extend_from_slice(&self.delete);
                self.step = Step::Delete;
            }
            (Step::Commit, Method::TxCommitOk(_)) | (Step::Delete, Method::QueueDeleteOk(_)) => {
                rounds_us.record(now_us.saturating_sub(self.due_us));
                self.step = Step::Idle;
            }
            _ => return false,
        }
        true
    }
}

/// Appends a persistent message to the queue `routing_key` by the default exchange.
pub(super) fn append_publish(
    outbox: &mut Vec<u8>,
    routing_key: ShortString,
    size: usize,
    frame_max: u32,
) {
    let properties = PropertyList {
        delivery_mode: Some(PERSISTENT),
        ..PropertyList::default()
    };
    let publish = basic::Publish {
        routing_key,
        ..basic::Publish::default()
    };
    let body = vec![0; size];
    let properties = properties.to_octets();
    encode::content(outbox, CHANNEL, &publish, &properties, &body, frame_max);
}

/// The method that declares a durable queue.
pub(super) fn declare_durable(queue: ShortString) -> queue::Declare {
    queue::Declare {
        queue,
        durable: true,
        ..queue::Declare::default()
    }
}

/// The method that deletes a queue.
pub(super) fn delete(queue: ShortString) -> queue::Delete {
    queue::Delete {
        queue,
        ..queue::Delete::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::short;
    use super::*;

    #[test]
    fn a_round_begins_when_it_is_due_and_the_last_is_over() {
        let schedule = Schedule {
            start_us: 100,
            messages: 1,
            per_us: 1_000,
        };
        let name = short("q").expect("short enough");
        let mut setter = Setter::new(SetterKind::Queue, name, 16, 4_096, Some(schedule));
        let (mut outbox, mut rounds_us) = (Vec::new(), Histogram::new());
        assert!(!setter.begin(99, &mut outbox));
        assert!(setter.begin(150, &mut outbox));
        assert_eq!(setter.next_due_us(), None);
        assert!(!setter.begin(5_000, &mut outbox), "one is under way");
        let declared = outbox.len();
        let commit_ok = Method::TxCommitOk(tx::CommitOk {});
        assert!(!setter.answered(&commit_ok, &mut outbox, 200, &mut rounds_us));
        let declare_ok = Method::QueueDeclareOk(queue::DeclareOk::default());
        assert!(setter.answered(&declare_ok, &mut outbox, 200, &mut rounds_us));
        assert!(outbox.len() > declared, "the deletion follows");
        let delete_ok = Method::QueueDeleteOk(queue::DeleteOk::default());
        assert!(setter.answered(&delete_ok, &mut outbox, 2_300, &mut rounds_us));
        assert_eq!(rounds_us.count(), 1);
        assert!(rounds_us.percentile(50.0) >= 2_200 - 20, "{rounds_us:?}");
        assert_eq!(
            setter.next_due_us(),
            Some(1_100),
            "late, so it is due at once"
        );
    }
}
