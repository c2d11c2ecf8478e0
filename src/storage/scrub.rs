//! Reading, after a start, what the start did not read.
//!
//! A segment with an index is not read when the store is opened. So that damage in it is told
//! before a consumer comes upon it, the keeper checks every such segment once, a stretch at a time
//! and slowly enough to disturb nobody. What does not check is named, counted and kept aside under
//! the name that a start would have given it; what lies aside already was told then.

use std::collections::VecDeque;
use std::io;

use super::aside;
use super::compaction::read_header;
use super::event::Event;
use super::files::{Storage, read_up_to_at};
use super::jobs::Job;
use super::record_codec::{ALIGNMENT, HEADER_OCTETS, RecordHeader, SEGMENT_START, Seed};
use super::scan::next_header;
use super::segment::{Stage, segment_name};
use super::store::Store;
use crate::clock::{Deadline, Now};

/// Octets that are read at a time.
const STRETCH_OCTETS: u64 = 1 << 20;
/// Octets that are read at a time where a record or a hole is longer.
const STRETCH_OCTETS_MAX: u64 = 4 << 20;
/// A stretch follows the one before after so many looks (see [`super::StoreConfig::look_ms`]) times
/// two fifths: 10 MiB a second.
const PACE: (u64, u64) = (2, 5);

/// What is left to check.
#[derive(Debug)]
pub(super) struct Scrub {
    segments: VecDeque<u32>,
    /// Where to go on in the first of them.
    at: Stretch,
    due: Deadline,
    /// The keeper has a stretch.
    is_out: bool,
}

/// Where a stretch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    offset: u64,
    /// How often the segment was rewritten when `offset` was its.
    rewritten: u64,
}

impl Stretch {
    /// From a record on at `offset`, where it lies since the segment was rewritten so often.
    pub(super) fn from_record(offset: u64, rewritten: u64) -> Self {
        Stretch { offset, rewritten }
    }

    /// Where it ends when no record or hole is longer.
    pub(super) fn end(&self) -> u64 {
        self.offset + STRETCH_OCTETS
    }

    /// Whether its beginning was looked at with a stretch that ended at `end`.
    pub(super) fn begins_before(&self, end: u64) -> bool {
        (end.saturating_sub(STRETCH_OCTETS)..end).contains(&self.offset)
    }
}

const START: Stretch = Stretch {
    offset: SEGMENT_START,
    rewritten: 0,
};

/// What checking a stretch came to.
#[derive(Debug)]
pub(super) struct Scrubbed {
    /// The next stretch; none when the segment is done.
    next: Option<Stretch>,
    /// Records that do not check and were not told of before; several without a header are one.
    damaged: u64,
    /// A line for each place.
    pub(super) lines: Vec<String>,
}

impl Scrub {
    /// `segments`: those that have an index and were not read.
    pub(super) fn new(segments: VecDeque<u32>, now: Now) -> Self {
        Scrub {
            segments,
            at: START,
            due: Deadline(now.monotonic_us),
            is_out: false,
        }
    }
}

impl<S: Storage> Store<S> {
    /// Has the next stretch checked when its time has come.
    pub(super) fn next_scrub(&mut self, now: Now) {
        let Some(scrub) = &mut self.scrub else {
            return;
        };
        if scrub.is_out || !scrub.due.is_due(now) {
            return;
        }
        while let Some(&number) = scrub.segments.front() {
            if let Some(segment) = self.segments.get(number)
                && segment.stage == Stage::Indexed
                && segment.live_entries > 0
            {
                scrub.is_out = true;
                self.jobs.push_back(Job::Scrub {
                    number,
                    used: segment.used,
                    at: scrub.at,
                });
                return;
            }
            scrub.segments.pop_front();
            scrub.at = START;
        }
        self.scrub = None;
    }

    /// When the next stretch is due.
    pub(super) fn scrub_deadline(&self) -> Option<Deadline> {
        let scrub = self.scrub.as_ref().filter(|scrub| !scrub.is_out);
        scrub.map(|scrub| scrub.due)
    }

    /// The keeper has checked a stretch.
    pub(super) fn scrubbed(&mut self, number: u32, result: io::Result<Scrubbed>) {
        let Some(scrub) = &mut self.scrub else {
            return;
        };
        scrub.is_out = false;
        let pace_us = self.config.look_ms * 1000 * PACE.0 / PACE.1;
        scrub.due = self.now.after_us(pace_us);
        let next = result.as_ref().ok().and_then(|checked| checked.next);
        if next.is_none() {
            scrub.segments.pop_front();
        }
        scrub.at = next.unwrap_or(START);
        self.tell(number, result);
    }

