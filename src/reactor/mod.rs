//! Sockets, and the order of a turn. One mio poll owns every socket; what the octets mean is the
//! engine's business.
//!
//! A turn:
//!
//! 1. **poll**, for as long as nothing is due;
//! 2. **read the clock**, once: everything in the turn happens at one time;
//! 3. **accept**;
//! 4. **helpers' answers**: before input, since they free room and credit that the input can use;
//! 5. **receive**, up to a budget a peer: one fast publisher must not keep the others waiting;
//! 6. **HTTP**, a few calls: what operators change belongs into this turn's commit, too;
//! 7. **deadlines, deliveries, confirms, commit** ([`Engine::end_turn`]): after all input, so that
//!    one flush and one confirm cover the whole turn;
//! 8. **write**, last, so that one system call a peer carries everything the turn produced;
//! 9. **close** peers that are over: only here are slots freed, so no step above can meet a slot
//!    that has changed hands.
//!
//! epoll is edge-triggered: a peer whose budget ran out is kept on a list and read on in the next
//! turn, a peer that was paused is put on it when it resumes, and accepting after a shortage of
//! descriptors is tried again by deadline, for no edge will come.

mod http;
mod memory;
mod process;
mod socket;

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slab::Slab;

use self::http::{HttpServer, Room};
use self::memory::MemoryWatch;
use crate::admin::ListenerRow;
use crate::clock::{Clock, Deadline, Now};
use crate::config::Config;
use crate::engine::{ConnectionId, Engine, Figures};
use crate::storage::{HelperThreads, Storage};

/// What an event is about: the kind in the token's highest bits, an index below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// An AMQP peer, by slot.
    Peer(usize),
    /// An AMQP listener.
    Listener(usize),
    /// An HTTP peer, by slot.
    HttpPeer(usize),
    /// An HTTP listener.
    HttpListener(usize),
    /// A helper has answered.
    Helpers,
    /// The operating system asks for something.
    Signals,
}

impl Source {
    const KIND_SHIFT: u32 = usize::BITS - 3;

    fn token(self) -> Token {
        let (kind, index) = match self {
            Source::Peer(slot) => (0, slot),
            Source::Listener(index) => (1, index),
            Source::HttpPeer(slot) => (2, slot),
            Source::HttpListener(index) => (3, index),
            Source::Helpers => (4, 0),
            Source::Signals => (5, 0),
        };
        Token(kind << Self::KIND_SHIFT | index)
    }

    #[inline]
    fn of(Token(token): Token) -> Self {
        let index = token & ((1 << Self::KIND_SHIFT) - 1);
        match token >> Self::KIND_SHIFT {
            0 => Source::Peer(index),
            1 => Source::Listener(index),
            2 => Source::HttpPeer(index),
            3 => Source::HttpListener(index),
            4 => Source::Helpers,
            _ => Source::Signals,
        }
    }
}

/// Octets that one read takes at most: room for what was left over and a full read.
const READ_OCTETS: usize = 128 << 10;

/// Octets of a body frame that are read in one turn beyond the peer's budget: what follows is known
/// to be large, and fewer turns are cheaper.
const BODY_OCTETS_PER_TURN: usize = 64 << 10;

/// Octets that are read from a peer in one turn beyond its budget while what it publishes is spread
/// over so many peers that each write would be small: a write costs as much as many messages.
const THIN_OCTETS_PER_TURN: usize = 48 << 10;

/// How long accepting rests when descriptors have run out, in milliseconds.
const ACCEPT_REST_MS: u64 = 100;

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Octets written to one peer in one turn, beyond which a large body waits for the next.
const WRITE_OCTETS_PER_TURN: usize = 1 << 20;

/// How often the memory in use is looked at, in milliseconds.
const MEMORY_LOOK_MS: u64 = 1_000;

/// How long clients may take to answer the last `connection.close`, in milliseconds.
const FAREWELL_MS: u64 = 300;

/// How long a peer may go on sending after it has got its last octets, in milliseconds. Closing a
/// socket with unread input resets it, and a client that is still writing when it gets
/// `connection.close-ok` would see an error in place of the answer.
const LINGER_MS: u64 = 1_000;

/// How old what the operating system says of the process may be, in milliseconds.
const FIGURES_MS: u64 = 1000;

/// Sockets that operators on this machine may open when there is no room for anyone else.
const CONTROL_SOCKETS: usize = 16;

/// A refusal for want of room is told this often at most, in milliseconds.
const REFUSAL_TOLD_MS: u64 = 1000;

