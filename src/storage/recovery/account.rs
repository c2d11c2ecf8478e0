//! What a start found and what it did about it, in numbers.

use std::fmt;

/// How a store was opened. Its text is one line for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Up to which record the checkpoint tells the state of all queues; `None`: there was none.
    pub checkpoint_lsn: Option<u64>,
    /// The copy stood in for the checkpoint.
    pub is_checkpoint_copy: bool,
    /// Segments of which the index told what lies in them.
    pub indexes_used: u32,
    /// Segments that were read record by record.
    pub segments_read: u32,
    /// Indexes that were made anew.
    pub indexes_made: u32,
    /// Segments that had been rewritten.
    pub segments_rewritten: u32,
    /// Rewritten segments whose table does not check.
    pub tables_damaged: u32,
    /// Segment files without anything in them that is needed: given back, never written, or cut
    /// off. They are used again.
    pub segments_free: u32,
    /// Segment files that were set aside, since their header cannot be read.
    pub segments_unreadable: u32,
    /// Segments that the checkpoint names and that are not there.
    pub segments_missing: u32,
    /// Records beyond the last mark that were cut off, at most: a torn end.
    pub records_cut: u64,
    /// Records of a group without its end that were cut off.
    pub group_records_cut: u64,
    /// Stretches of records that are damaged or missing.
    pub damaged_places: u32,
    /// Files in which damaged octets are kept from now on.
    pub kept_aside: u32,
    /// Files in which damaged octets have been kept since an earlier run.
    pub lie_aside: u32,
    /// Large bodies that live messages have.
    pub large_bodies: u32,
    /// Files of large bodies that nobody needs; they are removed.
    pub large_bodies_superfluous: u32,
    /// Large bodies without a file that a record names of which no settlement is known: damage,
    /// unless the queue is gone.
    pub large_bodies_missing: u32,
    /// Octets that were cut off the end of the definitions.
    pub definitions_octets_cut: u64,
}

impl Account {
    /// Whether records before the end of the log are lost, so that something may be needed that
    /// none of those which are left names.
    pub(super) fn misses_records(&self) -> bool {
        self.damaged_places + self.segments_unreadable + self.segments_missing > 0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.checkpoint_lsn {
            Some(lsn) if self.is_checkpoint_copy => {
                write!(f, "the copy of the checkpoint up to record {lsn}")?;
            }
            Some(lsn) => write!(f, "checkpoint up to record {lsn}")?,
            None => write!(f, "no checkpoint")?,
        }
        let segments = self.indexes_used + self.segments_read;
        write!(
            f,
            "; {segments} segments: {} by index, {} read, {} rewritten, {} more files free",
            self.indexes_used, self.segments_read, self.segments_rewritten, self.segments_free,
        )?;
        let rest = [
            (u64::from(self.indexes_made), "indexes made"),
            (u64::from(self.large_bodies), "large bodies"),
            (
                u64::from(self.large_bodies_superfluous),
                "superfluous bodies removed",
            ),
            (self.records_cut, "records cut off the end"),
            (self.group_records_cut, "records of an unfinished group cut"),
            (
                self.definitions_octets_cut,
                "octets cut off the definitions",
            ),
            (u64::from(self.damaged_places), "damaged places"),
            (u64::from(self.kept_aside), "kept aside"),
            (
                u64::from(self.lie_aside),
                "files with damage of earlier runs",
            ),
            (u64::from(self.tables_damaged), "tables damaged"),
            (u64::from(self.segments_unreadable), "segments unreadable"),
            (u64::from(self.segments_missing), "segments missing"),
            (u64::from(self.large_bodies_missing), "large bodies missing"),
        ];
        for (count, what) in rest.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "; {count} {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_names_what_there_was_and_nothing_else() {
        let account = Account {
            checkpoint_lsn: Some(12),
            is_checkpoint_copy: true,
            indexes_used: 3,
            segments_read: 1,
            segments_free: 2,
            records_cut: 5,
            ..Account::default()
        };
        assert_eq!(
            account.to_string(),
            "the copy of the checkpoint up to record 12; 4 segments: 3 by index, 1 read, \
             0 rewritten, 2 more files free; 5 records cut off the end"
        );
        assert!(
            Account::default()
                .to_string()
                .starts_with("no checkpoint; 0 segments")
        );
    }
}
