//! Commands that make, bind and remove exchanges and queues.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Code, ConnectionKey, Expected, Model, Queue};
use crate::operation::{Bind, ExchangeDeclare, QueueDeclare};
use crate::topology::{Binding, Destination, Exchange, QueueName, Uid, exchange_line, queue_line};

impl Model {
    pub(super) fn queue_named(
        &mut self,
        key: ConnectionKey,
        number: u16,
        name: &str,
    ) -> Result<String, Code> {
        if name.is_empty() {
            return self.channel(key, number).last_queue.clone().ok_or(404);
        }
        Ok(name.to_owned())
    }

    /// Somebody is about to read a queue.
    pub(crate) fn may_read(&mut self, key: ConnectionKey, number: u16, name: &str) {
        let is_open = self
            .connection(key)
            .channel(number)
            .is_some_and(|it| !it.is_closing);
        if is_open
            && let Ok(name) = self.queue_named(key, number, name)
            && let Ok(uid) = self.find_queue(key, &name)
        {
            self.queues.get_mut(&uid).expect("found above").ever_read = true;
        }
    }

    pub(super) fn find_queue(&self, key: ConnectionKey, name: &str) -> Result<Uid, Code> {
        let uid = self.topology.queues.get(name).ok_or(404u16)?.uid;
        match self.queues[&uid].exclusive_to {
            Some(owner) if owner != key => Err(405),
            _ => Ok(uid),
        }
    }

    pub(super) fn check_not_locked(
        &self,
        key: ConnectionKey,
        binding: &Binding,
    ) -> Result<(), Code> {
        match &binding.destination {
            Destination::Queue(name) => self.find_queue(key, name).map(|_| ()),
            Destination::Exchange(_) => Ok(()),
        }
    }

    fn queue_binding(
        &mut self,
        key: ConnectionKey,
        number: u16,
        bind: &Bind,
    ) -> Result<Binding, Code> {
        let name = self.queue_named(key, number, &bind.destination)?;
        if bind.source.is_empty() {
            return Err(403);
        }
        if !self.topology.exchanges.contains_key(&bind.source) {
            return Err(404);
        }
        self.topology.queues.get(&name).ok_or(404u16)?;
        let binding_key = if bind.destination.is_empty() && bind.key.is_empty() {
            name.clone()
        } else {
            bind.key.clone()
        };
        Ok(Binding {
            source: bind.source.clone(),
            destination: Destination::Queue(name),
            key: binding_key,
            criteria: bind.criteria.clone(),
        })
    }

    pub(super) fn exchange_declare(
        &mut self,
        key: ConnectionKey,
        number: u16,
        declare: &ExchangeDeclare,
    ) -> Result<(), Code> {
        let name = &declare.name;
        if name.is_empty() {
            return Err(403);
        }
        let wanted = Exchange {
            kind: declare.kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            is_predeclared: false,
        };
        let after = match self.topology.exchanges.get(name) {
            None if declare.passive => return Err(404),
            Some(_) if declare.passive => None,
            Some(it) => {
                if !it.is_like(&wanted) {
                    return Err(406);
                }
                // It may have been declared by another just now.
                self.created(&exchange_line(name, it))
            }
            None if name.starts_with("amq.") => return Err(403),
            None => {
                self.topology.exchanges.insert(name.clone(), wanted);
                self.defined()
            }
        };
        self.answer_unless(declare.no_wait, key, number, "exchange.declare-ok", after);
        Ok(())
    }

    pub(super) fn exchange_delete(
        &mut self,
        key: ConnectionKey,
        number: u16,
        name: &str,
        (if_unused, no_wait): (bool, bool),
    ) -> Result<(), Code> {
        if name.is_empty() || name.starts_with("amq.") {
            return Err(403);
        }
        if if_unused && self.topology.leaves(name) {
            return Err(406);
        }
        self.topology.remove_exchange(name);
        let after = self.defined();
        self.answer_unless(no_wait, key, number, "exchange.delete-ok", after);
        Ok(())
    }

    pub(super) fn exchange_bind(
        &mut self,
        key: ConnectionKey,
        number: u16,
        bind: &Bind,
    ) -> Result<(), Code> {
        let binding = self.exchange_binding(bind)?;
        let after = self.bind(binding);
        self.answer_unless(bind.no_wait, key, number, "exchange.bind-ok", after);
        Ok(())
    }

    pub(super) fn exchange_unbind(
        &mut self,
        key: ConnectionKey,
        number: u16,
        bind: &Bind,
    ) -> Result<(), Code> {
        match self.exchange_binding(bind) {
            Ok(binding) => self.topology.unbind(&binding),
            Err(404) => {}
            Err(code) => return Err(code),
        }
        let after = self.defined();
        self.answer_unless(bind.no_wait, key, number, "exchange.unbind-ok", after);
        Ok(())
    }

