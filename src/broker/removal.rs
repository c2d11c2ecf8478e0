//! What becomes of bindings when one of their ends goes.
//!
//! An exchange or a queue is gone at once, however many bindings it has: its name is free of it,
//! nothing can be routed through it, and keys that still name it miss, since their generation is
//! no longer there. Few bindings go with it, many go in slices. Until they have, the end is
//! remembered as *going*: the definitions of its durable bindings are known by its name, which
//! cannot be given again meanwhile. Its own definition goes first: bindings that a crash leaves
//! behind have an end that is missing, and are forgotten at the next start.

use super::Broker;
use super::binding::{BindingKey, BindingRef, Destination, take_out};
use super::exchange::{Exchange, ExchangeKey};
use super::queue::QueueKey;
use super::record::{Definition, Pairs};
use super::slices::Slice;
use std::collections::btree_map::Entry;

/// Auto-delete exchanges that go with each other; more go in a later slice.
const EXCHANGES_AT_ONCE_MAX: usize = 1024;

/// What removing a binding costs, counted in entries of long work.
pub const BINDING_COST: usize = 4;

/// An exchange or a queue that is gone and has bindings left.
#[derive(Debug)]
pub(super) struct GoingEnd {
    end: Destination,
    /// Index of its virtual host, which stays as long.
    pub(super) vhost: u32,
    name: Box<[u8]>,
    is_durable: bool,
}

/// Keys of bindings; `None` is a step that brought none.
type Keys = Box<dyn Iterator<Item = Option<BindingKey>>>;

/// Bindings that go since an end of theirs is gone. Keys may be stale by the time that their turn
/// comes: the other end may have taken the binding along.
pub(super) struct BindingRemoval {
    end: Destination,
    keys: Keys,
}

impl std::fmt::Debug for BindingRemoval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = &self.end;
        f.debug_struct("BindingRemoval")
            .field("end", end)
            .finish_non_exhaustive()
    }
}

/// Looks at an end of a binding, there or going: index of its virtual host, name, durable.
type EndSeen<'a> = (u32, &'a [u8], bool);

impl Broker {
    /// Removes an exchange with its bindings, and the auto-delete exchanges that lose their last
    /// binding by it, and so on.
    pub(super) fn remove_exchange(&mut self, key: ExchangeKey, pairs: &mut Pairs) {
        self.remove_exchanges(vec![key], pairs);
    }

    /// Removes exchanges that are still there as [`Broker::remove_exchange`] does; when there are
    /// very many, the rest in a later slice.
    pub(super) fn remove_exchanges(&mut self, mut doomed: Vec<ExchangeKey>, pairs: &mut Pairs) {
        let mut removed = 0;
        while let Some(key) = doomed.pop() {
            if !self.exchange_is(key) {
                continue;
            }
            if removed == EXCHANGES_AT_ONCE_MAX {
                doomed.push(key);
                self.slices.push_back(Slice::RemoveExchanges(doomed));
                break;
            }
            removed += 1;
            let mut exchange = self.exchanges.remove(key.slot as usize);
            let vhost = &mut self.vhosts[exchange.vhost as usize];
            vhost.exchanges.remove(&exchange.name);
            if exchange.properties.durable {
                pairs.remove(Definition::exchange_key(&vhost.name, &exchange.name));
            }
            let incoming = std::mem::take(&mut exchange.incoming);
            let count = exchange.outgoing as usize + incoming.len();
            let going = GoingEnd {
                end: Destination::Exchange(key),
                vhost: exchange.vhost,
                name: std::mem::take(&mut exchange.name),
                is_durable: exchange.properties.durable,
            };
            let keys = Exchange::into_bindings(exchange).chain(incoming.into_iter().map(Some));
            doomed.extend(self.remove_bindings_of(going, Box::new(keys), count, pairs));
        }
        self.topology_changed();
    }

    /// Removes the bindings that lead to a queue, which is no longer there.
    pub(super) fn remove_bindings_to(
        &mut self,
        key: QueueKey,
        queue: &mut super::Queue,
        pairs: &mut Pairs,
    ) {
        let bindings = std::mem::take(&mut queue.bindings);
        if bindings.is_empty() {
            return;
        }
        let count = bindings.len();
        let going = GoingEnd {
            end: Destination::Queue(key),
            vhost: queue.vhost,
            name: queue.name.clone(),
            is_durable: queue.is_logged(),
        };
        let keys = Box::new(bindings.into_iter().map(Some));
        let doomed = self.remove_bindings_of(going, keys, count, pairs);
        self.remove_exchanges(doomed, pairs);
    }

