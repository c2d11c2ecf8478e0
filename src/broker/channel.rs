//! A channel as the router sees it: deliveries awaiting acknowledgement, prefetch, and the mode in
//! which it publishes.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::confirm::ConfirmWindow;
use super::consumer::ConsumerKey;
use super::queue::QueueKey;
use super::record::Pairs;
use super::route::RouteCache;
use super::session::SessionKey;
use super::tx::Transaction;
use super::{Broker, Sink};
use crate::message::Entry;

/// Names an open channel to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    /// Index into the broker's channels.
    pub slot: u32,
    /// Tells the holders of one slot apart.
    pub generation: u32,
}

/// How a channel publishes.
#[derive(Debug)]
pub enum Mode {
    /// No answer to a publish.
    Plain,
    /// `confirm.select`: every publish is confirmed.
    Confirm(ConfirmWindow),
    /// `tx.select`: publishes and acknowledgements wait for `tx.commit`.
    Tx(Box<Transaction>),
}

/// A delivery that awaits its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Unacked {
    /// Its delivery tag.
    pub delivery_tag: u64,
    /// The message.
    pub entry: Entry,
    /// The queue that it came from.
    pub queue: QueueKey,
    /// The consumer that got it; `NO_CONSUMER` for basic.get.
    pub consumer: ConsumerKey,
    /// Its [`Consumer::generation`](super::consumer::Consumer::generation): tells whether it is still
    /// there. The delivery counts against the channel's common limit even when it is not.
    pub consumer_generation: u32,
}

/// Stands in [`Unacked::consumer`] where no consumer's credit is used.
pub const NO_CONSUMER: ConsumerKey = ConsumerKey::MAX;

/// Marks a slot of the list whose delivery was settled out of turn.
const SETTLED: ConsumerKey = ConsumerKey::MAX - 1;

/// Deliveries that await their acknowledgement, in the order of their tags. Settled ones in the
/// middle leave a hole until the holes are the greater part.
#[derive(Debug, Default)]
pub struct UnackedList {
    list: VecDeque<Unacked>,
    live: usize,
}

impl UnackedList {
    /// Deliveries that await their acknowledgement.
    #[inline]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether none does.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Adds a delivery; its tag is greater than all before.
    #[inline]
    pub fn push(&mut self, unacked: Unacked) {
        debug_assert!(
            self.list
                .back()
                .is_none_or(|last| last.delivery_tag < unacked.delivery_tag)
        );
        self.list.push_back(unacked);
        self.live += 1;
    }

    fn find(&self, delivery_tag: u64) -> Option<usize> {
        let at = self
            .list
            .binary_search_by_key(&delivery_tag, |slot| slot.delivery_tag)
            .ok()?;
        (self.list[at].consumer != SETTLED).then_some(at)
    }

    /// Takes out the delivery with that tag.
    pub fn take(&mut self, delivery_tag: u64) -> Option<Unacked> {
        let first = self.list.front()?;
        if first.delivery_tag == delivery_tag && first.consumer != SETTLED {
            self.live -= 1;
            let taken = self.list.pop_front();
            self.trim();
            return taken;
        }
        let at = self.find(delivery_tag)?;
        let taken = self.list[at];
        self.list[at].consumer = SETTLED;
        self.live -= 1;
        self.trim();
        Some(taken)
    }

    /// Takes out the oldest delivery when its tag is not above `delivery_tag`.
    #[inline]
    pub fn take_first_up_to(&mut self, delivery_tag: u64) -> Option<Unacked> {
        while self.list.front()?.delivery_tag <= delivery_tag {
            let slot = self.list.pop_front()?;
            if slot.consumer != SETTLED {
                self.live -= 1;
                return Some(slot);
            }
        }
        None
    }

    /// The greatest tag that is out, if it was not settled out of turn; never less than one that is.
    pub fn last_tag(&self) -> Option<u64> {
        Some(self.list.back()?.delivery_tag)
    }

    /// Whether a delivery with that tag waits.
    pub fn contains(&self, delivery_tag: u64) -> bool {
        self.find(delivery_tag).is_some()
    }