/// Why the reactor has ended.
#[derive(Debug)]
pub enum End {
    /// It was asked to; everything is on stable storage.
    Stopped,
    /// The storage can promise nothing any more.
    Storage(String),
}

/// One socket and the connection behind it.
#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    id: ConnectionId,
    /// Octets that came and are not consumed yet; holds no memory when empty.
    inbox: Vec<u8>,
    /// It is on the list of peers to read from.
    is_listed: bool,
    /// The end of what the peer sends has been announced, but perhaps not been read up to: no
    /// further edge will come.
    is_half_closed: bool,
    /// The peer will send no more.
    is_ended: bool,
    /// Its connection is over and everything was written: what still comes is thrown away until
    /// the peer closes its side, or the moment on the reactor's list of lingering peers is there.
    is_lingering: bool,
}

/// See the module.
pub struct Reactor<S: Storage> {
    poll: Poll,
    clock: Clock,
    signals: Signals,
    listeners: Vec<TcpListener>,
    peers: Slab<Peer>,
    /// Slot of a peer by the slot of its connection.
    by_connection: Vec<u32>,
    engine: Engine<S>,
    helpers: HelperThreads<S>,
    config: Config,
    /// Peers that may have more to read.
    readable: Vec<u32>,
    buffer: Vec<u8>,
    /// Accepting is tried again at this moment.
    accept_at: Option<Deadline>,
    is_accepting: bool,
    /// Peers that linger, in the order in which they are given up.
    lingering: VecDeque<(Deadline, ConnectionId, u32)>,
    stop_at: Option<Deadline>,
    /// When the storage is no longer waited for, while the server stops.
    rest_at: Option<Deadline>,
    memory: MemoryWatch,
    memory_at: Deadline,
    is_memory_high: bool,
    http: HttpServer,
    descriptors_max: u64,
    /// Sockets at most, so that files find descriptors.
    sockets_max: usize,
    figures_at: Deadline,
    refusal_told_at: Deadline,
}

impl<S: Storage> std::fmt::Debug for Reactor<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor")
            .field("listeners", &self.listeners)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

