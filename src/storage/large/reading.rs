//! Bodies as they are read: a stretch at a time, the next one in advance.

use std::io;

use super::Loss;
use super::file::{LargeHandle, body_name, is_damage};
use crate::message::LargeBody;
use crate::storage::event::Event;
use crate::storage::files::Storage;
use crate::storage::jobs::Job;
use crate::storage::store::Store;

/// Octets of stretches that were read and not yet taken.
const STRETCHES_OCTETS_MAX: usize = 32 << 20;

/// What [`Store::read_large`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeRead {
    /// The octets were appended.
    Here,
    /// The keeper was asked; [`Event::LargeReady`] follows.
    Cold,
    /// They are damaged or gone; told by [`Event::Damage`].
    Lost,
}

#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) octets: u64,
    /// `None` while the keeper reads.
    pub(super) read: Option<io::Result<Vec<u8>>>,
}

impl<S: Storage> Store<S> {
    /// What the octets of a body are read from; none when it is known to be lost.
    pub fn large_handle(&mut self, body: LargeBody) -> Option<LargeHandle<S>> {
        let large = self.larges.bodies.get_mut(&body.file)?;
        if let Some(loss) = &mut large.loss {
            if *loss == Loss::Untold {
                *loss = Loss::Told;
                self.counters.lost += 1;
                let line = format!("{}: missing; its message is lost", body_name(body.file));
                self.events.push_back(Event::Damage(line));
            }
            return None;
        }
        Some(large.handle.clone())
    }

    /// Appends `octets` octets of a body from `offset` on to `into`, if the keeper has read them.
    /// The stretch behind is asked for in advance, since bodies are read in order.
    pub fn read_large(
        &mut self,
        handle: &LargeHandle<S>,
        offset: u64,
        octets: u64,
        into: &mut Vec<u8>,
    ) -> LargeRead {
        let body = handle.body();
        let at = self.larges.stretches.iter().position(|stretch| {
            (stretch.file, stretch.offset, stretch.octets) == (body.file, offset, octets)
        });
        let Some(at) = at else {
            self.ask_stretch(handle, offset, octets);
            return LargeRead::Cold;
        };
        if self.larges.stretches[at].read.is_none() {
            return LargeRead::Cold;
        }
        let stretch = self.larges.stretches.remove(at);
        match stretch.and_then(|stretch| stretch.read) {
            Some(Ok(read)) => {
                self.larges.stretches_octets -= read.len();
                into.extend_from_slice(&read);
                let next = offset + octets;
                if next < body.octets {
                    self.ask_stretch(handle, next, octets.min(body.octets - next));
                }
                LargeRead::Here
            }
            Some(Err(error)) => {
                let name = body_name(body.file);
                self.counters.lost += 1;
                // Asked again it is damaged still; what could not be read now may be read then.
                if is_damage(&error) {
                    self.larges.note_damage(body.file);
                }
                let line = format!("{name}: cannot be read: {error}");
                self.events.push_back(Event::Damage(line));
                LargeRead::Lost
            }
            None => LargeRead::Cold,
        }
    }

    fn ask_stretch(&mut self, handle: &LargeHandle<S>, offset: u64, octets: u64) {
        let larges = &mut self.larges;
        let file = handle.body().file;
        let asked = |s: &Stretch| (s.file, s.offset, s.octets) == (file, offset, octets);
        if larges.stretches.iter().any(asked) {
            return;
        }
        larges.stretches.push_back(Stretch {
            file,
            offset,
            octets,
            read: None,
        });
        self.jobs.push_back(Job::LargeRead {
            handle: handle.clone(),
            offset,
            octets,
        });
    }

    /// The keeper has read a stretch, or could not.
    pub(in crate::storage) fn stretch_read(
        &mut self,
        handle: &LargeHandle<S>,
        offset: u64,
        octets: u64,
        read: io::Result<Vec<u8>>,
    ) {
        let larges = &mut self.larges;
        let file = handle.body().file;
        // A body that is still being written cannot be read to its end yet: ask again.
        let incomplete = match larges.bodies.get(&file) {
            Some(large) => !large.complete,
            None => larges.unfinished.contains_key(&file),
        };
        let asked = |s: &Stretch| (s.file, s.offset, s.octets) == (file, offset, octets);
        let Some(at) = larges.stretches.iter().position(asked) else {
            return;
        };
        if incomplete && read.is_err() {
            larges.stretches.remove(at);
        } else {
            larges.stretches_octets += read.as_ref().map_or(0, Vec::len);
            larges.stretches[at].read = Some(read);
            self.events.push_back(Event::LargeReady { file });
        }
        // What nobody takes any more goes, the oldest first.
        while self.larges.stretches_octets > STRETCHES_OCTETS_MAX {
            let Some(stretch) = self.larges.stretches.pop_front() else {
                break;
            };
            if let Some(Ok(octets)) = stretch.read {
                self.larges.stretches_octets -= octets.len();
            }
            self.events
                .push_back(Event::LargeReady { file: stretch.file });
        }
    }
}
