//! How much of each thing the router holds.

/// Bounds that the router keeps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries of one queue kept in memory before pages of them are parked.
    pub queue_entries_in_memory_max: usize,
    /// Consumers on one channel; 0 is no limit.
    pub consumers_per_channel_max: u32,
    /// Queues of all virtual hosts.
    pub queues_max: u32,
    /// Exchanges of all virtual hosts.
    pub exchanges_max: u32,
    /// Bindings of all virtual hosts.
    pub bindings_max: u32,
    /// Deliveries of one channel that wait for their acknowledgement: those to consumers, and those
    /// by `basic.get`, counted apart.
    pub unacked_per_channel_max: u32,
    /// Bindings that go together with an end of theirs; more go in slices.
    pub removals_at_once_max: usize,
    /// Publishes and acknowledgements that one transaction collects.
    pub transaction_entries_max: u32,
    /// Octets of the messages that one transaction collects, large bodies (which lie in files of
    /// their own) apart.
    pub transaction_octets_max: u64,
}
impl Default for Limits {
    fn default() -> Self {
        Limits {
            queue_entries_in_memory_max: 4096,
            consumers_per_channel_max: 0,
            queues_max: u32::MAX,
            exchanges_max: u32::MAX,
            bindings_max: u32::MAX,
            unacked_per_channel_max: u32::MAX,
            removals_at_once_max: 1024,
            transaction_entries_max: u32::MAX,
            transaction_octets_max: u64::MAX,
        }
    }
}
