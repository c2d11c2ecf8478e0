//! One whole server, but for sockets, threads and clocks: octets, time and the helpers' answers
//! in; octets and requests to the helpers out. The reactor drives it over real sockets, the
//! simulation over virtual ones.
//!
//! How to drive it, turn by turn:
//!
//! 1. [`Engine::answer`] for each answer of a helper, [`Engine::accept`] for each new peer;
//! 2. [`Engine::receive`] with what came from a peer, and again with what was left over when
//!    [`Engine::take_resumed`] names it;
//! 3. [`Engine::end_turn`]: time, deliveries, long work, confirms, the hand-over to the helpers;
//! 4. for each of [`Engine::take_writable`]: write [`Engine::octets_for`] and say
//!    [`Engine::wrote`]; [`Engine::is_over`] tells which peers to close, [`Engine::drop_peer`]
//!    lets go of them.
//!
//! [`Engine::next_deadline`] says when the next turn is due although nothing comes.

mod manage;
mod outbox;
mod plant;
mod sample;
mod turn;
mod view;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

use slab::Slab;

pub use self::outbox::Outbox;
pub use self::plant::Plant;
use self::sample::Sampler;
use self::turn::Turn;
use self::view::Facts;
pub use self::view::Figures;
use crate::admin::{AdminAnswer, HttpId, ListenerRow};
use crate::auth::{self, PermissionTexts, Secret, Users};
use crate::broker::meter::Meter;
use crate::broker::record::Definition;
use crate::broker::restore::RestoredQueue;
use crate::broker::vhost::About;
use crate::broker::{self, Batch, Broker, Sink as _};
use crate::clock::{Deadline, Now};
use crate::config::Config;
use crate::connection::{Connection, Offer, Pause, Received};
use crate::storage::{self, Answer, Event, Helpers, Storage, StorageError, Store, StoreConfig};
use crate::wire::ReplyCode;
use crate::wire::field_table::{FieldValue, TableBuilder};
use crate::wire::short_string::ShortString;

/// Names a connection of the engine. The generation keeps a late event of a socket from reaching
/// the next holder of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Index of the connection.
    pub slot: u32,
    /// Tells the holders of one slot apart.
    pub generation: u32,
}

/// A connection and what the engine knows of its peer.
#[derive(Debug)]
struct Peer {
    generation: u32,
    connection: Connection,
    /// The client's end of the socket.
    address: SocketAddr,
    /// Our end.
    local: SocketAddr,
    connected_ms: u64,
    octets_in: u64,
    /// Reads from the socket that brought something.
    reads: u64,
    /// Writes to the socket.
    writes: u64,
    /// How fast octets come and go.
    meter: Meter<2>,
    /// Input was left over that may hold a whole frame.
    pause: Option<Pause>,
    /// It is on the list of connections with answers that wait for the disk.
    is_holding: bool,
    /// The deadline under which it is on the heap.
    timer: Option<Deadline>,
}

/// Deliveries of one turn, all queues together.
const DELIVERIES_PER_TURN: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Engine<S: Storage> {
    broker: Broker,
    plant: Plant<S>,
    offer: Offer,
    peers: Slab<Peer>,
    generation: u32,
    timers: BinaryHeap<Reverse<(Deadline, ConnectionId)>>,
    /// Connections with answers that wait for the disk.
    holding: Vec<ConnectionId>,
    /// Connections whose input waits.
    paused: Vec<ConnectionId>,
    /// Connections whose input may go on.
    resumed: Vec<ConnectionId>,
    outbox_octets_low: usize,
    outbox_octets_max: usize,
    slice_entries_max: usize,
    /// Why publishers are stopped, as `connection.blocked` words it.
    alarm: Option<&'static str>,
    is_disk_low: bool,
    is_memory_high: bool,
    /// Octets at which the memory alarm is raised.
    memory_limit_octets: Option<u64>,
    fatal: Option<StorageError>,
    /// Records that were on stable storage and could not be read at the start.
    recovered: storage::Account,
    lost_records: u64,
    is_busy: bool,
    /// Clients are told that the server stops; no new ones are taken.
    is_stopping: bool,
    /// An operator has asked the server to stop.
    is_stop_asked: bool,
    facts: Facts,
    sampler: Sampler,
    peers_accepted: u64,
    peers_dropped: u64,
    vhosts_max: usize,
    /// Answers to operators that wait for the disk, in the order of their batches.
    owed: VecDeque<(Batch, HttpId, crate::admin::Outcome)>,
    /// Virtual hosts that are being removed, and who waits for the end.
    vhosts_going: Vec<(u32, HttpId)>,
    /// Answers to operators that may go out.
    answered: Vec<(HttpId, AdminAnswer)>,
}

