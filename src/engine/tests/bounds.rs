//! Long work in slices, and publishers that are stopped.

use super::*;
use crate::broker;
use crate::connection::Pause;
use crate::wire::DeliveryTag;
use crate::wire::method::exchange;

/// `capabilities = { connection.blocked = true }`
const UNDERSTANDS_BLOCKED: &[u8] = b"\x0ccapabilitiesF\0\0\0\x15\x12connection.blockedt\x01";

/// Bindings enough for several slices.
const MANY: usize = 6000;

fn bind<'a>(exchange: &'a str, queue: &'a str, key: &'a str) -> queue::Bind<'a> {
    queue::Bind {
        ticket: 0,
        queue: ShortString::truncated(queue),
        exchange: ShortString::truncated(exchange),
        routing_key: ShortString::truncated(key),
        no_wait: true,
        arguments: FieldTable::default(),
    }
}

fn exchange_declare<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare {
        ticket: 0,
        exchange: ShortString::truncated(name),
        exchange_type: ShortString::truncated(kind),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        no_wait: false,
        arguments: FieldTable::default(),
    }
}

fn exchange_delete(name: &str) -> exchange::Delete<'_> {
    exchange::Delete {
        ticket: 0,
        exchange: ShortString::truncated(name),
        if_unused: false,
        no_wait: false,
    }
}

fn queue_declare(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        ticket: 0,
        queue: ShortString::truncated(name),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: FieldTable::default(),
    }
}

fn queue_delete(name: &str) -> queue::Delete<'_> {
    queue::Delete {
        ticket: 0,
        queue: ShortString::truncated(name),
        if_unused: false,
        if_empty: false,
        no_wait: false,
    }
}

impl Server {
    /// A durable exchange `x` with [`MANY`] bindings to the durable queue `q`, and a client.
    fn with_many_bindings(kind: &str) -> (Self, ConnectionId) {
        let mut server = Server::start();
        let id = server.connect(4000, "/");
        server.send(id, 1, &exchange_declare("x", kind));
        server.send(id, 1, &queue_declare("q"));
        for number in 0..MANY {
            // Two words, so that a topic exchange has inner nodes.
            let key = format!("{}.{}", number % 50, number / 50);
            server.send(id, 1, &bind("x", "q", &key));
        }
        server.settle();
        server.received(id);
        assert_eq!(server.bindings(), MANY);
        (server, id)
    }

    fn bindings(&self) -> usize {
        self.engine.broker().bindings().len()
    }

    /// Turns until the bindings are gone; no turn takes more than its share.
    fn count_slices(&mut self) {
        let mut turns = 0;
        while self.bindings() > 0 {
            let before = self.bindings();
            self.turn();
            let removed = before - self.bindings();
            let share = Config::default().limits.slice_entries_max / broker::BINDING_COST;
            assert!(removed > 0 && removed <= share, "{removed} in one turn");
            self.engine
                .broker()
                .audit()
                .expect("the router agrees with itself");
            turns += 1;
        }
        assert!(turns >= 4, "{turns} turns for {MANY} bindings");
    }

    /// The server after a crash at this moment.
    fn crashed(&self) -> Self {
        let disk = self.disk.killed();
        let config = Config::default();
        let engine = Engine::open(disk.clone(), &config, self.now, 43).expect("it opens again");
        Server {
            disk,
            engine,
            helpers: Later::default(),
            now: self.now,
        }
    }
}

#[test]
fn an_exchange_with_many_bindings_goes_in_slices() {
    for kind in ["direct", "topic", "fanout", "headers"] {
        let (mut server, id) = Server::with_many_bindings(kind);
        server.send(id, 1, &exchange_delete("x"));
        // It is gone at once, its bindings are not seen.
        assert_eq!(
            server.bindings(),
            MANY,
            "{kind}: the command itself removes none"
        );
        assert_eq!(server.engine.broker().exchange_in(0, b"x"), None);
        let seen = server.rows(Table::Bindings, Scope::default(), 100);
        assert_eq!(seen.len(), 1, "only the implicit binding: {seen:?}");
        server.count_slices();
        server.settle();
        assert!(server.received(id).iter().any(|it| it.contains("DeleteOk")));
        let mut again = server.crashed();
        again.settle();
        assert_eq!(
            (again.bindings(), again.engine.broker().exchange_in(0, b"x")),
            (0, None)
        );
    }
}

