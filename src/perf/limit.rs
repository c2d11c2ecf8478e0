//! `leveret perf limit`: a relay of one thread that reads octets from the producer's socket and
//! writes them to the consumer's. It knows no AMQP, so what it costs is what loopback and one core
//! cost; no broker can do less. The frames are those of `throughput`, read back as they were sent.

use super::check::{QueueCheck, Stamp};
use super::client::open_socket;
use super::consumer::Consumer;
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::number::{float, ratio, rounded, whole};
use super::options::Options;
use super::process;
use super::producer::{Producer, Schedule};
use super::template::{Route, Template};
use super::watch::{LiveLine, Sample, print};
use super::worker::{Peer, Plan, Role, Shared, Tally, Worker};
use crate::wire::content::NO_PROPERTIES;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// How often the relay's CPU time is told: every so many reads.
const TELL_EVERY: u32 = 256;

/// Runs the relay and the load, and prints what came of it.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let local = |error| Failure::local("loopback", error);
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(local)?;
    let address = listener.local_addr().map_err(local)?;
    let open = || -> Result<(TcpStream, TcpStream), Failure> {
        let ours = open_socket(&[address], &options.connect, 0)?;
        let (theirs, _) = listener.accept().map_err(local)?;
        set_options(&theirs, options).map_err(local)?;
        Ok((ours, theirs))
    };
    let ((source, relay_in), (sink, relay_out)) = (open()?, open()?);
    let shared = Shared::new();
    let interrupt = Interrupt::take()?;
    let started_us = shared.clock.now().monotonic_us;
    let warm_us = started_us + options.warmup_ms * 1_000;
    let end_us = warm_us + options.time_ms * 1_000;
    let plan = plan(options, warm_us..end_us);
    let peers = peers(options, source, sink, started_us)?;
    let relay_ns = AtomicU64::new(0);
    thread::scope(|scope| {
        let relay = scope.spawn(|| relay(relay_in, relay_out, options, &relay_ns));
        let load = scope.spawn(|| {
            Worker::new(
                &shared,
                &plan,
                peers,
                vec![QueueCheck::new(true)],
                options.connect.frame_max,
            )
            .inspect_err(|_| shared.failed.store(true, Relaxed))?
            .run()
        });
        let watched = watch(options, &shared, &interrupt, &relay_ns, warm_us..end_us);
        shared.finish.store(true, Relaxed);
        let panicked = |_| Failure::Local("a thread panicked".to_owned());
        // The load's sockets close with its thread, which ends the relay.
        let tally = load.join().map_err(panicked)??;
        relay.join().map_err(panicked)??;
        report(options, &watched?, &tally)
    })
}

fn set_options(stream: &TcpStream, options: &Options) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    if let Some(octets) = options.connect.sndbuf {
        socket.set_send_buffer_size(octets)?;
    }
    if let Some(octets) = options.connect.rcvbuf {
        socket.set_recv_buffer_size(octets)?;
    }
    stream.set_nodelay(options.connect.nodelay)
}

/// Reads and writes until the producer's end closes. Blocking calls on two sockets are the least
/// that a program can do: no readiness is asked for.
fn relay(
    mut from: TcpStream,
    mut to: TcpStream,
    options: &Options,
    cpu_ns: &AtomicU64,
) -> Result<(), Failure> {
    if let Some(core) = options.relay_pin {
        process::pin(core)?;
    }
    let mut octets = vec![0; options.burst_octets];
    let mut reads = 0_u32;
    loop {
        let read = from
            .read(&mut octets)
            .map_err(|error| Failure::socket("relay", &error))?;
        // The consumer's end may close first; what is on its way is of no interest then.
        if read == 0 || to.write_all(&octets[..read]).is_err() {
            cpu_ns.store(process::own_thread_ns(), Relaxed);
            return Ok(());
        }
        reads = reads.wrapping_add(1);
        if reads.is_multiple_of(TELL_EVERY) {
            cpu_ns.store(process::own_thread_ns(), Relaxed);
        }
    }
}

fn plan(options: &Options, measured_us: Range<u64>) -> Plan {
    Plan {
        burst_octets: options.burst_octets,
        inbox_octets: options.inbox_octets,
        size: options.check.then_some(options.size),
        stamped: options.check && options.size >= Stamp::OCTETS,
        spin: options.spin,
        measured_us,
        in_flight_max: 0,
        copies: 1,
        heartbeat_s: 0,
        amqp: false,
        pin: options.pin.first().copied(),
    }
}