    pub(super) fn queue_bind(
        &mut self,
        key: ConnectionKey,
        number: u16,
        bind: &Bind,
    ) -> Result<(), Code> {
        let binding = self.queue_binding(key, number, bind)?;
        self.check_not_locked(key, &binding)?;
        let after = self.bind(binding);
        self.answer_unless(bind.no_wait, key, number, "queue.bind-ok", after);
        Ok(())
    }

    pub(super) fn queue_unbind(
        &mut self,
        key: ConnectionKey,
        number: u16,
        bind: &Bind,
    ) -> Result<(), Code> {
        self.queue_named(key, number, &bind.destination)?;
        match self.queue_binding(key, number, bind) {
            Ok(binding) => {
                if self.topology.bindings.contains(&binding) {
                    self.check_not_locked(key, &binding)?;
                }
                self.topology.unbind(&binding);
            }
            // What is not there is not bound.
            Err(404) => {}
            Err(code) => return Err(code),
        }
        let after = self.defined();
        self.answer_unless(bind.no_wait, key, number, "queue.unbind-ok", after);
        Ok(())
    }

    /// Puts a binding there; the turn that its answer stands for, if it does.
    fn bind(&mut self, binding: Binding) -> Option<u64> {
        let line = format!("{binding:?}");
        self.topology.bindings.insert(binding);
        self.defined().or_else(|| self.created(&line))
    }

    pub(super) fn answer_unless(
        &mut self,
        no_wait: bool,
        key: ConnectionKey,
        number: u16,
        answer: &'static str,
        after: Option<u64>,
    ) {
        if !no_wait {
            let channel = self.channel(key, number);
            channel.expect(Expected::Method(answer, after));
        }
    }

    fn exchange_binding(&self, bind: &Bind) -> Result<Binding, Code> {
        if bind.destination.is_empty() || bind.source.is_empty() {
            return Err(403);
        }
        let is_there = |name| self.topology.exchanges.contains_key(name);
        if !is_there(&bind.source) || !is_there(&bind.destination) {
            return Err(404);
        }
        Ok(Binding {
            source: bind.source.clone(),
            destination: Destination::Exchange(bind.destination.clone()),
            key: bind.key.clone(),
            criteria: bind.criteria.clone(),
        })
    }

    pub(super) fn queue_declare(
        &mut self,
        key: ConnectionKey,
        number: u16,
        declare: &QueueDeclare,
    ) -> Result<(), Code> {
        let given = declare.name.clone();
        let mut after = None;
        let uid = if let Some(found) = self.topology.queues.get(&given).cloned() {
            if declare.passive {
                self.find_queue(key, &given)?
            } else {
                let queue = &self.queues[&found.uid];
                if queue.exclusive_to != declare.exclusive.then_some(key) {
                    return Err(405);
                }
                if queue.durable != (declare.durable && !declare.exclusive)
                    || queue.auto_delete != declare.auto_delete
                {
                    return Err(406);
                }
                // It may have been declared by another just now.
                after = self.created(&queue_line(&given, &found));
                found.uid
            }
        } else if declare.passive {
            return Err(404);
        } else if given.starts_with("amq.") {
            return Err(403);
        } else {
            let uid = self.next_uid;
            self.next_uid += 1;
            let is_durable = declare.durable && !declare.exclusive;
            // The name is the engine's choice, known when it tells.
            let name = if given.is_empty() {
                format!("?{uid}")
            } else {
                given.clone()
            };
            self.topology.queues.insert(
                name.clone(),
                QueueName {
                    uid,
                    durable: is_durable,
                },
            );
            let queue = Queue {
                name,
                durable: is_durable,
                exclusive_to: declare.exclusive.then_some(key),
                auto_delete: declare.auto_delete,
                entries: BTreeMap::new(),
                by_message: HashMap::new(),
                next_sequence: 0,
                ever_read: false,
                consumers: BTreeSet::new(),
                has_exclusive_consumer: false,
                ghosts: BTreeMap::new(),
                gone: BTreeMap::new(),
                unsettled: BTreeSet::new(),
                log_id: None,
                dead: false,
                delivered_in_call: None,
            };
            self.queues.insert(uid, queue);
            after = self.defined();
            uid
        };
        let ready = self.ready(uid);
        let queue = &self.queues[&uid];
        let (name, consumers) = (queue.name.clone(), queue.consumers.len() as u32);
        let channel = self.channel(key, number);
        channel.last_queue = Some(name.clone());
        if !declare.no_wait {
            let name = (!given.is_empty()).then_some(name);
            channel.expect(Expected::Declared(name, uid, ready, consumers, after));
        }
        Ok(())
    }
}
