//! Clients that are still writing when their connection ends: what the broker said last must reach
//! them, and they must not be able to stay.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::broker::Broker;
use crate::login::{Login, PATIENCE};
use crate::peer::{BODY, FRAME_END, METHOD, PROTOCOL_HEADER, now};

/// How long a client that does not close its side may stay, and some slack for a busy machine.
const LINGER_MAX: Duration = Duration::from_secs(4);

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![kind];
    octets.extend(channel.to_be_bytes());
    octets.extend((payload.len() as u32).to_be_bytes());
    octets.extend(payload);
    octets.push(FRAME_END);
    octets
}

fn method(channel: u16, class_id: u16, method_id: u16, arguments: &[u8]) -> Vec<u8> {
    let ids = [class_id.to_be_bytes(), method_id.to_be_bytes()].concat();
    frame(METHOD, channel, &[&ids, arguments].concat())
}

fn read_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut octets = Vec::new();
    stream
        .read_to_end(&mut octets)
        .expect("the end, and no reset");
    octets
}

/// A connection with channel 1 open, every answer read.
fn open(broker: &Broker) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address()).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    let start_ok = b"\0\0\0\0\x05PLAIN\0\0\0\x0C\0guest\0guest\x05en_US";
    let opening = [
        PROTOCOL_HEADER,
        &method(0, 10, 11, start_ok),
        &method(0, 10, 31, b"\x07\xFF\0\x02\0\0\0\0"),
        &method(0, 10, 40, b"\x01/\0\0"),
        &method(1, 20, 10, b"\0"),
    ];
    stream.write_all(&opening.concat()).expect("it reads");
    let channel_open_ok = method(1, 20, 11, b"\0\0\0\0");
    let mut octets = Vec::new();
    while !octets.ends_with(&channel_open_ok) {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).expect("it answers");
        assert!(count > 0, "it goes on");
        octets.extend(&piece[..count]);
    }
    stream
}

fn publish() -> Vec<u8> {
    let arguments = b"\0\0\0\x07nowhere\0";
    let header = frame(2, 1, b"\0\x3C\0\0\0\0\0\0\0\0\0\x10\0\0");
    let body = frame(BODY, 1, &[b'x'; 16]);
    [method(1, 60, 40, arguments), header, body].concat()
}

#[test]
fn a_client_that_goes_on_publishing_behind_its_close_reads_the_answer_and_the_end() {
    let broker = Broker::start(&[]).expect("leveret starts");
    let mut stream = open(&broker);
    let close = method(0, 10, 50, b"\0\xC8\0\0\0\0\0");
    stream.write_all(&close).expect("it reads");
    let publishes = publish().repeat(200);
    for _ in 0..40 {
        stream
            .write_all(&publishes)
            .expect("it reads what comes behind the close");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(read_end(&mut stream), method(0, 10, 51, b""));
}

#[test]
fn a_client_that_speaks_something_else_reads_what_the_broker_speaks() {
    let broker = Broker::start(&[]).expect("leveret starts");
    let mut stream = TcpStream::connect(broker.address()).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = vec![b'G'; 20_000];
    for _ in 0..40 {
        stream
            .write_all(&request)
            .expect("it reads what comes behind the header");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(read_end(&mut stream), b"AMQP\x03\x01\x00\x00");
}

#[test]
fn a_client_that_never_closes_its_side_is_gone_in_time() {
    let broker = Broker::start(&[]).expect("leveret starts");
    let mut streams: Vec<TcpStream> = (0..50).map(|_| open(&broker)).collect();
    let start = now();
    for stream in &mut streams {
        let close = method(0, 10, 50, b"\0\xC8\0\0\0\0\0");
        stream.write_all(&close).expect("it reads");
        assert_eq!(read_end(stream), method(0, 10, 51, b""));
    }
    for stream in &mut streams {
        // The first octets that find the socket closed bring its reset, the next ones the error.
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
            assert!(now() - start < LINGER_MAX, "it may stay");
        }
    }
    Login::default()
        .log_in(&mut broker.peer().expect("it listens"))
        .expect("others log in");
}

#[test]
fn a_broker_that_stops_waits_for_none_of_them() {
    let broker = Broker::start(&[]).expect("leveret starts");
    let mut stream = open(&broker);
    let close = method(0, 10, 50, b"\0\xC8\0\0\0\0\0");
    stream.write_all(&close).expect("it reads");
    assert_eq!(read_end(&mut stream), method(0, 10, 51, b""));
    let start = now();
    broker.stop().expect("a signal");
    broker.has_exited(PATIENCE).expect("it exits");
    let took = now() - start;
    assert!(took < Duration::from_millis(900), "{took:?}");
}
