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

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::counts::Counts;
use super::operation::{Criteria, Hostility, Operation, Publication};
use super::topology::{
    Binding, Destination, Exchange, QueueName, Topology, Uid, exchange_line, queue_line,
};

/// Names a connection of the whole run.
pub(crate) type ConnectionKey = u32;

/// Where a message of a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    /// With a client: connection, channel, delivery tag.
    Unacked(ConnectionKey, u16, u64),
}

/// One message in one queue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: u64,
    /// It goes to the log: persistent, in a durable queue.
    pub(crate) logged: bool,
    pub(crate) place: Place,
    /// Whether it survived the last restart is not known.
    pub(crate) maybe: bool,
    /// It must be there.
    pub(crate) required: bool,
    /// Some client may have seen it.
    pub(crate) seen: bool,
    /// It was delivered since the last restart and came back.
    pub(crate) returned: bool,
    /// The call of the engine in which it came back last.
    returned_in: u64,
    /// It lies in the queue since before the last restart.
    is_old: bool,
    /// No consumer could have seen it before the last restart.
    pub(crate) was_hidden: bool,
    /// It was settled before the last restart, perhaps not on the disk.
    was_settled: bool,
    /// The turn in which it came.
    pub(crate) turn: u64,
}

/// A message that was settled, but perhaps not on the disk.
#[derive(Clone, Debug)]
struct Ghost {
    entry: Entry,
    turn: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) durable: bool,
    exclusive_to: Option<ConnectionKey>,
    auto_delete: bool,
    pub(crate) entries: BTreeMap<u64, Entry>,
    /// Sequence by message.
    by_message: HashMap<u64, u64>,
    next_sequence: u64,
    /// A consumer or a get was there once.
    ever_read: bool,
    pub(crate) consumers: BTreeSet<(ConnectionKey, u16, String)>,
    has_exclusive_consumer: bool,
    ghosts: BTreeMap<u64, Ghost>,
    /// Messages that were settled, and surely on the disk.
    gone: BTreeSet<u64>,
    /// Its name in the log, as the engine has it.
    pub(crate) log_id: Option<u32>,
    /// Deleted, but perhaps not on the disk.
    pub(crate) dead: bool,
    /// Greatest sequence delivered in this call.
    delivered_in_call: Option<u64>,
}

/// What a channel has with one of its deliveries.
#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    pub(crate) queue: Uid,
    pub(crate) sequence: u64,
    /// The consumer that holds it, while it exists.
    consumer: Option<String>,
    /// It counts against the channel's common limit.
    counts: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: Uid,
    pub(crate) no_ack: bool,
    exclusive: bool,
    prefetch: u16,
    unacked: u32,
    last_sequence: Option<u64>,
    /// consume-ok was seen, or is not to come.
    pub(crate) is_announced: bool,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settlement {
    Gone,
    Back,
}

#[derive(Clone, Debug, Default)]
struct Transaction {
    publishes: Vec<Rc<Publication>>,
    settlements: Vec<(u64, Outstanding, Settlement)>,
}

/// A publish that waits for its confirm.
#[derive(Clone, Debug)]
struct Unconfirmed {
    targets: Vec<(Uid, u64)>,
    turn: u64,
    /// It surely went to the log.
    is_logged: bool,
    /// basic.return comes first.
    is_returned: bool,
}

#[derive(Clone, Debug)]
enum Mode {
    Plain,
    Confirm {
        confirmed: u64,
        waiting: VecDeque<Unconfirmed>,
    },
    Tx(Transaction),
}

/// An answer that must come on a channel, in this order.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// The method of that name; then everything up to the turn is on the disk.
    Method(&'static str, Option<u64>),
    /// queue.declare-ok: name (`None`: generated), ready messages from–to, consumers.
    Declared(Option<String>, Uid, (u64, u64), u32, Option<u64>),
    /// A method with a count from–to.
    Count(&'static str, (u64, u64), Option<u64>),
    Consuming(String),
    /// basic.get-ok with one of these sequences, or, if allowed, get-empty.
    Got {
        queue: Uid,
        sequences: Vec<u64>,
        or_empty: bool,
        no_ack: bool,
        ready: (u64, u64),
    },
    /// channel.close with that code.
    Close(u16),
}

#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) is_closing: bool,
    /// The client has closed it; close-ok is under way.
    pub(crate) closed_by_client: bool,
    pub(crate) next_tag: u64,
    pub(crate) outstanding: BTreeMap<u64, Outstanding>,
    pub(crate) consumers: BTreeMap<String, Consumer>,
    consumer_unacked: u32,
    prefetch: u16,
    global: u16,
    mode: Mode,
    last_queue: Option<String>,
    pub(crate) expected: VecDeque<Expected>,
    returns: VecDeque<Rc<Publication>>,
    /// Consumers whose queue has gone: the client must be told.
    pub(crate) cancelled: BTreeSet<String>,
}

impl Channel {
    fn new() -> Self {
        Channel {
            is_closing: false,
            closed_by_client: false,
            next_tag: 1,
            outstanding: BTreeMap::new(),
            consumers: BTreeMap::new(),
            consumer_unacked: 0,
            prefetch: 0,
            global: 0,
            mode: Mode::Plain,
            last_queue: None,
            expected: VecDeque::new(),
            returns: VecDeque::new(),
            cancelled: BTreeSet::new(),
        }
    }

    fn expect(&mut self, expected: Expected) {
        self.expected.push_back(expected);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Until connection.open-ok.
    Handshake,
    /// The log-in was refused.
    Refused,
    Open,
    /// connection.close was sent by the server.
    Closing,
    Over,
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) state: State,
    /// Channels in the order in which they were opened.
    pub(crate) channels: Vec<(u16, Channel)>,
    /// Answers on channel 0, by name.
    pub(crate) expected: VecDeque<&'static str>,
    /// The code of the connection.close to come.
    pub(crate) close_code: Option<u16>,
    pub(crate) is_blocked: bool,
}

impl Connection {
    pub(crate) fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels
            .iter_mut()
            .find(|(other, _)| *other == number)
            .map(|(_, it)| it)
    }
}

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
    /// Octets on the disk were damaged: messages may be lost, or come back.
    pub(crate) is_damaged: bool,
    /// Bodies of so many octets lie in files of their own.
    pub(crate) large_octets_min: u64,
    in_call: BTreeSet<Uid>,
}

