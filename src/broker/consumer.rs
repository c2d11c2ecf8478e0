//! A consumer: who gets the messages of a queue, and how many at a time.

use super::queue::QueueKey;
use super::session::OutboxKey;
use crate::planted::{Fault, planted};
use crate::wire::encode::DeliverPrefix;

/// Index of a consumer while it exists; removed from every list when it goes but for those of what is
/// unacknowledged, which name its generation, too.
pub type ConsumerKey = u32;

/// One consumer. What a delivery needs comes first, in one line of the cache where the tag is short.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Consumer {
    /// Where its deliveries go.
    pub outbox: OutboxKey,
    /// The queue it consumes from.
    pub queue: QueueKey,
    /// The channel it was started on (index into the broker's channels).
    pub channel: u32,
    /// Tells the holders of one index apart.
    pub generation: u32,
    /// Deliveries it has unacknowledged.
    pub unacked: u32,
    /// That channel's number on its connection.
    pub channel_number: u16,
    /// Deliveries it may have unacknowledged; 0 is no limit. Fixed when it starts
    /// (RabbitMQ's meaning of `basic.qos` with `global=false`).
    pub prefetch_count: u16,
    /// Deliveries count as acknowledged when they are sent.
    pub no_ack: bool,
    /// It is in its queue's `available` list.
    pub is_available: bool,
    /// The queue's only consumer by its own wish.
    pub exclusive: bool,
    /// It is among its session's parked consumers.
    pub is_parked: bool,
    /// What every delivery begins with; holds its tag, unique on the channel.
    pub deliver_prefix: DeliverPrefix,
    /// Its session (index into the broker's sessions).
    pub session: u32,
    /// Served before those of a lower one as long as it has credit (`x-priority`).
    pub priority: i64,
    /// Arguments it was started with, a field table's octets without its length.
    pub arguments: Box<[u8]>,
}

impl Consumer {
    /// Its tag.
    pub fn tag(&self) -> &[u8] {
        self.deliver_prefix.consumer_tag().as_bytes()
    }

    /// Whether its own limit lets it take one more.
    #[inline]
    pub fn has_credit(&self) -> bool {
        self.prefetch_count == 0
            || self.no_ack
            || self.unacked < u32::from(self.prefetch_count)
            || planted(Fault::IgnorePrefetch)
    }
}
