//! What a peer may send, octet for octet, to a whole server over a healthy disk in memory: it
//! answers or ends the connection, never panics, never grows without bound, and its router agrees
//! with itself afterwards.
//!
//! The first octet of the input chooses whether a handshake comes first and how the rest is cut,
//! the rest is what a peer sends.
#![no_main]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use leveret::clock::Now;
use leveret::config::Config;
use leveret::engine::Engine;
use leveret::storage::{FlushJob, Helpers, KeeperJob, MemoryStorage};
use leveret::wire::encode::method_frame;
use leveret::wire::method::{channel, connection};
use leveret::wire::field_table::{FieldValue, TableBuilder};
use leveret::wire::{ChannelNumber, ShortString};
use libfuzzer_sys::fuzz_target;

type Jobs = (VecDeque<FlushJob<MemoryStorage>>, VecDeque<KeeperJob<MemoryStorage>>);

struct Queues(Jobs);

impl Helpers<MemoryStorage> for Queues {
    fn flush(&mut self, job: FlushJob<MemoryStorage>) {
        self.0.0.push_back(job);
    }

    fn keep(&mut self, job: KeeperJob<MemoryStorage>) {
        self.0.1.push_back(job);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, stream)) = input.split_first() else {
        return;
    };
    let mut config = Config::default();
    config.limits.segment_octets_min = 16 << 10;
    config.limits.segment_octets_max = 64 << 10;
    // Small bounds are reached by short inputs.
    config.limits.slice_entries_max = 16;
    config.limits.consumers_per_channel_max = 4;
    config.limits.unacked_per_channel_max = 8;
    config.limits.transaction_entries_max = 8;
    config.limits.transaction_octets_max = 512;
    config.limits.queues_max = 12;
    config.limits.exchanges_max = 16;
    config.limits.bindings_max = 24;
    config.limits.outbox_octets_low = 256;
    config.limits.outbox_octets_high = 1024;
    config.limits.outbox_octets_max = 4096;
    let disk = MemoryStorage::new();
    let mut now = Now { monotonic_us: 1, wall_ms: 1_700_000_000_000 };
    let mut engine = Engine::open(disk.clone(), &config, now, 1).expect("an empty directory opens");
    let mut jobs = Queues(Jobs::default());
    let ends = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let id = engine.accept(now, ends(40_000), ends(5672));
    let mut octets = if choice & 1 == 1 { handshake() } else { Vec::new() };
    octets.extend_from_slice(stream);
    let step = usize::from(choice >> 1).max(1) * 8;
    let (mut start, mut end, mut dead) = (0, 0, Vec::new());
    while end < octets.len() && engine.is_there(id) {
        end = octets.len().min(end + step);
        // Turns enough for whatever the octets wait for.
        for _ in 0..4 {
            now.monotonic_us += 1000;
            if !engine.is_paused(id) {
                start += engine.receive(now, id, &octets[start..end]).consumed;
            }
            engine.end_turn(now, &mut jobs, &mut dead);
            while let Some(job) = jobs.0.0.pop_front() {
                engine.answer(now, job.run(&disk));
            }
            while let Some(job) = jobs.0.1.pop_front() {
                engine.answer(now, job.run(&disk));
            }
            let _ = engine.take_resumed();
            for writable in engine.take_writable() {
                let waiting = engine.octets_for(writable).len();
                engine.wrote(writable, waiting, false);
            }
            assert!(engine.fatal().is_none(), "the disk is healthy");
        }
        engine.broker().audit().expect("the router agrees with itself");
        if engine.is_over(id) || !dead.is_empty() {
            break;
        }
    }
    engine.drop_peer(now, id);
    engine.end_turn(now, &mut jobs, &mut dead);
    engine.broker().audit().expect("the router agrees with itself");
    assert_eq!(engine.broker().sessions().len(), 0, "nobody is left");
});

/// What an orderly client sends until it has two channels.
fn handshake() -> Vec<u8> {
    let mut out = b"AMQP\0\0\x09\x01".to_vec();
    let mut capabilities = TableBuilder::new();
    for name in ["consumer_cancel_notify", "connection.blocked", "authentication_failure_close"] {
        capabilities.push(ShortString::truncated(name), FieldValue::Bool(true));
    }
    let key = ShortString::literal("capabilities");
    let properties = TableBuilder::new().with(key, FieldValue::Table(capabilities.as_table()));
    let start_ok = connection::StartOk {
        client_properties: properties.as_table(),
        mechanism: ShortString::literal("PLAIN"),
        response: b"\0guest\0guest",
        locale: ShortString::literal("en_US"),
    };
    method_frame(&mut out, ChannelNumber(0), &start_ok);
    let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
    method_frame(&mut out, ChannelNumber(0), &tune_ok);
    let open = connection::Open {
        virtual_host: ShortString::literal("/"),
        capabilities: ShortString::EMPTY,
        insist: false,
    };
    method_frame(&mut out, ChannelNumber(0), &open);
    for number in [1, 2] {
        method_frame(&mut out, ChannelNumber(number), &channel::Open { out_of_band: ShortString::EMPTY });
    }
    out
}
