//! The helpers' jobs, run and answered at any later step.

use std::collections::VecDeque;

use leveret::storage::{DiskFault, FlushJob, Helpers, KeeperJob};

use super::{Storage, World};
use crate::counts;

/// A call of the disk that no run comes to.
const NEVER: u64 = 1 << 60;

/// The helpers' jobs that wait to be run.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    pub(super) flush: VecDeque<FlushJob<Storage>>,
    pub(super) keep: VecDeque<KeeperJob<Storage>>,
}

impl Helpers<Storage> for Jobs {
    fn flush(&mut self, job: FlushJob<Storage>) {
        self.flush.push_back(job);
    }

    fn keep(&mut self, job: KeeperJob<Storage>) {
        self.keep.push_back(job);
    }
}

impl World {
    pub(super) fn run_flush(&mut self) {
        if let Some(job) = self.jobs.flush.pop_front() {
            self.note(|| "flush".to_owned());
            let loses_power = self.loses_power();
            if loses_power {
                // Some call does nothing any more, and what was written before is not synced.
                let call = *self.random.pick(&[1, 2, 2, 2, 2, 3, 4]);
                self.storage.fail(call, DiskFault::Eio);
            }
            let answer = job.run(&self.storage);
            let is_cut = self.count_hits() && loses_power;
            if loses_power {
                self.storage.fail(NEVER, DiskFault::Eio);
            }
            if is_cut {
                self.model.counts.add("power lost during a flush");
                (self.is_over, self.is_power_lost) = (true, true);
            }
            self.flush_answers.push_back(answer);
        }
    }

    /// Whether the power goes during this flush: more often when the octets of a large transaction
    /// are among those that are written.
    fn loses_power(&mut self) -> bool {
        let commits = self.model.counts.get("large commits");
        let before = std::mem::replace(&mut self.commits_flushed, commits);
        if self.plan.restarts == 0 || self.is_disk_failing || self.is_over {
            return false;
        }
        let one_in = if commits > before { 3 } else { 2000 };
        self.random.one_in(one_in)
    }

    pub(super) fn run_keeper(&mut self) {
        if let Some(job) = self.jobs.keep.pop_front() {
            let is_failing = self.is_disk_failing;
            let line = if self.plan.is_traced || is_failing {
                format!("{job:?}")
            } else {
                String::new()
            };
            self.note(|| format!("keeper {}", line.chars().take(90).collect::<String>()));
            let answer = job.run(&self.storage);
            let failed = self.count_hits();
            let is_read = ["Read", "LargeRead", "Populate"]
                .iter()
                .any(|it| line.starts_with(&format!("KeeperJob({it}")));
            if failed && is_read {
                // What cannot be read counts as damage, which another run looks at: here the
                // server does not live to hear of it.
                self.model.counts.add("unreadable");
                self.is_over = true;
            }
            self.keep_answers.push_back(answer);
        }
    }

    /// Counts the calls that met a fault, by kind; whether one failed for good.
    pub(super) fn count_hits(&mut self) -> bool {
        let mut has_failed = false;
        for hit in self.storage.take_hits() {
            has_failed |= hit.fault == DiskFault::Eio;
            self.note(|| format!("{:?} in {} of '{}'", hit.fault, hit.call, hit.name));
            if let Some(name) = counts::name_of(&hit) {
                self.model.counts.add(name);
            }
        }
        has_failed
    }

    pub(super) fn answer(&mut self) {
        if self.is_over {
            self.keep_answers.clear();
            self.flush_answers.clear();
            return;
        }
        let first_flush = self.random.one_in(2);
        let answer = if first_flush {
            self.flush_answers
                .pop_front()
                .or_else(|| self.keep_answers.pop_front())
        } else {
            self.keep_answers
                .pop_front()
                .or_else(|| self.flush_answers.pop_front())
        };
        if let Some(answer) = answer {
            self.note(|| format!("answer {answer:?}").chars().take(160).collect());
            self.model.begin_call();
            self.engine.answer(self.now, answer);
            self.after_call();
        }
    }
}