impl<S: Storage> Reactor<S> {
    /// Binds the listeners and starts the helpers' threads.
    ///
    /// # Errors
    /// A line that names what could not be had.
    pub fn new(
        engine: Engine<S>,
        storage: &S,
        clock: Clock,
        config: Config,
    ) -> Result<Self, String> {
        let fail = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| format!("{what}: {error}")
        };
        let poll = Poll::new().map_err(fail("cannot poll"))?;
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(fail("cannot take signals"))?;
        let registry = poll.registry();
        registry
            .register(&mut signals, Source::Signals.token(), Interest::READABLE)
            .map_err(fail("cannot take signals"))?;
        let mut listeners = Vec::new();
        for (index, &address) in config.amqp_listen.iter().enumerate() {
            let mut listener = socket::listen(address, &config.socket)
                .map_err(fail(&format!("cannot listen on {address}")))?;
            registry
                .register(
                    &mut listener,
                    Source::Listener(index).token(),
                    Interest::READABLE,
                )
                .map_err(fail("cannot poll a listener"))?;
            listeners.push(listener);
        }
        let http = HttpServer::new(&config, registry)?;
        let descriptors_max = process::raise_descriptors();
        let sockets_max = process::sockets_max(descriptors_max);
        let waker = Waker::new(registry, Source::Helpers.token()).map_err(fail("cannot wake"))?;
        let waker = Arc::new(waker);
        let helpers = HelperThreads::start(storage, move || {
            // A wake that fails is made up for by the next deadline.
            let _ = waker.wake();
        })
        .map_err(fail("cannot start the helpers' threads"))?;
        let mut reactor = Reactor {
            poll,
            clock,
            signals,
            listeners,
            peers: Slab::new(),
            by_connection: Vec::new(),
            engine,
            helpers,
            config,
            readable: Vec::new(),
            buffer: vec![0; READ_OCTETS],
            accept_at: None,
            is_accepting: false,
            lingering: VecDeque::new(),
            stop_at: None,
            rest_at: None,
            memory: MemoryWatch::new(),
            memory_at: Deadline(0),
            is_memory_high: false,
            http,
            descriptors_max,
            sockets_max: usize::try_from(sockets_max).unwrap_or(usize::MAX),
            figures_at: Deadline(0),
            refusal_told_at: Deadline(0),
        };
        reactor.http.bound_peers(reactor.sockets_max / 2);
        reactor.name_listeners();
        Ok(reactor)
    }

    /// Tells the engine where the server is reached.
    fn name_listeners(&mut self) {
        let row = |protocol| move |address| ListenerRow { protocol, address };
        let amqp = self.amqp_addresses().into_iter().map(row("amqp"));
        let http = self.http.addresses().iter().copied().map(row("http"));
        let listeners = amqp.chain(http).collect();
        self.engine.set_listeners(listeners);
    }

    /// The addresses that HTTP is spoken on.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        self.http.addresses()
    }

    /// The control socket's path.
    pub fn control_socket(&self) -> Option<&std::path::Path> {
        self.http.control_socket()
    }

    /// The addresses that AMQP is spoken on.
    pub fn amqp_addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Runs until the server is told to stop, or cannot go on.
    pub fn run(&mut self) -> End {
        let mut events = Events::with_capacity(1024);
        let mut dead = Vec::new();
        loop {
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return End::Storage(format!("cannot poll: {error}"));
            }
            let now = self.clock.now();
            self.sort(&events, now);
            if self.is_accepting || self.accept_at.is_some_and(|at| at.is_due(now)) {
                self.accept(now);
            }
            while let Some(answer) = self.helpers.try_answer() {
                self.engine.answer(now, answer);
            }
            self.watch_memory(now);
            self.receive(now);
            self.serve_http(now);
            self.engine.end_turn(now, &mut self.helpers, &mut dead);
            self.write(now);
            for id in dead.drain(..) {
                self.drop_connection(now, id);
            }
            self.end_lingering(now);
            if let Some(error) = self.engine.fatal() {
                return End::Storage(error.to_string());
            }
            if self.stop_at.is_some() && self.has_stopped(now) {
                return End::Stopped;
            }
        }
    }

    /// Looks at the memory in use now and then. An idle server uses no more, so only an alarm that
    /// is on needs a deadline.
    fn watch_memory(&mut self, now: Now) {
        if self.memory_at.is_due(now) {
            self.memory_at = now.after_ms(MEMORY_LOOK_MS);
            self.is_memory_high = self.memory.is_high();
            self.engine
                .memory_alarm(now, self.is_memory_high, self.memory.high_octets());
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = self.clock.now();
        if !self.readable.is_empty() || self.is_accepting || self.http.is_busy() {
            return Some(Duration::ZERO);
        }
        let memory_at = self.is_memory_high.then_some(self.memory_at);
        [
            self.engine.next_deadline(now),
            self.accept_at,
            self.stop_at,
            memory_at,
            self.http.next_deadline(),
            self.lingering.front().map(|&(at, ..)| at),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|deadline| deadline.wait(now))
    }

    fn sort(&mut self, events: &Events, now: Now) {
        for event in events {
            match Source::of(event.token()) {
                Source::Signals => {
                    if self.signals.pending().count() > 0 && self.stop_at.is_none() {
                        self.stop(now);
                    }
                }
                Source::Helpers => {}
                Source::Listener(_) => self.is_accepting = self.stop_at.is_none(),
                Source::HttpListener(_) => {
                    if self.stop_at.is_none() {
                        self.http.listener_ready();
                    }
                }
                Source::HttpPeer(slot) => {
                    let is_readable =
                        event.is_readable() || event.is_read_closed() || event.is_error();
                    let is_writable = event.is_writable() || event.is_error();
                    self.http.peer_ready(slot, is_readable, is_writable);
                }
                Source::Peer(slot) => {
                    let Some(peer) = self.peers.get_mut(slot) else {
                        continue;
                    };
                    if event.is_writable() {
                        self.engine.socket_ready(peer.id);
                    }
                    peer.is_half_closed |= event.is_read_closed();
                    if (event.is_readable() || event.is_read_closed() || event.is_error())
                        && !peer.is_listed
                    {
                        peer.is_listed = true;
                        self.readable.push(slot as u32);
                    }
                }
            }
        }
    }

    // ---- accept ----

    fn accept(&mut self, now: Now) {
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
                        log::warn!("cannot accept a connection: {error}");
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
            is_listed: true,
            is_half_closed: false,
            is_ended: false,
            is_lingering: false,
        });
        self.readable.push(slot as u32);
    }

    // ---- receive ----

    fn receive(&mut self, now: Now) {
        for id in self.engine.take_resumed() {
            let slot = self.by_connection[id.slot as usize];
            if let Some(peer) = self.peers.get_mut(slot as usize)
                && peer.id == id
                && !peer.is_listed
            {
                peer.is_listed = true;
                self.readable.push(slot);
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
                self.peers[slot as usize].is_listed = true;
                self.readable.push(slot);
                return;
            }
        }
    }

    /// Reads up to `octets` from one peer and hands them on; says whether there may be more.
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
        let mut may_have_more = false;
        if !peer.is_ended {
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

    // ---- HTTP ----

    /// Sockets that may be added without taking descriptors from files, but for `extra` of them.
    fn socket_room(&self, extra: usize) -> usize {
        let open = self.peers.len() + self.http.peers();
        (self.sockets_max + extra).saturating_sub(open)
    }

    fn serve_http(&mut self, now: Now) {
        let registry = self.poll.registry();
        for (id, answer) in self.engine.take_answers() {
            self.http
                .answered(now, id, answer, &mut self.engine, registry);
        }
        if !self.http.wants_turn(now) {
            return;
        }
        let room = Room {
            local: self.socket_room(CONTROL_SOCKETS),
            remote: self.socket_room(0),
        };
        if self.figures_at.is_due(now) {
            self.figures_at = now.after_ms(FIGURES_MS);
            let http_connections = self.http.peers() as u64;
            let sockets = self.peers.len() as u64 + http_connections;
            self.engine.set_figures(Figures {
                memory_octets: self.memory.used_octets(),
                descriptors: process::descriptors(sockets),
                descriptors_max: self.descriptors_max,
                http_connections,
            });
        }
        let registry = self.poll.registry();
        self.http.turn(now, room, &mut self.engine, registry);
        if self.engine.is_stop_asked() && self.stop_at.is_none() {
            self.stop(now);
        }
    }

    // ---- write ----

    fn write(&mut self, now: Now) {
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

    // ---- close ----

    /// Lets go of a connection that is over, and leaves its socket to the peer for a while.
    fn bid_farewell(&mut self, now: Now, slot: u32) {
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
    fn discard_from(&mut self, now: Now, slot: u32) {
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
    fn list(&mut self, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        if !peer.is_listed {
            peer.is_listed = true;
            self.readable.push(slot);
        }
    }

    /// Closes the sockets of peers that have lingered long enough, and forgets those that left.
    fn end_lingering(&mut self, now: Now) {
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

    fn drop_peer(&mut self, now: Now, slot: u32) {
        let mut peer = self.peers.remove(slot as usize);
        self.engine.drop_peer(now, peer.id);
        // Closing the descriptor takes it out of the poll as well.
        let _ = self.poll.registry().deregister(&mut peer.stream);
    }

    fn drop_connection(&mut self, now: Now, id: ConnectionId) {
        let slot = self.by_connection[id.slot as usize];
        if self
            .peers
            .get(slot as usize)
            .is_some_and(|peer| peer.id == id)
        {
            self.drop_peer(now, slot);
        }
    }

    // ---- stop ----

    fn stop(&mut self, now: Now) {
        log::info!("stopping");
        for listener in &mut self.listeners {
            let _ = self.poll.registry().deregister(listener);
        }
        self.listeners.clear();
        self.is_accepting = false;
        self.http.stop(self.poll.registry());
        self.engine.stop(now);
        self.stop_at = Some(now.after_ms(FAREWELL_MS));
    }

    /// Whether everyone has gone, or was given the time to.
    fn has_stopped(&mut self, now: Now) -> bool {
        let is_late = self.stop_at.is_some_and(|at| at.is_due(now));
        let is_quiet = self.peers.is_empty() && self.http.has_answered();
        if !is_quiet && !is_late {
            return false;
        }
        let slots: Vec<u32> = self.peers.iter().map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            self.drop_peer(now, slot);
        }
        let Some(rest_at) = self.rest_at else {
            // Nobody asks for anything any more: the next start shall have little to do.
            self.engine.store().checkpoint();
            self.rest_at = Some(now.after_ms(self.config.limits.stop_timeout_ms));
            self.stop_at = Some(now.after_ms(1));
            return false;
        };
        if self.engine.store().is_at_rest() {
            return true;
        }
        // A checkpoint is made in steps, one a turn. One that takes longer is left; a flush is
        // waited for.
        self.stop_at = Some(now.after_ms(1));
        rest_at.is_due(now) && self.engine.is_flushed()
    }

    /// Lets go of the storage after [`End::Stopped`], with a checkpoint when it fits its time.
    ///
    /// # Errors
    /// The line to end with.
    pub fn close(self) -> Result<(), String> {
        drop(self.helpers);
        Ok(())
    }
}
