//! Damage to what lies on the disk, between a crash and the next start, and what the server must
//! say and keep of it.
//!
//! What lies where is read from the files as `docs/storage-format.md` draws them. Only what is
//! surely on stable storage is hit: behind the mark a record that does not check is a torn end.

use std::collections::BTreeMap;
use std::ops::Range;

use leveret::storage::Storage as _;

use super::World;
use crate::disk::{self, Checkpoint, Header, Record};
use crate::hear;
use crate::model::Hit;

/// What a place on the disk that was hit stood for.
#[derive(Clone, Debug)]
enum Effect {
    Message(u64),
    Body(u64),
    /// Queue as the log calls it, messages.
    Settlement(u32, Vec<u64>),
    Permission(u32),
}

/// One place on the disk, or one file, that was hit.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    what: &'static str,
    file: String,
    /// The record that was hit, and its octets since.
    record: Option<(Range<usize>, Vec<u8>)>,
    /// How many records may be missed for it.
    records: u64,
    effects: Vec<Effect>,
    /// Some queue held its message.
    is_needed: bool,
    /// It hit the record of a large body, whose file nobody dares to remove.
    strands_body: bool,
    /// The next start reads it.
    shows_at_start: bool,
    is_applied: bool,
    is_named: bool,
    /// There was no room to keep its octets aside, or the disk failed.
    is_refused: bool,
}

/// A segment that is in use, as it lies on the disk.
struct Segment {
    name: String,
    octets: Vec<u8>,
    header: Header,
    records: Vec<Record>,
}

/// What is on the disk at the end of a life.
struct Scene {
    segments: Vec<Segment>,
    checkpoint: Checkpoint,
    /// Everything up to this number is on stable storage.
    mark: u64,
    /// Messages by queue and sequence.
    stored: BTreeMap<(u32, u64), u64>,
}

impl Segment {
    fn greatest_mark(&self) -> u64 {
        let marks = self.records.iter().filter(|it| it.kind == 5);
        let marks = marks.filter_map(|it| disk::mark(&self.octets, it));
        marks.max().unwrap_or(0)
    }
}

