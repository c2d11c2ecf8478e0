//! The router under any sequence of operations, decoded from the input: clients that come and go,
//! declare, publish, consume, settle, commit; a storage that is slow at times.
//!
//! After each operation: the router agrees with itself (`Broker::audit`), every stored message has
//! as many holders as the storage was told, the log holds what the durable queues hold, delivery
//! tags are dense, a message is given to one consumer at a time and never again once it is settled,
//! the order of each queue is kept, `redelivered` is told the truth, and confirms count up to what
//! was published. At the end the definitions build the durable part of the router up again.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use leveret::auth::{PermissionTexts, Secret, Users};
use leveret::broker::ready::PageId;
use leveret::broker::record::{Definition, QueueId};
use leveret::broker::session::Session;
use leveret::broker::sink::{Delivery, Fetch, GetOk, Stored};
use leveret::broker::{
    Answer, Batch, Broker, ChannelKey, Command, Exception, Limits, Outcome, Publish, SessionKey,
    Sink,
};
use leveret::clock::Now;
use leveret::message::{Body, Entry, Message, MessageRef};
use leveret::wire::encode::method_frame;
use leveret::wire::field_table::{FieldValue, TableBuilder};
use leveret::wire::method::{basic, exchange, queue};
use leveret::wire::{ChannelNumber, DeliveryTag, FieldTable, MethodFields, ShortString};
use libfuzzer_sys::fuzz_target;

const NOW: Now = Now {
    monotonic_us: 1,
    wall_ms: 1_700_000_000_000,
};
const SESSIONS: usize = 2;
const CHANNELS: usize = 3;
const QUEUES: u8 = 5;
const OPERATIONS_MAX: usize = 600;
const QUEUE_NAMES: [&str; QUEUES as usize] = ["q0", "q1", "q2", "q3", "q4"];
const EXCHANGES: [&str; 6] = ["x0", "x1", "x2", "x3", "amq.topic", ""];
const TYPES: [&str; 4] = ["direct", "fanout", "topic", "headers"];
const KEYS: [&str; 6] = ["", "a", "a.b", "#", "*.b", "q1"];

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut input = Input(input);
    for _ in 0..OPERATIONS_MAX {
        let Some(code) = input.next() else { break };
        world.operation(code, &mut input);
        world.end_turn(code);
        world.check();
    }
    world.end();
});

/// The octets that decisions are made of; zeros when they have run out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn octet(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.octet()) % bound
    }
}

/// What a delivery became of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// With a client: outbox and channel, delivery tag; whether a transaction has settled it.
    Out(Place, u64, bool),
    /// Back in its queue.
    Back,
    /// Settled.
    Gone,
}

/// A channel of a client.
type Place = (u32, u16);

/// How the channel publishes.
#[derive(Debug, Default)]
enum Mode {
    #[default]
    Plain,
    /// Publishes, and confirms that have come.
    Confirm { published: u64, confirmed: u64 },
    /// Publishes that wait, and what becomes of deliveries.
    Tx {
        publishes: Vec<u64>,
        settlements: Vec<(usize, u64, Fate)>,
    },
}

/// What became of the messages of one queue, by the order in which their publishes took effect.
#[derive(Debug, Default)]
struct History {
    fates: HashMap<u64, Fate>,
    /// Those that are back.
    back: BTreeSet<u64>,
    /// The youngest that was delivered.
    last: Option<u64>,
    /// What took effect before was in a queue of that name that is gone: it goes nowhere when it
    /// is given back.
    lost_below: u64,
}

/// What clients have seen, and must see.
#[derive(Debug, Default)]
struct Seen {
    queues: [History; QUEUES as usize],
    /// Deliveries that a client may settle, by tag: queue and order.
    out: HashMap<Place, BTreeMap<u64, (usize, u64)>>,
    /// Order in which publishes took effect, by what their bodies say.
    order: HashMap<u64, u64>,
    next_order: u64,
    /// Next delivery tag of each channel.
    tags: HashMap<Place, u64>,
    modes: HashMap<Place, Mode>,
}

impl Seen {
    fn takes_effect(&mut self, serial: u64) {
        self.order.insert(serial, self.next_order);
        self.next_order += 1;
    }

    fn put(&mut self, queue: usize, order: u64, fate: Fate) {
        let history = &mut self.queues[queue];
        let is_lost = fate == Fate::Back && order < history.lost_below;
        let fate = if is_lost { Fate::Gone } else { fate };
        if fate == Fate::Back {
            history.back.insert(order);
        } else {
            history.back.remove(&order);
        }
        if let Some(Fate::Out(place, tag, _)) = history.fates.insert(order, fate) {
            self.out.entry(place).or_default().remove(&tag);
        }
        if let Fate::Out(place, tag, false) = fate {
            self.out
                .entry(place)
                .or_default()
                .insert(tag, (queue, order));
        }
    }

