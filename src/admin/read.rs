//! What can be read: the handlers of `GET`.

use super::filter::{Filter, Source};
use super::json::{self, ChurnRates, Object, Stats};
use super::listing::{self, Listing};
use super::reply::Reply;
use super::route::{Action, Actor, Call, Need};
use super::view::{Cursor, Overview, Row, Scope, Table};
use crate::auth::User;
use serde_json::{Value, json};

/// Consumers of one queue that are shown with it at most.
const CONSUMER_DETAILS_MAX: usize = 500;
/// Slices of the consumers' table that are searched for them at most.
const CONSUMER_WALKS_MAX: usize = 16;

/// What a handler comes to.
pub(super) type Answer = Result<Action, Reply>;

impl<'a> Call<'a> {
    /// The open parts of the path as an array.
    pub(super) fn parts<const N: usize>(&self) -> [&'a str; N] {
        std::array::from_fn(|place| self.open.get(place).copied().unwrap_or_default())
    }

    /// The user who asks, if it is one who logged in.
    pub(super) fn user(&self) -> Option<&User> {
        match self.actor {
            Actor::User(id) => self.admin.users().get(id),
            Actor::Local | Actor::Nobody => None,
        }
    }

    fn has(&self, need: Need) -> bool {
        match self.actor {
            Actor::Local => true,
            Actor::Nobody => false,
            Actor::User(_) => self.user().is_some_and(|user| need.is_met_by(user).is_ok()),
        }
    }

    /// What the asking user may see: virtual hosts that it may open, unless it monitors.
    fn filter(&self) -> Filter {
        let viewer = match self.actor {
            Actor::User(id) if !self.has(Need::Monitoring) => Some(id),
            _ => None,
        };
        Filter {
            viewer,
            ..Filter::default()
        }
    }

    /// The same for connections and channels: its own, unless it monitors.
    fn own(&self) -> Filter {
        let filter = self.filter();
        let user = filter
            .viewer
            .and_then(|_| self.user())
            .map(|user| user.name().to_owned());
        Filter { user, ..filter }
    }

    /// Checks that a virtual host exists and that the user may see it.
    pub(super) fn vhost(&self, vhost: &str) -> Result<Filter, Reply> {
        if !self.admin.has_vhost(vhost) {
            return Err(Reply::not_found());
        }
        let filter = self.filter();
        if let Some(viewer) = filter.viewer
            && self.admin.users().access(viewer, vhost).is_none()
        {
            return Err(Reply::refused("User not authorised to access virtual host"));
        }
        Ok(Filter {
            vhost: Some(vhost.to_owned()),
            ..filter
        })
    }

    /// The filter for an optional virtual host in the path.
    fn optional_vhost(&self) -> Result<Filter, Reply> {
        self.open
            .first()
            .map_or_else(|| Ok(self.filter()), |vhost| self.vhost(vhost))
    }

    pub(super) fn node(&self) -> String {
        self.admin.overview(self.now).node.to_owned()
    }

    fn list(&self, source: Source, filter: Filter) -> Answer {
        Listing::new(source, filter, self.head).map(Action::from)
    }

    #[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which may fail")]
    fn single(&self, source: Source, filter: Filter) -> Answer {
        Ok(Listing::single(source, filter, self.head).into())
    }

    /// An array that is short by nature, with the columns that were asked for.
    fn array(&self, items: Vec<Value>) -> Answer {
        let columns = listing::columns(self.head);
        let items = items.into_iter().map(|item| match item {
            Value::Object(object) => Value::Object(listing::select(object, &columns)),
            other => other,
        });
        ok(items.collect::<Vec<Value>>())
    }