    /// Puts deliveries back that were taken out, among the others. Most find the hole that they left,
    /// or stood at the front.
    pub fn restore(&mut self, mut taken: Vec<Unacked>) {
        taken.sort_unstable_by_key(|unacked| unacked.delivery_tag);
        self.live += taken.len();
        let mut homeless = Vec::new();
        for unacked in taken.into_iter().rev() {
            let tag = unacked.delivery_tag;
            let is_first = self.list.front().is_none_or(|it| tag < it.delivery_tag);
            let found = self.list.binary_search_by_key(&tag, |it| it.delivery_tag);
            match found {
                Ok(at) => self.list[at] = unacked,
                Err(_) if is_first => self.list.push_front(unacked),
                Err(_) => homeless.push(unacked),
            }
        }
        if !homeless.is_empty() {
            // The holes were the greater part once, and were closed.
            self.list.extend(homeless);
            let list = self.list.make_contiguous();
            list.sort_unstable_by_key(|unacked| unacked.delivery_tag);
        }
    }

    /// Takes everything, oldest first.
    pub fn take_all(&mut self) -> VecDeque<Unacked> {
        self.live = 0;
        let mut list = std::mem::take(&mut self.list);
        list.retain(|slot| slot.consumer != SETTLED);
        list
    }

    /// All that wait, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Unacked> {
        self.list.iter().filter(|slot| slot.consumer != SETTLED)
    }

    /// Gives the memory back that very many deliveries took, once none is left.
    pub fn forget_peak(&mut self) {
        /// What a consumer with a large prefetch fills again and again.
        const KEPT: usize = 4096;
        if self.list.is_empty() && self.list.capacity() > KEPT {
            self.list = VecDeque::new();
        }
    }

    /// Drops holes at the front, and all of them when they are the greater part.
    fn trim(&mut self) {
        while self
            .list
            .front()
            .is_some_and(|slot| slot.consumer == SETTLED)
        {
            self.list.pop_front();
        }
        if self.list.len() > 64 && self.live * 2 < self.list.len() {
            self.list.retain(|slot| slot.consumer != SETTLED);
        }
        if self.list.is_empty() && self.list.capacity() > 1024 {
            self.list = VecDeque::new();
        }
    }
}

/// What a channel did; rises only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounters {
    /// Messages published.
    pub published: u64,
    /// Publishes confirmed.
    pub confirmed: u64,
    /// Messages that reached no queue and were returned.
    pub returned: u64,
    /// Messages that reached no queue and were dropped.
    pub dropped_unroutable: u64,
    /// Deliveries to consumers that acknowledge.
    pub delivered: u64,
    /// Deliveries to consumers that do not.
    pub delivered_no_ack: u64,
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
}

/// An open channel.
#[derive(Debug)]
pub struct Channel {
    /// See [`ChannelKey`].
    pub generation: u32,
    /// Its connection.
    pub session: SessionKey,
    /// Its number on the connection.
    pub number: u16,
    /// Tag of the next delivery.
    pub next_delivery_tag: u64,
    /// Deliveries that await their acknowledgement.
    pub unacked: UnackedList,
    /// Up to this tag a command settles what is out, a slice at a time, and has not come to its end;
    /// 0 when none does.
    pub settling: u64,
    /// Deliveries to consumers (not by basic.get) among them; what `global_prefetch` limits.
    pub consumer_unacked: u32,
    /// `basic.qos` with `global=false`: the limit of consumers started from now on; 0 is none.
    pub prefetch_count: u16,
    /// `basic.qos` with `global=true`: the limit of all consumers together; 0 is none.
    pub global_prefetch_count: u16,
    /// Deliveries that all its consumers together may hold: the global prefetch, or the bound that
    /// the configuration sets where there is none.
    pub consumer_unacked_max: u32,
    /// Its consumers by tag.
    pub consumers: HashMap<Box<[u8]>, ConsumerKey, foldhash::fast::FixedState>,
    /// A consumer was passed over since the common limit was reached.
    pub has_limited: bool,
    /// The consumer that was given a delivery last.
    pub last_served: ConsumerKey,
    /// See [`ChannelCounters`].
    pub counters: ChannelCounters,
    /// How it publishes.
    pub mode: Mode,
    /// The queue declared last; what an empty queue name means (spec 1.7.2.1).
    pub last_queue: Option<Box<[u8]>>,
    /// Name of the queue behind its reply consumer, if it has one.
    pub reply_to: Option<Box<[u8]>>,
    /// Where messages went last.
    pub route: RouteCache,
    /// The channel is on the broker's list of channels with confirms to send.
    pub is_listed: bool,
    /// The channel is on the broker's list of channels whose publishes wait for the disk.
    pub is_unconfirmed: bool,
}

