//! `queue`: declaring, binding, purging and deleting queues (spec 1.7).

use crate::wire::{FieldTable, ShortString};

methods! {
    /// Creates a queue, or checks that it is there as described.
    Declare<'a> = 50 10 "queue.declare" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty lets the server choose one.
        queue: ShortString<'a>,
        /// Only check that it exists.
        passive: bool,
        /// Survives a restart.
        durable: bool,
        /// For this connection alone; goes with it.
        exclusive: bool,
        /// Goes with its last user.
        auto_delete: bool,
        /// No answer is sent.
        no_wait: bool,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The queue is there.
    DeclareOk<'a> = 50 11 "queue.declare-ok" {
        /// Name of the queue.
        queue: ShortString<'a>,
        /// Messages that are ready.
        message_count: u32,
        /// Consumers of the queue.
        consumer_count: u32,
    }

    /// Binds a queue to an exchange.
    Bind<'a> = 50 20 "queue.bind" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty means the last one declared on the channel.
        queue: ShortString<'a>,
        /// Name of the exchange, empty for the default one.
        exchange: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
        /// No answer is sent.
        no_wait: bool,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The binding is there.
    BindOk = 50 21 "queue.bind-ok" {}

    /// Drops all messages that are ready.
    Purge<'a> = 50 30 "queue.purge" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty means the last one declared on the channel.
        queue: ShortString<'a>,
        /// No answer is sent.
        no_wait: bool,
    }

    /// They are gone.
    PurgeOk = 50 31 "queue.purge-ok" {
        /// Messages that were dropped.
        message_count: u32,
    }

    /// Deletes a queue with its messages and bindings.
    Delete<'a> = 50 40 "queue.delete" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty means the last one declared on the channel.
        queue: ShortString<'a>,
        /// Only when nobody uses it.
        if_unused: bool,
        /// Only when it holds no message.
        if_empty: bool,
        /// No answer is sent.
        no_wait: bool,
    }

    /// The queue is gone.
    DeleteOk = 50 41 "queue.delete-ok" {
        /// Messages that were dropped.
        message_count: u32,
    }

    /// Removes a binding.
    Unbind<'a> = 50 50 "queue.unbind" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty means the last one declared on the channel.
        queue: ShortString<'a>,
        /// Name of the exchange, empty for the default one.
        exchange: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The binding is gone.
    UnbindOk = 50 51 "queue.unbind-ok" {}
}
