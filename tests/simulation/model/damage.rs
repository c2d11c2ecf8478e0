//! What damage on the disk excuses: the loss of what was hit, and nothing else.

use std::collections::BTreeSet;

use super::{Hit, Model};
use crate::topology::Uid;

impl Model {
    /// Whether some queue holds the message.
    pub(crate) fn holds(&self, message: u64) -> bool {
        let mut queues = self.queues.values().filter(|it| !it.dead);
        queues.any(|it| it.by_message.contains_key(&message))
    }

    /// The record of a message was hit, or its body in a file of its own.
    pub(crate) fn hit_message(&mut self, message: u64, hit: Hit) {
        let mut places = BTreeSet::new();
        for (&uid, queue) in &mut self.queues {
            if let Some(&sequence) = queue.by_message.get(&message) {
                let entry = queue.entries.get_mut(&sequence).expect("indexed");
                entry.hit = Some(hit);
                places.insert((uid, sequence));
            }
        }
        self.forget_groups(&places);
    }

    /// A settlement of these messages in the queue that the log calls `log_id` was hit.
    pub(crate) fn hit_settlement(&mut self, log_id: u32, messages: &[u64]) {
        let queue = self
            .queues
            .iter_mut()
            .find(|(_, it)| it.log_id == Some(log_id));
        let Some((&uid, queue)) = queue else {
            return;
        };
        let mut places = BTreeSet::new();
        for &message in messages {
            if let Some((sequence, entry)) = queue.gone.remove(&message) {
                queue.by_message.insert(message, sequence);
                queue.entries.insert(sequence, entry.come_back());
            }
            if let Some(&sequence) = queue.by_message.get(&message) {
                queue.unsettled.insert(message);
                places.insert((uid, sequence));
            }
        }
        self.forget_groups(&places);
    }

    /// What says which messages of a queue may have been delivered was hit.
    pub(crate) fn hit_permission(&mut self, log_id: u32) {
        let queues = self.queues.values_mut();
        for queue in queues.filter(|it| it.log_id == Some(log_id)) {
            for entry in queue.entries.values_mut() {
                entry.is_flag_lost = true;
            }
        }
    }

    /// A group that damage has torn proves nothing.
    fn forget_groups(&mut self, places: &BTreeSet<(Uid, u64)>) {
        self.groups.retain(|group| {
            let mut touched = group.added.iter().chain(&group.settled);
            !touched.any(|place| places.contains(place))
        });
    }
}
