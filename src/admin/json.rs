//! Rows as the JSON objects that RabbitMQ's API shows.
//!
//! A row goes field by field into a [`Writer`], which writes what the request's `columns` ask for
//! straight into the response: a listing of a million queues builds no object of any of them.

use super::json_value::{Rate, Shown, Table, Text, date};
use super::listing::select;
use super::request::percent_decode;
use super::view::{
    BindingRow, ChannelRow, Churn, ConnectionName, ConnectionRow, ConsumerRow, Counter,
    DestinationKind, ExchangeRow, MessageStats, QueueRow, Row, VhostRow,
};
use crate::auth::{Permission, User, base64};
use crate::wire::field_table::{FieldTable, FieldValue};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Paths of the columns that are wanted; none is all.
pub(super) type Columns = [Vec<String>];

/// Which fields of a queue are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueFields {
    /// Leave out everything that is measured (`disable_stats`).
    pub(super) no_stats: bool,
    /// Show the numbers of messages all the same (`enable_queue_totals`).
    pub(super) totals: bool,
}

/// Writes one JSON object, field by field.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    columns: &'a Columns,
    is_first: bool,
}

impl<'a> Writer<'a> {
    /// Begins an object at the end of `out`.
    pub(super) fn new(out: &'a mut Vec<u8>, columns: &'a Columns) -> Self {
        out.push(b'{');
        Writer {
            out,
            columns,
            is_first: true,
        }
    }

    /// Writes a field, if it is wanted or a part of it is.
    ///
    /// * `name`: plain ASCII, which JSON need not escape.
    pub(super) fn put(&mut self, name: &str, value: impl Serialize) {
        if self.columns.is_empty() {
            return self.write(name, &value);
        }
        let mut of_name = self
            .columns
            .iter()
            .filter(|path| path.first().is_some_and(|key| key == name));
        let Some(first) = of_name.next() else { return };
        if first.len() == 1 || of_name.any(|path| path.len() == 1) {
            return self.write(name, &value);
        }
        let value = serde_json::to_value(value).expect("fields always become JSON");
        let mut object = Object::new();
        object.insert(name.to_owned(), value);
        if let Some(selected) = select(object, self.columns).get(name) {
            self.write(name, selected);
        }
    }

    /// Writes `NAME`, and `NAME_details` with its rate.
    fn put_counter(&mut self, (name, details): (&str, &str), counter: Counter) {
        self.put(name, counter.total);
        self.put(details, Rate(counter.rate));
    }

    /// Ends the object.
    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    fn write(&mut self, name: &str, value: &impl Serialize) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        serde_json::to_writer(&mut *self.out, value).expect("a vector takes everything");
    }
}

/// `message_stats` of a queue, a channel or the whole server.
pub(super) struct Stats<'a>(pub(super) &'a MessageStats);

impl Serialize for Stats<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stats = self.0;
        let delivered = [
            stats.deliver,
            stats.deliver_no_ack,
            stats.get,
            stats.get_no_ack,
        ];
        let deliver_get = Counter {
            total: delivered.iter().map(|counter| counter.total).sum(),
            rate: delivered.iter().map(|counter| counter.rate).sum(),
        };
        counters(
            serializer,
            &[
                ("publish", "publish_details", stats.publish),
                ("confirm", "confirm_details", stats.confirm),
                (
                    "return_unroutable",
                    "return_unroutable_details",
                    stats.return_unroutable,
                ),
                (
                    "drop_unroutable",
                    "drop_unroutable_details",
                    stats.drop_unroutable,
                ),
                ("deliver", "deliver_details", stats.deliver),
                (
                    "deliver_no_ack",
                    "deliver_no_ack_details",
                    stats.deliver_no_ack,
                ),
                ("deliver_get", "deliver_get_details", deliver_get),
                ("get", "get_details", stats.get),
                ("get_no_ack", "get_no_ack_details", stats.get_no_ack),
                ("get_empty", "get_empty_details", stats.get_empty),
                ("redeliver", "redeliver_details", stats.redeliver),
                ("ack", "ack_details", stats.ack),
            ],
        )
    }
}

/// `churn_rates` of the overview.
pub(super) struct ChurnRates<'a>(pub(super) &'a Churn);

