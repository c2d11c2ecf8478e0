//! What the operating system allows the process, and says of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are kept for files: segments, definitions, spills, and what reading them needs.
const RESERVED_DESCRIPTORS: u64 = 64;

/// Descriptors below which nothing works at all: what is open in any case, and a few segments.
const FILES_MIN: u64 = 28;

/// Descriptors that are open besides sockets, where the system does not tell: the log, the poll,
/// signals, listeners.
const FILES_ABOUT: u64 = 24;

/// Raises the number of descriptors that may be open to what the process may raise it to; gives
/// the number.
pub(super) fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is what it was.
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(_) => current.unwrap_or(u64::MAX),
    }
}

/// How many sockets there may be, so that files always find a descriptor.
pub(super) fn sockets_max(descriptors_max: u64) -> u64 {
    let half = (descriptors_max / 2).min(descriptors_max.saturating_sub(FILES_MIN));
    descriptors_max
        .saturating_sub(RESERVED_DESCRIPTORS)
        .max(half)
        .max(1)
}

/// Open descriptors; `sockets` are known to be.
pub(super) fn descriptors(sockets: u64) -> u64 {
    // Since Linux 6.2 the directory's size is the number; before, it is 0.
    match std::fs::metadata("/proc/self/fd") {
        Ok(metadata) if metadata.len() > 0 => metadata.len(),
        _ => sockets + FILES_ABOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_always_have_descriptors_left() {
        assert_eq!(sockets_max(1024), 960);
        assert_eq!(sockets_max(64), 32);
        assert_eq!(sockets_max(32), 4);
        assert_eq!(sockets_max(20), 1);
        assert_eq!(sockets_max(u64::MAX), u64::MAX - 64);
    }
}
