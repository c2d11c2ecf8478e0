//! The server as operators see it: the engine's side of [`Admin`].
//!
//! Tables are walked by slot, a bounded number of slots a call, so that a listing of a million
//! objects never holds the loop. A cursor is a slot and the generation of what was seen there, so
//! that a slot which has changed hands is passed over. Bindings have two parts: the ones that
//! every queue has with the default exchange, by the queue's slot, and the others.

use slab::Slab;

use super::peer::{Peer, ends, shown};
use super::sample::Depth;
use super::{ConnectionId, Engine};
use crate::admin::{
    Admin, AdminAnswer, AdminCommand, BindingRow, ChannelRow, Churn, ConnectionName, ConnectionRow,
    ConsumerRow, Counter, Cursor, DestinationKind, ExchangeRow, HttpId, ListenerRow, MessageStats,
    Overview, QueueRow, Row, Scope, Table, VhostRow,
};
use crate::auth::Users;
use crate::broker::binding::Binding;
use crate::broker::channel::{Channel, Mode};
use crate::broker::consumer::Consumer;
use crate::broker::exchange::Exchange;
use crate::broker::queue::{Queue, QueueCounters};
use crate::broker::vhost::Vhost;
use crate::broker::{Destination, SessionKey};
use crate::clock::Now;
use crate::config::Config;
use crate::storage::Storage;
use crate::wire::field_table::{FieldTable, FieldValue};

/// Slots that one call looks at beyond the rows it is asked for.
const SLOTS_PER_CALL: u64 = 1024;

/// Cursors of bindings from here on are keys of bindings; below, slots of queues.
const EXPLICIT: u64 = 1 << 40;

/// A queue or a connection counts as idle when nothing has happened for so long.
const IDLE_MS: u64 = 10_000;

/// What the operating system says of the process; the reactor asks it, for the engine does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Octets of memory that are no file's.
    pub memory_octets: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// How many may be open.
    pub descriptors_max: u64,
    /// Open HTTP connections.
    pub http_connections: u64,
}

/// What does not change while the server runs, and what others report of it.
#[derive(Debug)]
pub(super) struct Facts {
    product: String,
    version: String,
    node: String,
    cluster_name: String,
    data_dir: String,
    connections_max: u64,
    disk_free_octets_min: u64,
    pub(super) listeners: Vec<ListenerRow>,
    pub(super) figures: Figures,
    /// When the last turn was.
    pub(super) now: Now,
}

impl Facts {
    pub(super) fn new(config: &Config, disk_free_octets_min: u64, now: Now) -> Self {
        let identity = &config.identity;
        Facts {
            product: identity.product.clone(),
            version: identity.version.clone(),
            node: identity.node.clone(),
            cluster_name: identity.cluster_name.clone(),
            data_dir: config.data_dir.display().to_string(),
            connections_max: config.limits.connections_max.into(),
            disk_free_octets_min,
            listeners: Vec::new(),
            figures: Figures::default(),
            now,
        }
    }
}

/// Finds its way through a slab: rows from a cursor on, within bounds.
struct Walk {
    from: Cursor,
    /// Added to slots to make cursors.
    base: u64,
    rows_left: usize,
    slots_left: u64,
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

impl<S: Storage> Admin for Engine<S> {
    fn overview(&self, now: Now) -> Overview<'_> {
        let (facts, broker) = (&self.facts, &self.broker);
        let depths = self.depths();
        Overview {
            product: &facts.product,
            version: &facts.version,
            node: &facts.node,
            cluster_name: &facts.cluster_name,
            data_dir: &facts.data_dir,
            mechanisms: &self.offer.mechanisms,
            uptime_ms: now.monotonic_us / 1000,
            connections: self.peers.len() as u64,
            channels: broker.channels().len() as u64,
            consumers: broker.consumers().len() as u64,
            exchanges: broker.exchanges().len() as u64,
            queues: broker.queues().len() as u64,
            messages_ready: depths.iter().map(|depth| depth.ready).sum(),
            messages_unacknowledged: depths.iter().map(|depth| depth.unacknowledged).sum(),
            stats: self.message_stats(),
            churn: self.churn(),
            memory_octets: facts.figures.memory_octets,
            memory_limit_octets: self.alarms.memory_limit_octets.unwrap_or(0),
            memory_alarm: self.alarms.is_memory_high,
            disk_free_octets: self.plant.store.free_octets(),
            disk_free_limit_octets: facts.disk_free_octets_min,
            disk_alarm: self.alarms.is_disk_low,
            descriptors: facts.figures.descriptors,
            descriptors_max: facts.figures.descriptors_max,
            sockets: self.peers.len() as u64 + facts.figures.http_connections,
            is_serving: !self.is_stopping,
            connections_max: facts.connections_max,
        }
    }

