//! `basic.publish`: permission, route, storage, and the first chance to deliver.

use super::Broker;
use super::channel::Mode;
use super::confirm::Batch;
use super::exception::Exception;
use super::exchange::ExchangeKey;
use super::exchange::headers::SortedHeaders;
use super::queue::{Queue, QueueKey, Wait};
use super::reply_to::is_reply_queue;
use super::sink::Sink;
use super::tx::TxPublish;
use crate::auth::Access;
use crate::clock::Now;
use crate::message::{Body, Entry, Message};
use crate::wire::content::Properties;

/// A message to be published, as the connection hands it in.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// The message; its properties are well formed.
    pub message: Message<'a>,
    /// It comes back when no queue takes it.
    pub mandatory: bool,
    /// Not implemented by RabbitMQ: refused.
    pub immediate: bool,
    /// `delivery-mode` is 2.
    pub persistent: bool,
    /// A property that the router looks at is among the properties: `user-id`, `expiration` or
    /// `reply-to`.
    pub has_checked_property: bool,
}

impl Broker {
    /// Takes a message from a publisher.
    ///
    /// # Errors
    /// 404 for an exchange that is not there, 403 for one that may not be published to, 406 for a
    /// property that is wrong, 540 for `immediate`.
    #[inline]
    pub fn publish<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        publish: &Publish<'_>,
        sink: &mut S,
    ) -> Result<(), Exception> {
        if publish.immediate {
            return Err(Exception::not_implemented("immediate=true"));
        }
        let epoch = self.epoch;
        let cache = &self.channels[channel as usize].route;
        if !cache.holds(publish.message.names, epoch) && !self.recall(channel, &publish.message) {
            self.find_route(channel, &publish.message)?;
        }
        if publish.has_checked_property
            && let Some(properties) = self.check_properties(channel, publish)?
        {
            let message = Message {
                properties: &properties,
                ..publish.message
            };
            let publish = Publish {
                message,
                has_checked_property: false,
                ..*publish
            };
            return self.publish(now, channel, &publish, sink);
        }
        self.counters.published += 1;
        let state = &mut self.channels[channel as usize];
        state.counters.published += 1;
        if let Mode::Tx(transaction) = &state.mode {
            let octets = publish.message.octets_in_memory();
            transaction.check_room(&self.limits, octets)?;
            let stored = sink.keep(now, &publish.message, 1);
            let entry = Entry::new(stored.at, 0, stored.share_octets, 0);
            if let Mode::Tx(transaction) = &mut self.channels[channel as usize].mode {
                transaction.octets += octets;
                transaction.publishes.push(TxPublish {
                    entry,
                    mandatory: publish.mandatory,
                    is_persistent: publish.persistent,
                });
            }
            return Ok(());
        }
        let batch = self.publish_routed(now, channel, publish, sink);
        let state = &mut self.channels[channel as usize];
        if let Mode::Confirm(window) = &mut state.mode {
            window.publish(batch);
            if batch.is_some() && !state.is_unconfirmed {
                state.is_unconfirmed = true;
                let key = super::ChannelKey {
                    slot: channel,
                    generation: state.generation,
                };
                self.unconfirmed.push(key);
            }
            if !state.is_listed {
                self.list_confirm(channel);
            }
        }
        Ok(())
    }

    /// Routes a message by the channel's cache, which holds its route, and gives it to its queues.
    /// The batch is the one it waits for, when it went to the log.
    pub(super) fn publish_routed<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        publish: &Publish<'_>,
        sink: &mut S,
    ) -> Option<Batch> {
        let cache = &mut self.channels[channel as usize].route;
        cache.published += 1;
        if !cache.by_headers
            && let [queue] = cache.queues[..]
        {
            cache.routed += 1;
            let is_logged = publish.persistent && cache.logged > 0;
            return self.give_to_one_queue(now, queue.slot, &publish.message, is_logged, sink);
        }
        let mut queues = std::mem::take(&mut cache.queues);
        let batch = if cache.by_headers {
            // The exchange looks at headers: the route is this message's own.
            queues.clear();
            let exchange = cache.exchange.expect("a route was found for this message");
            self.route_by_headers(exchange, &publish.message, &mut queues);
            self.give_to_queues(now, channel, &queues, publish, sink)
        } else {
            self.give_to_queues(now, channel, &queues, publish, sink)
        };
        self.effort += queues.len() as u64;
        let cache = &mut self.channels[channel as usize].route;
        cache.routed += queues.len() as u64;
        cache.queues = queues;
        batch
    }

    /// Adds what a channel published by its remembered route to the counts of the exchange.
    pub(super) fn count_published(&mut self, channel: u32) {
        let cache = &mut self.channels[channel as usize].route;
        let (published, routed) = (cache.published, cache.routed);
        (cache.published, cache.routed) = (0, 0);
        if published > 0
            && let Some(key) = cache.exchange
            && self.exchange_is(key)
        {
            let exchange = &mut self.exchanges[key.slot as usize];
            exchange.published_in += published;
            exchange.published_out += routed;
        }
    }

    fn give_to_queues<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        queues: &[QueueKey],
        publish: &Publish<'_>,
        sink: &mut S,
    ) -> Option<Batch> {
        if queues.is_empty() {
            self.unroutable(channel, publish, sink);
            return None;
        }
        self.give_to_many_queues(now, queues, &publish.message, publish.persistent, sink)
    }

    fn unroutable<S: Sink>(&mut self, channel: u32, publish: &Publish<'_>, sink: &mut S) {
        let channel = &mut self.channels[channel as usize];
        // A reply that comes too late is dropped, mandatory or not (RabbitMQ 4.2).
        let is_reply =
            publish.message.exchange().is_empty() && is_reply_queue(publish.message.routing_key());
        if publish.mandatory && !is_reply {
            self.counters.returned += 1;
            channel.counters.returned += 1;
            let outbox = self.sessions[channel.session.slot as usize].outbox;
            sink.give_back(outbox, channel.number, &publish.message);
        } else {
            self.counters.dropped_unroutable += 1;
            channel.counters.dropped_unroutable += 1;
        }
    }

    /// The way of most messages: one queue.
    #[inline]
    fn give_to_one_queue<S: Sink>(
        &mut self,
        now: Now,
        slot: u32,
        message: &Message<'_>,
        is_logged: bool,
        sink: &mut S,
    ) -> Option<Batch> {
        let queue = &mut self.queues[slot as usize];
        queue.counters.published += 1;
        let consumer = if is_idle(queue) {
            self.pick(slot, sink)
        } else {
            None
        };
        if let Some(key) = consumer
            && self.consumers[key as usize].no_ack
            && matches!(message.body, Body::Octets(_))
        {
            self.send_direct(key, message, sink);
            self.delivered_unstored(now, slot, key);
            return None;
        }
        let queue = &mut self.queues[slot as usize];
        let sequence = queue.next_sequence;
        queue.next_sequence += 1;
        let (stored, flags) = match queue.id {
            Some(id) if is_logged => (
                sink.append(now, message, &[(id, sequence)], 1),
                Entry::LOGGED,
            ),
            _ => (sink.keep(now, message, 1), 0),
        };
        let entry = Entry::new(stored.at, sequence, stored.share_octets, flags);
        self.hand_over(now, slot, entry, message, consumer, sink);
        is_logged.then(|| sink.batch())
    }

    /// Gives one message to several queues: one record, however many hold it.
    fn give_to_many_queues<S: Sink>(
        &mut self,
        now: Now,
        queues: &[QueueKey],
        message: &Message<'_>,
        persistent: bool,
        sink: &mut S,
    ) -> Option<Batch> {
        let mut holders = std::mem::take(&mut self.holders);
        let mut logged = std::mem::take(&mut self.logged_to);
        holders.clear();
        logged.clear();
        for key in queues {
            let slot = key.slot;
            let queue = &mut self.queues[slot as usize];
            queue.counters.published += 1;
            let consumer = if is_idle(queue) {
                self.pick(slot, sink)
            } else {
                None
            };
            match consumer {
                Some(key)
                    if self.consumers[key as usize].no_ack
                        && matches!(message.body, Body::Octets(_)) =>
                {
                    self.send_direct(key, message, sink);
                    self.delivered_unstored(now, slot, key);
                }
                _ => {
                    let queue = &mut self.queues[slot as usize];
                    let sequence = queue.next_sequence;
                    queue.next_sequence += 1;
                    let id = queue.id.filter(|_| persistent);
                    logged.extend(id.map(|id| (id, sequence)));
                    let flags = if id.is_some() { Entry::LOGGED } else { 0 };
                    holders.push((slot, sequence, flags, consumer));
                }
            }
        }
        if !holders.is_empty() {
            let count = holders.len() as u32;
            let stored = if logged.is_empty() {
                sink.keep(now, message, count)
            } else {
                sink.append(now, message, &logged, count)
            };
            for &(slot, sequence, flags, consumer) in &holders {
                // Consumers of one channel share its common limit, which the queues before this
                // one may have used up since its consumer was chosen.
                let consumer = consumer.filter(|&key| self.has_common_credit(key));
                let entry = Entry::new(stored.at, sequence, stored.share_octets, flags);
                self.hand_over(now, slot, entry, message, consumer, sink);
            }
        }
        let batch = (!logged.is_empty()).then(|| sink.batch());
        (self.holders, self.logged_to) = (holders, logged);
        batch
    }

    /// Gives a stored message to the consumer whose turn it is, or to the ready ones.
    #[inline]
    fn hand_over<S: Sink>(
        &mut self,
        now: Now,
        slot: u32,
        entry: Entry,
        message: &Message<'_>,
        consumer: Option<u32>,
        sink: &mut S,
    ) {
        if !self.queues[slot as usize].consumers.is_empty() {
            self.renew_permission(slot, sink);
        }
        match consumer {
            Some(key)
                if entry.sequence() < self.queues[slot as usize].permitted
                    && matches!(message.body, Body::Octets(_)) =>
            {
                self.send_direct(key, message, sink);
                self.delivered(now, slot, key, entry, sink);
            }
            _ => self.enqueue(slot, entry, sink),
        }
    }

    /// Takes the route of a message from those that were found lately, if it is among them.
    fn recall(&mut self, channel: u32, message: &Message<'_>) -> bool {
        let cache = &mut self.channels[channel as usize].route;
        let names = message.names;
        let found = cache
            .same_exchange(names, self.epoch)
            .and_then(|exchange| self.routes.recall(self.epoch, exchange, names));
        if let Some((queue, is_logged)) = found {
            cache.set_queue(names, queue, is_logged);
        }
        found.is_some()
    }

    /// Looks the route of a message up and remembers it on the channel.
    #[cold]
    pub(super) fn find_route(
        &mut self,
        channel: u32,
        message: &Message<'_>,
    ) -> Result<(), Exception> {
        let key = self.publishable_exchange(channel, message)?;
        self.count_published(channel);
        let cache = &self.channels[channel as usize].route;
        let is_next = cache.same_exchange(message.names, self.epoch).is_some();
        let mut queues = std::mem::take(&mut self.channels[channel as usize].route.queues);
        queues.clear();
        let by_headers = !self.route(key, message.routing_key(), None, &mut queues);
        if by_headers {
            queues.clear();
        }
        let logged = queues
            .iter()
            .filter(|key| self.queues[key.slot as usize].is_logged())
            .count();
        // One key after the other: it may come again.
        if is_next
            && !by_headers
            && let [queue] = queues[..]
        {
            self.routes
                .remember(self.epoch, key, message.names, queue, logged > 0);
        }
        let cache = &mut self.channels[channel as usize].route;
        cache.epoch = self.epoch;
        cache.names.clear();
        cache.names.extend_from_slice(message.names);
        cache.exchange = Some(key);
        cache.by_headers = by_headers;
        cache.queues = queues;
        cache.logged = logged as u32;
        Ok(())
    }

    /// The exchange a message names, if the channel's user may publish to it. What held for the
    /// message before it holds again as long as nothing changed.
    fn publishable_exchange(
        &self,
        channel: u32,
        message: &Message<'_>,
    ) -> Result<ExchangeKey, Exception> {
        let channel_state = &self.channels[channel as usize];
        let name = message.exchange();
        if let Some(key) = channel_state.route.same_exchange(message.names, self.epoch) {
            return Ok(key);
        }
        let vhost = self.sessions[channel_state.session.slot as usize].vhost;
        let key = self
            .exchange_key(vhost, name)
            .ok_or_else(|| self.no_exchange(vhost, name))?;
        self.check_access(channel, Access::Write, Resource::Exchange(name))?;
        if self.exchanges[key.slot as usize].properties.internal {
            return Err(Exception::access_refused(format!(
                "cannot publish to internal {}",
                self.exchange_shown(vhost, name)
            )));
        }
        Ok(key)
    }

    fn route_by_headers(
        &mut self,
        exchange: ExchangeKey,
        message: &Message<'_>,
        queues: &mut Vec<QueueKey>,
    ) {
        let headers = Properties::stored(message.properties).headers();
        let headers = headers.map_or_else(SortedHeaders::default, SortedHeaders::of);
        self.route(exchange, message.routing_key(), Some(&headers), queues);
    }

    #[cold]
    fn check_properties(
        &self,
        channel: u32,
        publish: &Publish<'_>,
    ) -> Result<Option<Vec<u8>>, Exception> {
        let properties = Properties::stored(publish.message.properties);
        if let Some(expiration) = properties.expiration() {
            super::arguments::check_expiration(expiration.as_bytes())?;
        }
        if let Some(user_id) = properties.user_id() {
            self.check_user_id(channel, user_id.as_bytes())?;
        }
        self.with_reply_to(channel, properties)
    }
}

/// What a permission is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resource<'a> {
    /// An exchange by name.
    Exchange(&'a [u8]),
    /// A queue by name.
    Queue(&'a [u8]),
}

/// Whether a message that comes now is the next to be delivered.
#[inline]
fn is_idle(queue: &mut Queue) -> bool {
    !queue.available.is_empty() && queue.wait == Wait::None && queue.has_no_message()
}
