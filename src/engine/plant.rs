//! The world as the router sees it: the log and the outboxes.

use slab::Slab;

use super::outbox::{LargePart, Outbox};
use crate::broker::ready::PageId;
use crate::broker::record::QueueId;
use crate::broker::sink::{Delivery, Fetch, GetOk, Stored};
use crate::broker::{Batch, OutboxKey, Sink};
use crate::clock::Now;
use crate::message::{Body, Entry, LargeBody, Message};
use crate::storage::{LargeHandle, Read, Storage, Store};
use crate::wire::method::basic;
use crate::wire::{ChannelNumber, DeliveryTag, MethodFields, ReplyCode, ShortString, encode};

/// The log and the outboxes of all peers. An outbox has its connection's slot.
#[derive(Debug)]
pub struct Plant<S: Storage> {
    /// The log.
    pub store: Store<S>,
    /// The outboxes by slot.
    pub(super) outboxes: Slab<Outbox<LargeHandle<S>>>,
    /// Slots of outboxes with something to write.
    pub dirty: Vec<u32>,
    /// Buffers that ran empty.
    pub spare: Vec<Vec<u8>>,
    /// Octets in an outbox at which deliveries stop.
    pub outbox_octets_high: usize,
    scratch: Vec<u8>,
    held: Vec<u8>,
}

impl<S: Storage> Plant<S> {
    /// A plant without outboxes.
    pub fn new(store: Store<S>, outbox_octets_high: usize) -> Self {
        Plant {
            store,
            outboxes: Slab::new(),
            dirty: Vec::new(),
            spare: Vec::new(),
            outbox_octets_high,
            scratch: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Where octets for a peer go.
    #[inline]
    pub fn out(&mut self, outbox: OutboxKey) -> &mut Vec<u8> {
        open(&mut self.outboxes, &mut self.dirty, &mut self.spare, outbox).0
    }

    /// Sends a stored message: `encode` appends all but a large body, which follows by name.
    #[inline]
    fn fetch(
        &mut self,
        outbox: OutboxKey,
        channel: u16,
        entry: Entry,
        encode: impl FnOnce(&mut Vec<u8>, u32, &Message<'_>),
    ) -> Fetch {
        let message = match self.store.read(entry, &mut self.scratch) {
            Read::Here(stored) => stored.message,
            Read::Cold => return Fetch::Cold,
            Read::Lost => return Fetch::Lost,
        };
        let (out, frame_max) = open(&mut self.outboxes, &mut self.dirty, &mut self.spare, outbox);
        let begin = out.len();
        encode(out, frame_max, &message);
        if let Body::Large(body) = message.body {
            return self.follow(outbox, channel, body, begin);
        }
        Fetch::Done
    }

    /// Puts a large body in line behind its content header, which was appended to the outbox from
    /// `begin` on.
    #[cold]
    fn follow(&mut self, outbox: OutboxKey, channel: u16, body: LargeBody, begin: usize) -> Fetch {
        let handle = self.store.large_handle(body);
        let outbox = &mut self.outboxes[outbox as usize];
        let Some(handle) = handle else {
            outbox.append_to(&mut self.spare).truncate(begin);
            return Fetch::Lost;
        };
        outbox.append_large(LargePart {
            handle,
            body,
            channel,
            sent: 0,
        });
        Fetch::Done
    }

    /// The octets to write next to a peer.
    pub fn to_write(&mut self, outbox: OutboxKey) -> &[u8] {
        let Plant {
            store, outboxes, ..
        } = self;
        outboxes[outbox as usize]
            .to_write(|part, octets, into| store.read_large(&part.handle, part.sent, octets, into))
    }

    /// The storage has read a stretch of a large body: whoever waits for one tries again.
    pub fn large_ready(&mut self) {
        for (key, outbox) in &mut self.outboxes {
            if outbox.has_large() && !outbox.is_listed && !outbox.is_blocked {
                outbox.is_listed = true;
                self.dirty.push(key as u32);
            }
        }
    }
}

#[inline]
fn open<'a, S: Storage>(
    outboxes: &'a mut Slab<Outbox<LargeHandle<S>>>,
    dirty: &mut Vec<u32>,
    spare: &mut Vec<Vec<u8>>,
    key: OutboxKey,
) -> (&'a mut Vec<u8>, u32) {
    let outbox = &mut outboxes[key as usize];
    if !outbox.is_listed {
        outbox.is_listed = true;
        dirty.push(key);
    }
    let frame_max = outbox.frame_max;
    (outbox.append_to(spare), frame_max)
}

#[inline]
fn encode_delivery(
    out: &mut Vec<u8>,
    frame_max: u32,
    delivery: &Delivery<'_>,
    message: &Message<'_>,
) {
    let body = match message.body {
        Body::Octets(octets) => octets,
        Body::Large(_) => &[],
    };
    let encoded = encode::Delivery {
        prefix: delivery.prefix,
        delivery_tag: DeliveryTag(delivery.delivery_tag),
        redelivered: delivery.redelivered,
        names: message.names,
        properties: message.properties,
        body,
    };
    let channel = ChannelNumber(delivery.channel);
    match message.body {
        Body::Octets(_) => encode::deliver(out, channel, &encoded, frame_max),
        Body::Large(large) => encode::deliver_head(out, channel, &encoded, large.octets),
    }
}

/// Appends a method with its content; of a large body only the header.
fn encode_content(
    out: &mut Vec<u8>,
    frame_max: u32,
    channel: u16,
    method: &impl MethodFields,
    message: &Message<'_>,
) {
    let channel = ChannelNumber(channel);
    match message.body {
        Body::Octets(body) => {
            encode::content(out, channel, method, message.properties, body, frame_max);
        }
        Body::Large(large) => {
            encode::method_frame(out, channel, method);
            encode::content_header_frame(out, channel, large.octets, message.properties);
        }
    }
}

fn short(octets: &[u8]) -> ShortString<'_> {
    ShortString::new(octets).expect("names of messages are short strings")
}

impl<S: Storage> Sink for Plant<S> {
    #[inline]
    fn has_room(&self, outbox: OutboxKey) -> bool {
        let outbox = &self.outboxes[outbox as usize];
        outbox.octets() < self.outbox_octets_high && !outbox.has_large()
    }

