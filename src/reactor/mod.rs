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

mod accept;
mod close;
mod http;
mod memory;
mod peer;
mod process;
mod receive;
mod socket;
mod source;
mod stop;
mod write;

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slab::Slab;

use self::http::{HttpServer, Room};
use self::memory::MemoryWatch;
use self::peer::Peer;
use self::source::Source;
use crate::admin::ListenerRow;
use crate::clock::{Clock, Deadline, Now};
use crate::config::Config;
use crate::engine::{ConnectionId, Engine, Figures};
use crate::storage::{HelperThreads, Storage};

/// Octets that one read takes at most: room for what was left over and a full read.
const READ_OCTETS: usize = 128 << 10;

/// How often the memory in use is looked at, in milliseconds.
const MEMORY_LOOK_MS: u64 = 1_000;

/// How old what the operating system says of the process may be, in milliseconds.
const FIGURES_MS: u64 = 1000;

/// Sockets that operators on this machine may open when there is no room for anyone else.
const CONTROL_SOCKETS: usize = 16;

/// Why the reactor has ended.
#[derive(Debug)]
pub enum End {
    /// It was asked to; everything is on stable storage.
    Stopped,
    /// The storage can promise nothing any more.
    Storage(String),
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
        let mut signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(fail("cannot take signals"))?;
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
                Source::Signals => self.take_signals(now),
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

    fn take_signals(&mut self, now: Now) {
        let mut is_stop = false;
        for signal in self.signals.pending() {
            // From a terminal it says that the user has gone. Others send it to have a
            // configuration read again, and nobody expects a server to end of it.
            if signal == SIGHUP && !std::io::stdin().is_terminal() {
                log::info!("SIGHUP: the configuration is read by the start only");
            } else {
                is_stop = true;
            }
        }
        if is_stop && self.stop_at.is_none() {
            self.stop(now);
        }
    }

    // ---- HTTP ----

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

    /// Waits after [`End::Stopped`] until the helpers have done what they were given.
    pub fn close(self) {
        drop(self.helpers);
    }
}
