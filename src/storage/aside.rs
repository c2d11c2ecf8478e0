//! Octets that could not be read, kept for a person to look at.

use std::io;

use super::compaction::NEW_SUFFIX;
use super::files::{Storage, read_up_to_at, write_all_at};

/// Files that are kept of one place, where one octet after the other is damaged.
const FILES_MAX: u32 = 100;

/// Whether a file of this name holds octets that were kept aside.
pub(super) fn is_aside(name: &str) -> bool {
    name.contains(".damaged") && !name.ends_with(NEW_SUFFIX)
}

/// Keeps `octets` under the name `aside`, with a number behind it when others lie there: what is
/// rewritten may be hit again at the same offset. They are on stable storage before anything is
/// done to the place that they come from. Their name, and whether they were not kept before. Blocks.
///
/// # Errors
/// Nothing is kept: there is no room, or the disk fails.
pub(super) fn keep<S: Storage>(
    storage: &S,
    aside: &str,
    octets: &[u8],
) -> io::Result<(String, bool)> {
    for number in 1..=FILES_MAX {
        let name = match number {
            1 => aside.to_owned(),
            _ => format!("{aside}.{number}"),
        };
        match storage.open(&name) {
            Ok(file) => {
                let mut kept = vec![0; octets.len()];
                let read = read_up_to_at(storage, &file, 0, &mut kept)?;
                if kept[..read] == *octets {
                    return Ok((name, false));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write(storage, &name, octets)?;
                return Ok((name, true));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write<S: Storage>(storage: &S, aside: &str, octets: &[u8]) -> io::Result<()> {
    // A name that is there stands for all of it, so it comes last; what a crash leaves of the file
    // before is removed at the next start.
    let new = format!("{aside}{NEW_SUFFIX}");
    let file = storage.create(&new, 0)?;
    write_all_at(storage, &file, 0, octets)?;
    storage.sync(&file)?;
    storage.rename(&new, aside)?;
    storage.sync_dir()
}

/// Keeps aside the octets of a file `name` from `offset` on, which do not check; the line that says
/// so. None when they lie aside already: it was told when they were kept. Blocks.
pub(super) fn keep_damaged<S: Storage>(
    storage: &S,
    name: &str,
    offset: u64,
    octets: &[u8],
) -> Option<String> {
    let end = offset + octets.len() as u64;
    let aside = format!("{name}.damaged-{offset}");
    let kept = match keep(storage, &aside, octets) {
        Ok((kept, true)) => format!("kept as {kept}"),
        Ok((_, false)) => return None,
        Err(error) => format!("{aside} cannot be written: {error}"),
    };
    Some(format!(
        "{name}: octets {offset} to {end} are damaged; {kept}"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStorage;
    use super::*;

    #[test]
    fn what_is_kept_aside_survives_any_crash_whole() {
        let octets = vec![7; 2000];
        let disk = MemoryStorage::new();
        let aside = "a.seg.damaged-1024";
        let kept = |octets| keep(&disk, aside, octets).expect("kept");
        assert_eq!(kept(&octets), (aside.to_owned(), true));
        assert_eq!(kept(&octets), (aside.to_owned(), false));
        assert_eq!(kept(&octets[..9]), (aside.to_owned(), false));
        // Others at the same offset take nothing away.
        let other = format!("{aside}.2");
        assert_eq!(kept(&[8; 2000]), (other.clone(), true));
        assert_eq!(kept(&[8; 2000]), (other, false));
        for seed in 0..50 {
            let after = disk.crash(seed);
            assert_eq!(after.contents("a.seg.damaged-1024"), Some(octets.clone()));
        }
    }
}
