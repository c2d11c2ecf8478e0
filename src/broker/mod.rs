//! The synchronous router: commands in, octets for outboxes and records for the log out, both
//! through a [`Sink`].
//!
//! How to drive it: [`Broker::open_session`] and [`Broker::open_channel`] for what a client opens,
//! [`Broker::apply`] for each command, then [`Broker::deliver_listed`], [`Broker::work`] and
//! [`Broker::send_confirms`] before the turn ends, until they have nothing left;
//! [`Broker::flushed`], [`Broker::storage_ready`] and [`Broker::outbox_ready`] when the world has
//! moved on. Everything is a function of the state and what is given: no clock, no socket, no
//! file, no randomness but a seeded one.

mod arguments;
mod audit;
pub mod binding;
pub mod channel;
pub mod command;
pub mod confirm;
mod consume;
pub mod consumer;
mod delivery;
pub mod exception;
pub mod exchange;
pub mod manage;
pub mod meter;
mod publish;
pub mod queue;
mod read;
pub mod ready;
pub mod record;
mod removal;
mod reply_to;
pub mod restore;
pub mod returned;
mod route;
pub mod session;
pub mod sink;
mod slices;
mod topology;
pub mod turn;
mod tx;
pub mod vhost;

use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

pub use self::binding::{BindingKey, Bindings, Destination};
pub use self::channel::{Channel, ChannelKey};
pub use self::command::{Answer, Command, Outcome};
pub use self::confirm::Batch;
pub use self::exception::Exception;
pub use self::exchange::ExchangeKey;
pub use self::publish::Publish;
pub use self::queue::QueueKey;
pub use self::removal::BINDING_COST;
pub use self::reply_to::is_reply_queue;
pub use self::session::{OutboxKey, SessionKey};
pub use self::sink::Sink;

use self::channel::Mode;
use self::consumer::{Consumer, ConsumerKey};
use self::exception::shown;
use self::exchange::Exchange;
use self::exchange::headers::SortedHeaders;
use self::publish::Resource;
use self::queue::{Queue, QueueCounters};
use self::record::{Pairs, QueueId};
use self::route::{RouteMemory, Router};
use self::session::Session;
use self::slices::Slice;
use self::tx::{Settlement, Transaction};
use self::vhost::Vhost;
use crate::auth::{Access, Users};
use crate::clock::Now;
use crate::wire::method::basic;

/// Bounds that the router keeps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries of one queue kept in memory before pages of them are parked.
    pub queue_entries_in_memory_max: usize,
    /// Consumers on one channel; 0 is no limit.
    pub consumers_per_channel_max: u32,
    /// Queues of all virtual hosts.
    pub queues_max: u32,
    /// Exchanges of all virtual hosts.
    pub exchanges_max: u32,
    /// Bindings of all virtual hosts.
    pub bindings_max: u32,
    /// Deliveries of one channel that wait for their acknowledgement: those to consumers, and those
    /// by `basic.get`, counted apart.
    pub unacked_per_channel_max: u32,
    /// Bindings that go together with an end of theirs; more go in slices.
    pub removals_at_once_max: usize,
    /// Publishes and acknowledgements that one transaction collects.
    pub transaction_entries_max: u32,
    /// Octets of the messages that one transaction collects, large bodies (which lie in files of
    /// their own) apart.
    pub transaction_octets_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queue_entries_in_memory_max: 4096,
            consumers_per_channel_max: 0,
            queues_max: u32::MAX,
            exchanges_max: u32::MAX,
            bindings_max: u32::MAX,
            unacked_per_channel_max: u32::MAX,
            removals_at_once_max: 1024,
            transaction_entries_max: u32::MAX,
            transaction_octets_max: u64::MAX,
        }
    }
}

/// What happened since the start; rises only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages taken from publishers.
    pub published: u64,
    /// Messages that reached no queue and were dropped.
    pub dropped_unroutable: u64,
    /// Messages that reached no queue and were returned.
    pub returned: u64,
    /// Publishes confirmed.
    pub confirmed: u64,
    /// Channels opened.
    pub channels_opened: u64,
    /// Channels closed.
    pub channels_closed: u64,
    /// Declarations of queues, whether or not they were there.
    pub queues_declared: u64,
    /// Queues declared that were not there.
    pub queues_created: u64,
    /// Queues removed.
    pub queues_deleted: u64,
    /// What happened on queues that are gone.
    pub gone: QueueCounters,
}

