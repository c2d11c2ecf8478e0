//! The whole engine over the disk in memory: what operators see, and what they change.

mod bounds;
mod thin;

use std::net::SocketAddr;

use super::*;
use crate::admin::{
    Admin as _, AdminCommand, AdminError, Binding, Cursor, DestinationKind, NewSecret, Outcome,
    Row, Scope, Table, UsersCommand,
};
use crate::storage::{FlushJob, KeeperJob, MemoryStorage};
use crate::wire::decoder::{Decoded, decode};
use crate::wire::encode;
use crate::wire::field_table::FieldTable;
use crate::wire::method::{basic, channel, confirm, connection, queue};
use crate::wire::{ChannelNumber, Method, MethodFields};

/// Helpers that keep their jobs until they are told to run them.
#[derive(Debug, Default)]
struct Later {
    flush: VecDeque<FlushJob<MemoryStorage>>,
    keep: VecDeque<KeeperJob<MemoryStorage>>,
}

impl Helpers<MemoryStorage> for Later {
    fn flush(&mut self, job: FlushJob<MemoryStorage>) {
        self.flush.push_back(job);
    }
    fn keep(&mut self, job: KeeperJob<MemoryStorage>) {
        self.keep.push_back(job);
    }
}

/// A server, its disk and its clock.
struct Server {
    disk: MemoryStorage,
    engine: Engine<MemoryStorage>,
    helpers: Later,
    now: Now,
}

const HTTP: HttpId = HttpId(7);

impl Server {
    fn start() -> Self {
        let (disk, now) = (MemoryStorage::new(), Now::default());
        let config = Config::default();
        let engine = Engine::open(disk.clone(), &config, now, 42).expect("an empty disk opens");
        let mut server = Server {
            disk,
            engine,
            helpers: Later::default(),
            now,
        };
        server.settle();
        server
    }

    fn turn(&mut self) {
        let mut dead = Vec::new();
        self.engine.end_turn(self.now, &mut self.helpers, &mut dead);
        for id in dead {
            self.engine.drop_peer(self.now, id);
        }
    }

