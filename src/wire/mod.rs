//! Octets ↔ values of AMQP 0-9-1 with RabbitMQ's extensions; a leaf that knows no state, no I/O
//! and no time.
//!
//! The way in: [`decoder`] cuts frames out of an inbox, [`method::Method`] and
//! [`content::ContentHeader`] read their payloads. Everything that is decoded borrows the octets it
//! came in; nothing is allocated, and no length that a peer declares is believed before the octets
//! are there. The way out: [`encode`] appends whole frames to an outbox.
//!
//! Promise: decoding never panics, whatever the octets. What cannot be read is a [`WireError`],
//! and [`WireError::reply_code`] with [`WireError::reply_text`] say what the peer is told.
//!
//! Deliberately absent: which frame may come when (that is `connection`), and every limit but the
//! depth of field tables and the size of a frame.

pub mod content;
pub mod decoder;
pub mod encode;
pub mod erlang;
pub mod error;
pub mod field_table;
pub mod frame;
pub mod method;
pub mod reply_code;
pub mod short_string;

pub use error::WireError;
pub use field_table::{FieldTable, FieldValue};
pub use frame::{ChannelNumber, DeliveryTag, FrameKind};
pub use method::{Method, MethodFields};
pub use reply_code::ReplyCode;
pub use short_string::ShortString;
