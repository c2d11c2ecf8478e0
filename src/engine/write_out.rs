//! What waits to be written to peers: the reactor asks who and what, and says what their sockets took.

use super::outbox::Outbox;
use super::{ConnectionId, Engine};
use crate::connection::Pause;
use crate::storage::Storage;

impl<S: Storage> Engine<S> {
    /// Peers with something to write that are not waiting for their socket.
    pub fn take_writable(&mut self) -> Vec<ConnectionId> {
        let mut writable = Vec::with_capacity(self.plant.dirty.len());
        for slot in std::mem::take(&mut self.plant.dirty) {
            if let (Some(outbox), Some(peer)) = (
                self.plant.outboxes.get_mut(slot as usize),
                self.peers.get(slot as usize),
            ) {
                outbox.is_listed = false;
                if !outbox.is_blocked {
                    writable.push(ConnectionId {
                        slot,
                        generation: peer.generation,
                    });
                }
            }
        }
        writable
    }

    /// Whether what waits to be written is spread over several peers, a little for each: a turn that
    /// takes in more before it writes costs them less.
    pub fn is_spread_thin(&self) -> bool {
        /// Writes of this many octets cost little more a message than larger ones.
        const OCTETS_ENOUGH: usize = 8 << 10;
        /// As many outboxes tell how full the others are.
        const LOOKED_AT: usize = 16;
        let slots = &self.plant.dirty[..self.plant.dirty.len().min(LOOKED_AT)];
        let outboxes = slots
            .iter()
            .filter_map(|&slot| self.plant.outboxes.get(slot as usize));
        let octets: usize = outboxes.map(Outbox::octets).sum();
        slots.len() > 1 && octets < OCTETS_ENOUGH * slots.len()
    }

    /// The octets to write to a peer now; empty when there are none.
    pub fn octets_for(&mut self, id: ConnectionId) -> &[u8] {
        if !self.is_there(id) {
            return &[];
        }
        self.plant.to_write(id.slot)
    }

    /// The octets that stand in line behind those of [`Engine::octets_for`], where a large body
    /// comes between; the body itself is left out. So a test can see at once all that a call did.
    pub fn octets_behind(&self, id: ConnectionId) -> impl Iterator<Item = &[u8]> {
        let is_there = self.is_there(id);
        let outbox = is_there.then(|| &self.plant.outboxes[id.slot as usize]);
        outbox.into_iter().flat_map(Outbox::behind)
    }

    /// Notes that so many of the octets were written; `is_blocked`: the socket takes no more now.
    pub fn wrote(&mut self, id: ConnectionId, octets: usize, is_blocked: bool) {
        if !self.is_there(id) {
            return;
        }
        let outbox = &mut self.plant.outboxes[id.slot as usize];
        outbox.wrote(octets, &mut self.plant.spare);
        outbox.is_blocked = is_blocked;
        let peer = &mut self.peers[id.slot as usize];
        peer.writes += 1;
        if octets > 0 {
            peer.connection.wrote_out();
        }
        if outbox.octets() <= self.outbox_octets_low && !outbox.has_large() {
            if peer.pause == Some(Pause::Outbox) {
                self.resumed.push(id);
            }
            if let Some(session) = peer.connection.session() {
                self.broker.outbox_ready(session.slot);
                self.is_busy |= self.broker.has_listed();
            }
        }
    }

    /// Writing to the peer goes on in the next turn, so that others get theirs first.
    pub fn write_on(&mut self, id: ConnectionId) {
        if self.is_there(id) {
            let outbox = &mut self.plant.outboxes[id.slot as usize];
            if !outbox.is_listed {
                outbox.is_listed = true;
                self.plant.dirty.push(id.slot);
            }
        }
    }

    /// The peer's socket takes octets again.
    pub fn socket_ready(&mut self, id: ConnectionId) {
        if self.is_there(id) {
            let outbox = &mut self.plant.outboxes[id.slot as usize];
            outbox.is_blocked = false;
            if !outbox.is_listed && !outbox.is_empty() {
                outbox.is_listed = true;
                self.plant.dirty.push(id.slot);
            }
        }
    }
}
