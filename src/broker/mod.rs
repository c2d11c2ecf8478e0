//! The synchronous router.

pub mod record;
