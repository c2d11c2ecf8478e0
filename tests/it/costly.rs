//! Commands that cost much for the octets they take: other peers must hardly notice.

use std::thread;
use std::time::Duration;

use crate::broker::Broker;
use crate::login::{Login, PATIENCE, ask};
use crate::peer::{Content, Method, Peer, Unit, now};
use crate::value::{Field, Value};

/// How long a message of somebody else may take meanwhile. The cases took one to seven seconds while
/// each was done in one piece or in time that grew with a square.
const WAIT_MAX: Duration = Duration::from_millis(600);

fn text(words: &str) -> Value {
    Value::Text(words.as_bytes().to_vec())
}

fn yes() -> Value {
    Value::Bit(true)
}

fn client(broker: &Broker) -> Peer {
    let mut peer = broker.peer().expect("it listens");
    Login::default().log_in(&mut peer).expect("it logs in");
    ask(&mut peer, 1, &Method::new("channel.open", &[])).expect("a channel");
    peer
}

fn put(peer: &mut Peer, name: &str, arguments: &[(&str, Value)]) {
    let method = Method::new(name, arguments);
    peer.put_method(1, &method, None).expect("it is encoded");
}

fn publish(peer: &mut Peer, exchange: &str, routing_key: &str) {
    let arguments = [
        ("exchange", text(exchange)),
        ("routing_key", text(routing_key)),
    ];
    let method = Method::new("basic.publish", &arguments);
    let content = Some(&Content::default());
    peer.put_method(1, &method, content).expect("it is encoded");
}

fn declare(peer: &mut Peer, queue: &str) {
    put(
        peer,
        "queue.declare",
        &[("queue", text(queue)), ("nowait", yes())],
    );
}

fn consume(peer: &mut Peer, queue: &str, tag: usize, priority: i64) {
    let arguments = vec![(b"x-priority".to_vec(), Field::Integer(b'I', priority))];
    let arguments = [
        ("queue", text(queue)),
        ("consumer_tag", text(&tag.to_string())),
        ("nowait", yes()),
        ("arguments", Value::Table(arguments)),
    ];
    put(peer, "basic.consume", &arguments);
}

/// Waits until the broker has come to the end of what was sent.
fn settle(peer: &mut Peer) {
    let flow = [("active", yes())];
    put(peer, "channel.flow", &flow);
    loop {
        match peer.receive(now() + PATIENCE * 6).expect("frames") {
            Some(Unit::Method(1, method, _)) if method.spec.name == "channel.flow-ok" => return,
            Some(Unit::Closed) | None => panic!("it does not answer"),
            Some(_) => {}
        }
    }
}

/// The longest that a message takes from a client through the broker and back while `act` goes on.
fn longest_wait(broker: &Broker, act: impl FnOnce() + Send) -> Duration {
    let mut peer = client(broker);
    declare(&mut peer, "bystander");
    let arguments = [("queue", text("bystander")), ("no_ack", yes())];
    put(&mut peer, "basic.consume", &arguments);
    settle(&mut peer);
    thread::scope(|scope| {
        let acting = scope.spawn(act);
        let mut longest = Duration::ZERO;
        while !acting.is_finished() {
            let start = now();
            publish(&mut peer, "", "bystander");
            let came = peer.receive(now() + PATIENCE).expect("frames");
            assert!(matches!(came, Some(Unit::Method(1, ..))), "its message");
            longest = longest.max(now() - start);
            thread::sleep(Duration::from_millis(1));
        }
        acting.join().expect("no panic");
        longest
    })
}

fn check(prepare: impl FnOnce(&mut Peer), act: impl FnOnce(&mut Peer) + Send) {
    let broker = Broker::start(&[]).expect("leveret starts");
    let mut peer = client(&broker);
    prepare(&mut peer);
    settle(&mut peer);
    let longest = longest_wait(&broker, || act(&mut peer));
    assert!(longest < WAIT_MAX, "{longest:?}");
}

const CONSUMERS: usize = 60_000;

#[test]
fn a_channel_with_very_many_consumers_closes() {
    let prepare = |peer: &mut Peer| {
        declare(peer, "q");
        (0..CONSUMERS).for_each(|tag| consume(peer, "q", tag, 0));
    };
    check(prepare, |peer| {
        ask(peer, 1, &Method::new("channel.close", &[])).expect("close-ok");
    });
}