    #[inline]
    fn deliver(&mut self, outbox: OutboxKey, delivery: &Delivery<'_>, message: &Message<'_>) {
        let (out, frame_max) = open(&mut self.outboxes, &mut self.dirty, &mut self.spare, outbox);
        encode_delivery(out, frame_max, delivery, message);
    }

    fn deliver_stored(
        &mut self,
        outbox: OutboxKey,
        delivery: &Delivery<'_>,
        entry: Entry,
    ) -> Fetch {
        self.fetch(
            outbox,
            delivery.channel,
            entry,
            |out, frame_max, message| {
                encode_delivery(out, frame_max, delivery, message);
            },
        )
    }

    fn get_ok(&mut self, outbox: OutboxKey, get_ok: &GetOk, entry: Entry) -> Fetch {
        self.fetch(outbox, get_ok.channel, entry, |out, frame_max, message| {
            let method = basic::GetOk {
                delivery_tag: DeliveryTag(get_ok.delivery_tag),
                redelivered: get_ok.redelivered,
                exchange: short(message.exchange()),
                routing_key: short(message.routing_key()),
                message_count: get_ok.message_count,
            };
            encode_content(out, frame_max, get_ok.channel, &method, message);
        })
    }

    fn method(&mut self, outbox: OutboxKey, channel: u16, method: &impl MethodFields) {
        encode::method_frame(self.out(outbox), ChannelNumber(channel), method);
    }

