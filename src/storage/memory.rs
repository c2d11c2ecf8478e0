//! A disk in memory that fails as real ones do, deterministic from a seed.
//!
//! What was written and not synced survives a [`MemoryStorage::crash`] in any subset of 512-octet
//! sectors; names that were created, renamed or removed since the last sync of the directory
//! survive in the order in which that happened, up to any point. Single calls can be made to fail,
//! to be short or interrupted, and space can run out.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{Map, Storage};
use crate::random::Random;

const SECTOR_OCTETS: usize = 512;

/// What a call does instead of what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Fails with EIO.
    Eio,
    /// Fails with ENOSPC.
    Enospc,
    /// Reads or writes half of what was asked; other calls are not affected.
    Short,
    /// Fails with EINTR; calls that cannot are not affected.
    Eintr,
    /// Fails with EMFILE: no more files may be open.
    Emfile,
}

/// A call that met a fault or a full disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// What it met.
    pub fault: DiskFault,
    /// The function of [`Storage`] or [`Map`].
    pub call: &'static str,
    /// The file; empty when it has no name or the call is about none.
    pub name: String,
}

/// What a call is about.
#[derive(Clone, Copy)]
enum Of<'a> {
    Nothing,
    Name(&'a str),
    File(&'a MemoryFile),
}

/// A directory in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

/// A file of a [`MemoryStorage`].
#[derive(Clone, Debug)]
pub struct MemoryFile {
    inode: Arc<Mutex<Inode>>,
}

/// A view of a [`MemoryFile`]: copies, and sees later writes, as a map does.
#[derive(Debug)]
pub struct MemoryMap {
    file: MemoryFile,
    octets: u64,
    disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    octets: Vec<u8>,
    /// What the disk holds of sectors that were written since the last sync.
    unsynced: BTreeMap<usize, [u8; SECTOR_OCTETS]>,
    /// Length at the last sync.
    synced_octets: usize,
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(String, Arc<Mutex<Inode>>),
    Remove(String),
    Rename(String, String),
}

#[derive(Debug, Default)]
struct Disk {
    names: BTreeMap<String, Arc<Mutex<Inode>>>,
    /// The names as of the last sync of the directory, and what happened since.
    synced_names: BTreeMap<String, Arc<Mutex<Inode>>>,
    changes: Vec<NameChange>,
    calls: u64,
    fault: Option<(u64, DiskFault)>,
    faults_hit: u64,
    hits: Vec<Hit>,
    free_octets: Option<u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inode {
    fn touch(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR_OCTETS..=to.saturating_sub(1) / SECTOR_OCTETS {
            self.unsynced.entry(sector).or_insert_with(|| {
                let start = (sector * SECTOR_OCTETS).min(self.octets.len());
                let end = (start + SECTOR_OCTETS).min(self.octets.len());
                let mut before = [0; SECTOR_OCTETS];
                before[..end - start].copy_from_slice(&self.octets[start..end]);
                before
            });
        }
    }

    fn write(&mut self, offset: usize, octets: &[u8]) {
        let end = offset + octets.len();
        let grown = self.octets.len();
        if end > grown {
            // What lies between becomes zeros, which need no sector of their own.
            self.touch(offset.max(grown), end);
            self.octets.resize(end, 0);
        }
        self.touch(offset, end);
        self.octets[offset..end].copy_from_slice(octets);
    }

    /// What of the file is there after the power went.
    fn crashed(&self, random: &mut Random) -> Inode {
        let mut octets = self.octets.clone();
        // Some crashes lose all that is unsynced, some nothing, most a part.
        let kept_of_8 = [0, 1, 4, 7, 8][(random.draw() % 5) as usize];
        for (&sector, before) in &self.unsynced {
            if random.draw() % 8 >= kept_of_8 {
                let start = (sector * SECTOR_OCTETS).min(octets.len());
                let end = (start + SECTOR_OCTETS).min(octets.len());
                octets[start..end].copy_from_slice(&before[..end - start]);
            }
        }
        if octets.len() > self.synced_octets && random.draw().is_multiple_of(2) {
            let span = octets.len() - self.synced_octets;
            octets.truncate(self.synced_octets + random.draw() as usize % (span + 1));
        }
        Inode {
            synced_octets: octets.len(),
            octets,
            unsynced: BTreeMap::new(),
        }
    }
}

impl Disk {
    /// Counts a call; the fault that it meets, if any.
    fn call(&mut self, call: &'static str, of: Of<'_>) -> Option<DiskFault> {
        self.calls += 1;
        match self.fault {
            Some((at, fault)) if at == self.calls => {
                self.faults_hit += 1;
                self.note_hit(fault, call, of);
                Some(fault)
            }
            _ => None,
        }
    }

    fn note_hit(&mut self, fault: DiskFault, call: &'static str, of: Of<'_>) {
        let name = match of {
            Of::Nothing => String::new(),
            Of::Name(name) => name.to_owned(),
            Of::File(file) => {
                let mut names = self.names.iter();
                let found = names.find(|(_, inode)| Arc::ptr_eq(inode, &file.inode));
                found.map_or_else(String::new, |(name, _)| name.clone())
            }
        };
        self.hits.push(Hit { fault, call, name });
    }

    fn take_space(&mut self, octets: u64, call: &'static str, of: Of<'_>) -> io::Result<()> {
        if let Some(free) = &mut self.free_octets {
            if *free < octets {
                self.note_hit(DiskFault::Enospc, call, of);
                return Err(io::ErrorKind::StorageFull.into());
            }
            *free -= octets;
        }
        Ok(())
    }

    fn give_space(&mut self, inode: &Arc<Mutex<Inode>>) {
        if let Some(free) = &mut self.free_octets {
            *free += locked(inode).octets.len() as u64;
        }
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, Arc<Mutex<Inode>>>, change: &NameChange) {
    match change {
        NameChange::Put(name, inode) => {
            names.insert(name.clone(), Arc::clone(inode));
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// The error of a call that can fail but not be short.
fn whole(fault: Option<DiskFault>) -> io::Result<()> {
    match fault {
        Some(DiskFault::Eio) => Err(eio()),
        Some(DiskFault::Enospc) => Err(io::ErrorKind::StorageFull.into()),
        Some(DiskFault::Emfile) => Err(io::Error::from_raw_os_error(24)),
        Some(DiskFault::Short | DiskFault::Eintr) | None => Ok(()),
    }
}

/// How much of a reading or writing is done.
fn part(fault: Option<DiskFault>, asked: usize) -> io::Result<usize> {
    match fault {
        Some(DiskFault::Short) => Ok(asked.div_ceil(2)),
        Some(DiskFault::Eintr) => Err(io::ErrorKind::Interrupted.into()),
        other => whole(other).map(|()| asked),
    }
}

impl MemoryStorage {
    /// An empty directory on a disk without end.
    pub fn new() -> Self {
        MemoryStorage {
            disk: Arc::default(),
        }
    }

    /// The directory as it is found after power was lost now. Handles of this one stay usable and
    /// change nothing there. Space and faults are not taken over.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemoryStorage {
        let disk = locked(&self.disk);
        let mut random = Random::new(seed);
        let mut names = disk.synced_names.clone();
        let survived = if disk.changes.is_empty() {
            0
        } else {
            random.draw() as usize % (disk.changes.len() + 1)
        };
        for change in &disk.changes[..survived] {
            apply(&mut names, change);
        }
        let names: BTreeMap<_, _> = names
            .into_iter()
            .map(|(name, inode)| {
                let inode = locked(&inode).crashed(&mut random);
                (name, Arc::new(Mutex::new(inode)))
            })
            .collect();
        MemoryStorage {
            disk: Arc::new(Mutex::new(Disk {
                synced_names: names.clone(),
                names,
                ..Disk::default()
            })),
        }
    }

    /// The directory as it is found after the process was killed now: all that was written is
    /// there.
    #[must_use]
    pub fn killed(&self) -> MemoryStorage {
        let disk = locked(&self.disk);
        let names: BTreeMap<_, _> = disk
            .names
            .iter()
            .map(|(name, inode)| {
                let inode = locked(inode).clone();
                (name.clone(), Arc::new(Mutex::new(inode)))
            })
            .collect();
        MemoryStorage {
            disk: Arc::new(Mutex::new(Disk {
                synced_names: names.clone(),
                names,
                ..Disk::default()
            })),
        }
    }

    /// Makes the `n`-th call from now on (1 is the next) meet `fault`.
    pub fn fail(&self, n: u64, fault: DiskFault) {
        let mut disk = locked(&self.disk);
        disk.fault = Some((disk.calls + n, fault));
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> u64 {
        locked(&self.disk).calls
    }

    /// How many calls met the fault that was [set](Self::fail).
    pub fn faults_hit(&self) -> u64 {
        locked(&self.disk).faults_hit
    }

    /// The calls that met a fault or a full disk since this was asked last.
    pub fn take_hits(&self) -> Vec<Hit> {
        std::mem::take(&mut locked(&self.disk).hits)
    }

    /// Sets how many octets new files may still take; `None` for no end.
    pub fn set_free_octets(&self, octets: Option<u64>) {
        locked(&self.disk).free_octets = octets;
    }

    /// Flips one bit of a file, whatever becomes of what is unsynced; whether there is one.
    pub fn flip(&self, name: &str, octet: usize, bit: u8) -> bool {
        let disk = locked(&self.disk);
        let Some(inode) = disk.names.get(name) else {
            return false;
        };
        let mut inode = locked(inode);
        let Some(found) = inode.octets.get_mut(octet) else {
            return false;
        };
        *found ^= 1 << (bit % 8);
        if let Some(before) = inode.unsynced.get_mut(&(octet / SECTOR_OCTETS)) {
            before[octet % SECTOR_OCTETS] ^= 1 << (bit % 8);
        }
        true
    }

    /// The files there are and their octets, by name: to look on, so it never fails and is no call
    /// that a fault could hit.
    pub fn names(&self) -> Vec<(String, u64)> {
        let disk = locked(&self.disk);
        let octets = |inode: &Mutex<Inode>| locked(inode).octets.len() as u64;
        let names = disk.names.iter();
        names
            .map(|(name, inode)| (name.clone(), octets(inode)))
            .collect()
    }

    /// The octets of a file, if there is one.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let disk = locked(&self.disk);
        Some(locked(disk.names.get(name)?).octets.clone())
    }

    /// Puts a file there with these octets, synced.
    pub fn put(&self, name: &str, octets: &[u8]) {
        let inode = Arc::new(Mutex::new(Inode {
            octets: octets.to_vec(),
            unsynced: BTreeMap::new(),
            synced_octets: octets.len(),
        }));
        let mut disk = locked(&self.disk);
        disk.synced_names
            .insert(name.to_owned(), Arc::clone(&inode));
        disk.names.insert(name.to_owned(), inode);
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for MemoryStorage {
    type File = MemoryFile;
    type Map = MemoryMap;

    fn create(&self, name: &str, octets: u64) -> io::Result<MemoryFile> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("create", Of::Name(name));
        whole(fault)?;
        disk.take_space(octets, "create", Of::Name(name))?;
        let inode = Arc::new(Mutex::new(Inode {
            octets: vec![0; octets as usize],
            unsynced: BTreeMap::new(),
            synced_octets: octets as usize,
        }));
        if let Some(before) = disk.names.get(name).map(Arc::clone) {
            disk.give_space(&before);
        }
        disk.change(NameChange::Put(name.to_owned(), Arc::clone(&inode)));
        Ok(MemoryFile { inode })
    }

    fn create_unlinked(&self) -> io::Result<MemoryFile> {
        let fault = locked(&self.disk).call("create_unlinked", Of::Nothing);
        whole(fault)?;
        Ok(MemoryFile {
            inode: Arc::default(),
        })
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("open", Of::Name(name));
        whole(fault)?;
        let inode = disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemoryFile {
            inode: Arc::clone(inode),
        })
    }

    fn octets(&self, file: &MemoryFile) -> io::Result<u64> {
        let fault = locked(&self.disk).call("octets", Of::File(file));
        whole(fault)?;
        Ok(locked(&file.inode).octets.len() as u64)
    }

    fn read_at(&self, file: &MemoryFile, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let fault = locked(&self.disk).call("read_at", Of::File(file));
        let inode = locked(&file.inode);
        let start = (offset as usize).min(inode.octets.len());
        let length = into.len().min(inode.octets.len() - start);
        let length = part(fault, length)?;
        into[..length].copy_from_slice(&inode.octets[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, file: &MemoryFile, offset: u64, octets: &[u8]) -> io::Result<usize> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("write_at", Of::File(file));
        let length = part(fault, octets.len())?;
        let end = offset as usize + length;
        let grown = end.saturating_sub(locked(&file.inode).octets.len());
        disk.take_space(grown as u64, "write_at", Of::File(file))?;
        let mut inode = locked(&file.inode);
        inode.write(offset as usize, &octets[..length]);
        Ok(length)
    }

    fn sync(&self, file: &MemoryFile) -> io::Result<()> {
        let fault = locked(&self.disk).call("sync", Of::File(file));
        whole(fault)?;
        let mut inode = locked(&file.inode);
        inode.unsynced.clear();
        inode.synced_octets = inode.octets.len();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("rename", Of::Name(to));
        whole(fault)?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(before) = disk.names.get(to).map(Arc::clone) {
            disk.give_space(&before);
        }
        disk.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("remove", Of::Name(name));
        whole(fault)?;
        let Some(inode) = disk.names.get(name).map(Arc::clone) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        disk.give_space(&inode);
        disk.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("list", Of::Nothing);
        whole(fault)?;
        drop(disk);
        Ok(self.names())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("sync_dir", Of::Nothing);
        whole(fault)?;
        disk.synced_names = disk.names.clone();
        disk.changes.clear();
        Ok(())
    }

    fn free_octets(&self) -> io::Result<u64> {
        let mut disk = locked(&self.disk);
        let fault = disk.call("free_octets", Of::Nothing);
        whole(fault)?;
        Ok(disk.free_octets.unwrap_or(1 << 40))
    }

    fn map(&self, file: &MemoryFile, _name: &str) -> io::Result<MemoryMap> {
        let fault = locked(&self.disk).call("map", Of::File(file));
        whole(fault)?;
        Ok(MemoryMap {
            octets: locked(&file.inode).octets.len() as u64,
            file: file.clone(),
            disk: Arc::clone(&self.disk),
        })
    }
}

impl Map for MemoryMap {
    fn octets<'a>(&'a self, range: Range<u64>, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let inode = locked(&self.file.inode);
        if range.end > self.octets {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let octets = inode.octets.get(range.start as usize..range.end as usize);
        let octets = octets.ok_or(io::ErrorKind::UnexpectedEof)?;
        scratch.clear();
        scratch.extend_from_slice(octets);
        Ok(scratch)
    }

    fn populate(&self, _range: Range<u64>) -> io::Result<()> {
        let fault = locked(&self.disk).call("populate", Of::File(&self.file));
        whole(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_survives_and_the_rest_survives_by_sectors() {
        let disk = MemoryStorage::new();
        let file = disk.create("a", 2048).expect("room");
        disk.sync_dir().expect("synced");
        disk.write_at(&file, 0, &[1; 2048]).expect("written");
        disk.sync(&file).expect("synced");
        disk.write_at(&file, 0, &[2; 2048]).expect("written");
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let octets = disk.crash(seed).contents("a").expect("there");
            for sector in octets.chunks(SECTOR_OCTETS) {
                assert!(sector.iter().all(|&octet| octet == sector[0]));
            }
            seen.insert(
                octets
                    .iter()
                    .step_by(SECTOR_OCTETS)
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        assert!(seen.len() >= 12, "of sixteen subsets: {}", seen.len());
        assert_eq!(disk.killed().contents("a"), Some(vec![2; 2048]));
    }

    #[test]
    fn names_survive_in_order_up_to_any_point() {
        let disk = MemoryStorage::new();
        disk.create("a", 1).expect("room");
        disk.sync_dir().expect("synced");
        disk.rename("a", "b").expect("renamed");
        disk.create("c", 0).expect("room");
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let names = disk.crash(seed).list().expect("listed");
            seen.insert(names.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        }
        let expected = [vec!["a"], vec!["b"], vec!["b", "c"]];
        assert!(seen.iter().eq(expected.iter()), "{seen:?}");
    }

    #[test]
    fn the_nth_call_fails_and_space_runs_out() {
        let disk = MemoryStorage::new();
        disk.fail(2, DiskFault::Eio);
        let file = disk.create("a", 8).expect("the first call");
        assert!(disk.sync(&file).is_err());
        disk.sync(&file).expect("the third call");
        disk.fail(1, DiskFault::Short);
        assert_eq!(disk.write_at(&file, 0, &[1; 8]).ok(), Some(4));
        disk.set_free_octets(Some(10));
        assert_eq!(
            disk.create("b", 11).err().map(|error| error.kind()),
            Some(io::ErrorKind::StorageFull)
        );
        disk.create("b", 10).expect("room");
        disk.remove("a").expect("removed");
        assert_eq!(disk.free_octets().ok(), Some(8));
    }
}
