//! Reading messages: from the tail, the arena, or a map, and never waiting for the disk.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::StoredMessage;
use super::arena::Place;
use super::event::Event;
use super::files::{Map, Storage};
use super::jobs::{Job, MapSource, Target};
use super::record_codec::{HEADER_OCTETS, MessagePayload, RecordHeader, Seed};
use super::scrub::Stretch;
use super::segment::{GRANULE_OCTETS, Segment, WARM_S, Warmth, segment_name};
use super::store::{Counters, Store};
use crate::message::{Entry, MessageRef};

/// What [`Store::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// The message.
    Here(StoredMessage<'a>),
    /// It would wait for the disk. The keeper was asked; [`Event::Warm`] follows.
    Cold,
    /// It is damaged or gone; told by [`Event::Damage`].
    Lost,
}

/// Granules that are populated at a time.
const READ_AHEAD_GRANULES: u64 = 4;

/// Where a reading leaves what it noticed.
struct Notes<'a, S: Storage> {
    jobs: &'a mut VecDeque<Job<S>>,
    events: &'a mut VecDeque<Event>,
    counters: &'a mut Counters,
    asked_aside: &'a mut Option<(u32, u64)>,
    now_s: u32,
}

impl<S: Storage> Notes<'_, S> {
    /// Tells that a message is lost.
    ///
    /// * `record`: where its record lies and where those of its segment end, if it lies in one.
    #[cold]
    fn lost<'r>(&mut self, at: MessageRef, record: Option<(Stretch, u64)>, why: &str) -> Read<'r> {
        self.counters.lost += 1;
        let MessageRef { segment, place } = at;
        if let Some((stretch, used)) = record {
            let asked = self.asked_aside.filter(|asked| asked.0 == segment);
            // Its segment may be given back as soon as nobody needs what is lost.
            if asked.is_none_or(|(_, end)| !stretch.begins_before(end)) {
                *self.asked_aside = Some((segment, stretch.end()));
                self.jobs.push_back(Job::KeepAside {
                    number: segment,
                    used,
                    at: stretch,
                });
            }
        }
        let name = if at.is_transient() {
            format!("spilled block {}", segment & !MessageRef::TRANSIENT)
        } else {
            segment_name(segment)
        };
        let offset = u64::from(place) * 8;
        let line = format!("{name}: the message first written at {offset} is lost: {why}");
        self.events.push_back(Event::Damage(line));
        Read::Lost
    }
}

impl<S: Storage> Store<S> {
    /// Reads the message of an entry. What lies in the transient arena or was written lately is
    /// returned in place; nothing here waits for the disk. What comes from a file is checked each
    /// time; where the entry was logged, also that the record is of its sequence: a disk may have
    /// written one where another belongs.
    ///
    /// * `scratch`: used when the octets cannot be shown in place.
    #[inline]
    pub fn read<'a>(&'a mut self, entry: Entry, scratch: &'a mut Vec<u8>) -> Read<'a> {
        let at = entry.at;
        let offset = u64::from(at.place) * 8;
        let now_s = self.now_s();
        let Store {
            tail,
            arena,
            segments,
            jobs,
            events,
            counters,
            spill_seed,
            asked_aside,
            ..
        } = self;
        let mut notes = Notes {
            jobs,
            events,
            counters,
            asked_aside,
            now_s,
        };
        if at.is_transient() {
            let block = at.segment & !MessageRef::TRANSIENT;
            return match arena.find(at) {
                Some(Place::Memory(octets)) => octets
                    .get(offset as usize..)
                    .and_then(message_in)
                    .map_or(Read::Lost, Read::Here),
                Some(Place::Spilled(slot, warm_until_s, octets)) => {
                    if *warm_until_s == u32::MAX || *warm_until_s < now_s {
                        if *warm_until_s != u32::MAX {
                            *warm_until_s = u32::MAX;
                            notes.jobs.push_back(Job::Populate {
                                target: Target::SpillBlock(block),
                                source: MapSource::Spill(Arc::clone(&slot.file)),
                                range: slot.offset..slot.offset + octets,
                            });
                        }
                        notes.counters.cold_reads += 1;
                        return Read::Cold;
                    }
                    match slot.file.file.get() {
                        Some((_, map)) => {
                            let end = slot.offset + octets;
                            match read_map(map, *spill_seed, slot.offset + offset, end, scratch) {
                                Ok(stored) => Read::Here(stored),
                                Err(why) => notes.lost(at, None, why),
                            }
                        }
                        None => notes.lost(at, None, "its spill file is gone"),
                    }
                }
                None => notes.lost(at, None, "its block is gone"),
            };
        }
        if let Some(octets) = tail.find(at.segment, offset)
            && let Some(stored) = message_in(octets)
        {
            return Read::Here(stored);
        }
        match segments.get_mut(at.segment) {
            Some(segment) => read_segment(segment, entry, scratch, &mut notes),
            None => notes.lost(at, None, "its segment is gone"),
        }
    }

    /// The keeper has populated a range, or could not.
    pub(super) fn populated(
        &mut self,
        target: Target,
        range: Range<u64>,
        map: Option<Arc<S::Map>>,
        result: io::Result<()>,
    ) {
        let now_s = self.now_s();
        let told = match target {
            Target::Segment(number) => {
                if let Some(segment) = self.segments.get_mut(number) {
                    if segment.map.is_none() {
                        segment.map = map;
                    }
                    // What cannot be populated is read all the same: the one record in it that is
                    // wanted may be there, and if not, the message is lost and said to be.
                    segment.warmth.warm(range.start, range.end, now_s);
                }
                number
            }
            Target::SpillBlock(block) => {
                self.arena.set_warm_until(block, now_s + WARM_S);
                block | MessageRef::TRANSIENT
            }
        };
        if let Err(error) = result {
            let line = format!("cannot read octets {range:?} of {target:?}: {error}");
            self.events.push_back(Event::Damage(line));
        }
        self.events.push_back(Event::Warm { segment: told });
    }
}