    /// Turns and helpers' work until everything is on the disk.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now.monotonic_us += 600;
            self.turn();
            while let Some(job) = self.helpers.keep.pop_front() {
                self.engine.answer(self.now, job.run(&self.disk));
            }
            while let Some(job) = self.helpers.flush.pop_front() {
                self.engine.answer(self.now, job.run(&self.disk));
            }
            if self.engine.is_flushed() {
                self.turn();
                return;
            }
        }
        panic!("the disk has nothing more to do and something is not flushed");
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.monotonic_us += 1_000_000;
            self.now.wall_ms += 1000;
            self.settle();
        }
    }

    /// Opens a connection of guest's to `vhost`, on which channel 1 is open.
    fn connect(&mut self, port: u16, vhost: &str) -> ConnectionId {
        self.connect_with(port, vhost, b"\x07productS\0\0\0\x04hare")
    }

    /// The same for a client that says `properties` of itself.
    fn connect_with(&mut self, port: u16, vhost: &str, properties: &[u8]) -> ConnectionId {
        let local = SocketAddr::from(([127, 0, 0, 1], 5672));
        let peer: SocketAddr = format!("[::ffff:127.0.0.1]:{port}")
            .parse()
            .expect("an address");
        let id = self.engine.accept(self.now, peer, local);
        self.engine.receive(self.now, id, b"AMQP\0\0\x09\x01");
        self.send(
            id,
            0,
            &connection::StartOk {
                client_properties: FieldTable::stored(properties),
                mechanism: ShortString::literal("PLAIN"),
                response: b"\0guest\0guest",
                locale: ShortString::literal("en_US"),
            },
        );
        self.send(
            id,
            0,
            &connection::TuneOk {
                channel_max: 10,
                frame_max: 8192,
                heartbeat: 0,
            },
        );
        self.send(
            id,
            0,
            &connection::Open {
                virtual_host: ShortString::truncated(vhost),
                capabilities: ShortString::EMPTY,
                insist: false,
            },
        );
        let open = channel::Open {
            out_of_band: ShortString::EMPTY,
        };
        self.send(id, 1, &open);
        self.settle();
        assert!(!self.received(id).is_empty());
        id
    }

    fn send(&mut self, id: ConnectionId, number: u16, method: &impl MethodFields) {
        let mut octets = Vec::new();
        encode::method_frame(&mut octets, ChannelNumber(number), method);
        let received = self.engine.receive(self.now, id, &octets);
        if received.pause.is_some() {
            // What has to be on the disk first is waited for.
            self.settle();
            assert_eq!(self.engine.take_resumed(), [id]);
            self.engine
                .receive(self.now, id, &octets[received.consumed..]);
        }
    }

    fn publish(&mut self, id: ConnectionId, routing_key: &str) {
        let octets = Self::publish_octets(routing_key);
        self.engine.receive(self.now, id, &octets);
    }

    /// A persistent message to the queue of that name, on channel 1.
    fn publish_octets(routing_key: &str) -> Vec<u8> {
        let mut octets = Vec::new();
        let method = basic::Publish {
            ticket: 0,
            exchange: ShortString::EMPTY,
            routing_key: ShortString::truncated(routing_key),
            mandatory: false,
            immediate: false,
        };
        // delivery-mode 2
        encode::content(
            &mut octets,
            ChannelNumber(1),
            &method,
            b"\x10\0\x02",
            b"body",
            8192,
        );
        octets
    }

    /// The frames for a peer in words, written out.
    fn received(&mut self, id: ConnectionId) -> Vec<String> {
        let octets = self.engine.octets_for(id).to_vec();
        self.engine.wrote(id, octets.len(), false);
        let (mut rest, mut frames) = (&octets[..], Vec::new());
        while let Ok(Decoded::Frame {
            payload, consumed, ..
        }) = decode(rest, 1 << 20)
        {
            rest = &rest[consumed..];
            frames.extend(Method::decode(payload).map(|method| format!("{method:?}")));
        }
        frames
    }

    /// Carries a command out; what waits for the disk is waited for, and must.
    fn command(&mut self, command: AdminCommand<'_>) -> AdminAnswer {
        if let Some(answer) = self.engine.command(self.now, HTTP, command) {
            return answer;
        }
        assert!(self.engine.owes_answers());
        assert_eq!(self.engine.take_answers(), [], "before it is on the disk");
        self.settle();
        let answers = self.engine.take_answers();
        let [(HTTP, answer)] = &answers[..] else {
            panic!("one answer for one command: {answers:?}");
        };
        answer.clone()
    }

    fn declare(&mut self, vhost: &str, name: &[u8], durable: bool) -> AdminAnswer {
        self.command(declaration(vhost, name, durable))
    }

    fn vhost(&mut self, name: &str) -> AdminAnswer {
        self.command(AdminCommand::PutVhost {
            name,
            description: Some("a place"),
            tags: None,
            default_queue_type: None,
            user: Some("guest"),
        })
    }

    /// All rows of a table, walked `step` rows at a time, in words.
    fn rows(&self, table: Table, scope: Scope<'_>, step: usize) -> Vec<String> {
        let (mut rows, mut from) = (Vec::new(), Some(Cursor::START));
        while let Some(cursor) = from {
            let before = rows.len();
            from = self.engine.rows(table, scope, cursor, step, &mut |_, row| {
                rows.push(told(&row));
            });
            assert!(rows.len() <= before + step);
        }
        rows
    }

    fn queue_row(
        &self,
        name: &[u8],
        tell: impl Fn(&crate::admin::QueueRow<'_>) -> String,
    ) -> String {
        let mut told = String::from("none");
        self.engine.queue("/", name, &mut |row| told = tell(&row));
        told
    }
}

fn declaration<'a>(vhost: &'a str, name: &'a [u8], durable: bool) -> AdminCommand<'a> {
    AdminCommand::DeclareQueue {
        vhost,
        name,
        durable,
        auto_delete: false,
        arguments: FieldTable::default(),
    }
}

/// A row in words.
fn told(row: &Row<'_>) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match row {
        Row::Vhost(row) => format!("{} {} {}", row.name, row.description, row.messages_ready),
        Row::Queue(row) => format!("{} {} {}", row.vhost, text(row.name), row.messages_ready),
        Row::Exchange(row) => format!("{} {} {}", row.vhost, text(row.name), row.kind),
        Row::Binding(row) => format!(
            "{}->{} {}",
            text(row.source),
            text(row.destination),
            text(row.routing_key)
        ),
        Row::Connection(row) => format!(
            "{} {} {} {} {}",
            text(row.name.name),
            row.user,
            row.vhost,
            row.state,
            row.channels
        ),
        Row::Channel(row) => format!(
            "{} ({}) {} {} unacked {}",
            text(row.connection.name),
            row.number,
            row.user,
            row.vhost,
            row.messages_unacknowledged
        ),
        Row::Consumer(row) => format!(
            "{} {} {} ack {} prefetch {}",
            text(row.queue),
            text(row.consumer_tag),
            row.channel,
            row.ack_required,
            row.prefetch_count
        ),
    }
}

