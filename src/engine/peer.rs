//! The peers: how they come, are read, run late and go.

use std::cmp::Reverse;
use std::net::SocketAddr;

use super::outbox::Outbox;
use super::turn::Turn;
use super::{ConnectionId, DELIVERIES_PER_TURN, Engine};
use crate::broker::meter::Meter;
use crate::clock::{Deadline, Now};
use crate::connection::{Connection, Pause, Received};
use crate::storage::Storage;

/// What the commands taken in from a peer at a time may cost the router, in its units of effort
/// ([`Broker::effort`](crate::broker::Broker::effort)), before the others have their turn: about a
/// millisecond, but for the last command, which is done whole.
const EFFORT_PER_CALL: u64 = 16_384;

/// A connection and what the engine knows of its peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) generation: u32,
    pub(super) connection: Connection,
    /// The client's end of the socket.
    pub(super) address: SocketAddr,
    /// Our end.
    pub(super) local: SocketAddr,
    pub(super) connected_ms: u64,
    pub(super) octets_in: u64,
    /// Reads from the socket that brought something.
    pub(super) reads: u64,
    /// Writes to the socket.
    pub(super) writes: u64,
    /// How fast octets come and go.
    pub(super) meter: Meter<2>,
    /// Input was left over that may hold a whole frame.
    pub(super) pause: Option<Pause>,
    /// It is on the list of connections with answers that wait for the disk.
    pub(super) is_holding: bool,
    /// The deadline under which it is on the heap.
    pub(super) timer: Option<Deadline>,
}

impl Peer {
    /// `127.0.0.1:49330 -> 127.0.0.1:5672`
    pub(super) fn name(&self) -> String {
        ends_shown((self.address, self.local))
    }

    /// Both ends as people know them, the client's first.
    pub(super) fn ends(&self) -> (SocketAddr, SocketAddr) {
        (shown(self.address), shown(self.local))
    }
}

impl<S: Storage> Engine<S> {
    /// A peer has come.
    ///
    /// * `address`: the client's end of the socket, `local`: ours; both together are the
    ///   connection's name.
    pub fn accept(&mut self, now: Now, address: SocketAddr, local: SocketAddr) -> ConnectionId {
        self.sampler.arm(now);
        self.peers_accepted += 1;
        self.generation += 1;
        let generation = self.generation;
        let slot = self.peers.insert(Peer {
            generation,
            connection: Connection::accept(now, &self.offer),
            address,
            local,
            connected_ms: now.wall_ms,
            octets_in: 0,
            reads: 0,
            writes: 0,
            meter: Meter::start(now, [0; 2]),
            pause: None,
            is_holding: false,
            timer: None,
        }) as u32;
        let outbox = self.plant.outboxes.insert(Outbox::default());
        debug_assert_eq!(
            outbox, slot as usize,
            "outboxes and peers come and go together"
        );
        let id = ConnectionId { slot, generation };
        self.set_timer(id);
        log::info!(
            "accepting AMQP connection {}",
            self.peers[slot as usize].name()
        );
        id
    }

    /// Number of peers.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Octets have come from a peer: what was left over before and what is new, in one piece.
    #[inline]
    pub fn receive(&mut self, now: Now, id: ConnectionId, octets: &[u8]) -> Received {
        if !self.is_there(id) {
            return Received {
                consumed: octets.len(),
                pause: None,
            };
        }
        let alarm = self.alarms.reason;
        let received = self.with_connection(now, id, |connection, turn| {
            let received = connection.receive(octets, turn);
            if alarm.is_some() && connection.publishes {
                connection.set_blocked(alarm, turn);
            }
            received
        });
        let peer = &mut self.peers[id.slot as usize];
        peer.octets_in += received.consumed as u64;
        peer.reads += 1;
        if received.pause == Some(Pause::Turn) {
            self.resumed.push(id);
        } else if received.pause.is_some() && peer.pause.is_none() {
            self.paused.push(id);
        }
        peer.pause = received.pause;
        if peer.connection.is_holding() && !peer.is_holding {
            peer.is_holding = true;
            self.holding.push(id);
        }
        let next = peer.connection.next_deadline();
        if next != peer.timer && next.is_some_and(|next| peer.timer.is_none_or(|it| next < it)) {
            self.set_timer(id);
        }
        self.is_busy = self
            .broker
            .deliver_listed(now, &mut self.plant, DELIVERIES_PER_TURN);
        received
    }

    /// Octets of the body frame that a peer has begun and that have not come yet.
    #[inline]
    pub fn open_frame_octets(&self, id: ConnectionId) -> usize {
        let peer = self.peers.get(id.slot as usize);
        peer.map_or(0, |peer| peer.connection.open_frame_octets())
    }

