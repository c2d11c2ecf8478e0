//! The exchange, queues and bindings of a run, and the routes that lead to them.
//!
//! Binding `i` of `n` goes to queue `i % queues`. For a topic exchange four patterns take turns, so
//! that `*` and `#` stand at the start, in the middle and at the end; every key matches exactly
//! one of them, whatever their number:
//!
//! ```text
//! i % 4   binding key   routing key
//!     0   k{i}.*.c      k{i}.b.c
//!     1   k{i}.#        k{i}.b.c
//!     2   *.k{i}.*      a.k{i}.c
//!     3   #.k{i}        a.b.k{i}
//! ```

use super::client::{Client, field, short, table};
use super::failure::Failure;
use super::number::Random;
use super::options::{Command, KeyChoice, Options};
use super::template::Route;
use crate::wire::content::{PERSISTENT, PropertyList};
use crate::wire::field_table::FieldValue;
use crate::wire::method::{exchange, queue};
use crate::wire::{Method, ShortString};

/// Random picks that a producer's ring holds at least.
const RANDOM_ROUTES: usize = 8_192;

/// Names and numbers of a run's topology.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    name: String,
    /// Queues in all.
    pub(super) queues: usize,
    exchange_type: String,
    bindings: usize,
    durable: bool,
    arguments: Vec<u8>,
}

impl Topology {
    /// What `options` ask for.
    pub(super) fn new(options: &Options) -> Self {
        let mut arguments = Vec::new();
        for (key, value) in &options.queue_arguments {
            field(&mut arguments, key, argument(value));
        }
        let declare = options.command == Command::Declare;
        Topology {
            name: options.name.clone(),
            queues: options.queues,
            exchange_type: options.exchange_type.clone(),
            bindings: options.bindings,
            durable: options.durable.unwrap_or(options.persistent || declare),
            arguments,
        }
    }