#[test]
fn rows_are_walked_in_any_step_each_once() {
    let mut server = Server::start();
    for number in 0..40_u32 {
        let name = format!("q{number:02}");
        assert_eq!(
            server.declare("/", name.as_bytes(), false),
            Ok(Outcome::Created)
        );
    }
    assert_eq!(server.vhost("other"), Ok(Outcome::Created));
    assert_eq!(server.declare("other", b"q00", true), Ok(Outcome::Created));
    let all = server.rows(Table::Queues, Scope::default(), 100);
    assert_eq!(
        (all.len(), &*all[0], &*all[40]),
        (41, "/ q00 0", "other q00 0")
    );
    for step in [1, 2, 7, 41] {
        assert_eq!(server.rows(Table::Queues, Scope::default(), step), all);
    }
    let other = Scope {
        vhost: Some("other"),
        ..Scope::default()
    };
    assert_eq!(server.rows(Table::Queues, other, 1), ["other q00 0"]);
    assert_eq!(server.rows(Table::Exchanges, other, 3).len(), 7);
    assert_eq!(server.rows(Table::Bindings, other, 5), ["->q00 q00"]);
    assert_eq!(
        server.rows(Table::Vhosts, Scope::default(), 1),
        ["/ Default virtual host 0", "other a place 0"]
    );
    let nowhere = Scope {
        vhost: Some("nowhere"),
        ..Scope::default()
    };
    assert_eq!(server.rows(Table::Queues, nowhere, 1), [""; 0]);
}

#[test]
fn a_cursor_passes_over_a_slot_that_has_changed_hands() {
    let mut server = Server::start();
    for name in [&b"a"[..], b"b", b"c"] {
        server.declare("/", name, false).expect("is new");
    }
    let mut seen = Vec::new();
    server.engine.rows(
        Table::Queues,
        Scope::default(),
        Cursor::START,
        9,
        &mut |cursor, _| seen.push(cursor),
    );
    let delete = AdminCommand::DeleteQueue {
        vhost: "/",
        name: b"b",
        if_unused: true,
        if_empty: true,
    };
    assert_eq!(server.command(delete), Ok(Outcome::Messages(0)));
    server.declare("/", b"d", false).expect("is new");
    let at = |cursor| {
        let mut rows = Vec::new();
        server
            .engine
            .rows(Table::Queues, Scope::default(), cursor, 1, &mut |_, row| {
                rows.push(told(&row));
            });
        rows
    };
    assert_eq!(at(seen[0]), ["/ a 0"]);
    assert_eq!(at(seen[1]), ["/ c 0"], "not d, which has the slot now");
}

