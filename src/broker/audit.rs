//! Whether the router's state agrees with itself: for tests, the simulation and the fuzz targets.
//! Nothing here changes anything or is quick.

use crate::message::Entry;
use std::collections::BTreeMap;

use super::Broker;
use super::binding::Binding;
use super::channel::{Channel, Mode, NO_CONSUMER, Unacked};
use super::consumer::Consumer;
use super::exchange::ExchangeKey;
use super::queue::Queue;
use super::slices::Slice;

impl Broker {
    /// Holds every counter against a recount, and every list against what it speaks of.
    ///
    /// # Errors
    /// The first disagreement, in words.
    pub fn audit(&self) -> Result<(), String> {
        let mut unacked_of_queues: BTreeMap<u32, u64> = BTreeMap::new();
        let mut unacked_of_consumers: BTreeMap<u32, u32> = BTreeMap::new();
        for (slot, channel) in &self.channels {
            let held: Vec<&Unacked> = held_by(channel).collect();
            let counted = held.iter().filter(|it| it.consumer != NO_CONSUMER).count();
            if counted as u32 != channel.consumer_unacked {
                return Err(format!(
                    "channel {slot} counts {} deliveries to consumers, it holds {counted}",
                    channel.consumer_unacked
                ));
            }
            for unacked in held {
                if self.queue_is(unacked.queue) {
                    *unacked_of_queues.entry(unacked.queue.slot).or_default() += 1;
                }
                let consumer = self.consumers.get(unacked.consumer as usize);
                if consumer.is_some_and(|it| it.generation == unacked.consumer_generation) {
                    *unacked_of_consumers.entry(unacked.consumer).or_default() += 1;
                }
            }
            for (tag, &key) in &channel.consumers {
                let consumer = self.consumers.get(key as usize);
                if consumer.is_none_or(|it| it.tag() != &**tag || it.channel as usize != slot) {
                    return Err(format!(
                        "channel {slot} lists consumer {key}, which is not its own"
                    ));
                }
            }
        }
        for (key, consumer) in &self.consumers {
            self.audit_consumer(key as u32, consumer, &unacked_of_consumers)?;
        }
        let in_slices = self.slices.iter().flat_map(Slice::deliveries);
        for unacked in in_slices {
            if self.queue_is(unacked.queue) {
                *unacked_of_queues.entry(unacked.queue.slot).or_default() += 1;
            }
        }
        for (slot, queue) in &self.queues {
            let key = self.queue_key_at(slot as u32);
            let unacked = unacked_of_queues.get(&key.slot).copied().unwrap_or(0);
            audit_queue(queue, unacked)?;
            for consumer in queue
                .consumers
                .iter()
                .copied()
                .chain(queue.available.iter())
            {
                if self
                    .consumers
                    .get(consumer as usize)
                    .is_none_or(|it| it.queue != key)
                {
                    return Err(format!(
                        "{} lists consumer {consumer}, which is another's",
                        name(queue)
                    ));
                }
            }
        }
        for (slot, exchange) in &self.exchanges {
            let key = ExchangeKey {
                slot: slot as u32,
                generation: exchange.generation,
            };
            let leaves = |binding: &Binding| binding.source == key;
            let outgoing = self.bindings.iter().filter(|(_, it)| leaves(it)).count();
            let counted: u32 = (self.auto_delete_edges.iter())
                .filter(|((_, source), _)| *source == key)
                .map(|(_, count)| *count)
                .sum();
            if exchange.properties.auto_delete
                && counted + exchange.outgoing_going != exchange.outgoing
            {
                return Err(format!(
                    "auto-delete exchange '{}' has {} bindings, {counted} to what is there, {} not",
                    String::from_utf8_lossy(&exchange.name),
                    exchange.outgoing,
                    exchange.outgoing_going
                ));
            }
            if outgoing as u32 != exchange.outgoing {
                return Err(format!(
                    "exchange '{}' counts {} bindings, {outgoing} leave it",
                    String::from_utf8_lossy(&exchange.name),
                    exchange.outgoing
                ));
            }
        }
        Ok(())
    }

    /// Entries that hold a message, recounted: those of queues, of channels, of transactions, and
    /// those that long work has still to let go of.
    pub fn entries_held(&self) -> u64 {
        let queues = self.queues.iter().map(|(_, queue)| queue.message_count());
        let channels = self.channels.iter().map(|(_, channel)| {
            let publishes = match &channel.mode {
                Mode::Tx(transaction) => transaction.publishes.len(),
                _ => 0,
            };
            held_by(channel).count() as u64 + publishes as u64
        });
        let slices = self.slices.iter().map(Slice::entries);
        queues.chain(channels).chain(slices).sum()
    }

    fn audit_consumer(
        &self,
        key: u32,
        consumer: &Consumer,
        unacked: &BTreeMap<u32, u32>,
    ) -> Result<(), String> {
        let held = unacked.get(&key).copied().unwrap_or(0);
        if held != consumer.unacked {
            return Err(format!(
                "consumer {key} counts {} deliveries, its channel holds {held}",
                consumer.unacked
            ));
        }
        let limit = u32::from(consumer.prefetch_count);
        if limit != 0 && !consumer.no_ack && consumer.unacked > limit {
            return Err(format!(
                "consumer {key} has {} deliveries, its prefetch is {limit}",
                consumer.unacked
            ));
        }
        if !self.queue_is(consumer.queue) {
            return Err(format!("consumer {key} has outlived its queue"));
        }
        let queue = &self.queues[consumer.queue.slot as usize];
        let listed = queue.available.iter().filter(|&other| other == key).count();
        if listed != usize::from(consumer.is_available) {
            return Err(format!("consumer {key} stands {listed} times in the turn"));
        }
        Ok(())
    }
}

fn held_by(channel: &Channel) -> impl Iterator<Item = &Unacked> {
    let in_transaction = match &channel.mode {
        Mode::Tx(transaction) => transaction.settlements.as_slice(),
        _ => &[],
    };
    channel
        .unacked
        .iter()
        .chain(in_transaction.iter().map(|(unacked, _)| unacked))
}

fn audit_queue(queue: &Queue, unacked: u64) -> Result<(), String> {
    let name = name(queue);
    if queue.unacked != unacked {
        return Err(format!(
            "{name} counts {} unacknowledged, channels hold {unacked}",
            queue.unacked
        ));
    }
    if let Err(why) = queue.ready.audit() {
        return Err(format!("{name}: {why}"));
    }
    let last_returned = queue.returned.last().map(Entry::sequence);
    let first_ready = queue.ready.first_sequence();
    if let (Some(last), Some(first)) = (last_returned, first_ready)
        && last >= first
    {
        return Err(format!(
            "{name}: #{last} came back and is younger than #{first}, which never left"
        ));
    }
    Ok(())
}

fn name(queue: &Queue) -> String {
    format!("queue '{}'", String::from_utf8_lossy(&queue.name))
}
