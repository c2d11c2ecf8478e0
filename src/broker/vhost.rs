//! Virtual hosts: separate name spaces of exchanges and queues.

use hashbrown::HashMap;

use super::Broker;
use super::exchange::{ExchangeKey, ExchangeProperties, ExchangeType};
use super::queue::QueueKey;
use super::record::Pairs;
use super::sink::Sink;

type Names<K> = HashMap<Box<[u8]>, K, foldhash::fast::FixedState>;

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    /// Its name.
    pub name: Box<str>,
    /// What it is for.
    pub about: About,
    /// Its exchanges by name; the default exchange has the empty one.
    pub exchanges: Names<ExchangeKey>,
    /// Its queues by name.
    pub queues: Names<QueueKey>,
}

/// What people and clients are told of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
    /// Type of queues that are declared without one.
    pub default_queue_type: Option<String>,
}

/// The exchanges that every virtual host has (spec 3.1.3, RabbitMQ's `amq.match` and
/// `amq.rabbitmq.trace`): name, type, internal.
const PREDECLARED: [(&[u8], ExchangeType, bool); 7] = [
    (b"", ExchangeType::Direct, false),
    (b"amq.direct", ExchangeType::Direct, false),
    (b"amq.fanout", ExchangeType::Fanout, false),
    (b"amq.headers", ExchangeType::Headers, false),
    (b"amq.match", ExchangeType::Headers, false),
    (b"amq.rabbitmq.trace", ExchangeType::Topic, true),
    (b"amq.topic", ExchangeType::Topic, false),
];

impl Broker {
    /// Index of the virtual host of that name.
    pub fn vhost_named(&self, name: &str) -> Option<u32> {
        let found = self.vhosts.iter().find(|(_, vhost)| &*vhost.name == name);
        found.map(|(index, _)| index as u32)
    }

    /// A virtual host with its predeclared exchanges; the one that is there already, if any.
    pub fn add_vhost(&mut self, name: &str) -> u32 {
        if let Some(index) = self.vhost_named(name) {
            return index;
        }
        let (exchanges, queues) = (Names::default(), Names::default());
        let index = self.vhosts.insert(Vhost {
            name: name.into(),
            about: About::default(),
            exchanges,
            queues,
        }) as u32;
        for (name, exchange_type, internal) in PREDECLARED {
            let properties = ExchangeProperties {
                exchange_type,
                durable: true,
                auto_delete: false,
                internal,
                arguments: Box::default(),
            };
            self.add_exchange(index, name, properties);
        }
        index
    }

    /// Says what a virtual host is for.
    pub fn describe_vhost(&mut self, index: u32, about: About) {
        self.vhosts[index as usize].about = about;
    }

    /// Removes a virtual host with all that is in it. The caller has closed its connections.
    /// `pairs`: what else is to be remembered or forgotten together with it.
    pub fn remove_vhost<S: Sink>(&mut self, index: u32, mut pairs: Pairs, sink: &mut S) {
        let vhost = &self.vhosts[index as usize];
        let mut queues: Vec<QueueKey> = vhost.queues.values().copied().collect();
        let mut exchanges: Vec<ExchangeKey> = vhost.exchanges.values().copied().collect();
        queues.sort_unstable();
        exchanges.sort_unstable();
        for key in queues {
            self.remove_queue(key, &mut pairs, sink);
        }
        for key in exchanges {
            if self.exchange_is(key) {
                self.remove_exchange(key, &mut pairs);
            }
        }
        self.vhosts.remove(index as usize);
        if !pairs.is_empty() {
            sink.define(pairs.as_slice());
        }
    }

    /// All virtual hosts with their indices.
    pub fn vhosts(&self) -> impl Iterator<Item = (u32, &Vhost)> {
        self.vhosts
            .iter()
            .map(|(index, vhost)| (index as u32, vhost))
    }
}
