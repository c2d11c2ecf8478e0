//! The server as operators see it: the engine's side of [`Admin`].

mod row;
mod table;

use self::table::{SLOTS_PER_CALL, Walk};
use super::Engine;
use crate::admin::{
    Admin, AdminAnswer, AdminCommand, Churn, Counter, Cursor, ExchangeRow, HttpId, ListenerRow,
    MessageStats, Overview, QueueRow, Row, Scope, Table,
};
use crate::auth::Users;
use crate::clock::Now;
use crate::storage::Storage;

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

impl<S: Storage> Engine<S> {
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
}

fn counter(total: u64, rate: f32) -> Counter {
    let rate = rate.into();
    Counter { total, rate }
}
