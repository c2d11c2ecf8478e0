//! A queue: its ready messages in order, and the consumers that want them.
//!
//! Every message of a queue is in exactly one of three places: `ready`, `returned`, or the unacked
//! list of a channel. Sequences are dense, rise in the order of arrival and are never reused.

use super::binding::BindingKey;
use super::consumer::ConsumerKey;
use super::meter::Meter;
use super::ready::{Head, Ready};
use super::record::QueueId;
use super::returned::Returned;
use super::session::SessionKey;
use super::turn::Turn;
use crate::message::Entry;

/// Names a queue while it exists. The generation keeps a late reference (an acknowledgement for a
/// deleted queue) from reaching the next holder of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueKey {
    /// Index into the broker's queues.
    pub slot: u32,
    /// Tells the holders of one slot apart.
    pub generation: u32,
}

/// What a queue was declared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueProperties {
    /// Survives a restart. An exclusive queue never does.
    pub durable: bool,
    /// The one session that may use it; the queue goes with its connection.
    pub exclusive_to: Option<SessionKey>,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// Arguments, a field table's octets without its length.
    pub arguments: Box<[u8]>,
}

/// What happened on a queue since the start; rises only. What counts a message that is delivered at
/// once, without acknowledgement, comes last: see [`Queue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct QueueCounters {
    /// Deliveries to consumers that acknowledge.
    pub delivered: u64,
    /// Messages fetched by basic.get with acknowledgement.
    pub got: u64,
    /// Messages fetched by basic.get without.
    pub got_no_ack: u64,
    /// basic.get that found nothing.
    pub get_empty: u64,
    /// Deliveries of a message that had been delivered before.
    pub redelivered: u64,
    /// Acknowledgements.
    pub acknowledged: u64,
    /// Messages that came in.
    pub published: u64,
    /// Deliveries to consumers that do not acknowledge.
    pub delivered_no_ack: u64,
}

impl QueueCounters {
    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &QueueCounters) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.delivered_no_ack += other.delivered_no_ack;
        self.got += other.got;
        self.got_no_ack += other.got_no_ack;
        self.get_empty += other.get_empty;
        self.redelivered += other.redelivered;
        self.acknowledged += other.acknowledged;
    }

    /// The numbers: published, delivered with and without acknowledgement, got with and without, get
    /// empty, redelivered, acknowledged.
    pub fn as_array(&self) -> [u64; 8] {
        [
            self.published,
            self.delivered,
            self.delivered_no_ack,
            self.got,
            self.got_no_ack,
            self.get_empty,
            self.redelivered,
            self.acknowledged,
        ]
    }
}

/// What a number of entries weighs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Octets that the entries answer for.
    pub octets: u64,
    /// Entries whose message is in the log.
    pub logged: u64,
}

impl Weight {
    /// The weight of all of `entries`.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut weight = Weight::default();
        for entry in entries {
            weight.put(*entry);
        }
        weight
    }

    /// Adds an entry.
    #[inline]
    pub fn put(&mut self, entry: Entry) {
        self.octets += u64::from(entry.share_octets());
        self.logged += u64::from(entry.has(Entry::LOGGED));
    }

    /// Takes an entry away that was put before.
    #[inline]
    pub fn take(&mut self, entry: Entry) {
        self.octets -= u64::from(entry.share_octets());
        self.logged -= u64::from(entry.has(Entry::LOGGED));
    }
}

/// Why nothing is delivered at the moment although something may be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wait {
    /// Nothing is waited for.
    #[default]
    None,
    /// The octets of the message at the head, or its page, are being read.
    Storage,
    /// The delivery permission is on its way to the disk.
    Permission,
}