impl Serialize for ChurnRates<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let churn = self.0;
        counters(
            serializer,
            &[
                (
                    "connection_created",
                    "connection_created_details",
                    churn.connection_created,
                ),
                (
                    "connection_closed",
                    "connection_closed_details",
                    churn.connection_closed,
                ),
                (
                    "channel_created",
                    "channel_created_details",
                    churn.channel_created,
                ),
                (
                    "channel_closed",
                    "channel_closed_details",
                    churn.channel_closed,
                ),
                (
                    "queue_declared",
                    "queue_declared_details",
                    churn.queue_declared,
                ),
                (
                    "queue_created",
                    "queue_created_details",
                    churn.queue_created,
                ),
                (
                    "queue_deleted",
                    "queue_deleted_details",
                    churn.queue_deleted,
                ),
            ],
        )
    }
}

fn counters<S: Serializer>(
    serializer: S,
    fields: &[(&str, &str, Counter)],
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(2 * fields.len()))?;
    for (name, details, counter) in fields {
        map.serialize_entry(name, &counter.total)?;
        map.serialize_entry(details, &Rate(counter.rate))?;
    }
    map.end()
}

/// A connection as other objects mention it.
struct ConnectionDetails<'a>(ConnectionName<'a>);

impl Serialize for ConnectionDetails<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("name", &Text(self.0.name))?;
        map.serialize_entry("peer_host", &Shown(self.0.peer.ip().to_canonical()))?;
        map.serialize_entry("peer_port", &self.0.peer.port())?;
        map.end()
    }
}

/// One row of any table.
///
/// * `node`: name of this node, part of most objects.
pub(super) fn row(to: &mut Writer<'_>, row: &Row<'_>, node: &str, fields: QueueFields) {
    match row {
        Row::Vhost(row) => vhost(to, row, node),
        Row::Queue(row) => queue(to, row, node, fields),
        Row::Exchange(row) => exchange(to, row),
        Row::Binding(row) => binding(to, row),
        Row::Connection(row) => connection(to, row, node),
        Row::Channel(row) => channel(to, row, node),
        Row::Consumer(row) => consumer(to, row, node),
    }
}

/// `messages`, `messages_ready` and `messages_unacknowledged` with their rates.
fn put_message_counts(to: &mut Writer<'_>, ready: u64, unacknowledged: u64) {
    for (names, count) in [
        (("messages", "messages_details"), ready + unacknowledged),
        (("messages_ready", "messages_ready_details"), ready),
        (
            ("messages_unacknowledged", "messages_unacknowledged_details"),
            unacknowledged,
        ),
    ] {
        to.put_counter(names, count.into());
    }
}

/// `queue_totals` of the overview.
pub(super) fn queue_totals(ready: u64, unacknowledged: u64) -> Value {
    let rate = json!({ "rate": 0.0 });
    json!({
        "messages": ready + unacknowledged,
        "messages_details": rate,
        "messages_ready": ready,
        "messages_ready_details": rate,
        "messages_unacknowledged": unacknowledged,
        "messages_unacknowledged_details": rate,
    })
}

fn vhost(to: &mut Writer<'_>, row: &VhostRow<'_>, node: &str) {
    let kind = row.default_queue_type.unwrap_or("classic");
    to.put("name", row.name);
    to.put("description", row.description);
    to.put("tags", row.tags);
    to.put("default_queue_type", kind);
    to.put(
        "metadata",
        json!({ "description": row.description, "tags": row.tags, "default_queue_type": kind }),
    );
    to.put("tracing", false);
    to.put("cluster_state", json!({ node: "running" }));
    to.put("protected_from_deletion", false);
    put_message_counts(to, row.messages_ready, row.messages_unacknowledged);
}

/// A queue.
pub(super) fn queue(to: &mut Writer<'_>, row: &QueueRow<'_>, node: &str, fields: QueueFields) {
    to.put("name", Text(row.name));
    to.put("vhost", row.vhost);
    to.put("type", row.kind);
    to.put("durable", row.durable);
    to.put("auto_delete", row.auto_delete);
    to.put("exclusive", row.exclusive);
    to.put("arguments", Table(row.arguments));
    to.put("node", node);
    to.put("state", row.state);
    to.put("policy", ());
    to.put("operator_policy", ());
    to.put("effective_policy_definition", Table(FieldTable::EMPTY));
    if let Some(owner) = row.owner {
        to.put("owner_pid_details", ConnectionDetails(owner));
    }
    if !fields.no_stats {
        put_message_counts(to, row.messages_ready, row.messages_unacknowledged);
        queue_stats(to, row);
    } else if fields.totals {
        to.put("messages", messages(row));
        to.put("messages_ready", row.messages_ready);
        to.put("messages_unacknowledged", row.messages_unacknowledged);
    }
}