impl<S: Storage> Engine<S> {
    /// Opens the storage and builds the server up from what it remembers; an empty one gets the
    /// first user and virtual host that the configuration names.
    ///
    /// * `seed`: for generated names and the storage's random numbers.
    ///
    /// # Errors
    /// What the storage could not read, in one line.
    pub fn open(storage: S, config: &Config, now: Now, seed: u64) -> Result<Self, StorageError> {
        let limits = &config.limits;
        let store_config = store_config(config);
        let disk_free_octets_min = store_config.disk_free_octets_min;
        let (store, recovery) = Store::open(storage, store_config, now, seed)?;
        for line in &recovery.report {
            log::warn!("{line}");
        }
        let account = recovery.account;
        if account != storage::Account::default() {
            log::info!("storage: {account}");
        }
        let users = Users::new(config.loopback_users.clone(), limits.users_max);
        let broker_limits = broker::Limits {
            consumers_per_channel_max: limits.consumers_per_channel_max,
            queues_max: limits.queues_max,
            exchanges_max: limits.exchanges_max,
            bindings_max: limits.bindings_max,
            unacked_per_channel_max: limits.unacked_per_channel_max,
            removals_at_once_max: limits.slice_entries_max / broker::BINDING_COST,
            transaction_entries_max: limits.transaction_entries_max,
            transaction_octets_max: limits.transaction_octets_max,
            ..broker::Limits::default()
        };
        let mut engine = Engine {
            broker: Broker::new(broker_limits, users, seed.rotate_left(32)),
            plant: Plant::new(store, limits.outbox_octets_high),
            offer: offer(config),
            peers: Slab::new(),
            generation: 0,
            timers: BinaryHeap::new(),
            holding: Vec::new(),
            paused: Vec::new(),
            resumed: Vec::new(),
            outbox_octets_low: limits.outbox_octets_low,
            outbox_octets_max: limits.outbox_octets_max,
            slice_entries_max: limits.slice_entries_max,
            alarm: None,
            is_disk_low: false,
            is_memory_high: false,
            memory_limit_octets: None,
            fatal: None,
            recovered: account,
            lost_records: recovery.lost_records,
            is_busy: false,
            is_stopping: false,
            is_stop_asked: false,
            facts: Facts::new(config, disk_free_octets_min, now),
            sampler: Sampler::new(now),
            peers_accepted: 0,
            peers_dropped: 0,
            vhosts_max: limits.vhosts_max as usize,
            owed: VecDeque::new(),
            vhosts_going: Vec::new(),
            answered: Vec::new(),
        };
        engine.restore(recovery, config, seed);
        Ok(engine)
    }

