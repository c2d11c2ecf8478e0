//! What clients ask, carried out as the engine must carry it out.

use std::collections::VecDeque;

use super::{
    Channel, Code, ConnectionKey, Expected, Mode, Model, Place, Settlement, State, Transaction,
};
use crate::operation::{Hostility, Operation};

impl Model {
    /// Carries out what the engine has just carried out.
    pub(crate) fn execute(&mut self, key: ConnectionKey, number: u16, operation: &Operation) {
        use Operation as O;
        self.counts.add("operations");
        let connection = self.connection(key);
        match (connection.state, operation) {
            (State::Closing, O::ConnectionCloseOk) => connection.state = State::Over,
            (State::Closing, O::ConnectionClose) => {
                connection.expected.push_back("connection.close-ok");
            }
            (State::Closing | State::Over | State::Refused, _) | (_, O::Heartbeat) => {}
            (_, O::ConnectionClose) => {
                if connection.state == State::Open {
                    self.end_session(key);
                }
                let connection = self.connection(key);
                connection.state = State::Over;
                connection.expected.clear();
                connection.expected.push_back("connection.close-ok");
            }
            (State::Handshake, _) => self.handshake(key, operation),
            (State::Open, O::Hostile(hostility)) => self.hostile(key, number, *hostility),
            (State::Open, _) => self.on_channel(key, number, operation),
        }
    }

    fn handshake(&mut self, key: ConnectionKey, operation: &Operation) {
        use Operation as O;
        let connection = self.connection(key);
        match operation {
            O::ProtocolHeader => connection.expected.push_back("connection.start"),
            O::StartOk {
                password_is_right: true,
            } => connection.expected.push_back("connection.tune"),
            O::StartOk { .. } => connection.state = State::Refused,
            O::TuneOk { .. } => {}
            O::Open => {
                connection.expected.push_back("connection.open-ok");
                connection.state = State::Open;
            }
            _ => unreachable!("clients open in order"),
        }
    }

    fn hostile(&mut self, key: ConnectionKey, number: u16, hostility: Hostility) {
        let is_usable = self
            .connection(key)
            .channel(number)
            .is_some_and(|it| !it.is_closing);
        // What a channel that is being closed gets is not looked at.
        let ignored = !is_usable
            && self.connection(key).channel(number).is_some()
            && matches!(
                hostility,
                Hostility::LoneHeader
                    | Hostility::UnknownMethod
                    | Hostility::CutArguments
                    | Hostility::Immediate
            );
        if !ignored {
            self.fail_connection(key, hostility.reply_code());
        }
    }

    fn on_channel(&mut self, key: ConnectionKey, number: u16, operation: &Operation) {
        use Operation as O;
        let connection = self.connection(key);
        let Some(channel) = connection.channel(number) else {
            match operation {
                O::ChannelOpen => {
                    let mut channel = Channel::new();
                    channel.expect(Expected::Method("channel.open-ok", None));
                    connection.channels.push((number, channel));
                }
                _ => self.fail_connection(key, 504),
            }
            return;
        };
        if channel.is_closing {
            match operation {
                O::ChannelCloseOk => connection.channels.retain(|&(other, _)| other != number),
                O::ChannelClose => channel.expect(Expected::Method("channel.close-ok", None)),
                _ => {}
            }
            return;
        }
        if let Err(code) = self.command(key, number, operation) {
            if matches!(code, 501..=506 | 530 | 540 | 541) {
                self.fail_connection(key, code);
            } else {
                self.fail_channel(key, number, code);
            }
        }
    }

