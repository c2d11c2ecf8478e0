//! The tables.
//!
//! Tables are walked by slot, a bounded number of slots a call, so that a listing of a million
//! objects never holds the loop. A cursor is a slot and the generation of what was seen there, so
//! that a slot which has changed hands is passed over. Bindings have two parts: the ones that
//! every queue has with the default exchange, by the queue's slot, and the others.

use slab::Slab;

use super::row::{channel_row, connection_name, vhost_row};
use crate::admin::{ConsumerRow, Cursor, DestinationKind, Row, Scope};
use crate::broker::binding::Binding;
use crate::broker::channel::Channel;
use crate::broker::consumer::Consumer;
use crate::broker::exchange::Exchange;
use crate::broker::queue::Queue;
use crate::broker::vhost::Vhost;
use crate::engine::Engine;
use crate::engine::peer::{Peer, ends};
use crate::storage::Storage;
use crate::wire::field_table::FieldTable;

/// Slots that one call looks at beyond the rows it is asked for.
pub(super) const SLOTS_PER_CALL: u64 = 1024;

/// Cursors of bindings from here on are keys of bindings; below, slots of queues.
const EXPLICIT: u64 = 1 << 40;

type Visit<'a> = &'a mut dyn FnMut(Cursor, Row<'_>);

/// Finds its way through a slab: rows from a cursor on, within bounds.
pub(super) struct Walk {
    pub(super) from: Cursor,
    /// Added to slots to make cursors.
    pub(super) base: u64,
    pub(super) rows_left: usize,
    pub(super) slots_left: u64,
}
impl Walk {
    /// Visits; `row` says whether what is there was one of the rows that are wanted. Gives the
    /// place to go on at when a bound was met.
    fn through<T>(
        &mut self,
        slab: &Slab<T>,
        generation: impl Fn(&T) -> u64,
        mut row: impl FnMut(Cursor, usize, &T) -> bool,
    ) -> Option<Cursor> {
        let first = self.from.major.saturating_sub(self.base);
        for slot in first..slab.capacity() as u64 {
            let major = self.base + slot;
            if self.rows_left == 0 || self.slots_left == 0 {
                return Some(Cursor { major, minor: 0 });
            }
            self.slots_left -= 1;
            let Some(it) = slab.get(slot as usize) else {
                continue;
            };
            let minor = generation(it);
            let is_other = slot == first && self.from.minor != 0 && self.from.minor != minor;
            if !is_other && row(Cursor { major, minor }, slot as usize, it) {
                self.rows_left -= 1;
            }
        }
        None
    }
}
impl<S: Storage> Engine<S> {
    pub(super) fn vhost_rows(
        &self,
        walk: &mut Walk,
        scope: Scope<'_>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        let depths = self.depths();
        let row = |cursor, index: usize, vhost: &Vhost| {
            if scope.vhost.is_some_and(|wanted| wanted != &*vhost.name) {
                return false;
            }
            let depth = depths.get(index).copied().unwrap_or_default();
            visit(cursor, Row::Vhost(vhost_row(vhost, depth)));
            true
        };
        walk.through(self.broker.vhost_slots(), |_| 1, row)
    }

    pub(super) fn queue_rows(
        &self,
        walk: &mut Walk,
        vhost: Option<u32>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        let row = |cursor, _, queue: &Queue| {
            if vhost.is_some_and(|wanted| wanted != queue.vhost) {
                return false;
            }
            self.with_queue_row(queue, &mut |row| visit(cursor, Row::Queue(row)));
            true
        };
        walk.through(self.broker.queues(), |queue| queue.generation.into(), row)
    }

    pub(super) fn exchange_rows(
        &self,
        walk: &mut Walk,
        vhost: Option<u32>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        let row = |cursor, _, exchange: &Exchange| {
            if vhost.is_some_and(|wanted| wanted != exchange.vhost) {
                return false;
            }
            visit(cursor, Row::Exchange(self.exchange_row(exchange)));
            true
        };
        walk.through(
            self.broker.exchanges(),
            |exchange| exchange.generation.into(),
            row,
        )
    }

    pub(super) fn binding_rows(
        &self,
        walk: &mut Walk,
        vhost: Option<u32>,
        scope: Scope<'_>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        if walk.from.major < EXPLICIT {
            let row = |cursor, _, queue: &Queue| {
                if vhost.is_some_and(|wanted| wanted != queue.vhost)
                    || scope.queue.is_some_and(|wanted| wanted != &*queue.name)
                    || scope.exchange.is_some_and(|wanted| !wanted.is_empty())
                {
                    return false;
                }
                visit(cursor, Row::Binding(self.implicit_binding_row(queue)));
                true
            };
            let generation = |queue: &Queue| queue.generation.into();
            let next = walk.through(self.broker.queues(), generation, row);
            if next.is_some() {
                return next;
            }
            walk.from = Cursor {
                major: EXPLICIT,
                minor: 0,
            };
        }
        walk.base = EXPLICIT;
        let row = |cursor, _, binding: &Binding| {
            if !self.broker.is_whole(binding) {
                return false;
            }
            let row = self.binding_row(binding);
            let is_wanted = vhost.is_none_or(|wanted| wanted == self.vhost_of(binding))
                && scope.queue.is_none_or(|wanted| {
                    row.destination_kind == DestinationKind::Queue && wanted == row.destination
                })
                && scope.exchange.is_none_or(|wanted| {
                    wanted == row.source
                        || row.destination_kind == DestinationKind::Exchange
                            && wanted == row.destination
                });
            if is_wanted {
                visit(cursor, Row::Binding(row));
            }
            is_wanted
        };
        walk.through(self.broker.bindings().slots(), |_| 1, row)
    }

    pub(super) fn connection_rows(
        &self,
        walk: &mut Walk,
        scope: Scope<'_>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        let wanted = match scope.connection {
            Some(name) => Some(ends(name)?),
            None => None,
        };
        let row = |cursor, slot, peer: &Peer| {
            if peer.connection.is_over()
                || wanted.is_some_and(|ends| ends != peer.ends())
                || scope
                    .vhost
                    .is_some_and(|vhost| vhost != peer.connection.client.vhost)
            {
                return false;
            }
            let name = peer.name();
            visit(
                cursor,
                Row::Connection(self.connection_row(slot, peer, &name)),
            );
            true
        };
        walk.through(&self.peers, |peer| peer.generation.into(), row)
    }

    pub(super) fn channel_rows(
        &self,
        walk: &mut Walk,
        vhost: Option<u32>,
        scope: Scope<'_>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        let wanted = match scope.connection {
            Some(name) => Some(ends(name)?),
            None => None,
        };
        let row = |cursor, _, channel: &Channel| {
            let Some((peer, session)) = self.owner(channel.session.slot) else {
                return false;
            };
            if vhost.is_some_and(|wanted| wanted != session.vhost)
                || wanted.is_some_and(|ends| ends != peer.ends())
            {
                return false;
            }
            let name = peer.name();
            let row = channel_row(
                channel,
                connection_name(peer, &name),
                &session.user_name,
                self.vhost_name(session.vhost),
            );
            visit(cursor, Row::Channel(row));
            true
        };
        let generation = |channel: &Channel| channel.generation.into();
        walk.through(self.broker.channels(), generation, row)
    }

    pub(super) fn consumer_rows(
        &self,
        walk: &mut Walk,
        vhost: Option<u32>,
        scope: Scope<'_>,
        visit: Visit<'_>,
    ) -> Option<Cursor> {
        let row = |cursor, _, consumer: &Consumer| {
            let queue = &self.broker.queues()[consumer.queue.slot as usize];
            let Some((peer, session)) = self.owner(consumer.session) else {
                return false;
            };
            if vhost.is_some_and(|wanted| wanted != queue.vhost)
                || scope.queue.is_some_and(|wanted| wanted != &*queue.name)
            {
                return false;
            }
            let name = peer.name();
            let row = ConsumerRow {
                vhost: self.vhost_name(queue.vhost),
                queue: &queue.name,
                consumer_tag: consumer.tag(),
                connection: connection_name(peer, &name),
                channel: consumer.channel_number,
                user: &session.user_name,
                ack_required: !consumer.no_ack,
                exclusive: consumer.exclusive,
                active: true,
                prefetch_count: consumer.prefetch_count,
                arguments: FieldTable::stored(&consumer.arguments),
            };
            visit(cursor, Row::Consumer(row));
            true
        };
        walk.through(self.broker.consumers(), |_| 1, row)
    }
}