    fn give_back(&mut self, outbox: OutboxKey, channel: u16, message: &Message<'_>) {
        let (out, frame_max) = open(&mut self.outboxes, &mut self.dirty, &mut self.spare, outbox);
        let method = basic::Return {
            reply_code: ReplyCode::NoRoute.as_u16(),
            reply_text: ShortString::literal("NO_ROUTE"),
            exchange: short(message.exchange()),
            routing_key: short(message.routing_key()),
        };
        let begin = out.len();
        encode_content(out, frame_max, channel, &method, message);
        if let Body::Large(body) = message.body {
            self.follow(outbox, channel, body, begin);
        }
    }

    #[inline]
    fn append(
        &mut self,
        now: Now,
        message: &Message<'_>,
        to: &[(QueueId, u64)],
        holders: u32,
    ) -> Stored {
        self.store.append(now, message, to, holders)
    }

    #[inline]
    fn keep(&mut self, now: Now, message: &Message<'_>, holders: u32) -> Stored {
        self.store.keep(now, message, holders)
    }

    fn read(&mut self, entry: Entry, use_it: &mut dyn FnMut(&mut Self, &Message<'_>)) -> Fetch {
        let mut held = std::mem::take(&mut self.held);
        held.clear();
        let (names, properties, large) = match self.store.read(entry, &mut self.scratch) {
            Read::Here(stored) => {
                let message = stored.message;
                held.extend_from_slice(message.names);
                held.extend_from_slice(message.properties);
                let large = match message.body {
                    Body::Octets(body) => {
                        held.extend_from_slice(body);
                        None
                    }
                    Body::Large(large) => Some(large),
                };
                (message.names.len(), message.properties.len(), large)
            }
            Read::Cold => {
                self.held = held;
                return Fetch::Cold;
            }
            Read::Lost => {
                self.held = held;
                return Fetch::Lost;
            }
        };
        let (names, rest) = held.split_at(names);
        let (properties, body) = rest.split_at(properties);
        let body = large.map_or(Body::Octets(body), Body::Large);
        use_it(
            self,
            &Message {
                names,
                properties,
                body,
            },
        );
        self.held = held;
        Fetch::Done
    }

    #[inline]
    fn settle(&mut self, queue: QueueId, entry: Entry) {
        self.store.settle(queue, entry);
    }

    fn settle_range(&mut self, queue: QueueId, first: u64, last: u64) {
        self.store.settle_range(queue, first, last);
    }

    #[inline]
    fn release(&mut self, entry: Entry) {
        self.store.release(entry);
    }

    fn release_page(&mut self, page: PageId) {
        self.store.release_page(page);
    }

    fn permit(&mut self, queue: QueueId, below: u64) {
        self.store.permit(queue, below.saturating_sub(1));
    }

    fn queue_created(&mut self, queue: QueueId) {
        self.store.queue_created(queue);
    }

    fn queue_deleted(&mut self, queue: QueueId) {
        self.store.queue_deleted(queue);
    }

    fn define(&mut self, pairs: &[(Vec<u8>, Option<Vec<u8>>)]) {
        let pairs: Vec<(&[u8], Option<&[u8]>)> = pairs
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
            .collect();
        self.store.define(&pairs);
    }

    #[inline]
    fn batch(&self) -> Batch {
        self.store.batch()
    }

    #[inline]
    fn is_flushed(&self, batch: Batch) -> bool {
        batch <= self.store.flushed()
    }

    fn group_begin(&mut self) {
        self.store.group_begin();
    }

    fn group_end(&mut self) {
        self.store.group_end();
    }

    fn park(&mut self, entries: Vec<Entry>) -> PageId {
        self.store.park(entries)
    }

    fn load(&mut self, page: PageId) -> Option<Vec<Entry>> {
        self.store.load(page)
    }

    fn load_soon(&mut self, pages: &[PageId]) {
        self.store.load_soon(pages);
    }
}