    fn object(&self, object: Object) -> Answer {
        ok(listing::select(object, &listing::columns(self.head)))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which may fail")]
fn ok(body: impl Into<Value>) -> Answer {
    Ok(Reply::json(200, body).into())
}

/// The exchange's name in a path: the default one has a name there.
pub(super) fn exchange_name(name: &str) -> &[u8] {
    match name {
        "amq.default" => b"",
        name => name.as_bytes(),
    }
}

pub(super) fn index(call: &mut Call<'_>) -> Answer {
    let overview = call.admin.overview(call.now);
    ok(json!({ "product_name": overview.product, "product_version": overview.version }))
}

const EXCHANGE_TYPES: [(&str, &str); 4] = [
    (
        "direct",
        "AMQP direct exchange, as per the AMQP specification",
    ),
    (
        "fanout",
        "AMQP fanout exchange, as per the AMQP specification",
    ),
    (
        "headers",
        "AMQP headers exchange, as per the AMQP specification",
    ),
    (
        "topic",
        "AMQP topic exchange, as per the AMQP specification",
    ),
];

fn exchange_types() -> Value {
    let types = EXCHANGE_TYPES.iter().map(
        |(name, description)| json!({ "name": name, "description": description, "enabled": true }),
    );
    types.collect()
}

fn listeners(call: &Call<'_>, node: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    call.admin.listeners(&mut |row| {
        rows.push(json!({
            "node": node,
            "protocol": row.protocol,
            "ip_address": row.address.ip().to_string(),
            "port": row.address.port(),
            "socket_opts": { "nodelay": true },
        }));
    });
    rows
}

pub(super) fn overview(call: &mut Call<'_>) -> Answer {
    let overview = call.admin.overview(call.now);
    let mut body = json!({
        "management_version": overview.version,
        "rates_mode": "basic",
        "sample_retention_policies": { "global": [], "basic": [], "detailed": [] },
        "exchange_types": exchange_types(),
        "product_version": overview.version,
        "product_name": overview.product,
        "rabbitmq_version": overview.version,
        "cluster_name": overview.cluster_name,
        "erlang_version": "",
        "erlang_full_version": "",
        "release_series_support_status": "supported",
        "disable_stats": false,
        "enable_queue_totals": false,
        "message_stats": if overview.stats.is_empty() {
            json!({})
        } else {
            json!(Stats(&overview.stats))
        },
        "churn_rates": ChurnRates(&overview.churn),
        "queue_totals": json::queue_totals(
            overview.messages_ready,
            overview.messages_unacknowledged,
        ),
        "object_totals": {
            "channels": overview.channels,
            "connections": overview.connections,
            "consumers": overview.consumers,
            "exchanges": overview.exchanges,
            "queues": overview.queues,
        },
        "statistics_db_event_queue": 0,
    });
    if call.has(Need::Monitoring) {
        body["node"] = overview.node.into();
        body["listeners"] = listeners(call, overview.node).into();
        body["contexts"] = json!([]);
    }
    match body {
        Value::Object(object) => call.object(object),
        other => ok(other),
    }
}

pub(super) fn whoami(call: &mut Call<'_>) -> Answer {
    match call.user() {
        Some(user) => ok(json!({ "name": user.name(), "tags": user.tags() })),
        None => ok(json!({ "name": "", "tags": ["administrator"] })),
    }
}

pub(super) fn cluster_name(call: &mut Call<'_>) -> Answer {
    ok(json!({ "name": call.admin.overview(call.now).cluster_name }))
}

pub(super) fn extensions(_: &mut Call<'_>) -> Answer {
    ok(json!([]))
}

fn node_object(overview: &Overview<'_>) -> Object {
    let mechanism = |name: &str, description: &str| {
        let enabled = overview.mechanisms.split(' ').any(|it| it == name);
        json!({ "name": name, "description": description, "enabled": enabled })
    };
    let value = json!({
        "name": overview.node,
        "type": "disc",
        "running": true,
        "being_drained": !overview.is_serving,
        "partitions": [],
        "os_pid": std::process::id().to_string(),
        "uptime": overview.uptime_ms,
        "processors": 1,
        "run_queue": 0,
        "rates_mode": "basic",
        "net_ticktime": 60,
        "mem_used": overview.memory_octets,
        "mem_limit": overview.memory_limit_octets,
        "mem_alarm": overview.memory_alarm,
        "disk_free": overview.disk_free_octets,
        "disk_free_limit": overview.disk_free_limit_octets,
        "disk_free_alarm": overview.disk_alarm,
        "fd_used": overview.descriptors,
        "fd_total": overview.descriptors_max,
        "sockets_used": overview.sockets,
        "sockets_total": overview.descriptors_max,
        "proc_used": 1,
        "proc_total": 1,
        "db_dir": overview.data_dir,
        "config_files": [],
        "log_files": ["<stdout>"],
        "enabled_plugins": [],
        "applications": [{
            "name": "leveret",
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "version": env!("CARGO_PKG_VERSION"),
        }],
        "auth_mechanisms": [
            mechanism("PLAIN", "SASL PLAIN authentication mechanism"),
            mechanism("AMQPLAIN", "QPid AMQPLAIN mechanism"),
            mechanism("ANONYMOUS", "SASL ANONYMOUS authentication mechanism"),
        ],
        "exchange_types": exchange_types(),
        "contexts": [],
        "cluster_links": [],
    });
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

pub(super) fn nodes(call: &mut Call<'_>) -> Answer {
    let node = node_object(&call.admin.overview(call.now));
    call.array(vec![node.into()])
}

pub(super) fn node(call: &mut Call<'_>) -> Answer {
    let overview = call.admin.overview(call.now);
    if call.parts() != [overview.node] {
        return Err(Reply::not_found());
    }
    let node = node_object(&overview);
    call.object(node)
}

pub(super) fn queues(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Queues), call.optional_vhost()?)
}