#[test]
fn a_queue_with_many_bindings_goes_in_slices() {
    let (mut server, id) = Server::with_many_bindings("direct");
    server.send(id, 1, &queue_delete("q"));
    assert_eq!(server.bindings(), MANY, "the command itself removes none");
    assert_eq!(server.engine.broker().queue_in(0, b"q"), None);
    // What is published meanwhile reaches nobody.
    let mut octets = Vec::new();
    let method = basic::Publish {
        ticket: 0,
        exchange: ShortString::literal("x"),
        routing_key: ShortString::literal("7.7"),
        mandatory: true,
        immediate: false,
    };
    encode::content(&mut octets, ChannelNumber(1), &method, b"\0\0", b"m", 8192);
    server.engine.receive(server.now, id, &octets);
    assert!(server.received(id).iter().any(|it| it.contains("312")));
    server.count_slices();
    let exchange = server
        .engine
        .broker()
        .exchange_in(0, b"x")
        .expect("it stays");
    let exchange = &server.engine.broker().exchanges()[exchange.slot as usize];
    assert_eq!(exchange.outgoing, 0);
}

/// It goes with the queue and not with the last slice, so that nobody declares it again, or binds
/// to it, only to see it go.
#[test]
fn an_auto_delete_exchange_goes_at_once_with_the_last_queue_it_led_to() {
    let mut server = Server::start();
    let id = server.connect(4000, "/");
    for name in ["x", "y"] {
        let declare = exchange::Declare {
            auto_delete: true,
            ..exchange_declare(name, "direct")
        };
        server.send(id, 1, &declare);
    }
    for name in ["q", "r"] {
        server.send(id, 1, &queue_declare(name));
    }
    for number in 0..MANY / 2 {
        server.send(id, 1, &bind("x", "q", &number.to_string()));
        server.send(id, 1, &bind("y", "q", &number.to_string()));
    }
    server.send(id, 1, &bind("y", "r", "k"));
    server.settle();
    server.send(id, 1, &queue_delete("q"));
    let there = |server: &Server, name: &[u8]| server.engine.broker().exchange_in(0, name);
    assert_eq!(there(&server, b"x"), None);
    assert!(there(&server, b"y").is_some(), "it leads to r");
    server
        .engine
        .broker()
        .audit()
        .expect("the router agrees with itself");
    server.send(id, 1, &queue_delete("r"));
    assert_eq!(there(&server, b"y"), None);
    server.count_slices();
}

#[test]
fn both_ends_of_many_bindings_may_go_at_once() {
    let (mut server, id) = Server::with_many_bindings("topic");
    server.send(id, 1, &queue_delete("q"));
    server.send(id, 1, &exchange_delete("x"));
    server.count_slices();
    server.settle();
    let again = server.crashed();
    assert_eq!(
        (again.bindings(), again.engine.broker().queue_in(0, b"q")),
        (0, None)
    );
}

#[test]
fn a_name_waits_until_the_bindings_of_the_one_before_are_gone() {
    let (mut server, id) = Server::with_many_bindings("direct");
    server.send(id, 1, &exchange_delete("x"));
    let mut octets = Vec::new();
    encode::method_frame(
        &mut octets,
        ChannelNumber(1),
        &exchange_declare("x", "fanout"),
    );
    let received = server.engine.receive(server.now, id, &octets);
    assert_eq!(
        (received.consumed, received.pause),
        (0, Some(Pause::Storage))
    );
    while server.bindings() > 0 {
        assert_eq!(server.engine.take_resumed(), []);
        server.turn();
    }
    server.turn();
    assert_eq!(server.engine.take_resumed(), [id]);
    let received = server.engine.receive(server.now, id, &octets);
    assert_eq!(received.consumed, octets.len());
    server.send(id, 1, &bind("x", "q", "new"));
    server.settle();
    assert!(
        server
            .received(id)
            .iter()
            .any(|it| it.contains("DeclareOk"))
    );
    let again = server.crashed();
    assert_eq!(again.bindings(), 1, "the new one's, and none of the old");
}

