//! What may be set about a store.

/// What may be set about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Whether batches are synced; without, a confirm survives the process but not the machine.
    pub sync: bool,
    /// Octets that may wait for the disk before publishers pause.
    pub tail_octets_max: usize,
    /// Octets of the first segment; a power of two multiple of it follows under load.
    pub segment_octets_min: u64,
    /// Octets of the largest segment.
    pub segment_octets_max: u64,
    /// Segments' worth of files beyond twice what lives in them from which on segments are
    /// rewritten.
    pub segment_slack: u64,
    /// Octets of full transient blocks that stay in memory.
    pub arena_octets_max: usize,
    /// Octets of one spill file.
    pub spill_file_octets: u64,
    /// The disk alarm is raised when fewer octets are free.
    pub disk_free_octets_min: u64,
    /// How often segments are looked for that are worth rewriting, in milliseconds; a full segment
    /// waits four times as long for its index, since most are empty by then. 0: nothing waits.
    pub look_ms: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            sync: true,
            tail_octets_max: 16 << 20,
            segment_octets_min: 1 << 20,
            segment_octets_max: 64 << 20,
            segment_slack: 4,
            arena_octets_max: 4 << 20,
            spill_file_octets: 16 << 20,
            disk_free_octets_min: 50_000_000,
            look_ms: 250,
        }
    }
}