/// Reads a message of a segment through its map.
fn read_segment<'a, S: Storage>(
    segment: &'a mut Segment<S>,
    entry: Entry,
    scratch: &'a mut Vec<u8>,
    notes: &mut Notes<'_, S>,
) -> Read<'a> {
    let at = entry.at;
    let Some(offset) = segment.offset_of(at.place) else {
        return notes.lost(at, None, "it was not live when the segment was rewritten");
    };
    let Segment {
        number,
        seed,
        used,
        map,
        warmth,
        rewritten,
        ..
    } = segment;
    let (number, used) = (*number, *used);
    // What is wanted at least ends at `wanted_end`.
    let mut ask = |warmth: &mut Warmth, map: Option<&Arc<S::Map>>, wanted_end: u64| {
        let wanted = (wanted_end - 1) / GRANULE_OCTETS - offset / GRANULE_OCTETS + 1;
        let granules_max = READ_AHEAD_GRANULES.max(wanted);
        if let Some(range) = warmth.ask(offset, used, granules_max, notes.now_s) {
            notes.jobs.push_back(Job::Populate {
                target: Target::Segment(number),
                source: match map {
                    Some(map) => MapSource::Map(Arc::clone(map)),
                    None => MapSource::Name(segment_name(number)),
                },
                range,
            });
        }
    };
    // A record may reach into the next granule, and the next reading probably does.
    let mut warm_end = (offset + GRANULE_OCTETS / 2).min(used).max(offset + 1);
    if !warmth.touch(offset, warm_end, notes.now_s) {
        ask(warmth, map.as_ref(), warm_end);
        warm_end = offset + 1;
        if map.is_none() || !warmth.touch(offset, warm_end, notes.now_s) {
            notes.counters.cold_reads += 1;
            return Read::Cold;
        }
    }
    let Some(map) = map else {
        // Warm without a map cannot be: the map comes with the first population.
        warmth.cool(0, used);
        ask(warmth, None, warm_end);
        return Read::Cold;
    };
    let header = map.octets(offset..offset + HEADER_OCTETS as u64, scratch);
    let header = header
        .ok()
        .and_then(|octets| RecordHeader::decode(octets, *seed));
    let record_end = header.map_or(offset + 1, |header| offset + header.record_octets());
    let record_end = record_end.min(used);
    if record_end > warm_end && !warmth.touch(offset, record_end, notes.now_s) {
        // Nobody has asked for the rest of a long record yet, or not for all of it.
        ask(warmth, Some(map), record_end);
        notes.counters.cold_reads += 1;
        return Read::Cold;
    }
    let sequence = entry.has(Entry::LOGGED).then(|| entry.sequence());
    match message_behind(&**map, header, *seed, offset..used, sequence, scratch) {
        Ok(stored) => Read::Here(stored),
        Err(why) => {
            let stretch = Stretch::from_record(offset, *rewritten);
            notes.lost(at, Some((stretch, used)), why)
        }
    }
}

/// Reads and checks a message of a spill file.
///
/// # Errors
/// Why it is lost.
fn read_map<'a, M: Map>(
    map: &'a M,
    seed: Seed,
    offset: u64,
    end: u64,
    scratch: &'a mut Vec<u8>,
) -> Result<StoredMessage<'a>, &'static str> {
    let header = map.octets(offset..offset + HEADER_OCTETS as u64, scratch);
    let header = header
        .ok()
        .and_then(|octets| RecordHeader::decode(octets, seed));
    message_behind(map, header, seed, offset..end, None, scratch)
}

/// Reads and checks the message behind a header.
///
/// * `header`: none when it did not check.
/// * `range`: from the start of its record to where records end.
/// * `sequence`: which some queue must have given to it, if any need have.
///
/// # Errors
/// Why it is lost. Where it lies is left to the caller: that would be carried along with every
/// message that is not.
#[inline]
fn message_behind<'a, M: Map>(
    map: &'a M,
    header: Option<RecordHeader>,
    seed: Seed,
    range: Range<u64>,
    sequence: Option<u64>,
    scratch: &'a mut Vec<u8>,
) -> Result<StoredMessage<'a>, &'static str> {
    let header = header.ok_or("its header is damaged")?;
    let start = range.start + HEADER_OCTETS as u64;
    let payload_end = start + u64::from(header.length);
    if payload_end > range.end {
        return Err("its length is damaged");
    }
    let payload = map.octets(start..payload_end, scratch);
    let payload = payload.map_err(|_| "its file is too short")?;
    if seed.payload_crc(payload) != header.payload_crc {
        return Err("its payload is damaged");
    }
    let payload = MessagePayload::new(header.kind, payload).ok_or("its record is not a message")?;
    if let Some(sequence) = sequence
        && !payload.is_of(sequence)
    {
        return Err("another message lies in its place");
    }
    payload.message().ok_or("its record is not a message")
}

/// The message whose record starts at the start of `octets`.
#[inline]
fn message_in(octets: &[u8]) -> Option<StoredMessage<'_>> {
    let header = RecordHeader::decode_unchecked(octets)?;
    let payload = octets.get(HEADER_OCTETS..HEADER_OCTETS + header.length as usize)?;
    MessagePayload::new(header.kind, payload)?.message()
}
