//! Consumers, basic.get, and what becomes of deliveries: ack, nack, reject, recover, close.

use std::collections::VecDeque;

use super::Broker;
use super::channel::{Mode, NO_CONSUMER, Unacked};
use super::command::{Answer, Outcome};
use super::consumer::{Consumer, ConsumerKey};
use super::delivery::settle;
use super::exception::Exception;
use super::publish::Resource;
use super::queue::Wait;
use super::ready::Head;
use super::reply_to::{REPLY_TO, is_reply_queue};
use super::sink::{Fetch, GetOk, Sink};
use super::slices::Slice;
use super::tx::Settlement;
use crate::auth::Access;
use crate::clock::Now;
use crate::message::Entry;
use crate::planted::{Fault, planted};
use crate::wire::encode::DeliverPrefix;
use crate::wire::field_table::FieldValue;
use crate::wire::method::basic;
use crate::wire::{DeliveryTag, ShortString};

/// Deliveries that a closing channel gives back at once; more go in slices.
const REQUEUE_AT_ONCE: usize = 4096;

/// Deliveries that one command settles at once, but for a transaction; more go in slices.
const SETTLED_AT_ONCE: u64 = 8192;

/// Keys of consumers that are gone through at the price of a unit of [`Broker::effort`].
const KEYS_PER_EFFORT: u64 = 64;