    pub(super) fn command(
        &mut self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
    ) -> Result<(), Code> {
        use Operation as O;
        match operation {
            O::ChannelClose => {
                self.end_channel(key, number);
                let channel = self.channel(key, number);
                channel.is_closing = true;
                channel.closed_by_client = true;
                channel.expect(Expected::Method("channel.close-ok", None));
            }
            O::ChannelCloseOk => {}
            O::ChannelOpen => return Err(504),
            O::Flow => self
                .channel(key, number)
                .expect(Expected::Method("channel.flow-ok", None)),
            O::ExchangeDeclare(it) => self.exchange_declare(key, number, it)?,
            O::ExchangeDelete {
                name,
                if_unused,
                no_wait,
            } => self.exchange_delete(key, number, name, (*if_unused, *no_wait))?,
            O::ExchangeBind(it) => self.exchange_bind(key, number, it)?,
            O::ExchangeUnbind(it) => self.exchange_unbind(key, number, it)?,
            O::QueueDeclare(it) => self.queue_declare(key, number, it)?,
            O::QueueBind(it) => self.queue_bind(key, number, it)?,
            O::QueueUnbind(it) => self.queue_unbind(key, number, it)?,
            O::QueueDelete {
                name,
                if_unused,
                if_empty,
                no_wait,
            } => {
                let name = self.queue_named(key, number, name)?;
                let mut count = (0, 0);
                let mut after = None;
                if self.topology.queues.contains_key(&name) {
                    let uid = self.find_queue(key, &name)?;
                    count = self.ready(uid);
                    if *if_unused && !self.queues[&uid].consumers.is_empty() {
                        return Err(406);
                    }
                    if *if_empty && count.1 > 0 {
                        // Clients do not ask while it is not known.
                        return Err(406);
                    }
                    self.remove_queue(uid);
                    after = self.defined();
                }
                if !no_wait {
                    self.channel(key, number).expect(Expected::Count(
                        "queue.delete-ok",
                        count,
                        after,
                    ));
                }
            }
            O::QueuePurge { name, no_wait } => {
                let name = self.queue_named(key, number, name)?;
                let uid = self.find_queue(key, &name)?;
                let count = self.ready(uid);
                let ready: Vec<u64> = self.queues[&uid]
                    .entries
                    .iter()
                    .filter(|(_, it)| it.place == Place::Ready)
                    .map(|(&sequence, _)| sequence)
                    .collect();
                for sequence in ready {
                    self.settle(uid, sequence);
                }
                if !no_wait {
                    self.channel(key, number).expect(Expected::Count(
                        "queue.purge-ok",
                        count,
                        None,
                    ));
                }
            }
            O::Publish(publication) => {
                if publication.body_octets as u64 >= self.large_octets_min {
                    self.counts.add("large bodies published");
                }
                self.publish(key, number, publication)?;
            }
            O::Consume(it) => self.consume(key, number, it)?,
            O::Cancel { tag, no_wait } => {
                let channel = self.channel(key, number);
                if let Some(consumer) = channel.consumers.remove(tag) {
                    for outstanding in channel.outstanding.values_mut() {
                        if outstanding.consumer.as_ref() == Some(tag) {
                            outstanding.consumer = None;
                        }
                    }
                    if let Mode::Tx(transaction) = &mut channel.mode {
                        for (_, outstanding, _) in &mut transaction.settlements {
                            if outstanding.consumer.as_ref() == Some(tag) {
                                outstanding.consumer = None;
                            }
                        }
                    }
                    self.detach(key, number, tag, &consumer);
                }
                let after = self.defined();
                if !no_wait {
                    self.channel(key, number)
                        .expect(Expected::Method("basic.cancel-ok", after));
                }
            }
            O::Get { queue, no_ack } => {
                let name = self.queue_named(key, number, queue)?;
                let uid = self.find_queue(key, &name)?;
                let mut sequences = Vec::new();
                let mut or_empty = true;
                for (&sequence, entry) in &self.queues[&uid].entries {
                    if entry.place == Place::Ready {
                        sequences.push(sequence);
                        if !entry.maybe {
                            or_empty = false;
                            break;
                        }
                    }
                }
                let ready = self.ready(uid);
                let got = Expected::Got {
                    queue: uid,
                    sequences,
                    or_empty,
                    no_ack: *no_ack,
                    ready,
                };
                self.channel(key, number).expect(got);
                self.queues.get_mut(&uid).expect("found above").ever_read = true;
            }
            O::Ack { tag, multiple } => {
                self.settle_tags(key, number, *tag, *multiple, Settlement::Gone)?;
            }
            O::Nack {
                tag,
                multiple,
                requeue,
            } => {
                let settlement = if *requeue {
                    Settlement::Back
                } else {
                    Settlement::Gone
                };
                self.settle_tags(key, number, *tag, *multiple, settlement)?;
            }
            O::Reject { tag, requeue } => {
                let settlement = if *requeue {
                    Settlement::Back
                } else {
                    Settlement::Gone
                };
                self.settle_tags(key, number, *tag, false, settlement)?;
            }
            O::Recover { wants_answer } => {
                let outstanding = std::mem::take(&mut self.channel(key, number).outstanding);
                for it in outstanding.into_values() {
                    self.settled(key, number, &it, Settlement::Back);
                }
                if *wants_answer {
                    self.channel(key, number)
                        .expect(Expected::Method("basic.recover-ok", None));
                }
            }
            O::Qos { count, global } => {
                let channel = self.channel(key, number);
                if *global {
                    channel.global = *count;
                } else {
                    // As in RabbitMQ it takes the common limit away.
                    (channel.prefetch, channel.global) = (*count, 0);
                }
                channel.expect(Expected::Method("basic.qos-ok", None));
            }
            O::ConfirmSelect { no_wait } => {
                let channel = self.channel(key, number);
                match channel.mode {
                    Mode::Tx(_) => return Err(406),
                    Mode::Confirm { .. } => {}
                    Mode::Plain => {
                        channel.mode = Mode::Confirm {
                            confirmed: 0,
                            waiting: VecDeque::new(),
                        }
                    }
                }
                if !no_wait {
                    channel.expect(Expected::Method("confirm.select-ok", None));
                }
            }
            O::TxSelect => {
                let channel = self.channel(key, number);
                match channel.mode {
                    Mode::Confirm { .. } => return Err(406),
                    Mode::Tx(_) => {}
                    Mode::Plain => channel.mode = Mode::Tx(Transaction::default()),
                }
                channel.expect(Expected::Method("tx.select-ok", None));
            }
            O::TxCommit => self.commit(key, number)?,
            O::TxRollback => {
                let channel = self.channel(key, number);
                let Mode::Tx(transaction) = &mut channel.mode else {
                    return Err(406);
                };
                let transaction = std::mem::take(transaction);
                let back = transaction
                    .settlements
                    .into_iter()
                    .map(|(tag, it, _)| (tag, it));
                channel.outstanding.extend(back);
                channel.expect(Expected::Method("tx.rollback-ok", None));
            }
            _ => unreachable!("connection's own methods are dealt with before"),
        }
        Ok(())
    }
}
