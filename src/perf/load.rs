//! `throughput`, `latency`, `fill` and `drain`: one engine with different settings. This thread
//! sets up topology and connections, hands them to one or two workers, reads the counters and the
//! broker's process at both ends of what is measured, and judges the result.

use super::check::{ConfirmWindow, QueueCheck, Stamp};
use super::client::{Client, resolve, short};
use super::consumer::Consumer;
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::number::{float, ratio, rounded, whole};
use super::options::{Command, Options};
use super::parser::tag_octets;
use super::process::{Meter, own_thread_ns, raise_open_files};
use super::producer::{Producer, Schedule};
use super::setter::{self, Setter, SetterKind};
use super::template::Template;
use super::topology::Topology;
use super::watch::{LiveLine, Sample, print, usage_json};
use super::worker::{Peer, Plan, Role, Shared, Tally, Worker};
use crate::wire::Method;
use crate::wire::method::{basic, confirm, tx};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// How often this thread looks at the counters.
const LOOK: Duration = Duration::from_millis(2);
/// Declarations in flight while setting up.
const PIPELINE: usize = 200;

/// Runs one of the four commands and prints its result.
///
/// # Errors
/// [`Failure::Check`] after printing, when the result is there but wrong.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let meter = options.pid.map(Meter::new).transpose()?;
    let addresses = resolve(&options.target)?;
    raise_open_files((options.producers + options.consumers + 64) as u64)?;
    let mut control = connect(options, &addresses, 0)?;
    let topology = Topology::new(options);
    prepare(&mut control, &topology, options)?;
    let ready_before = topology.ready(&mut control)?;
    let wanted = wanted(options, ready_before);
    let shared = Shared::new();
    let run = Run {
        options,
        topology: &topology,
        addresses: &addresses,
        shared: &shared,
        interrupt: Interrupt::take()?,
        meter: meter.as_ref(),
        wanted,
        ready_before,
    };
    let readings = run.measure()?;
    let left = topology.ready(&mut control)?;
    let server = control.server().to_owned();
    for number in 0..options.beside.len() {
        let name = beside_queue(options, number);
        control.call(&setter::delete(short(&name)?), |method| {
            matches!(method, Method::QueueDeleteOk(_)).then_some(())
        })?;
    }
    if !options.keep {
        topology.delete(&mut control, PIPELINE)?;
    }
    control.close()?;
    let (result, verdict) = run.judge(&readings, left, &server);
    print(&result, options.json);
    verdict
}

/// A logged-in connection with its channel.
fn connect(options: &Options, addresses: &[SocketAddr], index: usize) -> Result<Client, Failure> {
    let mut client = Client::connect(&options.target, addresses, &options.connect, index)?;
    client.open_channel()?;
    Ok(client)
}

fn prepare(control: &mut Client, topology: &Topology, options: &Options) -> Result<(), Failure> {
    if options.command == Command::Drain {
        // The queues are as they are.
        return Ok(());
    }
    topology.declare(control, PIPELINE)?;
    if options.keep {
        return Ok(());
    }
    topology.purge(control)
}

/// Messages after which the run is over; none when only its time ends it.
fn wanted(options: &Options, ready_before: u64) -> Option<u64> {
    match (options.command, options.messages) {
        (Command::Drain, 0) => Some(ready_before),
        (_, 0) => None,
        (_, messages) => Some(messages),
    }
}

/// One run, set up.
struct Run<'a> {
    options: &'a Options,
    topology: &'a Topology,
    addresses: &'a [SocketAddr],
    shared: &'a Shared,
    interrupt: Interrupt,
    meter: Option<&'a Meter>,
    wanted: Option<u64>,
    ready_before: u64,
}

/// What a run brought.
struct Readings {
    start: Sample,
    end: Sample,
    tally: Tally,
    /// Counters after everything was delivered and confirmed, or the wait for it was over.
    last: Sample,
    rest: Rest,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Everything was delivered and confirmed.
    Drained,
    /// Not everything, and nothing more comes.
    Stuck,
    /// The broker was still at it when the wait was over.
    Working,
}

