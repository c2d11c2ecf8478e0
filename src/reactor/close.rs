//! The step of a turn that lets go of peers.

use std::io::{self, Read as _};
use std::net::Shutdown;

use super::{READ_OCTETS, Reactor};
use crate::clock::Now;
use crate::engine::ConnectionId;
use crate::storage::Storage;

/// How long a peer may go on sending after it has got its last octets, in milliseconds. Closing a
/// socket with unread input resets it, and a client that is still writing when it gets
/// `connection.close-ok` would see an error in place of the answer.
const LINGER_MS: u64 = 1_000;

impl<S: Storage> Reactor<S> {
    /// Lets go of a connection that is over, and leaves its socket to the peer for a while.
    pub(super) fn bid_farewell(&mut self, now: Now, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        // The peer sees the end behind the last octets. When that cannot be, it is gone already.
        let is_gone = peer.is_ended || peer.stream.shutdown(Shutdown::Write).is_err();
        if is_gone || self.stop_at.is_some() {
            self.drop_peer(now, slot);
            return;
        }
        peer.is_lingering = true;
        peer.inbox = Vec::new();
        let id = peer.id;
        self.lingering
            .push_back((now.after_ms(LINGER_MS), id, slot));
        self.engine.drop_peer(now, id);
        self.discard_from(now, slot);
    }

    /// Throws away what a lingering peer has sent, a turn's budget at most.
    pub(super) fn discard_from(&mut self, now: Now, slot: u32) {
        let octets = self.config.limits.inbox_octets_per_turn;
        let peer = &mut self.peers[slot as usize];
        match peer
            .stream
            .read(&mut self.buffer[..octets.min(READ_OCTETS)])
        {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.list(slot),
            Ok(1..) => self.list(slot),
            Ok(0) | Err(_) => self.drop_peer(now, slot),
        }
    }

    /// Has a peer read from in the next turn.
    pub(super) fn list(&mut self, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        if !peer.is_listed {
            peer.is_listed = true;
            self.readable.push(slot);
        }
    }

    /// Closes the sockets of peers that have lingered long enough, and forgets those that left.
    pub(super) fn end_lingering(&mut self, now: Now) {
        let is_stopping = self.stop_at.is_some();
        while let Some(&(at, id, slot)) = self.lingering.front() {
            let peer = self.peers.get(slot as usize);
            let is_there = peer.is_some_and(|peer| peer.id == id);
            if is_there && !is_stopping && !at.is_due(now) {
                break;
            }
            self.lingering.pop_front();
            if is_there {
                self.drop_peer(now, slot);
            }
        }
    }

    pub(super) fn drop_peer(&mut self, now: Now, slot: u32) {
        let mut peer = self.peers.remove(slot as usize);
        self.engine.drop_peer(now, peer.id);
        // Closing the descriptor takes it out of the poll as well.
        let _ = self.poll.registry().deregister(&mut peer.stream);
    }

    pub(super) fn drop_connection(&mut self, now: Now, id: ConnectionId) {
        let slot = self.by_connection[id.slot as usize];
        if self
            .peers
            .get(slot as usize)
            .is_some_and(|peer| peer.id == id)
        {
            self.drop_peer(now, slot);
        }
    }
}
