//! Recovery as a table of cases, failures of single calls, and the format as it was.

mod calls;
mod directory;
mod files;
mod golden;
mod index;
mod records;

use self::directory::{
    body_of, compacted, files, filled, in_last_segment, last_record, live, readable, records_of,
};
use super::tests::{Bench, body_message, names, small_config};
use super::*;
use crate::broker::record::QueueId;
use crate::message::{Body, Entry, Message};
