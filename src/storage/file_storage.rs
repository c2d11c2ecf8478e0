//! Real files: one locked directory. Everything in it is reached through the directory that was
//! opened and locked, never by its path, which may come to name another one.

use std::fs::{DirBuilder, File};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::StorageError;
use super::files::{CACHE_PAGE_OCTETS, Storage, write_all_at};
use super::map::FileMap;

/// Name of the file that is locked as long as a process uses the directory.
const LOCK_NAME: &str = "lock";

/// A directory of real files, locked against other processes as long as a clone lives.
#[derive(Clone, Debug)]
pub struct FileStorage {
    directory: Arc<Directory>,
}

#[derive(Debug)]
struct Directory {
    handle: File,
    lock: Option<File>,
}

impl FileStorage {
    /// Opens `path`, creating it (mode 0700) when it is missing, and locks it.
    ///
    /// # Errors
    /// One line that names the directory: it cannot be created or read, or another process holds
    /// it (with its process id).
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let name = path.display().to_string();
        let told = |what: &'static str| {
            let name = name.clone();
            move |error: io::Error| StorageError::new(what, &name, &error)
        };
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(told("cannot create the data directory"))?;
        }
        let handle = File::open(path).map_err(told("cannot open the data directory"))?;
        let lock = lock(path, &handle)?;
        Ok(FileStorage {
            directory: Arc::new(Directory {
                handle,
                lock: Some(lock),
            }),
        })
    }

    /// Opens `path` for reading beside a process that may hold it: no lock, nothing is created.
    ///
    /// # Errors
    /// One line that names the directory, when it cannot be opened.
    pub fn open_to_inspect(path: &Path) -> Result<Self, StorageError> {
        let handle = File::open(path).map_err(|error| {
            let name = path.display().to_string();
            StorageError::new("cannot open the data directory", &name, &error)
        })?;
        Ok(FileStorage {
            directory: Arc::new(Directory { handle, lock: None }),
        })
    }

    /// Opens a file of the directory that is locked, whatever its path names by now.
    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        open_at(&self.directory.handle, name, flags)
    }
}

