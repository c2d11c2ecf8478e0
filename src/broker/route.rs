//! Where a message goes: from an exchange through its bindings, and through those of the exchanges
//! they lead to, to queues; each queue once.

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
