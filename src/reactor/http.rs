//! Sockets of the HTTP API: TCP listeners, and the control socket in the data directory.
//!
//! They are polled together with AMQP's, and served once a turn after AMQP's input, a few calls at
//! a time, so that a listing of a million queues is spread over as many turns as it takes and
//! nobody else waits for it. What requests mean is [`HttpConnection`]'s business; answers that wait
//! for the disk come from the engine and are handed to whom they belong.
//!
//! A connection that is to be closed stops sending, and is read until the peer has seen that, so
//! that a peer in the middle of its request is not answered by a reset.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry};
use slab::Slab;
use socket2::{Domain, SockAddr, Socket, Type};

use super::accept::ACCEPT_REST_MS;
use super::socket;
use super::source::Source;
use crate::admin::{Admin, AdminAnswer, HttpConnection, HttpId, HttpPeer, Progress};
use crate::clock::{Deadline, Now};
use crate::config::{Config, Limits};
use crate::ctl::CONTROL_SOCKET;

/// Calls into connections in one turn; a call takes a slice of a listing at most.
const CALLS_PER_TURN: usize = 2;

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 16;

/// Octets of one read.
const READ_OCTETS: usize = 16 << 10;

/// How long a peer may take to read its last response, and then to close, in milliseconds.
const CLOSE_MS: u64 = 2000;

/// A path that is longer does not fit into a socket's address.
const SOCKET_PATH_OCTETS_MAX: usize = 100;

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn register(&mut self, registry: &Registry, slot: usize) -> io::Result<()> {
        let (token, interest) = (
            Source::HttpPeer(slot).token(),
            Interest::READABLE | Interest::WRITABLE,
        );
        match self {
            Stream::Tcp(stream) => registry.register(stream, token, interest),
            Stream::Unix(stream) => registry.register(stream, token, interest),
        }
    }

    fn deregister(&mut self, registry: &Registry) {
        // Closing the descriptor takes it out of the poll as well.
        let _ = match self {
            Stream::Tcp(stream) => registry.deregister(stream),
            Stream::Unix(stream) => registry.deregister(stream),
        };
    }

    fn shut_down(&self) {
        // A socket whose peer has gone need not be told.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(octets),
            Stream::Unix(stream) => stream.write(octets),
        }
    }
}

/// Sockets that may be added without taking descriptors from files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// For the control socket.
    pub(super) local: usize,
    /// For everyone else.
    pub(super) remote: usize,
}

/// One socket and the connection behind it.
struct Peer {
    stream: Stream,
    connection: HttpConnection,
    outbox: Vec<u8>,
    /// What the connection said last.
    progress: Progress,
    /// It is on the list of those to be called.
    is_listed: bool,
    /// The socket may have something to read.
    is_readable: bool,
    /// The socket takes no more at the moment.
    is_blocked: bool,
    /// The peer will send no more.
    is_ended: bool,
    /// It is closed by us; the end of the time it has for taking note.
    closing: Option<Deadline>,
    /// The last response is written, and only the peer's end is waited for.
    is_shut_down: bool,
}

impl Peer {
    fn deadline(&self) -> Option<Deadline> {
        self.closing.or(self.connection.deadline())
    }
}

/// See the module.
pub(super) struct HttpServer {
    listeners: Vec<Listener>,
    addresses: Vec<SocketAddr>,
    control_socket: Option<PathBuf>,
    peers: Slab<Peer>,
    /// Distinguishes the holders of one slot in an [`HttpId`].
    generation: u32,
    limits: Limits,
    /// Connections at most.
    peers_max: usize,
    is_accepting: bool,
    accept_at: Option<Deadline>,
    /// Peers to be called.
    listed: VecDeque<usize>,
    /// No peer's deadline is earlier.
    next_deadline: Option<Deadline>,
    buffer: Box<[u8]>,
}

