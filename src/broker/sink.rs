//! What the router asks of the world: octets to a client, records to the log.
//!
//! Production implements it once (the engine's `Plant`), tests with a recorder; both statically
//! dispatched, so a delivery is written straight into the consumer's outbox.

use super::confirm::Batch;
use super::ready::PageId;
use super::record::QueueId;
use super::session::OutboxKey;
use crate::clock::Now;
use crate::message::{Entry, Message, MessageRef};
use crate::wire::MethodFields;

/// Where a message was put, and what each holder answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub at: MessageRef,
    /// Octets of the record divided by its holders.
    pub share_octets: u32,
}

/// What became of an attempt to send a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// It was sent.
    Done,
    /// Its octets are being read; try again when [`super::Broker::storage_ready`] was called.
    Cold,
    /// Its octets are damaged; the storage has counted and reported it.
    Lost,
}

/// One `basic.deliver`, but for the message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The channel's number.
    pub channel: u16,
    /// Class id, method id and consumer tag as octets.
    pub prefix: &'a [u8],
    /// Its delivery tag.
    pub delivery_tag: u64,
    /// It was delivered before.
    pub redelivered: bool,
}

/// One `basic.get-ok`, but for the message.
#[derive(Clone, Copy, Debug)]
pub struct GetOk {
    /// The channel's number.
    pub channel: u16,
    /// Its delivery tag.
    pub delivery_tag: u64,
    /// It was delivered before.
    pub redelivered: bool,
    /// Messages still ready in the queue.
    pub message_count: u32,
}

/// See the module.
pub trait Sink {
    /// Whether the outbox takes another delivery; the room is part of a consumer's credit.
    fn has_room(&self, outbox: OutboxKey) -> bool;
    /// Sends a message that is at hand.
    fn deliver(&mut self, outbox: OutboxKey, delivery: &Delivery<'_>, message: &Message<'_>);
    /// Sends a stored message.
    fn deliver_stored(&mut self, outbox: OutboxKey, delivery: &Delivery<'_>, entry: Entry)
    -> Fetch;
    /// Answers a basic.get with a stored message.
    fn get_ok(&mut self, outbox: OutboxKey, get_ok: &GetOk, entry: Entry) -> Fetch;
    /// Sends a method without content that no held answer need precede: confirms, cancellations.
    fn method(&mut self, outbox: OutboxKey, channel: u16, method: &impl MethodFields);
    /// Sends an unroutable message back with `basic.return` 312.
    fn give_back(&mut self, outbox: OutboxKey, channel: u16, message: &Message<'_>);

    /// Appends a record to the log for the durable queues `to`; `holders` queues hold it in all.
    fn append(
        &mut self,
        now: Now,
        message: &Message<'_>,
        to: &[(QueueId, u64)],
        holders: u32,
    ) -> Stored;
    /// Puts a message into the transient arena.
    fn keep(&mut self, now: Now, message: &Message<'_>, holders: u32) -> Stored;
    /// Hands the stored message of `entry` to `use_it`, when its octets are at hand.
    fn read(&mut self, entry: Entry, use_it: &mut dyn FnMut(&mut Self, &Message<'_>)) -> Fetch;
    /// Settles a logged entry of a durable queue.
    fn settle(&mut self, queue: QueueId, entry: Entry);
    /// Settles all of a durable queue's sequences from `first` to `last`, both included, in the
    /// log alone; the entries are released one by one.
    fn settle_range(&mut self, queue: QueueId, first: u64, last: u64);
    /// Lets go of an entry whose settlement needs no record.
    fn release(&mut self, entry: Entry);
    /// Logs that sequences below `below` may be delivered.
    fn permit(&mut self, queue: QueueId, below: u64);
    /// A durable queue comes into being.
    fn queue_created(&mut self, queue: QueueId);
    /// A durable queue is gone; its entries are released one by one.
    fn queue_deleted(&mut self, queue: QueueId);
    /// Remembers definitions, all or none; a key without a value is forgotten.
    fn define(&mut self, pairs: &[(Vec<u8>, Option<Vec<u8>>)]);
    /// The batch that what was appended just now belongs to.
    fn batch(&self) -> Batch;
    /// Whether everything up to `batch` is on stable storage.
    fn is_flushed(&self, batch: Batch) -> bool;
    /// What is appended from here to [`Sink::group_end`] takes effect whole or not at all.
    fn group_begin(&mut self);
    /// See [`Sink::group_begin`].
    fn group_end(&mut self);

    /// Parks entries of a long queue.
    fn park(&mut self, entries: Vec<Entry>) -> PageId;
    /// The entries of a parked page, when they are at hand; the page is gone then.
    fn load(&mut self, page: PageId) -> Option<Vec<Entry>>;
    /// These pages of one queue are loaded next, in this order: a hint, which may be ignored.
    fn load_soon(&mut self, _pages: &[PageId]) {}
    /// Lets go of the entries of a parked page, as [`Sink::release`] does of each.
    fn release_page(&mut self, page: PageId);
}