pub(super) fn queue(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let filter = call.vhost(vhost)?;
    let node = call.node();
    let fields = listing::queue_fields(call.head);
    let mut found = Object::new();
    let exists = call.admin.queue(vhost, name.as_bytes(), &mut |row| {
        found = json::object(&[], |to| json::queue(to, &row, &node, fields));
    });
    if !exists {
        return Err(Reply::not_found());
    }
    let mut consumers = Vec::new();
    let scope = Scope {
        vhost: filter.vhost.as_deref(),
        queue: Some(name.as_bytes()),
        ..Scope::default()
    };
    let has_consumers = found.get("consumers").and_then(Value::as_u64).unwrap_or(0) > 0;
    let mut next = has_consumers.then_some(Cursor::START);
    for _ in 0..CONSUMER_WALKS_MAX {
        let Some(from) = next else { break };
        let walk = CONSUMER_DETAILS_MAX;
        next = call
            .admin
            .rows(Table::Consumers, scope, from, walk, &mut |_, row| {
                if let Row::Consumer(row) = row
                    && row.vhost == vhost
                    && row.queue == name.as_bytes()
                    && consumers.len() < CONSUMER_DETAILS_MAX
                {
                    let consumer = json::object(&[], |to| json::consumer(to, &row, &node));
                    consumers.push(Value::Object(consumer));
                }
            });
    }
    found.insert("consumer_details".to_owned(), consumers.into());
    found.insert("deliveries".to_owned(), json!([]));
    found.insert("incoming".to_owned(), json!([]));
    call.object(found)
}

fn needs_queue(call: &Call<'_>, vhost: &str, name: &str) -> Result<Filter, Reply> {
    let filter = call.vhost(vhost)?;
    if call.admin.queue(vhost, name.as_bytes(), &mut |_| {}) {
        Ok(Filter {
            queue: Some(name.as_bytes().to_vec()),
            ..filter
        })
    } else {
        Err(Reply::not_found())
    }
}

pub(super) fn queue_bindings(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    call.list(
        Source::Table(Table::Bindings),
        needs_queue(call, vhost, name)?,
    )
}

pub(super) fn exchanges(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Exchanges), call.optional_vhost()?)
}

pub(super) fn exchange(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    call.vhost(vhost)?;
    let mut found = None;
    call.admin.exchange(vhost, exchange_name(name), &mut |row| {
        found = Some(json::object(&[], |to| json::exchange(to, &row)));
    });
    let Some(mut found) = found else {
        return Err(Reply::not_found());
    };
    found.insert("incoming".to_owned(), json!([]));
    found.insert("outgoing".to_owned(), json!([]));
    call.object(found)
}

pub(super) fn bindings(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Bindings), call.optional_vhost()?)
}

/// Bindings of an exchange, which has to exist.
fn needs_exchange(call: &Call<'_>) -> Result<(Filter, Vec<u8>), Reply> {
    let [vhost, name] = call.parts();
    let filter = call.vhost(vhost)?;
    let name = exchange_name(name);
    if call.admin.exchange(vhost, name, &mut |_| {}) {
        Ok((filter, name.to_vec()))
    } else {
        Err(Reply::not_found())
    }
}