    fn delivered(
        &mut self,
        place: Place,
        queue: usize,
        (tag, redelivered): (u64, bool),
        no_ack: bool,
        serial: u64,
    ) {
        let next = self.tags.entry(place).or_insert(1);
        assert_eq!(tag, *next, "delivery tags are dense");
        *next += 1;
        let order = self.order[&serial];
        let history = &mut self.queues[queue];
        let before = history.fates.get(&order).copied();
        assert!(
            matches!(before, None | Some(Fate::Back)),
            "message {serial} of queue {queue} is delivered, it was {before:?}"
        );
        assert_eq!(
            redelivered,
            before.is_some(),
            "redelivered tells whether it was out before"
        );
        let older_back = history.back.first().is_some_and(|&first| first < order);
        assert!(
            !older_back,
            "an older message of queue {queue} came back and was passed over"
        );
        if before.is_none() {
            assert!(
                history.last.is_none_or(|last| last < order),
                "queue {queue} is out of order"
            );
            history.last = Some(order);
        }
        let fate = if no_ack {
            Fate::Gone
        } else {
            Fate::Out(place, tag, false)
        };
        self.put(queue, order, fate);
    }

    /// Tags of a channel that a client may settle, with their queue and place.
    fn outstanding(&self, place: Place) -> BTreeMap<u64, (usize, u64)> {
        self.out.get(&place).cloned().unwrap_or_default()
    }

    fn settle(&mut self, place: Place, queue: usize, order: u64, fate: Fate) {
        if let Some(Mode::Tx { settlements, .. }) = self.modes.get_mut(&place) {
            settlements.push((queue, order, fate));
            let Fate::Out(at, tag, _) = self.queues[queue].fates[&order] else {
                unreachable!("it is outstanding");
            };
            self.put(queue, order, Fate::Out(at, tag, true));
        } else {
            self.put(queue, order, fate);
        }
    }

    fn commit(&mut self, place: Place) {
        if let Some(Mode::Tx { settlements, .. }) = self.modes.get_mut(&place) {
            for (queue, order, fate) in std::mem::take(settlements) {
                self.put(queue, order, fate);
            }
        }
    }

    fn rollback(&mut self, place: Place) {
        if let Some(Mode::Tx {
            settlements,
            publishes,
        }) = self.modes.get_mut(&place)
        {
            publishes.clear();
            for (queue, order, _) in std::mem::take(settlements) {
                if let Fate::Out(at, tag, true) = self.queues[queue].fates[&order] {
                    self.put(queue, order, Fate::Out(at, tag, false));
                }
            }
        }
    }

    fn channel_closed(&mut self, place: Place) {
        self.rollback(place);
        self.modes.remove(&place);
        self.tags.remove(&place);
        for (queue, order) in self.outstanding(place).into_values() {
            self.put(queue, order, Fate::Back);
        }
    }

    fn deleted(&mut self, queue: usize) {
        self.queues[queue].lost_below = self.next_order;
        self.emptied(queue);
    }

    /// The queue has nothing ready any more.
    fn emptied(&mut self, queue: usize) {
        for order in std::mem::take(&mut self.queues[queue].back) {
            self.put(queue, order, Fate::Gone);
        }
    }
}

struct Held {
    names: Vec<u8>,
    properties: Vec<u8>,
    serial: u64,
    holders: u32,
}

/// A storage and clients that remember everything.
struct Recorder {
    seen: Seen,
    messages: Vec<Held>,
    /// Holders of all of them.
    holders: u64,
    /// Logged messages that are not settled, by queue.
    logged: BTreeMap<QueueId, BTreeSet<u64>>,
    pages: BTreeMap<u64, Vec<Entry>>,
    next_page: u64,
    batch: u64,
    flushed: u64,
    definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is not at hand when it is asked for next.
    cold: u8,
    has_room: [bool; SESSIONS],
    /// The queue that a basic.get under way asks.
    getting: Option<(usize, bool)>,
    in_group: bool,
}

impl Recorder {
    fn store(&mut self, message: &Message<'_>, holders: u32, transient: u32) -> Stored {
        assert!(holders > 0);
        self.holders += u64::from(holders);
        let place = self.messages.len() as u32;
        self.messages.push(Held {
            names: message.names.to_vec(),
            properties: message.properties.to_vec(),
            serial: serial(message),
            holders,
        });
        Stored {
            at: MessageRef {
                segment: 1 | transient,
                place,
            },
            share_octets: 100 / holders,
        }
    }

    fn is_cold(&mut self) -> bool {
        let is_cold = self.cold & 1 == 1;
        self.cold >>= 1;
        is_cold
    }

    fn let_go(&mut self, entry: Entry) {
        let holders = &mut self.messages[entry.at.place as usize].holders;
        assert!(*holders > 0, "{entry:?} is let go of twice");
        *holders -= 1;
        self.holders -= 1;
    }
}