/// What a transaction did to logged messages.
#[derive(Clone, Debug)]
struct Group {
    turn: u64,
    added: Vec<(Uid, u64)>,
    settled: Vec<(Uid, u64)>,
    /// What is known of it after a restart: it happened, it did not.
    evidence: (bool, bool),
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
            is_damaged: false,
            large_octets_min: u64::MAX,
            in_call: BTreeSet::new(),
        }
    }

    // ---- connections ----

    pub(crate) fn accept(&mut self, key: ConnectionKey) {
        let connection = Connection {
            state: State::Handshake,
            channels: Vec::new(),
            expected: VecDeque::new(),
            close_code: None,
            is_blocked: false,
        };
        self.connections.insert(key, connection);
    }

    /// The peer is gone.
    pub(crate) fn dropped(&mut self, key: ConnectionKey) {
        if self.connections[&key].state == State::Open {
            self.end_session(key);
        }
        self.connections.remove(&key);
    }

    fn connection(&mut self, key: ConnectionKey) -> &mut Connection {
        self.connections
            .get_mut(&key)
            .expect("a connection that is there")
    }

    /// The channel, when it is open and its client may use it.
    pub(crate) fn channel(&mut self, key: ConnectionKey, number: u16) -> &mut Channel {
        self.connection(key)
            .channel(number)
            .expect("an open channel")
    }

    fn end_session(&mut self, key: ConnectionKey) {
        let numbers: Vec<u16> = self
            .connection(key)
            .channels
            .iter()
            .map(|&(number, _)| number)
            .collect();
        for number in numbers {
            self.end_channel(key, number);
            self.connection(key)
                .channels
                .retain(|&(other, _)| other != number);
        }
        let exclusive: Vec<Uid> = self
            .queues
            .iter()
            .filter(|(_, it)| it.exclusive_to == Some(key) && !it.dead)
            .map(|(&uid, _)| uid)
            .collect();
        for uid in exclusive {
            self.remove_queue(uid);
        }
        self.note_topology();
    }

    /// Gives back what a channel holds and ends its consumers.
    fn end_channel(&mut self, key: ConnectionKey, number: u16) {
        let channel = self.channel(key, number);
        if channel.is_closing {
            return;
        }
        let mut back: Vec<Outstanding> = std::mem::take(&mut channel.outstanding)
            .into_values()
            .collect();
        // Confirms that are due go out before the answer to the close.
        if let Mode::Tx(transaction) = &mut channel.mode {
            let transaction = std::mem::take(transaction);
            back.extend(transaction.settlements.into_iter().map(|(_, it, _)| it));
        }
        let consumers = std::mem::take(&mut channel.consumers);
        for outstanding in back {
            self.give_back(&outstanding);
        }
        for (tag, consumer) in consumers {
            self.detach(key, number, &tag, &consumer);
        }
        self.note_topology();
    }

    /// Takes a consumer that the channel has let go of out of its queue.
    fn detach(&mut self, key: ConnectionKey, number: u16, tag: &str, consumer: &Consumer) {
        let Some(queue) = self.queues.get_mut(&consumer.queue) else {
            return;
        };
        queue.consumers.remove(&(key, number, tag.to_owned()));
        queue.has_exclusive_consumer &= !consumer.exclusive;
        if queue.auto_delete && queue.consumers.is_empty() && !queue.dead {
            self.remove_queue(consumer.queue);
        }
    }

    /// Closes a channel for an exception.
    fn fail_channel(&mut self, key: ConnectionKey, number: u16, code: Code) {
        self.counts.add("channel exceptions");
        self.end_channel(key, number);
        let channel = self.channel(key, number);
        channel.is_closing = true;
        channel.expect(Expected::Close(code));
    }

    fn fail_connection(&mut self, key: ConnectionKey, code: Code) {
        self.counts.add("connection exceptions");
        if self.connection(key).state == State::Open {
            self.end_session(key);
        }
        let connection = self.connection(key);
        connection.state = State::Closing;
        connection.close_code = Some(code);
        connection.expected.clear();
    }

    // ---- durability ----

    /// Some client was told that what was done up to `turn` is on the disk.
    pub(crate) fn promised(&mut self, turn: u64) {
        if turn <= self.durable_turn {
            return;
        }
        self.durable_turn = turn;
        let known = self.history.iter().rposition(|&(of, _)| of <= turn);
        if let Some(known) = known {
            self.history.drain(..known);
        }
        self.groups.retain(|group| group.turn > turn);
        for queue in self.queues.values_mut() {
            let (lasting, past): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut queue.ghosts)
                    .into_iter()
                    .partition(|(_, it)| it.turn > turn);
            queue.ghosts = lasting;
            queue
                .gone
                .extend(past.into_values().map(|it| it.entry.message));
        }
        let named: BTreeSet<Uid> = self
            .history
            .iter()
            .flat_map(|(_, it)| it.queues.values().map(|queue| queue.uid))
            .collect();
        self.queues
            .retain(|uid, queue| !queue.dead || named.contains(uid));
    }

    /// Remembers the durable topology when it has changed.
    fn note_topology(&mut self) -> bool {
        let durable = self.topology.durable_part();
        let (_, last) = self.history.last().expect("never empty");
        if **last == durable {
            return false;
        }
        for line in &durable.lines() - &last.lines() {
            self.created.insert(line, self.turn);
        }
        self.history.push((self.turn, Rc::new(durable)));
        true
    }

    /// The turn in which a thing came to be that somebody declares again: whoever hears that it is
    /// there may count on it.
    fn created(&self, line: &str) -> Option<u64> {
        self.created.get(line).copied()
    }

    /// The turn that an answer to a change of the topology stands for, if something durable
    /// changed.
    fn defined(&mut self) -> Option<u64> {
        self.note_topology().then_some(self.turn)
    }

    // ---- messages ----

    fn give_back(&mut self, outstanding: &Outstanding) {
        let call = self.call;
        if let Some(queue) = self.queues.get_mut(&outstanding.queue)
            && !queue.dead
            && let Some(entry) = queue.entries.get_mut(&outstanding.sequence)
        {
            entry.place = Place::Ready;
            entry.returned = true;
            entry.returned_in = call;
        }
    }

    /// A message is done with.
    fn settle(&mut self, uid: Uid, sequence: u64) {
        let turn = self.turn;
        let Some(queue) = self.queues.get_mut(&uid) else {
            return;
        };
        if queue.dead {
            return;
        }
        let Some(entry) = queue.entries.remove(&sequence) else {
            return;
        };
        queue.by_message.remove(&entry.message);
        if entry.logged {
            queue.ghosts.insert(sequence, Ghost { entry, turn });
        } else {
            queue.gone.insert(entry.message);
        }
    }

    fn remove_queue(&mut self, uid: Uid) {
        let Some(queue) = self.queues.get_mut(&uid) else {
            return;
        };
        let name = queue.name.clone();
        queue.dead = true;
        let consumers = std::mem::take(&mut queue.consumers);
        let is_durable = queue.durable;
        self.topology.remove_queue(&name);
        for (key, number, tag) in consumers {
            let channel = self.channel(key, number);
            channel.consumers.remove(&tag);
            channel.cancelled.insert(tag.clone());
            for outstanding in channel.outstanding.values_mut() {
                if outstanding.consumer.as_ref() == Some(&tag) {
                    outstanding.consumer = None;
                }
            }
        }
        if !is_durable {
            self.queues.remove(&uid);
        }
    }

    /// Ready messages of a queue: those that are surely there, and all.
    pub(crate) fn ready(&self, uid: Uid) -> (u64, u64) {
        let ready = || {
            self.queues[&uid]
                .entries
                .values()
                .filter(|it| it.place == Place::Ready)
        };
        let all = ready().count() as u64;
        (ready().filter(|it| !it.maybe).count() as u64, all)
    }

    // ---- commands ----

    /// Carries out what the engine has just carried out.
    pub(crate) fn execute(&mut self, key: ConnectionKey, number: u16, operation: &Operation) {
        use Operation as O;
        self.counts.add("operations");
        let connection = self.connection(key);
        match (connection.state, operation) {
            (State::Closing, O::ConnectionCloseOk) => connection.state = State::Over,
            (State::Closing, O::ConnectionClose) => {
                connection.expected.push_back("connection.close-ok");
            }
            (State::Closing | State::Over | State::Refused, _) | (_, O::Heartbeat) => {}
            (_, O::ConnectionClose) => {
                if connection.state == State::Open {
                    self.end_session(key);
                }
                let connection = self.connection(key);
                connection.state = State::Over;
                connection.expected.clear();
                connection.expected.push_back("connection.close-ok");
            }
            (State::Handshake, _) => self.handshake(key, operation),
            (State::Open, O::Hostile(hostility)) => self.hostile(key, number, *hostility),
            (State::Open, _) => self.on_channel(key, number, operation),
        }
    }

    fn handshake(&mut self, key: ConnectionKey, operation: &Operation) {
        use Operation as O;
        let connection = self.connection(key);
        match operation {
            O::ProtocolHeader => connection.expected.push_back("connection.start"),
            O::StartOk {
                password_is_right: true,
            } => connection.expected.push_back("connection.tune"),
            O::StartOk { .. } => connection.state = State::Refused,
            O::TuneOk { .. } => {}
            O::Open => {
                connection.expected.push_back("connection.open-ok");
                connection.state = State::Open;
            }
            _ => unreachable!("clients open in order"),
        }
    }

    fn hostile(&mut self, key: ConnectionKey, number: u16, hostility: Hostility) {
        let is_usable = self
            .connection(key)
            .channel(number)
            .is_some_and(|it| !it.is_closing);
        // What a channel that is being closed gets is not looked at.
        let ignored = !is_usable
            && self.connection(key).channel(number).is_some()
            && matches!(
                hostility,
                Hostility::LoneHeader
                    | Hostility::UnknownMethod
                    | Hostility::CutArguments
                    | Hostility::Immediate
            );
        if !ignored {
            self.fail_connection(key, hostility.reply_code());
        }
    }

    fn on_channel(&mut self, key: ConnectionKey, number: u16, operation: &Operation) {
        use Operation as O;
        let connection = self.connection(key);
        let Some(channel) = connection.channel(number) else {
            match operation {
                O::ChannelOpen => {
                    let mut channel = Channel::new();
                    channel.expect(Expected::Method("channel.open-ok", None));
                    connection.channels.push((number, channel));
                }
                _ => self.fail_connection(key, 504),
            }
            return;
        };
        if channel.is_closing {
            match operation {
                O::ChannelCloseOk => connection.channels.retain(|&(other, _)| other != number),
                O::ChannelClose => channel.expect(Expected::Method("channel.close-ok", None)),
                _ => {}
            }
            return;
        }
        if let Err(code) = self.command(key, number, operation) {
            if matches!(code, 501..=506 | 530 | 540 | 541) {
                self.fail_connection(key, code);
            } else {
                self.fail_channel(key, number, code);
            }
        }
    }

    fn command(
        &mut self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
    ) -> Result<(), Code> {
        use Operation as O;
        match operation {
            O::ChannelClose => {
                self.end_channel(key, number);
                let channel = self.channel(key, number);
                channel.is_closing = true;
                channel.closed_by_client = true;
                channel.expect(Expected::Method("channel.close-ok", None));
            }
            O::ChannelCloseOk => {}
            O::ChannelOpen => return Err(504),
            O::Flow => self
                .channel(key, number)
                .expect(Expected::Method("channel.flow-ok", None)),
            O::ExchangeDeclare { .. }
            | O::ExchangeDelete { .. }
            | O::ExchangeBind { .. }
            | O::ExchangeUnbind { .. } => self.exchange_command(key, number, operation)?,
            O::QueueDeclare { .. } => self.queue_declare(key, number, operation)?,
            O::QueueDelete {
                name,
                if_unused,
                if_empty,
                no_wait,
            } => {
                let name = self.queue_named(key, number, name)?;
                let mut count = (0, 0);
                let mut after = None;
                if self.topology.queues.contains_key(&name) {
                    let uid = self.find_queue(key, &name)?;
                    count = self.ready(uid);
                    if *if_unused && !self.queues[&uid].consumers.is_empty() {
                        return Err(406);
                    }
                    if *if_empty && count.1 > 0 {
                        // Clients do not ask while it is not known.
                        return Err(406);
                    }
                    self.remove_queue(uid);
                    after = self.defined();
                }
                if !no_wait {
                    self.channel(key, number).expect(Expected::Count(
                        "queue.delete-ok",
                        count,
                        after,
                    ));
                }
            }
            O::QueueBind {
                queue,
                exchange,
                key: binding_key,
                criteria,
                no_wait,
            } => {
                let binding =
                    self.queue_binding(key, number, (queue, exchange, binding_key), criteria)?;
                self.check_not_locked(key, &binding)?;
                let line = format!("{binding:?}");
                self.topology.bindings.insert(binding);
                let after = self.defined().or_else(|| self.created(&line));
                if !no_wait {
                    self.channel(key, number)
                        .expect(Expected::Method("queue.bind-ok", after));
                }
            }
            O::QueueUnbind {
                queue,
                exchange,
                key: binding_key,
                criteria,
            } => {
                self.queue_named(key, number, queue)?;
                match self.queue_binding(key, number, (queue, exchange, binding_key), criteria) {
                    Ok(binding) => {
                        if self.topology.bindings.contains(&binding) {
                            self.check_not_locked(key, &binding)?;
                        }
                        self.topology.unbind(&binding);
                    }
                    // What is not there is not bound.
                    Err(404) => {}
                    Err(code) => return Err(code),
                }
                let after = self.defined();
                self.channel(key, number)
                    .expect(Expected::Method("queue.unbind-ok", after));
            }
            O::QueuePurge { name, no_wait } => {
                let name = self.queue_named(key, number, name)?;
                let uid = self.find_queue(key, &name)?;
                let count = self.ready(uid);
                let ready: Vec<u64> = self.queues[&uid]
                    .entries
                    .iter()
                    .filter(|(_, it)| it.place == Place::Ready)
                    .map(|(&sequence, _)| sequence)
                    .collect();
                for sequence in ready {
                    self.settle(uid, sequence);
                }
                if !no_wait {
                    self.channel(key, number).expect(Expected::Count(
                        "queue.purge-ok",
                        count,
                        None,
                    ));
                }
            }
            O::Publish(publication) => {
                if publication.body_octets as u64 >= self.large_octets_min {
                    self.counts.add("large bodies published");
                }
                self.publish(key, number, publication)?;
            }
            O::Consume { .. } => self.consume(key, number, operation)?,
            O::Cancel { tag, no_wait } => {
                let channel = self.channel(key, number);
                if let Some(consumer) = channel.consumers.remove(tag) {
                    for outstanding in channel.outstanding.values_mut() {
                        if outstanding.consumer.as_ref() == Some(tag) {
                            outstanding.consumer = None;
                        }
                    }
                    if let Mode::Tx(transaction) = &mut channel.mode {
                        for (_, outstanding, _) in &mut transaction.settlements {
                            if outstanding.consumer.as_ref() == Some(tag) {
                                outstanding.consumer = None;
                            }
                        }
                    }
                    self.detach(key, number, tag, &consumer);
                }
                let after = self.defined();
                if !no_wait {
                    self.channel(key, number)
                        .expect(Expected::Method("basic.cancel-ok", after));
                }
            }
            O::Get { queue, no_ack } => {
                let name = self.queue_named(key, number, queue)?;
                let uid = self.find_queue(key, &name)?;
                let mut sequences = Vec::new();
                let mut or_empty = true;
                for (&sequence, entry) in &self.queues[&uid].entries {
                    if entry.place == Place::Ready {
                        sequences.push(sequence);
                        if !entry.maybe {
                            or_empty = false;
                            break;
                        }
                    }
                }
                let ready = self.ready(uid);
                let got = Expected::Got {
                    queue: uid,
                    sequences,
                    or_empty,
                    no_ack: *no_ack,
                    ready,
                };
                self.channel(key, number).expect(got);
                self.queues.get_mut(&uid).expect("found above").ever_read = true;
            }
            O::Ack { tag, multiple } => {
                self.settle_tags(key, number, *tag, *multiple, Settlement::Gone)?;
            }
            O::Nack {
                tag,
                multiple,
                requeue,
            } => {
                let settlement = if *requeue {
                    Settlement::Back
                } else {
                    Settlement::Gone
                };
                self.settle_tags(key, number, *tag, *multiple, settlement)?;
            }
            O::Reject { tag, requeue } => {
                let settlement = if *requeue {
                    Settlement::Back
                } else {
                    Settlement::Gone
                };
                self.settle_tags(key, number, *tag, false, settlement)?;
            }
            O::Recover { wants_answer } => {
                let outstanding = std::mem::take(&mut self.channel(key, number).outstanding);
                for it in outstanding.into_values() {
                    self.settled(key, number, &it, Settlement::Back);
                }
                if *wants_answer {
                    self.channel(key, number)
                        .expect(Expected::Method("basic.recover-ok", None));
                }
            }
            O::Qos { count, global } => {
                let channel = self.channel(key, number);
                if *global {
                    channel.global = *count;
                } else {
                    // As in RabbitMQ it takes the common limit away.
                    (channel.prefetch, channel.global) = (*count, 0);
                }
                channel.expect(Expected::Method("basic.qos-ok", None));
            }
            O::ConfirmSelect { no_wait } => {
                let channel = self.channel(key, number);
                match channel.mode {
                    Mode::Tx(_) => return Err(406),
                    Mode::Confirm { .. } => {}
                    Mode::Plain => {
                        channel.mode = Mode::Confirm {
                            confirmed: 0,
                            waiting: VecDeque::new(),
                        }
                    }
                }
                if !no_wait {
                    channel.expect(Expected::Method("confirm.select-ok", None));
                }
            }
            O::TxSelect => {
                let channel = self.channel(key, number);
                match channel.mode {
                    Mode::Confirm { .. } => return Err(406),
                    Mode::Tx(_) => {}
                    Mode::Plain => channel.mode = Mode::Tx(Transaction::default()),
                }
                channel.expect(Expected::Method("tx.select-ok", None));
            }
            O::TxCommit => self.commit(key, number)?,
            O::TxRollback => {
                let channel = self.channel(key, number);
                let Mode::Tx(transaction) = &mut channel.mode else {
                    return Err(406);
                };
                let transaction = std::mem::take(transaction);
                let back = transaction
                    .settlements
                    .into_iter()
                    .map(|(tag, it, _)| (tag, it));
                channel.outstanding.extend(back);
                channel.expect(Expected::Method("tx.rollback-ok", None));
            }
            _ => unreachable!("connection's own methods are dealt with before"),
        }
        Ok(())
    }

    fn queue_named(&mut self, key: ConnectionKey, number: u16, name: &str) -> Result<String, Code> {
        if name.is_empty() {
            return self.channel(key, number).last_queue.clone().ok_or(404);
        }
        Ok(name.to_owned())
    }

    /// Somebody is about to read a queue.
    pub(crate) fn may_read(&mut self, key: ConnectionKey, number: u16, name: &str) {
        let is_open = self
            .connection(key)
            .channel(number)
            .is_some_and(|it| !it.is_closing);
        if is_open
            && let Ok(name) = self.queue_named(key, number, name)
            && let Ok(uid) = self.find_queue(key, &name)
        {
            self.queues.get_mut(&uid).expect("found above").ever_read = true;
        }
    }

    fn find_queue(&self, key: ConnectionKey, name: &str) -> Result<Uid, Code> {
        let uid = self.topology.queues.get(name).ok_or(404u16)?.uid;
        match self.queues[&uid].exclusive_to {
            Some(owner) if owner != key => Err(405),
            _ => Ok(uid),
        }
    }

    fn check_not_locked(&self, key: ConnectionKey, binding: &Binding) -> Result<(), Code> {
        match &binding.destination {
            Destination::Queue(name) => self.find_queue(key, name).map(|_| ()),
            Destination::Exchange(_) => Ok(()),
        }
    }

    fn queue_binding(
        &mut self,
        key: ConnectionKey,
        number: u16,
        (queue, exchange, binding_key): (&str, &str, &str),
        criteria: &Criteria,
    ) -> Result<Binding, Code> {
        let name = self.queue_named(key, number, queue)?;
        if exchange.is_empty() {
            return Err(403);
        }
        if !self.topology.exchanges.contains_key(exchange) {
            return Err(404);
        }
        self.topology.queues.get(&name).ok_or(404u16)?;
        let binding_key = if queue.is_empty() && binding_key.is_empty() {
            name.clone()
        } else {
            binding_key.to_owned()
        };
        Ok(Binding {
            source: exchange.to_owned(),
            destination: Destination::Queue(name),
            key: binding_key,
            criteria: criteria.clone(),
        })
    }

    fn exchange_command(
        &mut self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
    ) -> Result<(), Code> {
        use Operation as O;
        let (no_wait, answer, after) = match operation {
            O::ExchangeDeclare {
                name,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
            } => {
                if name.is_empty() {
                    return Err(403);
                }
                let found = self.topology.exchanges.get(name);
                let mut after = None;
                match found {
                    None if *passive => return Err(404),
                    Some(_) if *passive => {}
                    Some(it) => {
                        let same = it.kind == *kind
                            && it.durable == *durable
                            && it.auto_delete == *auto_delete
                            && it.internal == *internal;
                        if !same {
                            return Err(406);
                        }
                        // It may have been declared by another just now.
                        after = self.created(&exchange_line(name, it));
                    }
                    None if name.starts_with("amq.") => return Err(403),
                    None => {
                        let exchange = Exchange {
                            kind: *kind,
                            durable: *durable,
                            auto_delete: *auto_delete,
                            internal: *internal,
                            is_predeclared: false,
                        };
                        self.topology.exchanges.insert(name.clone(), exchange);
                        after = self.defined();
                    }
                }
                (*no_wait, "exchange.declare-ok", after)
            }
            O::ExchangeDelete {
                name,
                if_unused,
                no_wait,
            } => {
                if name.is_empty() || name.starts_with("amq.") {
                    return Err(403);
                }
                if *if_unused && self.topology.leaves(name) {
                    return Err(406);
                }
                self.topology.remove_exchange(name);
                (*no_wait, "exchange.delete-ok", self.defined())
            }
            O::ExchangeBind {
                destination,
                source,
                key: binding_key,
                criteria,
                no_wait,
            } => {
                let binding = self.exchange_binding(destination, source, binding_key, criteria)?;
                let line = format!("{binding:?}");
                self.topology.bindings.insert(binding);
                let after = self.defined().or_else(|| self.created(&line));
                (*no_wait, "exchange.bind-ok", after)
            }
            O::ExchangeUnbind {
                destination,
                source,
                key: binding_key,
                criteria,
                no_wait,
            } => {
                match self.exchange_binding(destination, source, binding_key, criteria) {
                    Ok(binding) => self.topology.unbind(&binding),
                    Err(404) => {}
                    Err(code) => return Err(code),
                }
                (*no_wait, "exchange.unbind-ok", self.defined())
            }
            _ => unreachable!("commands of exchanges"),
        };
        if !no_wait {
            self.channel(key, number)
                .expect(Expected::Method(answer, after));
        }
        Ok(())
    }

    fn exchange_binding(
        &self,
        destination: &str,
        source: &str,
        key: &str,
        criteria: &Criteria,
    ) -> Result<Binding, Code> {
        if destination.is_empty() || source.is_empty() {
            return Err(403);
        }
        let is_there = |name| self.topology.exchanges.contains_key(name);
        if !is_there(source) || !is_there(destination) {
            return Err(404);
        }
        Ok(Binding {
            source: source.to_owned(),
            destination: Destination::Exchange(destination.to_owned()),
            key: key.to_owned(),
            criteria: criteria.clone(),
        })
    }

    fn queue_declare(
        &mut self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
    ) -> Result<(), Code> {
        let Operation::QueueDeclare {
            name,
            passive,
            durable,
            exclusive,
            auto_delete,
            no_wait,
        } = operation
        else {
            unreachable!("a declaration")
        };
        let given = name.clone();
        let mut after = None;
        let uid = if let Some(found) = self.topology.queues.get(&given).cloned() {
            if *passive {
                self.find_queue(key, &given)?
            } else {
                let queue = &self.queues[&found.uid];
                if queue.exclusive_to != exclusive.then_some(key) {
                    return Err(405);
                }
                if queue.durable != (*durable && !exclusive) || queue.auto_delete != *auto_delete {
                    return Err(406);
                }
                // It may have been declared by another just now.
                after = self.created(&queue_line(&given, &found));
                found.uid
            }
        } else if *passive {
            return Err(404);
        } else if given.starts_with("amq.") {
            return Err(403);
        } else {
            let uid = self.next_uid;
            self.next_uid += 1;
            let is_durable = *durable && !exclusive;
            // The name is the engine's choice, known when it tells.
            let name = if given.is_empty() {
                format!("?{uid}")
            } else {
                given.clone()
            };
            self.topology.queues.insert(
                name.clone(),
                QueueName {
                    uid,
                    durable: is_durable,
                },
            );
            let queue = Queue {
                name,
                durable: is_durable,
                exclusive_to: exclusive.then_some(key),
                auto_delete: *auto_delete,
                entries: BTreeMap::new(),
                by_message: HashMap::new(),
                next_sequence: 0,
                ever_read: false,
                consumers: BTreeSet::new(),
                has_exclusive_consumer: false,
                ghosts: BTreeMap::new(),
                gone: BTreeSet::new(),
                log_id: None,
                dead: false,
                delivered_in_call: None,
            };
            self.queues.insert(uid, queue);
            after = self.defined();
            uid
        };
        let ready = self.ready(uid);
        let queue = &self.queues[&uid];
        let (name, consumers) = (queue.name.clone(), queue.consumers.len() as u32);
        let channel = self.channel(key, number);
        channel.last_queue = Some(name.clone());
        if !no_wait {
            let name = (!given.is_empty()).then_some(name);
            channel.expect(Expected::Declared(name, uid, ready, consumers, after));
        }
        Ok(())
    }

    fn publish(
        &mut self,
        key: ConnectionKey,
        number: u16,
        publication: &Rc<Publication>,
    ) -> Result<(), Code> {
        self.publications
            .insert(publication.id, Rc::clone(publication));
        let exchange = self
            .topology
            .exchanges
            .get(&publication.exchange)
            .ok_or(404u16)?;
        if exchange.internal {
            return Err(403);
        }
        if let Mode::Tx(transaction) = &mut self.channel(key, number).mode {
            transaction.publishes.push(Rc::clone(publication));
            return Ok(());
        }
        let (targets, is_logged) = self.route(key, number, publication);
        let turn = self.turn;
        if let Mode::Confirm { waiting, .. } = &mut self.channel(key, number).mode {
            let is_returned = targets.is_empty() && publication.mandatory;
            waiting.push_back(Unconfirmed {
                targets,
                turn,
                is_logged,
                is_returned,
            });
        }
        Ok(())
    }

    /// Puts a message into its queues; says where, and whether it surely goes to the log.
    fn route(
        &mut self,
        key: ConnectionKey,
        number: u16,
        publication: &Rc<Publication>,
    ) -> (Vec<(Uid, u64)>, bool) {
        let (mut targets, mut is_logged) = (Vec::new(), false);
        let found = self.topology.route(
            &publication.exchange,
            &publication.routing_key,
            &publication.headers,
        );
        for uid in found {
            // A consumer without acknowledgements may have it before it is ever stored.
            let may_pass = self.has_no_ack_consumer(uid);
            let turn = self.turn;
            let queue = self.queues.get_mut(&uid).expect("a queue that is bound");
            let sequence = queue.next_sequence;
            queue.next_sequence += 1;
            let logged = publication.persistent && queue.durable;
            is_logged |= logged && !may_pass;
            let entry = Entry {
                message: publication.id,
                logged,
                place: Place::Ready,
                maybe: false,
                required: false,
                seen: false,
                returned: false,
                returned_in: 0,
                is_old: false,
                was_hidden: false,
                was_settled: false,
                turn,
            };
            queue.entries.insert(sequence, entry);
            queue.by_message.insert(publication.id, sequence);
            targets.push((uid, sequence));
        }
        if targets.is_empty() && publication.mandatory {
            self.counts.add("returned");
            self.channel(key, number)
                .returns
                .push_back(Rc::clone(publication));
        }
        (targets, is_logged)
    }

    fn has_no_ack_consumer(&self, uid: Uid) -> bool {
        self.queues[&uid]
            .consumers
            .iter()
            .any(|(key, number, tag)| {
                let connection = &self.connections[key];
                let channel = connection
                    .channels
                    .iter()
                    .find(|(other, _)| other == number);
                channel.is_some_and(|(_, it)| it.consumers.get(tag).is_some_and(|it| it.no_ack))
            })
    }

    fn consume(
        &mut self,
        key: ConnectionKey,
        number: u16,
        operation: &Operation,
    ) -> Result<(), Code> {
        let Operation::Consume {
            queue,
            tag,
            no_ack,
            exclusive,
            no_wait,
        } = operation
        else {
            unreachable!("a consume")
        };
        let name = self.queue_named(key, number, queue)?;
        if self.channel(key, number).consumers.contains_key(tag) {
            return Err(530);
        }
        let uid = self.find_queue(key, &name)?;
        let queue = self.queues.get_mut(&uid).expect("found above");
        if queue.has_exclusive_consumer || (*exclusive && !queue.consumers.is_empty()) {
            return Err(403);
        }
        queue.consumers.insert((key, number, tag.clone()));
        queue.has_exclusive_consumer = *exclusive;
        queue.ever_read = true;
        let channel = self.channel(key, number);
        let consumer = Consumer {
            queue: uid,
            no_ack: *no_ack,
            exclusive: *exclusive,
            prefetch: channel.prefetch,
            unacked: 0,
            last_sequence: None,
            is_announced: *no_wait,
        };
        channel.consumers.insert(tag.clone(), consumer);
        if !no_wait {
            channel.expect(Expected::Consuming(tag.clone()));
        }
        Ok(())
    }

    fn settle_tags(
        &mut self,
        key: ConnectionKey,
        number: u16,
        tag: u64,
        multiple: bool,
        settlement: Settlement,
    ) -> Result<(), Code> {
        let channel = self.channel(key, number);
        let tags: Vec<u64> = if multiple && tag == 0 {
            channel.outstanding.keys().copied().collect()
        } else if !channel.outstanding.contains_key(&tag) {
            return Err(406);
        } else if multiple {
            channel
                .outstanding
                .range(..=tag)
                .map(|(&tag, _)| tag)
                .collect()
        } else {
            vec![tag]
        };
        for tag in tags {
            let channel = self.channel(key, number);
            let outstanding = channel.outstanding.remove(&tag).expect("listed above");
            if let Mode::Tx(transaction) = &mut channel.mode {
                transaction.settlements.push((tag, outstanding, settlement));
            } else {
                self.settled(key, number, &outstanding, settlement);
            }
        }
        Ok(())
    }

    fn settled(
        &mut self,
        key: ConnectionKey,
        number: u16,
        outstanding: &Outstanding,
        settlement: Settlement,
    ) {
        let channel = self.channel(key, number);
        if outstanding.counts {
            channel.consumer_unacked -= 1;
            let consumer = outstanding
                .consumer
                .as_ref()
                .and_then(|tag| channel.consumers.get_mut(tag));
            if let Some(consumer) = consumer {
                consumer.unacked -= 1;
            }
        }
        match settlement {
            Settlement::Back => self.give_back(outstanding),
            Settlement::Gone => self.settle(outstanding.queue, outstanding.sequence),
        }
    }

    fn commit(&mut self, key: ConnectionKey, number: u16) -> Result<(), Code> {
        let Mode::Tx(transaction) = &mut self.channel(key, number).mode else {
            return Err(406);
        };
        let transaction = std::mem::take(transaction);
        self.counts.add("commits");
        let turn = self.turn;
        let mut group = Group {
            turn,
            added: Vec::new(),
            settled: Vec::new(),
            evidence: (false, false),
        };
        for publication in &transaction.publishes {
            let exchange = self.topology.exchanges.get(&publication.exchange);
            if exchange.is_none_or(|it| it.internal) {
                continue;
            }
            let (targets, _) = self.route(key, number, publication);
            let logged = targets.into_iter().filter(|&(uid, sequence)| {
                self.queues[&uid].entries[&sequence].logged && !self.has_no_ack_consumer(uid)
            });
            group.added.extend(logged.collect::<Vec<_>>());
        }
        for (_, outstanding, settlement) in &transaction.settlements {
            let place = (outstanding.queue, outstanding.sequence);
            let is_logged = self
                .queues
                .get(&place.0)
                .and_then(|queue| queue.entries.get(&place.1))
                .is_some_and(|entry| entry.logged);
            if *settlement == Settlement::Gone && is_logged {
                group.settled.push(place);
            }
            self.settled(key, number, outstanding, *settlement);
        }
        // Nothing else of it surely went to the log, and without that the answer may stand for an
        // earlier batch.
        let logged = group.added.len() + group.settled.len();
        if logged > 1 {
            self.groups.push(group);
        }
        let after = (logged > 0).then_some(turn);
        self.channel(key, number)
            .expect(Expected::Method("tx.commit-ok", after));
        Ok(())
    }
}

