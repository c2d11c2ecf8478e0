//! The health checks: whether the server is well, in the words that RabbitMQ's monitors look for.

use serde_json::{Value, json};

use super::json::Object;
use super::read::Answer;
use super::reply::Reply;
use super::route::Call;

/// `{"status":"ok"}`, or `failed` with more.
#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which may fail")]
fn health(is_well: bool, reason: &str, more: Value) -> Answer {
    let mut body = Object::new();
    body.insert(
        "status".to_owned(),
        if is_well { "ok" } else { "failed" }.into(),
    );
    if !reason.is_empty() {
        body.insert("reason".to_owned(), reason.into());
    }
    if let Value::Object(mut more) = more {
        body.append(&mut more);
    }
    Ok(Reply::health(is_well, body.into()).into())
}

pub(super) fn is_well(_: &mut Call<'_>) -> Answer {
    health(true, "", Value::Null)
}

pub(super) fn single_node(_: &mut Call<'_>) -> Answer {
    health(true, "single node cluster", Value::Null)
}

pub(super) fn is_serving(call: &mut Call<'_>) -> Answer {
    let is_serving = call.admin.overview(call.now).is_serving;
    let reason = if is_serving {
        ""
    } else {
        "the server is stopping"
    };
    health(is_serving, reason, Value::Null)
}

pub(super) fn below_connection_limit(call: &mut Call<'_>) -> Answer {
    let overview = call.admin.overview(call.now);
    let below = overview.connections < overview.connections_max;
    let reason = if below {
        ""
    } else {
        "node connection limit is reached"
    };
    health(
        below,
        reason,
        json!({ "limit": overview.connections_max, "connections": overview.connections }),
    )
}

pub(super) fn alarms(call: &mut Call<'_>) -> Answer {
    let overview = call.admin.overview(call.now);
    let raised = [
        ("memory", overview.memory_alarm),
        ("disk", overview.disk_alarm),
    ];
    let alarms: Vec<Value> = raised
        .iter()
        .filter(|(_, is_on)| *is_on)
        .map(|(resource, _)| json!({ "node": overview.node, "resource": resource }))
        .collect();
    if alarms.is_empty() {
        return health(true, "", Value::Null);
    }
    health(
        false,
        "There are alarms in effect in the cluster",
        json!({ "alarms": alarms }),
    )
}

pub(super) fn port_listener(call: &mut Call<'_>) -> Answer {
    let [port] = call.parts();
    let Ok(port) = port.parse::<u16>() else {
        return Err(Reply::bad_request("Invalid port"));
    };
    let mut ports = Vec::new();
    call.admin
        .listeners(&mut |row| ports.push(row.address.port()));
    if ports.contains(&port) {
        return health(true, "", json!({ "port": port }));
    }
    health(
        false,
        "No active listener",
        json!({ "missing": port, "ports": ports }),
    )
}

pub(super) fn protocol_listener(call: &mut Call<'_>) -> Answer {
    let [wanted] = call.parts();
    let asked = match wanted.to_ascii_lowercase().as_str() {
        "amqp" | "amqp091" | "amqp0.9.1" | "amqp-0-9-1" => "amqp".to_owned(),
        "http" | "management" => "http".to_owned(),
        other => other.to_owned(),
    };
    let mut protocols = Vec::new();
    call.admin
        .listeners(&mut |row| protocols.push(row.protocol));
    if protocols.iter().any(|protocol| *protocol == asked) {
        return health(true, "", json!({ "protocol": wanted }));
    }
    health(
        false,
        "No active listener",
        json!({ "missing": wanted, "protocols": protocols }),
    )
}

pub(super) fn aliveness(call: &mut Call<'_>) -> Answer {
    let [vhost] = call.parts();
    call.vhost(vhost)?;
    health(true, "", Value::Null)
}