/// See the module.
#[derive(Debug)]
pub struct Broker {
    /// Users and their permissions.
    pub users: Users,
    /// See [`Counters`].
    pub counters: Counters,
    limits: Limits,
    vhosts: Slab<Vhost>,
    vhosts_by_name: hashbrown::HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    /// Names of virtual hosts that are being removed.
    vhosts_going: Vec<Box<str>>,
    /// See [`Broker::take_vhosts_removed`].
    vhosts_removed: Vec<(u32, Batch)>,
    exchanges: Slab<Exchange>,
    queues: Slab<Queue>,
    bindings: Bindings,
    consumers: Slab<Consumer>,
    channels: Slab<Channel>,
    sessions: Slab<Session>,
    /// Changes whenever a remembered route or right may be wrong; never 0.
    epoch: u64,
    /// Gives each holder of a slot its number.
    generation: u32,
    next_queue_id: u32,
    random: u64,
    router: Router,
    routes: RouteMemory,
    /// Queues that may have something to deliver.
    listed: VecDeque<QueueKey>,
    waiting_for_storage: Vec<QueueKey>,
    slices: VecDeque<Slice>,
    /// How many bindings lead from an auto-delete exchange to a destination that is there.
    auto_delete_edges: BTreeMap<(Destination, ExchangeKey), u32>,
    /// Exchanges and queues that are gone but for some of their bindings.
    going: Vec<removal::GoingEnd>,
    /// See [`Broker::take_name_free`].
    is_name_free: bool,
    /// Channels with a confirm to send.
    confirming: Vec<u32>,
    /// Channels whose publishes wait for the disk.
    unconfirmed: Vec<ChannelKey>,
    /// Delivery permissions on their way to the disk.
    permissions: VecDeque<(Batch, QueueKey, u64)>,
    /// Memory for a message that goes to several queues.
    holders: Vec<(u32, u64, u8, Option<ConsumerKey>)>,
    logged_to: Vec<(QueueId, u64)>,
}

impl Broker {
    /// A broker without virtual hosts. `seed` feeds the names it generates.
    pub fn new(limits: Limits, users: Users, seed: u64) -> Self {
        Broker {
            users,
            counters: Counters::default(),
            limits,
            vhosts: Slab::new(),
            vhosts_by_name: hashbrown::HashMap::default(),
            vhosts_going: Vec::new(),
            vhosts_removed: Vec::new(),
            exchanges: Slab::new(),
            queues: Slab::new(),
            bindings: Bindings::default(),
            consumers: Slab::new(),
            channels: Slab::new(),
            sessions: Slab::new(),
            epoch: 1,
            generation: 0,
            next_queue_id: 1,
            random: seed,
            router: Router::default(),
            routes: RouteMemory::default(),
            listed: VecDeque::new(),
            waiting_for_storage: Vec::new(),
            slices: VecDeque::new(),
            auto_delete_edges: BTreeMap::new(),
            going: Vec::new(),
            is_name_free: false,
            confirming: Vec::new(),
            unconfirmed: Vec::new(),
            permissions: VecDeque::new(),
            holders: Vec::new(),
            logged_to: Vec::new(),
        }
    }

    /// Carries out a command of an open channel.
    ///
    /// # Errors
    /// The exception that ends the channel or the connection; the command had no effect then.
    #[inline]
    pub fn apply<S: Sink>(
        &mut self,
        now: Now,
        channel: ChannelKey,
        command: &Command<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        debug_assert!(self.channel_is(channel));
        let slot = channel.slot;
        match command {
            Command::Publish(publish) => self.publish(now, slot, publish, sink).map(nothing),
            Command::Ack(ack) => self.ack(slot, ack, sink).map(nothing),
            _ => self.apply_rare(now, slot, command, sink),
        }
    }