// What the engine was seen to do.
impl Model {
    /// A call of the engine begins.
    pub(crate) fn begin_call(&mut self) {
        self.call += 1;
    }

    /// A call of the engine has ended and all it wrote was seen: nothing older than what was
    /// delivered may have been passed over.
    pub(crate) fn end_call(&mut self) {
        let call = self.call;
        for uid in std::mem::take(&mut self.in_call) {
            let Some(queue) = self.queues.get_mut(&uid) else {
                continue;
            };
            let Some(last) = queue.delivered_in_call.take() else {
                continue;
            };
            let older: Vec<(u64, bool)> = queue
                .entries
                .range(..last)
                .filter(|(_, it)| it.place == Place::Ready && it.returned_in != call)
                .map(|(&sequence, it)| (sequence, it.maybe))
                .collect();
            for (sequence, maybe) in older {
                let queue = &self.queues[&uid];
                assert!(
                    maybe,
                    "queue '{}': #{} was delivered before #{}, which is older",
                    queue.name,
                    queue.entries.get(&last).map_or(0, |it| it.message),
                    queue.entries[&sequence].message,
                );
                self.resolve(uid, sequence, false);
            }
        }
    }

    /// The engine has ended a turn.
    pub(crate) fn end_turn(&mut self) {
        self.turn += 1;
    }

