//! Delivery: from the head of a queue to the consumers that have credit, in turn.

use super::Broker;
use super::channel::{Mode, Unacked};
use super::consumer::ConsumerKey;
use super::queue::{Queue, QueueKey, Wait, Weight};
use super::ready::{Head, PageId, ParkedPage};
use super::sink::{Delivery, Fetch, Sink};
use crate::clock::Now;
use crate::message::{Entry, Message};
use crate::planted::{Fault, planted};
use crate::wire::DeliveryTag;
use crate::wire::method::basic;

/// Entries in a page of a long queue.
const PAGE_ENTRIES: usize = 512;
/// Pages that are asked for ahead of a queue that delivers.
const PAGES_AHEAD: usize = 4;

impl Broker {
    /// The consumer whose turn it is, when one has credit and room. Those that have not are taken
    /// off the list; they come back when their credit does ([`Broker::offer`]).
    #[inline]
    pub(super) fn pick<S: Sink>(&mut self, slot: u32, sink: &S) -> Option<ConsumerKey> {
        let queue = &mut self.queues[slot as usize];
        loop {
            let key = queue.available.front()?;
            let consumer = &mut self.consumers[key as usize];
            if consumer.has_credit() {
                let channels = &mut self.channels;
                if !consumer.no_ack
                    && let channel = &mut channels[consumer.channel as usize]
                    && channel.consumer_unacked >= channel.consumer_unacked_max
                {
                    channel.has_limited = true;
                } else if sink.has_room(consumer.outbox) {
                    if queue.available.has_others() {
                        self.end_of_turn(slot);
                    }
                    return Some(key);
                } else if !consumer.is_parked {
                    consumer.is_parked = true;
                    self.sessions[consumer.session as usize].parked.push(key);
                }
            }
            consumer.is_available = false;
            queue.available.pop_front();
        }
    }

    /// Whether the limit that the consumers of its channel share lets a consumer take one more.
    pub(super) fn has_common_credit(&self, key: ConsumerKey) -> bool {
        let consumer = &self.consumers[key as usize];
        let channel = &self.channels[consumer.channel as usize];
        consumer.no_ack || channel.consumer_unacked < channel.consumer_unacked_max
    }

    /// Puts a consumer whose credit or room may have come back at the end of its queue's turn.
    pub(super) fn offer(&mut self, key: ConsumerKey) {
        let consumer = &mut self.consumers[key as usize];
        if !consumer.is_available && consumer.has_credit() {
            consumer.is_available = true;
            let slot = consumer.queue.slot;
            self.enter_turn(slot, key);
            self.list(slot);
        }
    }

    /// The consumer at the front has had its turn: it goes behind the others of its priority.
    fn end_of_turn(&mut self, slot: u32) {
        let queue = &mut self.queues[slot as usize];
        if !queue.has_priorities {
            queue.available.rotate();
        } else if let Some(key) = queue.available.pop_front() {
            self.enter_turn(slot, key);
        }
    }

    /// Puts a consumer behind the others of its priority.
    fn enter_turn(&mut self, slot: u32, key: ConsumerKey) {
        let queue = &mut self.queues[slot as usize];
        if queue.has_priorities {
            let priority = self.consumers[key as usize].priority;
            let before = |other| self.consumers[other as usize].priority >= priority;
            queue.available.insert_behind(key, before);
        } else {
            queue.available.push_back(key);
        }
    }

    /// Puts a queue on the list of those that may have something to deliver.
    #[inline]
    pub(super) fn list(&mut self, slot: u32) {
        let queue = &mut self.queues[slot as usize];
        if !queue.is_listed {
            queue.is_listed = true;
            self.listed.push_back(QueueKey {
                slot,
                generation: queue.generation,
            });
        }
    }