#[test]
fn bindings_that_a_crash_left_behind_do_not_come_back_with_the_name() {
    let (mut server, id) = Server::with_many_bindings("direct");
    server.send(id, 1, &exchange_delete("x"));
    server.turn();
    // The answer goes out while bindings are left.
    while let Some(job) = server.helpers.flush.pop_front() {
        server.engine.answer(server.now, job.run(&server.disk));
    }
    server.turn();
    assert!(server.received(id).iter().any(|it| it.contains("DeleteOk")));
    assert!(server.bindings() > 1000);
    let mut again = server.crashed();
    assert_eq!(
        (again.bindings(), again.engine.broker().exchange_in(0, b"x")),
        (0, None)
    );
    again.settle();
    let id = again.connect(4000, "/");
    again.send(id, 1, &exchange_declare("x", "direct"));
    again.settle();
    assert!(again.engine.broker().exchange_in(0, b"x").is_some());
    assert_eq!(again.crashed().bindings(), 0);
}

#[test]
fn a_virtual_host_waits_for_the_bindings_of_what_was_in_it() {
    let (mut server, _) = Server::with_many_bindings("direct");
    let index = server
        .engine
        .broker()
        .vhost_named("/")
        .expect("it is there");
    let delete = AdminCommand::DeleteVhost { name: "/" };
    assert_eq!(server.engine.command(server.now, HTTP, delete), None);
    for _ in 0..50 {
        server.settle();
    }
    let answers = server.engine.take_answers();
    assert_eq!(answers, [(HTTP, Ok(Outcome::Done))]);
    assert_eq!(server.bindings(), 0);
    assert!(
        !server
            .engine
            .broker()
            .vhost_slots()
            .contains(index as usize)
    );
    assert_eq!(server.crashed().bindings(), 0);
}

/// A client that asks and asks while the disk does not answer is not read any more at some point.
#[test]
fn answers_that_wait_for_the_disk_are_bounded() {
    let mut server = Server::start();
    let id = server.connect(4001, "/");
    let outbox_max = Config::default().limits.outbox_octets_max;
    let mut commands = Vec::new();
    encode::method_frame(&mut commands, ChannelNumber(1), &queue_declare("q"));
    let first = commands.len();
    let flow = channel::Flow { active: true };
    for _ in 0..4000 {
        encode::method_frame(&mut commands, ChannelNumber(1), &flow);
    }
    let flow_ok = 13;
    let (mut taken, mut start) = (0, 0);
    let pause = loop {
        let received = server.engine.receive(server.now, id, &commands[start..]);
        taken += received.consumed;
        start += received.consumed;
        if let Some(pause) = received.pause {
            break pause;
        }
        start = first;
        assert!(
            taken < outbox_max * 2,
            "{taken} octets of commands are taken"
        );
        // Turns pass, and no helper answers.
        server.turn();
    };
    assert_eq!(pause, Pause::Storage);
    assert!(
        taken / flow_ok * flow_ok >= outbox_max / 2,
        "it has room for {taken} octets"
    );
    assert!(
        server.received(id).is_empty(),
        "the first answer waits, and all behind it"
    );
    // The disk answers, the answers go out, the client is read again.
    server.settle();
    assert_eq!(server.engine.take_resumed(), [id]);
    let answers = server.received(id);
    assert!(answers[0].contains("DeclareOk") && answers.len() > outbox_max / 14);
    let received = server.engine.receive(server.now, id, &commands[start..]);
    assert!(received.consumed > 0);
}