    /// The engine has chosen a name.
    pub(crate) fn named(&mut self, key: ConnectionKey, number: u16, uid: Uid, name: &str) {
        let queue = self
            .queues
            .get_mut(&uid)
            .expect("a queue that was just declared");
        let before = std::mem::replace(&mut queue.name, name.to_owned());
        if self.topology.queues.contains_key(&before) {
            assert!(name.starts_with("amq.gen-"), "a generated name: {name}");
            assert!(
                !self.topology.queues.contains_key(name),
                "'{name}' was given out twice"
            );
        }
        self.rename(&before, name);
        let channel = self.channel(key, number);
        if channel.last_queue.as_ref() == Some(&before) {
            channel.last_queue = Some(name.to_owned());
        }
    }

    fn rename(&mut self, before: &str, name: &str) {
        self.topology.rename_queue(before, name);
        for (_, topology) in &mut self.history {
            if topology.queues.contains_key(before) {
                Rc::make_mut(topology).rename_queue(before, name);
            }
        }
    }

    pub(crate) fn confirmed(&mut self, key: ConnectionKey, number: u16, tag: u64, multiple: bool) {
        let channel = self.channel(key, number);
        let Mode::Confirm { confirmed, waiting } = &mut channel.mode else {
            panic!("a confirm on a channel that did not ask for it");
        };
        assert!(tag > *confirmed, "publish {tag} was confirmed before");
        assert!(
            multiple || tag == *confirmed + 1,
            "confirm of {tag} leaves some out"
        );
        let count = (tag - *confirmed) as usize;
        assert!(
            count <= waiting.len(),
            "confirm of {tag}, which was not published"
        );
        *confirmed = tag;
        let released: Vec<Unconfirmed> = waiting.drain(..count).collect();
        assert!(
            released.iter().filter(|it| it.is_returned).count() == 0
                || channel.returns.is_empty()
                || waiting_returns(channel) >= channel.returns.len(),
            "a confirm came before its return"
        );
        for unconfirmed in released {
            self.counts.add("confirmed");
            let is_stored = |&(uid, sequence): &(Uid, u64)| {
                self.queues
                    .get(&uid)
                    .and_then(|queue| queue.entries.get(&sequence))
                    .is_some_and(|it| it.logged)
            };
            if unconfirmed.is_logged || unconfirmed.targets.iter().any(is_stored) {
                self.promised(unconfirmed.turn);
            }
        }
    }

