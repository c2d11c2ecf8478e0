//! What a producer sends: a ring of whole messages, encoded once. A turn takes a run of them that
//! lie next to each other, stamps each body's first 16 octets, and writes the run as it lies:
//!
//! ```text
//! offset in body  octets  field
//!              0       2  producer    which producer of the run sent it
//!              2       6  sequence    its place among that producer's messages, from 0
//!              8       8  sent_us     microseconds of the run's clock when it was due
//! ```
//!
//! All integers big-endian. Bodies of less than 16 octets bear no stamp and are only counted.

use super::check::Stamp;
use super::client::CHANNEL;
use crate::wire::ShortString;
use crate::wire::encode;
use crate::wire::frame::FRAME_PREFIX;
use crate::wire::method::basic;
use std::ops::Range;

/// Octets that a ring aims at: small enough to stay in a core's second-level cache.
const RING_OCTETS: usize = 256 << 10;
/// Octets that a ring may have when it must hold many keys or great bodies.
const RING_OCTETS_MAX: usize = 64 << 20;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Name of the exchange.
    pub(super) exchange: String,
    /// Routing key.
    pub(super) routing_key: String,
    /// Flags and property list.
    pub(super) properties: Vec<u8>,
}

/// The ring of one producer.
#[derive(Debug)]
pub(super) struct Template {
    octets: Vec<u8>,
    /// For each message where it starts; one more entry at the end.
    starts: Vec<u32>,
    /// For each message where its body starts.
    bodies: Vec<u32>,
    /// Index of the message that is next.
    next: usize,
    stamped: bool,
}

impl Template {
    /// Encodes the messages of `routes` in turn until the ring is full, all of them at least once
    /// (as far as 64 MiB reach).
    ///
    /// * `routes`: not empty; names of at most 255 octets.
    /// * `size`: octets of a body.
    /// * `frame_max`: octets of a frame as agreed on.
    pub(super) fn new(routes: &[Route], size: usize, mandatory: bool, frame_max: u32) -> Self {
        let body: Vec<u8> = (0..size).map(|index| index as u8).collect();
        let mut ring = Template {
            octets: Vec::new(),
            starts: vec![0],
            bodies: Vec::new(),
            next: 0,
            stamped: size >= Stamp::OCTETS,
        };
        // Whole rounds, so that every route has the same share.
        loop {
            for route in routes {
                ring.push(route, &body, mandatory, frame_max);
                if ring.octets.len() >= RING_OCTETS_MAX {
                    return ring;
                }
            }
            let round = ring.octets.len() / (ring.bodies.len() / routes.len());
            if ring.octets.len() + round > RING_OCTETS {
                return ring;
            }
        }
    }

    fn push(&mut self, route: &Route, body: &[u8], mandatory: bool, frame_max: u32) {
        let out = &mut self.octets;
        let publish = basic::Publish {
            ticket: 0,
            exchange: ShortString::truncated(&route.exchange),
            routing_key: ShortString::truncated(&route.routing_key),
            mandatory,
            immediate: false,
        };
        encode::method_frame(out, CHANNEL, &publish);
        encode::content_header_frame(out, CHANNEL, body.len() as u64, &route.properties);
        self.bodies.push((out.len() + FRAME_PREFIX) as u32);
        encode::body_frames(out, CHANNEL, body, frame_max);
        self.starts.push(out.len() as u32);
    }