#[test]
fn a_connection_with_very_many_consumers_on_many_channels_is_lost() {
    let prepare = |peer: &mut Peer| {
        declare(peer, "q");
        for channel in 2..600 {
            let open = Method::new("channel.open", &[]);
            peer.put_method(channel, &open, None)
                .expect("it is encoded");
            for _ in 0..400 {
                let arguments = [("queue", text("q")), ("nowait", yes())];
                let consume = Method::new("basic.consume", &arguments);
                let put = peer.put_method(channel, &consume, None);
                put.expect("it is encoded");
            }
        }
    };
    check(prepare, |peer| {
        peer.drop_socket();
        thread::sleep(Duration::from_millis(300));
    });
}

#[test]
fn a_queue_with_very_many_consumers_of_a_priority_is_deleted() {
    let prepare = |peer: &mut Peer| {
        declare(peer, "q");
        let priorities = (0..10).cycle();
        (0..CONSUMERS)
            .zip(priorities)
            .for_each(|(tag, priority)| consume(peer, "q", tag, priority));
    };
    check(prepare, |peer| {
        put(peer, "queue.delete", &[("queue", text("q"))]);
        settle(peer);
    });
}

/// A delivery on it: method, header, no body.
const DELIVERY_OCTETS: usize = 48;

/// A channel that has got many messages without acknowledging one, and their last tag.
fn unacked(peer: &mut Peer, count: u64) {
    declare(peer, "q");
    (0..count).for_each(|_| publish(peer, "", "q"));
    consume(peer, "q", 0, 0);
    let octets = count as usize * DELIVERY_OCTETS;
    let came = peer.receive_raw(octets, now() + PATIENCE * 6);
    assert_eq!(came.expect("deliveries").len(), octets);
}

#[test]
fn consumers_are_cancelled_while_very_many_deliveries_are_out() {
    let prepare = |peer: &mut Peer| {
        unacked(peer, 1_000_000);
        declare(peer, "other");
        put(peer, "basic.qos", &[("prefetch_count", Value::Number(1))]);
        (1..4000).for_each(|tag| consume(peer, "other", tag, 0));
        (1..4000).for_each(|_| publish(peer, "", "other"));
    };
    check(prepare, |peer| {
        for tag in 1..4000 {
            let tag = text(&format!("{tag}"));
            let arguments = [("consumer_tag", tag), ("nowait", yes())];
            put(peer, "basic.cancel", &arguments);
        }
        settle(peer);
    });
}

#[test]
fn transactions_are_rolled_back_while_very_many_deliveries_are_out() {
    let prepare = |peer: &mut Peer| {
        unacked(peer, 200_000);
        put(peer, "tx.select", &[]);
    };
    check(prepare, |peer| {
        for tag in 0..200 {
            let tag = Value::Number(tag * 700 + 1);
            put(peer, "basic.ack", &[("delivery_tag", tag)]);
            put(peer, "tx.rollback", &[]);
        }
        settle(peer);
        // Nothing was acknowledged.
        let all = [
            ("delivery_tag", Value::Number(200_000)),
            ("multiple", yes()),
        ];
        put(peer, "basic.ack", &all);
        put(peer, "tx.commit", &[]);
        settle(peer);
    });
}

#[test]
fn a_message_goes_through_very_many_exchanges() {
    let prepare = |peer: &mut Peer| {
        for number in 0..30_000 {
            let arguments = [
                ("exchange", text(&format!("e{number}"))),
                ("type", text("fanout")),
                ("nowait", yes()),
            ];
            put(peer, "exchange.declare", &arguments);
        }
        for number in 1..30_000 {
            let arguments = [
                ("source", text(&format!("e{}", number - 1))),
                ("destination", text(&format!("e{number}"))),
                ("nowait", yes()),
            ];
            put(peer, "exchange.bind", &arguments);
        }
        declare(peer, "q");
    };
    check(prepare, |peer| {
        for number in 0..5 {
            // Each route is found anew.
            let arguments = [
                ("queue", text("q")),
                ("exchange", text("amq.direct")),
                ("routing_key", text(&number.to_string())),
                ("nowait", yes()),
            ];
            put(peer, "queue.bind", &arguments);
            publish(peer, "e0", "");
        }
        settle(peer);
    });
}
