//! Rows as the JSON objects that RabbitMQ's API shows, and tables of AMQP as JSON and back.

use super::request::percent_decode;
use super::view::{
    BindingRow, ChannelRow, Churn, ConnectionName, ConnectionRow, ConsumerRow, Counter,
    DestinationKind, ExchangeRow, MessageStats, QueueRow, Row, VhostRow,
};
use crate::auth::{Permission, User, base64};
use crate::wire::ShortString;
use crate::wire::field_table::{ArrayBuilder, FieldArray, FieldTable, FieldValue, TableBuilder};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// A JSON object. Its keys are sorted, as RabbitMQ's mostly are.
pub(super) type Object = Map<String, Value>;

/// Which fields of a queue are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueFields {
    /// Leave out everything that is measured (`disable_stats`).
    pub(super) no_stats: bool,
    /// Show the numbers of messages all the same (`enable_queue_totals`).
    pub(super) totals: bool,
}

/// One row of any table.
///
/// * `node`: name of this node, part of most objects.
pub(super) fn row(row: &Row<'_>, node: &str, fields: QueueFields) -> Object {
    match row {
        Row::Vhost(row) => vhost(row, node),
        Row::Queue(row) => queue(row, node, fields),
        Row::Exchange(row) => exchange(row),
        Row::Binding(row) => binding(row),
        Row::Connection(row) => connection(row, node),
        Row::Channel(row) => channel(row, node),
        Row::Consumer(row) => consumer(row, node),
    }
}

/// Octets that are mostly UTF-8, as a string.
pub(super) fn text(octets: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(octets).into_owned())
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn optional_text(octets: Option<&[u8]>) -> Value {
    octets.map_or(Value::Null, text)
}

/// Puts `NAME` and `NAME_details` with its rate.
fn put_counter(object: &mut Object, name: &str, counter: Counter) {
    object.insert(name.to_owned(), counter.total.into());
    object.insert(format!("{name}_details"), json!({ "rate": counter.rate }));
}

/// `message_stats` of a queue, a channel or the whole server.
pub(super) fn message_stats(stats: &MessageStats) -> Object {
    let sum = |counters: [Counter; 4]| Counter {
        total: counters.iter().map(|counter| counter.total).sum(),
        rate: counters.iter().map(|counter| counter.rate).sum(),
    };
    let deliver_get = sum([
        stats.deliver,
        stats.deliver_no_ack,
        stats.get,
        stats.get_no_ack,
    ]);
    let mut object = Object::new();
    for (name, counter) in [
        ("publish", stats.publish),
        ("confirm", stats.confirm),
        ("return_unroutable", stats.return_unroutable),
        ("drop_unroutable", stats.drop_unroutable),
        ("deliver", stats.deliver),
        ("deliver_no_ack", stats.deliver_no_ack),
        ("deliver_get", deliver_get),
        ("get", stats.get),
        ("get_no_ack", stats.get_no_ack),
        ("get_empty", stats.get_empty),
        ("redeliver", stats.redeliver),
        ("ack", stats.ack),
    ] {
        put_counter(&mut object, name, counter);
    }
    object
}

/// `churn_rates` of the overview.
pub(super) fn churn(churn: &Churn) -> Object {
    let mut object = Object::new();
    for (name, counter) in [
        ("connection_created", churn.connection_created),
        ("connection_closed", churn.connection_closed),
        ("channel_created", churn.channel_created),
        ("channel_closed", churn.channel_closed),
        ("queue_declared", churn.queue_declared),
        ("queue_created", churn.queue_created),
        ("queue_deleted", churn.queue_deleted),
    ] {
        put_counter(&mut object, name, counter);
    }
    object
}

/// `messages`, `messages_ready` and `messages_unacknowledged` with their rates.
pub(super) fn put_message_counts(object: &mut Object, ready: u64, unacknowledged: u64) {
    put_counter(object, "messages", (ready + unacknowledged).into());
    put_counter(object, "messages_ready", ready.into());
    put_counter(object, "messages_unacknowledged", unacknowledged.into());
}

fn vhost(row: &VhostRow<'_>, node: &str) -> Object {
    let kind = row.default_queue_type.unwrap_or("classic");
    let mut object = object(json!({
        "name": row.name,
        "description": row.description,
        "tags": row.tags,
        "default_queue_type": kind,
        "metadata": {
            "description": row.description,
            "tags": row.tags,
            "default_queue_type": kind,
        },
        "tracing": false,
        "cluster_state": { node: "running" },
        "protected_from_deletion": false,
    }));
    put_message_counts(&mut object, row.messages_ready, row.messages_unacknowledged);
    object
}

