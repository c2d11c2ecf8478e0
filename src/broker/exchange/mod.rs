//! Exchanges: which bindings a message follows.
//!
//! An exchange holds the keys of its bindings, indexed as its type needs them. A new type is one
//! file beside this one and one arm in each `match` here.

pub mod headers;
pub mod topic;

use hashbrown::HashMap;

use self::headers::{MatchMode, SortedHeaders};
use self::topic::TopicTrie;
use super::binding::{Binding, BindingKey, Bindings, take_out};
use super::exception::{Exception, shown};
use super::meter::Meter;
use crate::wire::field_table::FieldTable;

/// Names an exchange while it exists. The generation keeps a late reference from reaching the
/// next holder of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeKey {
    /// Index into the broker's exchanges.
    pub slot: u32,
    /// Tells the holders of one slot apart.
    pub generation: u32,
}

/// The exchange types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeType {
    /// Binding key equals routing key (spec 3.1.3.1).
    Direct,
    /// Every binding (spec 3.1.3.2).
    Fanout,
    /// Words and wildcards (spec 3.1.3.3).
    Topic,
    /// Header values (spec 3.1.3.4).
    Headers,
}

impl ExchangeKey {
    /// The least of all keys.
    pub const FIRST: ExchangeKey = ExchangeKey {
        slot: 0,
        generation: 0,
    };
}

impl ExchangeType {
    /// The type of that name.
    ///
    /// # Errors
    /// 406 for a name that no type has (RabbitMQ 4; 503 in earlier ones).
    pub fn named(name: &[u8]) -> Result<Self, Exception> {
        match name {
            b"direct" => Ok(ExchangeType::Direct),
            b"fanout" => Ok(ExchangeType::Fanout),
            b"topic" => Ok(ExchangeType::Topic),
            b"headers" => Ok(ExchangeType::Headers),
            _ => Err(Exception::precondition_failed(format!(
                "unknown exchange type '{}'",
                shown(name)
            ))),
        }
    }

    /// The name clients use.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeType::Direct => "direct",
            ExchangeType::Fanout => "fanout",
            ExchangeType::Topic => "topic",
            ExchangeType::Headers => "headers",
        }
    }
}

/// What an exchange was declared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeProperties {
    /// The type.
    pub exchange_type: ExchangeType,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted with the last binding that leaves it.
    pub auto_delete: bool,
    /// Only other exchanges may publish to it.
    pub internal: bool,
    /// Arguments, a field table's octets without its length.
    pub arguments: Box<[u8]>,
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    /// See [`ExchangeKey`].
    pub generation: u32,
    /// Index of its virtual host.
    pub vhost: u32,
    /// Its name; empty for the default exchange.
    pub name: Box<[u8]>,
    /// What it was declared with.
    pub properties: ExchangeProperties,
    /// Bindings that leave it.
    index: Index,
    /// Number of bindings that leave it.
    pub outgoing: u32,
    /// Those among them that lead to what is gone, when it is an auto-delete exchange.
    pub outgoing_going: u32,
    /// Those among them that lead to exchanges.
    pub leads_to_exchanges: u32,
    /// Bindings that lead to it.
    pub incoming: Vec<BindingKey>,
    /// The routing round that came by last.
    pub mark: u64,
    /// Messages published to it by channels that have taken another route since.
    pub published_in: u64,
    /// The same, counted once for each queue that they went to.
    pub published_out: u64,
    /// How fast both grow; `None` as long as nothing has happened.
    pub meter: Option<Box<Meter<2>>>,
}

#[derive(Debug)]
enum Index {
    Direct(HashMap<Box<[u8]>, Vec<BindingKey>, foldhash::fast::FixedState>),
    Fanout(Vec<BindingKey>),
    Topic(Box<TopicTrie>),
    Headers(Vec<(BindingKey, MatchMode)>),
}

impl Exchange {
    /// An exchange without bindings.
    pub fn new(
        generation: u32,
        vhost: u32,
        name: &[u8],
        properties: ExchangeProperties,
    ) -> Exchange {
        let index = match properties.exchange_type {
            ExchangeType::Direct => Index::Direct(HashMap::default()),
            ExchangeType::Fanout => Index::Fanout(Vec::new()),
            ExchangeType::Topic => Index::Topic(Box::default()),
            ExchangeType::Headers => Index::Headers(Vec::new()),
        };
        Exchange {
            generation,
            vhost,
            name: name.into(),
            properties,
            index,
            outgoing: 0,
            outgoing_going: 0,
            leads_to_exchanges: 0,
            incoming: Vec::new(),
            mark: 0,
            published_in: 0,
            published_out: 0,
            meter: None,
        }
    }