fn queue_stats(to: &mut Writer<'_>, row: &QueueRow<'_>) {
    let octets = row.octets_ready + row.octets_unacknowledged;
    // Consumers that leave messages lying are at their limit; others could take more.
    let can_take_more = row.consumers > 0 && row.messages_ready == 0;
    let capacity = if can_take_more { 1.0 } else { 0.0 };
    to.put("consumers", row.consumers);
    to.put("consumer_capacity", capacity);
    to.put("consumer_utilisation", capacity);
    to.put(
        "exclusive_consumer_tag",
        row.exclusive_consumer_tag.map(Text),
    );
    to.put(
        "single_active_consumer_tag",
        row.single_active_consumer_tag.map(Text),
    );
    to.put("head_message_timestamp", ());
    to.put("memory", row.memory_octets);
    to.put("message_bytes", octets);
    to.put("message_bytes_ready", row.octets_ready);
    to.put("message_bytes_unacknowledged", row.octets_unacknowledged);
    to.put(
        "message_bytes_persistent",
        if row.messages_persistent == 0 {
            0
        } else {
            octets
        },
    );
    to.put("message_bytes_ram", octets);
    to.put("message_bytes_paged_out", 0);
    to.put("messages_persistent", row.messages_persistent);
    to.put("messages_ram", messages(row));
    to.put("messages_ready_ram", row.messages_ready);
    to.put("messages_unacknowledged_ram", row.messages_unacknowledged);
    to.put("messages_paged_out", 0);
    to.put("recoverable_slaves", ());
    to.put("reductions", 0);
    put_idle_since(to, row.idle_since_ms);
    put_stats(to, &row.stats);
}

fn messages(row: &QueueRow<'_>) -> u64 {
    row.messages_ready + row.messages_unacknowledged
}

fn put_stats(to: &mut Writer<'_>, stats: &MessageStats) {
    if !stats.is_empty() {
        to.put("message_stats", Stats(stats));
    }
}

fn put_idle_since(to: &mut Writer<'_>, wall_ms: Option<u64>) {
    if let Some(wall_ms) = wall_ms {
        to.put("idle_since", date(wall_ms));
    }
}

/// An exchange.
pub(super) fn exchange(to: &mut Writer<'_>, row: &ExchangeRow<'_>) {
    let is_system = row.name.is_empty() || row.name.starts_with(b"amq.");
    to.put("name", Text(row.name));
    to.put("vhost", row.vhost);
    to.put("type", row.kind);
    to.put("durable", row.durable);
    to.put("auto_delete", row.auto_delete);
    to.put("internal", row.internal);
    to.put("arguments", Table(row.arguments));
    to.put("policy", ());
    to.put(
        "user_who_performed_action",
        if is_system { "rmq-internal" } else { "" },
    );
    if row.publish_in.total > 0 || row.publish_out.total > 0 {
        let (published, routed) = (row.publish_in, row.publish_out);
        let stats = json!({
            "publish_in": published.total,
            "publish_in_details": { "rate": published.rate },
            "publish_out": routed.total,
            "publish_out_details": { "rate": routed.rate },
        });
        to.put("message_stats", stats);
    }
}

fn binding(to: &mut Writer<'_>, row: &BindingRow<'_>) {
    let kind = match row.destination_kind {
        DestinationKind::Queue => "queue",
        DestinationKind::Exchange => "exchange",
    };
    to.put("source", Text(row.source));
    to.put("vhost", row.vhost);
    to.put("destination", Text(row.destination));
    to.put("destination_type", kind);
    to.put("routing_key", Text(row.routing_key));
    to.put("arguments", Table(row.arguments));
    to.put(
        "properties_key",
        properties_key(row.routing_key, row.arguments),
    );
}

