//! `access`: access tickets of AMQP 0-8, which old clients still ask for. RabbitMQ gives ticket 1
//! to everyone and never looks at it.

use crate::wire::ShortString;

methods! {
    /// The client asks for a ticket.
    Request<'a> = 30 10 "access.request" {
        /// Unused.
        realm: ShortString<'a>,
        /// Unused.
        exclusive: bool,
        /// Unused.
        passive: bool,
        /// Unused.
        active: bool,
        /// Unused.
        write: bool,
        /// Unused.
        read: bool,
    }

    /// The server gives one.
    RequestOk = 30 11 "access.request-ok" {
        /// Ignored everywhere.
        ticket: u16,
    }
}