impl Scene {
    /// What a record stands for, unless the checkpoint has it, too.
    fn effects(&self, segment: &Segment, record: &Record) -> Vec<Effect> {
        let is_covered = record.lsn <= self.checkpoint.covers_lsn;
        match record.kind {
            1 | 2 => {
                let message = disk::message(&segment.octets, record);
                message
                    .map(|it| Effect::Message(it.message))
                    .into_iter()
                    .collect()
            }
            3 if !is_covered => {
                let ranges = disk::settlements(&segment.octets, record).into_iter();
                let effects = ranges.map(|(queue, first, last)| {
                    let stored = self.stored.range((queue, first)..=(queue, last));
                    Effect::Settlement(queue, stored.map(|(_, &message)| message).collect())
                });
                effects.collect()
            }
            4 if !is_covered => {
                let queue = disk::permission(&segment.octets, record);
                queue.map(Effect::Permission).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl World {
    fn scene(&self) -> Scene {
        let contents = |name: &str| self.storage.contents(name);
        let checkpoint = ["checkpoint", "checkpoint.spare"]
            .into_iter()
            .find_map(|name| disk::checkpoint(&contents(name)?))
            .unwrap_or_default();
        let names = self.storage.names();
        let mut segments = Vec::new();
        for (name, _) in names
            .into_iter()
            .filter(|(name, _)| disk::is_of_kind(name, "seg"))
        {
            let octets = contents(&name).unwrap_or_default();
            let Some(header) = disk::header(&octets) else {
                continue;
            };
            let is_given_back = header.first_lsn <= checkpoint.covers_lsn
                && !checkpoint.segments.contains(&header.number);
            if format!("{:010}.seg", header.number) == name && !is_given_back {
                segments.push(Segment {
                    records: disk::records(&octets),
                    name,
                    octets,
                    header,
                });
            }
        }
        let marks = segments.iter().map(Segment::greatest_mark);
        let mark = marks.max().unwrap_or(0);
        let mut stored = BTreeMap::new();
        for segment in &segments {
            for record in &segment.records {
                if let Some(it) = disk::message(&segment.octets, record) {
                    stored.extend(it.entries.into_iter().map(|entry| (entry, it.message)));
                }
            }
        }
        Scene {
            mark: mark.max(checkpoint.covers_lsn).max(checkpoint.stable_lsn),
            segments,
            checkpoint,
            stored,
        }
    }

    /// Hits something that no other file stands in for, if there is any.
    pub(super) fn damage(&mut self) {
        let scene = self.scene();
        let hit = match self.random.below(12) {
            0 => self.hit_record(&scene, &[1, 2], "damaged: the head of a message"),
            1 | 2 => self.hit_record(&scene, &[1, 2], "damaged: the body of a message"),
            3 => self.hit_record(&scene, &[1, 2, 3], "damaged: padding"),
            4 => self.hit_record(&scene, &[3], "damaged: a settlement"),
            5 => self.hit_record(&scene, &[4], "damaged: a permission"),
            6 => self.hit_record(&scene, &[5], "damaged: a mark"),
            7 => self.hit_body(&scene, "damaged: a large body"),
            8 => self.hit_body(&scene, "lost: a large body"),
            9 => self.hit_header(&scene),
            10 => self.hit_segment(&scene, "lost: a segment"),
            _ => self.hit_segment(&scene, "damaged: both headers of a segment"),
        };
        if let Some(damage) = hit {
            self.note(|| format!("{} ({}): {:?}", damage.what, damage.file, damage.effects));
            self.model.counts.add(damage.what);
            self.damages.push(damage);
        }
    }

    fn flip(&mut self, name: &str, at: usize) {
        let bit = self.random.below(8) as u8;
        assert!(
            self.storage.flip(name, at, bit),
            "octet {at} of {name} is there"
        );
    }

    fn has_index(&self, segment: &Segment) -> bool {
        let name = segment.name.replace(".seg", ".idx");
        self.storage.contents(&name).is_some()
    }

    /// Flips a bit in some record of one of these kinds.
    fn hit_record(&mut self, scene: &Scene, kinds: &[u8], what: &'static str) -> Option<Damage> {
        let wants_padding = what == "damaged: padding";
        let mut candidates: Vec<(&Segment, &Record)> = Vec::new();
        for segment in &scene.segments {
            let records = segment.records.iter();
            let fits = records.filter(|it| kinds.contains(&it.kind) && it.lsn <= scene.mark);
            let fits = fits.filter(|it| !wants_padding || it.payload.end < it.end);
            candidates.extend(fits.map(|it| (segment, it)));
        }
        // Most of what lies there nobody needs any more.
        let needed = |(segment, record): &(&Segment, &Record)| {
            let message = disk::message(&segment.octets, record);
            message.is_some_and(|it| self.model.holds(it.message))
        };
        let live: Vec<_> = candidates.iter().copied().filter(needed).collect();
        if !live.is_empty() && !self.random.one_in(4) {
            candidates = live;
        }
        if candidates.is_empty() {
            return None;
        }
        let (segment, record) = *self.random.pick(&candidates);
        let is_needed = needed(&(segment, record));
        let at = match what {
            "damaged: padding" => self.random.between(record.payload.end, record.end - 1),
            "damaged: the head of a message" => {
                self.random.between(record.start, record.payload.start - 1)
            }
            "damaged: the body of a message" => self
                .random
                .between(record.payload.start, record.payload.end - 1),
            _ => self.random.between(record.start, record.payload.end - 1),
        };
        self.flip(&segment.name, at);
        let octets = self.storage.contents(&segment.name).expect("it is there");
        let whole = record.start..record.payload.end;
        Some(Damage {
            what,
            file: segment.name.clone(),
            record: (!wants_padding).then(|| (whole.clone(), octets[whole].to_vec())),
            records: u64::from(!wants_padding),
            effects: if wants_padding {
                Vec::new()
            } else {
                scene.effects(segment, record)
            },
            is_needed,
            strands_body: record.kind == 2,
            shows_at_start: !wants_padding && !self.has_index(segment),
            is_applied: false,
            is_named: wants_padding,
            is_refused: false,
        })
    }

    /// Flips a bit in the file of a large body, or removes it.
    fn hit_body(&mut self, scene: &Scene, what: &'static str) -> Option<Damage> {
        let mut candidates = Vec::new();
        for segment in &scene.segments {
            for record in segment.records.iter().filter(|it| it.kind == 2) {
                let found = disk::message(&segment.octets, record)?;
                let file = format!("{:016x}.body", found.file?);
                if self.storage.contents(&file).is_some() && self.model.holds(found.message) {
                    candidates.push((file, found.message));
                }
            }
        }
        if candidates.is_empty() {
            return None;
        }
        let (file, message) = self.random.pick(&candidates).clone();
        if what == "lost: a large body" {
            self.remove(&file);
        } else {
            let octets = self.storage.contents(&file).expect("seen above").len();
            let at = self.random.below(octets);
            self.flip(&file, at);
        }
        Some(Damage {
            what,
            file,
            record: None,
            records: 0,
            effects: vec![Effect::Body(message)],
            is_needed: false,
            strands_body: false,
            shows_at_start: false,
            is_applied: false,
            is_named: false,
            is_refused: false,
        })
    }

    fn remove(&mut self, name: &str) {
        self.storage.remove(name).expect("it is there");
        self.storage.sync_dir().expect("nothing fails yet");
    }

    /// Flips a bit in one header of a segment, which another stands in for, or in its table, in
    /// place of which its records are read.
    fn hit_header(&mut self, scene: &Scene) -> Option<Damage> {
        let rewritten: Vec<_> = scene
            .segments
            .iter()
            .filter(|it| it.header.table().start > 0)
            .collect();
        let (segment, range, what) = if !rewritten.is_empty() && self.random.one_in(2) {
            let segment = *self.random.pick(&rewritten);
            (segment, segment.header.table(), "damaged: a table")
        } else if scene.segments.is_empty() {
            return None;
        } else {
            let range = *self.random.pick(&[(0, 64), (512, 576)]);
            let segment = self.random.pick(&scene.segments);
            (segment, range.0..range.1, "damaged: a header of a segment")
        };
        if range.is_empty() {
            return None;
        }
        let at = self.random.between(range.start, range.end - 1);
        self.flip(&segment.name, at);
        Some(Damage {
            what,
            file: segment.name.clone(),
            record: None,
            records: 0,
            effects: Vec::new(),
            is_needed: false,
            strands_body: false,
            shows_at_start: false,
            is_applied: false,
            is_named: true,
            is_refused: false,
        })
    }

    /// Removes a segment or makes it unreadable, one of which everything is below the mark without
    /// it.
    fn hit_segment(&mut self, scene: &Scene, what: &'static str) -> Option<Damage> {
        let checkpoint = &scene.checkpoint;
        let base = checkpoint.covers_lsn.max(checkpoint.stable_lsn);
        let fits = |it: &&Segment| {
            let others = scene.segments.iter().filter(|other| other.name != it.name);
            let mark = others
                .map(Segment::greatest_mark)
                .max()
                .unwrap_or(0)
                .max(base);
            it.records.last().is_some_and(|last| last.lsn <= mark)
        };
        let candidates: Vec<_> = scene.segments.iter().filter(fits).collect();
        if candidates.is_empty() {
            return None;
        }
        let segment = *self.random.pick(&candidates);
        if what == "lost: a segment" {
            self.remove(&segment.name);
        } else {
            for from in [0, 512] {
                let at = self.random.between(from, from + 63);
                self.flip(&segment.name, at);
            }
        }
        let records = segment.records.iter();
        let effects = records.flat_map(|it| scene.effects(segment, it)).collect();
        let first = segment
            .records
            .first()
            .map_or(0, |it| it.lsn)
            .min(segment.header.first_lsn);
        let last = segment.records.last().map_or(0, |it| it.lsn);
        Some(Damage {
            what,
            file: segment.name.clone(),
            record: None,
            records: last + 1 - first,
            effects,
            is_needed: false,
            strands_body: false,
            shows_at_start: true,
            is_applied: false,
            is_named: false,
            is_refused: false,
        })
    }

    /// Tells the model, which has just been told of the crash, what it cannot count on.
    pub(super) fn apply_damage(&mut self) {
        for damage in self.damages.iter_mut().filter(|it| !it.is_applied) {
            damage.is_applied = true;
            for effect in &damage.effects {
                match effect {
                    Effect::Message(message) => self.model.hit_message(*message, Hit::Record),
                    Effect::Body(message) => self.model.hit_message(*message, Hit::Body),
                    Effect::Settlement(queue, messages) => {
                        self.model.hit_settlement(*queue, messages);
                    }
                    Effect::Permission(queue) => self.model.hit_permission(*queue),
                }
            }
        }
    }

    /// Whether a body that was hit is to come on this connection.
    pub(super) fn waits_for_what_is_damaged(&self, at: usize) -> bool {
        let effects = self.damages.iter().flat_map(|it| &it.effects);
        let mut bodies = effects.filter_map(|it| match it {
            Effect::Body(message) => Some(*message),
            _ => None,
        });
        bodies.any(|message| self.peers[at].tap.awaits(message))
    }

    /// Hears what the server says of damage.
    fn hear(&mut self) {
        let lines = hear::heard();
        let words = ["damaged", "missing", "lost", "cannot be read"];
        for line in lines
            .iter()
            .filter(|line| words.iter().any(|it| line.contains(it)))
        {
            for damage in &mut self.damages {
                let stem = damage.file.split('.').next().expect("a name");
                let is_gap = damage.records > 1 && line.contains("are missing");
                damage.is_named |= line.contains(stem) || is_gap;
                damage.is_refused |= line.contains(stem) && line.contains("cannot be written");
            }
        }
    }

    /// What was kept aside right before a crash nobody may have had the time to tell: the start
    /// says how many such files there are.
    fn hear_of_what_lies_aside(&mut self) {
        let told = self.engine.recovered().lie_aside;
        for damage in self.damages.iter_mut().filter(|it| !it.is_named) {
            let Some((range, octets)) = &damage.record else {
                continue;
            };
            if told > 0 && is_kept_aside(&self.storage, &damage.file, range, octets) {
                damage.is_named = true;
                let what = "start: told of what an earlier run has kept aside";
                self.model.counts.add(what);
            }
        }
    }

    /// What a start that fails has told needs not be told by the next.
    pub(super) fn hear_of_a_failed_start(&mut self) {
        self.hear();
        for damage in &mut self.damages {
            damage.shows_at_start &= !damage.is_named;
        }
    }

    /// After a start: what it has read of damage is told, counted and kept aside; nothing else is
    /// missed.
    pub(super) fn check_start(&mut self, is_disturbed: bool) {
        self.hear();
        self.hear_of_what_lies_aside();
        let lost = self.engine.lost_records();
        let hit: u64 = self.damages.iter().map(|it| it.records).sum();
        assert!(
            lost <= hit,
            "{lost} records are missed on a disk of which {hit} were hit"
        );
        for damage in self.damages.iter_mut().filter(|it| it.shows_at_start) {
            damage.shows_at_start = false;
            assert!(damage.is_named, "nobody is told of {damage:?}");
            let is_counted = lost > 0 || damage.record.is_none();
            assert!(is_counted, "nothing is lost by {damage:?}");
            let Some((range, octets)) = &damage.record else {
                continue;
            };
            if !is_disturbed {
                let is_kept = is_kept_aside(&self.storage, &damage.file, range, octets);
                assert!(is_kept, "not kept aside: {damage:?}");
                self.model
                    .counts
                    .add("damaged octets kept aside at the start");
            }
        }
    }

    /// When nothing is under way: whatever was lost was told.
    pub(super) fn check_told(&mut self) {
        self.hear();
        for message in std::mem::take(&mut self.model.lost_by_damage) {
            let of_it = |damage: &&Damage| {
                damage.effects.iter().any(|it| {
                    matches!(it, Effect::Message(other) | Effect::Body(other) if *other == message)
                })
            };
            let told = self.damages.iter().filter(of_it).any(|it| it.is_named);
            assert!(told, "#{message} is lost, and nobody is told");
            self.model.counts.add("losses told");
        }
        let mut kept = 0;
        for damage in self.damages.iter().filter(|it| it.is_needed) {
            let Some((range, octets)) = &damage.record else {
                continue;
            };
            let is_kept = is_kept_aside(&self.storage, &damage.file, range, octets);
            assert!(
                is_kept || damage.is_refused || self.lies_there(damage) || !damage.is_named,
                "gone and not kept aside: {damage:?}"
            );
            kept += u64::from(is_kept);
        }
        for _ in 0..kept {
            self.model
                .counts
                .add("damaged octets kept aside at the end");
        }
    }

    /// Whether the octets that were hit are where they were.
    fn lies_there(&self, damage: &Damage) -> bool {
        let contents = self.storage.contents(&damage.file).unwrap_or_default();
        let mut records = damage.record.iter();
        records.all(|(range, octets)| contents.get(range.clone()) == Some(octets))
    }

    /// Large bodies whose files nobody dares to remove.
    pub(super) fn stranded_bodies(&self) -> usize {
        self.damages.iter().filter(|it| it.strands_body).count()
    }
}

/// Whether a file beside `name` has these octets of it.
fn is_kept_aside(
    storage: &super::Storage,
    name: &str,
    range: &Range<usize>,
    octets: &[u8],
) -> bool {
    let prefix = format!("{name}.damaged-");
    let names = storage.names();
    names.iter().any(|(aside, _)| {
        let offset = aside
            .strip_prefix(&prefix)
            .and_then(|it| it.split('.').next()?.parse::<usize>().ok());
        let contents = storage.contents(aside).unwrap_or_default();
        let in_place = offset
            .and_then(|offset| contents.get(range.start.checked_sub(offset)?..range.end - offset))
            .is_some_and(|kept| kept == octets);
        // A segment that was rewritten before anybody saw the damage has it in another place.
        in_place || offset.is_some() && contents.windows(octets.len()).any(|kept| kept == octets)
    })
}