fn serial(message: &Message<'_>) -> u64 {
    let Body::Octets(body) = message.body else {
        unreachable!("bodies are short")
    };
    u64::from_be_bytes(body.try_into().expect("bodies have eight octets"))
}

impl Sink for Recorder {
    fn has_room(&self, outbox: u32) -> bool {
        self.has_room[outbox as usize]
    }

    fn deliver(&mut self, outbox: u32, delivery: &Delivery<'_>, message: &Message<'_>) {
        // Class, method, and the consumer tag that tells queue and kind.
        let tag = &delivery.prefix[5..];
        let (queue, no_ack) = (usize::from(tag[0] - b'0'), tag[1] == b'n');
        let place = (outbox, delivery.channel);
        let (tag, redelivered) = (delivery.delivery_tag, delivery.redelivered);
        self.seen
            .delivered(place, queue, (tag, redelivered), no_ack, serial(message));
    }

    fn deliver_stored(&mut self, outbox: u32, delivery: &Delivery<'_>, entry: Entry) -> Fetch {
        self.read(entry, &mut |sink, message| {
            sink.deliver(outbox, delivery, message)
        })
    }

    fn get_ok(&mut self, outbox: u32, get_ok: &GetOk, entry: Entry) -> Fetch {
        let (queue, no_ack) = self.getting.expect("a basic.get is under way");
        let place = (outbox, get_ok.channel);
        let (tag, redelivered) = (get_ok.delivery_tag, get_ok.redelivered);
        self.read(entry, &mut |sink, message| {
            sink.seen
                .delivered(place, queue, (tag, redelivered), no_ack, serial(message));
        })
    }

    fn method(&mut self, outbox: u32, channel: u16, method: &impl MethodFields) {
        let mut frame = Vec::new();
        method_frame(&mut frame, ChannelNumber(channel), method);
        // basic.ack: prefix, class and method, then tag and `multiple`.
        if frame[7..11] == [0, 60, 0, 80] {
            let tag = u64::from_be_bytes(frame[11..19].try_into().expect("eight octets"));
            let Some(Mode::Confirm {
                published,
                confirmed,
            }) = self.seen.modes.get_mut(&(outbox, channel))
            else {
                panic!("a confirm without confirm.select");
            };
            assert!(tag > *confirmed && tag <= *published);
            assert_eq!(
                frame[19] == 1,
                tag - *confirmed > 1,
                "multiple is told when it is so"
            );
            *confirmed = tag;
        }
    }

    fn give_back(&mut self, _: u32, _: u16, message: &Message<'_>) {
        let _ = serial(message);
    }

    fn append(
        &mut self,
        _: Now,
        message: &Message<'_>,
        to: &[(QueueId, u64)],
        holders: u32,
    ) -> Stored {
        assert!(!to.is_empty() && to.len() <= holders as usize);
        for &(id, sequence) in to {
            let is_new = self
                .logged
                .get_mut(&id)
                .expect("the queue was created")
                .insert(sequence);
            assert!(is_new, "sequences are not used twice");
        }
        self.store(message, holders, 0)
    }

    fn keep(&mut self, _: Now, message: &Message<'_>, holders: u32) -> Stored {
        self.store(message, holders, MessageRef::TRANSIENT)
    }

