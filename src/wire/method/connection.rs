//! `connection`: opening, tuning and closing a connection (spec 1.4), all on channel 0; with
//! RabbitMQ's `blocked`, `unblocked` and `update-secret`.

use crate::wire::{FieldTable, ShortString};

methods! {
    /// The server offers mechanisms and locales and tells what it is.
    Start<'a> = 10 10 "connection.start" {
        /// 0.
        version_major: u8,
        /// 9.
        version_minor: u8,
        /// What the server is and can do.
        server_properties: FieldTable<'a>,
        /// Names of SASL mechanisms, separated by blanks.
        mechanisms: &'a [u8],
        /// Names of locales, separated by blanks.
        locales: &'a [u8],
    }

    /// The client picks a mechanism and tells what it is.
    StartOk<'a> = 10 11 "connection.start-ok" {
        /// What the client is and can do.
        client_properties: FieldTable<'a>,
        /// Name of the SASL mechanism.
        mechanism: ShortString<'a>,
        /// What the mechanism asks for.
        response: &'a [u8],
        /// Locale of the reply texts.
        locale: ShortString<'a>,
    }

    /// A further challenge of the mechanism.
    Secure<'a> = 10 20 "connection.secure" {
        /// What the mechanism sends.
        challenge: &'a [u8],
    }

    /// The answer to a challenge.
    SecureOk<'a> = 10 21 "connection.secure-ok" {
        /// What the mechanism asks for.
        response: &'a [u8],
    }

    /// The server proposes limits; 0 means no limit.
    Tune = 10 30 "connection.tune" {
        /// The greatest channel number.
        channel_max: u16,
        /// Octets of a whole frame.
        frame_max: u32,
        /// Seconds between heartbeats.
        heartbeat: u16,
    }

    /// The client settles the limits.
    TuneOk = 10 31 "connection.tune-ok" {
        /// The greatest channel number.
        channel_max: u16,
        /// Octets of a whole frame.
        frame_max: u32,
        /// Seconds between heartbeats.
        heartbeat: u16,
    }

    /// The client enters a virtual host.
    Open<'a> = 10 40 "connection.open" {
        /// Name of the virtual host.
        virtual_host: ShortString<'a>,
        /// Unused.
        capabilities: ShortString<'a>,
        /// Unused.
        insist: bool,
    }

    /// The connection is open.
    OpenOk<'a> = 10 41 "connection.open-ok" {
        /// Unused.
        known_hosts: ShortString<'a>,
    }

    /// Either side closes the connection, and says why.
    Close<'a> = 10 50 "connection.close" {
        /// See [`crate::wire::ReplyCode`].
        reply_code: u16,
        /// The code in words.
        reply_text: ShortString<'a>,
        /// Class of the method that failed, or 0.
        class_id: u16,
        /// Number of the method that failed, or 0.
        method_id: u16,
    }

    /// The connection is closed.
    CloseOk = 10 51 "connection.close-ok" {}

    /// The server takes no messages for now.
    Blocked<'a> = 10 60 "connection.blocked" {
        /// Why, for people.
        reason: ShortString<'a>,
    }

    /// The server takes messages again.
    Unblocked = 10 61 "connection.unblocked" {}

    /// The client renews its credentials.
    UpdateSecret<'a> = 10 70 "connection.update-secret" {
        /// The new credentials.
        new_secret: &'a [u8],
        /// Why, for people.
        reason: ShortString<'a>,
    }

    /// The new credentials hold.
    UpdateSecretOk = 10 71 "connection.update-secret-ok" {}
}