impl Broker {
    pub(super) fn consume<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        consume: &basic::Consume<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let vhost = self.vhost_of(channel);
        let name = self.queue_named(channel, consume.queue.as_bytes())?;
        let given = consume.consumer_tag.as_bytes();
        if !given.is_empty()
            && self.channels[channel as usize]
                .consumers
                .contains_key(given)
        {
            return Err(Exception::not_allowed(format!(
                "attempt to reuse consumer tag '{}'",
                consume.consumer_tag
            )));
        }
        let limit = self.limits.consumers_per_channel_max;
        if limit != 0 && self.channels[channel as usize].consumers.len() as u32 >= limit {
            return Err(Exception::not_allowed(format!(
                "reached maximum ({limit}) of consumers per channel"
            )));
        }
        let key = if name == REPLY_TO {
            self.reply_queue(now, channel, consume, sink)?
        } else {
            self.check_access(channel, Access::Read, Resource::Queue(&name))?;
            self.find_queue(channel, &name)?
        };
        super::arguments::check_consumer(&self.queue_shown(vhost, &name), consume.arguments)?;
        let queue = &self.queues[key.slot as usize];
        if queue.has_exclusive_consumer || (consume.exclusive && !queue.consumers.is_empty()) {
            let what = self.queue_shown(vhost, &name);
            return Err(Exception::access_refused(format!(
                "{what} in exclusive use"
            )));
        }
        let tag: Box<[u8]> = if given.is_empty() {
            self.generated_name(b"amq.ctag-").into()
        } else {
            given.into()
        };
        let priority = consume
            .arguments
            .get("x-priority")
            .and_then(FieldValue::as_integer);
        let priority = priority.unwrap_or(0);
        let state = &self.channels[channel as usize];
        let session = state.session.slot;
        self.generation += 1;
        let consumer = Consumer {
            queue: key,
            channel,
            channel_number: state.number,
            session,
            outbox: self.sessions[session as usize].outbox,
            deliver_prefix: DeliverPrefix::new(short(&tag)),
            priority,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            prefetch_count: state.prefetch_count,
            unacked: 0,
            is_available: false,
            is_parked: false,
            generation: self.generation,
            arguments: consume.arguments.as_bytes().into(),
        };
        let consumer_key = self.consumers.insert(consumer) as ConsumerKey;
        self.channels[channel as usize]
            .consumers
            .insert(tag.clone(), consumer_key);
        let queue = &mut self.queues[key.slot as usize];
        queue.consumers.push(consumer_key);
        queue.has_exclusive_consumer = consume.exclusive;
        queue.had_consumer = true;
        queue.has_priorities |= priority != 0;
        self.ask_permission(key.slot, sink);
        // The queue is only listed: consume-ok goes out before the first delivery.
        self.offer(consumer_key);
        Ok(Outcome::now(Answer::ConsumeOk { consumer_tag: tag }))
    }

    pub(super) fn cancel<S: Sink>(
        &mut self,
        channel: u32,
        cancel: &basic::Cancel<'_>,
        sink: &mut S,
    ) -> Outcome {
        let found = self.channels[channel as usize]
            .consumers
            .get(cancel.consumer_tag.as_bytes());
        let mut after = None;
        if let Some(&key) = found {
            let mut pairs = super::record::Pairs::default();
            self.remove_consumer(key, &mut pairs, sink);
            after = super::topology::defined(&pairs, Answer::CancelOk, sink).after;
        }
        Outcome {
            answer: Answer::CancelOk,
            after,
        }
    }

    /// Ends a consumer; an auto-delete queue goes with its last one. What it has unacknowledged
    /// stays with the channel.
    pub(super) fn remove_consumer<S: Sink>(
        &mut self,
        key: ConsumerKey,
        pairs: &mut super::record::Pairs,
        sink: &mut S,
    ) {
        let consumer = self.detach_consumer(key);
        if self.queue_is(consumer.queue) {
            let queue = &self.queues[consumer.queue.slot as usize];
            if queue.properties.auto_delete && queue.consumers.is_empty() {
                self.remove_queue(consumer.queue, pairs, sink);
            }
        }
    }

    /// Takes a consumer off every list, and those of its queue off the queue's when they are there
    /// still: [`Broker::detach_consumers`].
    fn detach_consumer(&mut self, key: ConsumerKey) -> Consumer {
        let consumer = self.consumers.remove(key as usize);
        let is_queue_there = self.queue_is(consumer.queue);
        let channel = &mut self.channels[consumer.channel as usize];
        channel.consumers.remove(consumer.tag());
        if is_queue_there {
            let queue = &mut self.queues[consumer.queue.slot as usize];
            if is_reply_queue(&queue.name) {
                channel.reply_to = None;
            }
            self.effort += queue.consumers.len() as u64 / KEYS_PER_EFFORT;
            take_out(&mut queue.consumers, key);
            if consumer.is_available {
                queue.available.remove(key);
            }
            queue.has_exclusive_consumer &= !consumer.exclusive;
        }
        if consumer.is_parked {
            self.forget_parked(consumer.session);
        }
        consumer
    }

    /// A parked consumer of a session has gone. Its key stays on the session's list until such keys
    /// are the greater part.
    fn forget_parked(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        session.parked_gone += 1;
        if session.parked_gone * 2 > session.parked.len() {
            session.parked_gone = 0;
            let consumers = &self.consumers;
            session.parked.retain(|&key| {
                let consumer = consumers.get(key as usize);
                consumer.is_some_and(|it| it.is_parked && it.session == slot)
            });
        }
    }

    /// Takes consumers that end together, which are those that `goes` says, off the lists of their
    /// queues: their number and those lists may be long, and one by one would cost the product of both.
    pub(super) fn detach_consumers(
        &mut self,
        keys: &[ConsumerKey],
        goes: impl Fn(&Consumer) -> bool,
    ) {
        let place = |&key: &ConsumerKey| (self.consumers[key as usize].queue.slot, key);
        let mut places: Vec<(u32, ConsumerKey)> = keys.iter().map(place).collect();
        places.sort_unstable();
        for of_queue in places.chunk_by(|a, b| a.0 == b.0) {
            let queue = &mut self.queues[of_queue[0].0 as usize];
            let all = queue.consumers.len();
            if of_queue.len() < all / KEYS_PER_EFFORT as usize {
                for &(_, key) in of_queue {
                    self.effort += all as u64 / KEYS_PER_EFFORT;
                    take_out(&mut queue.consumers, key);
                    queue.available.remove(key);
                }
            } else {
                self.effort += all as u64;
                let consumers = &self.consumers;
                let stays = |key: ConsumerKey| !goes(&consumers[key as usize]);
                queue.consumers.retain(|&key| stays(key));
                queue.available.retain(stays);
            }
        }
        for &key in keys {
            self.consumers[key as usize].is_available = false;
        }
    }

    /// Ends a consumer whose queue goes, and tells the client when it understands that.
    pub(super) fn cancel_by_server<S: Sink>(&mut self, key: ConsumerKey, sink: &mut S) {
        let consumer = self.detach_consumer(key);
        let session = &self.sessions[consumer.session as usize];
        if session.consumer_cancel_notify {
            let cancel = basic::Cancel {
                consumer_tag: consumer.deliver_prefix.consumer_tag(),
                no_wait: true,
            };
            sink.method(session.outbox, consumer.channel_number, &cancel);
        }
    }

    pub(super) fn get<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        get: &basic::Get<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let name = self.queue_named(channel, get.queue.as_bytes())?;
        self.check_access(channel, Access::Read, Resource::Queue(&name))?;
        let key = self.find_queue(channel, &name)?;
        let slot = key.slot;
        let unacked_max = self.limits.unacked_per_channel_max;
        if !get.no_ack && self.channels[channel as usize].unacked.len() >= unacked_max as usize {
            return Err(Exception::precondition_failed(format!(
                "{unacked_max} deliveries of the channel wait for their acknowledgement, it gets no more"
            )));
        }
        loop {
            self.queues[slot as usize].used_ms = now.wall_ms;
            let entry = match self.queues[slot as usize].head() {
                Head::Empty => {
                    self.queues[slot as usize].counters.get_empty += 1;
                    self.channels[channel as usize].counters.get_empty += 1;
                    return Ok(Outcome::now(Answer::GetEmpty));
                }
                Head::Entry(entry) => entry,
                Head::Parked(page) => match sink.load(page) {
                    Some(entries) => {
                        self.queues[slot as usize].ready.arrive(page, entries);
                        continue;
                    }
                    None => return Ok(Outcome::now(Answer::NotYet)),
                },
            };
            if entry.sequence() >= self.queues[slot as usize].permitted {
                self.ask_permission(slot, sink);
                return Ok(Outcome::now(Answer::NotYet));
            }
            let state = &self.channels[channel as usize];
            let outbox = self.sessions[state.session.slot as usize].outbox;
            let left = self.queues[slot as usize].message_count() - 1;
            let get_ok = GetOk {
                channel: state.number,
                delivery_tag: state.next_delivery_tag,
                redelivered: entry.has(Entry::REDELIVERED) && !planted(Fault::ForgetRedelivered),
                message_count: u32::try_from(left).unwrap_or(u32::MAX),
            };
            match sink.get_ok(outbox, &get_ok, entry) {
                Fetch::Cold => return Ok(Outcome::now(Answer::NotYet)),
                Fetch::Lost => {
                    self.queues[slot as usize].pop_head();
                    self.settle_gone(slot, entry, sink);
                }
                Fetch::Done => {
                    self.got(channel, key, entry, get.no_ack, sink);
                    return Ok(Outcome::now(Answer::Nothing));
                }
            }
        }
    }

    fn got<S: Sink>(
        &mut self,
        channel: u32,
        queue: super::QueueKey,
        entry: Entry,
        no_ack: bool,
        sink: &mut S,
    ) {
        let state = &mut self.queues[queue.slot as usize];
        state.pop_head();
        let channel = &mut self.channels[channel as usize];
        let redelivered = u64::from(entry.has(Entry::REDELIVERED));
        state.counters.got += u64::from(!no_ack);
        state.counters.got_no_ack += u64::from(no_ack);
        state.counters.redelivered += redelivered;
        channel.counters.got += u64::from(!no_ack);
        channel.counters.got_no_ack += u64::from(no_ack);
        channel.counters.redelivered += redelivered;
        let delivery_tag = channel.next_delivery_tag;
        channel.next_delivery_tag += 1;
        if no_ack {
            self.settle_gone(queue.slot, entry, sink);
        } else {
            state.unacked += 1;
            state.unacked_weight.put(entry);
            channel.unacked.push(Unacked {
                delivery_tag,
                entry,
                queue,
                consumer: NO_CONSUMER,
                consumer_generation: 0,
            });
        }
        self.renew_permission(queue.slot, sink);
    }

    // ---- settlement ----

    #[inline]
    pub(super) fn ack<S: Sink>(
        &mut self,
        channel: u32,
        ack: &basic::Ack,
        sink: &mut S,
    ) -> Result<bool, Exception> {
        self.settle_tags(
            channel,
            ack.delivery_tag,
            ack.multiple,
            Settlement::Ack,
            sink,
        )
    }

    /// Settles the deliveries that an acknowledgement speaks of. Tag 0 with `multiple` is all. Very
    /// many are settled a slice at a time; says whether that was the last.
    pub(super) fn settle_tags<S: Sink>(
        &mut self,
        channel: u32,
        DeliveryTag(delivery_tag): DeliveryTag,
        multiple: bool,
        settlement: Settlement,
        sink: &mut S,
    ) -> Result<bool, Exception> {
        let state = &mut self.channels[channel as usize];
        if let Mode::Tx(transaction) = &state.mode {
            transaction.check_room(&self.limits, 0)?;
        }
        let unknown = || {
            let text = format!("unknown delivery tag {delivery_tag}");
            Err(Exception::precondition_failed(text))
        };
        let mut is_done = true;
        if multiple {
            if state.settling == 0 {
                // As in RabbitMQ the tag itself must be outstanding, not only some below it.
                state.settling = match delivery_tag {
                    0 => state.unacked.last_tag().unwrap_or(0),
                    tag if state.unacked.contains(tag) => tag,
                    _ => return unknown(),
                };
            }
            // A transaction only notes them, and takes all of them or none.
            if matches!(state.mode, Mode::Tx(_)) {
                let up_to = std::mem::take(&mut state.settling);
                while let Some(unacked) = self.take_first_up_to(channel, up_to) {
                    self.settle_one(channel, unacked, settlement, sink);
                }
            } else {
                is_done = self.settle_many(channel, settlement, sink);
            }
        } else {
            let Some(unacked) = state.unacked.take(delivery_tag) else {
                return unknown();
            };
            self.settle_one(channel, unacked, settlement, sink);
        }
        self.credit_returned(channel);
        Ok(is_done)
    }

    /// Settles deliveries up to [`Channel::settling`](super::Channel::settling), not too many at once;
    /// says whether that was all of them.
    #[inline]
    fn settle_many<S: Sink>(&mut self, channel: u32, settlement: Settlement, sink: &mut S) -> bool {
        let up_to = self.channels[channel as usize].settling;
        for settled in 0..SETTLED_AT_ONCE {
            let Some(unacked) = self.take_first_up_to(channel, up_to) else {
                let state = &mut self.channels[channel as usize];
                state.settling = 0;
                state.unacked.forget_peak();
                self.effort += settled;
                return true;
            };
            self.settle_delivery(channel, unacked, settlement, sink);
        }
        self.effort += SETTLED_AT_ONCE;
        false
    }

    #[inline]
    fn take_first_up_to(&mut self, channel: u32, delivery_tag: u64) -> Option<Unacked> {
        self.channels[channel as usize]
            .unacked
            .take_first_up_to(delivery_tag)
    }

    #[inline]
    fn settle_one<S: Sink>(
        &mut self,
        channel: u32,
        unacked: Unacked,
        settlement: Settlement,
        sink: &mut S,
    ) {
        if let Mode::Tx(transaction) = &mut self.channels[channel as usize].mode {
            transaction.settlements.push((unacked, settlement));
            return;
        }
        self.settle_delivery(channel, unacked, settlement, sink);
    }

    /// Settles a delivery that is on no list any more.
    pub(super) fn settle_delivery<S: Sink>(
        &mut self,
        channel: u32,
        unacked: Unacked,
        settlement: Settlement,
        sink: &mut S,
    ) {
        let state = &mut self.channels[channel as usize];
        state.counters.acknowledged += u64::from(settlement == Settlement::Ack);
        if unacked.consumer != NO_CONSUMER {
            state.consumer_unacked -= 1;
            let has_limited = state.has_limited;
            if let Some(consumer) = self.consumers.get_mut(unacked.consumer as usize)
                && consumer.generation == unacked.consumer_generation
            {
                consumer.unacked -= 1;
                // Where others wait for the same credit, it comes back with theirs and in turn.
                if !consumer.is_available && !has_limited {
                    self.offer(unacked.consumer);
                }
            }
        }
        if settlement == Settlement::Requeue {
            self.requeue(&unacked, sink);
        } else if self.queue_is(unacked.queue) {
            let queue = &mut self.queues[unacked.queue.slot as usize];
            queue.unacked -= 1;
            queue.unacked_weight.take(unacked.entry);
            queue.counters.acknowledged += u64::from(settlement == Settlement::Ack);
            settle(queue, unacked.entry, sink);
        } else {
            sink.release(unacked.entry);
        }
    }

    /// Puts a delivery back to its place in its queue, if that is still there.
    pub(super) fn requeue<S: Sink>(&mut self, unacked: &Unacked, sink: &mut S) {
        if self.queue_is(unacked.queue) {
            let queue = &mut self.queues[unacked.queue.slot as usize];
            queue.give_back(unacked.entry);
            if queue.wait == Wait::Storage {
                // The head has changed; what was waited for is no longer next.
                queue.wait = Wait::None;
            }
            self.list(unacked.queue.slot);
        } else {
            sink.release(unacked.entry);
        }
    }

    /// The channel's common limit may allow more again: its consumers stand in line for it, the one
    /// behind the last that was served first, or those behind it would never get any.
    #[inline]
    pub(super) fn credit_returned(&mut self, channel: u32) {
        let state = &mut self.channels[channel as usize];
        if state.has_limited && state.consumer_unacked < state.consumer_unacked_max {
            state.has_limited = false;
            let mut keys: Vec<ConsumerKey> = state.consumers.values().copied().collect();
            keys.sort_unstable();
            let last_served = state.last_served;
            let next = keys.partition_point(|&key| key <= last_served);
            keys.rotate_left(next);
            for key in keys {
                self.offer(key);
            }
        }
    }

    pub(super) fn qos(&mut self, channel: u32, qos: basic::Qos) -> Result<Outcome, Exception> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Exception::not_implemented(text));
        }
        let state = &mut self.channels[channel as usize];
        if qos.global {
            state.global_prefetch_count = qos.prefetch_count;
        } else {
            // As in RabbitMQ a limit for each consumer takes the channel's common one away.
            state.prefetch_count = qos.prefetch_count;
            state.global_prefetch_count = 0;
        }
        let unacked_max = self.limits.unacked_per_channel_max;
        state.consumer_unacked_max = match state.global_prefetch_count {
            0 => unacked_max,
            count => unacked_max.min(count.into()),
        };
        self.credit_returned(channel);
        Ok(Outcome::now(Answer::QosOk))
    }

    pub(super) fn recover<S: Sink>(
        &mut self,
        channel: u32,
        requeue: bool,
        answer: bool,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        if !requeue {
            return Err(Exception::not_implemented("requeue=false"));
        }
        let state = &mut self.channels[channel as usize];
        if state.settling == 0 {
            state.settling = state.unacked.last_tag().unwrap_or(0);
        }
        let is_done = self.settle_many(channel, Settlement::Requeue, sink);
        self.credit_returned(channel);
        Ok(Outcome::now(if !is_done {
            Answer::GoesOn
        } else if answer {
            Answer::RecoverOk
        } else {
            Answer::Nothing
        }))
    }

    /// Gives everything that a closing channel has unacknowledged back to the queues.
    pub(super) fn requeue_all<S: Sink>(&mut self, mut deliveries: VecDeque<Unacked>, sink: &mut S) {
        let at_once = deliveries.len().min(REQUEUE_AT_ONCE);
        for unacked in deliveries.drain(..at_once) {
            self.requeue(&unacked, sink);
        }
        if !deliveries.is_empty() {
            self.slices.push_back(Slice::Requeue(deliveries));
        }
    }
}

/// Takes a consumer out of a list, which keeps its order.
fn take_out(list: &mut Vec<ConsumerKey>, key: ConsumerKey) {
    if let Some(at) = list.iter().position(|&other| other == key) {
        list.remove(at);
    }
}

/// A consumer tag as a short string, which it was when it came.
fn short(tag: &[u8]) -> ShortString<'_> {
    ShortString::new(tag).expect("tags come as short strings or are generated shorter")
}
