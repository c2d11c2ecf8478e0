//! The payloads of the other records of the log and of the definitions.

use super::{u32_at, u64_at};
use crate::broker::record::QueueId;

/// Octets of one range in a settlement: queue (4), first (6), last (6).
const SETTLEMENT_OCTETS: usize = 16;

/// Writes the payload of a settlement.
pub fn encode_settlements(into: &mut Vec<u8>, ranges: &[(QueueId, u64, u64)]) {
    into.extend_from_slice(&(ranges.len() as u32).to_be_bytes());
    for &(queue, first, last) in ranges {
        let mut octets = [0; SETTLEMENT_OCTETS];
        octets[..4].copy_from_slice(&queue.0.to_be_bytes());
        octets[4..10].copy_from_slice(&first.to_be_bytes()[2..]);
        octets[10..].copy_from_slice(&last.to_be_bytes()[2..]);
        into.extend_from_slice(&octets);
    }
}

/// The ranges of a settlement as (queue, first, last); `None` when the lengths do not agree.
pub fn decode_settlements(
    payload: &[u8],
) -> Option<impl Iterator<Item = (QueueId, u64, u64)> + use<'_>> {
    let count = u32_at(payload, 0)? as usize;
    let rest = &payload[4..];
    if count.checked_mul(SETTLEMENT_OCTETS)? != rest.len() {
        return None;
    }
    Some(rest.chunks_exact(SETTLEMENT_OCTETS).map(|octets| {
        let number = |octets: &[u8]| octets.iter().fold(0, |sum, &o| sum << 8 | u64::from(o));
        (
            QueueId(number(&octets[..4]) as u32),
            number(&octets[4..10]),
            number(&octets[10..]),
        )
    }))
}

/// Writes the payload of a permission record.
pub fn encode_permission(into: &mut Vec<u8>, queue: QueueId, up_to: u64) {
    into.extend_from_slice(&queue.0.to_be_bytes());
    into.extend_from_slice(&up_to.to_be_bytes());
}

/// The reverse of [`encode_permission`].
pub fn decode_permission(payload: &[u8]) -> Option<(QueueId, u64)> {
    (payload.len() == 12).then_some(())?;
    Some((QueueId(u32_at(payload, 0)?), u64_at(payload, 4)?))
}

/// The payload of a mark: everything up to this log sequence number is stable.
pub fn decode_mark(payload: &[u8]) -> Option<u64> {
    (payload.len() == 8).then(|| u64_at(payload, 0))?
}

/// Writes the payload of a group of definitions.
///
/// * `stable_lsn`: up to which record the definitions were on stable storage when this was written.
pub fn encode_definitions(into: &mut Vec<u8>, stable_lsn: u64, pairs: &[(&[u8], Option<&[u8]>)]) {
    into.extend_from_slice(&stable_lsn.to_be_bytes());
    for (key, value) in pairs {
        into.extend_from_slice(&(key.len() as u32).to_be_bytes());
        into.extend_from_slice(key);
        let length = value.map_or(FORGOTTEN, |value| value.len() as u32);
        into.extend_from_slice(&length.to_be_bytes());
        into.extend_from_slice(value.unwrap_or_default());
    }
}

/// Length of the value of a key that is forgotten.
const FORGOTTEN: u32 = u32::MAX;

/// A key and its value, `None` when the key is forgotten.
pub type Pair<'a> = (&'a [u8], Option<&'a [u8]>);

/// The reverse of [`encode_definitions`]; `None` when the lengths do not agree.
pub fn decode_definitions(payload: &[u8]) -> Option<(u64, Vec<Pair<'_>>)> {
    let stable_lsn = u64_at(payload, 0)?;
    let mut rest = &payload[8..];
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.get(4..)?.split_at_checked(u32_at(rest, 0)? as usize)?;
        let length = u32_at(after, 0)?;
        let after = &after[4..];
        if length == FORGOTTEN {
            pairs.push((key, None));
            rest = after;
        } else {
            let (value, after) = after.split_at_checked(length as usize)?;
            pairs.push((key, Some(value)));
            rest = after;
        }
    }
    Some((stable_lsn, pairs))
}