/// What tells the bindings between two ends apart in a path: the quoted routing key, `~` for an
/// empty one, and with arguments `~` and a hash of them.
pub fn properties_key(routing_key: &[u8], arguments: FieldTable<'_>) -> String {
    let mut key = String::new();
    for &octet in routing_key {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => key.push(octet as char),
            _ => write!(key, "%{octet:02X}").expect("a string takes everything"),
        }
    }
    if !arguments.is_empty() {
        let hash = crc32fast::hash(arguments.as_bytes()).to_be_bytes();
        let hash = base64::encode(&hash).replace('+', "-").replace('/', "_");
        key.push('~');
        key.push_str(hash.trim_end_matches('='));
    } else if key.is_empty() {
        key.push('~');
    }
    key
}

/// Whether `wanted`, from a path, names the binding with this key and these arguments. Clients put
/// the properties key there as it is, or escape it once more.
pub fn is_properties_key(wanted: &str, routing_key: &[u8], arguments: FieldTable<'_>) -> bool {
    let key = properties_key(routing_key, arguments);
    key == wanted || percent_decode(&key, false).as_deref() == Some(wanted)
}

fn connection(to: &mut Writer<'_>, row: &ConnectionRow<'_>, node: &str) {
    let properties = row.client_properties;
    let given_name = properties
        .get("connection_name")
        .and_then(FieldValue::as_long_string);
    to.put("name", Text(row.name.name));
    to.put("node", node);
    to.put("type", "network");
    to.put("protocol", "AMQP 0-9-1");
    to.put("state", row.state);
    to.put("user", row.user);
    to.put("user_who_performed_action", row.user);
    to.put("vhost", row.vhost);
    to.put("auth_mechanism", row.auth_mechanism);
    to.put("host", Shown(row.local.ip().to_canonical()));
    to.put("port", row.local.port());
    to.put("peer_host", Shown(row.name.peer.ip().to_canonical()));
    to.put("peer_port", row.name.peer.port());
    to.put("channels", row.channels);
    to.put("channel_max", row.channel_max);
    to.put("frame_max", row.frame_max);
    to.put("timeout", row.heartbeat_s);
    to.put("connected_at", row.connected_at_ms);
    to.put("client_properties", Table(properties));
    if let Some(name) = given_name {
        to.put("user_provided_name", Text(name));
    }
    to.put_counter(("recv_oct", "recv_oct_details"), row.received_octets);
    to.put_counter(("send_oct", "send_oct_details"), row.sent_octets);
    to.put("recv_cnt", row.received_count);
    to.put("send_cnt", row.sent_count);
    to.put("send_pend", row.pending_octets);
    to.put("reductions", 0);
    to.put("ssl", false);
    for name in ["ssl_cipher", "ssl_hash", "ssl_key_exchange", "ssl_protocol"] {
        to.put(name, ());
    }
    for name in [
        "peer_cert_issuer",
        "peer_cert_subject",
        "peer_cert_validity",
    ] {
        to.put(name, ());
    }
}

/// How a channel is named to people.
pub(super) fn channel_name(connection: ConnectionName<'_>, number: u16) -> String {
    format!("{} ({number})", String::from_utf8_lossy(connection.name))
}

fn channel(to: &mut Writer<'_>, row: &ChannelRow<'_>, node: &str) {
    to.put("name", channel_name(row.connection, row.number));
    to.put("number", row.number);
    to.put("node", node);
    to.put("state", row.state);
    to.put("user", row.user);
    to.put("user_who_performed_action", row.user);
    to.put("vhost", row.vhost);
    to.put("connection_details", ConnectionDetails(row.connection));
    to.put("confirm", row.confirm);
    to.put("transactional", row.transactional);
    to.put("consumer_count", row.consumer_count);
    to.put("prefetch_count", row.prefetch_count);
    to.put("global_prefetch_count", row.global_prefetch_count);
    to.put("messages_unacknowledged", row.messages_unacknowledged);
    to.put("messages_unconfirmed", row.messages_unconfirmed);
    to.put("messages_uncommitted", row.messages_uncommitted);
    to.put("acks_uncommitted", row.acks_uncommitted);
    to.put("pending_raft_commands", 0);
    to.put("reductions", 0);
    put_idle_since(to, row.idle_since_ms);
    put_stats(to, &row.stats);
}

