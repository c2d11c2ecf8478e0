//! leveret: an AMQP 0-9-1 broker on one event-loop thread.
//!
//! Imports point downward only (see `docs/ARCHITECTURE.md`):
//!
//! ```text
//! main ─ config
//!  └ reactor             sockets, order of a turn
//!     ├ admin            HTTP octets → octets
//!     └ engine           one whole server; files come in behind a trait
//!        ├ connection    frames → commands; answers → frames
//!        ├ storage       records ↔ segments
//!        └ broker        commands → records, octets for outboxes (through a `Sink`)
//!           └ auth       may this user do that?
//! leaves for all:        wire (values) · message · clock · random · console   tools: inspect · perf · ctl
//! ```

pub mod admin;
pub mod auth;
pub mod broker;
pub mod clock;
pub mod config;
pub mod connection;
pub mod console;
pub mod ctl;
pub mod engine;
pub mod inspect;
pub mod message;
pub mod perf;
pub mod planted;
pub mod random;
pub mod reactor;
pub mod storage;
pub mod wire;
