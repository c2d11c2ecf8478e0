//! The commands that list.

use super::args::{Format, wrong};
use super::command::{COMMANDS, Session, part};
use super::output::Table;
use super::{EXIT_DATA, EXIT_UNAVAILABLE, Failure};
use crate::config::args::ControlTool;
use serde_json::Value;

/// A column: its name, and where its value stands in the API's object; `=text` is a constant.
type Column = (&'static str, &'static str);

/// One listing.
struct Listing {
    command: &'static str,
    /// Path below `/api/`.
    path: String,
    columns: &'static [Column],
    /// What is shown when no columns are named.
    default: &'static [&'static str],
    /// What is said when the path is not there.
    missing: Failure,
}

fn list(session: &mut Session<'_, '_>, banner: &str, listing: Listing) -> Result<(), Failure> {
    let chosen = chosen(session, &listing)?;
    session.banner(banner)?;
    let fields: Vec<String> = chosen
        .iter()
        .filter(|(_, path)| !path.starts_with('=') && !path.is_empty())
        .map(|(_, path)| part(path))
        .collect();
    let path = format!("/api/{}?columns={}", listing.path, fields.join(","));
    let Some(body) = session.get(&path)? else {
        return Err(listing.missing);
    };
    let items = body.as_array().map(Vec::as_slice).unwrap_or_default();
    let table = Table {
        columns: chosen.iter().map(|(name, _)| *name).collect(),
        rows: items
            .iter()
            .map(|item| {
                chosen
                    .iter()
                    .map(|(_, path)| value_at(item, path))
                    .collect()
            })
            .collect(),
    };
    let format = session.options.format.unwrap_or(Format::Table);
    let headers = !session.options.no_table_headers;
    table.print(session.streams.out, format, headers)
}

/// The columns that were named, or the usual ones. Names may be separated by commas, too.
fn chosen(session: &Session<'_, '_>, listing: &Listing) -> Result<Vec<Column>, Failure> {
    let words = session
        .options
        .words
        .iter()
        .flat_map(|word| word.split(','));
    let mut names: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    if names.is_empty() || listing.default.is_empty() {
        names = if listing.default.is_empty() {
            listing.columns.iter().map(|(name, _)| *name).collect()
        } else {
            listing.default.to_vec()
        };
    }
    let find = |name: &str| listing.columns.iter().find(|(column, _)| *column == name);
    let unknown: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| find(name).is_none())
        .collect();
    if unknown.is_empty() {
        return Ok(names
            .iter()
            .filter_map(|name| find(name).copied())
            .collect());
    }
    let problem = format!("Info key(s) {} are not supported", unknown.join(","));
    let command = COMMANDS
        .iter()
        .find(|command| command.name == listing.command);
    Err(match command {
        Some(command) => wrong(&session.options, ControlTool::Control, command, &problem),
        None => Failure::error(EXIT_DATA, problem),
    })
}

fn value_at(item: &Value, path: &str) -> Value {
    if let Some(text) = path.strip_prefix('=') {
        return text.into();
    }
    let mut value = item;
    for key in path.split('.') {
        value = &value[key];
    }
    value.clone()
}

fn no_vhost(vhost: &str) -> Failure {
    Failure::new(EXIT_DATA, format!("Virtual host '{vhost}' does not exist"))
}

fn nothing() -> Failure {
    Failure::error(EXIT_UNAVAILABLE, "not_found")
}

