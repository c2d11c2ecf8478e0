//! Plays `tests/conformance/*.txt`, one test for each; `docs/conformance.md` is the index.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::broker::Broker;
use crate::transcript::{Transcript, run};

/// A test for each transcript, and one that says when a file has none.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })*

        #[test]
        fn every_transcript_is_played() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
            let entries = fs::read_dir(directory).expect("the directory of transcripts is there");
            let files: BTreeSet<String> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter_map(|file| file.strip_suffix(".txt").map(String::from))
                .collect();
            let played = [$(stringify!($name)),*].map(String::from);
            assert_eq!(files, BTreeSet::from(played));
        }

        #[test]
        fn the_index_names_every_transcript() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
            let index = fs::read_to_string(path).expect("the index is there");
            for name in [$(stringify!($name)),*] {
                assert!(index.contains(&format!("`{name}`")), "{name} is not in the index");
            }
        }
    };
}

transcripts! {
    access_permissions
    access_request
    access_vhosts
    basic_ack
    basic_body_frames
    basic_cancel
    basic_cancel_by_server
    basic_consume
    basic_consume_exclusive
    basic_consumer_priority
    basic_delivery_tags
    basic_direct_reply_to
    basic_expiration
    basic_fanout_copies
    basic_field_table
    basic_get
    basic_headers_wide
    basic_large_message
    basic_mandatory
    basic_message_size
    basic_message_size_max
    basic_names_max
    basic_order
    basic_properties
    basic_properties_malformed
    basic_publish
    basic_publish_checks
    basic_qos
    basic_qos_global
    basic_qos_global_fair
    basic_qos_mixed
    basic_qos_narrow
    basic_recover
    basic_recover_consumer
    basic_reject
    basic_requeue_consumer
    basic_round_robin
    basic_user_id
    bounds_transaction
    bounds_unacked
    channel_exception
    channel_flow
    channel_hard_error
    channel_open_close
    channel_pipelining
    channel_unexpected_methods
    confirm
    confirm_routes
    connection_channel_max
    connection_channel_numbers
    connection_close
    connection_drop
    connection_forced
    connection_handshake
    connection_handshake_timeout
    connection_heartbeat
    connection_heartbeat_any_frame
    connection_open
    connection_out_of_order
    connection_out_of_order_opening
    connection_protocol_header
    connection_sasl
    connection_sasl_silent
    connection_server_properties
    connection_tune
    connection_update_secret
    exchange_auto_delete
    exchange_bind
    exchange_declare
    exchange_default
    exchange_delete
    exchange_direct
    exchange_fanout
    exchange_headers
    exchange_headers_with_x
    exchange_internal
    exchange_missing
    exchange_predeclared
    exchange_topic
    exchange_topic_unbind
    frame_before_tune
    frame_content_on_channel_0
    frame_content_order
    frame_content_pieces
    frame_cut_off
    frame_end
    frame_heartbeat
    frame_method_arguments
    frame_table_depth
    frame_table_malformed
    frame_too_large
    frame_type
    frame_unknown_method
    frame_utf8
    queue_arguments
    queue_auto_delete
    queue_bind
    queue_declare
    queue_delete
    queue_equivalence
    queue_exclusive
    queue_last_declared
    queue_purge
    queue_server_named
    queue_transient
    restart_definitions
    restart_durable
    restart_never_delivered
    restart_unacked
    tx
    tx_errors
    tx_several_queues
    tx_spilled
}

fn play(name: &str) {
    if let Err(why) = Broker::get().and_then(|broker| play_against(name, &broker)) {
        panic!("\n{why}");
    }
}

fn play_against(name: &str, broker: &Broker) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let text = fs::read_to_string(path.join(format!("{name}.txt"))).expect("a transcript");
    Transcript::parse(name, &text).and_then(|transcript| run(&transcript, broker))
}

/// How octets are cut into segments is no matter.
#[test]
fn octet_by_octet() {
    for name in [
        "basic_body_frames",
        "basic_field_table",
        "basic_mandatory",
        "basic_properties",
        "basic_reject",
        "channel_exception",
        "channel_pipelining",
        "confirm",
        "connection_handshake",
        "connection_out_of_order_opening",
        "exchange_bind",
        "frame_content_order",
        "frame_content_pieces",
        "frame_method_arguments",
        "frame_type",
        "queue_equivalence",
        "tx",
    ] {
        let outcome = Broker::get().and_then(|broker| {
            broker.trickle();
            play_against(name, &broker)
        });
        if let Err(why) = outcome {
            panic!("\noctet by octet: {why}");
        }
    }
}