    /// Delivers what the listed queues have for consumers with credit, `budget` messages at most.
    /// Says whether there is more to do.
    pub fn deliver_listed<S: Sink>(&mut self, now: Now, sink: &mut S, mut budget: usize) -> bool {
        // A share for each queue, so that one long queue does not keep the others waiting.
        const SHARE: usize = 256;
        while budget > 0 {
            let Some(key) = self.listed.pop_front() else {
                return false;
            };
            if !self.queue_is(key) {
                continue;
            }
            self.queues[key.slot as usize].is_listed = false;
            let share = SHARE.min(budget);
            let delivered = self.deliver_from(now, key.slot, sink, share);
            budget -= delivered.min(budget);
            if delivered == share {
                self.list(key.slot);
            }
        }
        !self.listed.is_empty()
    }

    /// Whether some queue may have something to deliver.
    pub fn has_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Delivers up to `share` messages from one queue; says how many.
    fn deliver_from<S: Sink>(&mut self, now: Now, slot: u32, sink: &mut S, share: usize) -> usize {
        for delivered in 0..share {
            let queue = &mut self.queues[slot as usize];
            if queue.wait != Wait::None || queue.available.is_empty() {
                return delivered;
            }
            let entry = match queue.head() {
                Head::Empty => return delivered,
                Head::Entry(entry) => entry,
                Head::Parked(page) => {
                    if self.fetch_page(slot, page, sink) {
                        continue;
                    }
                    return delivered;
                }
            };
            if entry.sequence() >= queue.permitted {
                self.ask_permission(slot, sink);
                self.queues[slot as usize].wait = Wait::Permission;
                return delivered;
            }
            let Some(key) = self.pick(slot, sink) else {
                return delivered;
            };
            match self.send(key, entry, sink) {
                Fetch::Done => {
                    self.queues[slot as usize].pop_head();
                    self.delivered(now, slot, key, entry, sink);
                }
                Fetch::Cold => {
                    self.queues[slot as usize].wait = Wait::Storage;
                    self.waiting_for_storage.push(self.queue_key_at(slot));
                    return delivered;
                }
                Fetch::Lost => {
                    self.queues[slot as usize].pop_head();
                    self.settle_gone(slot, entry, sink);
                }
            }
        }
        share
    }

    /// Gets the page at the head of a queue into memory; says whether it is there.
    pub(super) fn fetch_page<S: Sink>(&mut self, slot: u32, page: PageId, sink: &mut S) -> bool {
        if let Some(entries) = sink.load(page) {
            let ready = &mut self.queues[slot as usize].ready;
            ready.arrive(page, entries);
            // Asked for while there is something to send, so that the queue does not stop and
            // wait at the end of every page.
            sink.load_soon(ready.next_pages(&mut [PageId(0); PAGES_AHEAD]));
            return true;
        }
        self.queues[slot as usize].wait = Wait::Storage;
        self.waiting_for_storage.push(self.queue_key_at(slot));
        false
    }

    /// Sends a stored message to a consumer as its channel's next delivery.
    fn send<S: Sink>(&mut self, key: ConsumerKey, entry: Entry, sink: &mut S) -> Fetch {
        let consumer = &self.consumers[key as usize];
        let delivery = Delivery {
            channel: consumer.channel_number,
            prefix: consumer.deliver_prefix.as_bytes(),
            delivery_tag: self.channels[consumer.channel as usize].next_delivery_tag,
            redelivered: entry.has(Entry::REDELIVERED) && !planted(Fault::ForgetRedelivered),
        };
        sink.deliver_stored(consumer.outbox, &delivery, entry)
    }

    /// Sends a message that has just come in to a consumer, from where it lies.
    #[inline]
    pub(super) fn send_direct<S: Sink>(
        &mut self,
        key: ConsumerKey,
        message: &Message<'_>,
        sink: &mut S,
    ) {
        let consumer = &self.consumers[key as usize];
        let delivery = Delivery {
            channel: consumer.channel_number,
            prefix: consumer.deliver_prefix.as_bytes(),
            delivery_tag: self.channels[consumer.channel as usize].next_delivery_tag,
            redelivered: false,
        };
        sink.deliver(consumer.outbox, &delivery, message);
    }