    // ---- peers ----

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
        let publishing_stopped = self.alarm.is_some();
        let peer = &mut self.peers[id.slot as usize];
        let mut turn = Turn {
            now,
            broker: &mut self.broker,
            plant: &mut self.plant,
            offer: &self.offer,
            outbox: id.slot,
            ends: (peer.address, peer.local),
            outbox_octets_max: self.outbox_octets_max,
            publishing_stopped,
        };
        let received = peer.connection.receive(octets, &mut turn);
        peer.octets_in += received.consumed as u64;
        peer.reads += 1;
        if let Some(reason) = self.alarm
            && peer.connection.publishes
        {
            peer.connection.set_blocked(Some(reason), &mut turn);
        }
        if received.pause.is_some() && peer.pause.is_none() {
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

    fn with_connection<R>(
        &mut self,
        now: Now,
        id: ConnectionId,
        act: impl FnOnce(&mut Connection, &mut Turn<'_, S>) -> R,
    ) -> R {
        let peer = &mut self.peers[id.slot as usize];
        let mut turn = Turn {
            now,
            broker: &mut self.broker,
            plant: &mut self.plant,
            offer: &self.offer,
            outbox: id.slot,
            ends: (peer.address, peer.local),
            outbox_octets_max: self.outbox_octets_max,
            publishing_stopped: self.alarm.is_some(),
        };
        act(&mut peer.connection, &mut turn)
    }

    // ---- writing ----

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

    // ---- the turn ----

    /// A helper has answered.
    pub fn answer(&mut self, now: Now, answer: Answer<S>) {
        self.plant.store.answer(now, answer);
        self.drain_events(now);
        self.resume_paused();
    }

    /// Whatever waited for the storage or an alarm may go on; what may not says so again.
    fn resume_paused(&mut self) {
        for id in std::mem::take(&mut self.paused) {
            if self.is_there(id) {
                match self.peers[id.slot as usize].pause {
                    Some(Pause::Outbox) => self.paused.push(id),
                    Some(Pause::Storage | Pause::Publishing) => self.resumed.push(id),
                    None => {}
                }
            }
        }
    }

    fn drain_events(&mut self, now: Now) {
        while let Some(event) = self.plant.store.next_event() {
            match event {
                Event::Flushed(batch) => self.flushed(now, batch),
                Event::LargeReady { .. } => self.plant.large_ready(),
                Event::Warm { .. } | Event::PageLoaded(_) => {
                    self.broker.storage_ready();
                    self.is_busy |= self.broker.has_listed();
                }
                Event::DiskAlarm(is_on) => self.disk_alarm(now, is_on),
                Event::Damage(line) => log::error!("{line}"),
                Event::Fatal(error) => self.fatal = Some(error),
            }
        }
    }

    fn flushed(&mut self, now: Now, batch: Batch) {
        self.broker.flushed(batch);
        self.answer_operators(batch);
        self.is_busy |= self.broker.has_listed();
        for id in std::mem::take(&mut self.holding) {
            if !self.is_there(id) {
                continue;
            }
            let is_left =
                self.with_connection(now, id, |connection, turn| connection.release_answers(turn));
            self.peers[id.slot as usize].is_holding = is_left;
            if is_left {
                self.holding.push(id);
            }
        }
    }

    fn disk_alarm(&mut self, now: Now, is_on: bool) {
        self.is_disk_low = is_on;
        self.alarms_changed(now, "disk", is_on);
    }

    /// The process uses more memory than it should, or no longer.
    ///
    /// * `limit_octets`: where the alarm is raised, for the lists.
    pub fn memory_alarm(&mut self, now: Now, is_on: bool, limit_octets: Option<u64>) {
        self.memory_limit_octets = limit_octets;
        if is_on != self.is_memory_high {
            self.is_memory_high = is_on;
            self.alarms_changed(now, "memory", is_on);
        }
    }

    /// Tells publishers that they are stopped and why, or that they may go on.
    fn alarms_changed(&mut self, now: Now, what: &str, is_on: bool) {
        self.alarm = match (self.is_memory_high, self.is_disk_low) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        };
        if is_on {
            log::warn!(
                "{what} resource limit alarm set. Publishers will be blocked until this alarm clears"
            );
        } else {
            log::warn!("{what} resource limit alarm cleared");
        }
        let ids: Vec<ConnectionId> = self.ids().collect();
        for id in ids {
            let alarm = self.alarm;
            self.with_connection(now, id, |connection, turn| {
                connection.set_blocked(alarm, turn);
            });
        }
        if self.alarm.is_none() {
            self.resume_paused();
        }
    }

    fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.peers.iter().map(|(slot, peer)| ConnectionId {
            slot: slot as u32,
            generation: peer.generation,
        })
    }