    /// Name of queue `index`.
    pub(super) fn queue(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    /// Name of the exchange; empty for the default one.
    pub(super) fn exchange(&self) -> String {
        match self.exchange_type.as_str() {
            "default" => String::new(),
            exchange_type => format!("{}-{exchange_type}", self.name),
        }
    }

    /// Bindings in all; none for the default exchange.
    pub(super) fn bindings(&self) -> usize {
        if self.exchange_type == "default" {
            0
        } else {
            self.bindings
        }
    }

    /// Queues that each message reaches.
    pub(super) fn copies(&self) -> u64 {
        match self.exchange_type.as_str() {
            "fanout" => self.queues as u64,
            _ => 1,
        }
    }

    /// Whether a queue gets all messages of a producer of which it gets one.
    pub(super) fn is_complete(&self, keys: KeyChoice) -> bool {
        keys == KeyChoice::Fixed || self.exchange_type == "fanout" || self.queues == 1
    }

    fn binding_key(&self, index: usize) -> String {
        match (self.exchange_type.as_str(), index % 4) {
            ("topic", 0) => format!("k{index}.*.c"),
            ("topic", 1) => format!("k{index}.#"),
            ("topic", 2) => format!("*.k{index}.*"),
            ("topic", _) => format!("#.k{index}"),
            ("direct", _) => format!("k{index}"),
            _ => String::new(),
        }
    }

    fn routing_key(&self, index: usize) -> String {
        match (self.exchange_type.as_str(), index % 4) {
            ("default", _) => self.queue(index),
            ("topic", 0 | 1) => format!("k{index}.b.c"),
            ("topic", 2) => format!("a.k{index}.c"),
            ("topic", _) => format!("a.b.k{index}"),
            _ => self.binding_key(index),
        }
    }

    /// The routes that producer `number` publishes to, in turn.
    pub(super) fn routes(&self, number: usize, options: &Options) -> Vec<Route> {
        let count = match self.exchange_type.as_str() {
            "default" => self.queues,
            "fanout" => 1,
            _ => self.bindings,
        };
        let route = |index| self.route(index, options.persistent);
        match options.keys {
            KeyChoice::Fixed => vec![route(number % count)],
            KeyChoice::Cycle => (number..number + count).map(|i| route(i % count)).collect(),
            KeyChoice::Random => {
                let mut random = Random::new(options.seed.wrapping_add(number as u64));
                let mut pick = || random.below(count as u64) as usize;
                (0..RANDOM_ROUTES.max(count))
                    .map(|_| route(pick()))
                    .collect()
            }
        }
    }

    fn route(&self, index: usize, persistent: bool) -> Route {
        let (mut octets, value) = (Vec::new(), format!("v{index}"));
        if self.exchange_type == "headers" {
            field(&mut octets, "k", FieldValue::LongString(value.as_bytes()));
        }
        let properties = PropertyList {
            headers: table(&octets).ok().filter(|table| !table.is_empty()),
            delivery_mode: persistent.then_some(PERSISTENT),
            ..PropertyList::default()
        };
        Route {
            exchange: self.exchange(),
            routing_key: self.routing_key(index),
            properties: properties.to_octets(),
        }
    }

    /// Appends `queue.declare` for queue `index`.
    pub(super) fn send_queue(&self, client: &mut Client, index: usize) -> Result<(), Failure> {
        let name = self.queue(index);
        let declare = queue::Declare {
            queue: short(&name)?,
            durable: self.durable,
            arguments: table(&self.arguments)?,
            ..queue::Declare::default()
        };
        client.send(&declare);
        Ok(())
    }

    /// Appends `queue.bind` for binding `index`.
    pub(super) fn send_binding(&self, client: &mut Client, index: usize) -> Result<(), Failure> {
        let (queue, exchange) = (self.queue(index % self.queues), self.exchange());
        let (key, value) = (self.binding_key(index), format!("v{index}"));
        let mut arguments = Vec::new();
        if self.exchange_type == "headers" {
            field(&mut arguments, "x-match", FieldValue::LongString(b"all"));
            field(
                &mut arguments,
                "k",
                FieldValue::LongString(value.as_bytes()),
            );
        }
        let bind = queue::Bind {
            queue: short(&queue)?,
            exchange: short(&exchange)?,
            routing_key: short(&key)?,
            arguments: table(&arguments)?,
            ..queue::Bind::default()
        };
        client.send(&bind);
        Ok(())
    }

    /// Appends `queue.delete` for queue `index`.
    pub(super) fn send_delete(&self, client: &mut Client, index: usize) -> Result<(), Failure> {
        let name = self.queue(index);
        let delete = queue::Delete {
            queue: short(&name)?,
            ..queue::Delete::default()
        };
        client.send(&delete);
        Ok(())
    }

    /// Declares the exchange, unless it is the default one.
    pub(super) fn declare_exchange(&self, client: &mut Client) -> Result<(), Failure> {
        let (name, exchange_type) = (self.exchange(), self.exchange_type.clone());
        if name.is_empty() {
            return Ok(());
        }
        let declare = exchange::Declare {
            exchange: short(&name)?,
            exchange_type: short(&exchange_type)?,
            durable: self.durable,
            ..exchange::Declare::default()
        };
        client.call(&declare, |method| {
            matches!(method, Method::ExchangeDeclareOk(_)).then_some(())
        })
    }

    /// Deletes the exchange, unless it is the default one.
    pub(super) fn delete_exchange(&self, client: &mut Client) -> Result<(), Failure> {
        let name = self.exchange();
        if name.is_empty() {
            return Ok(());
        }
        let delete = exchange::Delete {
            exchange: short(&name)?,
            ..exchange::Delete::default()
        };
        client.call(&delete, |method| {
            matches!(method, Method::ExchangeDeleteOk(_)).then_some(())
        })
    }

    /// Declares everything, no more than `pipeline` methods unanswered.
    pub(super) fn declare(&self, client: &mut Client, pipeline: usize) -> Result<(), Failure> {
        self.declare_exchange(client)?;
        pipelined(client, self.queues, pipeline, |client, index| {
            self.send_queue(client, index)
        })?;
        pipelined(client, self.bindings(), pipeline, |client, index| {
            self.send_binding(client, index)
        })
    }

    /// Drops what lies in the queues.
    pub(super) fn purge(&self, client: &mut Client) -> Result<(), Failure> {
        pipelined(client, self.queues, 100, |client, index| {
            let name = self.queue(index);
            client.send(&queue::Purge {
                queue: short(&name)?,
                ..queue::Purge::default()
            });
            Ok(())
        })
    }

    /// Deletes everything.
    pub(super) fn delete(&self, client: &mut Client, pipeline: usize) -> Result<(), Failure> {
        pipelined(client, self.queues, pipeline, |client, index| {
            self.send_delete(client, index)
        })?;
        self.delete_exchange(client)
    }

    /// Messages that are ready in all queues, which must exist.
    pub(super) fn ready(&self, client: &mut Client) -> Result<u64, Failure> {
        let mut ready = 0;
        for index in 0..self.queues {
            let name = self.queue(index);
            let declare = queue::Declare {
                queue: short(&name)?,
                passive: true,
                ..queue::Declare::default()
            };
            ready += client.call(&declare, |method| match method {
                Method::QueueDeclareOk(ok) => Some(u64::from(ok.message_count)),
                _ => None,
            })?;
        }
        Ok(ready)
    }
}

/// Sends `count` methods and takes their answers in order, at most `window` of them unanswered.
/// The answers of a window fit into any socket's buffers, so neither side can block the other.
pub(super) fn pipelined(
    client: &mut Client,
    count: usize,
    window: usize,
    send: impl Fn(&mut Client, usize) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        // Half a window at a time: many methods a write, and the broker is never without work.
        if sent - answered <= window / 2 {
            let until = count.min(answered + window);
            while sent < until {
                send(client, sent)?;
                sent += 1;
            }
        }
        client.expect(|method| {
            matches!(
                method,
                Method::QueueDeclareOk(_)
                    | Method::QueueBindOk(_)
                    | Method::QueuePurgeOk(_)
                    | Method::QueueDeleteOk(_)
            )
            .then_some(())
        })?;
        answered += 1;
    }
    Ok(())
}