    /// Takes the next messages that lie together and returns where their octets are.
    ///
    /// * `messages_max`, `octets_max`: no more than that, but at least one message.
    /// * `producer`, `first_sequence`: what the stamps say; the sequence grows by one a message.
    /// * `sent_us`: time in the stamp of the message with this sequence.
    #[inline]
    pub(super) fn take(
        &mut self,
        messages_max: u64,
        octets_max: usize,
        producer: u16,
        first_sequence: u64,
        sent_us: impl Fn(u64) -> u64,
    ) -> (u64, Range<usize>) {
        let first = self.next;
        let start = self.starts[first] as usize;
        let limit =
            (self.bodies.len() - first).min(usize::try_from(messages_max).unwrap_or(usize::MAX));
        let mut last = first;
        let mut sequence = first_sequence;
        while last < first + limit.max(1) {
            if last > first && self.starts[last + 1] as usize - start > octets_max {
                break;
            }
            if self.stamped {
                let stamp = Stamp {
                    producer,
                    sequence,
                    sent_us: sent_us(sequence),
                };
                let body = self.bodies[last] as usize;
                self.octets[body..body + Stamp::OCTETS].copy_from_slice(&stamp.encode());
            }
            sequence += 1;
            last += 1;
        }
        self.next = if last == self.bodies.len() { 0 } else { last };
        ((last - first) as u64, start..self.starts[last] as usize)
    }

    /// The octets of a range that [`Template::take`] returned, or of its rest.
    #[inline]
    pub(super) fn octets(&self, range: Range<usize>) -> &[u8] {
        &self.octets[range]
    }

    /// Octets of one message on the way in, on average.
    #[cfg(test)]
    pub(super) fn message_octets(&self) -> usize {
        self.octets.len() / self.bodies.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parser::tests::collect;
    use super::*;
    use crate::wire::content::NO_PROPERTIES;

    fn route(routing_key: &str) -> Route {
        Route {
            exchange: "e".to_owned(),
            routing_key: routing_key.to_owned(),
            properties: NO_PROPERTIES.to_owned(),
        }
    }

    #[test]
    fn messages_come_out_stamped_in_order_and_wrap_around_the_ring() {
        let mut ring = Template::new(&[route("a"), route("bb")], 1_000, false, 8_192);
        let messages = ring.bodies.len() as u64;
        assert!(messages.is_multiple_of(2) && ring.octets.len() <= RING_OCTETS);
        let mut octets = Vec::new();
        let mut sequence = 5;
        while sequence < 5 + 2 * messages {
            let (taken, range) = ring.take(7, 3_000, 3, sequence, |sequence| 10 * sequence);
            assert!((1..=2).contains(&taken), "3,000 octets hold two messages");
            octets.extend_from_slice(ring.octets(range));
            sequence += taken;
        }
        let found = collect(&octets, 8_192);
        for (index, content) in found.iter().enumerate() {
            let stamp = Stamp::decode(&content.head);
            let sequence = index as u64 + 5;
            assert_eq!(
                (stamp.producer, stamp.sequence, stamp.sent_us),
                (3, sequence, 10 * sequence)
            );
            assert_eq!(content.body_size, 1_000);
        }
        assert_eq!(found.len() as u64, sequence - 5);
    }

    #[test]
    fn one_message_is_taken_even_when_it_is_greater_than_asked_for() {
        let mut ring = Template::new(&[route("a")], 100_000, false, 8_192);
        let (taken, range) = ring.take(10, 100, 0, 0, |_| 0);
        assert_eq!((taken, range.len()), (1, ring.message_octets()));
        assert_eq!(collect(ring.octets(range), 8_192)[0].body_size, 100_000);
    }

    #[test]
    fn a_small_body_bears_no_stamp() {
        let mut ring = Template::new(&[route("a")], 3, false, 8_192);
        let (_, range) = ring.take(1, 1_000, 9, 9, |_| 9);
        let found = collect(ring.octets(range), 8_192);
        assert_eq!(
            (found[0].body_size, &found[0].head[..3]),
            (3, &[0, 1, 2][..])
        );
    }

    #[test]
    fn no_more_messages_are_taken_than_asked_for() {
        let mut ring = Template::new(&[route("a")], 16, false, 8_192);
        assert_eq!(ring.take(3, usize::MAX, 0, 0, |_| 0).0, 3);
        let rest = ring.bodies.len() as u64 - 3;
        assert_eq!(ring.take(u64::MAX, usize::MAX, 0, 3, |_| 0).0, rest);
    }
}
