//! The way of a message through the model: published, routed, consumed, settled.

use std::rc::Rc;

use super::{
    Code, ConnectionKey, Consumer, Entry, Expected, Group, Mode, Model, Outstanding, Place,
    Settlement, Unconfirmed,
};
use crate::operation::{Consume, Publication};
use crate::topology::Uid;

impl Model {
    pub(super) fn publish(
        &mut self,
        key: ConnectionKey,
        number: u16,
        publication: &Rc<Publication>,
    ) -> Result<(), Code> {
        self.publications
            .insert(publication.id, Rc::clone(publication));
        let exchange = self
            .topology
            .exchanges
            .get(&publication.exchange)
            .ok_or(404u16)?;
        if exchange.internal {
            return Err(403);
        }
        if let Mode::Tx(transaction) = &mut self.channel(key, number).mode {
            transaction.publishes.push(Rc::clone(publication));
            return Ok(());
        }
        let (targets, is_logged) = self.route(key, number, publication);
        let turn = self.turn;
        if let Mode::Confirm { waiting, .. } = &mut self.channel(key, number).mode {
            let is_returned = targets.is_empty() && publication.mandatory;
            waiting.push_back(Unconfirmed {
                targets,
                turn,
                is_logged,
                is_returned,
            });
        }
        Ok(())
    }

    /// Puts a message into its queues; says where, and whether it surely goes to the log.
    fn route(
        &mut self,
        key: ConnectionKey,
        number: u16,
        publication: &Rc<Publication>,
    ) -> (Vec<(Uid, u64)>, bool) {
        let (mut targets, mut is_logged) = (Vec::new(), false);
        let found = self.topology.route(
            &publication.exchange,
            &publication.routing_key,
            &publication.headers,
        );
        for uid in found {
            // A consumer without acknowledgements may have it before it is ever stored.
            let may_pass = self.has_no_ack_consumer(uid);
            let turn = self.turn;
            let queue = self.queues.get_mut(&uid).expect("a queue that is bound");
            let sequence = queue.next_sequence;
            queue.next_sequence += 1;
            let logged = publication.persistent && queue.durable;
            is_logged |= logged && !may_pass;
            let entry = Entry {
                message: publication.id,
                logged,
                place: Place::Ready,
                maybe: false,
                required: false,
                hit: None,
                is_flag_lost: false,
                seen: false,
                returned: false,
                returned_in: 0,
                is_old: false,
                was_hidden: false,
                was_settled: false,
                turn,
            };
            queue.entries.insert(sequence, entry);
            queue.by_message.insert(publication.id, sequence);
            targets.push((uid, sequence));
        }
        if targets.is_empty() && publication.mandatory {
            self.counts.add("returned");
            self.channel(key, number)
                .returns
                .push_back(Rc::clone(publication));
        }
        (targets, is_logged)
    }

    fn has_no_ack_consumer(&self, uid: Uid) -> bool {
        self.queues[&uid]
            .consumers
            .iter()
            .any(|(key, number, tag)| {
                let connection = &self.connections[key];
                let channel = connection
                    .channels
                    .iter()
                    .find(|(other, _)| other == number);
                channel.is_some_and(|(_, it)| it.consumers.get(tag).is_some_and(|it| it.no_ack))
            })
    }

    pub(super) fn consume(
        &mut self,
        key: ConnectionKey,
        number: u16,
        consume: &Consume,
    ) -> Result<(), Code> {
        let tag = &consume.tag;
        let name = self.queue_named(key, number, &consume.queue)?;
        if self.channel(key, number).consumers.contains_key(tag) {
            return Err(530);
        }
        let uid = self.find_queue(key, &name)?;
        let queue = self.queues.get_mut(&uid).expect("found above");
        if queue.has_exclusive_consumer || (consume.exclusive && !queue.consumers.is_empty()) {
            return Err(403);
        }
        queue.consumers.insert((key, number, tag.clone()));
        queue.has_exclusive_consumer = consume.exclusive;
        queue.ever_read = true;
        let channel = self.channel(key, number);
        let consumer = Consumer {
            queue: uid,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            prefetch: channel.prefetch,
            unacked: 0,
            last_sequence: None,
            is_announced: consume.no_wait,
        };
        channel.consumers.insert(tag.clone(), consumer);
        if !consume.no_wait {
            channel.expect(Expected::Consuming(tag.clone()));
        }
        Ok(())
    }

