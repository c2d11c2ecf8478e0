//! `leveret perf churn`: opening and closing over and over, from one or more threads that each wait
//! for every answer. Beside a `latency` run it shows whether one client's set-up stalls the others.

use super::client::{Client, resolve, short};
use super::failure::Failure;
use super::histogram::Histogram;
use super::interrupt::Interrupt;
use super::number::{float, ratio, rounded};
use super::options::{ChurnKind, Options};
use super::process::Meter;
use super::setter;
use super::watch::{print, usage_json};
use crate::clock::Clock;
use crate::wire::Method;
use crate::wire::method::{channel, tx};
use serde_json::Value;
use serde_json::json;
use std::net::SocketAddr;
use std::thread;

/// Churns for the time asked for and prints rate and times.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let meter = options.pid.map(Meter::new).transpose()?;
    let addresses = resolve(&options.target)?;
    let clock = Clock::start();
    let interrupt = Interrupt::take()?;
    let before = meter.as_ref().map(Meter::read_usage).transpose()?;
    let started_us = clock.now().monotonic_us;
    let mut rounds_us = Histogram::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.parallel)
            .map(|number| {
                let churner = Churner {
                    options,
                    addresses: &addresses,
                    clock: &clock,
                    interrupt: &interrupt,
                    number,
                };
                scope.spawn(move || churner.run())
            })
            .collect();
        for thread in threads {
            let one = thread
                .join()
                .map_err(|_| Failure::Local("a thread panicked".to_owned()))??;
            rounds_us.merge(&one);
        }
        Ok(())
    })?;
    let elapsed_us = clock.now().monotonic_us - started_us;
    let after = meter.as_ref().map(Meter::read_usage).transpose()?;
    let broker = match (&meter, &before, &after) {
        (Some(meter), Some(before), Some(after)) => {
            usage_json(meter.pid(), before, after, elapsed_us, rounds_us.count())
        }
        _ => Value::Null,
    };
    let result = json!({
        "command": options.command.name(),
        "interrupted": interrupt.came(),
        "what": format!("{:?}", options.churn).to_lowercase(),
        "seconds": rounded(float(elapsed_us) / 1e6, 3),
        "rounds": rounds_us.count(),
        "rounds_per_s": rounded(ratio(float(rounds_us.count()) * 1e6, float(elapsed_us)), 1),
        "round_us": rounds_us.to_json(),
        "broker": broker,
    });
    print(&result, options.json);
    Ok(())
}

/// One thread's work.
struct Churner<'a> {
    options: &'a Options,
    addresses: &'a [SocketAddr],
    clock: &'a Clock,
    interrupt: &'a Interrupt,
    number: usize,
}

impl Churner<'_> {
    fn run(&self) -> Result<Histogram, Failure> {
        if let Some(&core) = self.options.pin.first() {
            super::process::pin(core)?;
        }
        let mut rounds_us = Histogram::new();
        let mut client = self.connect()?;
        let queue = format!("{}-churn-{}", self.options.name, self.number);
        match self.options.churn {
            ChurnKind::Channel | ChurnKind::Connection | ChurnKind::Queue => {}
            ChurnKind::Tx => {
                declare(&mut client, &queue)?;
                client.call(&tx::Select {}, |method| {
                    matches!(method, Method::TxSelectOk(_)).then_some(())
                })?;
            }
        }
        if self.options.churn == ChurnKind::Channel {
            // Every round opens it, so it must not be open before the first.
            close_channel(&mut client)?;
        }
        let end_us = self.clock.now().monotonic_us + self.options.time_ms * 1_000;
        loop {
            let round_us = self.clock.now().monotonic_us;
            if round_us >= end_us || self.interrupt.came() {
                break;
            }
            self.round(&mut client, &queue)?;
            rounds_us.record(self.clock.now().monotonic_us - round_us);
        }
        if self.options.churn == ChurnKind::Tx {
            delete(&mut client, &queue)?;
        }
        client.close()?;
        Ok(rounds_us)
    }

    fn connect(&self) -> Result<Client, Failure> {
        let options = self.options;
        let mut client = Client::connect(
            &options.target,
            self.addresses,
            &options.connect,
            self.number,
        )?;
        client.open_channel()?;
        Ok(client)
    }

    fn round(&self, client: &mut Client, queue: &str) -> Result<(), Failure> {
        match self.options.churn {
            ChurnKind::Connection => self.connect()?.close(),
            ChurnKind::Channel => {
                client.open_channel()?;
                close_channel(client)
            }
            ChurnKind::Queue => {
                declare(client, queue)?;
                delete(client, queue)
            }
            ChurnKind::Tx => {
                let frame_max = client.frame_max();
                let queue = short(queue)?;
                setter::append_publish(client.outbox(), queue, self.options.size, frame_max);
                client.call(&tx::Commit {}, |method| {
                    matches!(method, Method::TxCommitOk(_)).then_some(())
                })
            }
        }
    }
}

fn close_channel(client: &mut Client) -> Result<(), Failure> {
    let close = channel::Close {
        reply_code: 200,
        ..channel::Close::default()
    };
    client.call(&close, |method| {
        matches!(method, Method::ChannelCloseOk(_)).then_some(())
    })
}

fn declare(client: &mut Client, name: &str) -> Result<(), Failure> {
    client.call(&setter::declare_durable(short(name)?), |method| {
        matches!(method, Method::QueueDeclareOk(_)).then_some(())
    })
}

fn delete(client: &mut Client, name: &str) -> Result<(), Failure> {
    client.call(&setter::delete(short(name)?), |method| {
        matches!(method, Method::QueueDeleteOk(_)).then_some(())
    })
}
