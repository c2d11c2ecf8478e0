//! A small broker that says what the real one must do: the oracle of the simulation.
//!
//! It is driven by the same commands in the same order ([`Model::execute`]) and watches every frame
//! that the engine puts into an outbox ([`super::observe`]). Which consumer gets a message is the
//! engine's choice; everything else is predicted: answers, exceptions, counts, flags, what a queue
//! holds, what a restart must bring back and what it must not.
//!
//! After a restart it is not known which of the things that were never promised have survived. Such
//! a message is `maybe`: it may turn up, once and in its place, or not; a delivery of a later one
//! settles the question.

mod channel;
mod command;
mod damage;
mod declare;
mod durability;
mod message;
mod queue;
mod seen;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::counts::Counts;
use super::operation::Publication;
use super::topology::{Topology, Uid};

use channel::{
    Channel, Connection, Consumer, Mode, Outstanding, Settlement, Transaction, Unconfirmed,
};
pub(crate) use channel::{Expected, State};
use durability::Group;
pub(crate) use queue::Hit;
pub(crate) use queue::Queue;
use queue::{Entry, Place};

/// Names a connection of the whole run.
pub(crate) type ConnectionKey = u32;

/// The code of an exception.
type Code = u16;

pub(crate) struct Model {
    pub(crate) topology: Topology,
    pub(crate) queues: BTreeMap<Uid, Queue>,
    pub(crate) connections: BTreeMap<ConnectionKey, Connection>,
    pub(crate) publications: HashMap<u64, Rc<Publication>>,
    pub(crate) counts: Counts,
    /// Turns of the engine so far, over all restarts.
    pub(crate) turn: u64,
    /// Calls of the engine so far.
    call: u64,
    /// Everything up to this turn is on the disk: some client was told so.
    pub(crate) durable_turn: u64,
    /// What the durable topology was after each change, oldest first; the first is on the disk.
    history: Vec<(u64, Rc<Topology>)>,
    /// The turn in which a durable thing came to be, by its line in [`Topology::lines`].
    created: HashMap<String, u64>,
    next_uid: Uid,
    /// Transactions whose effects may be torn from each other only by a fault: messages added and
    /// messages settled, with the turn.
    groups: Vec<Group>,
    /// Messages that were on the disk and are lost, since their octets were hit: somebody must say so.
    pub(crate) lost_by_damage: Vec<u64>,
    /// Bodies of so many octets lie in files of their own.
    pub(crate) large_octets_min: u64,
    in_call: BTreeSet<Uid>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let topology = Topology::new();
        let durable = Rc::new(topology.durable_part());
        Model {
            topology,
            queues: BTreeMap::new(),
            connections: BTreeMap::new(),
            publications: HashMap::new(),
            counts: Counts::default(),
            turn: 1,
            call: 0,
            durable_turn: 0,
            history: vec![(0, durable)],
            created: HashMap::new(),
            next_uid: 1,
            groups: Vec::new(),
            lost_by_damage: Vec::new(),
            large_octets_min: u64::MAX,
            in_call: BTreeSet::new(),
        }
    }
}
