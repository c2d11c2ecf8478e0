//! The whole engine over the disk in memory.

mod bounds;
mod listing;
mod manage;
mod server;
mod thin;

use self::server::{HTTP, Later, Server, declaration, told};
use super::*;
use crate::admin::{
    Admin as _, AdminCommand, AdminError, Binding, Cursor, DestinationKind, NewSecret, Outcome,
    Row, Scope, Table, UsersCommand,
};
use crate::storage::MemoryStorage;
use crate::wire::field_table::FieldTable;
use crate::wire::method::{basic, channel, confirm, connection, queue};
use crate::wire::short_string::ShortString;
use crate::wire::{ChannelNumber, Method, MethodFields, encode};
