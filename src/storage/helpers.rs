//! The two threads that run jobs.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use super::files::Storage;
use super::jobs::{Answer, FlushJob, Helpers, KeeperJob};

/// Runs flush jobs on one thread and keeper jobs on another. Dropping it lets both finish what they
/// were given and waits for them.
#[derive(Debug)]
pub struct HelperThreads<S: Storage> {
    flusher: Option<Sender<FlushJob<S>>>,
    keeper: Option<Sender<KeeperJob<S>>>,
    answers: Receiver<Answer<S>>,
    threads: Vec<JoinHandle<()>>,
}

impl<S: Storage> HelperThreads<S> {
    /// Starts the threads. `wake` is called, on their threads, after each answer.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        storage: &S,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<HelperThreads<S>> {
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let (answer, answers) = mpsc::channel();
        let (flusher, flush_jobs) = mpsc::channel::<FlushJob<S>>();
        let (keeper, keeper_jobs) = mpsc::channel::<KeeperJob<S>>();
        let threads = vec![
            spawn(
                "flusher",
                storage,
                flush_jobs,
                &answer,
                &wake,
                FlushJob::run,
            )?,
            spawn(
                "keeper",
                storage,
                keeper_jobs,
                &answer,
                &wake,
                KeeperJob::run,
            )?,
        ];
        Ok(HelperThreads {
            flusher: Some(flusher),
            keeper: Some(keeper),
            answers,
            threads,
        })
    }

    /// The next answer, if one has come.
    pub fn try_answer(&self) -> Option<Answer<S>> {
        self.answers.try_recv().ok()
    }

    /// Waits for the next answer, as the poll does for the loop.
    #[cfg(test)]
    pub(super) fn wait_answer(&self, timeout: std::time::Duration) -> Option<Answer<S>> {
        self.answers.recv_timeout(timeout).ok()
    }
}

fn spawn<S: Storage, J: Send + 'static>(
    name: &str,
    storage: &S,
    jobs: Receiver<J>,
    answer: &Sender<Answer<S>>,
    wake: &Arc<dyn Fn() + Send + Sync>,
    run: impl Fn(J, &S) -> Answer<S> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let (storage, answer, wake) = (storage.clone(), answer.clone(), Arc::clone(wake));
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        while let Ok(job) = jobs.recv() {
            if answer.send(run(job, &storage)).is_err() {
                return;
            }
            wake();
        }
    })
}

impl<S: Storage> Helpers<S> for HelperThreads<S> {
    fn flush(&mut self, job: FlushJob<S>) {
        if let Some(flusher) = &self.flusher {
            // A thread that is gone gives no answer; nothing is confirmed then.
            let _ = flusher.send(job);
        }
    }

    fn keep(&mut self, job: KeeperJob<S>) {
        if let Some(keeper) = &self.keeper {
            let _ = keeper.send(job);
        }
    }
}

impl<S: Storage> Drop for HelperThreads<S> {
    fn drop(&mut self) {
        self.flusher = None;
        self.keeper = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a helper thread panicked");
            }
        }
    }
}