    /// Connections whose left-over input may go on.
    pub fn take_resumed(&mut self) -> Vec<ConnectionId> {
        let resumed = std::mem::take(&mut self.resumed);
        for id in &resumed {
            if self.is_there(*id) {
                self.peers[id.slot as usize].pause = None;
            }
        }
        resumed
    }

    /// Ends a turn. Peers that are given up are appended to `dead`; their sockets are to be closed
    /// without another word.
    pub fn end_turn(
        &mut self,
        now: Now,
        helpers: &mut impl Helpers<S>,
        dead: &mut Vec<ConnectionId>,
    ) {
        self.facts.now = now;
        self.tick(now, dead);
        self.is_busy = self
            .broker
            .deliver_listed(now, &mut self.plant, DELIVERIES_PER_TURN);
        self.is_busy |= self.sample(now);
        self.is_busy |= self.broker.work(&mut self.plant, self.slice_entries_max);
        if self.broker.take_name_free() {
            self.resume_paused();
        }
        self.vhosts_removed();
        self.broker.send_confirms(&mut self.plant);
        self.plant.store.commit(now, helpers);
        self.drain_events(now);
    }

    fn tick(&mut self, now: Now, dead: &mut Vec<ConnectionId>) {
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

    fn set_timer(&mut self, id: ConnectionId) {
        let peer = &mut self.peers[id.slot as usize];
        peer.timer = peer.connection.next_deadline();
        if let Some(deadline) = peer.timer {
            self.timers.push(Reverse((deadline, id)));
        }
    }

    /// When the next turn is due at the latest; `None` when nothing is planned. Due at once while
    /// there is work left.
    pub fn next_deadline(&self, now: Now) -> Option<Deadline> {
        let is_writing = !self.plant.dirty.is_empty() || self.plant.store.has_jobs();
        let has_answers = !self.resumed.is_empty() || !self.answered.is_empty();
        if self.is_busy || has_answers || is_writing {
            return Some(Deadline(now.monotonic_us));
        }
        let timer = self.timers.peek().map(|&Reverse((deadline, _))| deadline);
        [
            timer,
            self.plant.store.next_deadline(),
            self.sampler.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Tells the engine where the server is reached, for those who ask it.
    pub fn set_listeners(&mut self, listeners: Vec<ListenerRow>) {
        self.facts.listeners = listeners;
    }

    /// Tells the engine what the operating system says of the process, for those who ask it.
    pub fn set_figures(&mut self, figures: Figures) {
        self.facts.figures = figures;
    }

    /// Why the server cannot go on, if it cannot: the line to end with.
    pub fn fatal(&self) -> Option<&StorageError> {
        self.fatal.as_ref()
    }

    // ---- the end ----

    /// Tells every client that the server stops; those that have not logged in are dropped.
    pub fn stop(&mut self, now: Now) {
        self.is_stopping = true;
        let ids: Vec<ConnectionId> = self.ids().collect();
        for id in ids {
            self.with_connection(now, id, |connection, turn| {
                if connection.session().is_some() {
                    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
                    connection.close(ReplyCode::ConnectionForced, text, (0, 0), turn);
                } else {
                    connection.abandon(turn);
                }
            });
            self.set_timer(id);
        }
    }

    /// Whether everything appended is on stable storage.
    pub fn is_flushed(&self) -> bool {
        let batch = self.plant.store.batch();
        batch <= self.plant.store.flushed()
    }

    /// What was found on the disk when the server was built up.
    pub fn recovered(&self) -> &storage::Account {
        &self.recovered
    }

    /// Records that were on stable storage and could not be read when the server was built up.
    pub fn lost_records(&self) -> u64 {
        self.lost_records
    }

    /// The storage.
    pub fn store(&mut self) -> &mut Store<S> {
        &mut self.plant.store
    }

    /// The router, to read.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    // ---- building up ----

    fn restore(&mut self, recovery: crate::storage::Recovery, config: &Config, seed: u64) {
        let (mut own, mut definitions) = (Vec::new(), Vec::new());
        for (key, value) in &recovery.definitions {
            match auth::record::Definition::decode(key, value) {
                Some(Ok(definition)) => own.push(definition),
                Some(Err(why)) => log::error!("a definition cannot be read: {why}"),
                None => match Definition::decode(key, value) {
                    Some(definition) => definitions.push(definition),
                    None => log::error!("a definition of an unknown kind is kept aside"),
                },
            }
        }
        let mut has_vhost = false;
        for definition in own {
            if let auth::record::Definition::Vhost(vhost) = &definition {
                let index = self.broker.add_vhost(&vhost.name);
                let about = About {
                    description: vhost.description.clone(),
                    tags: vhost.tags.clone(),
                    default_queue_type: vhost.default_queue_type.clone(),
                };
                self.broker.describe_vhost(index, about);
                has_vhost = true;
            } else if let Err(error) = self.broker.users.replay(definition) {
                log::error!("a user or permission cannot be restored: {error}");
            }
        }
        if !has_vhost {
            self.seed(config, seed);
        }
        self.restore_definitions(definitions, recovery.definitions_damaged);
        if recovery.definitions_damaged {
            self.name_orphans(&recovery);
        }
        let durable: std::collections::BTreeMap<_, _> = self.broker.durable_queues().collect();
        for queue in recovery.queues {
            let Some(&key) = durable.get(&queue.id) else {
                self.plant.store.queue_deleted(queue.id);
                continue;
            };
            let permitted = queue.redelivered_up_to.map_or(0, |up_to| up_to + 1);
            let restored = RestoredQueue {
                pages: queue.pages.into(),
                // What may have been delivered is never given out again as something new.
                next_sequence: queue.next_sequence.max(permitted),
                permitted,
            };
            self.broker.restore_queue(key, restored);
        }
        self.broker.queue_ids_from(recovery.queue_id_next);
    }

    /// Forgets the bindings that a deletion has left behind when a crash cut it short. Where
    /// definitions are damaged, nothing is forgotten: the end that is missing may be only unread.
    fn restore_definitions(&mut self, definitions: Vec<Definition>, is_damaged: bool) {
        let mut leftovers = Vec::new();
        for unused in self.broker.restore_definitions(definitions) {
            match unused.leftover {
                Some(key) if !is_damaged => leftovers.push((key, None)),
                _ => log::error!("a definition does not fit the others: {}", unused.shown),
            }
        }
        for some in leftovers.chunks(self.slice_entries_max) {
            self.plant.define(some);
        }
    }

    /// Gives queues whose definitions were lost to damage a name, so that nothing is deleted since
    /// something else about it cannot be read.
    fn name_orphans(&mut self, recovery: &crate::storage::Recovery) {
        let known: std::collections::BTreeSet<_> =
            self.broker.durable_queues().map(|(id, _)| id).collect();
        let Some(vhost) = self
            .broker
            .vhosts()
            .next()
            .map(|(_, vhost)| vhost.name.to_string())
        else {
            return;
        };
        for queue in &recovery.queues {
            if known.contains(&queue.id) || queue.messages == 0 {
                continue;
            }
            let name = format!("leveret.recovered-{}", queue.id.0);
            log::error!(
                "the definition of a queue is lost: its {} messages are in queue '{name}' in vhost '{vhost}'",
                queue.messages
            );
            let properties = broker::queue::QueueProperties {
                durable: true,
                exclusive_to: None,
                auto_delete: false,
                arguments: Box::default(),
            };
            let pair = Definition::queue(&vhost, name.as_bytes(), queue.id, &properties);
            let name = name.into_bytes();
            let definition = Definition::Queue {
                vhost: vhost.clone(),
                name,
                id: queue.id,
                properties,
            };
            self.broker.restore_definitions(vec![definition]);
            self.plant.define(&[(pair.key, Some(pair.value))]);
        }
    }

    fn seed(&mut self, config: &Config, seed: u64) {
        let first = &config.seed;
        let index = self.broker.add_vhost(&first.vhost);
        let about = About {
            description: "Default virtual host".into(),
            ..About::default()
        };
        let mut changes = vec![manage::vhost_pair(&first.vhost, &about)];
        self.broker.describe_vhost(index, about);
        let salt = (seed as u32).to_be_bytes();
        let secret = Secret::Password {
            password: first.password.as_bytes(),
            salt,
        };
        let texts = PermissionTexts {
            configure: &first.configure,
            write: &first.write,
            read: &first.read,
        };
        let users = &mut self.broker.users;
        match users.put(&first.user, secret, Some(first.tags.clone())) {
            Ok(put) => changes.extend(put.changes),
            Err(error) => log::error!("the first user cannot be created: {error}"),
        }
        match users.set_permission(&first.user, &first.vhost, texts) {
            Ok(put) => changes.extend(put.changes),
            Err(error) => log::error!("the first user's permissions cannot be set: {error}"),
        }
        self.plant.define(&changes);
    }
}

fn store_config(config: &Config) -> StoreConfig {
    let limits = &config.limits;
    StoreConfig {
        sync: config.sync,
        tail_octets_max: limits.tail_octets_max as usize,
        segment_octets_min: limits.segment_octets_min,
        segment_octets_max: limits.segment_octets_max,
        segment_slack: limits.segment_slack,
        look_ms: limits.segment_look_ms,
        arena_octets_max: limits.arena_octets_max as usize,
        ..StoreConfig::default()
    }
}

/// What `connection.start` and `connection.tune` offer.
fn offer(config: &Config) -> Offer {
    const CAPABILITIES: [&str; 9] = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ];
    let mut capabilities = TableBuilder::new();
    for name in CAPABILITIES {
        capabilities.push(ShortString::truncated(name), FieldValue::Bool(true));
    }
    let identity = &config.identity;
    let platform = concat!("leveret ", env!("CARGO_PKG_VERSION"));
    let information = "leveret, an AMQP 0-9-1 broker. Licensed under Apache-2.0 OR MIT.";
    let key = ShortString::literal;
    let properties = TableBuilder::new()
        .with(
            key("capabilities"),
            FieldValue::Table(capabilities.as_table()),
        )
        .with_text(key("cluster_name"), &identity.cluster_name)
        .with_text(key("copyright"), "Copyright (c) the leveret authors")
        .with_text(key("information"), information)
        .with_text(key("platform"), platform)
        .with_text(key("product"), &identity.product)
        .with_text(key("version"), &identity.version);
    let limits = &config.limits;
    Offer {
        server_properties: properties.as_table().as_bytes().into(),
        mechanisms: config.mechanisms.join(" "),
        anonymous: config.anonymous_login.clone(),
        channel_max: limits.channel_max,
        frame_max: limits.frame_max,
        initial_frame_max: limits.initial_frame_max,
        heartbeat_s: limits.heartbeat_s,
        body_octets_max: limits.body_octets_max,
        large_body_octets_min: limits.large_body_octets_min,
        whole_body_octets_max: limits
            .body_octets_max
            .min(limits.large_body_octets_min.saturating_sub(1)),
        handshake_timeout_ms: limits.handshake_timeout_ms,
        close_timeout_ms: limits.close_timeout_ms,
        login_refusal_delay_ms: limits.login_refusal_delay_ms,
    }
}

#[cfg(test)]
mod tests;