    /// Whether the arguments of a binding make sense to this type of exchange.
    ///
    /// # Errors
    /// 406 naming the argument.
    pub fn check_binding(&self, arguments: FieldTable<'_>) -> Result<(), Exception> {
        match self.index {
            Index::Headers(_) => MatchMode::of(arguments).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Whether routing looks at more than the routing key, so that no route may be remembered.
    pub fn reads_headers(&self) -> bool {
        matches!(self.index, Index::Headers(_))
    }

    /// Adds a checked binding that leaves this exchange; gives its place for
    /// [`Binding::at_source`].
    pub fn add(&mut self, key: BindingKey, binding: &Binding) -> u32 {
        self.outgoing += 1;
        self.leads_to_exchanges += u32::from(binding.leads_to_exchange());
        let list = match &mut self.index {
            Index::Direct(by_key) => by_key.entry(binding.binding_key.clone()).or_default(),
            Index::Fanout(all) => all,
            Index::Topic(trie) => return trie.insert(&binding.binding_key, key),
            Index::Headers(all) => {
                let mode = MatchMode::of(FieldTable::stored(&binding.arguments));
                all.push((key, mode.expect("checked before it was added")));
                return all.len() as u32 - 1;
            }
        };
        list.push(key);
        list.len() as u32 - 1
    }

    /// Whether it goes since its last binding has gone.
    pub fn is_unused(&self) -> bool {
        self.properties.auto_delete && self.outgoing == self.outgoing_going
    }

    /// Takes a binding that leaves this exchange out again; gives the one that has taken its
    /// place, whose [`Binding::at_source`] is now the removed one's.
    pub fn remove(&mut self, binding: &Binding) -> Option<BindingKey> {
        self.outgoing -= 1;
        self.leads_to_exchanges -= u32::from(binding.leads_to_exchange());
        match &mut self.index {
            Index::Direct(by_key) => {
                let bindings = by_key.get_mut(&*binding.binding_key)?;
                let moved = take_out(bindings, binding.at_source);
                if bindings.is_empty() {
                    by_key.remove(&*binding.binding_key);
                }
                moved
            }
            Index::Fanout(all) => take_out(all, binding.at_source),
            Index::Topic(trie) => trie.remove(&binding.binding_key, binding.at_source),
            Index::Headers(all) => {
                all.swap_remove(binding.at_source as usize);
                all.get(binding.at_source as usize).map(|&(moved, _)| moved)
            }
        }
    }

    /// The bindings that left an exchange that is gone, in any order, and with each step a piece
    /// of the memory that its index took; `None` is a step that brings no binding.
    pub fn into_bindings(self) -> Box<dyn Iterator<Item = Option<BindingKey>>> {
        match self.index {
            Index::Direct(by_key) => {
                Box::new(by_key.into_iter().flat_map(|(_, keys)| keys).map(Some))
            }
            Index::Fanout(keys) => Box::new(keys.into_iter().map(Some)),
            Index::Headers(keys) => Box::new(keys.into_iter().map(|(key, _)| Some(key))),
            Index::Topic(trie) => Box::new(trie.into_bindings()),
        }
    }

    /// Calls `found` with each binding that a message follows; a binding once. Gives what that
    /// took, in steps that cost about as much as a binding of a fanout exchange.
    pub fn route(
        &mut self,
        routing_key: &[u8],
        headers: &SortedHeaders<'_>,
        bindings: &Bindings,
        mut found: impl FnMut(BindingKey),
    ) -> u64 {
        /// Octets of arguments that are gone through at the price of a binding of a fanout exchange
        /// and the queue behind it.
        const OCTETS_PER_STEP: usize = 128;
        match &mut self.index {
            Index::Direct(by_key) => {
                let bindings = by_key.get(routing_key).map_or(&[][..], Vec::as_slice);
                bindings.iter().copied().for_each(found);
                bindings.len() as u64
            }
            Index::Fanout(all) => {
                all.iter().copied().for_each(found);
                all.len() as u64
            }
            Index::Topic(trie) => trie.route(routing_key, found),
            Index::Headers(all) => {
                let mut octets = 0;
                for &(key, mode) in all.iter() {
                    let arguments = FieldTable::stored(&bindings[key].arguments);
                    octets += 16 + arguments.as_bytes().len();
                    if headers::matches(mode, arguments, headers) {
                        found(key);
                    }
                }
                (octets / OCTETS_PER_STEP) as u64
            }
        }
    }
}
