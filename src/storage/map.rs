//! Read-only maps of files: the only `unsafe` code of the crate.
//!
//! A map is made when its file has its full length (segments are filled before they are used), the
//! directory is locked against other processes, the length never shrinks while the process lives,
//! and octets that the storage reads through a map never change again: they lie below what the
//! flusher has written, and a recycled file is renamed only after its map was dropped.
//!
//! What remains is a disk that cannot deliver a page, or a stranger who cuts a file: the kernel
//! tells that by SIGBUS. The handler names the file and ends the process with exit code 70; a
//! restart reads the log with errors as values.
#![expect(unsafe_code, reason = "mapping files and a handler for SIGBUS need it")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::files::Map;

/// A file mapped read-only.
#[derive(Debug)]
pub struct FileMap {
    map: memmap2::Mmap,
    slot: Option<usize>,
}

impl FileMap {
    /// Maps `file` as long as it is now. `name` is what the SIGBUS handler prints.
    pub(super) fn new(file: &File, name: &str) -> io::Result<Self> {
        install_handler();
        // SAFETY: the directory lock keeps other processes of ours away, files never shrink while
        // they are mapped, and no octet is read before it was written for good (see the module).
        let map = unsafe { memmap2::Mmap::map(file)? };
        let slot = NAMES.iter().position(|named| named.take(&map, name));
        Ok(FileMap { map, slot })
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            NAMES[slot].length.store(0, Ordering::Release);
        }
    }
}

impl Map for FileMap {
    #[inline]
    fn octets<'a>(&'a self, range: Range<u64>, _scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let range = range.start as usize..range.end as usize;
        self.map
            .get(range)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let end = (range.end as usize).min(self.map.len());
        let start = (range.start as usize).min(end) & !(PAGE_OCTETS - 1);
        match self
            .map
            .advise_range(memmap2::Advice::PopulateRead, start, end - start)
        {
            // Kernels before 5.14 do not know the advice: a touch of every page does the same,
            // with SIGBUS in place of an error.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let mut sum = 0_u8;
                for page in self.map[start..end].chunks(PAGE_OCTETS) {
                    sum = sum.wrapping_add(std::hint::black_box(page[0]));
                }
                std::hint::black_box(sum);
                Ok(())
            }
            other => other,
        }
    }
}

const PAGE_OCTETS: usize = 4096;
const NAMES_MAX: usize = 1024;
const NAME_OCTETS: usize = 24;

/// What the handler knows of one map. Maps beyond [`NAMES_MAX`] have none; their fault is told
/// without a name.
struct Named {
    start: AtomicUsize,
    /// Zero: free.
    length: AtomicUsize,
    name: [AtomicU64; NAME_OCTETS / 8],
}

static NAMES: [Named; NAMES_MAX] = [const {
    Named {
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        name: [const { AtomicU64::new(0) }; NAME_OCTETS / 8],
    }
}; NAMES_MAX];

impl Named {
    /// Takes this slot for `map` if it is free.
    fn take(&self, map: &memmap2::Mmap, name: &str) -> bool {
        // usize::MAX marks a slot that is being filled; no address lies in it, since the start of
        // a free slot is stale only until it is stored below.
        if map.is_empty()
            || self
                .length
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        let mut padded = [b' '; NAME_OCTETS];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        for (word, octets) in self.name.iter().zip(padded.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(octets);
            word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
        }
        self.start.store(map.as_ptr() as usize, Ordering::Relaxed);
        self.length.store(map.len(), Ordering::Release);
        true
    }
}

/// Writes the name of the file that could not be read and ends the process. Only calls that a
/// signal handler may make.
fn tell_and_exit(address: usize) {
    let mut line =
        *b"storage: cannot read mapped file ........................ (SIGBUS); exit 70\n";
    let found = NAMES.iter().find(|named| {
        let length = named.length.load(Ordering::Acquire);
        address.wrapping_sub(named.start.load(Ordering::Relaxed)) < length
    });
    if let Some(named) = found {
        for (index, word) in named.name.iter().enumerate() {
            let at = 33 + index * 8;
            line[at..at + 8].copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }
    let _ = rustix::io::write(rustix::stdio::stderr(), &line);
    signal_hook::low_level::exit(70);
}

/// Installs the handler once for the process.
fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only loads atomics, writes to a descriptor and calls `_exit`, all of
        // which a signal handler may do; it never returns.
        let registered = unsafe {
            signal_hook_registry::register_sigaction(signal_hook::consts::SIGBUS, |info| {
                // SAFETY: the kernel fills the address for SIGBUS; it is read, not followed.
                tell_and_exit(info.si_addr() as usize);
            })
        };
        if let Err(error) = registered {
            log::warn!("no handler for SIGBUS: {error}");
        }
    });
}
