//! Bindings, to queues and to exchanges: bind, unbind.

use super::{check_not_default_exchange, defined, remembered};
use crate::auth::Access;
use crate::broker::Broker;
use crate::broker::binding::{BindingRef, Destination};
use crate::broker::command::{Answer, Outcome};
use crate::broker::exception::Exception;
use crate::broker::exchange::ExchangeKey;
use crate::broker::publish::Resource;
use crate::broker::queue::QueueKey;
use crate::broker::record::Pairs;
use crate::broker::reply_to::REPLY_TO;
use crate::broker::sink::Sink;
use crate::wire::ReplyCode;
use crate::wire::field_table::FieldTable;
use crate::wire::method::{exchange, queue};

impl Broker {
    pub(in crate::broker) fn queue_bind<S: Sink>(
        &mut self,
        channel: u32,
        bind: &queue::Bind<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let (queue, source, key) = self.bound_queue(
            channel,
            bind.queue.as_bytes(),
            bind.exchange.as_bytes(),
            bind.routing_key.as_bytes(),
        )?;
        self.check_not_locked(channel, queue)?;
        let of = BindingRef {
            source,
            destination: Destination::Queue(queue),
            binding_key: &key,
            arguments: bind.arguments.as_bytes(),
        };
        self.bind(&of, Answer::QueueBindOk, sink)
    }

    pub(in crate::broker) fn queue_unbind<S: Sink>(
        &mut self,
        channel: u32,
        unbind: &queue::Unbind<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        self.queue_named(channel, unbind.queue.as_bytes())?;
        let found = self.bound_queue(
            channel,
            unbind.queue.as_bytes(),
            unbind.exchange.as_bytes(),
            unbind.routing_key.as_bytes(),
        );
        let (queue, source, key) = match found {
            // What is not there is not bound: nothing to do.
            Err(error) if error.reply_code == ReplyCode::NotFound => {
                return Ok(Outcome::now(Answer::QueueUnbindOk));
            }
            found => found?,
        };
        let of = BindingRef {
            source,
            destination: Destination::Queue(queue),
            binding_key: &key,
            arguments: unbind.arguments.as_bytes(),
        };
        if self.bindings.find(&of).is_some() {
            self.check_not_locked(channel, queue)?;
        }
        Ok(self.unbind(&of, Answer::QueueUnbindOk, sink))
    }

    /// Finds what a queue.bind or unbind speaks of. An empty queue name is the queue declared
    /// last, and an empty key then its name (RabbitMQ).
    fn bound_queue(
        &self,
        channel: u32,
        queue: &[u8],
        exchange: &[u8],
        routing_key: &[u8],
    ) -> Result<(QueueKey, ExchangeKey, Vec<u8>), Exception> {
        let vhost = self.vhost_of(channel);
        let name = self.queue_named(channel, queue)?;
        if name.starts_with(REPLY_TO) {
            let text = "cannot bind or unbind to a volatile (direct reply-to) queue";
            return Err(Exception::access_refused(text));
        }
        let key = if queue.is_empty() && routing_key.is_empty() {
            &name
        } else {
            routing_key
        };
        check_not_default_exchange(exchange)?;
        self.check_access(channel, Access::Write, Resource::Queue(&name))?;
        self.check_access(channel, Access::Read, Resource::Exchange(exchange))?;
        let source = self
            .exchange_key(vhost, exchange)
            .ok_or_else(|| self.no_exchange(vhost, exchange))?;
        let queue = self
            .queue_key(vhost, &name)
            .ok_or_else(|| self.no_queue(vhost, &name))?;
        Ok((queue, source, key.to_vec()))
    }

    pub(in crate::broker) fn bind<S: Sink>(
        &mut self,
        of: &BindingRef<'_>,
        answer: Answer,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let source = &self.exchanges[of.source.slot as usize];
        source.check_binding(FieldTable::stored(of.arguments))?;
        if self.bindings.find(of).is_some() {
            let after = remembered(self.is_durable_binding(of), sink);
            return Ok(Outcome { answer, after });
        }
        let limit = self.limits.bindings_max;
        if self.bindings.len() >= limit as usize {
            let text = format!("cannot bind: binding limit of {limit} is reached");
            return Err(Exception::precondition_failed(text));
        }
        self.add_binding(of);
        let mut pairs = Pairs::default();
        if self.is_durable_binding(of) {
            pairs.put(&self.binding_definition(of));
        }
        Ok(defined(&pairs, answer, sink))
    }

    pub(in crate::broker) fn unbind<S: Sink>(
        &mut self,
        of: &BindingRef<'_>,
        answer: Answer,
        sink: &mut S,
    ) -> Outcome {
        let Some(key) = self.bindings.find(of) else {
            return Outcome::now(answer);
        };
        let mut pairs = Pairs::default();
        self.remove_binding(key, &mut pairs);
        defined(&pairs, answer, sink)
    }

    /// Adds a binding that is not there yet.
    pub(in crate::broker) fn add_binding(&mut self, of: &BindingRef<'_>) {
        let key = self.bindings.insert(of);
        let at_source = self.exchanges[of.source.slot as usize].add(key, &self.bindings[key]);
        let leading_here = self.leading_to(of.destination);
        let leading_here = leading_here.expect("bindings are made between what is there");
        leading_here.push(key);
        let at_destination = leading_here.len() as u32 - 1;
        let binding = &mut self.bindings[key];
        (binding.at_source, binding.at_destination) = (at_source, at_destination);
        self.edge_added(of.source, of.destination);
        self.topology_changed();
    }
    pub(in crate::broker) fn exchange_bind<S: Sink>(
        &mut self,
        channel: u32,
        bind: &exchange::Bind<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let (destination, source) =
            self.bound_exchanges(channel, bind.destination.as_bytes(), bind.source.as_bytes())?;
        let of = BindingRef {
            source,
            destination: Destination::Exchange(destination),
            binding_key: bind.routing_key.as_bytes(),
            arguments: bind.arguments.as_bytes(),
        };
        self.bind(&of, Answer::ExchangeBindOk, sink)
    }

    pub(in crate::broker) fn exchange_unbind<S: Sink>(
        &mut self,
        channel: u32,
        unbind: &exchange::Unbind<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let found = self.bound_exchanges(
            channel,
            unbind.destination.as_bytes(),
            unbind.source.as_bytes(),
        );
        let (destination, source) = match found {
            // What is not there is not bound: nothing to do.
            Err(error) if error.reply_code == ReplyCode::NotFound => {
                return Ok(Outcome::now(Answer::ExchangeUnbindOk));
            }
            found => found?,
        };
        let of = BindingRef {
            source,
            destination: Destination::Exchange(destination),
            binding_key: unbind.routing_key.as_bytes(),
            arguments: unbind.arguments.as_bytes(),
        };
        Ok(self.unbind(&of, Answer::ExchangeUnbindOk, sink))
    }

    fn bound_exchanges(
        &self,
        channel: u32,
        destination: &[u8],
        source: &[u8],
    ) -> Result<(ExchangeKey, ExchangeKey), Exception> {
        let vhost = self.vhost_of(channel);
        check_not_default_exchange(destination)?;
        check_not_default_exchange(source)?;
        self.check_access(channel, Access::Write, Resource::Exchange(destination))?;
        self.check_access(channel, Access::Read, Resource::Exchange(source))?;
        let find = |name| {
            self.exchange_key(vhost, name)
                .ok_or_else(|| self.no_exchange(vhost, name))
        };
        let source_key = find(source)?;
        Ok((find(destination)?, source_key))
    }
}