    pub(crate) fn returned(&mut self, key: ConnectionKey, number: u16, id: u64) {
        let channel = self.channel(key, number);
        let wanted = channel.returns.pop_front().map(|it| it.id);
        assert_eq!(wanted, Some(id), "the message that comes back");
    }

    /// A message came to a consumer; says whether it needs no acknowledgement.
    pub(crate) fn delivered(
        &mut self,
        key: ConnectionKey,
        number: u16,
        tag: &str,
        delivery_tag: u64,
        redelivered: bool,
        id: u64,
    ) -> bool {
        let channel = self.channel(key, number);
        let Some(consumer) = channel.consumers.get(tag) else {
            panic!("#{id} was delivered to consumer '{tag}', which does not exist");
        };
        assert!(
            consumer.is_announced,
            "#{id} was delivered before consume-ok of '{tag}'"
        );
        let (uid, no_ack, last) = (consumer.queue, consumer.no_ack, consumer.last_sequence);
        self.counts.add("deliveries");
        let sequence = self.take(key, number, uid, delivery_tag, redelivered, id);
        let entry = &self.queues[&uid].entries[&sequence];
        assert!(
            last.is_none_or(|last| last < sequence) || entry.returned,
            "#{id} was delivered to '{tag}' after a younger one"
        );
        let channel = self.channel(key, number);
        let global = channel.global;
        let consumer = channel.consumers.get_mut(tag).expect("found above");
        consumer.last_sequence = Some(sequence);
        if no_ack {
            self.settle(uid, sequence);
        } else {
            consumer.unacked += 1;
            assert!(
                consumer.prefetch == 0 || consumer.unacked <= u32::from(consumer.prefetch),
                "consumer '{tag}' has {} unacknowledged, its prefetch is {}",
                consumer.unacked,
                consumer.prefetch
            );
            channel.consumer_unacked += 1;
            assert!(
                global == 0 || channel.consumer_unacked <= u32::from(global),
                "channel {number} has {} unacknowledged, its prefetch is {global}",
                channel.consumer_unacked
            );
            let consumer = Some(tag.to_owned());
            let outstanding = Outstanding {
                queue: uid,
                sequence,
                consumer,
                counts: true,
            };
            channel.outstanding.insert(delivery_tag, outstanding);
        }
        no_ack
    }

