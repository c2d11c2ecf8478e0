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
//! 6. **deadlines, deliveries, confirms, commit** ([`Engine::end_turn`]): after all input, so that
//!    one flush and one confirm cover the whole turn;
//! 7. **write**, last, so that one system call a peer carries everything the turn produced;
//! 8. **close** peers that are over: only here are slots freed, so no step above can meet a slot
//!    that has changed hands.
//!
//! epoll is edge-triggered: a peer whose budget ran out is kept on a list and read on in the next
//! turn, a peer that was paused is put on it when it resumes, and accepting after a shortage of
//! descriptors is tried again by deadline, for no edge will come.

mod memory;
mod socket;

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slab::Slab;

use self::memory::MemoryWatch;
use crate::clock::{Clock, Deadline, Now};
use crate::config::Config;
use crate::engine::{ConnectionId, Engine};
use crate::storage::{HelperThreads, Storage};

const SIGNALS: Token = Token(usize::MAX - 1);
const HELPERS: Token = Token(usize::MAX - 2);
/// Tokens from here on, counted down, belong to listeners.
const LISTENERS: usize = usize::MAX - 16;

/// Octets that one read takes at most: room for what was left over and a full read.
const READ_OCTETS: usize = 128 << 10;

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
    stop_at: Option<Deadline>,
    /// When the storage is no longer waited for, while the server stops.
    rest_at: Option<Deadline>,
    memory: MemoryWatch,
    memory_at: Deadline,
    is_memory_high: bool,
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
            .register(&mut signals, SIGNALS, Interest::READABLE)
            .map_err(fail("cannot take signals"))?;
        let mut listeners = Vec::new();
        for (index, &address) in config.amqp_listen.iter().enumerate() {
            let mut listener = socket::listen(address, &config.socket)
                .map_err(fail(&format!("cannot listen on {address}")))?;
            registry
                .register(&mut listener, Token(LISTENERS - index), Interest::READABLE)
                .map_err(fail("cannot poll a listener"))?;
            listeners.push(listener);
        }
        let waker = Waker::new(registry, HELPERS).map_err(fail("cannot wake"))?;
        let waker = Arc::new(waker);
        let helpers = HelperThreads::start(storage, move || {
            // A wake that fails is made up for by the next deadline.
            let _ = waker.wake();
        })
        .map_err(fail("cannot start the helpers' threads"))?;
        Ok(Reactor {
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
            stop_at: None,
            rest_at: None,
            memory: MemoryWatch::new(),
            memory_at: Deadline(0),
            is_memory_high: false,
        })
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
            self.engine.end_turn(now, &mut self.helpers, &mut dead);
            self.write(now);
            for id in dead.drain(..) {
                self.drop_connection(now, id);
            }
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
        if !self.readable.is_empty() || self.is_accepting {
            return Some(Duration::ZERO);
        }
        let memory_at = self.is_memory_high.then_some(self.memory_at);
        [
            self.engine.next_deadline(now),
            self.accept_at,
            self.stop_at,
            memory_at,
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|deadline| deadline.wait(now))
    }

    fn sort(&mut self, events: &Events, now: Now) {
        for event in events {
            match event.token() {
                SIGNALS => {
                    if self.signals.pending().count() > 0 && self.stop_at.is_none() {
                        self.stop(now);
                    }
                }
                HELPERS => {}
                Token(token) if token > LISTENERS - self.listeners.len() => {
                    self.is_accepting = self.stop_at.is_none();
                }
                Token(slot) => {
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
        if self.peers.len() >= self.config.limits.connections_max as usize {
            log::warn!("refusing AMQP connection {address}: connections_max is reached");
            return;
        }
        socket::configure(&stream, &self.config.socket);
        let slot = self.peers.vacant_key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self
            .poll
            .registry()
            .register(&mut stream, Token(slot), interest)
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
    /// turn's.
    fn receive_from(&mut self, now: Now, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        if self.engine.is_paused(peer.id) {
            return;
        }
        let left_over = peer.inbox.len();
        // A whole frame and what may have been left before it must fit.
        let wanted = left_over + self.config.limits.inbox_octets_per_turn;
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
        if (peer.is_ended && received.pause.is_none()) || self.engine.is_over(id) {
            self.drop_peer(now, slot);
        } else if may_have_more && received.pause.is_none() {
            peer.is_listed = true;
            self.readable.push(slot);
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
            if peer.is_ended || self.engine.is_over(id) {
                self.drop_peer(now, slot);
            }
        }
    }

    // ---- close ----

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
        self.engine.stop(now);
        self.stop_at = Some(now.after_ms(FAREWELL_MS));
    }

    /// Whether everyone has gone, or was given the time to.
    fn has_stopped(&mut self, now: Now) -> bool {
        let is_late = self.stop_at.is_some_and(|at| at.is_due(now));
        if !self.peers.is_empty() && !is_late {
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