#[test]
fn messages_and_counts_are_seen_where_they_are() {
    let mut server = Server::start();
    server.declare("/", b"q", true).expect("is new");
    let id = server.connect(4000, "/");
    server.send(id, 1, &confirm::Select { no_wait: false });
    for _ in 0..5 {
        server.publish(id, "q");
    }
    server.publish(id, "nowhere");
    server.settle();
    let get = basic::Get {
        ticket: 0,
        queue: ShortString::literal("q"),
        no_ack: false,
    };
    server.send(id, 1, &get);
    server.settle();
    server.received(id);
    let counts = |row: &crate::admin::QueueRow<'_>| {
        format!(
            "ready {} unacked {} persistent {} published {} got {} acked {}",
            row.messages_ready,
            row.messages_unacknowledged,
            row.messages_persistent,
            row.stats.publish.total,
            row.stats.get.total,
            row.stats.ack.total
        )
    };
    let shown = server.queue_row(b"q", counts);
    assert_eq!(
        shown,
        "ready 4 unacked 1 persistent 5 published 5 got 1 acked 0"
    );
    let octets = |row: &crate::admin::QueueRow<'_>| {
        assert_eq!(row.octets_ready, row.octets_unacknowledged * 4);
        assert!(row.octets_unacknowledged >= 4 && row.memory_octets > 100);
        String::new()
    };
    server.queue_row(b"q", octets);
    let overview = server.engine.overview(server.now);
    assert_eq!(
        (overview.messages_ready, overview.messages_unacknowledged),
        (4, 1)
    );
    assert_eq!(
        (overview.connections, overview.channels, overview.queues),
        (1, 1, 1)
    );
    assert_eq!(overview.stats.publish.total, 6);
    assert_eq!(overview.stats.confirm.total, 6);
    assert_eq!(overview.stats.drop_unroutable.total, 1);
    assert_eq!(overview.churn.channel_created.total, 1);
    assert_eq!(
        server.rows(Table::Channels, Scope::default(), 9),
        ["127.0.0.1:4000 -> 127.0.0.1:5672 (1) guest / unacked 1"]
    );
    let purge = AdminCommand::PurgeQueue {
        vhost: "/",
        name: b"q",
    };
    assert_eq!(server.command(purge), Ok(Outcome::Messages(4)));
    let ack = basic::Ack {
        delivery_tag: crate::wire::DeliveryTag(1),
        multiple: false,
    };
    server.send(id, 1, &ack);
    server.settle();
    let shown = server.queue_row(b"q", counts);
    assert_eq!(
        shown,
        "ready 0 unacked 0 persistent 0 published 5 got 1 acked 1"
    );
    let delete = AdminCommand::DeleteQueue {
        vhost: "/",
        name: b"q",
        if_unused: false,
        if_empty: false,
    };
    assert_eq!(server.command(delete), Ok(Outcome::Messages(0)));
    assert_eq!(
        server.engine.overview(server.now).stats.ack.total,
        1,
        "it happened all the same"
    );
}

#[test]
fn rates_are_taken_every_five_seconds_and_an_empty_server_sleeps() {
    let mut server = Server::start();
    server.pass(20);
    assert_eq!(server.engine.sampler.next_deadline(), None);
    let id = server.connect(4000, "/");
    let declare = queue::Declare {
        ticket: 0,
        queue: ShortString::literal("q"),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: false,
        arguments: FieldTable::default(),
    };
    server.send(id, 1, &declare);
    for _ in 0..50 {
        server.publish(id, "q");
    }
    let rate = |row: &crate::admin::QueueRow<'_>| {
        let name = row
            .owner
            .map(|owner| String::from_utf8_lossy(owner.name).into_owned());
        format!(
            "{:.0}/s of {}",
            row.stats.publish.rate,
            name.unwrap_or_default()
        )
    };
    assert_eq!(
        server.queue_row(b"q", rate),
        "0/s of 127.0.0.1:4000 -> 127.0.0.1:5672"
    );
    server.pass(6);
    assert_eq!(
        server.queue_row(b"q", rate),
        "10/s of 127.0.0.1:4000 -> 127.0.0.1:5672"
    );
    let overview = server.engine.overview(server.now);
    assert!(
        (9.0..=10.0).contains(&overview.stats.publish.rate),
        "{:?}",
        overview.stats
    );
    let mut exchanged = 0.0;
    server
        .engine
        .exchange("/", b"", &mut |row| exchanged = row.publish_out.rate);
    assert!(exchanged > 0.0);
    let mut received = 0.0;
    server.engine.rows(
        Table::Connections,
        Scope::default(),
        Cursor::START,
        1,
        &mut |_, row| {
            if let Row::Connection(row) = row {
                received = row.received_octets.rate;
            }
        },
    );
    assert!(received > 50.0);
    server.pass(6);
    assert!(server.queue_row(b"q", rate).starts_with("0/s"));
    server.engine.drop_peer(server.now, id);
    server.pass(20);
    assert_eq!(server.engine.sampler.next_deadline(), None);
}