    /// Books a delivery that was sent.
    #[inline]
    pub(super) fn delivered<S: Sink>(
        &mut self,
        now: Now,
        slot: u32,
        key: ConsumerKey,
        entry: Entry,
        sink: &mut S,
    ) {
        let consumer = &mut self.consumers[key as usize];
        let channel = &mut self.channels[consumer.channel as usize];
        let queue = &mut self.queues[slot as usize];
        let delivery_tag = channel.next_delivery_tag;
        channel.next_delivery_tag += 1;
        let redelivered = u64::from(entry.has(Entry::REDELIVERED));
        queue.counters.redelivered += redelivered;
        channel.counters.redelivered += redelivered;
        queue.used_ms = now.wall_ms;
        if consumer.no_ack {
            queue.counters.delivered_no_ack += 1;
            channel.counters.delivered_no_ack += 1;
            self.settle_gone(slot, entry, sink);
            return;
        }
        queue.counters.delivered += 1;
        channel.counters.delivered += 1;
        queue.unacked += 1;
        queue.unacked_weight.put(entry);
        consumer.unacked += 1;
        channel.consumer_unacked += 1;
        channel.last_served = key;
        let generation = queue.generation;
        let queue = QueueKey { slot, generation };
        channel.unacked.push(Unacked {
            delivery_tag,
            entry,
            queue,
            consumer: key,
            consumer_generation: consumer.generation,
        });
    }

    /// Books a delivery of a message that was never stored, to a consumer that needs no
    /// acknowledgement.
    #[inline]
    pub(super) fn delivered_unstored(&mut self, now: Now, slot: u32, key: ConsumerKey) {
        let consumer = &self.consumers[key as usize];
        let channel = &mut self.channels[consumer.channel as usize];
        channel.next_delivery_tag += 1;
        channel.counters.delivered_no_ack += 1;
        let queue = &mut self.queues[slot as usize];
        queue.next_sequence += 1;
        queue.counters.delivered_no_ack += 1;
        queue.used_ms = now.wall_ms;
    }

    /// Settles a message that no list holds any more.
    #[inline]
    pub(super) fn settle_gone<S: Sink>(&mut self, slot: u32, entry: Entry, sink: &mut S) {
        settle(&self.queues[slot as usize], entry, sink);
    }

    /// Appends a message to a queue's ready ones and parks a page when the queue is long.
    #[inline]
    pub(super) fn enqueue<S: Sink>(&mut self, slot: u32, entry: Entry, sink: &mut S) {
        let page_out = self.limits.queue_entries_in_memory_max;
        let queue = &mut self.queues[slot as usize];
        queue.ready.push(entry);
        if queue.ready.in_memory() > page_out
            && let Some(entries) = queue.ready.take_page(PAGE_ENTRIES)
        {
            let (count, first_sequence) = (entries.len() as u32, entries[0].sequence());
            let weight = Weight::of(&entries);
            let page = sink.park(entries);
            queue.ready.parked(ParkedPage {
                page,
                count,
                first_sequence,
                weight,
            });
        }
        if !queue.available.is_empty() && !queue.is_listed {
            self.list(slot);
        }
    }

    /// Asks for permission to deliver the next stretch of a durable queue's sequences.
    pub(super) fn ask_permission<S: Sink>(&mut self, slot: u32, sink: &mut S) {
        let queue = &mut self.queues[slot as usize];
        let Some(id) = queue.id else { return };
        let head = queue.head_sequence();
        let below = head.saturating_add(Queue::PERMISSION_STEP);
        // Half a stretch at a time: a record for each message would be dear.
        if queue.permission_asked < head.saturating_add(Queue::PERMISSION_STEP / 2) {
            queue.permission_asked = below;
            sink.permit(id, below);
            let key = QueueKey {
                slot,
                generation: queue.generation,
            };
            self.permissions.push_back((sink.batch(), key, below));
        }
    }