    /// The keeper has kept aside what does not check from a record on that could not be read.
    pub(super) fn kept_aside(&mut self, number: u32, result: io::Result<Scrubbed>) {
        self.tell(number, result);
    }

    fn tell(&mut self, number: u32, result: io::Result<Scrubbed>) {
        let lines = match result {
            Ok(checked) => {
                self.counters.damaged += checked.damaged;
                checked.lines
            }
            // It was given back meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let name = segment_name(number);
                vec![format!("{name}: cannot be checked: {error}")]
            }
        };
        self.events.extend(lines.into_iter().map(Event::Damage));
    }
}

/// Checks a stretch of segment `number`, whose records end at `used`.
pub(super) fn check<S: Storage>(
    storage: &S,
    number: u32,
    used: u64,
    mut at: Stretch,
) -> io::Result<Scrubbed> {
    let name = segment_name(number);
    let file = storage.open(&name)?;
    let header = read_header(storage, &file, number)?;
    if header.rewritten != at.rewritten {
        at = Stretch {
            rewritten: header.rewritten,
            ..START
        };
    }
    let used = if header.records_end > 0 {
        header.records_end
    } else {
        used
    };
    let left = used.saturating_sub(at.offset);
    let mut wanted = STRETCH_OCTETS;
    let (octets, is_last, end, damage) = loop {
        let octets = read(storage, &file, at.offset, wanted.min(left))?;
        let is_last = at.offset + octets.len() as u64 >= used;
        let (end, damage) = walk(&octets, header.seed, is_last);
        // What begins here and does not end here is looked at whole, within reason.
        let is_torn =
            !is_last && (end == 0 || damage.first().is_some_and(|hole| *hole == (0, end)));
        if !is_torn || wanted >= STRETCH_OCTETS_MAX {
            break (octets, is_last, end, damage);
        }
        wanted *= 2;
    };
    let mut checked = Scrubbed {
        next: (!is_last && end > 0).then_some(Stretch {
            offset: at.offset + end as u64,
            ..at
        }),
        damaged: 0,
        lines: Vec::new(),
    };
    let file_octets = storage.octets(&file)?;
    if file_octets < used && checked.next.is_none() {
        checked.damaged += 1;
        checked.lines.push(format!(
            "{name}: ends at {file_octets}, before octet {used}"
        ));
    }
    for (from, to) in damage {
        let offset = at.offset + from as u64;
        let line = aside::keep_damaged(storage, &name, offset, &octets[from..to]);
        checked.damaged += u64::from(line.is_some());
        checked.lines.extend(line);
    }
    Ok(checked)
}

fn read<S: Storage>(storage: &S, file: &S::File, offset: u64, octets: u64) -> io::Result<Vec<u8>> {
    let mut stretch = vec![0; octets as usize];
    let read = read_up_to_at(storage, file, offset, &mut stretch)?;
    stretch.truncate(read);
    Ok(stretch)
}

/// Walks the records in `octets`, which begin with one: how far it came, and what does not check as
/// (from, to). What reaches beyond the end is left for the next stretch, which begins with it; when
/// nothing comes before it and there is no header, it is what it is.
fn walk(octets: &[u8], seed: Seed, is_last: bool) -> (usize, Vec<(usize, usize)>) {
    let (mut at, mut damage, mut lsn_before) = (0, Vec::new(), 0);
    while at + HEADER_OCTETS <= octets.len() {
        let Some(header) = RecordHeader::decode(&octets[at..], seed) else {
            let end = match next_header(octets, at + ALIGNMENT, seed, lsn_before) {
                Some(next) => next,
                None if is_last => octets.len(),
                None if at > 0 => break,
                // From the first place on that could not be tried.
                None => (octets.len() - HEADER_OCTETS) / ALIGNMENT * ALIGNMENT + ALIGNMENT,
            };
            damage.push((at, end));
            at = end;
            continue;
        };
        lsn_before = header.lsn;
        let end = at + header.record_octets() as usize;
        let payload = octets.get(at + HEADER_OCTETS..at + HEADER_OCTETS + header.length as usize);
        match payload {
            Some(payload) if seed.payload_crc(payload) == header.payload_crc => {}
            None if !is_last => break,
            _ => damage.push((at, end.min(octets.len()))),
        }
        at = end;
    }
    (at, damage)
}