    /// Removes the bindings of an end that is no longer there, or leaves them to slices. Gives the
    /// exchanges that are to go with their last binding.
    fn remove_bindings_of(
        &mut self,
        going: GoingEnd,
        keys: Keys,
        count: usize,
        pairs: &mut Pairs,
    ) -> Vec<ExchangeKey> {
        let mut removal = BindingRemoval {
            end: going.end,
            keys,
        };
        let mut doomed = self.edges_removed(going.end);
        self.going.push(going);
        if count > self.limits.removals_at_once_max {
            self.slices.push_back(Slice::RemoveBindings(removal));
            return doomed;
        }
        self.remove_bindings(&mut removal, usize::MAX, &mut doomed, pairs);
        doomed
    }

    /// Removes bindings for up to `budget`; says how much of it is left, which is 0 as long as
    /// there may be more.
    pub(super) fn remove_bindings(
        &mut self,
        removal: &mut BindingRemoval,
        budget: usize,
        doomed: &mut Vec<ExchangeKey>,
        pairs: &mut Pairs,
    ) -> usize {
        let mut left = budget;
        while left > 0 {
            let Some(step) = removal.keys.next() else {
                self.going.retain(|going| going.end != removal.end);
                return left;
            };
            let Some(key) = step.filter(|&key| self.is_binding_of(key, removal.end)) else {
                left -= 1;
                continue;
            };
            left = left.saturating_sub(BINDING_COST);
            doomed.extend(self.take_binding(key, pairs));
        }
        0
    }

    fn is_binding_of(&self, key: BindingKey, end: Destination) -> bool {
        self.bindings
            .slots()
            .get(key as usize)
            .is_some_and(|it| it.destination == end || Destination::Exchange(it.source) == end)
    }

    // ---- which auto-delete exchanges go, known before their bindings have gone ----

    /// A binding was added.
    pub(super) fn edge_added(&mut self, source: ExchangeKey, destination: Destination) {
        let properties = &self.exchanges[source.slot as usize].properties;
        if properties.auto_delete {
            let edge = (destination, source);
            *self.auto_delete_edges.entry(edge).or_default() += 1;
        }
    }

    /// A binding is taken off the lists; says whether it was counted still.
    fn edge_removed(&mut self, source: ExchangeKey, destination: Destination) -> bool {
        let Entry::Occupied(mut edge) = self.auto_delete_edges.entry((destination, source)) else {
            return false;
        };
        *edge.get_mut() -= 1;
        if *edge.get() == 0 {
            edge.remove();
        }
        true
    }

    /// A destination is gone; gives the exchanges of which the last binding led there.
    fn edges_removed(&mut self, destination: Destination) -> Vec<ExchangeKey> {
        let first = (destination, ExchangeKey::FIRST);
        let mut unused = Vec::new();
        while let Some((&edge, &count)) = self.auto_delete_edges.range(first..).next()
            && edge.0 == destination
        {
            self.auto_delete_edges.remove(&edge);
            if self.exchange_is(edge.1) {
                let source = &mut self.exchanges[edge.1.slot as usize];
                source.outgoing_going += count;
                unused.extend(source.is_unused().then_some(edge.1));
            }
        }
        unused
    }

    /// Whether it takes the end of long work to tell if anything leads from an exchange.
    pub(super) fn may_be_unused(&self, key: ExchangeKey) -> bool {
        let exchange = &self.exchanges[key.slot as usize];
        !self.going.is_empty() && exchange.outgoing > 0 && !exchange.properties.auto_delete
    }

    /// Removes a binding; an auto-delete exchange goes with its last one.
    pub(super) fn remove_binding(&mut self, key: BindingKey, pairs: &mut Pairs) {
        if let Some(unused) = self.take_binding(key, pairs) {
            self.remove_exchange(unused, pairs);
        }
    }