    /// Keeps a stretch of permission ahead of what is delivered. A queue that nobody has read from
    /// yet (0) needs none: its messages come back from a crash as new as they are.
    #[inline]
    pub(super) fn renew_permission<S: Sink>(&mut self, slot: u32, sink: &mut S) {
        let queue = &self.queues[slot as usize];
        if !matches!(queue.permission_asked, 0 | u64::MAX)
            && queue.next_sequence + Queue::PERMISSION_STEP / 2 > queue.permission_asked
            && queue.message_count() < Queue::PERMISSION_STEP / 4
        {
            self.ask_permission(slot, sink);
        }
    }

    /// The storage has read something it was asked for: queues that waited try again.
    pub fn storage_ready(&mut self) {
        for key in std::mem::take(&mut self.waiting_for_storage) {
            if self.queue_is(key) {
                self.queues[key.slot as usize].wait = Wait::None;
                self.list(key.slot);
            }
        }
    }

    /// The outbox of a session has room again: its consumers get their turn.
    pub fn outbox_ready(&mut self, slot: u32) {
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            session.parked_gone = 0;
            for key in std::mem::take(&mut session.parked) {
                // Some may have gone, and their index to another.
                if let Some(consumer) = self.consumers.get_mut(key as usize)
                    && consumer.is_parked
                    && consumer.session == slot
                {
                    consumer.is_parked = false;
                    self.offer(key);
                }
            }
        }
    }

    /// Everything up to `batch` is on stable storage: confirms and permissions that waited for it.
    pub fn flushed(&mut self, batch: super::confirm::Batch) {
        let mut waiting = std::mem::take(&mut self.unconfirmed);
        waiting.retain(|&key| {
            if !self.channel_is(key) {
                return false;
            }
            let Mode::Confirm(window) = &mut self.channels[key.slot as usize].mode else {
                return false;
            };
            window.flushed(batch);
            let waits_on = window.is_waiting();
            self.list_confirm(key.slot);
            self.channels[key.slot as usize].is_unconfirmed = waits_on;
            waits_on
        });
        self.unconfirmed = waiting;
        while let Some(&(_, key, below)) = self.permissions.front().filter(|&&(of, ..)| of <= batch)
        {
            self.permissions.pop_front();
            if self.queue_is(key) {
                let queue = &mut self.queues[key.slot as usize];
                queue.permitted = below;
                if queue.wait == Wait::Permission {
                    queue.wait = Wait::None;
                }
                self.list(key.slot);
            }
        }
    }

    /// Puts a channel on the list of those with a confirm to send.
    #[inline]
    pub(super) fn list_confirm(&mut self, slot: u32) {
        let channel = &mut self.channels[slot as usize];
        if !channel.is_listed {
            channel.is_listed = true;
            self.confirming.push(slot);
        }
    }

    /// Sends the confirms that are due, one a channel.
    pub fn send_confirms<S: Sink>(&mut self, sink: &mut S) {
        for slot in std::mem::take(&mut self.confirming) {
            let Some(channel) = self.channels.get_mut(slot as usize) else {
                continue;
            };
            channel.is_listed = false;
            let Mode::Confirm(window) = &mut channel.mode else {
                continue;
            };
            let waiting = window.unconfirmed();
            if let Some((delivery_tag, multiple)) = window.take() {
                let confirmed = waiting - window.unconfirmed();
                self.counters.confirmed += confirmed;
                channel.counters.confirmed += confirmed;
                let outbox = self.sessions[channel.session.slot as usize].outbox;
                sink.method(
                    outbox,
                    channel.number,
                    &basic::Ack {
                        delivery_tag: DeliveryTag(delivery_tag),
                        multiple,
                    },
                );
            }
        }
    }
}

/// Settles an entry of `queue` that no list holds any more.
#[inline]
pub(super) fn settle<S: Sink>(queue: &Queue, entry: Entry, sink: &mut S) {
    match queue.id {
        Some(id) if entry.has(Entry::LOGGED) => sink.settle(id, entry),
        _ => sink.release(entry),
    }
}
