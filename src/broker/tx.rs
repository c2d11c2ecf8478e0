//! Transactions (`tx.select`): publishes and acknowledgements that take effect together at
//! `tx.commit`. As in RabbitMQ the effect is atomic for each queue, and what a transaction did to
//! durable things is on stable storage, whole or not at all, before commit-ok.

use super::channel::{Mode, Unacked};
use super::command::{Answer, Outcome};
use super::exception::Exception;
use super::publish::Publish;
use super::sink::{Fetch, Sink};
use super::{Broker, Limits};
use crate::clock::Now;
use crate::message::{Entry, Message};

/// What happens to a delivery when the transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It was consumed.
    Ack,
    /// It is dropped.
    Drop,
    /// It goes back to its place in the queue.
    Requeue,
}

/// What a channel did since `tx.select` or the last commit or rollback.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Messages published, in order; they lie in the transient arena until the commit.
    pub publishes: Vec<TxPublish>,
    /// Deliveries acknowledged, in order.
    pub settlements: Vec<(Unacked, Settlement)>,
    /// Octets of the messages, as [`Message::octets_in_memory`] counts them.
    pub octets: u64,
}

impl Transaction {
    /// Whether one more publish of so many octets, or one more acknowledgement, fits.
    ///
    /// # Errors
    /// 506 when the transaction holds as much as one may.
    pub(super) fn check_room(&self, limits: &Limits, octets: u64) -> Result<(), Exception> {
        let entries_max = limits.transaction_entries_max;
        if self.publishes.len() + self.settlements.len() >= entries_max as usize {
            let text =
                format!("a transaction may hold {entries_max} publishes and acknowledgements");
            return Err(Exception::resource_error(text));
        }
        let octets_max = limits.transaction_octets_max;
        if self.octets + octets > octets_max {
            let text = format!("a transaction may hold {octets_max} octets of messages");
            return Err(Exception::resource_error(text));
        }
        Ok(())
    }
}

/// A message that waits for the commit.
#[derive(Clone, Copy, Debug)]
pub struct TxPublish {
    /// Where it lies.
    pub entry: Entry,
    /// It comes back when no queue takes it.
    pub mandatory: bool,
    /// `delivery-mode` is 2.
    pub is_persistent: bool,
}

impl Broker {
    pub(super) fn tx_select(&mut self, channel: u32) -> Result<Outcome, Exception> {
        let mode = &mut self.channels[channel as usize].mode;
        match mode {
            Mode::Confirm(_) => {
                let text = "cannot switch from confirm to tx mode";
                return Err(Exception::precondition_failed(text));
            }
            Mode::Plain => *mode = Mode::Tx(Box::<Transaction>::default()),
            Mode::Tx(_) => {}
        }
        Ok(Outcome::now(Answer::TxSelectOk))
    }

    pub(super) fn tx_commit<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let transaction = self.transaction(channel)?;
        // Everything must be at hand before anything takes effect.
        let mut is_cold = false;
        for publish in &transaction.publishes {
            is_cold |= sink.read(publish.entry, &mut |_, _| {}) == Fetch::Cold;
        }
        if is_cold {
            return Ok(Outcome::now(Answer::NotYet));
        }
        let Transaction {
            publishes,
            settlements,
            ..
        } = std::mem::take(transaction);
        let mode = std::mem::replace(&mut self.channels[channel as usize].mode, Mode::Plain);
        let is_logged =
            !settlements.is_empty() || publishes.iter().any(|publish| publish.is_persistent);
        sink.group_begin();
        for publish in publishes {
            sink.read(publish.entry, &mut |sink, message| {
                self.publish_held(now, channel, message, publish, sink);
            });
            sink.release(publish.entry);
        }
        for (unacked, settlement) in settlements {
            self.settle_delivery(channel, unacked, settlement, sink);
        }
        sink.group_end();
        self.channels[channel as usize].mode = mode;
        self.credit_returned(channel);
        let after = is_logged.then(|| sink.batch());
        Ok(Outcome {
            answer: Answer::TxCommitOk,
            after,
        })
    }

    fn publish_held<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        message: &Message<'_>,
        held: TxPublish,
        sink: &mut S,
    ) {
        let publish = Publish {
            message: *message,
            mandatory: held.mandatory,
            immediate: false,
            persistent: held.is_persistent,
            has_checked_property: false,
        };
        let cache = &self.channels[channel as usize].route;
        // The exchange was there when the message was published; if it has gone since, the
        // message reaches no queue.
        if cache.holds(message.names, self.epoch()) || self.find_route(channel, message).is_ok() {
            self.publish_routed(now, channel, &publish, sink);
        }
    }

    pub(super) fn tx_rollback<S: Sink>(
        &mut self,
        channel: u32,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let Transaction {
            publishes,
            settlements,
            ..
        } = std::mem::take(self.transaction(channel)?);
        for publish in publishes {
            sink.release(publish.entry);
        }
        let taken = settlements.into_iter().map(|(unacked, _)| unacked);
        self.channels[channel as usize]
            .unacked
            .restore(taken.collect());
        Ok(Outcome::now(Answer::TxRollbackOk))
    }

    fn transaction(&mut self, channel: u32) -> Result<&mut Transaction, Exception> {
        match &mut self.channels[channel as usize].mode {
            Mode::Tx(transaction) => Ok(transaction),
            _ => Err(Exception::precondition_failed(
                "channel is not transactional",
            )),
        }
    }
}