impl HttpServer {
    /// Binds the listeners that the configuration names, and the control socket.
    ///
    /// # Errors
    /// A line that names what could not be had.
    pub(super) fn new(config: &Config, registry: &Registry) -> Result<Self, String> {
        let mut server = HttpServer {
            listeners: Vec::new(),
            addresses: Vec::new(),
            control_socket: None,
            peers: Slab::new(),
            generation: 0,
            limits: config.limits.clone(),
            peers_max: config.limits.http_connections_max as usize,
            is_accepting: false,
            accept_at: None,
            listed: VecDeque::new(),
            next_deadline: None,
            buffer: Box::default(),
        };
        for &address in &config.http_listen {
            let fail = |error: io::Error| format!("cannot listen on {address} for HTTP: {error}");
            let mut listener = socket::listen(address, &config.socket).map_err(fail)?;
            let token = Source::HttpListener(server.listeners.len()).token();
            registry
                .register(&mut listener, token, Interest::READABLE)
                .map_err(fail)?;
            server.addresses.push(listener.local_addr().map_err(fail)?);
            server.listeners.push(Listener::Tcp(listener));
        }
        let path = config.data_dir.join(CONTROL_SOCKET);
        let fail = |error: io::Error| format!("cannot listen on {}: {error}", path.display());
        let mut listener = control_listener(&config.data_dir, &path).map_err(fail)?;
        let token = Source::HttpListener(server.listeners.len()).token();
        registry
            .register(&mut listener, token, Interest::READABLE)
            .map_err(fail)?;
        server.listeners.push(Listener::Unix(listener));
        server.control_socket = Some(path);
        Ok(server)
    }

    /// Where HTTP is spoken over TCP, the real ports in it.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Path of the control socket.
    pub(super) fn control_socket(&self) -> Option<&Path> {
        self.control_socket.as_deref()
    }

    /// Open connections.
    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Connections at most, the bound of the descriptors included.
    pub(super) fn bound_peers(&mut self, peers_max: usize) {
        self.peers_max = self.peers_max.min(peers_max).max(1);
    }

    // ---- what the poll said ----

    /// A listener has something to accept.
    pub(super) fn listener_ready(&mut self) {
        self.is_accepting = true;
    }