    fn apply_rare<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        command: &Command<'_>,
        sink: &mut S,
    ) -> Result<Outcome, Exception> {
        let requeue = |requeue| {
            if requeue {
                Settlement::Requeue
            } else {
                Settlement::Drop
            }
        };
        match command {
            Command::Publish(publish) => self.publish(now, channel, publish, sink).map(nothing),
            Command::Ack(ack) => self.ack(channel, ack, sink).map(nothing),
            Command::Nack(basic::Nack {
                delivery_tag,
                multiple,
                requeue: back,
            }) => self
                .settle_tags(channel, *delivery_tag, *multiple, requeue(*back), sink)
                .map(nothing),
            Command::Reject(basic::Reject {
                delivery_tag,
                requeue: back,
            }) => self
                .settle_tags(channel, *delivery_tag, false, requeue(*back), sink)
                .map(nothing),
            Command::Get(get) => self.get(now, channel, get, sink),
            Command::Consume(consume) => self.consume(now, channel, consume, sink),
            Command::Cancel(cancel) => Ok(self.cancel(channel, cancel, sink)),
            Command::Qos(qos) => self.qos(channel, *qos),
            Command::Recover { requeue, answer } => self.recover(channel, *requeue, *answer, sink),
            Command::ExchangeDeclare(declare) => self.exchange_declare(channel, declare, sink),
            Command::ExchangeDelete(delete) => self.exchange_delete(channel, delete, sink),
            Command::ExchangeBind(bind) => self.exchange_bind(channel, bind, sink),
            Command::ExchangeUnbind(unbind) => self.exchange_unbind(channel, unbind, sink),
            Command::QueueDeclare(declare) => self.queue_declare(now, channel, declare, sink),
            Command::QueueDelete(delete) => self.queue_delete(channel, delete, sink),
            Command::QueueBind(bind) => self.queue_bind(channel, bind, sink),
            Command::QueueUnbind(unbind) => self.queue_unbind(channel, unbind, sink),
            Command::QueuePurge(purge) => self.queue_purge(channel, purge, sink),
            Command::ConfirmSelect => self.confirm_select(channel),
            Command::TxSelect => self.tx_select(channel),
            Command::TxCommit => self.tx_commit(now, channel, sink),
            Command::TxRollback => self.tx_rollback(channel, sink),
        }
    }

    // ---- sessions and channels ----

    /// A client has opened a connection to a virtual host. Credentials and access were checked.
    pub fn open_session(&mut self, session: Session) -> SessionKey {
        self.generation += 1;
        let generation = self.generation;
        let slot = self.sessions.insert(Session {
            generation,
            ..session
        }) as u32;
        SessionKey { slot, generation }
    }

    /// A connection is over: its channels close, its exclusive queues go.
    pub fn close_session<S: Sink>(&mut self, key: SessionKey, sink: &mut S) {
        for slot in self.sessions[key.slot as usize].channels.clone() {
            let generation = self.channels[slot as usize].generation;
            self.close_channel(ChannelKey { slot, generation }, sink);
        }
        let mut pairs = Pairs::default();
        for queue in std::mem::take(&mut self.sessions[key.slot as usize].exclusive_queues) {
            if self.queue_is(queue) {
                self.remove_queue(queue, &mut pairs, sink);
            }
        }
        self.sessions.remove(key.slot as usize);
        if !pairs.is_empty() {
            sink.define(pairs.as_slice());
        }
    }

    /// A client has opened a channel.
    pub fn open_channel(&mut self, session: SessionKey, number: u16) -> ChannelKey {
        self.counters.channels_opened += 1;
        self.generation += 1;
        let generation = self.generation;
        let unacked_max = self.limits.unacked_per_channel_max;
        let channel = Channel::new(generation, session, number, unacked_max);
        let slot = self.channels.insert(channel) as u32;
        self.sessions[session.slot as usize].channels.push(slot);
        ChannelKey { slot, generation }
    }

    /// A channel is over: its consumers end, what it has unacknowledged goes back, what its
    /// transaction holds is dropped.
    pub fn close_channel<S: Sink>(&mut self, key: ChannelKey, sink: &mut S) {
        self.counters.channels_closed += 1;
        self.count_published(key.slot);
        let state = &mut self.channels[key.slot as usize];
        let mut deliveries = state.unacked.take_all();
        if let Mode::Tx(transaction) = std::mem::replace(&mut state.mode, Mode::Plain) {
            for publish in transaction.publishes {
                sink.release(publish.entry);
            }
            deliveries.extend(
                transaction
                    .settlements
                    .into_iter()
                    .map(|(unacked, _)| unacked),
            );
        }
        let session = state.session;
        let mut consumers: Vec<ConsumerKey> = state.consumers.values().copied().collect();
        consumers.sort_unstable();
        let mut pairs = Pairs::default();
        // Messages are back before the consumers go, so that an auto-delete queue takes them along.
        for consumer in &consumers {
            self.silence(*consumer);
        }
        self.requeue_all(deliveries, sink);
        for consumer in consumers {
            if self
                .consumers
                .get(consumer as usize)
                .is_some_and(|it| it.channel == key.slot)
            {
                self.remove_consumer(consumer, &mut pairs, sink);
            }
        }
        if !pairs.is_empty() {
            sink.define(pairs.as_slice());
        }
        self.channels.remove(key.slot as usize);
        self.sessions[session.slot as usize]
            .channels
            .retain(|&other| other != key.slot);
    }

    /// Takes a consumer out of its queue's turn for good.
    fn silence(&mut self, key: ConsumerKey) {
        let consumer = &mut self.consumers[key as usize];
        consumer.is_available = false;
        consumer.unacked = 0;
        let queue = &mut self.queues[consumer.queue.slot as usize];
        queue.available.remove(key);
    }

    fn channel_is(&self, key: ChannelKey) -> bool {
        self.channels
            .get(key.slot as usize)
            .is_some_and(|it| it.generation == key.generation)
    }

    fn queue_is(&self, key: QueueKey) -> bool {
        self.queues
            .get(key.slot as usize)
            .is_some_and(|it| it.generation == key.generation)
    }

    fn exchange_is(&self, key: ExchangeKey) -> bool {
        self.exchanges
            .get(key.slot as usize)
            .is_some_and(|it| it.generation == key.generation)
    }

    fn queue_key_at(&self, slot: u32) -> QueueKey {
        QueueKey {
            slot,
            generation: self.queues[slot as usize].generation,
        }
    }

    // ---- modes ----

    fn confirm_select(&mut self, channel: u32) -> Result<Outcome, Exception> {
        let mode = &mut self.channels[channel as usize].mode;
        match mode {
            Mode::Tx(_) => {
                let text = "cannot switch from tx to confirm mode";
                return Err(Exception::precondition_failed(text));
            }
            Mode::Plain => *mode = Mode::Confirm(confirm::ConfirmWindow::default()),
            Mode::Confirm(_) => {}
        }
        Ok(Outcome::now(Answer::ConfirmSelectOk))
    }

    fn tx_select(&mut self, channel: u32) -> Result<Outcome, Exception> {
        let mode = &mut self.channels[channel as usize].mode;
        match mode {
            Mode::Confirm(_) => {
                let text = "cannot switch from confirm to tx mode";
                return Err(Exception::precondition_failed(text));
            }
            Mode::Plain => *mode = Mode::Tx(Box::<Transaction>::default()),
            Mode::Tx(_) => {}
        }
        Ok(Outcome::now(Answer::TxSelectOk))
    }

    // ---- names and rights ----

    fn vhost_of(&self, channel: u32) -> u32 {
        self.sessions[self.channels[channel as usize].session.slot as usize].vhost
    }

    /// Routes and rights that were remembered must be looked up again.
    fn topology_changed(&mut self) {
        self.epoch += 1;
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Users or permissions have changed.
    pub fn rights_changed(&mut self) {
        self.epoch += 1;
    }

    fn exchange_key(&self, vhost: u32, name: &[u8]) -> Option<ExchangeKey> {
        self.vhosts[vhost as usize].exchanges.get(name).copied()
    }

    fn queue_key(&self, vhost: u32, name: &[u8]) -> Option<QueueKey> {
        let names = &self.vhosts[vhost as usize].queues;
        let slot = names.find(name, &self.queues)?;
        Some(self.queue_key_at(slot))
    }

    fn exchange_shown(&self, vhost: u32, name: &[u8]) -> String {
        format!(
            "exchange '{}' in vhost '{}'",
            shown(name),
            self.vhosts[vhost as usize].name
        )
    }

    fn queue_shown(&self, vhost: u32, name: &[u8]) -> String {
        format!(
            "queue '{}' in vhost '{}'",
            shown(name),
            self.vhosts[vhost as usize].name
        )
    }

    fn no_queue(&self, vhost: u32, name: &[u8]) -> Exception {
        Exception::not_found(format!("no {}", self.queue_shown(vhost, name)))
    }

    fn no_exchange(&self, vhost: u32, name: &[u8]) -> Exception {
        Exception::not_found(format!("no {}", self.exchange_shown(vhost, name)))
    }

    /// The name that a client means; an empty one is the queue the channel declared last.
    fn queue_named(&self, channel: u32, name: &[u8]) -> Result<Vec<u8>, Exception> {
        if !name.is_empty() {
            return Ok(name
                .iter()
                .copied()
                .filter(|octet| !matches!(octet, b'\r' | b'\n'))
                .collect());
        }
        let last = self.channels[channel as usize].last_queue.as_deref();
        last.map(<[u8]>::to_vec)
            .ok_or_else(|| Exception::not_found("no previously declared queue"))
    }

    /// The queue of that name, if the channel's connection may use it.
    fn find_queue(&self, channel: u32, name: &[u8]) -> Result<QueueKey, Exception> {
        let vhost = self.vhost_of(channel);
        let key = self
            .queue_key(vhost, name)
            .ok_or_else(|| self.no_queue(vhost, name))?;
        self.check_not_locked(channel, key)?;
        Ok(key)
    }

    fn check_not_locked(&self, channel: u32, key: QueueKey) -> Result<(), Exception> {
        let queue = &self.queues[key.slot as usize];
        let owner = queue.properties.exclusive_to;
        if owner.is_none_or(|owner| owner == self.channels[channel as usize].session) {
            return Ok(());
        }
        Err(arguments::locked(
            &self.queue_shown(queue.vhost, &queue.name),
        ))
    }

    /// # Errors
    /// 403 naming what is refused to whom.
    fn check_access(
        &self,
        channel: u32,
        access: Access,
        resource: Resource<'_>,
    ) -> Result<(), Exception> {
        let session = &self.sessions[self.channels[channel as usize].session.slot as usize];
        let vhost = &self.vhosts[session.vhost as usize].name;
        let (kind, name) = match resource {
            Resource::Exchange(b"") => ("exchange", &b"amq.default"[..]),
            Resource::Exchange(name) => ("exchange", name),
            Resource::Queue(name) => ("queue", name),
        };
        let permission = self.users.access(session.user, vhost);
        if permission.is_some_and(|permission| permission.may(access, name)) {
            return Ok(());
        }
        Err(Exception::access_refused(format!(
            "{} access to {kind} '{}' in vhost '{vhost}' refused for user '{}'",
            access.name(),
            shown(name),
            session.user_name
        )))
    }

    /// A passive declaration needs some right, whichever (RabbitMQ 4.3).
    fn check_any_access(&self, channel: u32, name: &[u8]) -> Result<(), Exception> {
        let check = |access| self.check_access(channel, access, Resource::Queue(name));
        check(Access::Read)
            .or_else(|_| check(Access::Write))
            .or_else(|_| check(Access::Configure))
    }

    fn check_user_id(&self, channel: u32, user_id: &[u8]) -> Result<(), Exception> {
        let session = &self.sessions[self.channels[channel as usize].session.slot as usize];
        let is_impersonator = || {
            self.users
                .get(session.user)
                .is_some_and(|user| user.has_tag("impersonator"))
        };
        if user_id == session.user_name.as_bytes() || is_impersonator() {
            return Ok(());
        }
        Err(Exception::precondition_failed(format!(
            "user_id property set to '{}' but authenticated user was '{}'",
            shown(user_id),
            session.user_name
        )))
    }

    /// The next number of the seeded generator (splitmix64).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A name as RabbitMQ generates them: the prefix and 128 random bits in base64url.
    fn generated_name(&mut self, prefix: &[u8]) -> Vec<u8> {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bits = u128::from(self.draw()) << 64 | u128::from(self.draw());
        let mut name = prefix.to_vec();
        for _ in 0..22 {
            name.push(ALPHABET[(bits & 63) as usize]);
            bits >>= 6;
        }
        name
    }

    fn new_queue_id(&mut self) -> QueueId {
        let id = QueueId(self.next_queue_id);
        self.next_queue_id += 1;
        id
    }

    // ---- routing ----

    fn route(
        &mut self,
        exchange: ExchangeKey,
        routing_key: &[u8],
        headers: &SortedHeaders<'_>,
        found: &mut Vec<QueueKey>,
    ) {
        let of = &self.exchanges[exchange.slot as usize];
        if of.name.is_empty() {
            found.extend(self.queue_key(of.vhost, routing_key));
            return;
        }
        self.router.route(
            exchange,
            routing_key,
            headers,
            &mut self.exchanges,
            &mut self.queues,
            &self.bindings,
            found,
        );
    }

    /// Whether a message published to `exchange` may come to one that looks at headers.
    fn reaches_headers_exchange(&self, exchange: ExchangeKey) -> bool {
        let mut seen = vec![exchange];
        let mut at = 0;
        while let Some(&current) = seen.get(at) {
            at += 1;
            let exchange = &self.exchanges[current.slot as usize];
            if exchange.reads_headers() {
                return true;
            }
            if exchange.leads_to_exchanges == 0 {
                continue;
            }
            for (_, binding) in self.bindings.iter() {
                if let Destination::Exchange(next) = binding.destination
                    && binding.source == current
                    && self.exchange_is(next)
                    && !seen.contains(&next)
                {
                    seen.push(next);
                }
            }
        }
        false
    }
}

fn nothing((): ()) -> Outcome {
    Outcome::now(Answer::Nothing)
}