/// A queue.
pub(super) fn queue(row: &QueueRow<'_>, node: &str, fields: QueueFields) -> Object {
    let mut object = object(json!({
        "name": text(row.name),
        "vhost": row.vhost,
        "type": row.kind,
        "durable": row.durable,
        "auto_delete": row.auto_delete,
        "exclusive": row.exclusive,
        "arguments": table(row.arguments),
        "node": node,
        "state": row.state,
        "policy": null,
        "operator_policy": null,
        "effective_policy_definition": {},
    }));
    if let Some(owner) = row.owner {
        object.insert("owner_pid_details".to_owned(), connection_details(owner));
    }
    if fields.no_stats {
        if fields.totals {
            object.insert("messages".to_owned(), messages(row).into());
            object.insert("messages_ready".to_owned(), row.messages_ready.into());
            object.insert(
                "messages_unacknowledged".to_owned(),
                row.messages_unacknowledged.into(),
            );
        }
        return object;
    }
    put_message_counts(&mut object, row.messages_ready, row.messages_unacknowledged);
    let octets = row.octets_ready + row.octets_unacknowledged;
    let is_idle_of_credit = row.consumers == 0 || row.messages_ready > 0;
    let capacity = if is_idle_of_credit { 0.0 } else { 1.0 };
    object.append(&mut self::object(json!({
        "consumers": row.consumers,
        "consumer_capacity": capacity,
        "consumer_utilisation": capacity,
        "exclusive_consumer_tag": optional_text(row.exclusive_consumer_tag),
        "single_active_consumer_tag": optional_text(row.single_active_consumer_tag),
        "head_message_timestamp": null,
        "memory": row.memory_octets,
        "message_bytes": octets,
        "message_bytes_ready": row.octets_ready,
        "message_bytes_unacknowledged": row.octets_unacknowledged,
        "message_bytes_persistent": if row.messages_persistent == 0 { 0 } else { octets },
        "message_bytes_ram": octets,
        "message_bytes_paged_out": 0,
        "messages_persistent": row.messages_persistent,
        "messages_ram": messages(row),
        "messages_ready_ram": row.messages_ready,
        "messages_unacknowledged_ram": row.messages_unacknowledged,
        "messages_paged_out": 0,
        "recoverable_slaves": null,
        "reductions": 0,
    })));
    put_idle_since(&mut object, row.idle_since_ms);
    put_stats(&mut object, &row.stats);
    object
}

fn messages(row: &QueueRow<'_>) -> u64 {
    row.messages_ready + row.messages_unacknowledged
}

fn put_stats(object: &mut Object, stats: &MessageStats) {
    if !stats.is_empty() {
        object.insert("message_stats".to_owned(), message_stats(stats).into());
    }
}

fn put_idle_since(object: &mut Object, wall_ms: Option<u64>) {
    if let Some(wall_ms) = wall_ms {
        object.insert("idle_since".to_owned(), date(wall_ms).into());
    }
}

/// An exchange.
pub(super) fn exchange(row: &ExchangeRow<'_>) -> Object {
    let is_system = row.name.is_empty() || row.name.starts_with(b"amq.");
    let mut object = object(json!({
        "name": text(row.name),
        "vhost": row.vhost,
        "type": row.kind,
        "durable": row.durable,
        "auto_delete": row.auto_delete,
        "internal": row.internal,
        "arguments": table(row.arguments),
        "policy": null,
        "user_who_performed_action": if is_system { "rmq-internal" } else { "" },
    }));
    if row.publish_in.total > 0 || row.publish_out.total > 0 {
        let mut stats = Object::new();
        put_counter(&mut stats, "publish_in", row.publish_in);
        put_counter(&mut stats, "publish_out", row.publish_out);
        object.insert("message_stats".to_owned(), stats.into());
    }
    object
}