    /// A socket may be read, or written.
    pub(super) fn peer_ready(&mut self, slot: usize, is_readable: bool, is_writable: bool) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.is_readable |= is_readable;
        peer.is_blocked &= !is_writable;
        self.list(slot);
    }

    fn list(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        if !peer.is_listed {
            peer.is_listed = true;
            self.listed.push_back(slot);
        }
    }

    /// Whether there is something to do at once.
    pub(super) fn is_busy(&self) -> bool {
        self.is_accepting || !self.listed.is_empty()
    }

    /// When the next turn is due although nothing comes.
    pub(super) fn next_deadline(&self) -> Option<Deadline> {
        [self.accept_at, self.next_deadline]
            .into_iter()
            .flatten()
            .min()
    }

    // ---- a turn ----

    /// Whether this turn has anything to do.
    pub(super) fn wants_turn(&self, now: Now) -> bool {
        self.is_busy() || self.next_deadline().is_some_and(|due| due.is_due(now))
    }

    /// Accepts, reads, answers, writes: as much as belongs into one turn.
    pub(super) fn turn(
        &mut self,
        now: Now,
        room: Room,
        admin: &mut dyn Admin,
        registry: &Registry,
    ) {
        if self.is_accepting || self.accept_at.is_some_and(|at| at.is_due(now)) {
            self.accept(now, room, registry);
        }
        if self.next_deadline.is_some_and(|due| due.is_due(now)) {
            self.expire(now, admin, registry);
        }
        for _ in 0..CALLS_PER_TURN.min(self.listed.len()) {
            let Some(slot) = self.listed.pop_front() else {
                break;
            };
            if let Some(peer) = self.peers.get_mut(slot) {
                peer.is_listed = false;
                self.serve(now, slot, admin, registry);
            }
        }
    }

    /// Hands an answer that had to wait to the connection it belongs to, if that is still there.
    pub(super) fn answered(
        &mut self,
        now: Now,
        id: HttpId,
        answer: AdminAnswer,
        admin: &mut dyn Admin,
        registry: &Registry,
    ) {
        let slot = (id.0 & u64::from(u32::MAX)) as usize;
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.connection.id() == id {
            peer.progress = peer
                .connection
                .answered(now, answer, admin, &mut peer.outbox);
            self.after_call(now, slot, registry);
        }
    }

    // ---- accept ----

    fn accept(&mut self, now: Now, room: Room, registry: &Registry) {
        (self.accept_at, self.is_accepting) = (None, false);
        let mut left = ACCEPTS_PER_TURN;
        for index in 0..self.listeners.len() {
            loop {
                if left == 0 {
                    self.is_accepting = true;
                    return;
                }
                left -= 1;
                let accepted = match &self.listeners[index] {
                    Listener::Tcp(listener) => listener.accept().map(|(stream, address)| {
                        let _ = stream.set_nodelay(true);
                        let peer = HttpPeer::Remote(address.ip().to_canonical());
                        (Stream::Tcp(stream), peer)
                    }),
                    Listener::Unix(listener) => listener
                        .accept()
                        .map(|(stream, _)| (Stream::Unix(stream), HttpPeer::Local)),
                };
                match accepted {
                    Ok((stream, peer)) => self.welcome(now, room, stream, peer, registry),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        log::warn!("cannot accept an HTTP connection: {error}");
                        self.accept_at = Some(now.after_ms(ACCEPT_REST_MS));
                        break;
                    }
                }
            }
        }
    }

    fn welcome(
        &mut self,
        now: Now,
        room: Room,
        mut stream: Stream,
        peer: HttpPeer,
        registry: &Registry,
    ) {
        // The last places are the control socket's, so that an operator always gets through.
        let open = self.peers.len();
        let (places, room) = match peer {
            HttpPeer::Local => (self.peers_max, room.local),
            HttpPeer::Remote(_) => (self.peers_max - self.peers_max / 8, room.remote),
        };
        if open >= places || room == 0 {
            log::warn!("refusing an HTTP connection: there are {open}");
            return;
        }
        let slot = self.peers.vacant_key();
        if let Err(error) = stream.register(registry, slot) {
            log::warn!("cannot poll an HTTP connection: {error}");
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        let id = HttpId(u64::from(self.generation) << 32 | slot as u64);
        self.peers.insert(Peer {
            stream,
            connection: HttpConnection::new(now, id, peer, &self.limits),
            outbox: Vec::new(),
            progress: Progress::Read,
            is_listed: false,
            is_readable: true,
            is_blocked: false,
            is_ended: false,
            closing: None,
            is_shut_down: false,
        });
        self.note_deadline(slot);
        self.list(slot);
    }

    // ---- serve ----

    fn serve(&mut self, now: Now, slot: usize, admin: &mut dyn Admin, registry: &Registry) {
        let peer = &mut self.peers[slot];
        if peer.closing.is_some() {
            return self.after_call(now, slot, registry);
        }
        let has_room = peer.outbox.len() < self.limits.http_outbox_octets_max;
        match peer.progress {
            Progress::Read if has_room && peer.is_readable && peer.connection.wants_input() => {
                if self.buffer.is_empty() {
                    self.buffer = vec![0; READ_OCTETS].into();
                }
                match read(&mut peer.stream, &mut self.buffer) {
                    Input::Octets(count) => {
                        // A short read has emptied the socket, but for its end.
                        let octets = &self.buffer[..count];
                        peer.progress =
                            peer.connection
                                .receive(now, octets, admin, &mut peer.outbox);
                    }
                    Input::Nothing => peer.is_readable = false,
                    Input::End => peer.is_ended = true,
                }
            }
            Progress::Resume if has_room => {
                peer.progress = peer.connection.resume(now, admin, &mut peer.outbox);
            }
            _ => {}
        }
        self.after_call(now, slot, registry);
    }

    /// Writes what there is, and sees what comes next.
    fn after_call(&mut self, now: Now, slot: usize, registry: &Registry) {
        let peer = &mut self.peers[slot];
        if !peer.outbox.is_empty() && !peer.is_blocked {
            match peer.stream.write(&peer.outbox) {
                Ok(written) => {
                    peer.is_blocked = written < peer.outbox.len();
                    peer.outbox.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => peer.is_blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.drop_peer(slot, registry),
            }
            if peer.outbox.is_empty() {
                peer.outbox = Vec::new();
            }
        }
        let is_done =
            peer.progress == Progress::Close || (peer.is_ended && peer.progress == Progress::Read);
        if is_done && peer.closing.is_none() {
            peer.closing = Some(now.after_ms(CLOSE_MS));
        }
        if peer.closing.is_some() && peer.outbox.is_empty() {
            if !peer.is_shut_down {
                peer.is_shut_down = true;
                peer.stream.shut_down();
                peer.is_readable = true;
            }
            if self.is_seen_off(slot) {
                return self.drop_peer(slot, registry);
            }
        }
        self.note_deadline(slot);
        if self.has_more(slot) {
            self.list(slot);
        }
    }

    /// Reads what a peer still sends after its last response; says whether it has ended.
    fn is_seen_off(&mut self, slot: usize) -> bool {
        let peer = &mut self.peers[slot];
        if peer.is_ended {
            return true;
        }
        if peer.is_readable {
            if self.buffer.is_empty() {
                self.buffer = vec![0; READ_OCTETS].into();
            }
            match read(&mut peer.stream, &mut self.buffer) {
                Input::Octets(_) => {}
                Input::Nothing => peer.is_readable = false,
                Input::End => return true,
            }
        }
        false
    }

    fn has_more(&self, slot: usize) -> bool {
        let peer = &self.peers[slot];
        if !peer.outbox.is_empty() && !peer.is_blocked {
            return true;
        }
        if peer.closing.is_some() {
            return peer.is_shut_down && peer.is_readable;
        }
        peer.outbox.len() < self.limits.http_outbox_octets_max
            && match peer.progress {
                Progress::Read => peer.is_readable && peer.connection.wants_input(),
                Progress::Resume => true,
                Progress::Wait | Progress::Close => false,
            }
    }

    // ---- time ----

    fn note_deadline(&mut self, slot: usize) {
        let deadlines = [self.next_deadline, self.peers[slot].deadline()];
        self.next_deadline = deadlines.into_iter().flatten().min();
    }

    fn expire(&mut self, now: Now, admin: &mut dyn Admin, registry: &Registry) {
        self.next_deadline = None;
        for slot in 0..self.peers.capacity() {
            let Some(peer) = self.peers.get_mut(slot) else {
                continue;
            };
            if peer.closing.is_some_and(|until| until.is_due(now)) {
                self.drop_peer(slot, registry);
            } else if peer.deadline().is_some_and(|due| due.is_due(now)) {
                peer.progress = peer.connection.expired(now, admin, &mut peer.outbox);
                self.after_call(now, slot, registry);
            } else {
                self.note_deadline(slot);
            }
        }
    }

    // ---- close ----

    fn drop_peer(&mut self, slot: usize, registry: &Registry) {
        let mut peer = self.peers.remove(slot);
        peer.stream.deregister(registry);
        if peer.is_listed {
            self.listed.retain(|&other| other != slot);
        }
    }

    /// Takes no more connections; those there are get their answers.
    pub(super) fn stop(&mut self, registry: &Registry) {
        for listener in &mut self.listeners {
            let _ = match listener {
                Listener::Tcp(listener) => registry.deregister(listener),
                Listener::Unix(listener) => registry.deregister(listener),
            };
        }
        self.listeners.clear();
        (self.is_accepting, self.accept_at) = (false, None);
        if let Some(path) = self.control_socket.take() {
            // A socket that is left behind is replaced at the next start.
            let _ = fs::remove_file(path);
        }
    }

    /// Whether every answer that was asked for is written.
    pub(super) fn has_answered(&self) -> bool {
        self.peers.iter().all(|(_, peer)| {
            peer.outbox.is_empty() && matches!(peer.progress, Progress::Read | Progress::Close)
        })
    }
}

enum Input {
    Octets(usize),
    Nothing,
    End,
}

fn read(stream: &mut Stream, into: &mut [u8]) -> Input {
    loop {
        return match stream.read(into) {
            Ok(0) => Input::End,
            Ok(count) => Input::Octets(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Input::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => Input::End,
        };
    }
}

/// The control socket. The directory is locked, so a socket that is there was left behind.
fn control_listener(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if path.as_os_str().len() > SOCKET_PATH_OCTETS_MAX {
        // Too long for an address: the same file by way of its directory's descriptor.
        let handle = File::open(directory)?;
        let short = format!("/proc/self/fd/{}/{CONTROL_SOCKET}", handle.as_raw_fd());
        socket.bind(&SockAddr::unix(short)?)?;
    } else {
        socket.bind(&SockAddr::unix(path)?)?;
    }
    // Before it listens: nobody gets in between.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(128)?;
    Ok(UnixListener::from_std(socket.into()))
}
