//! How much a turn takes in before it writes.

use super::*;

#[test]
fn little_for_each_of_many_is_thin_and_much_for_one_is_not() {
    let mut server = Server::start();
    let publisher = server.connect(4000, "/");
    for number in 0..4u16 {
        let name = format!("q{number}");
        server.declare("/", name.as_bytes(), false).expect("is new");
        let id = server.connect(4001 + number, "/");
        let consume = basic::Consume {
            ticket: 0,
            queue: ShortString::truncated(&name),
            consumer_tag: ShortString::EMPTY,
            no_local: false,
            no_ack: true,
            exclusive: false,
            no_wait: false,
            arguments: FieldTable::stored(b""),
        };
        server.send(id, 1, &consume);
        server.settle();
        assert!(!server.received(id).is_empty());
    }
    server.engine.take_writable();
    assert!(!server.engine.is_spread_thin(), "nothing waits");
    server.publish(publisher, "q0");
    assert!(!server.engine.is_spread_thin(), "one write carries it all");
    server.publish(publisher, "q1");
    server.publish(publisher, "q2");
    assert!(server.engine.is_spread_thin());
    let mut messages = 3;
    while server.engine.is_spread_thin() {
        server.publish(publisher, "q3");
        messages += 1;
        assert!(messages < 10_000, "large writes are not thin");
    }
    assert!(messages > 100, "a few messages make no large write");
}