    fn read(&mut self, entry: Entry, use_it: &mut dyn FnMut(&mut Self, &Message<'_>)) -> Fetch {
        // What a transaction has asked for stays at hand until it is committed.
        if !self.in_group && self.is_cold() {
            return Fetch::Cold;
        }
        let held = &self.messages[entry.at.place as usize];
        assert!(held.holders > 0, "a message is read that nobody holds");
        let (names, properties) = (held.names.clone(), held.properties.clone());
        let body = held.serial.to_be_bytes();
        use_it(
            self,
            &Message {
                names: &names,
                properties: &properties,
                body: Body::Octets(&body),
            },
        );
        Fetch::Done
    }

    fn settle(&mut self, queue: QueueId, entry: Entry) {
        assert!(entry.has(Entry::LOGGED));
        let was_there = self
            .logged
            .get_mut(&queue)
            .expect("the queue exists")
            .remove(&entry.sequence());
        assert!(was_there, "{entry:?} is settled twice");
        self.let_go(entry);
    }

    fn settle_range(&mut self, queue: QueueId, first: u64, last: u64) {
        let logged = self.logged.get_mut(&queue).expect("the queue exists");
        logged.retain(|sequence| !(first..=last).contains(sequence));
    }

    fn release(&mut self, entry: Entry) {
        self.let_go(entry);
    }

    fn permit(&mut self, queue: QueueId, below: u64) {
        assert!(self.logged.contains_key(&queue) && below > 0);
    }

    fn queue_created(&mut self, queue: QueueId) {
        assert!(
            self.logged.insert(queue, BTreeSet::new()).is_none(),
            "ids are not used twice"
        );
    }

    fn queue_deleted(&mut self, queue: QueueId) {
        assert!(self.logged.remove(&queue).is_some());
    }

    fn define(&mut self, pairs: &[(Vec<u8>, Option<Vec<u8>>)]) {
        for (key, value) in pairs {
            match value {
                Some(value) => self.definitions.insert(key.clone(), value.clone()),
                None => self.definitions.remove(key),
            };
        }
    }

    fn batch(&self) -> Batch {
        Batch(self.batch)
    }

    fn is_flushed(&self, batch: Batch) -> bool {
        batch.0 <= self.flushed
    }

    fn group_begin(&mut self) {
        assert!(!std::mem::replace(&mut self.in_group, true));
    }

    fn group_end(&mut self) {
        assert!(std::mem::replace(&mut self.in_group, false));
    }

    fn park(&mut self, entries: Vec<Entry>) -> PageId {
        assert!(!entries.is_empty());
        self.next_page += 1;
        self.pages.insert(self.next_page, entries);
        PageId(self.next_page)
    }

    fn load(&mut self, page: PageId) -> Option<Vec<Entry>> {
        if self.is_cold() {
            return None;
        }
        Some(
            self.pages
                .remove(&page.0)
                .expect("the page was not loaded yet"),
        )
    }

    fn release_page(&mut self, page: PageId) {
        for entry in self.pages.remove(&page.0).expect("the page is there") {
            self.let_go(entry);
        }
    }
}

struct World {
    broker: Broker,
    sink: Recorder,
    sessions: [Option<SessionKey>; SESSIONS],
    channels: [[Option<ChannelKey>; CHANNELS]; SESSIONS],
    next_serial: u64,
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            queue_entries_in_memory_max: 2048,
            unacked_per_channel_max: 40,
            removals_at_once_max: 1,
            transaction_entries_max: 50,
            ..Limits::default()
        };
        let mut broker = Broker::new(limits, users(), 7);
        broker.add_vhost("/");
        let sink = Recorder {
            seen: Seen::default(),
            messages: Vec::new(),
            holders: 0,
            logged: BTreeMap::new(),
            pages: BTreeMap::new(),
            next_page: 0,
            batch: 1,
            flushed: 0,
            definitions: BTreeMap::new(),
            cold: 0,
            has_room: [true; SESSIONS],
            getting: None,
            in_group: false,
        };
        let mut world = World {
            broker,
            sink,
            sessions: [None; SESSIONS],
            channels: [[None; CHANNELS]; SESSIONS],
            next_serial: 1,
        };
        world.channel(0, 0);
        world
    }

    /// The channel, opened with its connection when it is not there.
    fn channel(&mut self, session: usize, number: usize) -> ChannelKey {
        let broker = &mut self.broker;
        let key = *self.sessions[session].get_or_insert_with(|| {
            let vhost = broker.vhost_named("/").expect("it was added");
            broker.open_session(Session {
                generation: 0,
                outbox: session as u32,
                user: broker.users.named("u").expect("it was put").id(),
                user_name: "u".into(),
                vhost,
                consumer_cancel_notify: session == 0,
                frame_max: 4096,
                exclusive_queues: Vec::new(),
                parked: Vec::new(),
                parked_gone: 0,
                channels: Vec::new(),
            })
        });
        *self.channels[session][number]
            .get_or_insert_with(|| broker.open_channel(key, number as u16 + 1))
    }

    fn close_session(&mut self, session: usize) {
        let Some(key) = self.sessions[session].take() else {
            return;
        };
        let before = self.names();
        self.channels[session] = [None; CHANNELS];
        for number in 1..=CHANNELS {
            self.sink
                .seen
                .channel_closed((session as u32, number as u16));
        }
        self.broker.close_session(key, &mut self.sink);
        self.sink.has_room[session] = true;
        self.note_deleted(&before);
    }

    fn close_channel(&mut self, session: usize, number: usize) {
        let Some(key) = self.channels[session][number].take() else {
            return;
        };
        let before = self.names();
        self.sink
            .seen
            .channel_closed((session as u32, number as u16 + 1));
        self.broker.close_channel(key, &mut self.sink);
        self.note_deleted(&before);
    }

    /// Generations of the queues by number; a change tells that one has gone.
    fn names(&self) -> [Option<u32>; QUEUES as usize] {
        QUEUE_NAMES.map(|name| {
            self.broker
                .queue_in(0, name.as_bytes())
                .map(|key| key.generation)
        })
    }

    fn note_deleted(&mut self, before: &[Option<u32>; QUEUES as usize]) {
        for (queue, now) in self.names().into_iter().enumerate() {
            if before[queue].is_some() && before[queue] != now {
                self.sink.seen.deleted(queue);
            }
        }
    }

    /// Gives a command, again when the storage was slow; closes what an exception closes.
    fn apply(
        &mut self,
        session: usize,
        number: usize,
        command: &Command<'_>,
    ) -> Result<Outcome, Exception> {
        let key = self.channel(session, number);
        // A publish removes no queue.
        let removes = !matches!(command, Command::Publish(_));
        let before = if removes {
            self.names()
        } else {
            Default::default()
        };
        let mut outcome = self.broker.apply(NOW, key, command, &mut self.sink);
        for _ in 0..16 {
            if !matches!(
                outcome,
                Ok(Outcome {
                    answer: Answer::NotYet | Answer::GoesOn,
                    ..
                })
            ) {
                break;
            }
            self.flush();
            self.broker.storage_ready();
            self.broker.work(&mut self.sink, 64);
            outcome = self.broker.apply(NOW, key, command, &mut self.sink);
        }
        assert!(
            !matches!(
                outcome,
                Ok(Outcome {
                    answer: Answer::NotYet | Answer::GoesOn,
                    ..
                })
            ),
            "a command is taken at last"
        );
        if removes {
            self.note_deleted(&before);
        }
        if let Err(exception) = &outcome {
            if exception.reply_code.is_hard() {
                self.close_session(session);
            } else {
                self.close_channel(session, number);
            }
        }
        outcome
    }

    fn flush(&mut self) {
        self.sink.flushed = self.sink.batch;
        self.sink.batch += 1;
        self.broker.flushed(Batch(self.sink.flushed));
    }

    fn operation(&mut self, code: u8, input: &mut Input<'_>) {
        let who = input.octet();
        let (session, number) = (usize::from(who & 1), usize::from(who >> 1) % CHANNELS);
        let place = (session as u32, number as u16 + 1);
        let short = ShortString::literal;
        let none = FieldTable::default();
        match code % 24 {
            0 | 1 => {
                let flags = input.octet();
                let name = QUEUE_NAMES[input.below(QUEUES.into())];
                let _ = self.apply(
                    session,
                    number,
                    &Command::QueueDeclare(queue::Declare {
                        ticket: 0,
                        queue: short(name),
                        passive: flags & 48 == 48,
                        durable: flags & 1 == 1,
                        exclusive: flags & 6 == 6,
                        auto_delete: flags & 24 == 24,
                        no_wait: false,
                        arguments: none,
                    }),
                );
            }
            2 => {
                let flags = input.octet();
                let name = EXCHANGES[input.below(EXCHANGES.len())];
                let _ = self.apply(
                    session,
                    number,
                    &Command::ExchangeDeclare(exchange::Declare {
                        ticket: 0,
                        exchange: short(name),
                        exchange_type: short(TYPES[usize::from(flags >> 2 & 3)]),
                        passive: flags & 48 == 48,
                        durable: flags & 1 == 1,
                        auto_delete: flags & 2 == 2,
                        internal: flags & 192 == 192,
                        no_wait: false,
                        arguments: none,
                    }),
                );
            }
            3 | 4 => self.bind(session, number, input),
            5 => {
                let flags = input.octet();
                let name = QUEUE_NAMES[input.below(QUEUES.into())];
                let _ = self.apply(
                    session,
                    number,
                    &Command::QueueDelete(queue::Delete {
                        ticket: 0,
                        queue: short(name),
                        if_unused: flags & 1 == 1,
                        if_empty: flags & 2 == 2,
                        no_wait: false,
                    }),
                );
            }
            6 => {
                let flags = input.octet();
                let name = EXCHANGES[input.below(EXCHANGES.len())];
                let _ = self.apply(
                    session,
                    number,
                    &Command::ExchangeDelete(exchange::Delete {
                        ticket: 0,
                        exchange: short(name),
                        if_unused: flags & 1 == 1,
                        no_wait: false,
                    }),
                );
            }
            7..=9 => {
                let flags = input.octet();
                let (to, key) = (input.octet(), input.octet());
                self.publish(session, number, flags, to, key);
            }
            10 => {
                let (flags, count) = (input.octet(), u32::from(input.octet()));
                let (to, key) = (input.octet(), input.octet());
                // A backlog that is long enough to be parked, once in a while.
                let count = if count == 255 { 1600 } else { count % 64 };
                for _ in 0..count {
                    self.publish(session, number, flags, to, key);
                }
            }
            11 | 12 => {
                let flags = input.octet();
                let queue = input.below(QUEUES.into());
                let no_ack = flags & 1 == 1;
                let tag = format!("{queue}{}{}", if no_ack { 'n' } else { 'a' }, flags >> 5);
                let priority = TableBuilder::new().with(
                    short("x-priority"),
                    FieldValue::Long(i64::from(flags >> 3 & 1)),
                );
                let _ = self.apply(
                    session,
                    number,
                    &Command::Consume(basic::Consume {
                        ticket: 0,
                        queue: short(QUEUE_NAMES[queue]),
                        consumer_tag: ShortString::new(tag.as_bytes()).expect("it is short"),
                        no_local: false,
                        no_ack,
                        exclusive: flags & 6 == 6,
                        no_wait: false,
                        arguments: if flags & 16 == 16 {
                            priority.as_table()
                        } else {
                            none
                        },
                    }),
                );
            }
            13 => {
                let flags = input.octet();
                let queue = input.below(QUEUES.into());
                let tag = format!(
                    "{queue}{}{}",
                    if flags & 1 == 1 { 'n' } else { 'a' },
                    flags >> 5
                );
                let _ = self.apply(
                    session,
                    number,
                    &Command::Cancel(basic::Cancel {
                        consumer_tag: ShortString::new(tag.as_bytes()).expect("it is short"),
                        no_wait: false,
                    }),
                );
            }
            14 => {
                let (queue, flags) = (input.below(QUEUES.into()), input.octet());
                let no_ack = flags & 1 == 1;
                self.sink.getting = Some((queue, no_ack));
                let _ = self.apply(
                    session,
                    number,
                    &Command::Get(basic::Get {
                        ticket: 0,
                        queue: short(QUEUE_NAMES[queue]),
                        no_ack,
                    }),
                );
                self.sink.getting = None;
            }
            15..=17 => self.settle(session, number, input),
            18 => {
                let (count, flags) = (input.octet() % 8, input.octet());
                let _ = self.apply(
                    session,
                    number,
                    &Command::Qos(basic::Qos {
                        prefetch_size: 0,
                        prefetch_count: count.into(),
                        global: flags & 1 == 1,
                    }),
                );
            }
            19 => {
                let flags = input.octet();
                let known = self.sink.seen.outstanding(place);
                let outcome = self.apply(
                    session,
                    number,
                    &Command::Recover {
                        requeue: flags & 15 != 15,
                        answer: flags & 16 == 16,
                    },
                );
                if outcome.is_ok() {
                    // At once, also in a transaction.
                    for (queue, order) in known.into_values() {
                        self.sink.seen.put(queue, order, Fate::Back);
                    }
                }
            }
            20 => self.mode(session, number, input.octet()),
            21 => {
                let queue = input.below(QUEUES.into());
                let outcome = self.apply(
                    session,
                    number,
                    &Command::QueuePurge(queue::Purge {
                        ticket: 0,
                        queue: short(QUEUE_NAMES[queue]),
                        no_wait: false,
                    }),
                );
                if outcome.is_ok() {
                    self.sink.seen.emptied(queue);
                }
            }
            22 => match input.octet() % 4 {
                0 => self.close_session(session),
                1 | 2 => self.close_channel(session, number),
                _ => self.sink.has_room[session] = false,
            },
            _ => {
                // The world moves on.
                let flags = input.octet();
                self.sink.cold = if flags & 1 == 1 { input.octet() } else { 0 };
                if flags & 2 == 2 {
                    self.flush();
                }
                if flags & 4 == 4 {
                    self.broker.storage_ready();
                }
                self.sink.has_room[session] = true;
                if let Some(key) = self.sessions[session] {
                    self.broker.outbox_ready(key.slot);
                }
            }
        }
    }

    fn bind(&mut self, session: usize, number: usize, input: &mut Input<'_>) {
        let short = ShortString::literal;
        let flags = input.octet();
        let source = short(EXCHANGES[input.below(EXCHANGES.len())]);
        let routing_key = short(KEYS[input.below(KEYS.len())]);
        let criteria = TableBuilder::new()
            .with_text(
                short("x-match"),
                if flags & 64 == 64 { "any" } else { "all" },
            )
            .with(short("h"), FieldValue::Long(i64::from(flags >> 7)));
        let arguments = if flags & 32 == 32 {
            criteria.as_table()
        } else {
            FieldTable::default()
        };
        let command = if flags & 3 == 3 {
            let destination = short(EXCHANGES[input.below(EXCHANGES.len())]);
            if flags & 12 == 12 {
                Command::ExchangeUnbind(exchange::Unbind {
                    ticket: 0,
                    destination,
                    source,
                    routing_key,
                    no_wait: false,
                    arguments,
                })
            } else {
                Command::ExchangeBind(exchange::Bind {
                    ticket: 0,
                    destination,
                    source,
                    routing_key,
                    no_wait: false,
                    arguments,
                })
            }
        } else {
            let queue = short(QUEUE_NAMES[input.below(QUEUES.into())]);
            if flags & 12 == 12 {
                Command::QueueUnbind(queue::Unbind {
                    ticket: 0,
                    queue,
                    exchange: source,
                    routing_key,
                    arguments,
                })
            } else {
                Command::QueueBind(queue::Bind {
                    ticket: 0,
                    queue,
                    exchange: source,
                    routing_key,
                    no_wait: false,
                    arguments,
                })
            }
        };
        let _ = self.apply(session, number, &command);
    }

    fn publish(&mut self, session: usize, number: usize, flags: u8, to: u8, key: u8) {
        let exchange = EXCHANGES[usize::from(to) % EXCHANGES.len()];
        let routing_key = match exchange {
            "" => QUEUE_NAMES[usize::from(key) % QUEUE_NAMES.len()],
            _ => KEYS[usize::from(key) % KEYS.len()],
        };
        let mut names = vec![exchange.len() as u8];
        names.extend_from_slice(exchange.as_bytes());
        names.push(routing_key.len() as u8);
        names.extend_from_slice(routing_key.as_bytes());
        // Headers { h: long 0 or 1 } and the delivery mode, or none.
        let with_headers = [
            0x30,
            0,
            0,
            0,
            0,
            7,
            1,
            b'h',
            b'I',
            0,
            0,
            0,
            flags >> 7,
            1 + (flags & 1),
        ];
        let without = [0x10, 0, 1 + (flags & 1)];
        let properties = if flags & 4 == 4 {
            &with_headers[..]
        } else {
            &without
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let place = (session as u32, number as u16 + 1);
        let seen = &mut self.sink.seen;
        if !matches!(seen.modes.get(&place), Some(Mode::Tx { .. })) {
            seen.takes_effect(serial);
        }
        // A confirm may come before `apply` is back.
        if let Some(Mode::Confirm { published, .. }) = seen.modes.get_mut(&place) {
            *published += 1;
        }
        let body = serial.to_be_bytes();
        let outcome = self.apply(
            session,
            number,
            &Command::Publish(Publish {
                message: Message {
                    names: &names,
                    properties,
                    body: Body::Octets(&body),
                },
                mandatory: flags & 2 == 2,
                immediate: flags & 120 == 120,
                persistent: flags & 1 == 1,
                has_checked_property: false,
            }),
        );
        if outcome.is_ok()
            && let Some(Mode::Tx { publishes, .. }) = self.sink.seen.modes.get_mut(&place)
        {
            publishes.push(serial);
        }
    }

    fn settle(&mut self, session: usize, number: usize, input: &mut Input<'_>) {
        let (flags, which) = (input.octet(), input.octet());
        let place = (session as u32, number as u16 + 1);
        let known = self.sink.seen.outstanding(place);
        let (multiple, requeue) = (flags & 1 == 1, flags & 2 == 2);
        // One that is out, for the most part.
        let tag = match known.keys().nth(usize::from(which) % known.len().max(1)) {
            Some(&tag) if which < 240 => tag,
            _ => u64::from(which & 15),
        };
        let delivery_tag = DeliveryTag(tag);
        let (command, fate, multiple) = match flags >> 2 & 3 {
            0 | 1 => (
                Command::Ack(basic::Ack {
                    delivery_tag,
                    multiple,
                }),
                Fate::Gone,
                multiple,
            ),
            kind => {
                let fate = if requeue { Fate::Back } else { Fate::Gone };
                if kind == 2 {
                    (
                        Command::Nack(basic::Nack {
                            delivery_tag,
                            multiple,
                            requeue,
                        }),
                        fate,
                        multiple,
                    )
                } else {
                    (
                        Command::Reject(basic::Reject {
                            delivery_tag,
                            requeue,
                        }),
                        fate,
                        false,
                    )
                }
            }
        };
        let is_known = known.contains_key(&tag) || (multiple && tag == 0);
        if is_known {
            // What comes back may be delivered again before `apply` is back.
            for (&other, &(queue, order)) in &known {
                if other == tag || (multiple && (tag == 0 || other < tag)) {
                    self.sink.seen.settle(place, queue, order, fate);
                }
            }
        }
        let outcome = self.apply(session, number, &command);
        // The bound of a transaction is the only other reason for a refusal.
        let is_full = matches!(&outcome, Err(exception) if exception.reply_code.is_hard());
        assert!(outcome.is_ok() == is_known || is_full, "{outcome:?}");
    }

    fn mode(&mut self, session: usize, number: usize, choice: u8) {
        let place = (session as u32, number as u16 + 1);
        match choice % 5 {
            0 => {
                if self.apply(session, number, &Command::ConfirmSelect).is_ok() {
                    let mode = self.sink.seen.modes.entry(place).or_default();
                    if matches!(mode, Mode::Plain) {
                        *mode = Mode::Confirm {
                            published: 0,
                            confirmed: 0,
                        };
                    }
                }
            }
            1 => {
                if self.apply(session, number, &Command::TxSelect).is_ok() {
                    let mode = self.sink.seen.modes.entry(place).or_default();
                    if matches!(mode, Mode::Plain) {
                        *mode = Mode::Tx {
                            publishes: Vec::new(),
                            settlements: Vec::new(),
                        };
                    }
                }
            }
            2 | 3 => {
                if let Some(Mode::Tx { publishes, .. }) = self.sink.seen.modes.get_mut(&place) {
                    for serial in std::mem::take(publishes) {
                        self.sink.seen.takes_effect(serial);
                    }
                    self.sink.seen.commit(place);
                    self.apply(session, number, &Command::TxCommit)
                        .expect("the channel is transactional");
                } else {
                    let _ = self.apply(session, number, &Command::TxCommit);
                }
            }
            _ => {
                if self.apply(session, number, &Command::TxRollback).is_ok() {
                    self.sink.seen.rollback(place);
                }
            }
        }
    }

    fn end_turn(&mut self, code: u8) {
        self.broker.deliver_listed(NOW, &mut self.sink, 64);
        self.broker.work(&mut self.sink, 64);
        if code & 128 == 128 {
            self.flush();
        }
        self.broker.send_confirms(&mut self.sink);
    }

    fn check(&self) {
        self.broker.audit().expect("the router agrees with itself");
        let held = self.broker.entries_held();
        assert_eq!(
            held, self.sink.holders,
            "every holder of a message is an entry"
        );
        for queue in self.broker.queues().iter().map(|(_, queue)| queue) {
            if let Some(id) = queue.id {
                let weights = [queue.ready_weight(), queue.unacked_weight];
                let logged: u64 = weights.iter().map(|weight| weight.logged).sum();
                assert_eq!(
                    logged,
                    self.sink.logged[&id].len() as u64,
                    "the log holds what the queue holds"
                );
            }
        }
        for (_, channel) in self.broker.channels() {
            assert!(
                channel.unacked.len() <= 80,
                "deliveries of a channel are bounded"
            );
        }
    }

    fn end(mut self) {
        self.sink.cold = 0;
        for _ in 0..64 {
            self.flush();
            self.broker.storage_ready();
            self.end_turn(128);
        }
        self.check();
        for (place, mode) in &self.sink.seen.modes {
            if let Mode::Confirm {
                published,
                confirmed,
            } = mode
            {
                assert_eq!(
                    published, confirmed,
                    "everything of {place:?} is confirmed at last"
                );
            }
        }
        for session in 0..SESSIONS {
            self.close_session(session);
        }
        while self.broker.work(&mut self.sink, 64) {}
        self.check();
        assert!(self.broker.consumers().is_empty() && self.broker.channels().is_empty());
        // What was remembered is what is there, but for what does not last.
        let mut again = Broker::new(Limits::default(), users(), 7);
        again.add_vhost("/");
        let definitions = self.sink.definitions.iter();
        let decoded =
            definitions.map(|(key, value)| Definition::decode(key, value).expect("we wrote it"));
        assert!(
            again.restore_definitions(decoded.collect()).is_empty(),
            "the definitions fit each other"
        );
        assert_eq!(durable(&again), durable(&self.broker));
    }
}

