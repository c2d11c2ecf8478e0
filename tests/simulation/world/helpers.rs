//! The helpers' jobs, run and answered at any later step.

use std::collections::VecDeque;

use leveret::storage::{DiskFault, FlushJob, Helpers, KeeperJob};

use super::{Storage, World};
use crate::counts;

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
            let answer = job.run(&self.storage);
            self.count_hits();
            self.flush_answers.push_back(answer);
        }
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
