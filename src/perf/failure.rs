//! Why a run ended without a result, or with a bad one.

use std::fmt;
use std::io;

/// What went wrong, by what the exit code says about it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line cannot be understood: 64.
    Usage(String),
    /// The broker cannot be reached or hangs up: 69.
    Unavailable(String),
    /// The broker refuses something or answers what it must not: 70.
    Broker(String),
    /// This machine refuses something (a core, a descriptor, a file of /proc): 70.
    Local(String),
    /// The run is over and messages were lost, doubled or out of order: 1.
    Check(String),
}

impl Failure {
    /// Exit code of the process.
    pub(super) fn exit_code(&self) -> i32 {
        match self {
            Failure::Check(_) => 1,
            Failure::Usage(_) => 64,
            Failure::Unavailable(_) => 69,
            Failure::Broker(_) | Failure::Local(_) => 70,
        }
    }

    /// The broker's socket failed while doing `what`.
    pub(super) fn socket(what: &str, error: &io::Error) -> Self {
        Failure::Unavailable(format!("{what}: {error}"))
    }

    /// This machine refused `what`.
    pub(super) fn local(what: &str, error: impl fmt::Display) -> Self {
        Failure::Local(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text)
            | Failure::Unavailable(text)
            | Failure::Broker(text)
            | Failure::Local(text)
            | Failure::Check(text) => f.write_str(text),
        }
    }
}
