//! Where a message goes: from an exchange through its bindings, and through those of the exchanges
//! they lead to, to queues; each queue once.

use std::hash::{BuildHasher as _, Hasher as _};

use hashbrown::HashTable;

use super::exchange::headers::SortedHeaders;
use super::exchange::{Exchange, ExchangeKey};
use super::queue::{Queue, QueueKey};
use super::{Bindings, Broker, Destination};
use slab::Slab;

/// The last route of a channel, good as long as nothing in the topology or the rights changes.
#[derive(Debug, Default)]
pub struct RouteCache {
    /// The topology's epoch for which the route holds; 0 never does.
    pub epoch: u64,
    /// Exchange and routing key as they came, two adjacent short strings.
    pub names: Vec<u8>,
    /// The exchange.
    pub exchange: Option<ExchangeKey>,
    /// The route depends on the message's headers and must be found anew for each.
    pub by_headers: bool,
    /// The queues.
    pub queues: Vec<QueueKey>,
    /// How many of them keep their messages in the log.
    pub logged: u32,
    /// Messages that took the route and are not in the exchange's count yet.
    pub published: u64,
    /// The same, counted once for each queue that they went to.
    pub routed: u64,
}

impl RouteCache {
    /// Whether the route is the one for `names`.
    #[inline]
    pub fn holds(&self, names: &[u8], epoch: u64) -> bool {
        self.epoch == epoch && self.names == names
    }

    /// The exchange, if a message with these `names` goes to the same one: it is there, and the
    /// channel's user may publish to it.
    pub fn same_exchange(&self, names: &[u8], epoch: u64) -> Option<ExchangeKey> {
        let octets = usize::from(*names.first()?);
        let is_same = self.epoch == epoch && self.names.get(..=octets) == names.get(..=octets);
        self.exchange.filter(|_| is_same)
    }

    /// Takes over the route to one queue, which no headers change.
    pub fn set_queue(&mut self, names: &[u8], queue: QueueKey, is_logged: bool) {
        self.by_headers = false;
        self.names.clear();
        self.names.extend_from_slice(names);
        self.queues.clear();
        self.queues.push(queue);
        self.logged = u32::from(is_logged);
    }
}

/// Octets of exchange and routing key that a [`Remembered`] route has room for.
const NAMES_OCTETS: usize = 46;

/// A route to one queue: one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Remembered {
    exchange: ExchangeKey,
    queue: QueueKey,
    is_logged: bool,
    length: u8,
    names: [u8; NAMES_OCTETS],
}

impl Remembered {
    #[inline]
    fn is(&self, exchange: ExchangeKey, names: &[u8]) -> bool {
        self.exchange == exchange && self.names() == names
    }

    #[inline]
    fn names(&self) -> &[u8] {
        let length = usize::from(self.length).min(NAMES_OCTETS);
        &self.names[..length]
    }
}

#[inline]
fn hash(state: &foldhash::fast::FixedState, exchange: ExchangeKey, names: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u32(exchange.slot);
    hasher.write(names);
    hasher.finish()
}

/// Routes to one queue that were found lately, of all channels: for publishers whose routing key
/// changes from message to message. Takes no memory before one does, 1.2 MiB at most.
///
/// The routes lie in the order in which they were found, in which publishers that go through their
/// keys in turn ask for them; the index of them is small enough to stay near the core.
#[derive(Debug, Default)]
pub(super) struct RouteMemory {
    /// The topology's epoch for which the routes hold.
    epoch: u64,
    routes: Vec<Remembered>,
    /// Places in `routes`, by the hash of exchange and names.
    index: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
}

impl RouteMemory {
    const ROUTES_MAX: usize = 16_384;

    /// The queue that a message with these names goes to, and whether it is logged there.
    #[inline]
    pub(super) fn recall(
        &self,
        epoch: u64,
        exchange: ExchangeKey,
        names: &[u8],
    ) -> Option<(QueueKey, bool)> {
        if self.epoch != epoch || self.routes.is_empty() {
            return None;
        }
        let is_it = |&at: &u32| self.routes[at as usize].is(exchange, names);
        let &at = self
            .index
            .find(hash(&self.hasher, exchange, names), is_it)?;
        let route = &self.routes[at as usize];
        Some((route.queue, route.is_logged))
    }

    /// Remembers where messages with these names go; they are not among the routes.
    pub(super) fn remember(
        &mut self,
        epoch: u64,
        exchange: ExchangeKey,
        names: &[u8],
        queue: QueueKey,
        is_logged: bool,
    ) {
        if names.len() > NAMES_OCTETS {
            return;
        }
        if self.epoch != epoch {
            self.epoch = epoch;
            self.routes.clear();
            self.index.clear();
        }
        let mut route = Remembered {
            exchange,
            queue,
            is_logged,
            length: names.len() as u8,
            names: [0; NAMES_OCTETS],
        };
        route.names[..names.len()].copy_from_slice(names);
        let hashed = hash(&self.hasher, exchange, names);
        let at = if self.routes.len() < Self::ROUTES_MAX {
            self.routes.push(route);
            self.routes.len() - 1
        } else {
            // Any of them: of keys that come in turn, too many for all, some are still there.
            let at = (hashed >> 32) as usize % Self::ROUTES_MAX;
            let old = &self.routes[at];
            let old = hash(&self.hasher, old.exchange, old.names());
            if let Ok(entry) = self.index.find_entry(old, |&other| other as usize == at) {
                entry.remove();
            }
            self.routes[at] = route;
            at
        };
        let RouteMemory {
            routes,
            index,
            hasher,
            ..
        } = self;
        index.insert_unique(hashed, at as u32, |&at| {
            let route = &routes[at as usize];
            hash(hasher, route.exchange, route.names())
        });
    }
}

