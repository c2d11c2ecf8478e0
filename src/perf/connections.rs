//! `leveret perf connections`: idle connections with a channel each, and what one costs the broker
//! in memory. The sockets' buffers in the kernel are not the process's and not counted.

use super::client::{Client, resolve};
use super::failure::Failure;
use super::histogram::Histogram;
use super::interrupt::Interrupt;
use super::number::{float, ratio, rounded};
use super::options::Options;
use super::process::{Meter, raise_open_files};
use super::watch::print;
use crate::clock::Clock;
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

/// How often it is looked at whether the run is interrupted.
const NAP_MS: u64 = 100;

/// Opens them one after another, holds them, reads the memory and closes them.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let meter = options.pid.map(Meter::new).transpose()?;
    if let Some(&core) = options.pin.first() {
        super::process::pin(core)?;
    }
    let addresses = resolve(&options.target)?;
    raise_open_files(options.connections as u64 + 64)?;
    let clock = Clock::start();
    let interrupt = Interrupt::take()?;
    let now_us = || clock.now().monotonic_us;
    // One connection beforehand: what the first of all costs is not what each costs.
    let open = |index| -> Result<Client, Failure> {
        let mut client = Client::connect(&options.target, &addresses, &options.connect, index)?;
        client.open_channel()?;
        Ok(client)
    };
    let first = open(0)?;
    thread::sleep(Duration::from_millis(options.hold_ms.min(500)));
    let before = meter.as_ref().map(Meter::read_usage).transpose()?;
    let started_us = now_us();
    let mut open_us = Histogram::new();
    let mut clients = Vec::with_capacity(options.connections);
    for index in 1..=options.connections {
        if interrupt.came() {
            break;
        }
        let opening_us = now_us();
        clients.push(open(index)?);
        open_us.record(now_us() - opening_us);
    }
    let opened_us = now_us() - started_us;
    hold(&mut clients, options, &interrupt)?;
    let after = meter.as_ref().map(Meter::read_usage).transpose()?;
    // Less than asked for when the run was interrupted meanwhile.
    let opened = clients.len();
    let count = float(opened as u64);
    let closing_us = now_us();
    let server = first.server().to_owned();
    for client in clients {
        client.close()?;
    }
    let closed_us = now_us() - closing_us;
    first.close()?;
    let per_connection =
        |after: u64, before: u64| rounded((float(after) - float(before)) / count, 1);
    let broker = match (&meter, &before, &after) {
        (Some(meter), Some(before), Some(after)) => json!({
            "pid": meter.pid(),
            "rss_octets_per_connection": per_connection(after.rss_octets, before.rss_octets),
            "anon_octets_per_connection": per_connection(after.anon_octets, before.anon_octets),
            "cpu_us_per_connection": rounded(
                float(after.cpu_ns.saturating_sub(before.cpu_ns)) / 1e3 / count, 2),
            "rss_octets": after.rss_octets,
            "anon_octets": after.anon_octets,
        }),
        _ => Value::Null,
    };
    let rate = |us: u64| rounded(ratio(count * 1e6, float(us)), 0);
    let result = json!({
        "command": options.command.name(),
        "server": server,
        "interrupted": interrupt.came(),
        "connections": opened,
        "opened_per_s": rate(opened_us),
        "closed_per_s": rate(closed_us),
        "open_us": open_us.to_json(),
        "broker": broker,
    });
    print(&result, options.json);
    Ok(())
}

/// Keeps the connections open for the time asked for, with heartbeats where those were asked for.
fn hold(clients: &mut [Client], options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let beat_ms = u64::from(options.connect.heartbeat_s) * 500;
    let (mut left_ms, mut silent_ms) = (options.hold_ms, 0);
    while left_ms > 0 && !interrupt.came() {
        let nap_ms = left_ms.min(NAP_MS);
        thread::sleep(Duration::from_millis(nap_ms));
        left_ms -= nap_ms;
        silent_ms += nap_ms;
        if beat_ms != 0 && silent_ms >= beat_ms {
            silent_ms = 0;
            for client in &mut *clients {
                client.send_heartbeat()?;
            }
        }
    }
    Ok(())
}
