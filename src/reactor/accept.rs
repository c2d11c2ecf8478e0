//! The step of a turn that takes new peers in.

use std::io;
use std::net::SocketAddr;

use mio::Interest;
use mio::net::TcpStream;

use super::peer::Peer;
use super::source::Source;
use super::{Reactor, socket};
use crate::clock::Now;
use crate::storage::Storage;

/// How long accepting rests when descriptors have run out, in milliseconds.
pub(super) const ACCEPT_REST_MS: u64 = 100;

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;

/// A refusal for want of room is told this often at most, in milliseconds.
const REFUSAL_TOLD_MS: u64 = 1000;

impl<S: Storage> Reactor<S> {
    pub(super) fn accept(&mut self, now: Now) {
        self.accept_at = None;
        let mut room = ACCEPTS_PER_TURN;
        let mut is_more = false;
        for index in 0..self.listeners.len() {
            loop {
                if room == 0 {
                    is_more = true;
                    break;
                }
                match self.listeners[index].accept() {
                    Ok((stream, address)) => {
                        room -= 1;
                        self.welcome(now, stream, address);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        if self.refusal_told_at.is_due(now) {
                            self.refusal_told_at = now.after_ms(REFUSAL_TOLD_MS);
                            log::warn!("cannot accept a connection: {error}");
                        }
                        self.accept_at = Some(now.after_ms(ACCEPT_REST_MS));
                        break;
                    }
                }
            }
        }
        self.is_accepting = is_more;
    }

    fn welcome(&mut self, now: Now, mut stream: TcpStream, address: SocketAddr) {
        let connections_max = self.config.limits.connections_max as usize;
        if self.peers.len() >= connections_max || self.socket_room(0) == 0 {
            if self.refusal_told_at.is_due(now) {
                self.refusal_told_at = now.after_ms(REFUSAL_TOLD_MS);
                let open = self.peers.len();
                log::warn!("refusing AMQP connection {address}: there are {open} already");
            }
            return;
        }
        socket::configure(&stream, &self.config.socket);
        let slot = self.peers.vacant_key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) =
            self.poll
                .registry()
                .register(&mut stream, Source::Peer(slot).token(), interest)
        {
            log::warn!("cannot poll {address}: {error}");
            return;
        }
        let local = stream.local_addr().unwrap_or(address);
        let id = self.engine.accept(now, address, local);
        if self.by_connection.len() <= id.slot as usize {
            self.by_connection.resize(id.slot as usize + 1, u32::MAX);
        }
        self.by_connection[id.slot as usize] = slot as u32;
        let inbox = Vec::new();
        self.peers.insert(Peer {
            stream,
            id,
            inbox,
            is_held: false,
            is_listed: true,
            is_half_closed: false,
            is_ended: false,
            is_lingering: false,
        });
        self.readable.push(slot as u32);
    }

    /// Sockets that may be added without taking descriptors from files, but for `extra` of them.
    pub(super) fn socket_room(&self, extra: usize) -> usize {
        let open = self.peers.len() + self.http.peers();
        (self.sockets_max + extra).saturating_sub(open)
    }
}