    /// A message came by basic.get; says whether it needs no acknowledgement.
    pub(crate) fn got(
        &mut self,
        key: ConnectionKey,
        number: u16,
        (delivery_tag, redelivered, left): (u64, bool, u64),
        id: u64,
    ) -> bool {
        let expected = self.channel(key, number).expected.pop_front();
        let Some(Expected::Got {
            queue: uid,
            sequences,
            no_ack,
            ready,
            ..
        }) = expected
        else {
            panic!("#{id} by get-ok, where {expected:?} must come");
        };
        assert!(
            ready.0.saturating_sub(1) <= left && left < ready.1,
            "get-ok says {left} are left of {}..={}",
            ready.0,
            ready.1
        );
        self.counts.add("gets");
        let sequence = self.take(key, number, uid, delivery_tag, redelivered, id);
        assert!(
            sequences.contains(&sequence),
            "get brought #{id}, which is not the oldest"
        );
        for older in sequences.into_iter().filter(|&older| older < sequence) {
            self.resolve(uid, older, false);
        }
        if no_ack {
            self.settle(uid, sequence);
        } else {
            let outstanding = Outstanding {
                queue: uid,
                sequence,
                consumer: None,
                counts: false,
            };
            self.channel(key, number)
                .outstanding
                .insert(delivery_tag, outstanding);
        }
        no_ack
    }