/// One queue. What a message on its way to a waiting consumer touches lies together, from the last
/// two counters to the first word of `ready`: with thousands of queues each line of the cache counts.
#[derive(Debug)]
#[repr(C)]
pub struct Queue {
    /// See [`QueueCounters`].
    pub counters: QueueCounters,
    /// See [`QueueKey`].
    pub generation: u32,
    /// What delivery waits for.
    pub wait: Wait,
    /// The queue is on the broker's list of queues with more to deliver.
    pub is_listed: bool,
    /// Some consumer had a priority other than 0.
    pub has_priorities: bool,
    /// The one consumer is exclusive.
    pub has_exclusive_consumer: bool,
    /// Consumers that may have credit, in the order in which they are served: by priority, and in
    /// turn within one.
    pub available: Turn,
    /// Sequence of the next message to arrive.
    pub next_sequence: u64,
    /// Messages that came back, by sequence; all are older than the first of `ready`.
    pub returned: Returned,
    /// When it was last used, wall clock milliseconds.
    pub used_ms: u64,
    /// Messages never delivered since the start, oldest first.
    pub ready: Ready,
    /// Index of its virtual host.
    pub vhost: u32,
    /// The queue had a consumer once, so that auto-delete applies.
    pub had_consumer: bool,
    /// Its name in the log, when it is durable.
    pub id: Option<QueueId>,
    /// Sequences below this may be delivered: the permission that is on stable storage.
    pub permitted: u64,
    /// Sequences below this are asked for.
    pub permission_asked: u64,
    /// Messages delivered and not yet acknowledged.
    pub unacked: u64,
    /// What they weigh.
    pub unacked_weight: Weight,
    /// All consumers in the order in which they came.
    pub consumers: Vec<ConsumerKey>,
    /// Its name.
    pub name: Box<[u8]>,
    /// Bindings that lead to it.
    pub bindings: Vec<BindingKey>,
    /// The routing round that came by last.
    pub mark: u64,
    /// What it was declared with.
    pub properties: QueueProperties,
    /// How fast its counters grow, in the order of [`QueueCounters::as_array`]; `None` as long as
    /// nothing has happened.
    pub meter: Option<Box<Meter<8>>>,
}

impl Queue {
    /// Delivery permission is asked for this many sequences at a time.
    pub const PERMISSION_STEP: u64 = 65_536;

    /// An empty queue.
    pub fn new(generation: u32, vhost: u32, name: &[u8], properties: QueueProperties) -> Self {
        Queue {
            generation,
            vhost,
            name: name.into(),
            properties,
            id: None,
            ready: Ready::default(),
            returned: Returned::default(),
            next_sequence: 0,
            unacked: 0,
            unacked_weight: Weight::default(),
            consumers: Vec::new(),
            available: Turn::default(),
            has_priorities: false,
            has_exclusive_consumer: false,
            had_consumer: false,
            permitted: u64::MAX,
            permission_asked: u64::MAX,
            wait: Wait::None,
            is_listed: false,
            bindings: Vec::new(),
            mark: 0,
            counters: QueueCounters::default(),
            used_ms: 0,
            meter: None,
        }
    }

    /// Messages that are ready.
    #[inline]
    pub fn message_count(&self) -> u64 {
        self.ready.len() + self.returned.len() as u64
    }

    /// Whether nothing is ready.
    #[inline]
    pub fn has_no_message(&self) -> bool {
        self.ready.is_empty() && self.returned.is_empty()
    }

    /// The oldest message that is not with a consumer.
    #[inline]
    pub fn head(&mut self) -> Head {
        match self.returned.first() {
            Some(entry) => Head::Entry(entry),
            None => self.ready.head(),
        }
    }

    /// Removes the message that [`Queue::head`] gave.
    #[inline]
    pub fn pop_head(&mut self) -> Option<Entry> {
        self.returned.pop_first().or_else(|| self.ready.pop())
    }

    /// The sequence that delivery has come to.
    pub fn head_sequence(&self) -> u64 {
        match self.returned.first() {
            Some(entry) => entry.sequence(),
            None => self.ready.first_sequence().unwrap_or(self.next_sequence),
        }
    }

    /// Puts a message that was delivered back to its place.
    pub fn give_back(&mut self, entry: Entry) {
        self.unacked -= 1;
        self.unacked_weight.take(entry);
        self.returned.insert(entry.with(Entry::REDELIVERED));
    }

    /// What the ready messages weigh. Those that a restart found count from when they are first
    /// looked at.
    pub fn ready_weight(&self) -> Weight {
        let (ready, returned) = (self.ready.weight(), self.returned.weight());
        Weight {
            octets: ready.octets + returned.octets,
            logged: ready.logged + returned.logged,
        }
    }

    /// Octets of memory that the queue takes, about.
    pub fn memory_octets(&self) -> u64 {
        let octets = size_of::<Queue>()
            + self.name.len()
            + self.properties.arguments.len()
            + self.ready.in_memory() * size_of::<Entry>()
            + self.returned.len() * Returned::ENTRY_OCTETS
            + self.consumers.capacity() * size_of::<ConsumerKey>()
            + self.bindings.capacity() * size_of::<BindingKey>();
        octets as u64
    }

    /// Whether messages of this queue go to the log.
    #[inline]
    pub fn is_logged(&self) -> bool {
        self.id.is_some()
    }
}
