//! Octets between clients and the engine: every call that hands some in or takes some out.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use super::{Peer, World, note};
use crate::client::{Client, Role};
use crate::model::{ConnectionKey, State};
use crate::observe::Tap;
use crate::operation::Operation;

impl World {
    pub(super) fn connect_as(&mut self, role: Role) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 5672));
        let id = self.engine.accept(self.now, address, local);
        let key = self.next_key;
        self.next_key += 1;
        self.model.accept(key);
        self.model.counts.add("connections");
        self.note(|| format!("connection {key} ({role:?})"));
        self.peers.push(Peer {
            key,
            id,
            client: Client::new(role, &mut self.random),
            octets_in: Vec::new(),
            pending: VecDeque::new(),
            sent: 0,
            consumed: 0,
            tap: Tap::new(self.config.limits.large_body_octets_min),
            seen: 0,
            events: VecDeque::new(),
            tapped: 0,
            written: 0,
            is_slow: false,
            heard_us: self.now.monotonic_us,
            beaten_us: self.now.monotonic_us,
            accepted_us: self.now.monotonic_us,
        });
    }

    pub(super) fn hand_in(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let at = self.random.below(self.peers.len());
        self.hand_in_from(at, false);
    }

    /// Hands octets of a client in: as many as arrive together.
    pub(super) fn hand_in_from(&mut self, at: usize, is_whole: bool) -> bool {
        if self.peers[at].octets_in.is_empty() || self.engine.is_paused(self.peers[at].id) {
            return false;
        }
        let allowed = self.allowed(at);
        let octets = if is_whole || !self.random.one_in(3) {
            allowed
        } else {
            self.model.counts.add("octets cut");
            self.random.between(1, allowed)
        };
        let peer = &mut self.peers[at];
        let (key, now) = (peer.key, self.now);
        self.model.begin_call();
        peer.heard_us = now.monotonic_us;
        let received = self.engine.receive(now, peer.id, &peer.octets_in[..octets]);
        if received.pause.is_some() {
            self.model.counts.add("paused");
        }
        peer.octets_in.drain(..received.consumed);
        peer.consumed += received.consumed as u64;
        while let Some(&(end, _, _)) = self.peers[at].pending.front() {
            if end > self.peers[at].consumed {
                break;
            }
            let (_, channel, operation) = self.peers[at].pending.pop_front().expect("seen above");
            self.note(|| format!("{key} → {channel} {operation}"));
            self.model.execute(key, channel, &operation);
        }
        if let Some((_, channel, Operation::Get { queue, .. })) = self.peers[at].pending.front()
            && received.pause.is_some()
        {
            // The permission to deliver is on its way although nothing was fetched yet.
            self.model.may_read(key, *channel, queue);
        }
        self.note_log_ids();
        self.after_call();
        // What hangs on a thing with very many bindings goes a little later than itself, which the
        // model does not know.
        for _ in 0..1000 {
            if !self.engine.broker().is_removing() {
                break;
            }
            self.model.counts.add("removals in slices");
            // The first slices may be on the disk while the last are not done.
            if self.random.one_in(2) {
                self.run_flush();
                self.answer();
            }
            if self.plan.restarts > 0 && self.random.one_in(30) {
                self.model.counts.add("ended between slices of bindings");
                self.is_over = true;
                break;
            }
            self.end_turn();
        }
        received.consumed > 0
    }

    /// Octets that may be handed in at once: an operation whose outcome depends on what was
    /// delivered goes alone.
    fn allowed(&self, at: usize) -> usize {
        let peer = &self.peers[at];
        let mut tags = BTreeSet::new();
        let mut allowed = 0;
        for (end, channel, operation) in &peer.pending {
            let octets = (end - peer.consumed) as usize;
            if self.sweeps(peer.key, *channel, operation, &mut tags) {
                return if allowed == 0 { octets } else { octets - 1 };
            }
            allowed = octets;
        }
        peer.octets_in.len()
    }

    fn sweeps(
        &self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
        tags: &mut BTreeSet<(u16, u64)>,
    ) -> bool {
        let connection = &self.model.connections[&key];
        let channel = connection
            .channels
            .iter()
            .find(|(other, _)| *other == number);
        match operation {
            Operation::Publish(publication) => self
                .model
                .topology
                .exchanges
                .get(&publication.exchange)
                .is_none_or(|exchange| exchange.internal),
            Operation::Ack {
                tag,
                multiple: false,
            }
            | Operation::Nack {
                tag,
                multiple: false,
                ..
            }
            | Operation::Reject { tag, .. } => {
                !tags.insert((number, *tag))
                    || channel.is_none_or(|(_, it)| !it.outstanding.contains_key(tag))
            }
            _ => operation.is_sweeping(),
        }
    }

    /// Learns how the log calls new queues.
    fn note_log_ids(&mut self) {
        let model = &mut self.model;
        if model
            .queues
            .values()
            .all(|it| !it.durable || it.log_id.is_some())
        {
            return;
        }
        for (_, queue) in self.engine.broker().queues() {
            let name = String::from_utf8_lossy(&queue.name);
            if let Some(id) = queue.id
                && let Some(named) = model.topology.queues.get(&*name)
                && let Some(known) = model.queues.get_mut(&named.uid)
            {
                known.log_id = Some(id.0);
            }
        }
    }

    /// Reads everything that the call has written.
    pub(super) fn after_call(&mut self) {
        for peer in &mut self.peers {
            let waiting = self.engine.octets_for(peer.id);
            let waiting_octets = waiting.len();
            let new = waiting.get(peer.seen..).unwrap_or_default().to_vec();
            let behind: Vec<&[u8]> = self.engine.octets_behind(peer.id).collect();
            if peer.tap.is_idle(&new, &behind) {
                continue;
            }
            peer.tapped += new.len() as u64;
            let key = peer.key;
            let (trace, is_traced, steps, now) =
                (&mut self.trace, self.plan.is_traced, self.steps, self.now);
            let mut noted =
                |line: String| note(trace, is_traced, steps, now, || format!("{key} ← {line}"));
            let events = (peer.tap).take(&new, &behind, &mut self.model, key, &mut noted);
            peer.seen = waiting_octets;
            let at = peer.tapped;
            peer.events
                .extend(events.into_iter().map(|event| (at, event)));
        }
        self.model.end_call();
    }

    pub(super) fn end_turn(&mut self) {
        let mut dead = Vec::new();
        self.model.begin_call();
        self.engine.end_turn(self.now, &mut self.jobs, &mut dead);
        self.after_call();
        self.model.end_turn();
        for id in dead {
            let at = self
                .peers
                .iter()
                .position(|peer| peer.id == id)
                .expect("a peer that is there");
            let peer = &self.peers[at];
            let state = self.model.connections[&peer.key].state;
            let silent_us = self.now.monotonic_us - peer.heard_us;
            let interval_us = u64::from(peer.client.heartbeat_s) * 1_000_000;
            let age_us = self.now.monotonic_us - peer.accepted_us;
            let is_just = match state {
                State::Open => interval_us > 0 && silent_us >= 2 * interval_us,
                State::Handshake => age_us >= self.config.limits.handshake_timeout_ms * 1000,
                State::Closing | State::Over | State::Refused => true,
            };
            assert!(
                is_just,
                "connection {} was given up after {silent_us} µs of silence",
                peer.key
            );
            if state == State::Open {
                self.model.counts.add("given up for silence");
            }
            self.drop_peer(at);
        }
        for id in self.engine.take_resumed() {
            // Its input is looked at again in some later step.
            let _ = id;
            self.model.counts.add("resumed");
        }
        self.close_what_is_over();
    }

    pub(super) fn close_what_is_over(&mut self) {
        let mut at = 0;
        while at < self.peers.len() {
            if self.engine.is_over(self.peers[at].id) {
                let key = self.peers[at].key;
                assert!(
                    self.model.connections[&key].state != State::Open
                        || self.is_disk_failing
                        || self.waits_for_what_is_damaged(at),
                    "connection {key} is given up, perhaps in the middle of a content"
                );
                self.drop_peer(at);
            } else {
                at += 1;
            }
        }
    }

    /// A connection is gone, wherever its octets are.
    pub(super) fn drop_peer(&mut self, at: usize) {
        let peer = self.peers.remove(at);
        let key = peer.key;
        self.note(|| format!("connection {key} is gone"));
        self.model.begin_call();
        self.engine.drop_peer(self.now, peer.id);
        self.model.dropped(key);
        self.after_call();
    }

    pub(super) fn write_out(&mut self) {
        for id in self.engine.take_writable() {
            let at = self.peers.iter().position(|peer| peer.id == id);
            let Some(at) = at else { continue };
            let waiting = self.engine.octets_for(id).len();
            if waiting == 0 {
                continue;
            }
            let (octets, is_blocked) = if self.peers[at].is_slow {
                (self.random.below(waiting.min(64)), true)
            } else if self.random.one_in(4) {
                self.model.counts.add("short writes to sockets");
                (self.random.below(waiting), true)
            } else {
                (waiting, false)
            };
            self.wrote(at, octets, is_blocked);
        }
        for at in 0..self.peers.len() {
            if !self.peers[at].is_slow {
                self.engine.socket_ready(self.peers[at].id);
            }
        }
        self.close_what_is_over();
    }

    pub(super) fn wrote(&mut self, at: usize, octets: usize, is_blocked: bool) {
        let peer = &mut self.peers[at];
        peer.seen -= octets;
        peer.written += octets as u64;
        self.engine.wrote(peer.id, octets, is_blocked);
        self.after_call();
        let peer = &mut self.peers[at];
        while peer
            .events
            .front()
            .is_some_and(|&(end, _)| end <= peer.written)
        {
            let (_, event) = peer.events.pop_front().expect("seen above");
            peer.client.learn(event, &mut self.random);
        }
    }
}
