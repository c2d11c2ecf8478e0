//! What the HTTP API reads: rows, and the trait through which the engine shows them.
//!
//! A row borrows from the broker's state and is copied into JSON at once. Tables are walked in
//! slices by a [`Cursor`], so that a listing of a million queues never holds the loop.

use super::command::{AdminAnswer, AdminCommand, HttpId};
use crate::auth::Users;
use crate::clock::Now;
use crate::wire::field_table::FieldTable;
use std::net::{IpAddr, SocketAddr};

/// One whole server as the HTTP API sees it: read by rows, changed by commands.
///
/// The engine implements it. Every method answers at once and never blocks; what waits for stable
/// storage is answered later (see [`Admin::command`]).
pub trait Admin {
    /// What there is one of: names, versions, totals, alarms. Costs no walk over anything.
    fn overview(&self, now: Now) -> Overview<'_>;

    /// Every bound listener.
    fn listeners(&self, visit: &mut dyn FnMut(ListenerRow));

    /// Users and their permissions.
    fn users(&self) -> &Users;

    /// Whether there is such a virtual host.
    fn has_vhost(&self, vhost: &str) -> bool;

    /// Visits rows of `table` from `from` on, at most `rows_max` of them, each with the cursor at
    /// which a later call finds it again. Returns where to go on, or `None` at the end.
    ///
    /// The order is the state's own and stays the same while nothing comes or goes; a row that
    /// exists throughout a walk is visited exactly once. A cursor of something that is gone leads
    /// to what follows it.
    ///
    /// * `scope`: rows outside of it may be left out, which is cheaper; the caller looks again.
    fn rows(
        &self,
        table: Table,
        scope: Scope<'_>,
        from: Cursor,
        rows_max: usize,
        visit: &mut dyn FnMut(Cursor, Row<'_>),
    ) -> Option<Cursor>;

    /// Visits the queue of this name; `false` when there is none.
    fn queue(&self, vhost: &str, name: &[u8], visit: &mut dyn FnMut(QueueRow<'_>)) -> bool;

    /// Visits the exchange of this name (empty for the default one); `false` when there is none.
    fn exchange(&self, vhost: &str, name: &[u8], visit: &mut dyn FnMut(ExchangeRow<'_>)) -> bool;

    /// Does what an operator asked for. `None` means that the answer follows once it is durable:
    /// the engine then hands it out as an event for `id`, and the owner of that connection calls
    /// [`super::HttpConnection::answered`]. A connection has one command outstanding at most; when
    /// it closes, its answer is dropped.
    ///
    /// Whether the operator may do it has been checked already.
    fn command(&mut self, now: Now, id: HttpId, command: AdminCommand<'_>) -> Option<AdminAnswer>;
}

/// The tables that can be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// [`Row::Vhost`]
    Vhosts,
    /// [`Row::Queue`]
    Queues,
    /// [`Row::Exchange`]
    Exchanges,
    /// [`Row::Binding`], the implicit ones of the default exchange included.
    Bindings,
    /// [`Row::Connection`]
    Connections,
    /// [`Row::Channel`]
    Channels,
    /// [`Row::Consumer`]
    Consumers,
}

/// A place in a table. What the two numbers mean is the implementer's: a slot and a place within
/// it, for example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The coarse place.
    pub major: u64,
    /// The place within.
    pub minor: u64,
}

impl Cursor {
    /// The beginning of every table.
    pub const START: Cursor = Cursor { major: 0, minor: 0 };
}

/// Which rows are wanted; everything `None` is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Rows of this virtual host.
    pub vhost: Option<&'a str>,
    /// Consumers of, and bindings to, this queue.
    pub queue: Option<&'a [u8]>,
    /// Bindings from or to this exchange.
    pub exchange: Option<&'a [u8]>,
    /// The connection of this name, or its channels.
    pub connection: Option<&'a [u8]>,
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// Of [`Table::Vhosts`].
    Vhost(VhostRow<'a>),
    /// Of [`Table::Queues`].
    Queue(QueueRow<'a>),
    /// Of [`Table::Exchanges`].
    Exchange(ExchangeRow<'a>),
    /// Of [`Table::Bindings`].
    Binding(BindingRow<'a>),
    /// Of [`Table::Connections`].
    Connection(ConnectionRow<'a>),
    /// Of [`Table::Channels`].
    Channel(ChannelRow<'a>),
    /// Of [`Table::Consumers`].
    Consumer(ConsumerRow<'a>),
}

/// Something that is counted, and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counter {
    /// Since the object exists.
    pub total: u64,
    /// A second, over the last seconds; 0 where nobody measures.
    pub rate: f64,
}

impl From<u64> for Counter {
    fn from(total: u64) -> Self {
        Counter { total, rate: 0.0 }
    }
}

/// What happened to messages of a queue, a channel or the whole server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageStats {
    /// Published.
    pub publish: Counter,
    /// Confirmed to publishers.
    pub confirm: Counter,
    /// Mandatory and given back.
    pub return_unroutable: Counter,
    /// Not routed and dropped.
    pub drop_unroutable: Counter,
    /// Delivered to consumers that ack.
    pub deliver: Counter,
    /// Delivered to consumers that do not.
    pub deliver_no_ack: Counter,
    /// Taken by `basic.get` with ack.
    pub get: Counter,
    /// Taken by `basic.get` without.
    pub get_no_ack: Counter,
    /// `basic.get` that found nothing.
    pub get_empty: Counter,
    /// Delivered again.
    pub redeliver: Counter,
    /// Acked.
    pub ack: Counter,
}

impl MessageStats {
    /// Whether nothing ever happened.
    pub fn is_empty(&self) -> bool {
        *self == MessageStats::default()
    }
}

/// What there is one of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overview<'a> {
    /// Server property `product`.
    pub product: &'a str,
    /// Server property `version`.
    pub version: &'a str,
    /// Name of the node.
    pub node: &'a str,
    /// Name of the cluster.
    pub cluster_name: &'a str,
    /// The data directory, as configured.
    pub data_dir: &'a str,
    /// SASL mechanisms that are offered, separated by blanks.
    pub mechanisms: &'a str,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Open connections.
    pub connections: u64,
    /// Open channels.
    pub channels: u64,
    /// Consumers.
    pub consumers: u64,
    /// Exchanges of all virtual hosts.
    pub exchanges: u64,
    /// Queues of all virtual hosts.
    pub queues: u64,
    /// Messages that could be delivered, all queues.
    pub messages_ready: u64,
    /// Messages that wait for an ack, all queues.
    pub messages_unacknowledged: u64,
    /// What happened to messages.
    pub stats: MessageStats,
    /// How many objects came and went.
    pub churn: Churn,
    /// Resident octets of the process.
    pub memory_octets: u64,
    /// Octets at which the memory alarm is raised; 0 when nobody watches.
    pub memory_limit_octets: u64,
    /// Whether the memory alarm is on.
    pub memory_alarm: bool,
    /// Free octets of the data directory's file system; `None` when unknown.
    pub disk_free_octets: Option<u64>,
    /// Free octets at which the disk alarm is raised.
    pub disk_free_limit_octets: u64,
    /// Whether the disk alarm is on.
    pub disk_alarm: bool,
    /// Open file descriptors.
    pub descriptors: u64,
    /// How many descriptors may be open.
    pub descriptors_max: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Whether the server takes new clients; `false` while it stops.
    pub is_serving: bool,
    /// Connections at most.
    pub connections_max: u64,
}

/// How many objects came and went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Churn {
    /// Connections that were opened.
    pub connection_created: Counter,
    /// Connections that were closed.
    pub connection_closed: Counter,
    /// Channels that were opened.
    pub channel_created: Counter,
    /// Channels that were closed.
    pub channel_closed: Counter,
    /// `queue.declare`, whether or not the queue was new.
    pub queue_declared: Counter,
    /// New queues.
    pub queue_created: Counter,
    /// Deleted queues.
    pub queue_deleted: Counter,
}

/// One bound listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerRow {
    /// `amqp` or `http`.
    pub protocol: &'static str,
    /// Where it is bound, the real port in it.
    pub address: SocketAddr,
}

/// A virtual host.
#[derive(Clone, Copy, Debug)]
pub struct VhostRow<'a> {
    /// Its name.
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// For people.
    pub tags: &'a [String],
    /// Type of queues that are declared without one.
    pub default_queue_type: Option<&'a str>,
    /// Messages that could be delivered.
    pub messages_ready: u64,
    /// Messages that wait for an ack.
    pub messages_unacknowledged: u64,
}

/// A queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueRow<'a> {
    /// Its virtual host.
    pub vhost: &'a str,
    /// Its name.
    pub name: &'a [u8],
    /// `classic`, `quorum` or `stream`.
    pub kind: &'a str,
    /// Outlives a restart.
    pub durable: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// Belongs to one connection.
    pub exclusive: bool,
    /// Name of the connection it belongs to.
    pub owner: Option<ConnectionName<'a>>,
    /// As declared.
    pub arguments: FieldTable<'a>,
    /// Messages that could be delivered.
    pub messages_ready: u64,
    /// Messages that wait for an ack.
    pub messages_unacknowledged: u64,
    /// Messages that are in the log.
    pub messages_persistent: u64,
    /// Octets of the records of ready messages.
    pub octets_ready: u64,
    /// Octets of the records of messages that wait for an ack.
    pub octets_unacknowledged: u64,
    /// Consumers.
    pub consumers: u64,
    /// Tag of the consumer that has the queue for itself.
    pub exclusive_consumer_tag: Option<&'a [u8]>,
    /// Tag of the active consumer of a queue that has one at a time.
    pub single_active_consumer_tag: Option<&'a [u8]>,
    /// Octets of memory that it takes.
    pub memory_octets: u64,
    /// Milliseconds since 1970 since when nothing happened; `None` while something does.
    pub idle_since_ms: Option<u64>,
    /// `running`, or what keeps it from that.
    pub state: &'a str,
    /// What happened to its messages.
    pub stats: MessageStats,
}

/// An exchange.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeRow<'a> {
    /// Its virtual host.
    pub vhost: &'a str,
    /// Its name; empty for the default exchange.
    pub name: &'a [u8],
    /// `direct`, `fanout`, `topic`, `headers`.
    pub kind: &'a str,
    /// Outlives a restart.
    pub durable: bool,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Takes messages from other exchanges only.
    pub internal: bool,
    /// As declared.
    pub arguments: FieldTable<'a>,
    /// Messages that came in.
    pub publish_in: Counter,
    /// Messages that went out, counted once per queue.
    pub publish_out: Counter,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A binding.
#[derive(Clone, Copy, Debug)]
pub struct BindingRow<'a> {
    /// Its virtual host.
    pub vhost: &'a str,
    /// The exchange it leads from; empty for the default exchange.
    pub source: &'a [u8],
    /// What it leads to.
    pub destination: &'a [u8],
    /// What kind of thing that is.
    pub destination_kind: DestinationKind,
    /// Its key.
    pub routing_key: &'a [u8],
    /// As bound.
    pub arguments: FieldTable<'a>,
}

/// How a connection is named to people: both ends of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionName<'a> {
    /// `127.0.0.1:49330 -> 127.0.0.1:5672`
    pub name: &'a [u8],
    /// The client's end.
    pub peer: SocketAddr,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRow<'a> {
    /// Its name.
    pub name: ConnectionName<'a>,
    /// The server's end.
    pub local: SocketAddr,
    /// `starting`, `tuning`, `opening`, `running`, `blocked`, `flow`, `closing`.
    pub state: &'a str,
    /// Who logged in; empty before.
    pub user: &'a str,
    /// What it opened; empty before.
    pub vhost: &'a str,
    /// `PLAIN`, `AMQPLAIN`; empty before.
    pub auth_mechanism: &'a str,
    /// Open channels.
    pub channels: u64,
    /// As tuned.
    pub channel_max: u16,
    /// As tuned.
    pub frame_max: u32,
    /// As tuned.
    pub heartbeat_s: u16,
    /// Milliseconds since 1970.
    pub connected_at_ms: u64,
    /// What the client said about itself.
    pub client_properties: FieldTable<'a>,
    /// Octets received.
    pub received_octets: Counter,
    /// Octets sent.
    pub sent_octets: Counter,
    /// Reads from the socket.
    pub received_count: u64,
    /// Writes to the socket.
    pub sent_count: u64,
    /// Octets that wait to be sent.
    pub pending_octets: u64,
}

/// A channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelRow<'a> {
    /// Its connection.
    pub connection: ConnectionName<'a>,
    /// Its number.
    pub number: u16,
    /// The connection's user.
    pub user: &'a str,
    /// The connection's virtual host.
    pub vhost: &'a str,
    /// `running`, `flow`, `closing`.
    pub state: &'a str,
    /// In confirm mode.
    pub confirm: bool,
    /// In transaction mode.
    pub transactional: bool,
    /// Consumers.
    pub consumer_count: u64,
    /// Limit of consumers that start from now on; 0 is none.
    pub prefetch_count: u16,
    /// Limit that its consumers share; 0 is none.
    pub global_prefetch_count: u16,
    /// Deliveries that wait for an ack.
    pub messages_unacknowledged: u64,
    /// Publishes that wait for a confirm.
    pub messages_unconfirmed: u64,
    /// Publishes of the open transaction.
    pub messages_uncommitted: u64,
    /// Acks of the open transaction.
    pub acks_uncommitted: u64,
    /// Milliseconds since 1970 since when nothing happened; `None` while something does.
    pub idle_since_ms: Option<u64>,
    /// What it did.
    pub stats: MessageStats,
}

/// A consumer.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerRow<'a> {
    /// Virtual host of its queue.
    pub vhost: &'a str,
    /// Its queue.
    pub queue: &'a [u8],
    /// Its tag.
    pub consumer_tag: &'a [u8],
    /// The connection of its channel.
    pub connection: ConnectionName<'a>,
    /// Number of its channel.
    pub channel: u16,
    /// The connection's user.
    pub user: &'a str,
    /// It acks.
    pub ack_required: bool,
    /// Has the queue for itself.
    pub exclusive: bool,
    /// Gets messages; `false` while another one is the single active one.
    pub active: bool,
    /// Its limit of deliveries without ack; 0 is none.
    pub prefetch_count: u16,
    /// As given with `basic.consume`.
    pub arguments: FieldTable<'a>,
}

/// Where an HTTP request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpPeer {
    /// The control socket: whoever may open it is an administrator.
    Local,
    /// A TCP connection: its user has to log in.
    Remote(IpAddr),
}