/// The channel of a consumer.
struct ChannelDetails<'a>(&'a ConsumerRow<'a>, &'a str);

impl Serialize for ChannelDetails<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ChannelDetails(row, node) = self;
        let mut map = serializer.serialize_map(Some(7))?;
        map.serialize_entry("name", &channel_name(row.connection, row.channel))?;
        map.serialize_entry("number", &row.channel)?;
        map.serialize_entry("node", node)?;
        map.serialize_entry("user", row.user)?;
        map.serialize_entry("connection_name", &Text(row.connection.name))?;
        map.serialize_entry("peer_host", &Shown(row.connection.peer.ip().to_canonical()))?;
        map.serialize_entry("peer_port", &row.connection.peer.port())?;
        map.end()
    }
}

/// The queue of a consumer.
struct QueueDetails<'a>(&'a ConsumerRow<'a>);

impl Serialize for QueueDetails<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", &Text(self.0.queue))?;
        map.serialize_entry("vhost", self.0.vhost)?;
        map.end()
    }
}

/// A consumer.
pub(super) fn consumer(to: &mut Writer<'_>, row: &ConsumerRow<'_>, node: &str) {
    to.put("consumer_tag", Text(row.consumer_tag));
    to.put("queue", QueueDetails(row));
    to.put("channel_details", ChannelDetails(row, node));
    to.put("ack_required", row.ack_required);
    to.put("active", row.active);
    to.put("activity_status", if row.active { "up" } else { "waiting" });
    to.put("exclusive", row.exclusive);
    to.put("prefetch_count", row.prefetch_count);
    to.put("arguments", Table(row.arguments));
}

/// A user.
pub(super) fn user(to: &mut Writer<'_>, user: &User) {
    to.put("name", user.name());
    to.put("password_hash", user.password().text());
    to.put("hashing_algorithm", user.password().algorithm().name());
    to.put("tags", user.tags());
    to.put("limits", Table(FieldTable::EMPTY));
}

/// What a user may do in a virtual host.
pub(super) fn permission(to: &mut Writer<'_>, user: &User, vhost: &str, permission: &Permission) {
    let texts = permission.texts();
    to.put("user", user.name());
    to.put("vhost", vhost);
    to.put("configure", texts.configure);
    to.put("write", texts.write);
    to.put("read", texts.read);
}

/// What `put` writes, as a value: for objects that are put together from several parts.
pub(super) fn object(columns: &Columns, put: impl FnOnce(&mut Writer<'_>)) -> Object {
    let mut text = Vec::new();
    let mut writer = Writer::new(&mut text, columns);
    put(&mut writer);
    writer.end();
    serde_json::from_slice(&text).expect("what was just written is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ShortString;
    use crate::wire::field_table::TableBuilder;

    #[test]
    fn keys_of_bindings_can_stand_in_a_path() {
        let arguments = TableBuilder::new().with(ShortString::literal("x"), FieldValue::Long(1));
        for (routing_key, arguments, expected) in [
            ("orders", FieldTable::EMPTY, "orders"),
            ("", FieldTable::EMPTY, "~"),
            ("#", FieldTable::EMPTY, "%23"),
            ("a.*", FieldTable::EMPTY, "a.%2A"),
            ("a/b c~", FieldTable::EMPTY, "a%2Fb%20c%7E"),
        ] {
            assert_eq!(properties_key(routing_key.as_bytes(), arguments), expected);
        }
        let key = properties_key(b"a", arguments.as_table());
        assert!(key.starts_with("a~") && key.len() == 8, "{key}");
        assert_ne!(key, properties_key(b"a", FieldTable::EMPTY));
        assert!(properties_key(b"", arguments.as_table()).starts_with('~'));
    }

    #[test]
    fn counters_have_their_rates_beside_them() {
        let stats = MessageStats {
            deliver: Counter {
                total: 2,
                rate: 1.5,
            },
            get: 3.into(),
            ..MessageStats::default()
        };
        let object = serde_json::to_value(Stats(&stats)).expect("JSON");
        assert_eq!(object["deliver_get"], 5);
        assert_eq!(object["deliver_get_details"], json!({ "rate": 1.5 }));
        assert_eq!(object["publish"], 0);
        assert!(MessageStats::default().is_empty() && !stats.is_empty());
    }
}
