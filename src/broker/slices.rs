//! Long work in slices: what takes time in proportion to a queue's length is done a piece a turn.

use std::collections::VecDeque;

use super::Broker;
use super::channel::Unacked;
use super::exchange::ExchangeKey;
use super::queue::Queue;
use super::ready::ParkedPage;
use super::record::Pairs;
use super::removal::BindingRemoval;
use super::sink::Sink;
use super::topology::remember;
use super::vhost::VhostRemoval;
use crate::message::Entry;

/// A piece of long work.
#[derive(Debug)]
pub(super) enum Slice {
    /// Entries that no queue holds any more and whose settlement is logged, if it has to be.
    Release {
        entries: VecDeque<Entry>,
        pages: VecDeque<ParkedPage>,
        rest: Vec<Entry>,
    },
    /// Deliveries of a closed channel that go back to their queues.
    Requeue(VecDeque<Unacked>),
    /// Bindings one end of which is gone.
    RemoveBindings(BindingRemoval),
    /// Auto-delete exchanges that have lost their last binding.
    RemoveExchanges(Vec<ExchangeKey>),
    /// What is in a virtual host that is going, and at last itself.
    RemoveVhost(Box<VhostRemoval>),
}

impl Slice {
    /// Takes all messages out of a queue.
    pub(super) fn release(queue: &mut Queue) -> Self {
        let (mut entries, pages, rest) = queue.ready.take();
        entries.extend(queue.returned.take());
        Slice::Release {
            entries,
            pages,
            rest,
        }
    }
}

impl Slice {
    /// Entries that are still to be let go of, or to go back.
    pub(super) fn entries(&self) -> u64 {
        match self {
            Slice::Release {
                entries,
                pages,
                rest,
            } => {
                let parked: u64 = pages.iter().map(|parked| u64::from(parked.count)).sum();
                (entries.len() + rest.len()) as u64 + parked
            }
            Slice::Requeue(deliveries) => deliveries.len() as u64,
            Slice::RemoveBindings(_) | Slice::RemoveExchanges(_) | Slice::RemoveVhost(_) => 0,
        }
    }

    /// The deliveries that are on their way back.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = &Unacked> {
        match self {
            Slice::Requeue(deliveries) => deliveries.iter(),
            Slice::Release { .. }
            | Slice::RemoveBindings(_)
            | Slice::RemoveExchanges(_)
            | Slice::RemoveVhost(_) => std::collections::vec_deque::Iter::default(),
        }
    }
}

impl Broker {
    /// Does up to `budget` entries of long work; says whether there is more that can go on now.
    pub fn work<S: Sink>(&mut self, sink: &mut S, mut budget: usize) -> bool {
        while budget > 0 {
            let Some(mut slice) = self.slices.pop_front() else {
                return false;
            };
            let goes_on = match &mut slice {
                Slice::Release {
                    entries,
                    pages,
                    rest,
                } => {
                    while budget > 0
                        && let Some(entry) = entries.pop_front()
                    {
                        sink.release(entry);
                        budget -= 1;
                    }
                    if !entries.is_empty() {
                        true
                    } else if let Some(parked) = pages.pop_front() {
                        sink.release_page(parked.page);
                        budget = budget.saturating_sub(parked.count as usize);
                        true
                    } else {
                        *entries = std::mem::take(rest).into();
                        !entries.is_empty()
                    }
                }
                Slice::Requeue(deliveries) => {
                    while budget > 0
                        && let Some(unacked) = deliveries.pop_front()
                    {
                        self.requeue(&unacked, sink);
                        budget -= 1;
                    }
                    !deliveries.is_empty()
                }
                Slice::RemoveBindings(removal) => {
                    let (mut pairs, mut doomed) = (Pairs::default(), Vec::new());
                    budget = self.remove_bindings(removal, budget, &mut doomed, &mut pairs);
                    self.remove_exchanges(doomed, &mut pairs);
                    remember(&pairs, sink);
                    self.is_name_free |= budget > 0;
                    budget == 0
                }
                Slice::RemoveExchanges(doomed) => {
                    let mut pairs = Pairs::default();
                    self.remove_exchanges(std::mem::take(doomed), &mut pairs);
                    remember(&pairs, sink);
                    budget = 0;
                    false
                }
                Slice::RemoveVhost(removal) => {
                    budget -= self.remove_some(removal, sink, budget);
                    // It may have to wait for bindings, which stand behind it.
                    if !removal.is_done() {
                        self.slices.push_back(slice);
                    }
                    continue;
                }
            };
            if goes_on {
                self.slices.push_front(slice);
            }
        }
        !self.slices.is_empty()
    }

    /// Whether long work is left.
    pub fn has_work(&self) -> bool {
        !self.slices.is_empty()
    }
}
