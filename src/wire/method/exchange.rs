//! `exchange`: declaring and deleting exchanges (spec 1.6), with RabbitMQ's bindings between
//! exchanges.

use crate::wire::{FieldTable, ShortString};

methods! {
    /// Creates an exchange, or checks that it is there as described.
    Declare<'a> = 40 10 "exchange.declare" {
        /// Unused.
        ticket: u16,
        /// Name of the exchange.
        exchange: ShortString<'a>,
        /// Type of the exchange.
        exchange_type: ShortString<'a>,
        /// Only check that it exists.
        passive: bool,
        /// Survives a restart.
        durable: bool,
        /// Goes with its last user.
        auto_delete: bool,
        /// Takes no messages from clients.
        internal: bool,
        /// No answer is sent.
        no_wait: bool,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The exchange is there.
    DeclareOk = 40 11 "exchange.declare-ok" {}

    /// Deletes an exchange with its bindings.
    Delete<'a> = 40 20 "exchange.delete" {
        /// Unused.
        ticket: u16,
        /// Name of the exchange.
        exchange: ShortString<'a>,
        /// Only when nobody uses it.
        if_unused: bool,
        /// No answer is sent.
        no_wait: bool,
    }

    /// The exchange is gone.
    DeleteOk = 40 21 "exchange.delete-ok" {}

    /// Binds an exchange to an exchange (RabbitMQ).
    Bind<'a> = 40 30 "exchange.bind" {
        /// Unused.
        ticket: u16,
        /// Exchange that messages go to.
        destination: ShortString<'a>,
        /// Exchange that messages come from.
        source: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
        /// No answer is sent.
        no_wait: bool,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The binding is there.
    BindOk = 40 31 "exchange.bind-ok" {}

    /// Removes a binding between exchanges (RabbitMQ).
    Unbind<'a> = 40 40 "exchange.unbind" {
        /// Unused.
        ticket: u16,
        /// Exchange that messages go to.
        destination: ShortString<'a>,
        /// Exchange that messages come from.
        source: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
        /// No answer is sent.
        no_wait: bool,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The binding is gone. Its method number is 51, not 41.
    UnbindOk = 40 51 "exchange.unbind-ok" {}
}
