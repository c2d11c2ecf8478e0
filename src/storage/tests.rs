//! The store as a whole, over the disk in memory.

mod bench;
mod definitions;
mod large;
mod messages;
mod space;

pub(super) use self::bench::{Bench, body_message, names, small_config};
use super::*;
use crate::broker::record::QueueId;
use crate::clock::Now;
use crate::message::{Body, Entry, LargeBody, Message, MessageRef};
