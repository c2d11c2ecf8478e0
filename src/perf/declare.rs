//! `leveret perf declare`: queues and bindings, pipelined; how many a second, and what one costs
//! the broker in memory.

use super::client::{Client, resolve};
use super::failure::Failure;
use super::number::{float, ratio, rounded};
use super::options::Options;
use super::process::{Meter, Usage};
use super::topology::{Topology, pipelined};
use super::watch::print;
use crate::clock::Clock;
use serde_json::{Map, Value, json};

/// Declares, binds, deletes if asked to, and prints the rates.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let meter = options.pid.map(Meter::new).transpose()?;
    if let Some(&core) = options.pin.first() {
        super::process::pin(core)?;
    }
    let addresses = resolve(&options.target)?;
    let mut client = Client::connect(&options.target, &addresses, &options.connect, 0)?;
    client.open_channel()?;
    let topology = Topology::new(options);
    let mut steps = Steps {
        clock: Clock::start(),
        meter,
        result: Map::new(),
    };
    let window = options.pipeline;
    topology.declare_exchange(&mut client)?;
    steps.measure("queues", topology.queues, || {
        pipelined(&mut client, topology.queues, window, |client, index| {
            topology.send_queue(client, index)
        })
    })?;
    steps.measure("bindings", topology.bindings(), || {
        pipelined(&mut client, topology.bindings(), window, |client, index| {
            topology.send_binding(client, index)
        })
    })?;
    if options.delete {
        steps.measure("deletes", topology.queues, || {
            pipelined(&mut client, topology.queues, window, |client, index| {
                topology.send_delete(client, index)
            })
        })?;
        topology.delete_exchange(&mut client)?;
    }
    let mut result = steps.result;
    result.insert("command".to_owned(), json!(options.command.name()));
    result.insert("server".to_owned(), json!(client.server()));
    client.close()?;
    print(&Value::Object(result), options.json);
    Ok(())
}

/// Measures one kind of declaration after another.
struct Steps {
    clock: Clock,
    meter: Option<Meter>,
    result: Map<String, Value>,
}

impl Steps {
    fn usage(&self) -> Result<Option<Usage>, Failure> {
        self.meter.as_ref().map(Meter::read_usage).transpose()
    }

    fn measure(
        &mut self,
        name: &str,
        count: usize,
        work: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if count == 0 {
            return Ok(());
        }
        let before = self.usage()?;
        let started_us = self.clock.now().monotonic_us;
        work()?;
        let elapsed_us = self.clock.now().monotonic_us - started_us;
        let after = self.usage()?;
        let (whole, count) = (count, float(count as u64));
        let mut step = json!({
            "count": whole,
            "per_s": rounded(ratio(count * 1e6, float(elapsed_us)), 0),
        });
        if let (Some(before), Some(after)) = (before, after) {
            let each = |after: u64, before: u64| rounded((float(after) - float(before)) / count, 1);
            step["anon_octets_each"] = json!(each(after.anon_octets, before.anon_octets));
            step["rss_octets_each"] = json!(each(after.rss_octets, before.rss_octets));
            step["cpu_us_each"] = json!(rounded(
                float(after.cpu_ns.saturating_sub(before.cpu_ns)) / 1e3 / count,
                2
            ));
        }
        self.result.insert(name.to_owned(), step);
        Ok(())
    }
}
