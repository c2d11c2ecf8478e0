//! Peers that have not logged in: what they can make the broker hold is bounded, and so is their
//! time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::broker::Broker;
use crate::login::Login;
use crate::peer::{PROTOCOL_HEADER, now};

const PEERS: usize = 800;

/// What one of them may cost, in octets of memory: as much as a frame before tuning, and itself.
const COST_MAX: u64 = 12 << 10;

/// How long one may take to log in.
const TIMEOUT_MS: u64 = 6000;

/// A method frame of which `there` octets of the payload come, `length` being announced.
fn frame(length: u32, there: usize) -> Vec<u8> {
    let mut octets = PROTOCOL_HEADER.to_vec();
    octets.extend([1, 0, 0]);
    octets.extend(length.to_be_bytes());
    // connection.start-ok, and a table that does not end.
    octets.extend([0, 10, 0, 11, 0, 0, 0x1F, 0]);
    octets.resize(PROTOCOL_HEADER.len() + 7 + there, b'x');
    octets
}

/// Hostile openings, and whether the broker is to wait for more.
fn openings() -> [(Vec<u8>, bool); 7] {
    [
        (Vec::new(), true),
        (b"AMQP\0".to_vec(), true),
        (PROTOCOL_HEADER.to_vec(), true),
        (frame(8100, 8000), true),
        (frame(8100, 20), true),
        (frame(u32::MAX, 4000), false),
        (vec![0xA5; 60_000], false),
    ]
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let timeout = Some(Duration::from_millis(TIMEOUT_MS * 3));
    stream.set_read_timeout(timeout).expect("a timeout is set");
    let mut octets = [0; 4096];
    loop {
        match stream.read(&mut octets) {
            // The broker has said what it had to say, and gone.
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn peers_that_never_log_in_cost_little_and_are_dropped() {
    let broker = Broker::start(&[]).expect("leveret starts");
    let setting = format!("leveret.handshake_timeout_ms = {TIMEOUT_MS}");
    broker.set(&setting).expect("it starts with a setting");
    let mut client = broker.peer().expect("it listens");
    Login::default()
        .log_in(&mut client)
        .expect("a client logs in");
    let before = broker.anonymous_octets().expect("Linux tells");
    let start = now();

    let mut waiting = Vec::new();
    for number in 0..PEERS {
        let mut stream = TcpStream::connect(broker.address()).expect("it accepts");
        let (octets, waits) = &openings()[number % openings().len()];
        // The broker may have closed while we still write.
        let _ = stream.write_all(octets);
        if *waits {
            waiting.push(stream);
        } else {
            assert!(
                is_closed(&mut stream),
                "opening {number} is refused at once"
            );
        }
    }
    thread::sleep(Duration::from_millis(300));
    assert!(
        now() - start < Duration::from_millis(TIMEOUT_MS),
        "too slow to tell anything"
    );
    let held = broker
        .anonymous_octets()
        .expect("Linux tells")
        .saturating_sub(before);
    let each = held / waiting.len() as u64;
    assert!(
        each <= COST_MAX,
        "{each} octets for each of {}",
        waiting.len()
    );

    // Others do not notice.
    let mut other = broker.peer().expect("it listens");
    Login::default()
        .log_in(&mut other)
        .expect("another client logs in");

    for stream in &mut waiting {
        assert!(is_closed(stream), "who does not log in is dropped");
    }
    let waited = now() - start;
    assert!(
        waited >= Duration::from_millis(TIMEOUT_MS),
        "not before its time"
    );
    let slack = Duration::from_secs(4);
    assert!(
        waited < Duration::from_millis(TIMEOUT_MS) + slack,
        "{waited:?}"
    );
    // Their memory serves the next ones.
    for _ in 0..PEERS {
        let mut stream = TcpStream::connect(broker.address()).expect("it accepts");
        stream.write_all(&frame(8100, 8000)).expect("it is read");
        let _ = stream.shutdown(Shutdown::Both);
    }
    thread::sleep(Duration::from_millis(300));
    let after = broker
        .anonymous_octets()
        .expect("Linux tells")
        .saturating_sub(before);
    assert!(after <= PEERS as u64 * COST_MAX, "{after} octets are left");
    Login::default()
        .log_in(&mut broker.peer().expect("it listens"))
        .expect("a client logs in at last");
}