/// A queue argument as typed on the command line: integer, truth or text.
fn argument(value: &str) -> FieldValue<'_> {
    match (value.parse::<i64>(), value) {
        (Ok(number), _) => FieldValue::Long(number),
        (_, "true") => FieldValue::Bool(true),
        (_, "false") => FieldValue::Bool(false),
        _ => FieldValue::LongString(ShortString::truncated(value).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Request, parse};
    use super::*;
    use crate::wire::content::Properties;
    use std::ffi::OsString;

    fn options(line: &str) -> Options {
        match parse(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Request::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Whether `key` matches the topic pattern, by the definition.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.first(), key.first()) {
            (None, None) => true,
            (Some(&"#"), _) => {
                matches(&pattern[1..], key) || !key.is_empty() && matches(pattern, &key[1..])
            }
            (Some(&word), Some(&found)) if word == "*" || word == found => {
                matches(&pattern[1..], &key[1..])
            }
            _ => false,
        }
    }

    #[test]
    fn every_topic_key_matches_exactly_one_pattern() {
        let topology = Topology::new(&options("throughput --exchange topic --bindings 40"));
        for key in 0..40 {
            let routing_key = topology.routing_key(key);
            let words: Vec<&str> = routing_key.split('.').collect();
            for binding in 0..40 {
                let binding_key = topology.binding_key(binding);
                let pattern: Vec<&str> = binding_key.split('.').collect();
                assert_eq!(
                    matches(&pattern, &words),
                    key == binding,
                    "{routing_key} {binding_key}"
                );
            }
        }
    }

    #[test]
    fn producers_choose_their_keys_as_asked() {
        let keys = |line: &str, number| -> Vec<String> {
            let options = options(line);
            let routes = Topology::new(&options).routes(number, &options);
            routes.into_iter().map(|route| route.routing_key).collect()
        };
        assert_eq!(keys("throughput --queues 3", 4), ["leveret-perf-1"]);
        assert_eq!(
            keys(
                "throughput --exchange direct --queues 2 --bindings 3 --keys cycle",
                1
            ),
            ["k1", "k2", "k0"]
        );
        let random = "throughput --exchange direct --bindings 10 --keys random";
        assert_eq!(keys(random, 0).len(), RANDOM_ROUTES);
        assert_ne!(keys(random, 0), keys(random, 1));
        assert_eq!(keys("throughput --exchange fanout --queues 5", 3), [""]);
    }

    #[test]
    fn properties_carry_mode_and_headers() {
        let options = options("throughput --exchange headers --bindings 2 --persistent on");
        let routes = Topology::new(&options).routes(1, &options);
        let properties = Properties::check(&routes[0].properties).expect("well-formed");
        assert_eq!(properties.delivery_mode(), Some(2));
        let headers = properties.headers().expect("there");
        assert_eq!(headers.get("k").and_then(FieldValue::as_str), Some("v1"));
    }

    #[test]
    fn arguments_have_the_type_they_look_like() {
        assert_eq!(argument("7"), FieldValue::Long(7));
        assert_eq!(argument("true"), FieldValue::Bool(true));
        assert_eq!(argument("quorum"), FieldValue::LongString(b"quorum"));
    }
}
