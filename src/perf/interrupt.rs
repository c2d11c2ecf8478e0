//! Ctrl-C in the middle of a run: the run ends early and tells what it has seen, since whoever
//! ends it wants to know that, and its queues are deleted as in the end of any run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::failure::Failure;

/// Whether the run is to end early.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first SIGINT or SIGTERM is noted; one more ends the process, as it would
    /// have without this.
    ///
    /// # Errors
    /// [`Failure::Local`].
    pub(super) fn take() -> Result<Self, Failure> {
        let noted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: a signal is asked whether it is the second before it is noted.
            flag::register_conditional_default(signal, Arc::clone(&noted))
                .and_then(|_| flag::register(signal, Arc::clone(&noted)))
                .map_err(|error| Failure::local("cannot take signals", error))?;
        }
        Ok(Interrupt(noted))
    }

    /// Whether a signal came.
    pub(super) fn came(&self) -> bool {
        self.0.load(Relaxed)
    }
}
