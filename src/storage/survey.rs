//! What lies in a data directory, told in lines; nothing is changed.

use std::io::{self, Write};

use super::aside;
use super::checkpoint::{self, Found};
use super::definitions;
use super::files::{Map, Storage, read_up_to_at};
use super::index::Index;
use super::large::number_in_body_name;
use super::record_codec::{
    self as codec, FORMAT_VERSION, MessagePayload, RecordKind, SEGMENT_START, SegmentHeader,
};
use super::scan::{Item, scan};
use super::segment::{number_in, segment_name};

/// What a survey counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Segments with a header that can be read.
    pub segments: u64,
    /// Records that check, of all kinds.
    pub records: u64,
    /// Stretches of octets with readable records behind them that do not check, and files that
    /// cannot be read at all. What is behind the last record of a segment is no damage.
    pub damaged: u64,
}

/// Writes what lies in the directory to `out`.
///
/// # Errors
/// When the directory cannot be listed, holds other files and none of ours, or `out` cannot be written. Files that cannot be read are
/// told in the lines.
pub fn survey<S: Storage>(storage: &S, out: &mut dyn Write) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut names = storage.list()?;
    names.sort();
    let is_ours = |name: &str| {
        name.starts_with(definitions::NAME)
            || name.starts_with(checkpoint::NAME)
            || number_in(name, ".seg").is_some()
            || number_in_body_name(name).is_some()
            || aside::is_aside(name)
    };
    if !names.is_empty() && !names.iter().any(|(name, _)| is_ours(name)) {
        let text = "this is no data directory";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    survey.definitions(storage, out)?;
    survey.checkpoint(storage, out)?;
    for (name, octets) in &names {
        if let Some(number) = number_in(name, ".seg") {
            survey.segment(storage, number, *octets, out)?;
        }
    }
    for (name, octets) in &names {
        if number_in_body_name(name).is_some() {
            writeln!(
                out,
                "{name}: a large body, {octets} octets with its checksums"
            )?;
        } else if aside::is_aside(name) {
            writeln!(
                out,
                "{name}: {octets} octets that could not be read and were kept aside"
            )?;
        }
    }
    let Survey {
        segments,
        records,
        damaged,
    } = survey;
    writeln!(
        out,
        "{segments} segments, {records} records, {damaged} damaged places"
    )?;
    Ok(survey)
}

impl Survey {
    fn definitions<S: Storage>(&mut self, storage: &S, out: &mut dyn Write) -> io::Result<()> {
        let found = match definitions::read(storage) {
            Ok(found) => found,
            Err(error) => {
                self.damaged += 1;
                return writeln!(out, "{error}");
            }
        };
        if found.unreadable {
            self.damaged += 1;
            return writeln!(out, "definitions: cannot be read");
        }
        let pairs = found.pairs.len();
        writeln!(out, "definitions: {pairs} keys, {} octets", found.end)?;
        if found.lost > 0 {
            self.damaged += found.lost;
            writeln!(out, "  {} damaged records", found.lost)?;
        }
        if found.torn_octets > 0 {
            writeln!(out, "  {} octets of a torn end", found.torn_octets)?;
        }
        for (key, value) in &found.pairs {
            writeln!(out, "  {} ({} octets)", key.escape_ascii(), value.len())?;
        }
        Ok(())
    }

    fn checkpoint<S: Storage>(&mut self, storage: &S, out: &mut dyn Write) -> io::Result<()> {
        let (found, is_copy) = match checkpoint::read(storage) {
            Ok(found) => found,
            Err(error) => {
                self.damaged += 1;
                return writeln!(out, "checkpoint: {error}");
            }
        };
        if is_copy {
            self.damaged += 1;
            writeln!(out, "checkpoint: missing or damaged; this is its copy")?;
        }
        let checkpoint = match found {
            Found::Checkpoint(checkpoint) => checkpoint,
            Found::None => return writeln!(out, "checkpoint: none"),
            Found::Newer(version) => {
                return writeln!(
                    out,
                    "checkpoint: format {version}, newer than {FORMAT_VERSION}"
                );
            }
            Found::Unreadable => {
                self.damaged += 1;
                return writeln!(out, "checkpoint: cannot be read");
            }
        };
        let head = checkpoint.head;
        writeln!(
            out,
            "checkpoint: covers records to {}, {} segments, {} queues{}",
            head.covers_lsn,
            checkpoint.segments.len(),
            checkpoint.queues.len(),
            if checkpoint.damaged { ", damaged" } else { "" }
        )?;
        self.damaged += u64::from(checkpoint.damaged);
        for (queue, ledger) in &checkpoint.queues {
            writeln!(
                out,
                "  queue {}: next sequence {}, settled below {} and in {} ranges, may have delivered to {}",
                queue.0,
                ledger.next_sequence,
                ledger.settled.low(),
                ledger.settled.ranges(),
                ledger.permission
            )?;
        }
        Ok(())
    }