impl Channel {
    /// A channel just opened.
    ///
    /// * `consumer_unacked_max`: see the field; at least 1.
    pub fn new(
        generation: u32,
        session: SessionKey,
        number: u16,
        consumer_unacked_max: u32,
    ) -> Self {
        Channel {
            generation,
            session,
            number,
            next_delivery_tag: 1,
            unacked: UnackedList::default(),
            settling: 0,
            consumer_unacked: 0,
            prefetch_count: 0,
            global_prefetch_count: 0,
            consumer_unacked_max,
            consumers: HashMap::default(),
            has_limited: false,
            last_served: NO_CONSUMER,
            counters: ChannelCounters::default(),
            mode: Mode::Plain,
            last_queue: None,
            reply_to: None,
            route: RouteCache::default(),
            is_listed: false,
            is_unconfirmed: false,
        }
    }
}

impl Broker {
    /// A client has opened a channel.
    pub fn open_channel(&mut self, session: SessionKey, number: u16) -> ChannelKey {
        self.counters.channels_opened += 1;
        self.generation += 1;
        let generation = self.generation;
        let unacked_max = self.limits.unacked_per_channel_max;
        let channel = Channel::new(generation, session, number, unacked_max);
        let slot = self.channels.insert(channel) as u32;
        self.sessions[session.slot as usize].channels.push(slot);
        ChannelKey { slot, generation }
    }

    /// A channel is over: its consumers end, what it has unacknowledged goes back, what its
    /// transaction holds is dropped.
    pub fn close_channel<S: Sink>(&mut self, key: ChannelKey, sink: &mut S) {
        let consumers = self.consumers_of(key.slot);
        self.detach_consumers(&consumers, |it| it.channel == key.slot);
        self.end_channel(key, &consumers, sink);
    }

    /// The consumers of a channel, in the order of their keys.
    pub(super) fn consumers_of(&self, channel: u32) -> Vec<ConsumerKey> {
        let consumers = self.channels[channel as usize].consumers.values();
        let mut consumers: Vec<ConsumerKey> = consumers.copied().collect();
        consumers.sort_unstable();
        consumers
    }

    /// Closes a channel of which the consumers are off the lists of their queues.
    pub(super) fn end_channel<S: Sink>(
        &mut self,
        key: ChannelKey,
        consumers: &[ConsumerKey],
        sink: &mut S,
    ) {
        self.counters.channels_closed += 1;
        self.count_published(key.slot);
        let state = &mut self.channels[key.slot as usize];
        let mut deliveries = state.unacked.take_all();
        if let Mode::Tx(transaction) = std::mem::replace(&mut state.mode, Mode::Plain) {
            for publish in transaction.publishes {
                sink.release(publish.entry);
            }
            deliveries.extend(
                transaction
                    .settlements
                    .into_iter()
                    .map(|(unacked, _)| unacked),
            );
        }
        let session = state.session;
        let mut pairs = Pairs::default();
        // Messages are back before the consumers go, so that an auto-delete queue takes them along.
        self.requeue_all(deliveries, sink);
        for &consumer in consumers {
            if self
                .consumers
                .get(consumer as usize)
                .is_some_and(|it| it.channel == key.slot)
            {
                self.remove_consumer(consumer, &mut pairs, sink);
            }
        }
        if !pairs.is_empty() {
            sink.define(pairs.as_slice());
        }
        self.channels.remove(key.slot as usize);
        self.sessions[session.slot as usize]
            .channels
            .retain(|&other| other != key.slot);
    }
}
