//! Exchanges, queues and bindings: declare, delete, bind, unbind, purge.
//!
//! What is durable is written to the definitions before the answer goes out; the answer carries
//! the batch that it has to wait for.

use super::arguments::{self, Equivalence};
use super::binding::{BindingRef, Destination};
use super::command::{Answer, Outcome};
use super::exception::{Exception, shown};
use super::exchange::{Exchange, ExchangeKey, ExchangeProperties, ExchangeType};
use super::publish::Resource;
use super::queue::{Queue, QueueKey, QueueProperties};
use super::record::{Definition, Pairs};
use super::reply_to::{REPLY_TO, is_reply_queue};
use super::sink::Sink;
use super::slices::Slice;
use super::{Batch, Broker};
use crate::auth::Access;
use crate::clock::Now;
use crate::wire::ReplyCode;
use crate::wire::field_table::FieldTable;
use crate::wire::method::{exchange, queue};

/// RabbitMQ strips carriage returns and line feeds from the names that clients declare.
fn stripped(name: &[u8]) -> Vec<u8> {
    name.iter()
        .copied()
        .filter(|octet| !matches!(octet, b'\r' | b'\n'))
        .collect()
}

pub(super) fn check_not_default_exchange(name: &[u8]) -> Result<(), Exception> {
    if name.is_empty() {
        let text = "operation not permitted on the default exchange";
        return Err(Exception::access_refused(text));
    }
    Ok(())
}

impl Broker {
    // ---- exchanges ----

