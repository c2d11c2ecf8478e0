//! Exchanges, queues and bindings: declare, delete, bind, unbind, purge.
//!
//! What is durable is written to the definitions before the answer goes out; the answer carries
//! the batch that it has to wait for.

mod bindings;
mod exchanges;
mod queues;

pub(super) use self::exchanges::check_not_default_exchange;
pub(super) use self::queues::{Declaration, check_queue_name};
use super::Batch;
use super::command::{Answer, Outcome};
use super::record::Pairs;
use super::sink::Sink;

/// RabbitMQ strips carriage returns and line feeds from the names that clients declare.
fn stripped(name: &[u8]) -> Vec<u8> {
    name.iter()
        .copied()
        .filter(|octet| !matches!(octet, b'\r' | b'\n'))
        .collect()
}

/// Only operators hear of this; a client's command waits instead.
fn still_going(what: &str) -> String {
    format!("cannot declare {what}: the bindings of the one before it are still being removed")
}

/// Writes the definitions and makes the answer wait for them, if there are any.
pub(super) fn defined<S: Sink>(pairs: &Pairs, answer: Answer, sink: &mut S) -> Outcome {
    let after = remember(pairs, sink);
    Outcome { answer, after }
}

/// What the answer to a repeated declaration waits for: the first one may still be on its way to
/// the disk, and the answer promises as much as its answer does.
fn remembered<S: Sink>(is_durable: bool, sink: &S) -> Option<Batch> {
    is_durable
        .then(|| sink.batch())
        .filter(|&batch| !sink.is_flushed(batch))
}

/// Writes definitions, if there are any; the batch is what they wait for.
pub(super) fn remember<S: Sink>(pairs: &Pairs, sink: &mut S) -> Option<Batch> {
    if pairs.is_empty() {
        return None;
    }
    sink.define(pairs.as_slice());
    Some(sink.batch())
}
