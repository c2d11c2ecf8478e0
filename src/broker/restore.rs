//! Building the router up again from what the storage remembered.

use std::collections::VecDeque;

use super::binding::{BindingRef, Destination};
use super::ready::{ParkedPage, Ready};
use super::record::{Definition, QueueId};
use super::{Broker, QueueKey};

/// What the log holds of one durable queue.
#[derive(Clone, Debug, Default)]
pub struct RestoredQueue {
    /// Its ready messages as parked pages, oldest first.
    pub pages: VecDeque<ParkedPage>,
    /// Sequence of the next message to arrive.
    pub next_sequence: u64,
    /// Sequences below this may have been delivered before the crash; the storage marks their
    /// entries as redelivered.
    pub permitted: u64,
}

/// A definition that does not fit the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// What it says.
    pub shown: String,
    /// The key of a binding an end of which is not there: a crash came between the removal of
    /// that end and of its bindings.
    pub leftover: Option<Vec<u8>>,
}

impl Broker {
    /// Takes definitions in, in any order. Gives those that it could not use.
    pub fn restore_definitions(&mut self, definitions: Vec<Definition>) -> Vec<Unused> {
        let mut unused = Vec::new();
        let rank = |definition: &Definition| match definition {
            Definition::NextQueueId(_) => 0,
            Definition::Exchange { .. } => 1,
            Definition::Queue { .. } => 2,
            Definition::Binding { .. } => 3,
        };
        let mut definitions = definitions;
        definitions.sort_by_key(rank);
        for definition in definitions {
            if self.restore_definition(&definition).is_none() {
                unused.push(Unused {
                    shown: format!("{definition:?}"),
                    leftover: binding_key(&definition),
                });
            }
        }
        unused
    }

    fn restore_definition(&mut self, definition: &Definition) -> Option<()> {
        match definition {
            Definition::NextQueueId(id) => self.next_queue_id = self.next_queue_id.max(*id),
            Definition::Exchange {
                vhost,
                name,
                properties,
            } => {
                let vhost = self.vhost_named(vhost)?;
                if self.exchange_key(vhost, name).is_none() {
                    self.add_exchange(vhost, name, properties.clone());
                }
            }
            Definition::Queue {
                vhost,
                name,
                id,
                properties,
            } => {
                let vhost = self.vhost_named(vhost)?;
                self.next_queue_id = self.next_queue_id.max(id.0 + 1);
                if self.queue_key(vhost, name).is_none() {
                    let key = self.add_queue(vhost, name, properties.clone());
                    let queue = &mut self.queues[key.slot as usize];
                    (queue.id, queue.permitted, queue.permission_asked) = (Some(*id), 0, 0);
                }
            }
            Definition::Binding {
                vhost,
                source,
                is_queue,
                destination,
                binding_key,
                arguments,
            } => {
                let vhost = self.vhost_named(vhost)?;
                let destination = if *is_queue {
                    Destination::Queue(self.queue_key(vhost, destination)?)
                } else {
                    Destination::Exchange(self.exchange_key(vhost, destination)?)
                };
                let of = BindingRef {
                    source: self.exchange_key(vhost, source)?,
                    destination,
                    binding_key,
                    arguments,
                };
                if self.bindings.find(&of).is_none() {
                    self.add_binding(&of);
                }
            }
        }
        Some(())
    }

    /// Queue ids below `next` were given out once.
    pub fn queue_ids_from(&mut self, next: u32) {
        self.next_queue_id = self.next_queue_id.max(next);
    }

    /// The durable queues, by their name in the log.
    pub fn durable_queues(&self) -> impl Iterator<Item = (QueueId, QueueKey)> {
        self.queues.iter().filter_map(|(slot, queue)| {
            let key = QueueKey {
                slot: slot as u32,
                generation: queue.generation,
            };
            queue.id.map(|id| (id, key))
        })
    }

    /// Gives a durable queue its messages back.
    pub fn restore_queue(&mut self, key: QueueKey, restored: RestoredQueue) {
        let queue = &mut self.queues[key.slot as usize];
        queue.ready = Ready::restored(restored.pages);
        queue.next_sequence = restored.next_sequence;
        (queue.permitted, queue.permission_asked) = (restored.permitted, restored.permitted);
    }
}

/// The key under which a binding is remembered; `None` for any other definition.
fn binding_key(definition: &Definition) -> Option<Vec<u8>> {
    let Definition::Binding {
        vhost,
        source,
        is_queue,
        destination,
        binding_key,
        arguments,
    } = definition
    else {
        return None;
    };
    let pair = Definition::binding(
        vhost,
        source,
        *is_queue,
        destination,
        binding_key,
        arguments,
    );
    Some(pair.key)
}
