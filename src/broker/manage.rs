//! What operators change without a channel: the same steps as a client's commands, but for the
//! client's rights, which were checked where the operator logged in.

use super::binding::{BindingRef, Destination};
use super::command::Answer;
use super::exception::Exception;
use super::exchange::{ExchangeKey, ExchangeProperties};
use super::queue::{QueueKey, QueueProperties};
use super::sink::Sink;
use super::topology::{Declaration, check_not_default_exchange, check_queue_name};
use super::{Batch, Broker, arguments};
use crate::clock::Now;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something new is there.
    Created,
    /// It was there already.
    Existed,
    /// It is gone.
    Gone,
    /// So many messages went.
    Messages(u32),
}

/// A change, and the batch that has to be on stable storage before anyone hears of it.
pub type Managed = Result<(Effect, Option<Batch>), Exception>;

/// What bindings lead from and to, by name.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The exchange it leads from.
    pub source: &'a [u8],
    /// What it leads to.
    pub destination: &'a [u8],
    /// Whether that is a queue; an exchange otherwise.
    pub to_queue: bool,
}

impl Effect {
    fn created(is_new: bool) -> Self {
        if is_new {
            Effect::Created
        } else {
            Effect::Existed
        }
    }
}

impl Broker {
    /// As `queue.declare`.
    ///
    /// # Errors
    /// 403 for a reserved name, 405 and 406 where the queue that is there differs.
    pub fn manage_declare_queue<S: Sink>(
        &mut self,
        now: Now,
        vhost: u32,
        name: &[u8],
        properties: QueueProperties,
        sink: &mut S,
    ) -> Managed {
        check_queue_name(name)?;
        let declaration = Declaration {
            name,
            declared_durable: properties.durable,
            properties,
        };
        let (_, is_new, after) = self.declare_queue(now, vhost, declaration, sink)?;
        Ok((Effect::created(is_new), after))
    }

    /// As `queue.delete`, but a queue that is not there is an error.
    ///
    /// # Errors
    /// 404; 405 for another connection's exclusive queue; 406 for one in use or not empty.
    pub fn manage_delete_queue<S: Sink>(
        &mut self,
        vhost: u32,
        name: &[u8],
        if_unused: bool,
        if_empty: bool,
        sink: &mut S,
    ) -> Managed {
        let key = self.managed_queue(vhost, name)?;
        let (messages, after) = self.delete_queue(key, if_unused, if_empty, sink)?;
        Ok((Effect::Messages(messages), after))
    }

    /// As `queue.purge`.
    ///
    /// # Errors
    /// 404; 405 for another connection's exclusive queue.
    pub fn manage_purge_queue<S: Sink>(
        &mut self,
        vhost: u32,
        name: &[u8],
        sink: &mut S,
    ) -> Managed {
        let key = self.managed_queue(vhost, name)?;
        let (messages, after) = self.purge(key, sink);
        Ok((Effect::Messages(messages), after))
    }

    /// As `exchange.declare`.
    ///
    /// # Errors
    /// 403 for a reserved name, 406 where the exchange that is there differs.
    pub fn manage_declare_exchange<S: Sink>(
        &mut self,
        vhost: u32,
        name: &[u8],
        properties: ExchangeProperties,
        sink: &mut S,
    ) -> Managed {
        check_not_default_exchange(name)?;
        let (is_new, after) = self.declare_exchange(vhost, name, properties, sink)?;
        Ok((Effect::created(is_new), after))
    }

    /// As `exchange.delete`, but an exchange that is not there is an error.
    ///
    /// # Errors
    /// 403 for a system exchange; 404; 406 for one in use.
    pub fn manage_delete_exchange<S: Sink>(
        &mut self,
        vhost: u32,
        name: &[u8],
        if_unused: bool,
        sink: &mut S,
    ) -> Managed {
        self.check_exchange_may_go(vhost, name)?;
        let key = self.managed_exchange(vhost, name)?;
        let after = self.delete_exchange(key, if_unused, sink)?;
        Ok((Effect::Gone, after))
    }

    /// As `queue.bind` or `exchange.bind`.
    ///
    /// # Errors
    /// 403 for the default exchange; 404; 405 for another connection's exclusive queue; 406 for
    /// arguments that the exchange cannot use.
    pub fn manage_bind<S: Sink>(
        &mut self,
        vhost: u32,
        ends: &Ends<'_>,
        binding_key: &[u8],
        arguments: &[u8],
        sink: &mut S,
    ) -> Managed {
        let (source, destination) = self.managed_ends(vhost, ends)?;
        let of = BindingRef {
            source,
            destination,
            binding_key,
            arguments,
        };
        let is_new = self.bindings.find(&of).is_none();
        let outcome = self.bind(&of, Answer::Nothing, sink)?;
        Ok((Effect::created(is_new), outcome.after))
    }

    /// As `queue.unbind` or `exchange.unbind`, but a binding that is not there is an error.
    ///
    /// * `is_meant`: says of a binding's key and arguments whether it is the one.
    ///
    /// # Errors
    /// See [`Broker::manage_bind`].
    pub fn manage_unbind<S: Sink>(
        &mut self,
        vhost: u32,
        ends: &Ends<'_>,
        is_meant: impl Fn(&[u8], &[u8]) -> bool,
        sink: &mut S,
    ) -> Managed {
        let (source, destination) = self.managed_ends(vhost, ends)?;
        let incoming = match destination {
            Destination::Queue(key) => &self.queues[key.slot as usize].bindings,
            Destination::Exchange(key) => &self.exchanges[key.slot as usize].incoming,
        };
        let found = incoming.iter().map(|&key| &self.bindings[key]);
        let found = found
            .filter(|binding| binding.source == source)
            .find(|binding| is_meant(&binding.binding_key, &binding.arguments))
            .ok_or_else(|| Exception::not_found("no such binding"))?;
        let (binding_key, arguments) = (found.binding_key.clone(), found.arguments.clone());
        let of = BindingRef {
            source,
            destination,
            binding_key: &binding_key,
            arguments: &arguments,
        };
        Ok((Effect::Gone, self.unbind(&of, Answer::Nothing, sink).after))
    }

    fn managed_ends(
        &self,
        vhost: u32,
        ends: &Ends<'_>,
    ) -> Result<(ExchangeKey, Destination), Exception> {
        check_not_default_exchange(ends.source)?;
        let source = self.managed_exchange(vhost, ends.source)?;
        let destination = if ends.to_queue {
            Destination::Queue(self.managed_queue(vhost, ends.destination)?)
        } else {
            check_not_default_exchange(ends.destination)?;
            Destination::Exchange(self.managed_exchange(vhost, ends.destination)?)
        };
        Ok((source, destination))
    }

    fn managed_exchange(&self, vhost: u32, name: &[u8]) -> Result<ExchangeKey, Exception> {
        self.exchange_key(vhost, name)
            .ok_or_else(|| self.no_exchange(vhost, name))
    }

    /// The queue of that name, if it is no connection's own.
    fn managed_queue(&self, vhost: u32, name: &[u8]) -> Result<QueueKey, Exception> {
        let what = || self.queue_shown(vhost, name);
        let key = self
            .queue_key(vhost, name)
            .ok_or_else(|| Exception::not_found(format!("no {}", what())))?;
        match self.queues[key.slot as usize].properties.exclusive_to {
            None => Ok(key),
            Some(_) => Err(arguments::locked(&what())),
        }
    }
}
