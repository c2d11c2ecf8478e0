//! The model's exchanges, queues and bindings, and where a message goes. Everything is searched by
//! walking lists: slow and plain, so that it can be believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::operation::{Criteria, Kind};

/// Names a queue for ever: one that is deleted and declared anew is another.
pub(crate) type Uid = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) is_predeclared: bool,
}

impl Exchange {
    /// Whether a declaration of one is a declaration of the other.
    pub(crate) fn is_like(&self, other: &Exchange) -> bool {
        let declared = |it: &Exchange| (it.kind, it.durable, it.auto_delete, it.internal);
        declared(self) == declared(other)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueName {
    pub(crate) uid: Uid,
    pub(crate) durable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination {
    Queue(String),
    Exchange(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) source: String,
    pub(crate) destination: Destination,
    pub(crate) key: String,
    pub(crate) criteria: Criteria,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) exchanges: BTreeMap<String, Exchange>,
    pub(crate) queues: BTreeMap<String, QueueName>,
    pub(crate) bindings: BTreeSet<Binding>,
}

impl Topology {
    pub(crate) fn new() -> Self {
        let predeclared = |kind, internal| Exchange {
            kind,
            durable: true,
            auto_delete: false,
            internal,
            is_predeclared: true,
        };
        let exchanges = [
            ("", Kind::Direct, false),
            ("amq.direct", Kind::Direct, false),
            ("amq.fanout", Kind::Fanout, false),
            ("amq.headers", Kind::Headers, false),
            ("amq.match", Kind::Headers, false),
            ("amq.rabbitmq.trace", Kind::Topic, true),
            ("amq.topic", Kind::Topic, false),
        ];
        Topology {
            exchanges: exchanges
                .into_iter()
                .map(|(name, kind, internal)| (name.to_owned(), predeclared(kind, internal)))
                .collect(),
            queues: BTreeMap::new(),
            bindings: BTreeSet::new(),
        }
    }

    /// One line for each thing that clients have made.
    pub(crate) fn lines(&self) -> BTreeSet<String> {
        let exchanges = self.exchanges.iter().filter(|(_, it)| !it.is_predeclared);
        let exchanges = exchanges.map(|(name, it)| exchange_line(name, it));
        let queues = self.queues.iter().map(|(name, it)| queue_line(name, it));
        exchanges
            .chain(queues)
            .chain(self.bindings.iter().map(|it| format!("{it:?}")))
            .collect()
    }

    /// What of it survives a restart.
    pub(crate) fn durable_part(&self) -> Topology {
        let queues = self.queues.iter().filter(|(_, it)| it.durable);
        let exchanges = self.exchanges.iter().filter(|(_, it)| it.durable);
        let bindings = self.bindings.iter().filter(|it| self.is_durable(it));
        Topology {
            exchanges: exchanges
                .map(|(name, it)| (name.clone(), it.clone()))
                .collect(),
            queues: queues
                .map(|(name, it)| (name.clone(), it.clone()))
                .collect(),
            bindings: bindings.cloned().collect(),
        }
    }

    fn is_durable(&self, binding: &Binding) -> bool {
        self.exchanges
            .get(&binding.source)
            .is_some_and(|it| it.durable)
            && match &binding.destination {
                Destination::Queue(name) => self.queues.get(name).is_some_and(|it| it.durable),
                Destination::Exchange(name) => {
                    self.exchanges.get(name).is_some_and(|it| it.durable)
                }
            }
    }

    pub(crate) fn leaves(&self, exchange: &str) -> bool {
        self.bindings.iter().any(|it| it.source == exchange)
    }

    /// Takes a binding away, and the auto-delete exchange that loses its last one by it.
    pub(crate) fn unbind(&mut self, binding: &Binding) {
        if self.bindings.remove(binding) {
            self.lost_binding(&binding.source);
        }
    }

    fn lost_binding(&mut self, source: &str) {
        let is_auto_delete = self.exchanges.get(source).is_some_and(|it| it.auto_delete);
        if is_auto_delete && !self.leaves(source) {
            self.remove_exchange(source);
        }
    }

    pub(crate) fn remove_exchange(&mut self, name: &str) {
        if self.exchanges.remove(name).is_none() {
            return;
        }
        let it = Destination::Exchange(name.to_owned());
        let gone: Vec<Binding> = self
            .bindings
            .iter()
            .filter(|binding| binding.source == name || binding.destination == it)
            .cloned()
            .collect();
        for binding in gone {
            self.unbind(&binding);
        }
    }

    /// Gives a queue the name that the server has chosen for it.
    pub(crate) fn rename_queue(&mut self, before: &str, name: &str) {
        let Some(it) = self.queues.remove(before) else {
            return;
        };
        self.queues.insert(name.to_owned(), it);
        let (old, new) = (before.to_owned(), name.to_owned());
        let old = Destination::Queue(old);
        let bindings = std::mem::take(&mut self.bindings).into_iter();
        self.bindings = bindings
            .map(|mut binding| {
                if binding.destination == old {
                    binding.destination = Destination::Queue(new.clone());
                    // The key that stands for the name of the queue.
                    if binding.key == before {
                        binding.key.clone_from(&new);
                    }
                }
                binding
            })
            .collect();
    }

    pub(crate) fn remove_queue(&mut self, name: &str) {
        let it = Destination::Queue(name.to_owned());
        let gone: Vec<Binding> = self
            .bindings
            .iter()
            .filter(|binding| binding.destination == it)
            .cloned()
            .collect();
        for binding in gone {
            self.unbind(&binding);
        }
        self.queues.remove(name);
    }

    /// The queues that a message published to `exchange` reaches, each once.
    pub(crate) fn route(&self, exchange: &str, routing_key: &str, headers: &Criteria) -> Vec<Uid> {
        if exchange.is_empty() {
            return self
                .queues
                .get(routing_key)
                .map(|it| it.uid)
                .into_iter()
                .collect();
        }
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::from([exchange]);
        let mut waiting = VecDeque::from([exchange]);
        while let Some(at) = waiting.pop_front() {
            let kind = self.exchanges[at].kind;
            for binding in self.bindings.iter().filter(|it| it.source == at) {
                if !follows(kind, binding, routing_key, headers) {
                    continue;
                }
                match &binding.destination {
                    Destination::Queue(name) => {
                        found.insert(self.queues[name].uid);
                    }
                    Destination::Exchange(name) => {
                        if seen.insert(name) {
                            waiting.push_back(name);
                        }
                    }
                }
            }
        }
        found.into_iter().collect()
    }
}

pub(crate) fn exchange_line(name: &str, it: &Exchange) -> String {
    format!("exchange '{name}' {it:?}")
}

pub(crate) fn queue_line(name: &str, it: &QueueName) -> String {
    format!("queue '{name}' {it:?}")
}

fn follows(kind: Kind, binding: &Binding, routing_key: &str, headers: &Criteria) -> bool {
    match kind {
        Kind::Direct => binding.key == routing_key,
        Kind::Fanout => true,
        Kind::Topic => {
            let pattern: Vec<&str> = words(&binding.key);
            matches_topic(&pattern, &words(routing_key))
        }
        Kind::Headers => {
            let mut holds = binding
                .criteria
                .pairs
                .iter()
                .map(|pair| headers.pairs.contains(pair));
            if binding.criteria.any == Some(true) {
                holds.any(|it| it)
            } else {
                holds.all(|it| it)
            }
        }
    }
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

fn matches_topic(pattern: &[&str], key: &[&str]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((&"#", rest)) => (0..=key.len()).any(|skip| matches_topic(rest, &key[skip..])),
        Some((word, rest)) => key.split_first().is_some_and(|(first, key)| {
            (word == first || *word == "*") && matches_topic(rest, key)
        }),
    }
}
