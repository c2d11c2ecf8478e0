//! What a client may ask of the router on an open channel, and what it is answered.

use super::confirm::Batch;
use super::publish::Publish;
use crate::wire::method::{basic, exchange, queue};

/// A command. Names are borrowed from the octets it came in.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// basic.publish with its content.
    Publish(Publish<'a>),
    /// basic.ack
    Ack(basic::Ack),
    /// basic.nack
    Nack(basic::Nack),
    /// basic.reject
    Reject(basic::Reject),
    /// basic.get
    Get(basic::Get<'a>),
    /// basic.consume
    Consume(basic::Consume<'a>),
    /// basic.cancel
    Cancel(basic::Cancel<'a>),
    /// basic.qos
    Qos(basic::Qos),
    /// basic.recover, or basic.recover-async with no answer
    Recover {
        /// Messages go back to their queues; RabbitMQ knows nothing else.
        requeue: bool,
        /// Whether recover-ok is expected.
        answer: bool,
    },
    /// exchange.declare
    ExchangeDeclare(exchange::Declare<'a>),
    /// exchange.delete
    ExchangeDelete(exchange::Delete<'a>),
    /// exchange.bind
    ExchangeBind(exchange::Bind<'a>),
    /// exchange.unbind
    ExchangeUnbind(exchange::Unbind<'a>),
    /// queue.declare
    QueueDeclare(queue::Declare<'a>),
    /// queue.delete
    QueueDelete(queue::Delete<'a>),
    /// queue.bind
    QueueBind(queue::Bind<'a>),
    /// queue.unbind
    QueueUnbind(queue::Unbind<'a>),
    /// queue.purge
    QueuePurge(queue::Purge<'a>),
    /// confirm.select
    ConfirmSelect,
    /// tx.select
    TxSelect,
    /// tx.commit
    TxCommit,
    /// tx.rollback
    TxRollback,
}

/// What a command is answered; the connection leaves it out where the client asked for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command has none, or it was sent already.
    Nothing,
    /// The command was not taken, since something it needs is being read; give it again when the
    /// storage has answered.
    NotYet,
    /// A slice of the command was done; give it again in the next turn, before any other of its
    /// channel.
    GoesOn,
    /// exchange.declare-ok
    ExchangeDeclareOk,
    /// exchange.delete-ok
    ExchangeDeleteOk,
    /// exchange.bind-ok
    ExchangeBindOk,
    /// exchange.unbind-ok
    ExchangeUnbindOk,
    /// queue.declare-ok
    QueueDeclareOk {
        /// The queue's name.
        queue: Box<[u8]>,
        /// Ready messages.
        message_count: u32,
        /// Consumers.
        consumer_count: u32,
    },
    /// queue.bind-ok
    QueueBindOk,
    /// queue.unbind-ok
    QueueUnbindOk,
    /// queue.purge-ok
    QueuePurgeOk {
        /// Messages dropped.
        message_count: u32,
    },
    /// queue.delete-ok
    QueueDeleteOk {
        /// Messages dropped.
        message_count: u32,
    },
    /// basic.qos-ok
    QosOk,
    /// basic.consume-ok
    ConsumeOk {
        /// The consumer's tag.
        consumer_tag: Box<[u8]>,
    },
    /// basic.cancel-ok
    CancelOk,
    /// basic.get-empty
    GetEmpty,
    /// basic.recover-ok
    RecoverOk,
    /// confirm.select-ok
    ConfirmSelectOk,
    /// tx.select-ok
    TxSelectOk,
    /// tx.commit-ok
    TxCommitOk,
    /// tx.rollback-ok
    TxRollbackOk,
}

/// An answer and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub answer: Answer,
    /// It may be sent when this batch is on stable storage; later answers of the channel queue
    /// behind it, deliveries and confirms do not.
    pub after: Option<Batch>,
}

impl Outcome {
    /// An answer that waits for nothing.
    pub fn now(answer: Answer) -> Self {
        Outcome {
            answer,
            after: None,
        }
    }
}