    fn segment<S: Storage>(
        &mut self,
        storage: &S,
        number: u32,
        octets: u64,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let name = segment_name(number);
        let read = storage.open(&name).and_then(|file| {
            let mut start = vec![0; SEGMENT_START as usize];
            let read = read_up_to_at(storage, &file, 0, &mut start)?;
            Ok((file, SegmentHeader::decode(&start[..read], number)))
        });
        let (file, header) = match read {
            Ok((file, Some(header))) => (file, header),
            Ok((_, None)) => {
                return writeln!(
                    out,
                    "{name}: {octets} octets, no header: not used yet, or damaged"
                );
            }
            Err(error) => {
                self.damaged += 1;
                return writeln!(out, "{name}: {error}");
            }
        };
        if header.version > FORMAT_VERSION {
            let version = header.version;
            return writeln!(out, "{name}: format {version}, newer than {FORMAT_VERSION}");
        }
        let end = if header.records_end > 0 {
            header.records_end.min(octets)
        } else {
            octets
        };
        let mut scratch = Vec::new();
        let map = storage.map(&file, &name)?;
        map.populate(0..end)?;
        let octets_read = map.octets(0..end, &mut scratch)?;
        let mut tally = Tally::default();
        let used = scan(octets_read, header.seed, true, |item| tally.take(&item));
        self.segments += 1;
        self.records += tally.records;
        self.damaged += tally.damage.len() as u64;
        writeln!(
            out,
            "{name}: {octets} octets, {used} used, records {} to {}: {} messages in {} entries ({} with \
             large bodies), {} settlements, {} permissions, {} marks, stable to {}{}{}",
            header.first_lsn,
            tally.last_lsn,
            tally.messages,
            tally.entries,
            tally.large,
            tally.settlements,
            tally.permissions,
            tally.marks,
            tally.stable_lsn,
            if header.rewritten > 0 {
                format!(", rewritten {} times", header.rewritten)
            } else {
                String::new()
            },
            match Index::read(storage, &header) {
                Some(index) => format!(", index of {} queues", index.queues.len()),
                None => ", no index".to_owned(),
            }
        )?;
        for (from, to) in &tally.damage {
            writeln!(out, "  damaged: octets {from} to {to}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Tally {
    records: u64,
    last_lsn: u64,
    messages: u64,
    entries: u64,
    large: u64,
    settlements: u64,
    permissions: u64,
    marks: u64,
    stable_lsn: u64,
    damage: Vec<(u64, u64)>,
}

impl Tally {
    fn take(&mut self, item: &Item<'_>) {
        let (header, payload) = match item {
            Item::Record {
                header, payload, ..
            } => (header, payload),
            Item::Damage { offset, end, .. } => {
                self.damage.push((*offset, *end));
                return;
            }
        };
        self.records += 1;
        self.last_lsn = header.lsn;
        match header.kind {
            RecordKind::Message | RecordKind::LargeMessage => {
                self.messages += 1;
                let message = MessagePayload::new(header.kind, payload);
                self.entries += message.map_or(0, |message| message.queue_count() as u64);
                self.large += u64::from(header.kind == RecordKind::LargeMessage);
            }
            RecordKind::Settlement => self.settlements += 1,
            RecordKind::Permission => self.permissions += 1,
            RecordKind::Mark => {
                self.marks += 1;
                self.stable_lsn = self
                    .stable_lsn
                    .max(codec::decode_mark(payload).unwrap_or(0));
            }
            _ => {}
        }
    }
}
