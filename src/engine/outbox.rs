//! Octets on their way to one peer.
//!
//! ```text
//!   written out ← [ current ] ← [ large body | octets | large body | … ] ← appended
//! ```
//!
//! Nearly always there is `current` alone. A large body is not copied here: it stands in line by
//! name and is cut into frames a stretch at a time, as the socket takes them.

use std::collections::VecDeque;

use crate::message::LargeBody;
use crate::storage::LargeRead;
use crate::wire::ChannelNumber;
use crate::wire::encode::{body_frames, payload_max};

/// Octets of a large body that are put into frames at a time.
const STRETCH_OCTETS: u64 = 256 << 10;

/// Buffers larger than this are not kept for others when they run empty.
const KEPT_OCTETS_MAX: usize = 1 << 20;

/// A body that goes out a stretch at a time.
#[derive(Debug)]
pub struct LargePart<H> {
    /// What its octets are read from.
    pub handle: H,
    /// The body.
    pub body: LargeBody,
    /// The channel its frames belong to.
    pub channel: u16,
    /// Octets that are in frames already.
    pub sent: u64,
}

#[derive(Debug)]
enum Part<H> {
    Octets(Vec<u8>),
    Large(LargePart<H>),
}

/// See the module. `H` is what a large body is read from.
#[derive(Debug)]
pub struct Outbox<H> {
    current: Vec<u8>,
    written: usize,
    later: VecDeque<Part<H>>,
    later_octets: usize,
    /// Greatest frame the peer takes, in octets; 0 is no limit.
    pub frame_max: u32,
    /// It is on the list of outboxes with something to write.
    pub is_listed: bool,
    /// The socket took less than it was given: writing goes on when it is writable again.
    pub is_blocked: bool,
    /// A content was begun that cannot be finished: the peer is to be given up.
    pub is_broken: bool,
    /// Octets written to the peer in all.
    pub octets_out: u64,
}

impl<H> Default for Outbox<H> {
    fn default() -> Self {
        Outbox {
            current: Vec::new(),
            written: 0,
            later: VecDeque::new(),
            later_octets: 0,
            frame_max: 0,
            is_listed: false,
            is_blocked: false,
            is_broken: false,
            octets_out: 0,
        }
    }
}

impl<H> Outbox<H> {
    /// Octets that wait, without those of large bodies.
    #[inline]
    pub fn octets(&self) -> usize {
        self.current.len() - self.written + self.later_octets
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.octets() == 0 && self.later.is_empty()
    }

    /// Whether a large body is on its way.
    #[inline]
    pub fn has_large(&self) -> bool {
        !self.later.is_empty()
    }

    /// What stands in line behind the octets of [`Outbox::to_write`], without large bodies, in the
    /// order in which it was appended.
    pub fn behind(&self) -> impl Iterator<Item = &[u8]> {
        self.later.iter().filter_map(|part| match part {
            Part::Octets(octets) => Some(octets.as_slice()),
            Part::Large(_) => None,
        })
    }

    /// Where to append octets. `spare` gives a buffer when there is none.
    #[inline]
    pub fn append_to(&mut self, spare: &mut Vec<Vec<u8>>) -> &mut Vec<u8> {
        if self.later.is_empty() {
            if self.current.capacity() == 0
                && let Some(buffer) = spare.pop()
            {
                self.current = buffer;
            }
            return &mut self.current;
        }
        self.append_later()
    }

    #[cold]
    fn append_later(&mut self) -> &mut Vec<u8> {
        if !matches!(self.later.back(), Some(Part::Octets(_))) {
            self.later.push_back(Part::Octets(Vec::new()));
        }
        self.later_octets = self.later.iter().map(Part::octets).sum();
        match self.later.back_mut() {
            Some(Part::Octets(octets)) => octets,
            _ => unreachable!("pushed above"),
        }
    }

    /// Puts a large body in line; its method and content header were appended just before.
    pub fn append_large(&mut self, part: LargePart<H>) {
        self.later.push_back(Part::Large(part));
    }

    /// The octets to write next. `read` appends a stretch of a large body to a buffer, or says
    /// that the storage has to read it first.
    pub fn to_write(
        &mut self,
        mut read: impl FnMut(&LargePart<H>, u64, &mut Vec<u8>) -> LargeRead,
    ) -> &[u8] {
        while self.written == self.current.len()
            && let Some(part) = self.later.front_mut()
        {
            self.current.clear();
            self.written = 0;
            match part {
                Part::Octets(octets) => {
                    self.later_octets -= self.later_octets.min(octets.len());
                    self.current = std::mem::take(octets);
                }
                Part::Large(large) => {
                    // Whole frames, so that the body is cut as one that lies in one piece.
                    let frame = payload_max(self.frame_max) as u64;
                    let left = large.body.octets - large.sent;
                    let stretch = (STRETCH_OCTETS / frame)
                        .max(1)
                        .saturating_mul(frame)
                        .min(left);
                    let mut body = Vec::new();
                    match read(large, stretch, &mut body) {
                        LargeRead::Here => {}
                        LargeRead::Cold => break,
                        LargeRead::Lost => {
                            // The rest of the content cannot be told from what follows it.
                            self.is_broken = true;
                            break;
                        }
                    }
                    body_frames(
                        &mut self.current,
                        ChannelNumber(large.channel),
                        &body,
                        self.frame_max,
                    );
                    large.sent += stretch;
                    if large.sent < large.body.octets {
                        continue;
                    }
                }
            }
            self.later.pop_front();
        }
        &self.current[self.written..]
    }

    /// Notes that `octets` of [`Outbox::to_write`] were written; an empty buffer goes to `spare`.
    pub fn wrote(&mut self, octets: usize, spare: &mut Vec<Vec<u8>>) {
        self.written += octets;
        self.octets_out += octets as u64;
        debug_assert!(self.written <= self.current.len());
        // A part that nothing was put into in the end is nothing to wait for.
        while matches!(self.later.front(), Some(Part::Octets(part)) if part.is_empty()) {
            self.later.pop_front();
        }
        if self.written == self.current.len() {
            self.written = 0;
            self.current.clear();
            let buffer = std::mem::take(&mut self.current);
            if buffer.capacity() <= KEPT_OCTETS_MAX && spare.len() < 16 {
                spare.push(buffer);
            }
        }
    }
}

impl<H> Part<H> {
    fn octets(&self) -> usize {
        match self {
            Part::Octets(octets) => octets.len(),
            Part::Large(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_stays_empty_is_not_waited_for() {
        let mut outbox = Outbox::default();
        let mut spare = Vec::new();
        outbox.append_to(&mut spare).extend_from_slice(b"header");
        outbox.append_large(LargePart {
            handle: (),
            body: LargeBody { file: 1, octets: 3 },
            channel: 1,
            sent: 0,
        });
        // Room is made for an answer that does not come to be.
        assert!(outbox.append_to(&mut spare).is_empty());
        for octets in [6, 3 + 8] {
            let waiting = outbox.to_write(|_, octets, into| {
                into.resize(into.len() + octets as usize, 0);
                LargeRead::Here
            });
            assert_eq!(waiting.len(), octets);
            outbox.wrote(octets, &mut spare);
        }
        assert!(!outbox.has_large() && outbox.is_empty());
    }
}