    /// Books that a message went out; checks that it may, and its flags.
    fn take(
        &mut self,
        key: ConnectionKey,
        number: u16,
        uid: Uid,
        delivery_tag: u64,
        redelivered: bool,
        id: u64,
    ) -> u64 {
        let channel = self.channel(key, number);
        assert!(
            !channel.is_closing,
            "#{id} was delivered on a closed channel"
        );
        assert_eq!(delivery_tag, channel.next_tag, "delivery tag of #{id}");
        channel.next_tag += 1;
        let is_damaged = self.is_damaged;
        let queue = self.queues.get_mut(&uid).expect("the queue of a consumer");
        let Some(&sequence) = queue.by_message.get(&id) else {
            let name = &queue.name;
            assert!(
                !queue.gone.contains(&id),
                "#{id} came back in queue '{name}': it was settled, and that was on the disk"
            );
            assert!(
                queue.ghosts.values().all(|it| it.entry.message != id),
                "#{id} came back in queue '{name}': it was settled"
            );
            panic!("#{id} does not belong into queue '{}'", queue.name);
        };
        let entry = queue.entries.get_mut(&sequence).expect("indexed");
        assert_eq!(
            entry.place,
            Place::Ready,
            "#{id} was delivered twice in queue '{}'",
            queue.name
        );
        let must = entry.returned || (entry.is_old && entry.seen);
        let must_not = !must && (!entry.is_old || entry.was_hidden);
        assert!(
            redelivered || !must || is_damaged,
            "#{id} in queue '{}' was delivered before and is not marked redelivered",
            queue.name
        );
        assert!(
            !redelivered || !must_not,
            "#{id} in queue '{}' is marked redelivered, but nobody has seen it",
            queue.name
        );
        let flag = if redelivered {
            "redelivered"
        } else {
            "first deliveries"
        };
        entry.place = Place::Unacked(key, number, delivery_tag);
        entry.seen = true;
        let last = queue.delivered_in_call.unwrap_or(sequence);
        queue.delivered_in_call = Some(last.max(sequence));
        let is_maybe = entry.maybe;
        if entry.is_old && self.publications[&id].body_octets as u64 >= self.large_octets_min {
            self.counts.add("large bodies back after a restart");
        }
        self.counts.add(flag);
        self.in_call.insert(uid);
        if is_maybe {
            self.resolve(uid, sequence, true);
        }
        sequence
    }
}

fn waiting_returns(channel: &Channel) -> usize {
    match &channel.mode {
        Mode::Confirm { waiting, .. } => waiting.iter().filter(|it| it.is_returned).count(),
        _ => 0,
    }
}

// Restarts.
impl Model {
    /// The server ends without a word. What was only in memory is gone; of the rest it is to be
    /// seen.
    pub(crate) fn crash(&mut self) {
        self.connections.clear();
        self.turn += 1;
        let durable_turn = self.durable_turn;
        self.groups.retain(|group| group.turn > durable_turn);
        self.queues.retain(|_, queue| queue.durable);
        for queue in self.queues.values_mut() {
            let is_hidden = !queue.ever_read;
            for (sequence, ghost) in std::mem::take(&mut queue.ghosts) {
                let entry = Entry {
                    maybe: true,
                    required: false,
                    was_settled: true,
                    ..ghost.entry
                };
                queue.entries.insert(sequence, entry);
            }
            queue.entries.retain(|_, entry| entry.logged);
            for entry in queue.entries.values_mut() {
                // A ghost was put back as `maybe` just above.
                entry.required |= !entry.maybe && entry.turn <= durable_turn;
                entry.required &= !queue.dead;
                entry.maybe = true;
                entry.place = Place::Ready;
                entry.returned = false;
                entry.is_old = true;
                entry.was_hidden = is_hidden;
            }
            queue.by_message = queue
                .entries
                .iter()
                .map(|(&sequence, entry)| (entry.message, sequence))
                .collect();
            queue.consumers.clear();
            queue.has_exclusive_consumer = false;
        }
    }