/// Opens a file of a directory; a new one is its owner's alone.
fn open_at(directory: &File, name: &str, flags: OFlags) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    loop {
        match rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, mode) {
            Ok(file) => return Ok(file.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the lock of the directory and writes who holds it.
fn lock(path: &Path, directory: &File) -> Result<File, StorageError> {
    let name = path.join(LOCK_NAME).display().to_string();
    let mut file = open_at(directory, LOCK_NAME, OFlags::RDWR | OFlags::CREATE)
        .map_err(|error| StorageError::new("cannot lock the data directory", &name, &error))?;
    if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        let mut holder = String::new();
        // Who holds it is a courtesy; the refusal stands without it.
        let _ = (&file).take(64).read_to_string(&mut holder);
        let holder = holder.trim();
        let error = io::Error::from(error);
        if error.kind() == io::ErrorKind::WouldBlock {
            return Err(StorageError::refused(format!(
                "another process (pid {}) holds the data directory {}",
                if holder.is_empty() { "unknown" } else { holder },
                path.display()
            )));
        }
        return Err(StorageError::new(
            "cannot lock the data directory",
            &name,
            &error,
        ));
    }
    // The lock itself is what counts; a full disk must not keep a broker from starting.
    let _ = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// How many zeros are written at a time.
const ZEROS_OCTETS: usize = 1 << 18;
/// What position, length and address of a write past the page cache must be multiples of: the
/// largest block that disks have.
const DIRECT_ALIGNMENT: usize = 4096;

/// Writes `octets` zeros from the start of `file`, whose name is `name`.
///
/// They go past the page cache where the file system can do that: a fifth of the CPU time, and the
/// cache holds nothing that is not used yet. See [`Storage::write_padded_at`] for the price.
fn fill(storage: &FileStorage, name: &str, file: &File, octets: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_OCTETS.min(octets as usize) + DIRECT_ALIGNMENT];
    let zeros = &zeros[zeros.as_ptr().align_offset(DIRECT_ALIGNMENT)..];
    let mut offset = fill_directly(storage, name, zeros, octets)?;
    while offset < octets {
        let length = (octets - offset).min(zeros.len() as u64);
        write_all_at(storage, file, offset, &zeros[..length as usize])?;
        offset += length;
    }
    file.sync_data()
}

/// Writes zeros past the page cache; how far that went.
fn fill_directly(storage: &FileStorage, name: &str, zeros: &[u8], octets: u64) -> io::Result<u64> {
    let Ok(file) = storage.open_at(name, OFlags::WRONLY | OFlags::DIRECT) else {
        return Ok(0);
    };
    let whole = |octets: u64| octets - octets % DIRECT_ALIGNMENT as u64;
    let mut offset = 0;
    while offset < whole(octets) {
        let length = whole((octets - offset).min(zeros.len() as u64));
        match file.write_at(&zeros[..length as usize], offset) {
            Ok(written) if written > 0 && whole(written as u64) == written as u64 => {
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            // The file system wants it otherwise: the rest goes through the cache.
            Ok(_) | Err(_) => break,
        }
    }
    Ok(offset)
}

impl Storage for FileStorage {
    type File = File;
    type Map = FileMap;

    fn create(&self, name: &str, octets: u64) -> io::Result<File> {
        let file = self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?;
        if octets > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, octets) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
            fill(self, name, &file, octets)?;
        }
        Ok(file)
    }

    fn create_unlinked(&self) -> io::Result<File> {
        match self.open_at(".", OFlags::RDWR | OFlags::TMPFILE) {
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::OPNOTSUPP | Errno::ISDIR)
                ) =>
            {
                let name = format!("unlinked.{}", std::process::id());
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                let file = self.open_at(&name, flags)?;
                self.remove(&name)?;
                Ok(file)
            }
            result => result,
        }
    }

    fn open(&self, name: &str) -> io::Result<File> {
        // A directory opened to be inspected may be readable only.
        let flags = match self.directory.lock {
            Some(_) => OFlags::RDWR,
            None => OFlags::RDONLY,
        };
        self.open_at(name, flags)
    }

    fn octets(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        file.read_at(into, offset)
    }

    fn write_at(&self, file: &File, offset: u64, octets: &[u8]) -> io::Result<usize> {
        file.write_at(octets, offset)
    }

    fn write_padded_at(
        &self,
        file: &File,
        offset: u64,
        octets: &[u8],
        zeros: usize,
    ) -> io::Result<usize> {
        static ZEROS: [u8; CACHE_PAGE_OCTETS] = [0; CACHE_PAGE_OCTETS];
        let zeros = &ZEROS[..zeros.min(CACHE_PAGE_OCTETS)];
        let parts = [IoSlice::new(octets), IoSlice::new(zeros)];
        let written = rustix::io::pwritev(file, &parts, offset)?;
        Ok(written.min(octets.len()))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let handle = &self.directory.handle;
        Ok(rustix::fs::renameat(handle, from, handle, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let handle = &self.directory.handle;
        Ok(rustix::fs::unlinkat(handle, name, AtFlags::empty())?)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let handle = &self.directory.handle;
        let mut names = Vec::new();
        for entry in Dir::read_from(handle)? {
            let entry = entry?;
            // Names that are not UTF-8 are not ours; the lock is nobody's business but this type's,
            // so that a new directory is an empty one.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name == LOCK_NAME {
                continue;
            }
            // What a link names counts: it is what opening it gives.
            match rustix::fs::statat(handle, name, AtFlags::empty()) {
                Ok(found) if FileType::from_raw_mode(found.st_mode).is_file() => {
                    names.push((name.to_owned(), found.st_size.cast_unsigned()));
                }
                Ok(_) | Err(Errno::NOENT | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.handle.sync_all()
    }

    fn free_octets(&self) -> io::Result<u64> {
        // Whatever is written to a directory without a name is gone with the process.
        if self.directory.handle.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it was removed"));
        }
        let figures = rustix::fs::fstatvfs(&self.directory.handle)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn map(&self, file: &File, name: &str) -> io::Result<FileMap> {
        FileMap::new(file, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::files::{read_whole, write_all_padded_at};

    #[test]
    fn a_new_file_is_full_of_zeros_and_padding_counts_for_nothing() {
        let path = std::env::temp_dir().join(format!("leveret-files-{}", std::process::id()));
        let files = FileStorage::open(&path).expect("opens");
        for octets in [0, 1, 4095, 4096, 12_345, 1 << 20, (1 << 20) + 700] {
            let file = files.create("a", octets).expect("room");
            let whole = read_whole(&files, &file).expect("readable");
            assert_eq!(whole.len() as u64, octets);
            assert!(whole.iter().all(|&octet| octet == 0), "{octets}");
        }
        let file = files.create("b", 3 * 4096).expect("room");
        write_all_padded_at(&files, &file, 100, &[1; 4000], 4092).expect("room");
        write_all_padded_at(&files, &file, 4100, &[2; 10], 0).expect("room");
        write_all_padded_at(&files, &file, 4110, &[], 5).expect("nothing to do");
        let mut expected = vec![0; 3 * 4096];
        expected[100..4100].fill(1);
        expected[4100..4110].fill(2);
        assert_eq!(read_whole(&files, &file).expect("readable"), expected);
        let written = files.write_padded_at(&file, 0, &[3; 8], 16);
        assert_eq!(written.expect("room"), 8);
        drop(files);
        std::fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn a_directory_that_took_the_place_of_the_one_in_use_is_left_alone() {
        let path = std::env::temp_dir().join(format!("leveret-moved-{}", std::process::id()));
        let files = FileStorage::open(&path).expect("opens");
        files.create("a", 10).expect("room");
        assert!(files.free_octets().is_ok());
        std::fs::remove_dir_all(&path).expect("removed");
        std::fs::create_dir(&path).expect("made anew");
        for result in [
            files.create("b", 10).map(drop),
            files.open("a").map(drop),
            files.rename("a", "b"),
            files.free_octets().map(drop),
        ] {
            let kind = result.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::NotFound));
        }
        assert_eq!(std::fs::read_dir(&path).expect("readable").count(), 0);
        std::fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn what_a_link_names_is_listed_and_what_is_no_file_is_not() {
        let path = std::env::temp_dir().join(format!("leveret-links-{}", std::process::id()));
        let files = FileStorage::open(&path).expect("opens");
        files.create("elsewhere", 10).expect("room");
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path.join(name));
        link("elsewhere", "linked").expect("made");
        link("nowhere", "dangling").expect("made");
        link("circle", "circle").expect("made");
        std::fs::create_dir(path.join("directory")).expect("made");
        let mut names = files.list().expect("listed");
        names.sort();
        let expected = [("elsewhere".to_owned(), 10), ("linked".to_owned(), 10)];
        assert_eq!(names, expected);
        drop(files);
        std::fs::remove_dir_all(&path).expect("removed");
    }
}