impl Run<'_> {
    fn measure(&self) -> Result<Readings, Failure> {
        let (mut consumers, frame_max) = self.consumers()?;
        let mut producers = self.producers()?;
        let before = Sample::take(self.shared, self.meter)?;
        let started_us = self.shared.clock.now().monotonic_us;
        let warm_us = started_us + self.options.warmup_ms * 1_000;
        let end_us = warm_us + self.options.time_ms * 1_000;
        let plan = |pin: Option<usize>| self.plan(warm_us..end_us, pin);
        for (number, producer) in producers.iter_mut().enumerate() {
            producer.1.schedule = self.schedule(number, started_us);
        }
        let producers = producers
            .into_iter()
            .map(|(client, producer)| peer(client, Role::Producer(producer)));
        let mut producers: Vec<Peer> = producers.collect::<Result<_, _>>()?;
        producers.append(&mut self.setters(started_us)?);
        let first_pin = self.options.pin.first().copied();
        let (mine, other, other_pin) = if self.options.threads == 2 {
            (consumers, producers, self.options.pin.get(1).copied())
        } else {
            consumers.append(&mut producers);
            (consumers, Vec::new(), None)
        };
        let plans = [plan(first_pin), plan(other_pin)];
        let complete = self.topology.is_complete(self.options.keys);
        let checks = || {
            (0..self.topology.queues)
                .map(|_| QueueCheck::new(complete))
                .collect()
        };
        let shared = self.shared;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (peers, plan) in [(mine, &plans[0]), (other, &plans[1])] {
                if !peers.is_empty() {
                    let queues: Vec<QueueCheck> = checks();
                    threads.push(scope.spawn(move || {
                        Worker::new(shared, plan, peers, queues, frame_max)
                            .inspect_err(|_| shared.failed.store(true, Relaxed))?
                            .run()
                    }));
                }
            }
            let watched = self.watch(before, warm_us, end_us);
            self.shared.stop.store(true, Relaxed);
            self.shared.finish.store(true, Relaxed);
            let mut tally: Option<Tally> = None;
            for thread in threads {
                let one = thread
                    .join()
                    .map_err(|_| Failure::Local("a worker panicked".to_owned()))??;
                tally = Some(match tally {
                    None => one,
                    Some(all) => all.merged(&one),
                });
            }
            let tally = tally.ok_or_else(|| Failure::Usage("nothing to do".to_owned()))?;
            let (start, end, last, rest) = watched?;
            Ok(Readings {
                start,
                end,
                tally,
                last,
                rest,
            })
        })
    }

    fn plan(&self, measured_us: Range<u64>, pin: Option<usize>) -> Plan {
        let options = self.options;
        Plan {
            burst_octets: options.burst_octets,
            inbox_octets: options.inbox_octets,
            // What lies in kept queues may have any size.
            size: (options.check && options.command != Command::Drain && self.ready_before == 0)
                .then_some(options.size),
            stamped: options.check && options.size >= Stamp::OCTETS,
            spin: options.spin,
            // The stamps of what an earlier run left tell that run's time.
            measured_us: if options.command == Command::Drain {
                0..0
            } else {
                measured_us
            },
            in_flight_max: options.in_flight,
            copies: self.topology.copies(),
            heartbeat_s: options.connect.heartbeat_s,
            amqp: true,
            pin,
        }
    }

    fn schedule(&self, number: usize, started_us: u64) -> Option<Schedule> {
        let rate = self.options.rate_per_s;
        let producers = self.options.producers as u64;
        (rate != 0).then(|| Schedule {
            // Producers take turns rather than all sending at once.
            start_us: started_us + number as u64 * 1_000_000 / rate,
            messages: rate,
            per_us: 1_000_000 * producers,
        })
    }

    fn consumers(&self) -> Result<(Vec<Peer>, u32), Failure> {
        let options = self.options;
        let mut frame_max = options.connect.frame_max;
        let mut peers = Vec::with_capacity(options.consumers + options.producers);
        for number in 0..options.consumers {
            // With less queues than consumers some share one, with more each takes several.
            let queues = self.topology.queues;
            let mine = (number % queues..queues).step_by(options.consumers);
            let mut client = connect(options, self.addresses, 1 + number)?;
            frame_max = frame_max.max(client.frame_max());
            if options.ack != 0 && options.prefetch != 0 {
                let qos = basic::Qos {
                    prefetch_size: 0,
                    prefetch_count: options.prefetch,
                    global: false,
                };
                client.call(&qos, |method| {
                    matches!(method, Method::BasicQosOk(_)).then_some(())
                })?;
            }
            let is_only = mine.clone().nth(1).is_none();
            for (index, queue) in mine.clone().enumerate() {
                self.send_consume(&mut client, index, queue, !is_only)?;
            }
            if is_only {
                client
                    .expect(|method| matches!(method, Method::BasicConsumeOk(_)).then_some(()))?;
            }
            let consumer = Consumer::new(mine, options.ack);
            peers.push(peer(client, Role::Consumer(consumer))?);
        }
        Ok((peers, frame_max))
    }

    /// Appends `basic.consume` for subscription `index` of a connection.
    ///
    /// * `no_wait`: no answer, for one of several: deliveries of the first would come before it.
    fn send_consume(
        &self,
        client: &mut Client,
        index: usize,
        queue: usize,
        no_wait: bool,
    ) -> Result<(), Failure> {
        let name = self.topology.queue(queue);
        let tag = format!(
            "perf-{}",
            tag_octets(index).map(char::from).iter().collect::<String>()
        );
        client.send(&basic::Consume {
            queue: short(&name)?,
            consumer_tag: short(&tag)?,
            no_ack: self.options.ack == 0,
            no_wait,
            ..basic::Consume::default()
        });
        Ok(())
    }

    fn producers(&self) -> Result<Vec<(Client, Producer)>, Failure> {
        let options = self.options;
        let count = options.producers as u64;
        (0..options.producers)
            .map(|number| {
                let mut client = connect(options, self.addresses, 1 + options.consumers + number)?;
                if options.confirm != 0 {
                    client.call(&confirm::Select::default(), |method| {
                        matches!(method, Method::ConfirmSelectOk(_)).then_some(())
                    })?;
                }
                let routes = self.topology.routes(number, options);
                let template =
                    Template::new(&routes, options.size, options.mandatory, client.frame_max());
                let number = number as u64;
                let quota = match self.wanted {
                    None => u64::MAX,
                    // The first ones take what does not divide evenly.
                    Some(wanted) => wanted / count + u64::from(number < wanted % count),
                };
                let producer = Producer {
                    number: number as u16,
                    template,
                    window: (options.confirm != 0).then(|| ConfirmWindow::new(options.confirm)),
                    schedule: None,
                    quota,
                    // What an earlier fill left is continued, so that a drain sees no gap.
                    first_sequence: self.ready_before / count,
                    sent: 0,
                    pending: 0..0,
                };
                Ok((client, producer))
            })
            .collect()
    }

    /// The connections that commit or declare beside the messages.
    fn setters(&self, started_us: u64) -> Result<Vec<Peer>, Failure> {
        let options = self.options;
        let first = 1 + options.consumers + options.producers;
        let kinds = options.beside.iter().enumerate();
        kinds
            .map(|(number, &kind)| {
                let mut client = connect(options, self.addresses, first + number)?;
                let name = beside_queue(options, number);
                let queue = short(&name)?;
                if kind == SetterKind::Tx {
                    client.call(&setter::declare_durable(queue), |method| {
                        matches!(method, Method::QueueDeclareOk(_)).then_some(())
                    })?;
                    client.call(&tx::Select {}, |method| {
                        matches!(method, Method::TxSelectOk(_)).then_some(())
                    })?;
                }
                let rate = options.beside_rate_per_s;
                let schedule = (rate != 0).then_some(Schedule {
                    start_us: started_us,
                    messages: rate,
                    per_us: 1_000_000,
                });
                let setter = Setter::new(kind, queue, options.size, client.frame_max(), schedule);
                peer(client, Role::Setter(setter))
            })
            .collect()
    }

    /// Waits and reads: at the start and the end of what is measured, and when all has arrived.
    ///
    /// * `before`: a sample from before the first message, the start when nothing comes before it.
    fn watch(
        &self,
        before: Sample,
        warm_us: u64,
        end_us: u64,
    ) -> Result<(Sample, Sample, Sample, Rest), Failure> {
        let mut live = LiveLine::new(self.options.live);
        let start = if self.options.warmup_ms == 0 {
            before
        } else {
            self.wait_until(warm_us, &mut live, || self.interrupt.came())?;
            Sample::take(self.shared, self.meter)?
        };
        let is_limited = self.wanted().is_some();
        self.wait_until(end_us, &mut live, || {
            self.interrupt.came() || is_limited && self.rest() != Rest::Working
        })?;
        let mut end = Sample::take(self.shared, self.meter)?;
        if is_limited && !self.interrupt.came() {
            // It ended with the last message, not when this thread saw it.
            end.at_us = self.shared.last_us.load(Relaxed).max(start.at_us + 1);
        }
        self.shared.stop.store(true, Relaxed);
        let now_us = self.shared.clock.now().monotonic_us;
        // A drain that is interrupted leaves the rest; others await what they have published.
        let drain_ms = if self.options.producers == 0 && self.interrupt.came() {
            0
        } else {
            self.options.drain_ms
        };
        let limit_us = now_us + drain_ms * 1_000;
        self.wait_until(limit_us, &mut live, || self.rest() != Rest::Working)?;
        live.end();
        let rest = self.rest();
        Ok((start, end, Sample::take(self.shared, None)?, rest))
    }

    /// When nothing has moved for as long as the rest may take, nothing more will come. Not sooner:
    /// a broker whose disk is busy may well stand still for seconds.
    fn rest(&self) -> Rest {
        let last_us = self.shared.last_us.load(Relaxed);
        let now_us = self.shared.clock.now().monotonic_us;
        if self.is_done() {
            Rest::Drained
        } else if now_us > last_us + self.options.drain_ms * 1_000 + self.pause_us() {
            Rest::Stuck
        } else {
            Rest::Working
        }
    }

    /// Longest time between two messages that are due.
    fn pause_us(&self) -> u64 {
        1_000_000_u64
            .checked_div(self.options.rate_per_s)
            .unwrap_or_default()
    }

    fn wait_until(
        &self,
        until_us: u64,
        live: &mut LiveLine,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        loop {
            let now_us = self.shared.clock.now().monotonic_us;
            if now_us >= until_us || is_over() || self.shared.failed.load(Relaxed) {
                return Ok(());
            }
            if live.is_due(now_us) {
                live.show(
                    Sample::take(self.shared, self.meter)?,
                    self.topology.copies(),
                );
            }
            thread::sleep(LOOK.min(Duration::from_micros(until_us - now_us)));
        }
    }

    /// Whether everything that shall be published is, and has been confirmed and delivered.
    fn is_done(&self) -> bool {
        let shared = self.shared;
        let published = shared.published.load(Relaxed);
        let options = self.options;
        if options.producers != 0 && self.wanted().is_some_and(|wanted| published < wanted) {
            return false;
        }
        let settled = shared.confirmed.load(Relaxed) + shared.nacked.load(Relaxed);
        if options.confirm != 0 && settled < published {
            return false;
        }
        options.consumers == 0 || shared.delivered.load(Relaxed) >= self.expected(published)
    }

    /// Messages after which the run is over; an interrupted one is over without them.
    fn wanted(&self) -> Option<u64> {
        self.wanted.filter(|_| !self.interrupt.came())
    }

    /// Deliveries that `published` messages must cause, those that were there before included.
    fn expected(&self, published: u64) -> u64 {
        if self.options.producers == 0 {
            // Without a number only what was there is sure to come; others may publish more.
            return self.wanted.unwrap_or(self.ready_before);
        }
        let unrouted = self.shared.returned.load(Relaxed) + self.shared.nacked.load(Relaxed);
        self.ready_before + published.saturating_sub(unrouted) * self.topology.copies()
    }

    fn judge(&self, readings: &Readings, left: u64, server: &str) -> (Value, Result<(), Failure>) {
        let Readings {
            start,
            end,
            tally,
            last,
            rest,
        } = readings;
        let options = self.options;
        let elapsed_us = end.at_us.saturating_sub(start.at_us);
        let rate =
            |after: u64, before: u64| whole(ratio(float(after - before) * 1e6, float(elapsed_us)));
        let (published, delivered) = (
            end.published - start.published,
            end.delivered - start.delivered,
        );
        let messages = if options.consumers == 0 {
            published
        } else {
            delivered
        };
        let broker = match (self.meter, &start.usage, &end.usage) {
            (Some(meter), Some(before), Some(after)) => {
                usage_json(meter.pid(), before, after, elapsed_us, messages)
            }
            _ => Value::Null,
        };
        let all_queues =
            self.topology.copies() * (last.published - self.shared.returned.load(Relaxed));
        let there = self.ready_before + all_queues;
        // Only when the run has come to rest does what is neither here nor there count as lost.
        let is_drained = *rest == Rest::Drained;
        let here = last.delivered + if *rest == Rest::Working { there } else { left };
        let lost = there.saturating_sub(here);
        let late = there.saturating_sub(last.delivered + lost);
        let late = if options.consumers == 0 { 0 } else { late };
        let findings = &tally.findings;
        let mut bad = findings.duplicates + findings.misordered + findings.wrong_size + lost;
        if *rest != Rest::Working {
            bad = bad.max(findings.missing);
        }
        if let Some(wanted) = self.wanted()
            && !is_drained
        {
            // So many were to come; that others than this run's producers sent them is no excuse.
            let came = if options.consumers == 0 {
                last.confirmed
            } else {
                last.delivered
            };
            bad += wanted.saturating_sub(came.max(lost));
        }
        let is_stuck = *rest == Rest::Stuck;
        let result = json!({
            "command": options.command.name(),
            "server": server,
            "interrupted": self.interrupt.came(),
            "seconds": rounded(float(elapsed_us) / 1e6, 3),
            "size": options.size,
            "published": published,
            "published_per_s": rate(end.published, start.published),
            "delivered": delivered,
            "delivered_per_s": rate(end.delivered, start.delivered),
            "confirmed_per_s": if options.confirm == 0 { Value::Null } else { json!(rate(end.confirmed, start.confirmed)) },
            "rate_wanted_per_s": if options.rate_per_s == 0 { Value::Null } else { json!(options.rate_per_s) },
            "end_to_end_us": tally.end_to_end_us.to_json(),
            "confirm_us": tally.confirm_us.to_json(),
            "beside_us": if options.beside.is_empty() { Value::Null } else { tally.set_up_us.to_json() },
            "check": {
                "ok": bad == 0 && !is_stuck,
                "is_drained": is_drained,
                "lost": lost,
                "outstanding": late,
                "missing": findings.missing,
                "duplicates": findings.duplicates,
                "misordered": findings.misordered,
                "wrong_size": findings.wrong_size,
                "redelivered": findings.redelivered,
                "unchecked": findings.unchecked,
                "returned": self.shared.returned.load(Relaxed),
                "nacked": self.shared.nacked.load(Relaxed),
                "blocked": self.shared.blocked.load(Relaxed),
                "left_in_queues": left,
            },
            "broker": broker,
            "generator": {
                "cpu_ns_per_message": rounded(ratio(float(tally.cpu_ns), float(last.published.max(last.delivered))), 1),
                "cpu_ns_watching": own_thread_ns(),
            },
        });
        let verdict = if !options.check || bad == 0 && !is_stuck {
            Ok(())
        } else if bad == 0 {
            Err(Failure::Check(
                "the broker stopped answering before everything was delivered and confirmed"
                    .to_owned(),
            ))
        } else {
            Err(Failure::Check(format!(
                "{bad} messages lost, doubled, cut, out of order or not delivered"
            )))
        };
        (result, verdict)
    }
}

/// The queue of the connection `number` that commits or declares.
fn beside_queue(options: &Options, number: usize) -> String {
    format!("{}-beside-{number}", options.name)
}

fn peer(client: Client, role: Role) -> Result<Peer, Failure> {
    let frame_max = client.frame_max();
    let (stream, rest) = client.into_parts()?;
    Peer::new(stream, rest, frame_max, role)
}
