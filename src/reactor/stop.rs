//! The end of the server: clients are told, and what the storage has begun is finished.

use super::Reactor;
use crate::clock::Now;
use crate::storage::Storage;

/// How long clients may take to answer the last `connection.close`, in milliseconds.
const FAREWELL_MS: u64 = 300;

impl<S: Storage> Reactor<S> {
    pub(super) fn stop(&mut self, now: Now) {
        log::info!("stopping");
        for listener in &mut self.listeners {
            let _ = self.poll.registry().deregister(listener);
        }
        self.listeners.clear();
        self.is_accepting = false;
        self.http.stop(self.poll.registry());
        self.engine.stop(now);
        self.stop_at = Some(now.after_ms(FAREWELL_MS));
    }

    /// Whether everyone has gone, or was given the time to.
    pub(super) fn has_stopped(&mut self, now: Now) -> bool {
        let is_late = self.stop_at.is_some_and(|at| at.is_due(now));
        let is_quiet = self.peers.is_empty() && self.http.has_answered();
        if !is_quiet && !is_late {
            return false;
        }
        let slots: Vec<u32> = self.peers.iter().map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            self.drop_peer(now, slot);
        }
        let Some(rest_at) = self.rest_at else {
            // Nobody asks for anything any more: the next start shall have little to do.
            self.engine.store().checkpoint();
            self.rest_at = Some(now.after_ms(self.config.limits.stop_timeout_ms));
            self.stop_at = Some(now.after_ms(1));
            return false;
        };
        if self.engine.store().is_at_rest() {
            return true;
        }
        // A checkpoint is made in steps, one a turn. One that takes longer is left; a flush is
        // waited for.
        self.stop_at = Some(now.after_ms(1));
        rest_at.is_due(now) && self.engine.is_flushed()
    }
}