    /// Whether the peer still exists in the engine.
    pub fn is_there(&self, id: ConnectionId) -> bool {
        self.peers
            .get(id.slot as usize)
            .is_some_and(|peer| peer.generation == id.generation)
    }

    /// Whether the peer's socket may be closed: nothing more comes and everything is written.
    pub fn is_over(&self, id: ConnectionId) -> bool {
        if !self.is_there(id) {
            return false;
        }
        let outbox = &self.plant.outboxes[id.slot as usize];
        let is_over = self.peers[id.slot as usize].connection.is_over();
        outbox.is_broken || (is_over && outbox.is_empty())
    }

    /// Whether the peer's input is not to be read.
    pub fn is_paused(&self, id: ConnectionId) -> bool {
        self.is_there(id) && self.peers[id.slot as usize].pause.is_some()
    }

    /// The peer is gone, or is to be.
    pub fn drop_peer(&mut self, now: Now, id: ConnectionId) {
        if !self.is_there(id) {
            return;
        }
        self.with_connection(now, id, |connection, turn| connection.abandon(turn));
        let peer = self.peers.remove(id.slot as usize);
        self.plant.outboxes.remove(id.slot as usize);
        self.peers_dropped += 1;
        let (client, name) = (&peer.connection.client, peer.name());
        let open_ms = now.wall_ms.saturating_sub(peer.connected_ms);
        log::info!(
            "closing AMQP connection ({name}, vhost: '{}', user: '{}', duration: '{open_ms}ms')",
            client.vhost,
            client.user
        );
    }

    /// The connection whose name says these ends.
    pub(super) fn connection_named(&self, name: &[u8]) -> Option<ConnectionId> {
        let wanted = ends(name)?;
        let (slot, peer) = self
            .peers
            .iter()
            .find(|(_, peer)| peer.ends() == wanted && !peer.connection.is_over())?;
        Some(ConnectionId {
            slot: slot as u32,
            generation: peer.generation,
        })
    }

    /// Calls a connection of a peer that is there, with its host.
    #[inline]
    pub(super) fn with_connection<R>(
        &mut self,
        now: Now,
        id: ConnectionId,
        act: impl FnOnce(&mut Connection, &mut Turn<'_, S>) -> R,
    ) -> R {
        let peer = &mut self.peers[id.slot as usize];
        let effort_max = self.broker.effort() + EFFORT_PER_CALL;
        let mut turn = Turn {
            now,
            broker: &mut self.broker,
            plant: &mut self.plant,
            offer: &self.offer,
            outbox: id.slot,
            ends: (peer.address, peer.local),
            outbox_octets_max: self.outbox_octets_max,
            publishing_stopped: self.alarms.reason.is_some(),
            effort_max,
        };
        act(&mut peer.connection, &mut turn)
    }

    /// All peers.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.peers.iter().map(|(slot, peer)| ConnectionId {
            slot: slot as u32,
            generation: peer.generation,
        })
    }

    /// Tells connections whose deadline has come the time; those that are to be closed are appended
    /// to `dead`.
    pub(super) fn tick(&mut self, now: Now, dead: &mut Vec<ConnectionId>) {
        while let Some(&Reverse((deadline, id))) = self.timers.peek()
            && deadline.is_due(now)
        {
            self.timers.pop();
            if !self.is_there(id) || self.peers[id.slot as usize].timer != Some(deadline) {
                continue;
            }
            let is_deaf = self.peers[id.slot as usize].pause.is_some();
            if self.with_connection(now, id, |connection, turn| connection.tick(is_deaf, turn)) {
                dead.push(id);
            } else {
                self.set_timer(id);
                // A connection that is over without a last word has nothing to write.
                if self.is_over(id) {
                    dead.push(id);
                }
            }
        }
    }

    /// Puts the connection's next deadline on the heap.
    pub(super) fn set_timer(&mut self, id: ConnectionId) {
        let peer = &mut self.peers[id.slot as usize];
        peer.timer = peer.connection.next_deadline();
        if let Some(deadline) = peer.timer {
            self.timers.push(Reverse((deadline, id)));
        }
    }
}

/// The name of the connection between two ends, the client's first.
pub(super) fn ends_shown((peer, local): (SocketAddr, SocketAddr)) -> String {
    format!("{} -> {}", shown(peer), shown(local))
}

/// An address as people know it: one of IPv4 that came through a socket of IPv6 is itself again.
pub(super) fn shown(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Both ends that the name of a connection tells.
pub(super) fn ends(name: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (peer, local) = std::str::from_utf8(name).ok()?.split_once(" -> ")?;
    Some((peer.parse().ok()?, local.parse().ok()?))
}
