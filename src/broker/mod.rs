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
mod limits;
pub mod manage;
pub mod meter;
mod names;
mod publish;
pub mod queue;
mod read;
pub mod ready;
pub mod record;
mod removal;
mod reply_to;
pub mod restore;
pub mod returned;
mod rights;
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
pub use self::limits::Limits;
pub use self::publish::Publish;
pub use self::queue::QueueKey;
pub use self::removal::BINDING_COST;
pub use self::reply_to::is_reply_queue;
pub use self::session::{OutboxKey, SessionKey};
pub use self::sink::Sink;

use self::consumer::{Consumer, ConsumerKey};
use self::exchange::Exchange;
use self::queue::{Queue, QueueCounters};
use self::record::QueueId;
use self::route::{RouteMemory, Router};
use self::session::Session;
use self::slices::Slice;
use self::tx::Settlement;
use self::vhost::Vhost;
use crate::auth::Users;
use crate::clock::Now;
use crate::random::Random;
use crate::wire::method::basic;

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
    /// See [`Broker::effort`].
    effort: u64,
    /// Gives each holder of a slot its number.
    generation: u32,
    next_queue_id: u32,
    random: Random,
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
            effort: 0,
            generation: 0,
            next_queue_id: 1,
            random: Random::new(seed),
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
            Command::Ack(ack) => self.ack(slot, ack, sink).map(settled),
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
            Command::Ack(ack) => self.ack(channel, ack, sink).map(settled),
            Command::Nack(basic::Nack {
                delivery_tag,
                multiple,
                requeue: back,
            }) => self
                .settle_tags(channel, *delivery_tag, *multiple, requeue(*back), sink)
                .map(settled),
            Command::Reject(basic::Reject {
                delivery_tag,
                requeue: back,
            }) => self
                .settle_tags(channel, *delivery_tag, false, requeue(*back), sink)
                .map(settled),
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

    /// What commands have cost beyond what every one does, since the start: bindings looked at and
    /// queues given to where those are many, deliveries settled at once, lists gone through. The
    /// unit is about what a queue of a fan-out takes. A turn that has seen much of it is to end.
    #[inline]
    pub fn effort(&self) -> u64 {
        self.effort
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

    fn new_queue_id(&mut self) -> QueueId {
        let id = QueueId(self.next_queue_id);
        self.next_queue_id += 1;
        id
    }
}

fn nothing((): ()) -> Outcome {
    Outcome::now(Answer::Nothing)
}

/// What an acknowledgement comes to that is done, or goes on.
fn settled(is_done: bool) -> Outcome {
    Outcome::now(if is_done {
        Answer::Nothing
    } else {
        Answer::GoesOn
    })
}