#[test]
fn refusals_say_what_is_in_the_way() {
    let mut server = Server::start();
    assert_eq!(server.declare("/", b"q", true), Ok(Outcome::Created));
    assert_eq!(server.declare("/", b"q", true), Ok(Outcome::Exists));
    let differs = "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'";
    assert_eq!(
        server.declare("/", b"q", false),
        Err(AdminError::Precondition(differs.to_owned()))
    );
    assert!(matches!(
        server.declare("/", b"amq.q", true),
        Err(AdminError::Refused(_))
    ));
    assert_eq!(
        server.declare("nowhere", b"q", true),
        Err(AdminError::NotFound)
    );
    let delete = |name| AdminCommand::DeleteExchange {
        vhost: "/",
        name,
        if_unused: false,
    };
    assert_eq!(server.command(delete(b"no")), Err(AdminError::NotFound));
    assert!(matches!(
        server.command(delete(b"amq.topic")),
        Err(AdminError::Refused(_))
    ));
    let purge = AdminCommand::PurgeQueue {
        vhost: "/",
        name: b"no",
    };
    assert_eq!(server.command(purge), Err(AdminError::NotFound));
}

#[test]
fn exchanges_and_bindings_come_and_go() {
    let mut server = Server::start();
    let declare = AdminCommand::DeclareExchange {
        vhost: "/",
        name: b"x",
        kind: "topic",
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: FieldTable::default(),
    };
    assert_eq!(server.command(declare), Ok(Outcome::Created));
    assert_eq!(server.command(declare), Ok(Outcome::Exists));
    server.declare("/", b"q", true).expect("is new");
    let bind = AdminCommand::Bind(Binding {
        vhost: "/",
        source: b"x",
        destination: b"q",
        destination_kind: DestinationKind::Queue,
        routing_key: b"a.#",
        arguments: FieldTable::default(),
    });
    assert_eq!(server.command(bind), Ok(Outcome::Created));
    assert_eq!(server.command(bind), Ok(Outcome::Exists));
    let from = Scope {
        exchange: Some(b"x"),
        ..Scope::default()
    };
    assert_eq!(server.rows(Table::Bindings, from, 1), ["x->q a.#"]);
    let unbind = |properties_key| AdminCommand::Unbind {
        vhost: "/",
        source: b"x",
        destination: b"q",
        destination_kind: DestinationKind::Queue,
        properties_key,
    };
    assert_eq!(server.command(unbind("b")), Err(AdminError::NotFound));
    assert_eq!(server.command(unbind("a.%23")), Ok(Outcome::Done));
    assert_eq!(server.rows(Table::Bindings, from, 1), [""; 0]);
}

#[test]
fn a_connection_is_closed_by_its_name() {
    let mut server = Server::start();
    let (one, other) = (server.connect(4000, "/"), server.connect(4001, "/"));
    let name = b"127.0.0.1:4000 -> 127.0.0.1:5672";
    let close = |only_of| AdminCommand::CloseConnection {
        name,
        reason: "Closed via management plugin",
        only_of,
    };
    assert_eq!(
        server.command(close(Some("someone"))),
        Err(AdminError::NotFound)
    );
    assert_eq!(server.command(close(Some("guest"))), Ok(Outcome::Done));
    let told = server.received(one).concat();
    assert!(
        told.contains("320") && told.contains("CONNECTION_FORCED - Closed via management plugin")
    );
    assert_eq!(server.received(other), [""; 0]);
    server.send(one, 0, &connection::CloseOk {});
    assert!(server.engine.is_over(one));
    assert_eq!(server.command(close(None)), Err(AdminError::NotFound));
    let rows = server.rows(Table::Connections, Scope::default(), 9);
    assert_eq!(rows, ["127.0.0.1:4001 -> 127.0.0.1:5672 guest / running 1"]);
}

#[test]
fn a_virtual_host_takes_its_connections_and_everything_in_it_along() {
    let mut server = Server::start();
    server.vhost("v").expect("is new");
    assert_eq!(server.vhost("v"), Ok(Outcome::Exists));
    server.declare("v", b"q", true).expect("is new");
    let (within, without) = (server.connect(4000, "v"), server.connect(4001, "/"));
    let delete = AdminCommand::DeleteVhost { name: "v" };
    assert_eq!(server.command(delete), Ok(Outcome::Done));
    let told = server.received(within).concat();
    assert!(
        told.contains("CONNECTION_FORCED - vhost 'v' is deleted"),
        "{told}"
    );
    assert_eq!(server.received(without), [""; 0]);
    assert_eq!(server.command(delete), Err(AdminError::NotFound));
    assert!(!server.engine.has_vhost("v"));
    assert_eq!(server.rows(Table::Queues, Scope::default(), 9), [""; 0]);
    let guest = server.engine.users().named("guest").expect("is seeded");
    assert!(guest.permission("v").is_none() && guest.permission("/").is_some());
}

