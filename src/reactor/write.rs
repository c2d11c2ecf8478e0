//! The step of a turn that writes to peers.

use std::io::{self, Write as _};

use super::Reactor;
use crate::clock::Now;
use crate::storage::Storage;

/// Octets written to one peer in one turn, beyond which a large body waits for the next.
const WRITE_OCTETS_PER_TURN: usize = 1 << 20;

impl<S: Storage> Reactor<S> {
    pub(super) fn write(&mut self, now: Now) {
        for id in self.engine.take_writable() {
            let slot = self.by_connection[id.slot as usize];
            let Some(peer) = self.peers.get_mut(slot as usize) else {
                continue;
            };
            let mut budget = WRITE_OCTETS_PER_TURN;
            loop {
                if budget == 0 {
                    self.engine.write_on(id);
                    break;
                }
                let octets = self.engine.octets_for(id);
                if octets.is_empty() {
                    break;
                }
                let wanted = octets.len();
                budget = budget.saturating_sub(wanted);
                match peer.stream.write(octets) {
                    Ok(written) => {
                        self.engine.wrote(id, written, written < wanted);
                        if written < wanted {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.engine.wrote(id, 0, true);
                        break;
                    }
                    Err(_) => {
                        peer.is_ended = true;
                        break;
                    }
                }
            }
            if peer.is_ended {
                self.drop_peer(now, slot);
            } else if self.engine.is_over(id) {
                self.bid_farewell(now, slot);
            }
        }
    }
}
