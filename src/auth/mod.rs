//! May this user do that? Users, their passwords and what they may touch.
//!
//! Everything here is a function of its arguments and of [`Users`], the state: no socket, no file,
//! no clock. Salts come in as arguments. A change is applied at once and handed back as
//! [`Changes`], pairs for the definition log; whoever asked for it is answered when those are on
//! stable storage. Connections hold a [`UserId`] and may keep what [`Permission::may`] said for as
//! long as [`Users::epoch`] stays the same.
//!
//! ```text
//! handshake ── sasl::plain / sasl::amqplain ──▶ Credentials ──▶ Users::authenticate ──▶ UserId
//! open      ── Users::access(user, vhost) ──▶ Permission, or none: 530
//! declare … ── Permission::may(Access::Configure, "orders") ──▶ yes, or 403
//! ```

pub mod base64;
mod error;
mod password;
mod pattern;
mod permission;
pub mod record;
pub mod sasl;
mod user;
mod users;

pub use error::AuthError;
pub use password::{HashingAlgorithm, PasswordHash, SALT_OCTETS};
pub use pattern::Pattern;
pub use permission::{Access, Permission, PermissionTexts};
pub use user::{User, UserId};
pub use users::{Changes, Put, Refused, RefusedReason, Secret, Users, is_loopback};

/// The name that permissions see for the default exchange, whose own name is empty.
pub const DEFAULT_EXCHANGE_RESOURCE: &str = "amq.default";