pub(super) fn queues(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let vhost = session.options.vhost.clone();
    let banner = format!(
        "Timeout: {}.0 seconds ...\nListing queues for vhost {vhost} ...",
        session.timeout_s()
    );
    let listing = Listing {
        command: "list_queues",
        path: format!("queues/{}", part(&vhost)),
        columns: &[
            ("name", "name"),
            ("messages", "messages"),
            ("messages_ready", "messages_ready"),
            ("messages_unacknowledged", "messages_unacknowledged"),
            ("consumers", "consumers"),
            ("durable", "durable"),
            ("auto_delete", "auto_delete"),
            ("arguments", "arguments"),
            ("policy", "policy"),
            ("operator_policy", "operator_policy"),
            ("effective_policy_definition", "effective_policy_definition"),
            ("pid", "node"),
            ("leader", "node"),
            ("members", "node"),
            ("online", "node"),
            ("owner_pid", "owner_pid_details.name"),
            ("exclusive", "exclusive"),
            ("exclusive_consumer_pid", ""),
            ("exclusive_consumer_tag", "exclusive_consumer_tag"),
            ("single_active_consumer_pid", ""),
            ("single_active_consumer_tag", "single_active_consumer_tag"),
            ("messages_ready_ram", "messages_ready_ram"),
            ("messages_unacknowledged_ram", "messages_unacknowledged_ram"),
            ("messages_ram", "messages_ram"),
            ("messages_persistent", "messages_persistent"),
            ("message_bytes", "message_bytes"),
            ("message_bytes_ready", "message_bytes_ready"),
            (
                "message_bytes_unacknowledged",
                "message_bytes_unacknowledged",
            ),
            ("message_bytes_ram", "message_bytes_ram"),
            ("message_bytes_persistent", "message_bytes_persistent"),
            ("head_message_timestamp", "head_message_timestamp"),
            ("disk_reads", "message_stats.disk_reads"),
            ("disk_writes", "message_stats.disk_writes"),
            ("consumer_utilisation", "consumer_utilisation"),
            ("consumer_capacity", "consumer_capacity"),
            ("memory", "memory"),
            ("slave_pids", ""),
            ("synchronised_slave_pids", ""),
            ("mirror_pids", ""),
            ("synchronised_mirror_pids", ""),
            ("state", "state"),
            ("type", "type"),
        ],
        default: &["name", "messages"],
        missing: no_vhost(&vhost),
    };
    list(session, &banner, listing)
}

pub(super) fn exchanges(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let vhost = session.options.vhost.clone();
    let listing = Listing {
        command: "list_exchanges",
        path: format!("exchanges/{}", part(&vhost)),
        columns: &[
            ("name", "name"),
            ("type", "type"),
            ("durable", "durable"),
            ("auto_delete", "auto_delete"),
            ("internal", "internal"),
            ("arguments", "arguments"),
            ("policy", "policy"),
        ],
        default: &["name", "type"],
        missing: no_vhost(&vhost),
    };
    list(
        session,
        &format!("Listing exchanges for vhost {vhost} ..."),
        listing,
    )
}

pub(super) fn bindings(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let vhost = session.options.vhost.clone();
    let listing = Listing {
        command: "list_bindings",
        path: format!("bindings/{}", part(&vhost)),
        columns: &[
            ("source_name", "source"),
            ("source_kind", "=exchange"),
            ("destination_name", "destination"),
            ("destination_kind", "destination_type"),
            ("routing_key", "routing_key"),
            ("arguments", "arguments"),
            ("vhost", "vhost"),
        ],
        default: &[
            "source_name",
            "source_kind",
            "destination_name",
            "destination_kind",
            "routing_key",
            "arguments",
        ],
        missing: no_vhost(&vhost),
    };
    list(
        session,
        &format!("Listing bindings for vhost {vhost}..."),
        listing,
    )
}

pub(super) fn connections(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let listing = Listing {
        command: "list_connections",
        path: "connections".to_owned(),
        columns: &[
            ("pid", "name"),
            ("name", "name"),
            ("port", "port"),
            ("host", "host"),
            ("peer_port", "peer_port"),
            ("peer_host", "peer_host"),
            ("ssl", "ssl"),
            ("ssl_protocol", "ssl_protocol"),
            ("ssl_key_exchange", "ssl_key_exchange"),
            ("ssl_cipher", "ssl_cipher"),
            ("ssl_hash", "ssl_hash"),
            ("peer_cert_subject", "peer_cert_subject"),
            ("peer_cert_issuer", "peer_cert_issuer"),
            ("peer_cert_validity", "peer_cert_validity"),
            ("state", "state"),
            ("channels", "channels"),
            ("protocol", "protocol"),
            ("auth_mechanism", "auth_mechanism"),
            ("user", "user"),
            ("vhost", "vhost"),
            ("timeout", "timeout"),
            ("frame_max", "frame_max"),
            ("channel_max", "channel_max"),
            ("client_properties", "client_properties"),
            ("user_provided_name", "user_provided_name"),
            ("connected_at", "connected_at"),
            ("node", "node"),
            ("recv_oct", "recv_oct"),
            ("recv_cnt", "recv_cnt"),
            ("send_oct", "send_oct"),
            ("send_cnt", "send_cnt"),
            ("send_pend", "send_pend"),
        ],
        default: &["user", "peer_host", "peer_port", "state"],
        missing: nothing(),
    };
    list(session, "Listing connections ...", listing)
}

