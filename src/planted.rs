//! Faults that a test may plant into storage and router, to prove that the simulation finds them. Without
//! the feature `planted-faults` every question is answered `false` at compile time.

/// A mistake that the server could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// The flusher writes but does not sync.
    SkipSync = 1,
    /// Batches count as flushed when they are handed over.
    ConfirmBeforeFlush,
    /// What was delivered before is delivered as if it were new.
    ForgetRedelivered,
    /// After a restart sequences begin anew.
    ReuseSequence,
    /// Settlements above the low-water mark are left out of checkpoints.
    DropOutOfOrderSettlements,
    /// A checkpoint takes its place before what it covers was flushed.
    CheckpointBeforeFlush,
    /// Compaction loses the last live record.
    CompactionDropsRecord,
    /// Segments are recycled when they are dead in memory, before a checkpoint covers it.
    RecycleEarly,
    /// Recovery replays what is there of an unfinished group.
    HalfGroup,
    /// Consumers get more than their prefetch allows.
    IgnorePrefetch,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 10] = [
        Fault::SkipSync,
        Fault::ConfirmBeforeFlush,
        Fault::ForgetRedelivered,
        Fault::ReuseSequence,
        Fault::DropOutOfOrderSettlements,
        Fault::CheckpointBeforeFlush,
        Fault::CompactionDropsRecord,
        Fault::RecycleEarly,
        Fault::HalfGroup,
        Fault::IgnorePrefetch,
    ];
}

#[cfg(feature = "planted-faults")]
thread_local! {
    static PLANTED: std::cell::Cell<u8> = const { std::cell::Cell::new(0) };
}

/// Plants one fault into this thread, or takes it out.
#[cfg(feature = "planted-faults")]
pub fn plant(fault: Option<Fault>) {
    PLANTED.set(fault.map_or(0, |fault| fault as u8));
}

/// Whether `fault` is planted in this thread.
#[cfg(feature = "planted-faults")]
#[inline]
pub fn planted(fault: Fault) -> bool {
    PLANTED.get() == fault as u8
}

/// Whether `fault` is planted: never in this build.
#[cfg(not(feature = "planted-faults"))]
#[inline]
pub const fn planted(_fault: Fault) -> bool {
    false
}
