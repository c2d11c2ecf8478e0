//! Publisher confirms: which publishes of a channel still wait for the disk.
//!
//! Confirms go out in the order of publishing and always cover a contiguous run of tags, so
//! `multiple` is never ambiguous. A publish that needs no disk waits for the ones before it.

use std::collections::VecDeque;

use super::channel::Mode;
use super::{Answer, Broker, Exception, Outcome};

/// Numbers the batches in which the log goes to stable storage; what was appended is safe when its
/// batch is flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Batch(pub u64);

/// The unconfirmed publishes of one channel, as runs that wait for the same batch.
#[derive(Debug, Default)]
pub struct ConfirmWindow {
    /// Tag of the last publish; the first one has tag 1.
    published: u64,
    /// Everything up to this tag was confirmed to the client.
    confirmed: u64,
    /// Everything up to this tag may be confirmed.
    confirmable: u64,
    pending: VecDeque<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    last_tag: u64,
    batch: Batch,
}

impl ConfirmWindow {
    /// Notes a publish that is safe when `batch` is flushed, or at once.
    #[inline]
    pub fn publish(&mut self, batch: Option<Batch>) {
        self.published += 1;
        let last_tag = self.published;
        match (self.pending.back_mut(), batch) {
            (None, None) => self.confirmable = last_tag,
            (Some(run), None) => run.last_tag = last_tag,
            (Some(run), Some(batch)) if run.batch == batch => run.last_tag = last_tag,
            (_, Some(batch)) => self.pending.push_back(Run { last_tag, batch }),
        }
    }

    /// Notes that everything up to `batch` is on stable storage.
    pub fn flushed(&mut self, batch: Batch) {
        while let Some(run) = self.pending.front().filter(|run| run.batch <= batch) {
            self.confirmable = run.last_tag;
            self.pending.pop_front();
        }
    }

    /// The confirm to send now: the last tag, and whether it stands for more than one publish.
    #[inline]
    pub fn take(&mut self) -> Option<(u64, bool)> {
        let first = self.confirmed + 1;
        (self.confirmable >= first).then(|| {
            self.confirmed = self.confirmable;
            (self.confirmable, self.confirmable > first)
        })
    }

    /// Whether publishes wait for the disk.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Publishes not yet confirmed.
    pub fn unconfirmed(&self) -> u64 {
        self.published - self.confirmed
    }
}

impl Broker {
    pub(super) fn confirm_select(&mut self, channel: u32) -> Result<Outcome, Exception> {
        let mode = &mut self.channels[channel as usize].mode;
        match mode {
            Mode::Tx(_) => {
                let text = "cannot switch from tx to confirm mode";
                return Err(Exception::precondition_failed(text));
            }
            Mode::Plain => *mode = Mode::Confirm(ConfirmWindow::default()),
            Mode::Confirm(_) => {}
        }
        Ok(Outcome::now(Answer::ConfirmSelectOk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_are_contiguous_and_wait_for_their_batch() {
        let mut window = ConfirmWindow::default();
        window.publish(None);
        assert_eq!(window.take(), Some((1, false)));
        for batch in [Some(Batch(5)), None, Some(Batch(5)), Some(Batch(6)), None] {
            window.publish(batch);
        }
        assert_eq!((window.take(), window.is_waiting()), (None, true));
        window.flushed(Batch(5));
        assert_eq!(window.take(), Some((4, true)));
        window.flushed(Batch(5));
        assert_eq!((window.take(), window.unconfirmed()), (None, 2));
        window.flushed(Batch(7));
        assert_eq!(
            (window.take(), window.is_waiting()),
            (Some((6, true)), false)
        );
    }
}
