//! Queues: declare, delete, purge.

use super::{remember, remembered, still_going, stripped};
use crate::auth::Access;
use crate::broker::arguments::{self, Equivalence};
use crate::broker::command::{Answer, Outcome};
use crate::broker::exception::{Exception, shown};
use crate::broker::publish::Resource;
use crate::broker::queue::{Queue, QueueKey, QueueProperties};
use crate::broker::record::{Definition, Pairs};
use crate::broker::reply_to::{REPLY_TO, is_reply_queue};
use crate::broker::sink::Sink;
use crate::broker::slices::Slice;
use crate::broker::turn::Turn;
use crate::broker::{Batch, Broker};
use crate::clock::Now;
use crate::wire::field_table::FieldTable;
use crate::wire::method::queue;

/// A session's queues that are gone through at the price of a unit of [`Broker::effort`].
const QUEUES_PER_EFFORT: u64 = 32;

/// A queue to be made, or to be compared with the one there is.
pub(in crate::broker) struct Declaration<'a> {
    /// Its name.
    pub(in crate::broker) name: &'a [u8],
    /// What it is declared with.
    pub(in crate::broker) properties: QueueProperties,
    /// `durable` as it was given; an exclusive queue is not durable whatever was.
    pub(in crate::broker) declared_durable: bool,
}

impl Broker {
    pub(in crate::broker) fn queue_declare<S: Sink>(
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
    pub(in crate::broker) fn declare_queue<S: Sink>(
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

    pub(in crate::broker) fn create_queue<S: Sink>(
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
    pub(in crate::broker) fn add_queue(
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

    pub(in crate::broker) fn queue_delete<S: Sink>(
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
    pub(in crate::broker) fn delete_queue<S: Sink>(
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
    pub(in crate::broker) fn remove_queue<S: Sink>(
        &mut self,
        key: QueueKey,
        pairs: &mut Pairs,
        sink: &mut S,
    ) -> u32 {
        let slot = key.slot as usize;
        self.queues[slot].available = Turn::default();
        for consumer in std::mem::take(&mut self.queues[slot].consumers) {
            self.consumers[consumer as usize].is_available = false;
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
            let all = &mut session.exclusive_queues;
            self.effort += all.len() as u64 / QUEUES_PER_EFFORT;
            if let Some(at) = all.iter().position(|&other| other == key) {
                all.swap_remove(at);
            }
        }
        let message_count = u32::try_from(queue.message_count()).unwrap_or(u32::MAX);
        self.slices.push_back(Slice::release(&mut queue));
        self.remove_bindings_to(key, &mut queue, pairs);
        self.topology_changed();
        message_count
    }

    pub(in crate::broker) fn queue_purge<S: Sink>(
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
    pub(in crate::broker) fn purge<S: Sink>(
        &mut self,
        key: QueueKey,
        sink: &mut S,
    ) -> (u32, Option<Batch>) {
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
}

/// # Errors
/// 403 for a name that only the server gives.
pub(in crate::broker) fn check_queue_name(name: &[u8]) -> Result<(), Exception> {
    if name.starts_with(b"amq.") {
        return Err(Exception::access_refused(format!(
            "queue name '{}' contains reserved prefix 'amq.*'",
            shown(name)
        )));
    }
    Ok(())
}
