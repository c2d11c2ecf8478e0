//! Where the log ends: a torn tail is cut off, damage before it is named and kept aside.

use std::io;

use super::{Content, FoundSegment, Opening, unreadable};
use crate::planted::{Fault, planted};
use crate::storage::checkpoint::Checkpoint;
use crate::storage::files::{Map, Storage, read_up_to_at, write_all_at};
use crate::storage::record_codec::{HEADER_OCTETS, SEGMENT_START};
use crate::storage::scan::Problem;
use crate::storage::segment::segment_name;
use crate::storage::{StorageError, aside};

impl<S: Storage> Opening<'_, S> {
    /// Decides where the log ends: the first number that is not part of it.
    pub(super) fn end(&mut self, checkpoint: Option<&Checkpoint>) -> Result<u64, StorageError> {
        let head = checkpoint
            .map(|checkpoint| checkpoint.head)
            .unwrap_or_default();
        let marks = self.segments.values().map(FoundSegment::stable_lsn).max();
        let stable_lsn = marks.unwrap_or(0).max(head.stable_lsn).max(head.covers_lsn);
        let problems = self.problems(checkpoint);
        let torn = problems
            .iter()
            .find(|problem| problem.last_lsn > stable_lsn);
        let last = self.segments.values().map(FoundSegment::last_lsn).max();
        let mut end_lsn = match torn {
            Some(problem) => problem.first_lsn.max(stable_lsn + 1),
            None => last.unwrap_or(0).max(head.covers_lsn).max(stable_lsn) + 1,
        };
        for problem in problems {
            if problem.first_lsn < end_lsn {
                self.has_gap = true;
                self.tell_damage(&problem, end_lsn);
            }
        }
        if let Some(last) = last
            && last >= end_lsn
        {
            let void = last + 1 - end_lsn;
            self.recovery.account.records_cut = void;
            self.report(format!(
                "a torn end: up to {void} records from number {end_lsn} on were cut off"
            ));
        }
        loop {
            self.cut(end_lsn)?;
            let group = self
                .segments
                .values()
                .fold(None, |before, found| found.carry_group(before));
            match group {
                // One that began below the mark was whole: the record that ends it is damaged, or
                // its segment was given back.
                Some(group_from)
                    if group_from.max(stable_lsn + 1) < end_lsn && !planted(Fault::HalfGroup) =>
                {
                    let group_from = group_from.max(stable_lsn + 1);
                    let records = end_lsn - group_from;
                    self.recovery.account.group_records_cut += records;
                    self.report(format!(
                        "an unfinished group of {records} records was cut off the end"
                    ));
                    end_lsn = group_from;
                }
                _ => break,
            }
        }
        self.make_void(end_lsn)?;
        Ok(end_lsn)
    }

    /// Stretches of numbers that cannot be read, ascending.
    fn problems(&self, checkpoint: Option<&Checkpoint>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expected = checkpoint.map(|checkpoint| checkpoint.head.covers_lsn + 1);
        let mut segments = self.segments.iter().peekable();
        while let Some((&segment, found)) = segments.next() {
            if let Content::Scanned(summary, _) = &found.content {
                problems.extend(summary.problems.iter().cloned());
            }
            let first_lsn = found.header.first_lsn;
            let replayed = expected.is_none_or(|expected| found.last_lsn() >= expected);
            if replayed
                && let Some(expected) = expected
                && first_lsn > expected
            {
                problems.push(Problem {
                    first_lsn: expected,
                    last_lsn: first_lsn - 1,
                    segment,
                    offset: 0,
                    end: 0,
                });
            }
            if replayed && expected.is_some() {
                expected = Some(found.last_lsn() + 1);
            }
            // What it had when the checkpoint was taken, and what nobody else can have had since.
            let covered = checkpoint.and_then(|checkpoint| checkpoint.last_lsn(segment));
            let is_newer = checkpoint.is_some_and(|it| first_lsn > it.head.covers_lsn);
            let next = segments
                .peek()
                .filter(|(number, _)| is_newer || **number == segment + 1);
            let before_next = next.map(|(_, next)| next.header.first_lsn.saturating_sub(1));
            let last_lsn = covered.max(before_next).unwrap_or(0);
            if let Some(at_end) = unread_end(segment, found, last_lsn) {
                expected = expected.map(|expected| expected.max(last_lsn.saturating_add(1)));
                problems.push(at_end);
            }
        }
        problems.sort_by_key(|problem| problem.first_lsn);
        problems
    }

    fn tell_damage(&mut self, problem: &Problem, end_lsn: u64) {
        let Problem {
            first_lsn,
            last_lsn,
            segment,
            offset,
            end,
        } = *problem;
        let last_lsn = last_lsn.min(end_lsn - 1);
        let records = last_lsn + 1 - first_lsn;
        self.recovery.lost_records += records;
        self.recovery.account.damaged_places += 1;
        let name = segment_name(segment);
        if end == 0 {
            self.report(format!(
                "{records} records before {name} are missing (numbers {first_lsn} to {last_lsn})"
            ));
            return;
        }
        let aside = format!("{name}.damaged-{offset}");
        let kept = self.keep_aside(&name, offset, end, &aside);
        self.report(format!(
            "{name}: octets {offset} to {end} are damaged: {records} records lost (numbers \
             {first_lsn} to {last_lsn}); {kept}"
        ));
    }

    /// Copies octets of a damaged file into a file of their own, for a person to look at; says
    /// so. What cannot be copied is still in its place.
    pub(super) fn keep_aside(&mut self, name: &str, offset: u64, end: u64, aside: &str) -> String {
        let copied = self.storage.open(name).and_then(|from| {
            let octets = end.min(self.storage.octets(&from)?).saturating_sub(offset);
            let mut copy = vec![0; octets as usize];
            let read = read_up_to_at(self.storage, &from, offset, &mut copy)?;
            aside::keep(self.storage, aside, &copy[..read])
        });
        match copied {
            Ok((kept, is_new)) => {
                self.recovery.account.kept_aside += u32::from(is_new);
                format!("kept as {kept}")
            }
            Err(error) => format!("{aside} cannot be written: {error}"),
        }
    }

    /// Takes what lies at or beyond `end_lsn` out of the summaries.
    fn cut(&mut self, end_lsn: u64) -> Result<(), StorageError> {
        let beyond: Vec<u32> = self
            .segments
            .iter()
            .filter(|(_, found)| found.last_lsn() >= end_lsn)
            .map(|(&number, _)| number)
            .collect();
        for number in beyond {
            let Some(mut found) = self.segments.remove(&number) else {
                continue;
            };
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(unreadable(&name))?;
            found.content = self.scan(&file, &found.header, found.table.as_ref(), end_lsn)?;
            self.segments.insert(number, found);
        }
        Ok(())
    }

    /// Overwrites the headers of what was cut off, so that no later start reads it: by then the
    /// mark will have passed their numbers. And syncs what was read: after a kill it may be in the
    /// page cache only, and what comes next counts on it.
    fn make_void(&mut self, end_lsn: u64) -> Result<(), StorageError> {
        let mut emptied = Vec::new();
        for (&number, found) in &self.segments {
            let Content::Scanned(summary, _) = &found.content else {
                continue;
            };
            let name = segment_name(number);
            let failed = |error: io::Error| StorageError::new("cannot write", &name, &error);
            let file = self.storage.open(&name).map_err(failed)?;
            for &offset in &summary.void {
                write_all_at(self.storage, &file, offset, &[0; HEADER_OCTETS]).map_err(failed)?;
            }
            if found.header.first_lsn >= end_lsn {
                // Nothing in it counts: without a header it is a file that was never written.
                write_all_at(self.storage, &file, 0, &vec![0; SEGMENT_START as usize])
                    .map_err(failed)?;
                emptied.push(number);
            }
            self.storage.sync(&file).map_err(failed)?;
        }
        for number in emptied {
            self.segments.remove(&number);
            self.unused.push(segment_name(number));
        }
        if !self.names.is_empty() {
            let failed = |error| StorageError::new("cannot sync", "the data directory", &error);
            self.storage.sync_dir().map_err(failed)?;
        }
        Ok(())
    }
}

/// What a segment has lost at its end, when it had every record up to number `last_lsn`: no header
/// follows by which the scan could tell.
fn unread_end<S: Storage>(number: u32, found: &FoundSegment<S>, last_lsn: u64) -> Option<Problem> {
    let Content::Scanned(summary, map) = &found.content else {
        return None;
    };
    if found.header.rewritten > 0 || summary.last_lsn >= last_lsn {
        return None;
    }
    let mut scratch = Vec::new();
    let octets = map.octets(summary.end..found.file_octets, &mut scratch);
    let used = octets.map_or(0, |octets| {
        let last = octets.iter().rposition(|&octet| octet != 0);
        last.map_or(0, |last| (last as u64 + 1).next_multiple_of(8))
    });
    let (segment, offset, end) = if used > 0 {
        let end = (summary.end + used).min(found.file_octets);
        (number, summary.end, end)
    } else {
        (number + 1, 0, 0)
    };
    Some(Problem {
        first_lsn: summary.last_lsn + 1,
        last_lsn,
        segment,
        offset,
        end,
    })
}
