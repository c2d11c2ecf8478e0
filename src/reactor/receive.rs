//! The step of a turn that reads from peers.

use std::io::{self, Read as _};

use super::Reactor;
use crate::clock::Now;
use crate::storage::Storage;

/// Octets of a body frame that are read in one turn beyond the peer's budget: what follows is known
/// to be large, and fewer turns are cheaper.
const BODY_OCTETS_PER_TURN: usize = 64 << 10;

/// Octets that are read from a peer in one turn beyond its budget while what it publishes is spread
/// over so many peers that each write would be small: a write costs as much as many messages.
const THIN_OCTETS_PER_TURN: usize = 48 << 10;

impl<S: Storage> Reactor<S> {
    pub(super) fn receive(&mut self, now: Now) {
        for id in self.engine.take_resumed() {
            let slot = self.by_connection[id.slot as usize];
            let peer = self.peers.get(slot as usize);
            if peer.is_some_and(|peer| peer.id == id) {
                self.list(slot);
            }
        }
        for slot in std::mem::take(&mut self.readable) {
            if self
                .peers
                .get(slot as usize)
                .is_some_and(|peer| peer.is_listed)
            {
                self.peers[slot as usize].is_listed = false;
                self.receive_from(now, slot);
            }
        }
    }

    /// Reads from one peer and hands on what came, once: the rest of its budget is the next
    /// turn's. A body frame that has begun is read on, up to a budget of its own, and so is what goes
    /// to many peers, a little to each.
    fn receive_from(&mut self, now: Now, slot: u32) {
        let mut octets = self.config.limits.inbox_octets_per_turn;
        let mut body_octets = BODY_OCTETS_PER_TURN;
        let mut thin_octets = THIN_OCTETS_PER_TURN;
        if self.peers[slot as usize].is_lingering {
            self.discard_from(now, slot);
            return;
        }
        // What was left over for want of room or time comes first: reading more on top of it, turn
        // by turn, would pile it up.
        let peer = &self.peers[slot as usize];
        if peer.is_held && (self.engine.is_paused(peer.id) || !self.read_from(now, slot, 0)) {
            return;
        }
        loop {
            let id = self.peers[slot as usize].id;
            if self.engine.is_paused(id) || !self.read_from(now, slot, octets) {
                return;
            }
            octets = self.engine.open_frame_octets(id).min(body_octets);
            body_octets -= octets;
            if octets == 0 && self.engine.is_spread_thin() {
                octets = self.config.limits.inbox_octets_per_turn.min(thin_octets);
                thin_octets -= octets;
            }
            if octets == 0 {
                self.list(slot);
                return;
            }
        }
    }

    /// Reads up to `octets` from one peer and hands them on with what was left over; says whether
    /// there may be more. With 0 it hands on what was left over alone.
    fn read_from(&mut self, now: Now, slot: u32, octets: usize) -> bool {
        let peer = &mut self.peers[slot as usize];
        let left_over = peer.inbox.len();
        // A whole frame and what may have been left before it must fit.
        let wanted = left_over + octets;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        self.buffer[..left_over].copy_from_slice(&peer.inbox);
        let mut filled = left_over;
        let mut may_have_more = octets == 0;
        if octets > 0 && !peer.is_ended {
            match peer.stream.read(&mut self.buffer[left_over..wanted]) {
                Ok(0) => peer.is_ended = true,
                Ok(octets) => {
                    filled += octets;
                    // A short read has emptied the socket: the next edge will come.
                    may_have_more = octets == wanted - left_over || peer.is_half_closed;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => may_have_more = true,
                Err(_) => {
                    // A peer that resets its connection is gone as one that closes it.
                    peer.is_ended = true;
                }
            }
        }
        let id = peer.id;
        let received = self.engine.receive(now, id, &self.buffer[..filled]);
        let peer = &mut self.peers[slot as usize];
        let rest = &self.buffer[received.consumed..filled];
        if rest.is_empty() {
            peer.inbox = Vec::new();
        } else {
            peer.inbox.clear();
            peer.inbox.extend_from_slice(rest);
        }
        peer.is_held = received.pause.is_some();
        if peer.is_ended && received.pause.is_none() {
            self.drop_peer(now, slot);
            return false;
        }
        if self.engine.is_over(id) {
            self.bid_farewell(now, slot);
            return false;
        }
        may_have_more && received.pause.is_none()
    }
}