fn binding(row: &BindingRow<'_>) -> Object {
    object(json!({
        "source": text(row.source),
        "vhost": row.vhost,
        "destination": text(row.destination),
        "destination_type": match row.destination_kind {
            DestinationKind::Queue => "queue",
            DestinationKind::Exchange => "exchange",
        },
        "routing_key": text(row.routing_key),
        "arguments": table(row.arguments),
        "properties_key": properties_key(row.routing_key, row.arguments),
    }))
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

fn connection_details(name: ConnectionName<'_>) -> Value {
    json!({
        "name": text(name.name),
        "peer_host": name.peer.ip().to_canonical().to_string(),
        "peer_port": name.peer.port(),
    })
}

fn connection(row: &ConnectionRow<'_>, node: &str) -> Object {
    let given_name = row
        .client_properties
        .get("connection_name")
        .and_then(FieldValue::as_long_string);
    let mut object = object(json!({
        "name": text(row.name.name),
        "node": node,
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "state": row.state,
        "user": row.user,
        "user_who_performed_action": row.user,
        "vhost": row.vhost,
        "auth_mechanism": row.auth_mechanism,
        "host": row.local.ip().to_canonical().to_string(),
        "port": row.local.port(),
        "peer_host": row.name.peer.ip().to_canonical().to_string(),
        "peer_port": row.name.peer.port(),
        "channels": row.channels,
        "channel_max": row.channel_max,
        "frame_max": row.frame_max,
        "timeout": row.heartbeat_s,
        "connected_at": row.connected_at_ms,
        "client_properties": table(row.client_properties),
        "recv_cnt": row.received_count,
        "send_cnt": row.sent_count,
        "send_pend": row.pending_octets,
        "reductions": 0,
        "ssl": false,
        "ssl_cipher": null,
        "ssl_hash": null,
        "ssl_key_exchange": null,
        "ssl_protocol": null,
        "peer_cert_issuer": null,
        "peer_cert_subject": null,
        "peer_cert_validity": null,
    }));
    put_counter(&mut object, "recv_oct", row.received_octets);
    put_counter(&mut object, "send_oct", row.sent_octets);
    if let Some(name) = given_name {
        object.insert("user_provided_name".to_owned(), text(name));
    }
    object
}

pub(super) fn channel_name(connection: ConnectionName<'_>, number: u16) -> String {
    format!("{} ({number})", String::from_utf8_lossy(connection.name))
}

fn channel(row: &ChannelRow<'_>, node: &str) -> Object {
    let mut object = object(json!({
        "name": channel_name(row.connection, row.number),
        "number": row.number,
        "node": node,
        "state": row.state,
        "user": row.user,
        "user_who_performed_action": row.user,
        "vhost": row.vhost,
        "connection_details": connection_details(row.connection),
        "confirm": row.confirm,
        "transactional": row.transactional,
        "consumer_count": row.consumer_count,
        "prefetch_count": row.prefetch_count,
        "global_prefetch_count": row.global_prefetch_count,
        "messages_unacknowledged": row.messages_unacknowledged,
        "messages_unconfirmed": row.messages_unconfirmed,
        "messages_uncommitted": row.messages_uncommitted,
        "acks_uncommitted": row.acks_uncommitted,
        "pending_raft_commands": 0,
        "reductions": 0,
    }));
    put_idle_since(&mut object, row.idle_since_ms);
    put_stats(&mut object, &row.stats);
    object
}

/// A consumer.
pub(super) fn consumer(row: &ConsumerRow<'_>, node: &str) -> Object {
    object(json!({
        "consumer_tag": text(row.consumer_tag),
        "queue": { "name": text(row.queue), "vhost": row.vhost },
        "channel_details": {
            "name": channel_name(row.connection, row.channel),
            "number": row.channel,
            "node": node,
            "user": row.user,
            "connection_name": text(row.connection.name),
            "peer_host": row.connection.peer.ip().to_canonical().to_string(),
            "peer_port": row.connection.peer.port(),
        },
        "ack_required": row.ack_required,
        "active": row.active,
        "activity_status": if row.active { "up" } else { "waiting" },
        "exclusive": row.exclusive,
        "prefetch_count": row.prefetch_count,
        "arguments": table(row.arguments),
    }))
}

/// A user.
pub(super) fn user(user: &User) -> Object {
    object(json!({
        "name": user.name(),
        "password_hash": user.password().text(),
        "hashing_algorithm": user.password().algorithm().name(),
        "tags": user.tags(),
        "limits": {},
    }))
}

/// What a user may do in a virtual host.
pub(super) fn permission(user: &User, vhost: &str, permission: &Permission) -> Object {
    let texts = permission.texts();
    object(json!({
        "user": user.name(),
        "vhost": vhost,
        "configure": texts.configure,
        "write": texts.write,
        "read": texts.read,
    }))
}

/// A table of AMQP as a JSON object. Where a key occurs twice, the last one is shown. The depth is
/// bounded, since tables are checked before they get here.
pub(super) fn table(table: FieldTable<'_>) -> Value {
    let fields = table.iter().map(|(key, field)| {
        (
            String::from_utf8_lossy(key.as_bytes()).into_owned(),
            value(field),
        )
    });
    Value::Object(fields.collect())
}

fn array(array: FieldArray<'_>) -> Value {
    Value::Array(array.iter().map(value).collect())
}

fn value(field: FieldValue<'_>) -> Value {
    match field {
        FieldValue::Bool(bool) => bool.into(),
        FieldValue::Byte(number) => number.into(),
        FieldValue::UnsignedByte(number) => number.into(),
        FieldValue::Short(number) => number.into(),
        FieldValue::UnsignedShort(number) => number.into(),
        FieldValue::SignedInt(number) => number.into(),
        FieldValue::UnsignedInt(number) => number.into(),
        FieldValue::Long(number) => number.into(),
        FieldValue::Timestamp(number) => number.into(),
        FieldValue::Float(number) => f64::from(number).into(),
        FieldValue::Double(number) => number.into(),
        FieldValue::Decimal { scale, value } => {
            (f64::from(value) / 10_f64.powi(i32::from(scale))).into()
        }
        FieldValue::LongString(octets) | FieldValue::Binary(octets) => text(octets),
        FieldValue::Table(inner) => table(inner),
        FieldValue::Array(inner) => array(inner),
        FieldValue::Void => Value::Null,
    }
}

/// A JSON object as a table of AMQP: whole numbers become `l`, others `d`, as in RabbitMQ.
///
/// # Errors
/// A key longer than 255 octets, or a whole number beyond 64 bits.
pub(super) fn to_table(object: &Object) -> Result<TableBuilder, String> {
    let mut builder = TableBuilder::new();
    for (key, value) in object {
        let short = ShortString::new(key.as_bytes()).ok_or_else(|| {
            format!(
                "key '{}...' is too long",
                key.chars().take(40).collect::<String>()
            )
        })?;
        with_field(value, &mut |field| builder.push(short, field))?;
    }
    Ok(builder)
}

/// Builds the field for a value and hands it over; nested ones live only as long as that.
fn with_field(value: &Value, push: &mut dyn FnMut(FieldValue<'_>)) -> Result<(), String> {
    match value {
        Value::Null => push(FieldValue::Void),
        Value::Bool(bool) => push(FieldValue::Bool(*bool)),
        Value::String(text) => push(FieldValue::LongString(text.as_bytes())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => push(FieldValue::Long(whole)),
            (None, Some(fraction)) if !number.is_u64() => push(FieldValue::Double(fraction)),
            _ => return Err(format!("number {number} is too great")),
        },
        Value::Array(values) => {
            let mut builder = ArrayBuilder::new();
            for value in values {
                with_field(value, &mut |field| builder.push(field))?;
            }
            push(FieldValue::Array(builder.as_array()));
        }
        Value::Object(object) => push(FieldValue::Table(to_table(object)?.as_table())),
    }
    Ok(())
}

/// Milliseconds since 1970 as `2026-11-22T13:24:50.888+00:00`.
pub(super) fn date(wall_ms: u64) -> String {
    let (days, ms) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    // Days are counted from 0000-03-01, so that the day that leap years add comes last; a cycle of
    // 400 years has 146,097 days.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let ms = ms % 1_000;
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (wall_ms, expected) in [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (951_782_400_000, "2000-02-29T00:00:00.000+00:00"),
            (951_868_800_000, "2000-03-01T00:00:00.000+00:00"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999+00:00"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001+00:00"),
            (1_795_353_890_888, "2026-11-22T13:24:50.888+00:00"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+00:00"),
        ] {
            assert_eq!(date(wall_ms), expected);
        }
    }

    #[test]
    fn tables_go_there_and_back() {
        let text = r#"{"a":1,"b":-2.5,"c":"x","d":[true,null,{"e":[]}],"f":9223372036854775807}"#;
        let parsed: Object = serde_json::from_str(text).expect("valid");
        let built = to_table(&parsed).expect("all of it fits");
        assert_eq!(table(built.as_table()).to_string(), text);
        let field = built.as_table().get("a").expect("it is there");
        assert_eq!(field, FieldValue::Long(1));
        for bad in [
            r#"{"a":18446744073709551615}"#,
            &format!(r#"{{"{}":1}}"#, "k".repeat(256)),
        ] {
            let parsed: Object = serde_json::from_str(bad).expect("valid");
            assert!(to_table(&parsed).is_err(), "{bad}");
        }
    }

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
        let object = message_stats(&stats);
        assert_eq!(object["deliver_get"], 5);
        assert_eq!(object["deliver_get_details"], json!({ "rate": 1.5 }));
        assert_eq!(object["publish"], 0);
        assert!(MessageStats::default().is_empty() && !stats.is_empty());
    }
}