#[test]
fn an_alarm_stops_publishers_and_tells_those_who_understand() {
    let mut server = Server::start();
    let publisher = server.connect_with(4001, "/", UNDERSTANDS_BLOCKED);
    let silent = server.connect_with(4002, "/", b"");
    let consumer = server.connect_with(4003, "/", UNDERSTANDS_BLOCKED);
    let late = server.connect_with(4004, "/", UNDERSTANDS_BLOCKED);
    server.declare("/", b"q", true).expect("it is declared");
    for id in [publisher, silent, publisher, silent] {
        server.publish(id, "q");
    }
    server.settle();
    let heard = |server: &mut Server, id| -> Vec<String> {
        let frames = server.received(id).into_iter();
        frames.filter(|it| it.contains("locked")).collect()
    };
    let blocked = ["ConnectionBlocked(Blocked { reason: 'low on memory' })"];
    server.engine.memory_alarm(server.now, true, Some(1 << 30));
    assert_eq!(heard(&mut server, publisher), blocked);
    for id in [silent, consumer, late] {
        assert!(heard(&mut server, id).is_empty());
    }
    // Who publishes now is not read, and told if it understands.
    let octets = Server::publish_octets("q");
    for id in [publisher, silent, late] {
        let received = server.engine.receive(server.now, id, &octets);
        assert_eq!(
            (received.consumed, received.pause),
            (0, Some(Pause::Publishing))
        );
    }
    assert!(heard(&mut server, publisher).is_empty(), "it was told");
    assert!(heard(&mut server, silent).is_empty());
    assert_eq!(heard(&mut server, late), blocked);
    // Consumers go on: deliveries, acknowledgements, commands.
    let consume = basic::Consume {
        ticket: 0,
        queue: ShortString::literal("q"),
        consumer_tag: ShortString::literal("c"),
        no_local: false,
        no_ack: false,
        exclusive: false,
        no_wait: false,
        arguments: FieldTable::default(),
    };
    server.send(consumer, 1, &consume);
    server.settle();
    let deliveries = server.received(consumer);
    assert_eq!(
        deliveries
            .iter()
            .filter(|it| it.contains("Deliver"))
            .count(),
        4
    );
    assert!(!deliveries.iter().any(|it| it.contains("locked")));
    let (delivery_tag, multiple) = (crate::wire::DeliveryTag(4), true);
    server.send(
        consumer,
        1,
        &basic::Ack {
            delivery_tag,
            multiple,
        },
    );
    server.settle();
    let held = |server: &Server| -> u64 {
        let queues = server.engine.broker().queues().iter();
        queues
            .map(|(_, queue)| queue.message_count() + queue.unacked)
            .sum()
    };
    assert_eq!(held(&server), 0);
    // Another reason joins, nobody is told twice; both must end.
    server.engine.disk_alarm(server.now, true);
    server.engine.memory_alarm(server.now, false, None);
    for id in [publisher, silent, consumer, late] {
        assert!(heard(&mut server, id).is_empty());
    }
    // The disk has answered in between; who tries again is not read either.
    for id in server.engine.take_resumed() {
        let received = server.engine.receive(server.now, id, &octets);
        assert_eq!(
            (received.consumed, received.pause),
            (0, Some(Pause::Publishing))
        );
        assert!(heard(&mut server, id).is_empty());
    }
    server.engine.disk_alarm(server.now, false);
    for (id, expected) in [(publisher, 1), (silent, 0), (consumer, 0), (late, 1)] {
        assert_eq!(heard(&mut server, id).len(), expected);
    }
    let mut resumed = server.engine.take_resumed();
    resumed.sort_unstable();
    assert_eq!(resumed, [publisher, silent, late]);
    for id in resumed {
        let received = server.engine.receive(server.now, id, &octets);
        assert_eq!(received.consumed, octets.len());
    }
    server.settle();
    assert_eq!(held(&server), 3);
}

#[test]
fn an_alarm_stops_messages_that_have_begun() {
    // One that is collected in memory, one that goes to a file.
    for size in [100_000, 2_000_000] {
        let mut server = Server::start();
        let id = server.connect(1001, "/");
        server.send(id, 1, &queue_declare("q"));
        let publish = basic::Publish {
            ticket: 0,
            exchange: ShortString::EMPTY,
            routing_key: ShortString::literal("q"),
            mandatory: false,
            immediate: false,
        };
        let (mut octets, body) = (Vec::new(), vec![b'x'; size]);
        encode::content(
            &mut octets,
            ChannelNumber(1),
            &publish,
            b"\0\0",
            &body,
            8192,
        );
        let (first, rest) = octets.split_at(20_000);
        let begun = server.engine.receive(server.now, id, first);
        assert_eq!(begun.pause, None);
        server.engine.memory_alarm(server.now, true, None);
        let rest = [&first[begun.consumed..], rest].concat();
        let received = server.engine.receive(server.now, id, &rest);
        assert_eq!(received.pause, Some(Pause::Publishing));
        assert!(received.consumed < 8192, "{size}: {}", received.consumed);
        server.engine.memory_alarm(server.now, false, None);
        assert_eq!(server.engine.take_resumed(), [id]);
        let mut at = received.consumed;
        while at < rest.len() {
            at += server.engine.receive(server.now, id, &rest[at..]).consumed;
            server.settle();
            server.engine.take_resumed();
        }
        assert_eq!(counts(&server), (1, 0), "{size}");
    }
}

