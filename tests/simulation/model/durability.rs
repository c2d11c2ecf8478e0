//! What was promised to be on the disk, and what a restart must bring back of it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{Model, Place};
use crate::topology::{Topology, Uid};

/// What a transaction did to logged messages.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) turn: u64,
    pub(super) added: Vec<(Uid, u64)>,
    pub(super) settled: Vec<(Uid, u64)>,
    /// What is known of it after a restart: it happened, it did not.
    pub(super) evidence: (bool, bool),
}

impl Model {
    /// Some client was told that what was done up to `turn` is on the disk.
    pub(crate) fn promised(&mut self, turn: u64) {
        if turn <= self.durable_turn {
            return;
        }
        self.durable_turn = turn;
        let known = self.history.iter().rposition(|&(of, _)| of <= turn);
        if let Some(known) = known {
            self.history.drain(..known);
        }
        self.groups.retain(|group| group.turn > turn);
        for queue in self.queues.values_mut() {
            let (lasting, past): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut queue.ghosts)
                    .into_iter()
                    .partition(|(_, it)| it.turn > turn);
            queue.ghosts = lasting;
            let past = past.into_iter();
            let past = past.map(|(sequence, it)| (it.entry.message, (sequence, it.entry)));
            queue.gone.extend(past);
        }
        let named: BTreeSet<Uid> = self
            .history
            .iter()
            .flat_map(|(_, it)| it.queues.values().map(|queue| queue.uid))
            .collect();
        self.queues
            .retain(|uid, queue| !queue.dead || named.contains(uid));
    }

    /// Remembers the durable topology when it has changed.
    pub(super) fn note_topology(&mut self) -> bool {
        let durable = self.topology.durable_part();
        let (_, last) = self.history.last().expect("never empty");
        if **last == durable {
            return false;
        }
        for line in &durable.lines() - &last.lines() {
            self.created.insert(line, self.turn);
        }
        self.history.push((self.turn, Rc::new(durable)));
        true
    }

    /// The turn in which a thing came to be that somebody declares again: whoever hears that it is
    /// there may count on it.
    pub(super) fn created(&self, line: &str) -> Option<u64> {
        self.created.get(line).copied()
    }

    /// The turn that an answer to a change of the topology stands for, if something durable
    /// changed.
    pub(super) fn defined(&mut self) -> Option<u64> {
        self.note_topology().then_some(self.turn)
    }

    /// The server ends without a word. What was only in memory is gone; of the rest it is to be
    /// seen.
    pub(crate) fn crash(&mut self) {
        self.connections.clear();
        self.turn += 1;
        let durable_turn = self.durable_turn;
        self.groups.retain(|group| group.turn > durable_turn);
        self.queues.retain(|_, queue| queue.durable);
        for queue in self.queues.values_mut() {
            let is_hidden = !queue.ever_read;
            for (sequence, ghost) in std::mem::take(&mut queue.ghosts) {
                queue.entries.insert(sequence, ghost.entry.come_back());
            }
            for message in &queue.unsettled {
                if let Some((sequence, entry)) = queue.gone.remove(message) {
                    queue.entries.insert(sequence, entry.come_back());
                }
            }
            queue.entries.retain(|_, entry| entry.logged);
            for entry in queue.entries.values_mut() {
                // A ghost was put back as `maybe` just above.
                entry.required |= !entry.maybe && entry.turn <= durable_turn;
                entry.required &= !queue.dead;
                entry.maybe = true;
                entry.place = Place::Ready;
                entry.returned = false;
                entry.is_old = true;
                entry.was_hidden = is_hidden;
            }
            queue.by_message = queue
                .entries
                .iter()
                .map(|(&sequence, entry)| (entry.message, sequence))
                .collect();
            queue.consumers.clear();
            queue.has_exclusive_consumer = false;
        }
    }

    /// The server has started again with this durable topology, whose queues bear the uids that
    /// [`Queue::log_id`] tells.
    pub(crate) fn restarted(&mut self, found: &Topology) {
        // Names that were chosen and never told.
        for (name, it) in &found.queues {
            self.rename(&format!("?{}", it.uid), name);
        }
        let at = self.history.iter().rposition(|(_, it)| **it == *found);
        let Some(at) = at else {
            let differences = self.history.iter().map(|(turn, it)| {
                let (wanted, found) = (it.lines(), found.lines());
                let (missing, more) = (&wanted - &found, &found - &wanted);
                format!("since turn {turn}: missing {missing:#?} too many {more:#?}\n")
            });
            let text: String = differences.collect();
            panic!("the topology is that of no moment since the last promise\n{text}");
        };
        self.counts.add(if at + 1 == self.history.len() {
            "restarts with all definitions"
        } else {
            "restarts with older definitions"
        });
        self.history.truncate(at + 1);
        self.topology = found.clone();
        let named: BTreeMap<Uid, String> = found
            .queues
            .iter()
            .map(|(name, it)| (it.uid, name.clone()))
            .collect();
        let possible: BTreeSet<Uid> = self
            .history
            .iter()
            .flat_map(|(_, it)| it.queues.values().map(|queue| queue.uid))
            .collect();
        self.queues
            .retain(|uid, _| named.contains_key(uid) || possible.contains(uid));
        for (uid, queue) in &mut self.queues {
            queue.dead = !named.contains_key(uid);
        }
    }

    /// Whether a message that was `maybe` is there is known now.
    pub(crate) fn resolve(&mut self, uid: Uid, sequence: u64, is_there: bool) {
        let turn = self.turn;
        let queue = self.queues.get_mut(&uid).expect("a queue that is there");
        let entry = queue
            .entries
            .get_mut(&sequence)
            .expect("a message that may be there");
        let (message, was_required, was_settled) =
            (entry.message, entry.required, entry.was_settled);
        let is_hit = entry.hit.is_some();
        if is_there {
            entry.maybe = false;
            // It came back, so it counts as written in this life.
            entry.turn = if was_required { entry.turn } else { turn };
            queue.unsettled.remove(&message);
            self.counts.add(if was_required {
                "recovered as promised"
            } else {
                "recovered without promise"
            });
        } else {
            assert!(
                !was_required || is_hit,
                "#{message} in queue '{}' is lost: it was on the disk and was not settled",
                queue.name
            );
            let entry = queue.entries.remove(&sequence).expect("found above");
            queue.by_message.remove(&message);
            queue.gone.insert(message, (sequence, entry));
            if is_hit {
                // That it is lost was found in this life; should the next begin before that is on
                // the disk, it is found once more.
                queue.unsettled.insert(message);
            }
            if was_required {
                self.lost_by_damage.push(message);
            }
            self.counts.add(if was_required {
                "lost by damage"
            } else {
                "not recovered"
            });
        }
        self.weigh(uid, sequence, is_there, was_settled);
    }

    /// Holds what became of a message against the other effects of its transaction.
    fn weigh(&mut self, uid: Uid, sequence: u64, is_there: bool, was_settled: bool) {
        let place = (uid, sequence);
        for group in &mut self.groups {
            if is_there && group.added.contains(&place) {
                group.evidence.0 = true;
            } else if (is_there && group.settled.contains(&place))
                || (!is_there && !was_settled && group.added.contains(&place))
            {
                group.evidence.1 = true;
            } else {
                continue;
            }
            assert!(
                group.evidence != (true, true),
                "half a transaction has survived: {group:?}"
            );
        }
    }
}