fn peers(
    options: &Options,
    source: TcpStream,
    sink: TcpStream,
    started_us: u64,
) -> Result<Vec<Peer>, Failure> {
    let frame_max = options.connect.frame_max;
    let route = Route {
        exchange: String::new(),
        routing_key: "leveret-perf-0".to_owned(),
        properties: NO_PROPERTIES.to_owned(),
    };
    let producer = Producer {
        number: 0,
        template: Template::new(&[route], options.size, false, frame_max),
        window: None,
        schedule: (options.rate_per_s != 0).then_some(Schedule {
            start_us: started_us,
            messages: options.rate_per_s,
            per_us: 1_000_000,
        }),
        quota: u64::MAX,
        first_sequence: 0,
        sent: 0,
        pending: 0..0,
    };
    let consumer = Consumer::new(std::iter::once(0), 0);
    Ok(vec![
        Peer::new(sink, Vec::new(), frame_max, Role::Consumer(consumer))?,
        Peer::new(source, Vec::new(), frame_max, Role::Producer(producer))?,
    ])
}

/// The two ends of what is measured, each with the relay's CPU time in nanoseconds.
struct Watched {
    start: (Sample, u64),
    end: (Sample, u64),
    interrupted: bool,
    is_drained: bool,
}

fn watch(
    options: &Options,
    shared: &Shared,
    interrupt: &Interrupt,
    relay_ns: &AtomicU64,
    measured_us: Range<u64>,
) -> Result<Watched, Failure> {
    let mut live = LiveLine::new(options.live);
    let mut wait_until = |until_us: u64, is_over: &dyn Fn() -> bool| -> Result<(), Failure> {
        loop {
            let now_us = shared.clock.now().monotonic_us;
            if now_us >= until_us || is_over() || shared.failed.load(Relaxed) {
                return Ok(());
            }
            if live.is_due(now_us) {
                live.show(Sample::take(shared, None)?, 1);
            }
            thread::sleep(Duration::from_micros((until_us - now_us).min(2_000)));
        }
    };
    let look = || Ok((Sample::take(shared, None)?, relay_ns.load(Relaxed)));
    wait_until(measured_us.start, &|| interrupt.came())?;
    let start = look()?;
    wait_until(measured_us.end, &|| interrupt.came())?;
    let end = look()?;
    shared.stop.store(true, Relaxed);
    let is_drained = || shared.delivered.load(Relaxed) == shared.published.load(Relaxed);
    wait_until(shared.clock.now().monotonic_us + 5_000_000, &is_drained)?;
    live.end();
    Ok(Watched {
        start,
        end,
        interrupted: interrupt.came(),
        is_drained: is_drained(),
    })
}

fn report(options: &Options, watched: &Watched, tally: &Tally) -> Result<(), Failure> {
    let ((start, start_ns), (end, end_ns)) = (&watched.start, &watched.end);
    let elapsed_us = end.at_us - start.at_us;
    let delivered = end.delivered - start.delivered;
    let cpu_ns = float(end_ns - start_ns);
    let findings = &tally.findings;
    let bad = findings.duplicates + findings.misordered + findings.missing + findings.wrong_size;
    let result = json!({
        "command": options.command.name(),
        "server": "relay without AMQP",
        "interrupted": watched.interrupted,
        "seconds": rounded(float(elapsed_us) / 1e6, 3),
        "size": options.size,
        "published_per_s": whole(ratio(float(end.published - start.published) * 1e6, float(elapsed_us))),
        "delivered_per_s": whole(ratio(float(delivered) * 1e6, float(elapsed_us))),
        "end_to_end_us": tally.end_to_end_us.to_json(),
        "check": { "ok": bad == 0 && watched.is_drained, "is_drained": watched.is_drained },
        "broker": {
            "cpu_us_per_message": rounded(ratio(cpu_ns / 1e3, float(delivered)), 4),
            "cpu_percent": rounded(ratio(cpu_ns / 10.0, float(elapsed_us)), 1),
        },
        "generator": {
            "cpu_ns_per_message": rounded(ratio(float(tally.cpu_ns), float(tally.end_to_end_us.count().max(delivered))), 1),
        },
    });
    print(&result, options.json);
    if options.check && (bad != 0 || !watched.is_drained) {
        return Err(Failure::Check(
            "the relay's octets came back changed".to_owned(),
        ));
    }
    Ok(())
}