/// What a turn takes of `octets`, as often as it takes to get through; each time anew.
fn turns(server: &mut Server, id: ConnectionId, octets: &[u8]) -> usize {
    let (mut at, mut turns) = (0, 0);
    loop {
        let received = server.engine.receive(server.now, id, &octets[at..]);
        at += received.consumed;
        turns += 1;
        match received.pause {
            Some(Pause::Turn) => {
                assert_eq!(server.engine.take_resumed(), [id]);
                server.turn();
            }
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    assert_eq!(at, octets.len());
    turns
}

fn counts(server: &Server) -> (u64, u64) {
    let (_, queue) = server.engine.broker().queues().iter().next().expect("q");
    (queue.message_count(), queue.unacked)
}

#[test]
fn very_many_deliveries_are_settled_in_several_turns() {
    const COUNT: u64 = 20_000;
    let mut server = Server::start();
    let id = server.connect(1001, "/");
    let declare = queue::Declare {
        durable: false,
        ..queue_declare("q")
    };
    server.send(id, 1, &declare);
    let octets = Server::publish_octets("q").repeat(COUNT as usize);
    server.engine.receive(server.now, id, &octets);
    let get = basic::Get {
        ticket: 0,
        queue: ShortString::literal("q"),
        no_ack: false,
    };
    let all = |requeue| basic::Nack {
        delivery_tag: DeliveryTag(0),
        multiple: true,
        requeue,
    };
    let last = basic::Ack {
        delivery_tag: DeliveryTag(COUNT * 3),
        multiple: true,
    };
    let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut octets = Vec::new();
        encode(&mut octets);
        octets
    };
    let number = ChannelNumber(1);
    let cases = [
        encoded(&|out| encode::method_frame(out, number, &all(true))),
        encoded(&|out| encode::method_frame(out, number, &basic::Recover { requeue: true })),
        encoded(&|out| encode::method_frame(out, number, &last)),
    ];
    for (octets, left) in cases.iter().zip([COUNT, COUNT, 0]) {
        for _ in 0..COUNT {
            server.send(id, 1, &get);
            server.received(id);
        }
        assert_eq!(counts(&server), (0, COUNT));
        // Three slices; what stands behind the command waits for the last of them.
        let flow = encoded(&|out| {
            encode::method_frame(out, number, &channel::Flow { active: true });
        });
        assert_eq!(turns(&mut server, id, &[&octets[..], &flow].concat()), 3);
        assert_eq!(counts(&server), (left, 0));
        let told = server.received(id);
        assert!(
            told.last().is_some_and(|it| it.contains("FlowOk")),
            "{told:?}"
        );
    }
}

#[test]
fn a_turn_takes_few_messages_that_go_to_very_many_queues() {
    let mut server = Server::start();
    let id = server.connect(1001, "/");
    for number in 0..20_000 {
        let name = format!("q{number}");
        let declare = queue::Declare {
            durable: false,
            no_wait: true,
            ..queue_declare(&name)
        };
        server.send(id, 1, &declare);
        server.send(id, 1, &bind("amq.fanout", &name, ""));
    }
    let mut octets = Vec::new();
    let publish = basic::Publish {
        ticket: 0,
        exchange: ShortString::literal("amq.fanout"),
        routing_key: ShortString::EMPTY,
        mandatory: false,
        immediate: false,
    };
    encode::content(&mut octets, ChannelNumber(1), &publish, b"\0\0", b"", 8192);
    // The last one leaves nothing that would have to wait.
    assert_eq!(turns(&mut server, id, &octets.repeat(10)), 11);
    assert_eq!(counts(&server), (10, 0));
}
