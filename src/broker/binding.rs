//! Bindings: from an exchange to a queue or to another exchange.
//!
//! A binding is known by all it is made of: source, destination, key and arguments. Declaring it
//! again changes nothing (RabbitMQ's behaviour; the specification leaves it open).

use hashbrown::HashTable;
use slab::Slab;

use super::exchange::ExchangeKey;
use super::queue::QueueKey;

/// Names a binding while it exists.
pub type BindingKey = u32;

/// Where a binding leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// To a queue.
    Queue(QueueKey),
    /// To another exchange (RabbitMQ's `exchange.bind`).
    Exchange(ExchangeKey),
}

/// One binding.
#[derive(Debug)]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: ExchangeKey,
    /// Where they go.
    pub destination: Destination,
    /// The binding key, at most 255 octets.
    pub binding_key: Box<[u8]>,
    /// Arguments, a field table's octets without its length.
    pub arguments: Box<[u8]>,
    /// Place in the source's list of such bindings; kept by the exchange.
    pub at_source: u32,
    /// Place in the destination's list of bindings that lead to it.
    pub at_destination: u32,
}

/// All bindings of the broker, found by what they are made of.
#[derive(Debug, Default)]
pub struct Bindings {
    all: Slab<Binding>,
    by_content: HashTable<BindingKey>,
    hasher: foldhash::fast::FixedState,
}

impl Bindings {
    fn hash(&self, of: &BindingRef<'_>) -> u64 {
        use std::hash::BuildHasher as _;
        self.hasher
            .hash_one((of.source, of.destination, of.binding_key, of.arguments))
    }

    /// The binding made of these parts, if there is one.
    pub fn find(&self, of: &BindingRef<'_>) -> Option<BindingKey> {
        let same = |&key: &BindingKey| self[key].parts() == *of;
        self.by_content.find(self.hash(of), same).copied()
    }

    /// Adds a binding that is not there yet.
    pub fn insert(&mut self, of: &BindingRef<'_>) -> BindingKey {
        let hash = self.hash(of);
        let key = self.all.insert(of.to_binding()) as BindingKey;
        let (all, hasher) = (&self.all, &self.hasher);
        self.by_content.insert_unique(hash, key, |&other| {
            use std::hash::BuildHasher as _;
            let of = all[other as usize].parts();
            hasher.hash_one((of.source, of.destination, of.binding_key, of.arguments))
        });
        key
    }

    /// Removes a binding and gives it back.
    pub fn remove(&mut self, key: BindingKey) -> Binding {
        let hash = self.hash(&self[key].parts());
        if let Ok(found) = self.by_content.find_entry(hash, |&other| other == key) {
            found.remove();
        }
        self.all.remove(key as usize)
    }

    /// Whether a binding of that key exists.
    pub fn contains(&self, key: BindingKey) -> bool {
        self.all.contains(key as usize)
    }

    /// Number of bindings.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All bindings by key.
    pub fn slots(&self) -> &Slab<Binding> {
        &self.all
    }

    /// All bindings, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (BindingKey, &Binding)> {
        self.all
            .iter()
            .map(|(key, binding)| (key as BindingKey, binding))
    }
}

impl std::ops::Index<BindingKey> for Bindings {
    type Output = Binding;

    fn index(&self, key: BindingKey) -> &Binding {
        &self.all[key as usize]
    }
}

impl std::ops::IndexMut<BindingKey> for Bindings {
    fn index_mut(&mut self, key: BindingKey) -> &mut Binding {
        &mut self.all[key as usize]
    }
}

/// Takes the entry at `at` out of a list by putting the last one in its place; gives that one,
/// whose place has changed.
pub fn take_out(list: &mut Vec<BindingKey>, at: u32) -> Option<BindingKey> {
    list.swap_remove(at as usize);
    list.get(at as usize).copied()
}

/// The parts of a binding, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingRef<'a> {
    /// The exchange that messages come from.
    pub source: ExchangeKey,
    /// Where they go.
    pub destination: Destination,
    /// The binding key.
    pub binding_key: &'a [u8],
    /// Arguments, a field table's octets without its length.
    pub arguments: &'a [u8],
}

impl BindingRef<'_> {
    fn to_binding(self) -> Binding {
        Binding {
            source: self.source,
            destination: self.destination,
            binding_key: self.binding_key.into(),
            arguments: self.arguments.into(),
            at_source: 0,
            at_destination: 0,
        }
    }
}

impl Binding {
    /// Whether its destination is an exchange.
    pub fn leads_to_exchange(&self) -> bool {
        matches!(self.destination, Destination::Exchange(_))
    }

    /// The same, borrowed.
    pub fn parts(&self) -> BindingRef<'_> {
        BindingRef {
            source: self.source,
            destination: self.destination,
            binding_key: &self.binding_key,
            arguments: &self.arguments,
        }
    }
}
