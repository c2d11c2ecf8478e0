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

/// A test that comes upon planted faults.
#[cfg(feature = "planted-faults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// `tests/simulation`, which sees what clients see.
    Simulation,
    /// `storage/crash_tests.rs`, which sees the storage alone and crashes it far more often.
    CrashTests,
}

#[cfg(feature = "planted-faults")]
impl Fault {
    /// Who finds it. Each finder asserts that it finds what is said of it here.
    #[must_use]
    pub const fn finders(self) -> &'static [Finder] {
        use Finder::{CrashTests, Simulation};
        match self {
            Fault::SkipSync
            | Fault::ConfirmBeforeFlush
            | Fault::ReuseSequence
            | Fault::DropOutOfOrderSettlements
            | Fault::CompactionDropsRecord => &[Simulation, CrashTests],
            // Mistakes of the router.
            Fault::ForgetRedelivered | Fault::IgnorePrefetch => &[Simulation],
            // Moments too rare for the simulation.
            Fault::CheckpointBeforeFlush | Fault::RecycleEarly | Fault::HalfGroup => &[CrashTests],
        }
    }

    /// What `finder` has to find.
    pub fn of(finder: Finder) -> impl Iterator<Item = Fault> {
        let all = Fault::ALL.into_iter();
        all.filter(move |fault| fault.finders().contains(&finder))
    }
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

#[cfg(all(test, feature = "planted-faults"))]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_ten_faults_has_somebody_who_finds_it() {
        let numbers: Vec<usize> = Fault::ALL.iter().map(|&fault| fault as usize).collect();
        assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
        for fault in Fault::ALL {
            assert!(!fault.finders().is_empty(), "nobody finds {fault:?}");
        }
    }
}
