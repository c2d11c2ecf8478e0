//! The file system as the storage sees it: a flat directory behind a trait, so that everything
//! above it runs unchanged over real files ([`super::FileStorage`]) and over the faulty disk of the
//! simulation ([`super::MemoryStorage`]).
//!
//! The calls are those of POSIX and promise no more: a write is on stable storage only after
//! [`Storage::sync`] of the file answered, a name only after [`Storage::sync_dir`]. Both may be
//! short or interrupted; [`write_all_at`] and [`read_exact_at`] are what the storage calls.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

/// One flat directory of files. Cheap to clone; clones act on the same directory.
pub trait Storage: Clone + Debug + Send + 'static {
    /// An open file. Positions are always given, so a file may be shared by threads.
    type File: Debug + Send + Sync + 'static;
    /// A read-only view of a file.
    type Map: Map;

    /// Creates `name` or empties it, reserves `octets` on the disk and fills them with zeros that
    /// are synced, so that later writes inside need no new space.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when the space cannot be had; the name may exist then.
    fn create(&self, name: &str, octets: u64) -> io::Result<Self::File>;

    /// Creates a file without a name; it is gone when the last handle closes.
    fn create_unlinked(&self) -> io::Result<Self::File>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Length of a file in octets.
    fn octets(&self, file: &Self::File) -> io::Result<u64>;

    /// Reads at `offset`; may read less than asked, 0 at the end.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes at `offset`; may write less than asked. Extends the file when needed.
    fn write_at(&self, file: &Self::File, offset: u64, octets: &[u8]) -> io::Result<usize>;

    /// As [`Storage::write_at`], with so many zeros behind (at most [`CACHE_PAGE_OCTETS`]) that need not be
    /// written and do not count: the caller does not mind what lies there.
    ///
    /// A new file's blocks may not be in memory, and a part of a page can be written only when the
    /// rest of it is; with zeros up to the end of the page nothing has to be read first.
    fn write_padded_at(
        &self,
        file: &Self::File,
        offset: u64,
        octets: &[u8],
        _zeros: usize,
    ) -> io::Result<usize> {
        self.write_at(file, offset, octets)
    }

    /// Returns when what was written to `file` is on stable storage. After an error nothing is
    /// known about any of it, whatever a later call says.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Gives `to` the file named `from`; what `to` named before is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// All names with the length of their files, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Returns when the names created, renamed and removed so far are on stable storage.
    fn sync_dir(&self) -> io::Result<()>;

    /// Octets that new files may still take.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the directory was removed.
    fn free_octets(&self) -> io::Result<u64>;

    /// Maps a file as long as it is now; `name` is for messages.
    fn map(&self, file: &Self::File, name: &str) -> io::Result<Self::Map>;
}

/// A read-only view of a file.
pub trait Map: Debug + Send + Sync + 'static {
    /// The octets in `range`, either in place or copied into `scratch`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the range passes the end of the file as mapped.
    fn octets<'a>(&'a self, range: Range<u64>, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]>;

    /// Brings `range` into memory, so that reading it does not wait for the disk. Blocks.
    fn populate(&self, range: Range<u64>) -> io::Result<()>;
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        // The last where the process may write no longer files.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether an error says that something is short that there may be more of later: room, open files,
/// memory to map one into. Nothing is wrong with the disk then.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    is_full(error)
        || error.kind() == io::ErrorKind::OutOfMemory
        || matches!(
            errno,
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
        )
}

/// What files are kept in memory by.
pub(super) const CACHE_PAGE_OCTETS: usize = 4096;

/// Writes all of `octets`, through short writes and interruptions.
pub(super) fn write_all_at<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    octets: &[u8],
) -> io::Result<()> {
    write_all_padded_at(storage, file, offset, octets, 0)
}

/// As [`write_all_at`]; see [`Storage::write_padded_at`] for `zeros`.
pub(super) fn write_all_padded_at<S: Storage>(
    storage: &S,
    file: &S::File,
    mut offset: u64,
    mut octets: &[u8],
    zeros: usize,
) -> io::Result<()> {
    while !octets.is_empty() {
        let result = if zeros == 0 {
            storage.write_at(file, offset, octets)
        } else {
            storage.write_padded_at(file, offset, octets, zeros)
        };
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                octets = &octets[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `into`, through short reads and interruptions.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file ends first.
pub(super) fn read_exact_at<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    into: &mut [u8],
) -> io::Result<()> {
    let read = read_up_to_at(storage, file, offset, into)?;
    if read < into.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Fills `into` as far as the file goes; the number of octets read.
pub(super) fn read_up_to_at<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    into: &mut [u8],
) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match storage.read_at(file, offset + done as u64, &mut into[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads a whole file.
pub(super) fn read_whole<S: Storage>(storage: &S, file: &S::File) -> io::Result<Vec<u8>> {
    let octets = usize::try_from(storage.octets(file)?).unwrap_or(usize::MAX);
    let mut whole = vec![0; octets];
    let read = read_up_to_at(storage, file, 0, &mut whole)?;
    whole.truncate(read);
    Ok(whole)
}