#[test]
fn a_full_virtual_host_goes_in_slices() {
    let mut server = Server::start();
    server.vhost("v").expect("is new");
    for number in 0..2000_u32 {
        let name = number.to_string();
        server.engine.command(
            server.now,
            HTTP,
            declaration("v", name.as_bytes(), number % 2 == 0),
        );
    }
    server.settle();
    assert_eq!(
        server.engine.take_answers().len(),
        1000,
        "of the durable ones"
    );
    let overview = server.engine.overview(server.now);
    assert_eq!((overview.queues, overview.exchanges), (2000, 14));
    let delete = AdminCommand::DeleteVhost { name: "v" };
    assert_eq!(server.engine.command(server.now, HTTP, delete), None);
    assert!(!server.engine.has_vhost("v"));
    assert!(matches!(server.vhost("v"), Err(AdminError::Unavailable(_))));
    server.turn();
    let left = server.engine.overview(server.now).queues;
    assert!(
        (1000..2000).contains(&left),
        "some go in a turn, not all: {left} are left"
    );
    assert_eq!(server.engine.take_answers(), []);
    server.settle();
    while !server
        .engine
        .take_answers()
        .contains(&(HTTP, Ok(Outcome::Done)))
    {
        assert!(server.engine.owes_answers());
        server.settle();
    }
    let overview = server.engine.overview(server.now);
    assert_eq!((overview.queues, overview.exchanges), (0, 7));
    assert_eq!(server.vhost("v"), Ok(Outcome::Created));
    let (disk, config) = (server.disk.clone(), Config::default());
    let again = Engine::open(disk, &config, server.now, 43).expect("what was written is read");
    assert_eq!(
        (again.overview(server.now).queues, again.has_vhost("v")),
        (0, true)
    );
}

#[test]
fn sums_over_many_queues_are_those_of_the_last_look() {
    let mut server = Server::start();
    for number in 0..1500_u32 {
        server.engine.command(
            server.now,
            HTTP,
            declaration("/", number.to_string().as_bytes(), false),
        );
    }
    server.declare("/", b"q", false).expect("is new");
    let id = server.connect(4000, "/");
    server.publish(id, "q");
    let ready = |server: &Server| server.engine.overview(server.now).messages_ready;
    assert_eq!(ready(&server), 0);
    server.pass(6);
    assert_eq!(ready(&server), 1);
    assert_eq!(server.engine.overview(server.now).stats.publish.total, 1);
    assert_eq!(
        server.rows(Table::Vhosts, Scope::default(), 1),
        ["/ Default virtual host 1"]
    );
}

#[test]
fn users_lose_their_connections_with_themselves() {
    let mut server = Server::start();
    let id = server.connect(4000, "/");
    let put = |password| {
        AdminCommand::Users(UsersCommand::Put {
            name: "hare",
            secret: NewSecret::Password(password),
            tags: Some(&[]),
        })
    };
    assert_eq!(server.command(put(b"one")), Ok(Outcome::Created));
    assert_eq!(server.command(put(b"two")), Ok(Outcome::Exists));
    let users = server.engine.users();
    assert!(users.authenticate(b"hare", b"two", None).is_ok());
    assert!(users.authenticate(b"hare", b"one", None).is_err());
    let delete = |name| AdminCommand::Users(UsersCommand::Delete { name });
    assert_eq!(server.command(delete("hare")), Ok(Outcome::Done));
    assert_eq!(server.command(delete("hare")), Err(AdminError::NotFound));
    assert_eq!(server.received(id), [""; 0]);
    assert_eq!(server.command(delete("guest")), Ok(Outcome::Done));
    assert!(
        server
            .received(id)
            .concat()
            .contains("user 'guest' is deleted")
    );
}

#[test]
fn a_server_that_was_told_to_stop_takes_no_more_commands() {
    let mut server = Server::start();
    assert!(!server.engine.is_stop_asked());
    assert_eq!(server.command(AdminCommand::Stop), Ok(Outcome::Done));
    assert!(server.engine.is_stop_asked());
    server.engine.stop(server.now);
    assert!(matches!(
        server.declare("/", b"q", true),
        Err(AdminError::Unavailable(_))
    ));
    assert!(!server.engine.overview(server.now).is_serving);
}
