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

mod alarm;
mod facts;
mod manage;
mod outbox;
mod peer;
mod plant;
mod restore;
mod sample;
mod settings;
mod turn;
mod view;
mod write_out;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use slab::Slab;

use self::alarm::Alarms;
use self::facts::Facts;
pub use self::facts::Figures;
pub use self::outbox::Outbox;
use self::peer::Peer;
pub use self::plant::Plant;
use self::sample::Sampler;
use crate::admin::{AdminAnswer, HttpId, ListenerRow};
use crate::auth::Users;
use crate::broker::{Batch, Broker};
use crate::clock::{Deadline, Now};
use crate::config::Config;
use crate::connection::{Offer, Pause};
use crate::storage::{self, Answer, Event, Helpers, Storage, StorageError, Store};
use crate::wire::ReplyCode;

/// Names a connection of the engine. The generation keeps a late event of a socket from reaching
/// the next holder of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Index of the connection.
    pub slot: u32,
    /// Tells the holders of one slot apart.
    pub generation: u32,
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
    alarms: Alarms,
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
        let store_config = settings::store(config);
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
        let mut engine = Engine {
            broker: Broker::new(settings::broker(limits), users, seed.rotate_left(32)),
            plant: Plant::new(store, limits.outbox_octets_high),
            offer: settings::offer(config),
            peers: Slab::new(),
            generation: 0,
            timers: BinaryHeap::new(),
            holding: Vec::new(),
            paused: Vec::new(),
            resumed: Vec::new(),
            outbox_octets_low: limits.outbox_octets_low,
            outbox_octets_max: limits.outbox_octets_max,
            slice_entries_max: limits.slice_entries_max,
            alarms: Alarms::default(),
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
                    // It is on the other list.
                    Some(Pause::Turn) | None => {}
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
}

#[cfg(test)]
mod tests;