    pub(super) fn exchange_declare<S: Sink>(
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
    pub(super) fn declare_exchange<S: Sink>(
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

    pub(super) fn exchange_delete<S: Sink>(
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
    pub(super) fn check_exchange_may_go(&self, vhost: u32, name: &[u8]) -> Result<(), Exception> {
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
    pub(super) fn delete_exchange<S: Sink>(
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

    pub(super) fn exchange_bind<S: Sink>(
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

    pub(super) fn exchange_unbind<S: Sink>(
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

    /// Adds an exchange that is not there yet.
    pub(super) fn add_exchange(
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

    // ---- queues ----

    pub(super) fn queue_declare<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        declare: &queue::Declare<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let vhost = self.vhost_of(channel);
        let session = self.channels[channel as usize].session;
        if declare.queue.as_bytes() == REPLY_TO {
            return Ok(Outcome::now(Answer::QueueDeclareOk {
                queue: REPLY_TO.into(),
                message_count: 0,
                consumer_count: 1,
            }));
        }
        if is_reply_queue(declare.queue.as_bytes()) {
            // Whoever is to answer a request may ask whether anyone still waits.
            return match self.queue_key(vhost, declare.queue.as_bytes()) {
                Some(_) => Ok(Outcome::now(Answer::QueueDeclareOk {
                    queue: declare.queue.as_bytes().into(),
                    message_count: 0,
                    consumer_count: 1,
                })),
                None => Err(self.no_queue(vhost, declare.queue.as_bytes())),
            };
        }
        if declare.passive {
            let name = stripped(declare.queue.as_bytes());
            let key = self.find_queue(channel, &name)?;
            self.check_any_access(channel, &name)?;
            return Ok(Outcome::now(self.declared(channel, key, &name)));
        }
        let given = stripped(declare.queue.as_bytes());
        let name = if given.is_empty() {
            self.generated_name(b"amq.gen-")
        } else {
            // Also when it is there: RabbitMQ looks at the name first.
            check_queue_name(&given)?;
            given
        };
        self.check_access(channel, Access::Configure, Resource::Queue(&name))?;
        if self.is_going(vhost, true, &name) {
            return Ok(Outcome::now(Answer::NotYet));
        }
        let properties = QueueProperties {
            durable: declare.durable && !declare.exclusive,
            exclusive_to: declare.exclusive.then_some(session),
            auto_delete: declare.auto_delete,
            arguments: declare.arguments.as_bytes().into(),
        };
        let declaration = Declaration {
            name: &name,
            properties,
            declared_durable: declare.durable,
        };
        let (key, _, after) = self.declare_queue(now, vhost, declaration, sink)?;
        let answer = self.declared(channel, key, &name);
        Ok(Outcome { answer, after })
    }

    /// Makes a queue, or compares the one there is. Says whether it is new, and what its
    /// definition waits for.
    pub(super) fn declare_queue<S: Sink>(
        &mut self,
        now: Now,
        vhost: u32,
        declaration: Declaration<'_>,
        sink: &mut S,
    ) -> Result<(QueueKey, bool, Option<Batch>), Exception> {
        let Declaration {
            name, properties, ..
        } = declaration;
        let what = self.queue_shown(vhost, name);
        let arguments = FieldTable::stored(&properties.arguments);
        self.counters.queues_declared += 1;
        if let Some(key) = self.queue_key(vhost, name) {
            let queue = &mut self.queues[key.slot as usize];
            queue.used_ms = now.wall_ms;
            // The same connection may repeat `durable` as it likes on its exclusive queue, since
            // what is stored is the same.
            let equivalence = Equivalence {
                what: &what,
                declared_durable: declaration.declared_durable,
            };
            equivalence.check_queue(&queue.properties, &properties)?;
            arguments::check_queue(&what, arguments)?;
            return Ok((key, false, remembered(queue.is_logged(), sink)));
        }
        arguments::check_queue(&what, arguments)?;
        if self.is_going(vhost, true, name) {
            return Err(Exception::precondition_failed(still_going(&what)));
        }
        let limit = self.limits.queues_max;
        if self.queues.len() >= limit as usize {
            return Err(Exception::precondition_failed(format!(
                "cannot declare {what}: queue limit of {limit} is reached"
            )));
        }
        let mut pairs = Pairs::default();
        let key = self.create_queue(now, vhost, name, properties, &mut pairs, sink);
        Ok((key, true, remember(&pairs, sink)))
    }

    fn declared(&mut self, channel: u32, key: QueueKey, name: &[u8]) -> Answer {
        self.channels[channel as usize].last_queue = Some(name.into());
        let queue = &self.queues[key.slot as usize];
        Answer::QueueDeclareOk {
            queue: name.into(),
            message_count: u32::try_from(queue.message_count()).unwrap_or(u32::MAX),
            consumer_count: queue.consumers.len() as u32,
        }
    }

    pub(super) fn create_queue<S: Sink>(
        &mut self,
        now: Now,
        vhost: u32,
        name: &[u8],
        properties: QueueProperties,
        pairs: &mut Pairs,
        sink: &mut S,
    ) -> QueueKey {
        let id = properties.durable.then(|| self.new_queue_id());
        if let Some(id) = id {
            sink.queue_created(id);
            let vhost = &self.vhosts[vhost as usize].name;
            pairs.put(&Definition::queue(vhost, name, id, &properties));
        }
        self.counters.queues_created += 1;
        let key = self.add_queue(vhost, name, properties);
        let queue = &mut self.queues[key.slot as usize];
        queue.used_ms = now.wall_ms;
        if id.is_some() {
            (queue.id, queue.permitted, queue.permission_asked) = (id, 0, 0);
        }
        key
    }

    /// Adds a queue that is not there yet; it is not named in the log.
    pub(super) fn add_queue(
        &mut self,
        vhost: u32,
        name: &[u8],
        properties: QueueProperties,
    ) -> QueueKey {
        self.generation += 1;
        let generation = self.generation;
        if let Some(owner) = properties.exclusive_to {
            let key = QueueKey {
                slot: self.queues.vacant_key() as u32,
                generation,
            };
            self.sessions[owner.slot as usize]
                .exclusive_queues
                .push(key);
        }
        let slot = self
            .queues
            .insert(Queue::new(generation, vhost, name, properties)) as u32;
        let key = QueueKey { slot, generation };
        self.vhosts[vhost as usize]
            .queues
            .insert(slot, &self.queues);
        self.topology_changed();
        key
    }

    pub(super) fn queue_delete<S: Sink>(
        &mut self,
        channel: u32,
        delete: &queue::Delete<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let vhost = self.vhost_of(channel);
        let name = self.queue_named(channel, delete.queue.as_bytes())?;
        self.check_access(channel, Access::Configure, Resource::Queue(&name))?;
        let Some(key) = self.queue_key(vhost, &name) else {
            return Ok(Outcome::now(Answer::QueueDeleteOk { message_count: 0 }));
        };
        self.check_not_locked(channel, key)?;
        let (message_count, after) =
            self.delete_queue(key, delete.if_unused, delete.if_empty, sink)?;
        Ok(Outcome {
            answer: Answer::QueueDeleteOk { message_count },
            after,
        })
    }

    /// Removes a queue. Says how many messages were ready, and what the change waits for.
    pub(super) fn delete_queue<S: Sink>(
        &mut self,
        key: QueueKey,
        if_unused: bool,
        if_empty: bool,
        sink: &mut S,
    ) -> Result<(u32, Option<Batch>), Exception> {
        let queue = &self.queues[key.slot as usize];
        let refusal = if if_unused && !queue.consumers.is_empty() {
            Some("in use")
        } else if if_empty && !queue.has_no_message() {
            Some("not empty")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let what = self.queue_shown(queue.vhost, &queue.name);
            return Err(Exception::precondition_failed(format!("{what} {refusal}")));
        }
        let mut pairs = Pairs::default();
        let message_count = self.remove_queue(key, &mut pairs, sink);
        Ok((message_count, remember(&pairs, sink)))
    }

    /// Removes a queue with its bindings, cancels its consumers and lets its messages go in
    /// slices. Says how many were ready.
    pub(super) fn remove_queue<S: Sink>(
        &mut self,
        key: QueueKey,
        pairs: &mut Pairs,
        sink: &mut S,
    ) -> u32 {
        let slot = key.slot as usize;
        for consumer in self.queues[slot].consumers.clone() {
            self.cancel_by_server(consumer, sink);
        }
        let mut queue = self.queues.remove(slot);
        self.counters.queues_deleted += 1;
        self.counters.gone.add(&queue.counters);
        let vhost = &mut self.vhosts[queue.vhost as usize];
        vhost.queues.remove(&queue.name, key.slot);
        if let Some(id) = queue.id {
            sink.queue_deleted(id);
            pairs.remove(Definition::queue_key(&vhost.name, &queue.name));
            pairs.put(&Definition::next_queue_id(self.next_queue_id));
        }
        if let Some(owner) = queue.properties.exclusive_to
            && let Some(session) = self.sessions.get_mut(owner.slot as usize)
        {
            session.exclusive_queues.retain(|&other| other != key);
        }
        let message_count = u32::try_from(queue.message_count()).unwrap_or(u32::MAX);
        self.slices.push_back(Slice::release(&mut queue));
        self.remove_bindings_to(key, &mut queue, pairs);
        self.topology_changed();
        message_count
    }

    pub(super) fn queue_purge<S: Sink>(
        &mut self,
        channel: u32,
        purge: &queue::Purge<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let name = self.queue_named(channel, purge.queue.as_bytes())?;
        let key = self.find_queue(channel, &name)?;
        self.check_access(channel, Access::Read, Resource::Queue(&name))?;
        let (message_count, after) = self.purge(key, sink);
        Ok(Outcome {
            answer: Answer::QueuePurgeOk { message_count },
            after,
        })
    }

    /// Drops all ready messages of a queue; says how many, and what the change waits for.
    pub(super) fn purge<S: Sink>(&mut self, key: QueueKey, sink: &mut S) -> (u32, Option<Batch>) {
        let queue = &mut self.queues[key.slot as usize];
        let message_count = u32::try_from(queue.message_count()).unwrap_or(u32::MAX);
        if let Some(id) = queue.id {
            for entry in queue.returned.iter() {
                sink.settle_range(id, entry.sequence(), entry.sequence());
            }
            if let Some(first) = queue.ready.first_sequence() {
                sink.settle_range(id, first, queue.next_sequence - 1);
            }
        }
        let is_logged = queue.is_logged();
        self.slices.push_back(Slice::release(queue));
        let after = (is_logged && message_count > 0).then(|| sink.batch());
        (message_count, after)
    }

    // ---- bindings ----

    pub(super) fn queue_bind<S: Sink>(
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

    pub(super) fn queue_unbind<S: Sink>(
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

    pub(super) fn bind<S: Sink>(
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

    pub(super) fn unbind<S: Sink>(
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
    pub(super) fn add_binding(&mut self, of: &BindingRef<'_>) {
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
}

/// Only operators hear of this; a client's command waits instead.
fn still_going(what: &str) -> String {
    format!("cannot declare {what}: the bindings of the one before it are still being removed")
}

/// Writes the definitions and makes the answer wait for them, if there are any.
pub(super) fn defined<S: Sink>(pairs: &Pairs, answer: Answer, sink: &mut S) -> Outcome {
    let after = remember(pairs, sink);
    Outcome { answer, after }
}

/// What the answer to a repeated declaration waits for: the first one may still be on its way to
/// the disk, and the answer promises as much as its answer does.
fn remembered<S: Sink>(is_durable: bool, sink: &S) -> Option<Batch> {
    is_durable
        .then(|| sink.batch())
        .filter(|&batch| !sink.is_flushed(batch))
}

/// A queue to be made, or to be compared with the one there is.
pub(super) struct Declaration<'a> {
    /// Its name.
    pub(super) name: &'a [u8],
    /// What it is declared with.
    pub(super) properties: QueueProperties,
    /// `durable` as it was given; an exclusive queue is not durable whatever was.
    pub(super) declared_durable: bool,
}

/// # Errors
/// 403 for a name that only the server gives.
pub(super) fn check_queue_name(name: &[u8]) -> Result<(), Exception> {
    if name.starts_with(b"amq.") {
        return Err(Exception::access_refused(format!(
            "queue name '{}' contains reserved prefix 'amq.*'",
            shown(name)
        )));
    }
    Ok(())
}

/// Writes definitions, if there are any; the batch is what they wait for.
pub(super) fn remember<S: Sink>(pairs: &Pairs, sink: &mut S) -> Option<Batch> {
    if pairs.is_empty() {
        return None;
    }
    sink.define(pairs.as_slice());
    Some(sink.batch())
}
