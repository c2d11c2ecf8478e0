//! Records and payloads, whole and damaged.

use super::segment_header::{SEGMENT_HEADER_COPY, SEGMENT_HEADER_OCTETS};
use super::*;
use crate::broker::record::QueueId;
use crate::message::{Body, LargeBody, Message};

const SEED: Seed = Seed(0x0123_4567_89AB_CDEF);

fn message(body: Body<'_>) -> Message<'_> {
    Message {
        names: b"\x02ex\x03key",
        properties: &[0x80, 0, 4, b't', b'e', b'x', b't'],
        body,
    }
}

/// Encodes `message` as a record and takes it apart again.
fn check(body: Body<'_>, to: &[(QueueId, u64)], lsn: u64, more: bool) -> Vec<u8> {
    let message = message(body);
    let mut octets = Vec::new();
    let start = begin(&mut octets);
    let kind = encode_message(&mut octets, 77, &message, to, 5);
    assert_eq!(
        octets.len(),
        HEADER_OCTETS + message_octets(&message, to.len())
    );
    let length = finish(&mut octets, start, lsn, kind, more, SEED);
    assert_eq!(
        (length as usize, octets.len() % ALIGNMENT),
        (octets.len(), 0)
    );
    let (header, payload) = decode_record(&octets, SEED).expect("fits");
    assert_eq!((header.lsn, header.kind, header.more), (lsn, kind, more));
    let parts = MessagePayload::new(kind, payload).expect("a message");
    assert_eq!(parts.queues().collect::<Vec<_>>(), to);
    let stored = parts.message().expect("a message");
    assert_eq!((stored.arrived_ms, stored.message), (77, message));
    octets
}

#[test]
fn a_message_comes_back_as_it_was_written() {
    let two = [(QueueId(1), 0), (QueueId(u32::MAX), (1 << 48) - 1)];
    check(Body::Octets(b""), &[], 0, false);
    check(Body::Octets(b"x"), &two[..1], 1, true);
    check(Body::Octets(&[7; 1000]), &two, LSN_MAX, false);
    let large = LargeBody {
        file: 9,
        octets: u64::MAX,
    };
    check(Body::Large(large), &two, 3, false);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_noticed() {
    let octets = check(Body::Octets(b"body"), &[(QueueId(3), 4)], 9, false);
    let payload_end = HEADER_OCTETS + u32_at(&octets, 4).expect("there") as usize;
    for length in 0..payload_end {
        assert!(decode_record(&octets[..length], SEED).is_err(), "{length}");
    }
    for bit in 0..payload_end * 8 {
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = decode_record(&flipped, SEED);
        assert!(read.is_err(), "bit {bit}");
        // Damage in the payload leaves the header and so the way to the next record.
        let header = read.err().flatten();
        assert_eq!(header.is_some(), bit / 8 >= HEADER_OCTETS);
    }
}

#[test]
fn zeros_ones_and_records_of_another_seed_are_no_records() {
    let octets = check(Body::Octets(b"body"), &[], 9, false);
    for seed in [Seed(0), Seed(1), SEED, Seed(u64::MAX)] {
        assert!(RecordHeader::decode(&[0; 4096], seed).is_none());
        assert!(RecordHeader::decode(&[0xFF; 4096], seed).is_none());
        assert_eq!(RecordHeader::decode(&octets, seed).is_some(), seed == SEED);
    }
}

#[test]
fn payloads_that_are_cut_are_refused_and_never_panic() {
    let octets = check(Body::Octets(b"body"), &[(QueueId(3), 4)], 9, false);
    for end in HEADER_OCTETS..octets.len() {
        let payload = &octets[HEADER_OCTETS..end];
        for kind in [RecordKind::Message, RecordKind::LargeMessage] {
            if let Some(parts) = MessagePayload::new(kind, payload) {
                let _ = (parts.queues().count(), parts.message(), parts.large());
            }
        }
        let _ = (decode_permission(payload), decode_mark(payload));
        let _ = decode_settlements(payload).map(Iterator::count);
    }
}

#[test]
fn settlements_and_permissions_come_back() {
    let ranges = [(QueueId(1), 0, 0), (QueueId(2), 5, (1 << 48) - 1)];
    let mut octets = Vec::new();
    encode_settlements(&mut octets, &ranges);
    let back = decode_settlements(&octets).expect("fits");
    assert_eq!(back.collect::<Vec<_>>(), ranges);
    octets.push(0);
    assert!(decode_settlements(&octets).is_none());
    let mut octets = Vec::new();
    encode_permission(&mut octets, QueueId(8), 65_536);
    assert_eq!(decode_permission(&octets), Some((QueueId(8), 65_536)));
}

#[test]
fn a_segment_header_survives_the_loss_of_either_copy() {
    let header = SegmentHeader {
        rewritten: 3,
        table_entries: 8,
        ..SegmentHeader::new(7, SEED, 99)
    };
    let mut octets = Vec::new();
    header.encode(&mut octets);
    assert_eq!(octets.len() as u64, SEGMENT_START);
    for lost in [0, SEGMENT_HEADER_COPY] {
        for bit in 0..SEGMENT_HEADER_OCTETS * 8 {
            let mut damaged = octets.clone();
            damaged[lost + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged, 7), Some(header));
        }
    }
    assert_eq!(SegmentHeader::decode(&[0; 1024], 0), None);
    assert_eq!(SegmentHeader::decode(&octets, 8), None);
}