    /// The server has started again with this durable topology, whose queues bear the uids that
    /// [`Queue::log_id`] tells.
    pub(crate) fn restarted(&mut self, found: &Topology) {
        // Names that were chosen and never told.
        for (name, it) in &found.queues {
            self.rename(&format!("?{}", it.uid), name);
        }
        let at = self.history.iter().rposition(|(_, it)| **it == *found);
        let Some(at) = at else {
            let differences = self.history.iter().map(|(turn, it)| {
                let (wanted, found) = (it.lines(), found.lines());
                let (missing, more) = (&wanted - &found, &found - &wanted);
                format!("since turn {turn}: missing {missing:#?} too many {more:#?}\n")
            });
            let text: String = differences.collect();
            panic!("the topology is that of no moment since the last promise\n{text}");
        };
        self.counts.add(if at + 1 == self.history.len() {
            "restarts with all definitions"
        } else {
            "restarts with older definitions"
        });
        self.history.truncate(at + 1);
        self.topology = found.clone();
        let named: BTreeMap<Uid, String> = found
            .queues
            .iter()
            .map(|(name, it)| (it.uid, name.clone()))
            .collect();
        let possible: BTreeSet<Uid> = self
            .history
            .iter()
            .flat_map(|(_, it)| it.queues.values().map(|queue| queue.uid))
            .collect();
        self.queues
            .retain(|uid, _| named.contains_key(uid) || possible.contains(uid));
        for (uid, queue) in &mut self.queues {
            queue.dead = !named.contains_key(uid);
        }
    }

    /// Whether a message that was `maybe` is there is known now.
    pub(crate) fn resolve(&mut self, uid: Uid, sequence: u64, is_there: bool) {
        let (turn, is_damaged) = (self.turn, self.is_damaged);
        let queue = self.queues.get_mut(&uid).expect("a queue that is there");
        let entry = queue
            .entries
            .get_mut(&sequence)
            .expect("a message that may be there");
        let (message, was_required, was_settled) =
            (entry.message, entry.required, entry.was_settled);
        if is_there {
            entry.maybe = false;
            // It came back, so it counts as written in this life.
            entry.turn = if was_required { entry.turn } else { turn };
            self.counts.add(if was_required {
                "recovered as promised"
            } else {
                "recovered without promise"
            });
        } else {
            assert!(
                !was_required || is_damaged,
                "#{message} in queue '{}' is lost: it was on the disk and was not settled",
                queue.name
            );
            queue.entries.remove(&sequence);
            queue.by_message.remove(&message);
            queue.gone.insert(message);
            self.counts.add(if was_required {
                "lost by damage"
            } else {
                "not recovered"
            });
        }
        if !is_damaged {
            self.weigh(uid, sequence, is_there, was_settled);
        }
    }

    /// Holds what became of a message against the other effects of its transaction.
    fn weigh(&mut self, uid: Uid, sequence: u64, is_there: bool, was_settled: bool) {
        let place = (uid, sequence);
        for group in &mut self.groups {
            if is_there && group.added.contains(&place) {
                group.evidence.0 = true;
            } else if (is_there && group.settled.contains(&place))
                || (!is_there && !was_settled && group.added.contains(&place))
            {
                group.evidence.1 = true;
            } else {
                continue;
            }
            assert!(
                group.evidence != (true, true),
                "half a transaction has survived: {group:?}"
            );
        }
    }

    /// What must hold when nothing is under way any more.
    pub(crate) fn check_quiet(&self) {
        for (key, connection) in &self.connections {
            assert!(
                connection.expected.is_empty() && connection.close_code.is_none(),
                "connection {key} waits for {:?} {:?}",
                connection.expected,
                connection.close_code
            );
            if connection.state != State::Open {
                continue;
            }
            for (number, channel) in &connection.channels {
                let at = format!("channel {number} of connection {key}");
                assert!(
                    channel.expected.is_empty(),
                    "{at} waits for {:?}",
                    channel.expected
                );
                assert!(channel.returns.is_empty(), "{at} waits for returns");
                assert!(
                    channel.cancelled.is_empty(),
                    "{at} waits for {:?} to be cancelled",
                    channel.cancelled
                );
                // A channel that was closed gets no more of them.
                if let Mode::Confirm { waiting, .. } = &channel.mode
                    && !channel.is_closing
                {
                    assert!(
                        waiting.is_empty(),
                        "{at} waits for {} confirms",
                        waiting.len()
                    );
                }
                let limit_reached =
                    channel.global != 0 && channel.consumer_unacked >= u32::from(channel.global);
                for (tag, consumer) in &channel.consumers {
                    let has_credit = consumer.no_ack
                        || (!limit_reached
                            && (consumer.prefetch == 0
                                || consumer.unacked < u32::from(consumer.prefetch)));
                    let ready = self.ready(consumer.queue).0;
                    assert!(
                        !has_credit || ready == 0,
                        "{at}: consumer '{tag}' has credit, and {ready} messages of its queue '{}' are ready",
                        self.queues[&consumer.queue].name
                    );
                }
            }
        }
    }

    /// Messages of a queue with clients.
    pub(crate) fn unacked(&self, uid: Uid) -> u64 {
        self.queues[&uid]
            .entries
            .values()
            .filter(|it| it.place != Place::Ready)
            .count() as u64
    }

    /// Messages that a queue must hold at least, and can hold at most.
    pub(crate) fn bounds(&self, uid: Uid) -> (u64, u64) {
        let entries = &self.queues[&uid].entries;
        let sure = entries
            .values()
            .filter(|it| it.required || !it.maybe)
            .count();
        (sure as u64, entries.len() as u64)
    }

    /// Numbers of the messages that a queue must hold.
    pub(crate) fn sure(&self, uid: Uid) -> Vec<u64> {
        let entries = self.queues[&uid].entries.values();
        let sure = entries.filter(|it| it.required || !it.maybe);
        sure.map(|it| it.message).collect()
    }

    /// Messages with bodies of so many octets or more that some queue or transaction may hold.
    pub(crate) fn large_bodies(&self, octets_min: u64) -> usize {
        let held = self.queues.values().flat_map(|it| it.entries.values());
        let messages: BTreeSet<u64> = held.map(|it| it.message).collect();
        let channels = self.connections.values().flat_map(|it| &it.channels);
        let waiting = channels.filter_map(|(_, it)| match &it.mode {
            Mode::Tx(transaction) => Some(transaction.publishes.iter().map(|it| it.id)),
            _ => None,
        });
        let all: BTreeSet<u64> = messages.into_iter().chain(waiting.flatten()).collect();
        let is_large = |id: &&u64| self.publications[*id].body_octets as u64 >= octets_min;
        all.iter().filter(is_large).count()
    }

    /// Whether it is not known of some message of the queue whether it is there.
    pub(crate) fn is_vague(&self, uid: Uid) -> bool {
        self.queues[&uid].entries.values().any(|it| it.maybe)
    }
}