    pub(super) fn settle_tags(
        &mut self,
        key: ConnectionKey,
        number: u16,
        tag: u64,
        multiple: bool,
        settlement: Settlement,
    ) -> Result<(), Code> {
        let channel = self.channel(key, number);
        let tags: Vec<u64> = if multiple && tag == 0 {
            channel.outstanding.keys().copied().collect()
        } else if !channel.outstanding.contains_key(&tag) {
            return Err(406);
        } else if multiple {
            channel
                .outstanding
                .range(..=tag)
                .map(|(&tag, _)| tag)
                .collect()
        } else {
            vec![tag]
        };
        for tag in tags {
            let channel = self.channel(key, number);
            let outstanding = channel.outstanding.remove(&tag).expect("listed above");
            if let Mode::Tx(transaction) = &mut channel.mode {
                transaction.settlements.push((tag, outstanding, settlement));
            } else {
                self.settled(key, number, &outstanding, settlement);
            }
        }
        Ok(())
    }

    pub(super) fn settled(
        &mut self,
        key: ConnectionKey,
        number: u16,
        outstanding: &Outstanding,
        settlement: Settlement,
    ) {
        let channel = self.channel(key, number);
        if outstanding.counts {
            channel.consumer_unacked -= 1;
            let consumer = outstanding
                .consumer
                .as_ref()
                .and_then(|tag| channel.consumers.get_mut(tag));
            if let Some(consumer) = consumer {
                consumer.unacked -= 1;
            }
        }
        match settlement {
            Settlement::Back => self.give_back(outstanding),
            Settlement::Gone => self.settle(outstanding.queue, outstanding.sequence),
        }
    }

    pub(super) fn commit(&mut self, key: ConnectionKey, number: u16) -> Result<(), Code> {
        let Mode::Tx(transaction) = &mut self.channel(key, number).mode else {
            return Err(406);
        };
        let transaction = std::mem::take(transaction);
        self.counts.add("commits");
        let turn = self.turn;
        let mut group = Group {
            turn,
            added: Vec::new(),
            settled: Vec::new(),
            evidence: (false, false),
        };
        for publication in &transaction.publishes {
            let exchange = self.topology.exchanges.get(&publication.exchange);
            if exchange.is_none_or(|it| it.internal) {
                continue;
            }
            let (targets, _) = self.route(key, number, publication);
            let logged = targets.into_iter().filter(|&(uid, sequence)| {
                self.queues[&uid].entries[&sequence].logged && !self.has_no_ack_consumer(uid)
            });
            group.added.extend(logged.collect::<Vec<_>>());
        }
        for (_, outstanding, settlement) in &transaction.settlements {
            let place = (outstanding.queue, outstanding.sequence);
            let is_logged = self
                .queues
                .get(&place.0)
                .and_then(|queue| queue.entries.get(&place.1))
                .is_some_and(|entry| entry.logged);
            if *settlement == Settlement::Gone && is_logged {
                group.settled.push(place);
            }
            self.settled(key, number, outstanding, *settlement);
        }
        // Nothing else of it surely went to the log, and without that the answer may stand for an
        // earlier batch.
        let logged = group.added.len() + group.settled.len();
        if logged > 4 {
            self.counts.add("large commits");
        }
        if logged > 1 {
            self.groups.push(group);
        }
        let after = (logged > 0).then_some(turn);
        self.channel(key, number)
            .expect(Expected::Method("tx.commit-ok", after));
        Ok(())
    }
}
