//! Real files: one locked directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};

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
    path: PathBuf,
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
        let lock = lock(path)?;
        Ok(FileStorage {
            directory: Arc::new(Directory {
                path: path.to_owned(),
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
            directory: Arc::new(Directory {
                path: path.to_owned(),
                handle,
                lock: None,
            }),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path.join(name)
    }
}

/// Takes the lock of the directory and writes who holds it.
fn lock(path: &Path) -> Result<File, StorageError> {
    let lock_path = path.join(LOCK_NAME);
    let name = lock_path.display().to_string();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
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

/// Writes `octets` zeros from the start of `file`, which lies at `path`.
///
/// They go past the page cache where the file system can do that: a fifth of the CPU time, and the
/// cache holds nothing that is not used yet. See [`Storage::write_padded_at`] for the price.
fn fill(storage: &FileStorage, path: &Path, file: &File, octets: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_OCTETS.min(octets as usize) + DIRECT_ALIGNMENT];
    let zeros = &zeros[zeros.as_ptr().align_offset(DIRECT_ALIGNMENT)..];
    let mut offset = fill_directly(path, zeros, octets)?;
    while offset < octets {
        let length = (octets - offset).min(zeros.len() as u64);
        write_all_at(storage, file, offset, &zeros[..length as usize])?;
        offset += length;
    }
    file.sync_data()
}

/// Writes zeros past the page cache; how far that went.
fn fill_directly(path: &Path, zeros: &[u8], octets: u64) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    options.write(true);
    let Ok(file) = options
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(path)
    else {
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path(name))?;
        if octets > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, octets) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
            fill(self, &self.path(name), &file, octets)?;
        }
        Ok(file)
    }

    fn create_unlinked(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(
            self.directory.handle.as_fd(),
            ".",
            flags,
            Mode::RUSR | Mode::WUSR,
        ) {
            Ok(file) => Ok(file.into()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let name = format!("unlinked.{}", std::process::id());
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(self.path(&name))?;
                std::fs::remove_file(self.path(&name))?;
                Ok(file)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.path(name);
        let mut options = OpenOptions::new();
        options.read(true);
        // A directory opened to be inspected may be readable only.
        options.write(self.directory.lock.is_some());
        options.open(path)
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
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory.path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // Names that are not UTF-8 are not ours; the lock is nobody's business but this type's,
            // so that a new directory is an empty one.
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK_NAME
            {
                names.push((name, metadata.len()));
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.handle.sync_all()
    }

    fn free_octets(&self) -> io::Result<u64> {
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
}