/// Names of what outlives the process.
fn durable(broker: &Broker) -> BTreeSet<String> {
    let queues = broker
        .queues()
        .iter()
        .filter(|(_, queue)| queue.is_logged());
    let queues = queues.map(|(_, queue)| format!("queue {:?} {:?}", queue.id, queue.name));
    let exchanges = broker
        .exchanges()
        .iter()
        .filter(|(_, exchange)| exchange.properties.durable);
    let exchanges = exchanges
        .map(|(_, exchange)| format!("exchange {:?} {:?}", exchange.name, exchange.properties));
    let bindings = broker.bindings().iter().filter_map(|(_, binding)| {
        assert!(broker.is_whole(binding), "nothing is going any more");
        let source = &broker.exchanges()[binding.source.slot as usize];
        let (lasts, to) = match binding.destination {
            leveret::broker::Destination::Queue(key) => {
                let queue = &broker.queues()[key.slot as usize];
                (queue.is_logged(), &queue.name)
            }
            leveret::broker::Destination::Exchange(key) => {
                let exchange = &broker.exchanges()[key.slot as usize];
                (exchange.properties.durable, &exchange.name)
            }
        };
        (source.properties.durable && lasts).then(|| {
            format!(
                "binding {:?} {to:?} {:?} {:?}",
                source.name, binding.binding_key, binding.arguments
            )
        })
    });
    queues.chain(exchanges).chain(bindings).collect()
}

fn users() -> Users {
    let mut users = Users::new(Vec::new(), 10);
    let secret = Secret::Password {
        password: b"p",
        salt: [0; 4],
    };
    users.put("u", secret, None).expect("the name is fine");
    let texts = PermissionTexts {
        configure: ".*",
        write: ".*",
        read: ".*",
    };
    users
        .set_permission("u", "/", texts)
        .expect("the user is there");
    users
}