/// Marks what routing has seen; kept between messages for its memory.
#[derive(Debug, Default)]
pub(super) struct Router {
    round: u64,
    exchanges: Vec<ExchangeKey>,
}

impl Router {
    /// Collects the queues that a message published to `exchange` reaches, each once, in the
    /// order in which they are found. Loops of exchanges end since each is visited once.
    ///
    /// * `headers`: the message's own; `None` asks for a route that holds for all messages with the
    ///   routing key. Where an exchange on the way looks at headers there is none: the answer is
    ///   false then, and what was found means nothing.
    /// * `effort`: see [`Broker::effort`].
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the broker that routing reads"
    )]
    pub(super) fn route(
        &mut self,
        exchange: ExchangeKey,
        routing_key: &[u8],
        headers: Option<&SortedHeaders<'_>>,
        exchanges: &mut Slab<Exchange>,
        queues: &mut Slab<Queue>,
        bindings: &Bindings,
        effort: &mut u64,
        found: &mut Vec<QueueKey>,
    ) -> bool {
        self.round += 1;
        let round = self.round;
        let no_headers = SortedHeaders::default();
        self.exchanges.clear();
        self.exchanges.push(exchange);
        exchanges[exchange.slot as usize].mark = round;
        let mut at = 0;
        while let Some(&current) = self.exchanges.get(at) {
            at += 1;
            let (mut further, known) = (Vec::new(), &mut self.exchanges);
            let exchange = &mut exchanges[current.slot as usize];
            if headers.is_none() && exchange.reads_headers() {
                return false;
            }
            let headers = headers.unwrap_or(&no_headers);
            *effort += 1;
            *effort += exchange.route(routing_key, headers, bindings, |binding| {
                match bindings[binding].destination {
                    Destination::Queue(key) => {
                        // One that is gone may have bindings left.
                        let queue = queues.get_mut(key.slot as usize);
                        if let Some(queue) = queue
                            && queue.generation == key.generation
                            && queue.mark != round
                        {
                            queue.mark = round;
                            found.push(key);
                        }
                    }
                    Destination::Exchange(key) => further.push(key),
                }
            });
            for key in further {
                let exchange = exchanges.get_mut(key.slot as usize);
                if let Some(exchange) = exchange
                    && exchange.generation == key.generation
                    && exchange.mark != round
                {
                    exchange.mark = round;
                    known.push(key);
                }
            }
        }
        true
    }
}

impl Broker {
    /// Collects the queues that a message reaches; see [`Router::route`].
    pub(super) fn route(
        &mut self,
        exchange: ExchangeKey,
        routing_key: &[u8],
        headers: Option<&SortedHeaders<'_>>,
        found: &mut Vec<QueueKey>,
    ) -> bool {
        let of = &self.exchanges[exchange.slot as usize];
        if of.name.is_empty() {
            found.extend(self.queue_key(of.vhost, routing_key));
            return true;
        }
        self.router.route(
            exchange,
            routing_key,
            headers,
            &mut self.exchanges,
            &mut self.queues,
            &self.bindings,
            &mut self.effort,
            found,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCHANGE: ExchangeKey = ExchangeKey {
        slot: 3,
        generation: 1,
    };

    fn names(number: u32) -> Vec<u8> {
        let key = format!("queue-{number}");
        let mut names = vec![0, key.len() as u8];
        names.extend_from_slice(key.as_bytes());
        names
    }

    fn queue(slot: u32) -> QueueKey {
        QueueKey {
            slot,
            generation: slot + 1,
        }
    }

    /// How many of `numbers` are remembered; what is must be right.
    fn known(memory: &RouteMemory, epoch: u64, numbers: std::ops::Range<u32>) -> usize {
        let mut known = 0;
        for number in numbers {
            if let Some(found) = memory.recall(epoch, EXCHANGE, &names(number)) {
                assert_eq!(found, (queue(number), number % 2 == 0));
                known += 1;
            }
        }
        known
    }

    #[test]
    fn routes_are_remembered_up_to_a_bound_and_for_one_epoch() {
        let mut memory = RouteMemory::default();
        let most = RouteMemory::ROUTES_MAX as u32;
        assert_eq!(known(&memory, 0, 0..1), 0);
        for number in 0..most * 3 {
            memory.remember(1, EXCHANGE, &names(number), queue(number), number % 2 == 0);
            if number + 1 == most {
                assert_eq!(known(&memory, 1, 0..most), RouteMemory::ROUTES_MAX);
            }
        }
        // Any of the old ones made room, none is found twice or in another's place.
        assert_eq!(known(&memory, 1, 0..most * 3), RouteMemory::ROUTES_MAX);
        assert_eq!(memory.index.len(), RouteMemory::ROUTES_MAX);
        assert!(known(&memory, 1, 0..most * 2) > 0);
        assert_eq!(known(&memory, 2, 0..most * 3), 0);
        let other = ExchangeKey {
            generation: 2,
            ..EXCHANGE
        };
        assert_eq!(memory.recall(1, other, &names(most * 3 - 1)), None);
        memory.remember(2, EXCHANGE, &names(4), queue(4), true);
        assert_eq!(known(&memory, 2, 0..most * 3), 1);
        assert_eq!(memory.recall(1, EXCHANGE, &names(4)), None);
    }

    #[test]
    fn names_without_room_are_not_remembered() {
        let mut memory = RouteMemory::default();
        for length in [NAMES_OCTETS, NAMES_OCTETS + 1] {
            let names = vec![7; length];
            memory.remember(1, EXCHANGE, &names, queue(1), false);
            let is_known = memory.recall(1, EXCHANGE, &names).is_some();
            assert_eq!(is_known, length == NAMES_OCTETS);
        }
    }
}