    fn listeners(&self, visit: &mut dyn FnMut(ListenerRow)) {
        self.facts.listeners.iter().copied().for_each(visit);
    }

    fn users(&self) -> &Users {
        &self.broker.users
    }

    fn has_vhost(&self, vhost: &str) -> bool {
        self.broker.vhost_named(vhost).is_some()
    }

    fn rows(
        &self,
        table: Table,
        scope: Scope<'_>,
        from: Cursor,
        rows_max: usize,
        visit: &mut dyn FnMut(Cursor, Row<'_>),
    ) -> Option<Cursor> {
        let vhost = match scope.vhost {
            Some(name) => Some(self.broker.vhost_named(name)?),
            None => None,
        };
        let mut walk = Walk {
            from,
            base: 0,
            rows_left: rows_max.max(1),
            slots_left: SLOTS_PER_CALL.saturating_add(rows_max as u64),
        };
        match table {
            Table::Vhosts => self.vhost_rows(&mut walk, scope, visit),
            Table::Queues => self.queue_rows(&mut walk, vhost, visit),
            Table::Exchanges => self.exchange_rows(&mut walk, vhost, visit),
            Table::Bindings => self.binding_rows(&mut walk, vhost, scope, visit),
            Table::Connections => self.connection_rows(&mut walk, scope, visit),
            Table::Channels => self.channel_rows(&mut walk, vhost, scope, visit),
            Table::Consumers => self.consumer_rows(&mut walk, vhost, scope, visit),
        }
    }

    fn queue(&self, vhost: &str, name: &[u8], visit: &mut dyn FnMut(QueueRow<'_>)) -> bool {
        let key = self.broker.vhost_named(vhost);
        let Some(key) = key.and_then(|vhost| self.broker.queue_in(vhost, name)) else {
            return false;
        };
        self.with_queue_row(&self.broker.queues()[key.slot as usize], visit);
        true
    }

    fn exchange(&self, vhost: &str, name: &[u8], visit: &mut dyn FnMut(ExchangeRow<'_>)) -> bool {
        let key = self.broker.vhost_named(vhost);
        let Some(key) = key.and_then(|vhost| self.broker.exchange_in(vhost, name)) else {
            return false;
        };
        visit(self.exchange_row(&self.broker.exchanges()[key.slot as usize]));
        true
    }

    fn command(&mut self, now: Now, id: HttpId, command: AdminCommand<'_>) -> Option<AdminAnswer> {
        self.manage(now, id, command)
    }
}

// ---- rows ----

type Visit<'a> = &'a mut dyn FnMut(Cursor, Row<'_>);

impl<S: Storage> Engine<S> {
    fn vhost_rows(&self, walk: &mut Walk, scope: Scope<'_>, visit: Visit<'_>) -> Option<Cursor> {
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

    fn queue_rows(&self, walk: &mut Walk, vhost: Option<u32>, visit: Visit<'_>) -> Option<Cursor> {
        let row = |cursor, _, queue: &Queue| {
            if vhost.is_some_and(|wanted| wanted != queue.vhost) {
                return false;
            }
            self.with_queue_row(queue, &mut |row| visit(cursor, Row::Queue(row)));
            true
        };
        walk.through(self.broker.queues(), |queue| queue.generation.into(), row)
    }

    fn exchange_rows(
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

    fn binding_rows(
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

    fn connection_rows(
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

    fn channel_rows(
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

    fn consumer_rows(
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

    fn with_queue_row(&self, queue: &Queue, visit: &mut dyn FnMut(QueueRow<'_>)) {
        let owner = queue.properties.exclusive_to;
        let peer = owner.and_then(|owner: SessionKey| self.owner(owner.slot));
        let name = peer.map(|(peer, _)| peer.name());
        let owner = peer
            .zip(name.as_deref())
            .map(|((peer, _), name)| connection_name(peer, name));
        let arguments = FieldTable::stored(&queue.properties.arguments);
        let (ready, unacked) = (queue.ready_weight(), queue.unacked_weight);
        let exclusive_consumer = queue
            .consumers
            .first()
            .filter(|_| queue.has_exclusive_consumer)
            .map(|&key| self.broker.consumers()[key as usize].tag());
        let moved_ms = queue.meter.as_ref().map_or(0, |meter| meter.moved_ms());
        visit(QueueRow {
            vhost: self.vhost_name(queue.vhost),
            name: &queue.name,
            kind: queue_type(arguments),
            durable: queue.properties.durable,
            auto_delete: queue.properties.auto_delete,
            exclusive: queue.properties.exclusive_to.is_some(),
            owner,
            arguments,
            messages_ready: queue.message_count(),
            messages_unacknowledged: queue.unacked,
            messages_persistent: ready.logged + unacked.logged,
            octets_ready: ready.octets,
            octets_unacknowledged: unacked.octets,
            consumers: queue.consumers.len() as u64,
            exclusive_consumer_tag: exclusive_consumer,
            single_active_consumer_tag: None,
            memory_octets: queue.memory_octets(),
            idle_since_ms: self.idle_since(queue.used_ms.max(moved_ms)),
            state: "running",
            stats: queue_stats(queue),
        });
    }

    fn exchange_row<'a>(&'a self, exchange: &'a Exchange) -> ExchangeRow<'a> {
        let rates = exchange.meter.as_ref().map_or([0.0; 2], |it| it.rates());
        ExchangeRow {
            vhost: self.vhost_name(exchange.vhost),
            name: &exchange.name,
            kind: exchange.properties.exchange_type.name(),
            durable: exchange.properties.durable,
            auto_delete: exchange.properties.auto_delete,
            internal: exchange.properties.internal,
            arguments: FieldTable::stored(&exchange.properties.arguments),
            publish_in: counter(exchange.published_in, rates[0]),
            publish_out: counter(exchange.published_out, rates[1]),
        }
    }

    fn implicit_binding_row<'a>(&'a self, queue: &'a Queue) -> BindingRow<'a> {
        BindingRow {
            vhost: self.vhost_name(queue.vhost),
            source: b"",
            destination: &queue.name,
            destination_kind: DestinationKind::Queue,
            routing_key: &queue.name,
            arguments: FieldTable::stored(b""),
        }
    }

    fn binding_row<'a>(&'a self, binding: &'a Binding) -> BindingRow<'a> {
        let (destination, destination_kind) = match binding.destination {
            Destination::Queue(key) => (
                &self.broker.queues()[key.slot as usize].name,
                DestinationKind::Queue,
            ),
            Destination::Exchange(key) => (
                &self.broker.exchanges()[key.slot as usize].name,
                DestinationKind::Exchange,
            ),
        };
        BindingRow {
            vhost: self.vhost_name(self.vhost_of(binding)),
            source: &self.broker.exchanges()[binding.source.slot as usize].name,
            destination,
            destination_kind,
            routing_key: &binding.binding_key,
            arguments: FieldTable::stored(&binding.arguments),
        }
    }

    fn connection_row<'a>(
        &'a self,
        slot: usize,
        peer: &'a Peer,
        name: &'a str,
    ) -> ConnectionRow<'a> {
        let (client, outbox) = (&peer.connection.client, &self.plant.outboxes[slot]);
        let [received, sent] = peer.meter.rates();
        ConnectionRow {
            name: connection_name(peer, name),
            local: shown(peer.local),
            state: peer.connection.state_name(),
            user: &client.user,
            vhost: &client.vhost,
            auth_mechanism: &client.mechanism,
            channels: peer.connection.open_channels().count() as u64,
            channel_max: client.channel_max,
            frame_max: client.frame_max,
            heartbeat_s: client.heartbeat_s,
            connected_at_ms: peer.connected_ms,
            client_properties: FieldTable::stored(&client.properties),
            received_octets: counter(peer.octets_in, received),
            sent_octets: counter(outbox.octets_out, sent),
            received_count: peer.reads,
            sent_count: peer.writes,
            pending_octets: outbox.octets() as u64,
        }
    }

    // ---- what rows refer to ----

    /// The peer behind a session, and the session.
    fn owner(&self, session: u32) -> Option<(&Peer, &crate::broker::session::Session)> {
        let session = self.broker.sessions().get(session as usize)?;
        Some((self.peers.get(session.outbox as usize)?, session))
    }

    fn vhost_name(&self, index: u32) -> &str {
        self.broker
            .vhost_slots()
            .get(index as usize)
            .map_or("", |vhost| &vhost.name)
    }

    fn vhost_of(&self, binding: &Binding) -> u32 {
        self.broker.exchanges()[binding.source.slot as usize].vhost
    }

    fn idle_since(&self, used_ms: u64) -> Option<u64> {
        (used_ms + IDLE_MS < self.facts.now.wall_ms).then_some(used_ms)
    }

    fn message_stats(&self) -> MessageStats {
        let (totals, rates) = (self.message_totals(), self.sampler.messages.rates());
        let at = |index: usize| counter(totals[index], rates[index]);
        MessageStats {
            publish: at(0),
            confirm: at(1),
            return_unroutable: at(2),
            drop_unroutable: at(3),
            deliver: at(4),
            deliver_no_ack: at(5),
            get: at(6),
            get_no_ack: at(7),
            get_empty: at(8),
            redeliver: at(9),
            ack: at(10),
        }
    }

    fn churn(&self) -> Churn {
        let (totals, rates) = (self.churn_totals(), self.sampler.churn.rates());
        let at = |index: usize| counter(totals[index], rates[index]);
        Churn {
            connection_created: at(0),
            connection_closed: at(1),
            channel_created: at(2),
            channel_closed: at(3),
            queue_declared: at(4),
            queue_created: at(5),
            queue_deleted: at(6),
        }
    }

    /// The connection whose name says these ends.
    pub(super) fn connection_named(&self, name: &[u8]) -> Option<ConnectionId> {
        let wanted = ends(name)?;
        let (slot, peer) = self
            .peers
            .iter()
            .find(|(_, peer)| peer.ends() == wanted && !peer.connection.is_over())?;
        Some(ConnectionId {
            slot: slot as u32,
            generation: peer.generation,
        })
    }
}

fn connection_name<'a>(peer: &Peer, name: &'a str) -> ConnectionName<'a> {
    ConnectionName {
        name: name.as_bytes(),
        peer: shown(peer.address),
    }
}

fn counter(total: u64, rate: f32) -> Counter {
    let rate = rate.into();
    Counter { total, rate }
}

fn vhost_row(vhost: &Vhost, depth: Depth) -> VhostRow<'_> {
    VhostRow {
        name: &vhost.name,
        description: &vhost.about.description,
        tags: &vhost.about.tags,
        default_queue_type: vhost.about.default_queue_type.as_deref(),
        messages_ready: depth.ready,
        messages_unacknowledged: depth.unacknowledged,
    }
}

fn queue_type(arguments: FieldTable<'_>) -> &str {
    arguments
        .get("x-queue-type")
        .and_then(FieldValue::as_long_string)
        .and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or("classic")
}

fn queue_stats(queue: &Queue) -> MessageStats {
    if queue.counters == QueueCounters::default() {
        return MessageStats::default();
    }
    let totals = queue.counters.as_array();
    let rates = queue.meter.as_ref().map_or([0.0; 8], |it| it.rates());
    let at = |index: usize| counter(totals[index], rates[index]);
    MessageStats {
        publish: at(0),
        deliver: at(1),
        deliver_no_ack: at(2),
        get: at(3),
        get_no_ack: at(4),
        get_empty: at(5),
        redeliver: at(6),
        ack: at(7),
        ..MessageStats::default()
    }
}

fn channel_row<'a>(
    channel: &Channel,
    connection: ConnectionName<'a>,
    user: &'a str,
    vhost: &'a str,
) -> ChannelRow<'a> {
    let (mut messages_unconfirmed, mut messages_uncommitted, mut acks_uncommitted) = (0, 0, 0);
    match &channel.mode {
        Mode::Plain => {}
        Mode::Confirm(window) => messages_unconfirmed = window.unconfirmed(),
        Mode::Tx(transaction) => {
            messages_uncommitted = transaction.publishes.len() as u64;
            acks_uncommitted = transaction.settlements.len() as u64;
        }
    }
    let did = &channel.counters;
    ChannelRow {
        connection,
        number: channel.number,
        user,
        vhost,
        state: "running",
        confirm: matches!(channel.mode, Mode::Confirm(_)),
        transactional: matches!(channel.mode, Mode::Tx(_)),
        consumer_count: channel.consumers.len() as u64,
        prefetch_count: channel.prefetch_count,
        global_prefetch_count: channel.global_prefetch_count,
        messages_unacknowledged: channel.unacked.len() as u64,
        messages_unconfirmed,
        messages_uncommitted,
        acks_uncommitted,
        idle_since_ms: None,
        stats: MessageStats {
            publish: did.published.into(),
            confirm: did.confirmed.into(),
            return_unroutable: did.returned.into(),
            drop_unroutable: did.dropped_unroutable.into(),
            deliver: did.delivered.into(),
            deliver_no_ack: did.delivered_no_ack.into(),
            get: did.got.into(),
            get_no_ack: did.got_no_ack.into(),
            get_empty: did.get_empty.into(),
            redeliver: did.redelivered.into(),
            ack: did.acknowledged.into(),
        },
    }
}
