//! Octets that could not be read, kept for a person to look at.

use std::io;

use super::compaction::NEW_SUFFIX;
use super::files::{Storage, write_all_at};

/// Keeps `octets` under the name `aside`, on stable storage before anything is done to the place
/// that they come from; whether they were not kept before. Blocks.
///
/// # Errors
/// Nothing is kept: there is no room, or the disk fails.
pub(super) fn keep<S: Storage>(storage: &S, aside: &str, octets: &[u8]) -> io::Result<bool> {
    if storage.open(aside).is_ok() {
        return Ok(false);
    }
    // A name that is there stands for all of it, so it comes last; what a crash leaves of the file
    // before is removed at the next start.
    let new = format!("{aside}{NEW_SUFFIX}");
    let file = storage.create(&new, 0)?;
    write_all_at(storage, &file, 0, octets)?;
    storage.sync(&file)?;
    storage.rename(&new, aside)?;
    storage.sync_dir()?;
    Ok(true)
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
        Ok(true) => format!("kept as {aside}"),
        Ok(false) => return None,
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
        assert!(keep(&disk, "a.seg.damaged-1024", &octets).expect("kept"));
        assert!(!keep(&disk, "a.seg.damaged-1024", &octets).expect("kept before"));
        for seed in 0..50 {
            let after = disk.crash(seed);
            assert_eq!(after.contents("a.seg.damaged-1024"), Some(octets.clone()));
        }
    }
}
