//! The file of a large body.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::LargeBody;
use crate::storage::files::{Storage, read_exact_at, write_all_at};

/// Octets that have a checksum of their own.
pub(super) const CHUNK_OCTETS: usize = 64 << 10;

/// What the name of a body's file ends with when it is kept aside.
pub(in crate::storage) const ASIDE: &str = ".damaged";

/// Name of the file of body `file`.
pub(in crate::storage) fn body_name(file: u64) -> String {
    format!("{file:016x}.body")
}

/// Name under which the file of a body is kept for a person to look at.
pub(in crate::storage) fn aside_name(name: &str) -> String {
    format!("{name}{ASIDE}")
}

/// The number in the name of a body's file, if it is one.
pub(in crate::storage) fn number_in_body_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".body")?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())?
        .filter(|&file| body_name(file) == name)
}

/// The file of a large body. As long as a clone lives the body can be read, even if its message was
/// settled meanwhile.
///
/// One that has a name and lies there whole is open only while it is read: there may be more bodies
/// than descriptors.
#[derive(Clone, Debug)]
pub struct LargeHandle<S: Storage>(Arc<LargeFile<S>>);

#[derive(Debug)]
struct LargeFile<S: Storage> {
    body: LargeBody,
    /// Whether it has a name: durable bodies do.
    named: bool,
    /// Checksum of its table, when it was found at the start and not yet read.
    table_crc: Option<u32>,
    /// Of the keeper alone, one job at a time.
    opened: Mutex<Opened<S>>,
}

#[derive(Debug)]
struct Opened<S: Storage> {
    file: Option<Arc<S::File>>,
    /// The file was begun.
    is_made: bool,
    /// It has no name, or none any more: nobody could open it again.
    is_nameless: bool,
    /// Its table is the one that its record means.
    is_checked: bool,
}

impl<S: Storage> LargeHandle<S> {
    /// One that is about to be written.
    pub(super) fn new(body: LargeBody, named: bool) -> Self {
        Self::with(body, named, None)
    }

    /// One that lies there since an earlier run.
    ///
    /// * `table_crc`: of its table of checksums.
    pub(super) fn found(body: LargeBody, table_crc: u32) -> Self {
        Self::with(body, true, Some(table_crc))
    }

    fn with(body: LargeBody, named: bool, table_crc: Option<u32>) -> Self {
        LargeHandle(Arc::new(LargeFile {
            body,
            named,
            table_crc,
            opened: Mutex::new(Opened {
                file: None,
                is_made: false,
                is_nameless: !named,
                is_checked: table_crc.is_none(),
            }),
        }))
    }

    /// The body that lies in it.
    pub(super) fn body(&self) -> LargeBody {
        self.0.body
    }

    /// Whether it has a name: durable bodies do.
    pub(super) fn is_named(&self) -> bool {
        self.0.named
    }

    /// How many have the handle.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The file, opened, or made if that is wanted.
    ///
    /// * `keep`: it stays open.
    fn file(&self, storage: &S, create: bool, keep: bool) -> io::Result<Arc<S::File>> {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &opened.file {
            return Ok(Arc::clone(file));
        }
        let name = body_name(self.0.body.file);
        let file = if !self.0.named {
            storage.create_unlinked()?
        } else if create && !opened.is_made {
            storage.create(&name, 0)?
        } else {
            storage.open(&name)?
        };
        opened.is_made |= create;
        let file = Arc::new(file);
        if keep || opened.is_nameless {
            opened.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    /// Whether it takes a descriptor.
    #[cfg(test)]
    pub(in crate::storage) fn is_open(&self) -> bool {
        let opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.file.is_some()
    }

    /// Lets go of a file that can be opened again.
    fn close(&self) {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.is_nameless {
            opened.file = None;
        }
    }

    /// Removes the name of the file. Who still has the handle can read on: a file that is not open
    /// is opened before its name goes.
    pub(in crate::storage) fn remove(&self, storage: &S) -> io::Result<()> {
        if Arc::strong_count(&self.0) > 1 {
            match self.file(storage, false, true) {
                // What is still to be written must not make the name again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.file(storage, true, true)?;
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.is_nameless = true;
        }
        match storage.remove(&body_name(self.0.body.file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes part of the body; syncs file and name if that is wanted. Blocks.
    pub(in crate::storage) fn write(
        &self,
        storage: &S,
        offset: u64,
        octets: &[u8],
        sync: bool,
    ) -> io::Result<()> {
        let file = self.file(storage, true, true)?;
        write_all_at(storage, &file, offset, octets)?;
        if sync {
            storage.sync(&file)?;
            storage.sync_dir()?;
        }
        // Behind the body lies its table, which is written with the last of it.
        if offset + octets.len() as u64 > self.0.body.octets {
            self.close();
        }
        Ok(())
    }

    /// Once: whether the file is that of this body, and not another's with checksums of its own.
    fn check_table(&self, storage: &S, file: &S::File) -> io::Result<()> {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.is_checked {
            return Ok(());
        }
        let body_octets = self.0.body.octets;
        let mut table = vec![0; body_octets.div_ceil(CHUNK_OCTETS as u64) as usize * 4];
        read_exact_at(storage, file, body_octets, &mut table)?;
        if self.0.table_crc != Some(crc32fast::hash(&table)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its table of checksums is damaged, or another body lies there",
            ));
        }
        opened.is_checked = true;
        Ok(())
    }

    /// Reads and checks `octets` octets at `offset`. Blocks.
    pub(in crate::storage) fn read(
        &self,
        storage: &S,
        offset: u64,
        octets: u64,
    ) -> io::Result<Vec<u8>> {
        let file = self.file(storage, false, false)?;
        self.check_table(storage, &file)?;
        let body_octets = self.0.body.octets;
        let chunk = CHUNK_OCTETS as u64;
        let first = offset / chunk;
        let end = (offset + octets).min(body_octets);
        let last = end.div_ceil(chunk);
        let start = first * chunk;
        let mut whole = vec![0; ((last * chunk).min(body_octets) - start) as usize];
        read_exact_at(storage, &file, start, &mut whole)?;
        let mut table = vec![0; (last - first) as usize * 4];
        read_exact_at(storage, &file, body_octets + first * 4, &mut table)?;
        for (chunk, crc) in whole.chunks(CHUNK_OCTETS).zip(table.chunks_exact(4)) {
            if crc32fast::hash(chunk).to_be_bytes() != crc {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a large body is damaged",
                ));
            }
        }
        whole.truncate((end - start) as usize);
        whole.drain(..(offset - start) as usize);
        Ok(whole)
    }
}

/// A body that nobody needs any more.
#[derive(Debug)]
pub(in crate::storage) struct Gone<S: Storage> {
    pub(super) handle: LargeHandle<S>,
    pub(super) is_damaged: bool,
}

impl<S: Storage> Gone<S> {
    /// Removes its file; one that is damaged is kept aside under another name. Blocks.
    pub(in crate::storage) fn remove(&self, storage: &S) -> io::Result<()> {
        if !self.is_damaged {
            return self.handle.remove(storage);
        }
        let name = body_name(self.handle.body().file);
        match storage.rename(&name, &aside_name(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => storage.sync_dir(),
        }
    }
}

/// Whether what was read is not what was written.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}
