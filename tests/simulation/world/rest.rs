//! Letting everything come to rest, and holding the engine's own numbers against the model's.

use std::collections::BTreeSet;

use super::{HEARTBEAT_OCTETS, World, send};
use crate::disk;
use crate::operation::Operation;

impl World {
    /// Lets everything that is under way come to its end; whether the server lives on.
    pub(super) fn settle(&mut self) -> bool {
        if self.is_disk_full {
            self.make_room();
        }
        for peer in &mut self.peers {
            peer.is_slow = false;
        }
        let mut idle = 0;
        for _ in 0..20_000 {
            let moved = self.pump();
            if !self.is_alive() {
                return false;
            }
            idle = if moved { 0 } else { idle + 1 };
            // Long enough for what is tried again once a second; a disk that was nearly full is
            // looked at every five.
            let is_blocked = self.model.connections.values().any(|it| it.is_blocked);
            if idle > if is_blocked { 20 } else { 6 } {
                return true;
            }
            self.advance(if moved { 600 } else { 300_000 });
        }
        panic!("the server does not come to rest");
    }

    /// Moves everything that can move, once.
    pub(super) fn pump(&mut self) -> bool {
        self.steps += 1;
        let mut moved = false;
        for peer in &mut self.peers {
            for (channel, operation) in peer.client.due() {
                send(peer, channel, operation);
                moved = true;
            }
        }
        let mut at = 0;
        while at < self.peers.len() {
            // A hostile peer's last octets may never make a frame; heartbeats never end.
            let is_beat = matches!(
                self.peers[at].pending.front(),
                Some((_, _, Operation::Heartbeat))
            );
            moved |= self.hand_in_from(at, true) && !is_beat;
            at += 1;
        }
        self.end_turn();
        moved |= !self.jobs.flush.is_empty() || !self.jobs.keep.is_empty();
        while !self.jobs.flush.is_empty() {
            self.run_flush();
        }
        while !self.jobs.keep.is_empty() {
            self.run_keeper();
        }
        while !self.flush_answers.is_empty() || !self.keep_answers.is_empty() {
            self.answer();
        }
        for at in 0..self.peers.len() {
            self.engine.socket_ready(self.peers[at].id);
        }
        for id in self.engine.take_writable() {
            let Some(at) = self.peers.iter().position(|peer| peer.id == id) else {
                continue;
            };
            loop {
                let waiting = self.engine.octets_for(id).len();
                if waiting == 0 {
                    break;
                }
                moved |= waiting > HEARTBEAT_OCTETS;
                self.wrote(at, waiting, false);
            }
        }
        self.close_what_is_over();
        moved
    }

    /// Files of large bodies, by name.
    pub(super) fn bodies(&self) -> BTreeSet<String> {
        let names = self.storage.names().into_iter();
        names
            .map(|(name, _)| name)
            .filter(|name| disk::is_of_kind(name, "body"))
            .collect()
    }

    /// Counts the files of large bodies that are gone since it was asked last.
    fn count_bodies(&mut self) {
        let there = self.bodies();
        for _ in self.bodies.difference(&there) {
            self.model.counts.add("large bodies removed");
        }
        self.bodies = there;
    }

    /// When nothing is under way, no large body has a file that nobody needs.
    pub(super) fn check_bodies(&mut self) {
        self.count_bodies();
        let needed = self
            .model
            .large_bodies(self.config.limits.large_body_octets_min);
        assert!(
            self.bodies.len() <= needed + self.stranded_bodies() || self.is_disk_failing,
            "{} files of large bodies, {needed} are needed: {:?}",
            self.bodies.len(),
            self.bodies
        );
    }

    /// Holds the engine's own numbers against the model's.
    pub(super) fn recount(&mut self) {
        let broker = self.engine.broker();
        if let Err(why) = broker.audit() {
            panic!("the router does not agree with itself: {why}");
        }
        let mut names = BTreeSet::new();
        for (_, queue) in broker.queues() {
            let name = String::from_utf8_lossy(&queue.name).into_owned();
            let named = self.model.topology.queues.get(&name).or_else(|| {
                // A generated name of which the answer is not seen yet.
                let unnamed = |it: &&String| it.starts_with('?');
                let held = self.model.topology.queues.keys().find(unnamed)?;
                self.model.topology.queues.get(held)
            });
            let Some(named) = named else {
                panic!("queue '{name}' should not be there")
            };
            names.insert(name.clone());
            let (required, possible) = self.model.bounds(named.uid);
            let there = queue.message_count() + queue.unacked;
            assert!(
                required <= there && there <= possible,
                "queue '{name}' (id {:?}) holds {there} messages, {required}..={possible} are possible: {:?}",
                queue.id,
                self.model.sure(named.uid)
            );
            if self.model.is_vague(named.uid) || name.starts_with("amq.gen-") {
                continue;
            }
            let ready = self.model.ready(named.uid).0;
            let found = (queue.message_count(), queue.unacked, queue.consumers.len());
            let wanted = (
                ready,
                self.model.unacked(named.uid),
                self.model.queues[&named.uid].consumers.len(),
            );
            assert_eq!(
                found, wanted,
                "queue '{name}': ready, unacknowledged, consumers"
            );
        }
        assert_eq!(
            names.len(),
            self.model.topology.queues.len(),
            "number of queues"
        );
        self.count_bodies();
        self.model.counts.add("recounts");
    }
}
