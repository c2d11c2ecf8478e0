//! The segment that is being filled: room for the next record, and the next segment in time.

use super::files::Storage;
use super::jobs::Job;
use super::record_codec::{self as codec, RecordKind, SEGMENT_START, Seed, SegmentHeader};
use super::segment::{Segment, Stage};
use super::store::Store;
use crate::clock::{Deadline, Now};

/// A segment that was full sooner than this is followed by a larger one.
const FULL_SOON_US: u64 = 2_000_000;
/// A segment is at most this part of the room that is left on the disk.
const SPARE_PARTS: u64 = 8;
/// A segment that was full later than this is followed by a smaller one.
const FULL_LATE_US: u64 = 60_000_000;

/// The segment that is being filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    pub(super) number: u32,
    pub(super) seed: Seed,
    /// Where the next record goes.
    pub(super) used: u64,
    /// Octets that may be used.
    pub(super) octets: u64,
    pub(super) since: Now,
}

impl<S: Storage> Store<S> {
    #[inline]
    pub(super) fn take_lsn(&mut self) -> u64 {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        lsn
    }

    /// Finds room for a record: (segment, its seed, offset in it). Afterwards the record must be
    /// appended to the current block.
    #[inline]
    pub(super) fn make_room(&mut self, now: Now, record_octets: usize) -> (u32, Seed, u64) {
        if let Some(filling) = &mut self.filling
            && filling.used + record_octets as u64 <= filling.octets
            && self.tail.fits(record_octets)
        {
            let offset = filling.used;
            filling.used += record_octets as u64;
            if self.batch_since.is_none() {
                self.batch_since = Some(Deadline(now.monotonic_us));
            }
            return (filling.number, filling.seed, offset);
        }
        self.now = now;
        self.make_room_slowly(record_octets);
        self.make_room(now, record_octets)
    }

    /// Starts a segment or a block.
    pub(super) fn make_room_slowly(&mut self, record_octets: usize) {
        let octets = record_octets as u64;
        match self.filling {
            Some(filling) if filling.used + octets <= filling.octets => {
                self.tail
                    .turn_over(filling.number, filling.used, record_octets);
            }
            Some(filling) => {
                self.seal(filling);
                self.start_segment(octets);
            }
            None => self.start_segment(octets),
        }
    }

    pub(super) fn seal(&mut self, filling: Filling) {
        self.filling = None;
        if let Some(segment) = self.segments.get_mut(filling.number) {
            segment.stage = Stage::Sealed;
            segment.used = filling.used;
        }
        self.sealed.push_back(filling.number);
        let took_us = self
            .now
            .monotonic_us
            .saturating_sub(filling.since.monotonic_us);
        let octets = self.segment_octets;
        if took_us < FULL_SOON_US {
            self.segment_octets = (octets * 4).min(self.segment_octets_room());
        } else if took_us > FULL_LATE_US {
            self.segment_octets = (octets / 2).max(self.config.segment_octets_min);
        }
    }

    pub(super) fn start_segment(&mut self, record_octets: u64) {
        let number = self.next_number;
        self.next_number += 1;
        let needed = SEGMENT_START + record_octets;
        // The number is mixed in so that even a caller who repeats the random numbers of an earlier
        // run gives a recycled file another seed.
        let mixed = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let seed = Seed(self.random.draw() ^ mixed);
        let mut segment = Segment::new(number, seed, 0, self.next_lsn);
        segment.used = SEGMENT_START;
        // What was asked for is what will be there.
        let mut octets = self.preparing.get(&number).copied().unwrap_or(0);
        if let Some(prepared) = self.prepared.remove(&number) {
            octets = prepared.octets;
            segment.octets = prepared.octets;
            segment.file = Some(prepared.file);
            segment.map = Some(prepared.map);
        }
        self.segments.insert(segment);
        if octets < needed {
            octets = needed.max(self.segment_octets);
            self.prepare(number, octets);
        }
        self.filling = Some(Filling {
            number,
            seed,
            used: SEGMENT_START,
            octets,
            since: self.now,
        });
        let room = (needed as usize).max(SEGMENT_START as usize);
        self.tail.turn_over(number, 0, room);
        SegmentHeader::new(number, seed, self.next_lsn).encode(&mut self.tail.current.octets);
        self.prepare_next();
    }

    /// Has the file of the next segment made ahead.
    pub(super) fn prepare_next(&mut self) {
        let number = self.next_number;
        if !self.prepared.contains_key(&number) && !self.preparing.contains_key(&number) {
            self.segment_octets = self.segment_octets.min(self.segment_octets_room());
            self.prepare(number, self.segment_octets);
        }
    }

    /// The largest segment that suits the disk: two or three lie there with nothing in them, and
    /// on a small one they must not be what takes the room.
    fn segment_octets_room(&self) -> u64 {
        let (min, max) = (
            self.config.segment_octets_min,
            self.config.segment_octets_max,
        );
        self.free_octets.map_or(max, |free| {
            let spare = free.saturating_sub(self.config.disk_free_octets_min) / SPARE_PARTS;
            (spare - spare % min).clamp(min, max)
        })
    }

    /// Asks again for the file of a segment for which there was no room, for half of it; whether
    /// less will do.
    pub(super) fn prepare_less(&mut self, number: u32) -> bool {
        self.give_up_spares();
        let Some(&refused) = self.preparing.get(&number) else {
            return false;
        };
        let used = self.segments.get(number).map_or(0, |segment| segment.used);
        let least = self.config.segment_octets_min.max(used.next_multiple_of(8));
        let octets = (refused / 2).max(least);
        if octets >= refused {
            return false;
        }
        if let Some(filling) = &mut self.filling
            && filling.number == number
        {
            filling.octets = octets;
        }
        self.segment_octets = self
            .segment_octets
            .min(octets)
            .max(self.config.segment_octets_min);
        self.preparing.remove(&number);
        self.prepare(number, octets);
        true
    }

    pub(super) fn prepare(&mut self, number: u32, octets: u64) {
        let repeated = self.preparing.insert(number, octets);
        if repeated.is_some_and(|before| before >= octets) {
            return;
        }
        // A file that is there under this name, or will be, is made longer and never replaced.
        let fresh = number >= self.next_unprepared;
        self.next_unprepared = self.next_unprepared.max(number + 1);
        let recycle = fresh.then(|| self.recycle(octets)).flatten();
        self.jobs.push_back(Job::Prepare {
            number,
            octets,
            recycle,
        });
    }

    /// The largest file of a dead segment, unless that is much too small.
    fn recycle(&mut self, octets_wanted: u64) -> Option<String> {
        let &(octets, _) = self.recyclable.last()?;
        let is_enough = octets == 0 || octets * 2 >= octets_wanted;
        is_enough
            .then(|| self.recyclable.pop())?
            .map(|(_, name)| name)
    }

    /// Appends a record that is not a message.
    pub(super) fn append_record(&mut self, kind: RecordKind, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&mut scratch);
        let record_octets = codec::record_octets(scratch.len());
        let now = self.now;
        let (number, seed, offset) = self.make_room(now, record_octets);
        let lsn = self.take_lsn();
        let more = self.group.is_some();
        let octets = &mut self.tail.current.octets;
        let start = codec::begin(octets);
        octets.extend_from_slice(&scratch);
        codec::finish(octets, start, lsn, kind, more, seed);
        if let Some(segment) = self.segments.get_mut(number) {
            segment.last_lsn = lsn;
            segment.used = offset + record_octets as u64;
        }
        self.scratch = scratch;
    }
}
