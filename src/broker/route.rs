//! Where a message goes: from an exchange through its bindings, and through those of the exchanges
//! they lead to, to queues; each queue once.

use std::hash::{BuildHasher as _, Hasher as _};

use super::exchange::headers::SortedHeaders;
use super::exchange::{Exchange, ExchangeKey};
use super::queue::{Queue, QueueKey};
use super::{Bindings, Destination};
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

    /// Takes over the route to one queue.
    pub fn set_queue(&mut self, names: &[u8], queue: QueueKey, is_logged: bool) {
        self.names.clear();
        self.names.extend_from_slice(names);
        self.queues.clear();
        self.queues.push(queue);
        self.logged = u32::from(is_logged);
    }
}

/// Octets of exchange and routing key that a [`Remembered`] route has room for.
const NAMES_OCTETS: usize = 38;

/// A route to one queue: one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Remembered {
    epoch: u64,
    exchange: ExchangeKey,
    queue: QueueKey,
    is_logged: bool,
    length: u8,
    names: [u8; NAMES_OCTETS],
}

impl Remembered {
    /// Holds for no epoch.
    const NONE: Remembered = Remembered {
        epoch: 0,
        exchange: ExchangeKey {
            slot: 0,
            generation: 0,
        },
        queue: QueueKey {
            slot: 0,
            generation: 0,
        },
        is_logged: false,
        length: 0,
        names: [0; NAMES_OCTETS],
    };

    #[inline]
    fn is(&self, epoch: u64, exchange: ExchangeKey, names: &[u8]) -> bool {
        self.epoch == epoch
            && self.exchange == exchange
            && self.names.get(..usize::from(self.length)) == Some(names)
    }
}

/// Routes to one queue that were found lately, of all channels: for publishers whose routing key
/// changes from message to message. Takes no memory before one does, 1 MiB at most.
#[derive(Debug, Default)]
pub(super) struct RouteMemory {
    /// Pairs of neighbours; a route lies in one of the two that its hash names.
    routes: Vec<Remembered>,
    /// Routes that pushed out one that held.
    crowded: usize,
    hasher: foldhash::fast::FixedState,
}

impl RouteMemory {
    const ROUTES_MIN: usize = 256;
    const ROUTES_MAX: usize = 16_384;

    fn hash(&self, exchange: ExchangeKey, names: &[u8]) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(exchange.slot);
        hasher.write(names);
        hasher.finish() as usize
    }

    /// The queue that a message with these names goes to, and whether it is logged there.
    #[inline]
    pub(super) fn recall(
        &self,
        epoch: u64,
        exchange: ExchangeKey,
        names: &[u8],
    ) -> Option<(QueueKey, bool)> {
        if self.routes.is_empty() {
            return None;
        }
        let at = self.hash(exchange, names) & (self.routes.len() - 1);
        let found = [at, at ^ 1]
            .map(|at| &self.routes[at])
            .into_iter()
            .find(|route| route.is(epoch, exchange, names))?;
        Some((found.queue, found.is_logged))
    }

    /// Remembers where messages with these names go.
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
        if self.routes.is_empty() {
            self.routes = vec![Remembered::NONE; Self::ROUTES_MIN];
        }
        if self.crowded > self.routes.len() / 4 && self.routes.len() < Self::ROUTES_MAX {
            self.routes = vec![Remembered::NONE; self.routes.len() * 4];
            self.crowded = 0;
        }
        let mut at = self.hash(exchange, names) & (self.routes.len() - 1);
        if self.routes[at].epoch == epoch {
            at ^= 1;
            self.crowded += usize::from(self.routes[at].epoch == epoch);
        }
        let mut route = Remembered {
            epoch,
            exchange,
            queue,
            is_logged,
            length: names.len() as u8,
            ..Remembered::NONE
        };
        route.names[..names.len()].copy_from_slice(names);
        self.routes[at] = route;
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
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the broker that routing reads"
    )]
    pub(super) fn route(
        &mut self,
        exchange: ExchangeKey,
        routing_key: &[u8],
        headers: &SortedHeaders<'_>,
        exchanges: &mut Slab<Exchange>,
        queues: &mut Slab<Queue>,
        bindings: &Bindings,
        found: &mut Vec<QueueKey>,
    ) {
        self.round += 1;
        let round = self.round;
        self.exchanges.clear();
        self.exchanges.push(exchange);
        exchanges[exchange.slot as usize].mark = round;
        let mut at = 0;
        while let Some(&current) = self.exchanges.get(at) {
            at += 1;
            let (mut further, known) = (Vec::new(), &mut self.exchanges);
            exchanges[current.slot as usize].route(routing_key, headers, bindings, |binding| {
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
    }
}
