//! What the configuration means for the storage, the router and the connections.

use crate::broker;
use crate::config::{Config, Limits};
use crate::connection::Offer;
use crate::storage::StoreConfig;
use crate::wire::field_table::{FieldValue, TableBuilder};
use crate::wire::short_string::ShortString;

/// What the storage may use.
pub(super) fn store(config: &Config) -> StoreConfig {
    let limits = &config.limits;
    StoreConfig {
        sync: config.sync,
        tail_octets_max: limits.tail_octets_max as usize,
        segment_octets_min: limits.segment_octets_min,
        segment_octets_max: limits.segment_octets_max,
        segment_slack: limits.segment_slack,
        disk_free_octets_min: limits.disk_free_octets_min,
        look_ms: limits.segment_look_ms,
        arena_octets_max: limits.arena_octets_max as usize,
        ..StoreConfig::default()
    }
}

/// How much of each thing the router holds.
pub(super) fn broker(limits: &Limits) -> broker::Limits {
    broker::Limits {
        consumers_per_channel_max: limits.consumers_per_channel_max,
        queues_max: limits.queues_max,
        exchanges_max: limits.exchanges_max,
        bindings_max: limits.bindings_max,
        unacked_per_channel_max: limits.unacked_per_channel_max,
        removals_at_once_max: limits.slice_entries_max / broker::BINDING_COST,
        transaction_entries_max: limits.transaction_entries_max,
        transaction_octets_max: limits.transaction_octets_max,
        ..broker::Limits::default()
    }
}

/// What `connection.start` and `connection.tune` offer.
pub(super) fn offer(config: &Config) -> Offer {
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