pub(super) fn channels(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let listing = Listing {
        command: "list_channels",
        path: "channels".to_owned(),
        columns: &[
            ("pid", "name"),
            ("connection", "connection_details.name"),
            ("name", "name"),
            ("number", "number"),
            ("user", "user"),
            ("vhost", "vhost"),
            ("transactional", "transactional"),
            ("confirm", "confirm"),
            ("consumer_count", "consumer_count"),
            ("messages_unacknowledged", "messages_unacknowledged"),
            ("messages_uncommitted", "messages_uncommitted"),
            ("acks_uncommitted", "acks_uncommitted"),
            ("messages_unconfirmed", "messages_unconfirmed"),
            ("prefetch_count", "prefetch_count"),
            ("global_prefetch_count", "global_prefetch_count"),
            ("state", "state"),
        ],
        default: &["pid", "user", "consumer_count", "messages_unacknowledged"],
        missing: nothing(),
    };
    list(session, "Listing channels ...", listing)
}

pub(super) fn consumers(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let vhost = session.options.vhost.clone();
    let listing = Listing {
        command: "list_consumers",
        path: format!("consumers/{}", part(&vhost)),
        columns: &[
            ("queue_name", "queue.name"),
            ("channel_pid", "channel_details.name"),
            ("consumer_tag", "consumer_tag"),
            ("ack_required", "ack_required"),
            ("prefetch_count", "prefetch_count"),
            ("active", "active"),
            ("activity_status", "activity_status"),
            ("arguments", "arguments"),
        ],
        default: &[
            "queue_name",
            "channel_pid",
            "consumer_tag",
            "ack_required",
            "prefetch_count",
            "active",
            "arguments",
        ],
        missing: no_vhost(&vhost),
    };
    list(
        session,
        &format!("Listing consumers in vhost {vhost} ..."),
        listing,
    )
}

pub(super) fn users(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let listing = Listing {
        command: "list_users",
        path: "users".to_owned(),
        columns: &[("user", "name"), ("tags", "tags")],
        default: &[],
        missing: nothing(),
    };
    list(session, "Listing users ...", listing)
}

pub(super) fn vhosts(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let listing = Listing {
        command: "list_vhosts",
        path: "vhosts".to_owned(),
        columns: &[
            ("name", "name"),
            ("tracing", "tracing"),
            ("description", "description"),
            ("tags", "tags"),
            ("default_queue_type", "default_queue_type"),
            ("metadata", "metadata"),
            ("cluster_state", "cluster_state"),
            ("protected_from_deletion", "protected_from_deletion"),
        ],
        default: &["name"],
        missing: nothing(),
    };
    list(session, "Listing vhosts ...", listing)
}

pub(super) fn permissions(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let vhost = session.options.vhost.clone();
    let listing = Listing {
        command: "list_permissions",
        path: format!("vhosts/{}/permissions", part(&vhost)),
        columns: &[
            ("user", "user"),
            ("configure", "configure"),
            ("write", "write"),
            ("read", "read"),
        ],
        default: &[],
        missing: no_vhost(&vhost),
    };
    list(
        session,
        &format!("Listing permissions for vhost \"{vhost}\" ..."),
        listing,
    )
}

pub(super) fn user_permissions(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    let user = session.options.word(0).to_owned();
    let listing = Listing {
        command: "list_user_permissions",
        path: format!("users/{}/permissions", part(&user)),
        columns: &[
            ("vhost", "vhost"),
            ("configure", "configure"),
            ("write", "write"),
            ("read", "read"),
        ],
        default: &[],
        missing: super::manage::no_user(&user),
    };
    list(
        session,
        &format!("Listing permissions for user \"{user}\" ..."),
        listing,
    )
}
