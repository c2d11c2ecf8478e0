//! From what the segments hold to the state of the queues.

use std::collections::BTreeMap;

use super::RecoveredQueue;
use crate::broker::queue::Weight;
use crate::broker::ready::ParkedPage;
use crate::broker::record::QueueId;
use crate::planted::{Fault, planted};
use crate::storage::files::Storage;
use crate::storage::index::Index;
use crate::storage::pages::IndexPart;
use crate::storage::ranges::RangeSet;
use crate::storage::record_codec::SEGMENT_START;
use crate::storage::store::Store;

/// Brings the ledgers from the checkpoint's state to the end of the log.
pub(super) fn replay<S: Storage>(store: &mut Store<S>, indexes: &BTreeMap<u32, Index>) {
    for (&number, index) in indexes {
        for indexed in &index.queues {
            let ledger = store.ledgers.entry(indexed.queue);
            ledger.found(number, indexed.first, indexed.last);
        }
        for &(queue, up_to) in &index.permissions {
            let ledger = store.ledgers.entry(queue);
            ledger.permission = ledger.permission.max(up_to);
        }
    }
    // Settlements after all places are known: whatever they name exists or is lost.
    for index in indexes.values() {
        for &(queue, first, last) in &index.settlements {
            let ledger = store.ledgers.entry(queue);
            ledger.settled.insert(first, last);
            ledger.next_sequence = ledger.next_sequence.max(last + 1);
        }
    }
    let queues: Vec<QueueId> = store.ledgers.sorted().iter().map(|(id, _)| *id).collect();
    for queue in queues {
        let ledger = store.ledgers.entry(queue);
        if ledger.permission > 0 {
            ledger.redelivered_up_to = Some(ledger.permission);
        }
        ledger.forget_unplaced(|segment| {
            let queues = &indexes.get(&segment)?.queues;
            let at = queues
                .binary_search_by_key(&queue, |indexed| indexed.queue)
                .ok()?;
            Some(queues[at].last)
        });
        let live: Vec<(u32, u64)> = ledger
            .slices_in(0, u64::MAX)
            .map(|(segment, first, last)| {
                (
                    segment,
                    last + 1 - first - ledger.settled.count_in(first, last),
                )
            })
            .collect();
        for (number, entries) in live {
            if let Some(segment) = store.segments.get_mut(number) {
                segment.live_entries += entries;
            }
        }
    }
    for (&number, index) in indexes {
        let entries: u64 = index
            .queues
            .iter()
            .map(|queue| u64::from(queue.entries))
            .sum();
        if let Some(segment) = store.segments.get_mut(number) {
            let octets = segment.used.saturating_sub(SEGMENT_START);
            let share = octets * segment.live_entries / entries.max(1);
            store.segments.set_live_share(number, share);
        }
    }
}

/// The pages of the recovered queues.
pub(super) fn pages<S: Storage>(
    store: &mut Store<S>,
    indexes: &BTreeMap<u32, Index>,
) -> Vec<RecoveredQueue> {
    let mut parts: BTreeMap<QueueId, Vec<(IndexPart, u32)>> = BTreeMap::new();
    for (&segment, index) in indexes {
        for indexed in &index.queues {
            let queue = indexed.queue;
            let Some(ledger) = store.ledgers.get(queue) else {
                continue;
            };
            for (run, fence) in indexed.fences.iter().enumerate() {
                let first = fence.0;
                let next = indexed.fences.get(run + 1);
                let last = next.map_or(indexed.last, |next| next.0 - 1);
                let count = live_in(&ledger.settled, first, last);
                if count > 0 {
                    let part = IndexPart {
                        queue,
                        segment,
                        first,
                        last,
                        used: index.records_end,
                        run: index.run(indexed, run),
                    };
                    parts.entry(queue).or_default().push((part, count));
                }
            }
        }
    }
    let ledgers: Vec<_> = store
        .ledgers
        .sorted()
        .iter()
        .map(|(queue, ledger)| (*queue, ledger.next_sequence, ledger.redelivered_up_to))
        .collect();
    let queues = ledgers
        .into_iter()
        .map(|(id, next_sequence, redelivered_up_to)| {
            let parts = parts.remove(&id).unwrap_or_default();
            let pages: Vec<_> = parts
                .into_iter()
                .map(|(part, count)| ParkedPage {
                    page: store.pages.park_indexed(part),
                    count,
                    first_sequence: part.first,
                    weight: Weight::default(),
                })
                .collect();
            let next_sequence = next_sequence.max(redelivered_up_to.map_or(0, |up_to| up_to + 1));
            RecoveredQueue {
                id,
                messages: pages.iter().map(|page| u64::from(page.count)).sum(),
                pages,
                next_sequence: if planted(Fault::ReuseSequence) {
                    1
                } else {
                    next_sequence
                },
                redelivered_up_to,
            }
        });
    queues.collect()
}

fn live_in(settled: &RangeSet, first: u64, last: u64) -> u32 {
    (last + 1 - first - settled.count_in(first, last)) as u32
}