    /// Takes a binding off the lists of those ends that are there; gives its source when that is
    /// to go with its last binding.
    fn take_binding(&mut self, key: BindingKey, pairs: &mut Pairs) -> Option<ExchangeKey> {
        let of = self.bindings[key].parts();
        if self.is_durable_binding(&of) {
            pairs.remove(self.binding_definition(&of).key);
        }
        let binding = self.bindings.remove(key);
        let leads_nowhere = !self.edge_removed(binding.source, binding.destination);
        let mut unused = None;
        if self.exchange_is(binding.source) {
            let source = &mut self.exchanges[binding.source.slot as usize];
            if let Some(moved) = source.remove(&binding) {
                self.bindings[moved].at_source = binding.at_source;
            }
            if leads_nowhere && source.properties.auto_delete {
                source.outgoing_going -= 1;
            }
            unused = source.is_unused().then_some(binding.source);
        }
        let leading_there = self.leading_to(binding.destination);
        if let Some(list) = leading_there
            && list.get(binding.at_destination as usize) == Some(&key)
            && let Some(moved) = take_out(list, binding.at_destination)
        {
            self.bindings[moved].at_destination = binding.at_destination;
        }
        self.topology_changed();
        unused
    }

    /// The list of bindings that lead to a destination, when that is there.
    pub(super) fn leading_to(&mut self, destination: Destination) -> Option<&mut Vec<BindingKey>> {
        match destination {
            Destination::Queue(key) => self
                .queues
                .get_mut(key.slot as usize)
                .filter(|it| it.generation == key.generation)
                .map(|it| &mut it.bindings),
            Destination::Exchange(key) => self
                .exchanges
                .get_mut(key.slot as usize)
                .filter(|it| it.generation == key.generation)
                .map(|it| &mut it.incoming),
        }
    }

    fn end_seen(&self, end: Destination) -> EndSeen<'_> {
        let there = match end {
            Destination::Queue(key) if self.queue_is(key) => {
                let queue = &self.queues[key.slot as usize];
                Some((queue.vhost, &*queue.name, queue.is_logged()))
            }
            Destination::Exchange(key) if self.exchange_is(key) => {
                let exchange = &self.exchanges[key.slot as usize];
                Some((exchange.vhost, &*exchange.name, exchange.properties.durable))
            }
            _ => None,
        };
        let going = || self.going.iter().find(|going| going.end == end);
        there
            .or_else(|| going().map(|going| (going.vhost, &*going.name, going.is_durable)))
            .expect("an end of a binding is there or going")
    }

    /// A binding survives a restart when both its ends do.
    pub(super) fn is_durable_binding(&self, of: &BindingRef<'_>) -> bool {
        self.end_seen(Destination::Exchange(of.source)).2 && self.end_seen(of.destination).2
    }

    pub(super) fn binding_definition(&self, of: &BindingRef<'_>) -> super::record::Pair {
        let (vhost, source, _) = self.end_seen(Destination::Exchange(of.source));
        let (_, destination, _) = self.end_seen(of.destination);
        let is_queue = matches!(of.destination, Destination::Queue(_));
        Definition::binding(
            &self.vhosts[vhost as usize].name,
            source,
            is_queue,
            destination,
            of.binding_key,
            of.arguments,
        )
    }

    /// Whether both ends of a binding are there.
    pub fn is_whole(&self, binding: &super::binding::Binding) -> bool {
        self.exchange_is(binding.source)
            && match binding.destination {
                Destination::Queue(key) => self.queue_is(key),
                Destination::Exchange(key) => self.exchange_is(key),
            }
    }

    /// Whether a durable exchange (or queue) of that name has bindings left of which the
    /// definitions are still there, so that the name cannot be given yet.
    pub(super) fn is_going(&self, vhost: u32, is_queue: bool, name: &[u8]) -> bool {
        self.going.iter().any(|going| {
            going.is_durable
                && matches!(going.end, Destination::Queue(_)) == is_queue
                && going.vhost == vhost
                && *going.name == *name
        })
    }

    /// Whether bindings or exchanges are still to be removed that nothing is routed through any
    /// more.
    pub fn is_removing(&self) -> bool {
        let is_removal =
            |slice: &Slice| matches!(slice, Slice::RemoveBindings(_) | Slice::RemoveExchanges(_));
        !self.going.is_empty() || self.slices.iter().any(is_removal)
    }

    /// Whether something of a virtual host is still going.
    pub(super) fn has_going(&self, vhost: u32) -> bool {
        self.going.iter().any(|going| going.vhost == vhost)
    }

    /// Whether a name has become free since this was asked last: commands that were not taken
    /// for it may be given again.
    pub fn take_name_free(&mut self) -> bool {
        std::mem::take(&mut self.is_name_free)
    }
}
