//! Rows of the tables, as the objects say them of themselves.

use super::counter;
use crate::admin::{
    BindingRow, ChannelRow, ConnectionName, ConnectionRow, DestinationKind, ExchangeRow,
    MessageStats, QueueRow, VhostRow,
};
use crate::broker::binding::Binding;
use crate::broker::channel::{Channel, Mode};
use crate::broker::exchange::Exchange;
use crate::broker::queue::{Queue, QueueCounters};
use crate::broker::vhost::Vhost;
use crate::broker::{Destination, SessionKey};
use crate::engine::Engine;
use crate::engine::peer::{Peer, shown};
use crate::engine::sample::Depth;
use crate::storage::Storage;
use crate::wire::field_table::{FieldTable, FieldValue};

/// A queue or a connection counts as idle when nothing has happened for so long.
const IDLE_MS: u64 = 10_000;

impl<S: Storage> Engine<S> {
    pub(super) fn with_queue_row(&self, queue: &Queue, visit: &mut dyn FnMut(QueueRow<'_>)) {
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

    pub(super) fn exchange_row<'a>(&'a self, exchange: &'a Exchange) -> ExchangeRow<'a> {
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

    pub(super) fn implicit_binding_row<'a>(&'a self, queue: &'a Queue) -> BindingRow<'a> {
        BindingRow {
            vhost: self.vhost_name(queue.vhost),
            source: b"",
            destination: &queue.name,
            destination_kind: DestinationKind::Queue,
            routing_key: &queue.name,
            arguments: FieldTable::stored(b""),
        }
    }

    pub(super) fn binding_row<'a>(&'a self, binding: &'a Binding) -> BindingRow<'a> {
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

    pub(super) fn connection_row<'a>(
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

    /// The peer behind a session, and the session.
    pub(super) fn owner(&self, session: u32) -> Option<(&Peer, &crate::broker::session::Session)> {
        let session = self.broker.sessions().get(session as usize)?;
        Some((self.peers.get(session.outbox as usize)?, session))
    }

    pub(super) fn vhost_name(&self, index: u32) -> &str {
        self.broker
            .vhost_slots()
            .get(index as usize)
            .map_or("", |vhost| &vhost.name)
    }

    pub(super) fn vhost_of(&self, binding: &Binding) -> u32 {
        self.broker.exchanges()[binding.source.slot as usize].vhost
    }

    /// Since when a queue is idle, if it is: since the start at the earliest, as in RabbitMQ.
    fn idle_since(&self, used_ms: u64) -> Option<u64> {
        let now = self.facts.now;
        let started_ms = now.wall_ms.saturating_sub(now.monotonic_us / 1000);
        let since_ms = used_ms.max(started_ms);
        (since_ms + IDLE_MS < now.wall_ms).then_some(since_ms)
    }
}

pub(super) fn connection_name<'a>(peer: &Peer, name: &'a str) -> ConnectionName<'a> {
    ConnectionName {
        name: name.as_bytes(),
        peer: shown(peer.address),
    }
}

pub(super) fn vhost_row(vhost: &Vhost, depth: Depth) -> VhostRow<'_> {
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

pub(super) fn channel_row<'a>(
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
