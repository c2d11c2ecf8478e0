//! RabbitMQ's HTTP API: request octets in, response octets out.
//!
//! Nothing here knows a socket. [`HttpConnection`] is one connection's state machine; its document
//! says how to drive it. State is read through the trait [`Admin`], which the engine implements,
//! and changed by [`AdminCommand`] values.
//!
//! ```text
//! octets ─▶ HttpConnection ─▶ route (method, path → tag needed, action)
//!                               ├ read    rows of Admin ─▶ JSON, long listings in slices
//!                               ├ health  well or not ─▶ JSON
//!                               └ change  body ─▶ AdminCommand ─▶ Admin::command ─▶ AdminAnswer
//! ```

mod change;
mod command;
mod filter;
mod health;
mod http;
mod json;
mod json_value;
mod listing;
mod order;
mod read;
mod reply;
mod request;
mod route;
mod view;

#[cfg(test)]
pub(crate) mod tests;

pub use command::{
    AdminAnswer, AdminCommand, AdminError, Binding, HttpId, NewSecret, Outcome, UsersCommand,
};
pub use http::{HttpConnection, Progress};
pub use json::{is_properties_key, properties_key};
pub use view::{
    Admin, BindingRow, ChannelRow, Churn, ConnectionName, ConnectionRow, ConsumerRow, Counter,
    Cursor, DestinationKind, ExchangeRow, HttpPeer, ListenerRow, MessageStats, Overview, QueueRow,
    Row, Scope, Table, VhostRow,
};
