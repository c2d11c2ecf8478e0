//! Exchanges: declare, delete.

use super::{remember, remembered, still_going, stripped};
use crate::auth::Access;
use crate::broker::arguments;
use crate::broker::command::{Answer, Outcome};
use crate::broker::exception::{Exception, shown};
use crate::broker::exchange::{Exchange, ExchangeKey, ExchangeProperties, ExchangeType};
use crate::broker::publish::Resource;
use crate::broker::record::{Definition, Pairs};
use crate::broker::sink::Sink;
use crate::broker::{Batch, Broker};
use crate::wire::field_table::FieldTable;
use crate::wire::method::exchange;

impl Broker {
    pub(in crate::broker) fn exchange_declare<S: Sink>(
        &mut self,
        channel: u32,
        declare: &exchange::Declare<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let vhost = self.vhost_of(channel);
        let name = stripped(declare.exchange.as_bytes());
        if declare.passive {
            check_not_default_exchange(&name)?;
            let found = self.exchange_key(vhost, &name);
            found.ok_or_else(|| self.no_exchange(vhost, &name))?;
            return Ok(Outcome::now(Answer::ExchangeDeclareOk));
        }
        let exchange_type = ExchangeType::named(declare.exchange_type.as_bytes())?;
        check_not_default_exchange(&name)?;
        self.check_access(channel, Access::Configure, Resource::Exchange(&name))?;
        if self.is_going(vhost, false, &name) {
            return Ok(Outcome::now(Answer::NotYet));
        }
        let properties = ExchangeProperties {
            exchange_type,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments.as_bytes().into(),
        };
        let (_, after) = self.declare_exchange(vhost, &name, properties, sink)?;
        Ok(Outcome {
            answer: Answer::ExchangeDeclareOk,
            after,
        })
    }

    /// Makes an exchange, or compares the one there is. Says whether it is new, and what its
    /// definition waits for.
    pub(in crate::broker) fn declare_exchange<S: Sink>(
        &mut self,
        vhost: u32,
        name: &[u8],
        properties: ExchangeProperties,
        sink: &mut S,
    ) -> Result<(bool, Option<Batch>), Exception> {
        let what = self.exchange_shown(vhost, name);
        if let Some(key) = self.exchange_key(vhost, name) {
            let existing = &self.exchanges[key.slot as usize].properties;
            arguments::check_exchange_equivalent(&what, existing, &properties)?;
            return Ok((false, remembered(existing.durable, sink)));
        }
        if name.starts_with(b"amq.") {
            return Err(Exception::access_refused(format!(
                "exchange name '{}' contains reserved prefix 'amq.*'",
                shown(name)
            )));
        }
        arguments::check_exchange(&what, FieldTable::stored(&properties.arguments))?;
        if self.is_going(vhost, false, name) {
            return Err(Exception::precondition_failed(still_going(&what)));
        }
        let limit = self.limits.exchanges_max;
        if self.exchanges.len() >= limit as usize {
            return Err(Exception::precondition_failed(format!(
                "cannot declare {what}: exchange limit of {limit} is reached"
            )));
        }
        let mut pairs = Pairs::default();
        if properties.durable {
            let vhost = &self.vhosts[vhost as usize].name;
            pairs.put(&Definition::exchange(vhost, name, &properties));
        }
        self.add_exchange(vhost, name, properties);
        Ok((true, remember(&pairs, sink)))
    }

    pub(in crate::broker) fn exchange_delete<S: Sink>(
        &mut self,
        channel: u32,
        delete: &exchange::Delete<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let vhost = self.vhost_of(channel);
        let name = stripped(delete.exchange.as_bytes());
        self.check_exchange_may_go(vhost, &name)?;
        self.check_access(channel, Access::Configure, Resource::Exchange(&name))?;
        let Some(key) = self.exchange_key(vhost, &name) else {
            return Ok(Outcome::now(Answer::ExchangeDeleteOk));
        };
        if delete.if_unused && self.may_be_unused(key) {
            return Ok(Outcome::now(Answer::NotYet));
        }
        let after = self.delete_exchange(key, delete.if_unused, sink)?;
        Ok(Outcome {
            answer: Answer::ExchangeDeleteOk,
            after,
        })
    }

    /// The default exchange and those of RabbitMQ's own cannot be deleted.
    pub(in crate::broker) fn check_exchange_may_go(
        &self,
        vhost: u32,
        name: &[u8],
    ) -> Result<(), Exception> {
        check_not_default_exchange(name)?;
        if name.starts_with(b"amq.") {
            return Err(Exception::access_refused(format!(
                "deletion of system {} not allowed",
                self.exchange_shown(vhost, name)
            )));
        }
        Ok(())
    }

    /// Removes an exchange; the batch is what the change waits for.
    pub(in crate::broker) fn delete_exchange<S: Sink>(
        &mut self,
        key: ExchangeKey,
        if_unused: bool,
        sink: &mut S,
    ) -> Result<Option<Batch>, Exception> {
        let exchange = &self.exchanges[key.slot as usize];
        if if_unused && exchange.outgoing > exchange.outgoing_going {
            let what = self.exchange_shown(exchange.vhost, &exchange.name);
            return Err(Exception::precondition_failed(format!("{what} in use")));
        }
        let mut pairs = Pairs::default();
        self.remove_exchange(key, &mut pairs);
        Ok(remember(&pairs, sink))
    }

    /// Adds an exchange that is not there yet.
    pub(in crate::broker) fn add_exchange(
        &mut self,
        vhost: u32,
        name: &[u8],
        properties: ExchangeProperties,
    ) -> ExchangeKey {
        self.generation += 1;
        let generation = self.generation;
        let exchange = Exchange::new(generation, vhost, name, properties);
        let slot = self.exchanges.insert(exchange) as u32;
        let key = ExchangeKey { slot, generation };
        self.vhosts[vhost as usize]
            .exchanges
            .insert(name.into(), key);
        self.topology_changed();
        key
    }
}

pub(in crate::broker) fn check_not_default_exchange(name: &[u8]) -> Result<(), Exception> {
    if name.is_empty() {
        let text = "operation not permitted on the default exchange";
        return Err(Exception::access_refused(text));
    }
    Ok(())
}
