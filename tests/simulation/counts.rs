//! How often everything happened that the simulation is there to bring about.

use std::collections::BTreeMap;

use leveret::storage::{DiskFault, Hit};

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn merge(&mut self, other: &Counts) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(&what, &count)| (what, count))
    }
}

/// What a call that met a fault is counted as, if it is counted.
pub(crate) fn name_of(hit: &Hit) -> Option<&'static str> {
    let file = match hit.name.as_str() {
        name if name.starts_with("definitions") => "definitions",
        name if name.starts_with("checkpoint") => "checkpoint",
        name => match name.split('.').nth(1) {
            Some("seg") => "segment",
            Some("idx") => "index",
            Some("body") => "body",
            _ => "other",
        },
    };
    Some(match (hit.fault, hit.call, file) {
        (DiskFault::Short, "read_at", _) => "fault: short read",
        (DiskFault::Short, "write_at", "segment") => "fault: short write of a segment",
        (DiskFault::Short, "write_at", "definitions") => "fault: short write of definitions",
        (DiskFault::Short, "write_at", _) => "fault: short write elsewhere",
        (DiskFault::Eintr, "read_at" | "write_at", _) => "fault: EINTR",
        (DiskFault::Short | DiskFault::Eintr, ..) => return None,
        (DiskFault::Eio, "write_at", "segment") => "fault: EIO, write of a segment",
        (DiskFault::Eio, "write_at", "definitions") => "fault: EIO, write of definitions",
        (DiskFault::Eio, "write_at", "checkpoint") => "fault: EIO, write of a checkpoint",
        (DiskFault::Eio, "write_at", "index") => "fault: EIO, write of an index",
        (DiskFault::Eio, "write_at", "body") => "fault: EIO, write of a large body",
        (DiskFault::Eio, "write_at", _) => "fault: EIO, write elsewhere",
        (DiskFault::Eio, "sync", "segment") => "fault: EIO, sync of a segment",
        (DiskFault::Eio, "sync", "definitions") => "fault: EIO, sync of definitions",
        (DiskFault::Eio, "sync", _) => "fault: EIO, sync elsewhere",
        (DiskFault::Eio, "sync_dir", _) => "fault: EIO, sync of the directory",
        (DiskFault::Eio, "rename", _) => "fault: EIO, rename",
        (DiskFault::Eio, "create", _) => "fault: EIO, create",
        (DiskFault::Eio, "read_at" | "populate", _) => "fault: EIO, read",
        (DiskFault::Eio, ..) => "fault: EIO, other calls",
        (DiskFault::Enospc, _, "segment") => "fault: ENOSPC, segment",
        (DiskFault::Enospc, _, "definitions") => "fault: ENOSPC, definitions",
        (DiskFault::Enospc, _, "checkpoint") => "fault: ENOSPC, checkpoint",
        (DiskFault::Enospc, _, "index") => "fault: ENOSPC, index",
        (DiskFault::Enospc, _, "body") => "fault: ENOSPC, large body",
        (DiskFault::Enospc, ..) => "fault: ENOSPC, elsewhere",
        (DiskFault::Emfile, ..) => "fault: EMFILE",
    })
}