pub(super) fn bindings_from(call: &mut Call<'_>) -> Answer {
    let (filter, name) = needs_exchange(call)?;
    call.list(
        Source::Table(Table::Bindings),
        Filter {
            source: Some(name),
            ..filter
        },
    )
}

pub(super) fn bindings_to(call: &mut Call<'_>) -> Answer {
    let (filter, name) = needs_exchange(call)?;
    call.list(
        Source::Table(Table::Bindings),
        Filter {
            destination: Some(name),
            ..filter
        },
    )
}

/// Bindings between the two ends that the path names.
fn between(call: &Call<'_>, to_queue: bool) -> Result<Filter, Reply> {
    let [vhost, source, destination, key] = call.parts();
    let filter = call.vhost(vhost)?;
    let source = Some(exchange_name(source).to_vec());
    // The key was decoded once with the path, and its own escapes are part of it.
    let properties_key = (call.open.len() == 4).then(|| key.to_owned());
    let (queue, exchange) = if to_queue {
        (Some(destination.as_bytes().to_vec()), None)
    } else {
        (None, Some(exchange_name(destination).to_vec()))
    };
    Ok(Filter {
        source,
        queue,
        destination: exchange,
        properties_key,
        ..filter
    })
}

pub(super) fn bindings_to_queue(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Bindings), between(call, true)?)
}

pub(super) fn bindings_to_exchange(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Bindings), between(call, false)?)
}

pub(super) fn binding_to_queue(call: &mut Call<'_>) -> Answer {
    call.single(Source::Table(Table::Bindings), between(call, true)?)
}

pub(super) fn binding_to_exchange(call: &mut Call<'_>) -> Answer {
    call.single(Source::Table(Table::Bindings), between(call, false)?)
}

pub(super) fn connections(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Connections), call.own())
}

pub(super) fn connection(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    call.single(
        Source::Table(Table::Connections),
        Filter {
            connection: Some(name.to_owned()),
            ..call.own()
        },
    )
}

pub(super) fn connection_channels(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    call.list(
        Source::Table(Table::Channels),
        Filter {
            connection: Some(name.to_owned()),
            ..call.own()
        },
    )
}

pub(super) fn channels(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Channels), call.own())
}

pub(super) fn channel(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    call.single(
        Source::Table(Table::Channels),
        Filter {
            channel: Some(name.to_owned()),
            ..call.own()
        },
    )
}

pub(super) fn vhost_connections(call: &mut Call<'_>) -> Answer {
    let filter = Filter {
        user: call.own().user,
        ..call.optional_vhost()?
    };
    call.list(Source::Table(Table::Connections), filter)
}

pub(super) fn vhost_channels(call: &mut Call<'_>) -> Answer {
    let filter = Filter {
        user: call.own().user,
        ..call.optional_vhost()?
    };
    call.list(Source::Table(Table::Channels), filter)
}

pub(super) fn consumers(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Consumers), call.optional_vhost()?)
}

pub(super) fn users(call: &mut Call<'_>) -> Answer {
    call.list(Source::Users, Filter::default())
}

fn named<'a>(call: &'a Call<'_>, name: &str) -> Result<&'a User, Reply> {
    call.admin.users().named(name).ok_or_else(Reply::not_found)
}

pub(super) fn user(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    let user = named(call, name)?;
    ok(json::object(&[], |to| json::user(to, user)))
}

pub(super) fn user_permissions(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    let user = Some(named(call, name)?.name().to_owned());
    call.list(
        Source::Permissions,
        Filter {
            user,
            ..Filter::default()
        },
    )
}

pub(super) fn permissions(call: &mut Call<'_>) -> Answer {
    call.list(Source::Permissions, Filter::default())
}

pub(super) fn vhost_permissions(call: &mut Call<'_>) -> Answer {
    let [vhost] = call.parts();
    call.list(Source::Permissions, call.vhost(vhost)?)
}

pub(super) fn permission(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let user = named(call, name)?;
    let permission = user.permission(vhost).ok_or_else(Reply::not_found)?;
    ok(json::object(&[], |to| {
        json::permission(to, user, vhost, permission);
    }))
}

pub(super) fn vhosts(call: &mut Call<'_>) -> Answer {
    call.list(Source::Table(Table::Vhosts), call.filter())
}

pub(super) fn vhost(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    let filter = call.vhost(name)?;
    call.single(Source::Table(Table::Vhosts), filter)
}
