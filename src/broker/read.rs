//! The router's state as others may see it.

use slab::Slab;

use super::binding::Bindings;
use super::channel::Channel;
use super::consumer::Consumer;
use super::exchange::{Exchange, ExchangeKey};
use super::queue::{Queue, QueueCounters, QueueKey};
use super::session::Session;
use super::vhost::Vhost;
use super::{Broker, meter::Meter};
use crate::clock::Now;

impl Broker {
    /// All queues by slot.
    pub fn queues(&self) -> &Slab<Queue> {
        &self.queues
    }

    /// All exchanges by slot.
    pub fn exchanges(&self) -> &Slab<Exchange> {
        &self.exchanges
    }

    /// All bindings but those of the default exchange, which are not written down anywhere.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// All consumers by slot.
    pub fn consumers(&self) -> &Slab<Consumer> {
        &self.consumers
    }

    /// All open channels by slot.
    pub fn channels(&self) -> &Slab<Channel> {
        &self.channels
    }

    /// All open connections by slot.
    pub fn sessions(&self) -> &Slab<Session> {
        &self.sessions
    }

    /// All virtual hosts by index.
    pub fn vhost_slots(&self) -> &Slab<Vhost> {
        &self.vhosts
    }

    /// Octets of the seeded generator for a new password's hash.
    pub fn draw_salt(&mut self) -> [u8; 4] {
        (self.random.draw() as u32).to_be_bytes()
    }

    /// The queue of that name.
    pub fn queue_in(&self, vhost: u32, name: &[u8]) -> Option<QueueKey> {
        self.queue_key(vhost, name)
    }

    /// The exchange of that name.
    pub fn exchange_in(&self, vhost: u32, name: &[u8]) -> Option<ExchangeKey> {
        self.exchange_key(vhost, name)
    }

    /// Looks at the counters of the queue at a slot, if one is there, so that its rates are those
    /// since the last look; says whether they have grown.
    ///
    /// * `since`: when queues were looked at the time before.
    pub fn sample_queue(&mut self, now: Now, since: Now, slot: usize) -> bool {
        let Some(queue) = self.queues.get_mut(slot) else {
            return false;
        };
        let totals = queue.counters.as_array();
        match &mut queue.meter {
            Some(meter) => meter.sample(now, since, totals),
            None if queue.counters == QueueCounters::default() => false,
            none => none
                .insert(Box::new(Meter::start(since, [0; 8])))
                .sample(now, since, totals),
        }
    }

    /// The same for the exchange at a slot.
    pub fn sample_exchange(&mut self, now: Now, since: Now, slot: usize) -> bool {
        let Some(exchange) = self.exchanges.get_mut(slot) else {
            return false;
        };
        let totals = [exchange.published_in, exchange.published_out];
        match &mut exchange.meter {
            Some(meter) => meter.sample(now, since, totals),
            None if totals == [0, 0] => false,
            none => none
                .insert(Box::new(Meter::start(since, [0; 2])))
                .sample(now, since, totals),
        }
    }

    /// Adds what the channel at a slot published to the counts of its exchange.
    pub fn sample_channel(&mut self, slot: usize) {
        if self.channels.contains(slot) {
            self.count_published(slot as u32);
        }
    }
}
