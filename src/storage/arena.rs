//! The transient arena: messages that need no log, in small blocks of memory.
//!
//! A block is filled from its start; when no entry needs it any more it is used again, the last one
//! first, so that the common case (published, delivered, gone) goes round in a few warm pages.
//! Full blocks beyond a watermark are written to unlinked files and read back through a map.

use std::sync::{Arc, OnceLock};

use super::files::Storage;
use super::jobs::Job;
use super::record_codec as codec;
use crate::broker::record::QueueId;
use crate::message::{Message, MessageRef};

/// Octets of a block; a larger record gets a block of its own size.
pub(super) const BLOCK_OCTETS: usize = 256 << 10;
/// Octets of blocks on their way to a file beyond which publishers pause.
const SPILLING_OCTETS_MAX: usize = 4 << 20;
/// Buffers kept for reuse.
const POOL_MAX: usize = 4;

/// A file that takes spilled blocks, in slots of [`BLOCK_OCTETS`]; made by the keeper.
#[derive(Debug)]
pub(super) struct SpillFile<S: Storage> {
    pub(super) file: OnceLock<(S::File, S::Map)>,
    /// Octets of the file.
    pub(super) octets: u64,
}

/// Where a spilled block lies.
#[derive(Debug)]
pub(super) struct SpillSlot<S: Storage> {
    pub(super) file: Arc<SpillFile<S>>,
    /// Index into [`Arena::files`].
    file_index: usize,
    pub(super) offset: u64,
}

impl<S: Storage> Clone for SpillSlot<S> {
    fn clone(&self) -> Self {
        SpillSlot {
            file: Arc::clone(&self.file),
            ..*self
        }
    }
}

#[derive(Debug)]
enum State<S: Storage> {
    Free,
    Memory(Vec<u8>),
    /// The keeper writes it; read from memory meanwhile.
    Spilling(Arc<Vec<u8>>, SpillSlot<S>),
    /// In the file; counts as warm until this second, `u32::MAX` while the keeper populates it.
    Spilled(SpillSlot<S>, u32, u64),
}

#[derive(Debug)]
struct Block<S: Storage> {
    state: State<S>,
    live: u32,
}

#[derive(Debug)]
struct OpenFile<S: Storage> {
    file: Arc<SpillFile<S>>,
    free: Vec<u32>,
    slots: u32,
}

/// Where the octets of an arena block are.
pub(super) enum Place<'a, S: Storage> {
    /// In memory.
    Memory(&'a [u8]),
    /// In a spill file: slot, until which second it is warm (`u32::MAX` while it is being
    /// populated), octets of the block.
    Spilled(&'a SpillSlot<S>, &'a mut u32, u64),
}

/// A full block that should be written out.
pub(super) struct Spill<S: Storage> {
    pub(super) block: u32,
    pub(super) octets: Arc<Vec<u8>>,
    pub(super) slot: SpillSlot<S>,
}

/// All transient records.
#[derive(Debug)]
pub(super) struct Arena<S: Storage> {
    blocks: Vec<Block<S>>,
    free: Vec<u32>,
    current: Option<u32>,
    pool: Vec<Vec<u8>>,
    /// Octets of full blocks in memory.
    sealed_octets: usize,
    /// Octets of full blocks that the keeper is writing.
    spilling_octets: usize,
    watermark_octets: usize,
    files: Vec<Option<OpenFile<S>>>,
    file_octets: u64,
    /// Files of which no slot is taken any more, for the keeper to close.
    emptied: Vec<Arc<SpillFile<S>>>,
    /// Full blocks in memory that a failed write left there.
    unspilled: Vec<u32>,
}

impl<S: Storage> Arena<S> {
    pub(super) fn new(watermark_octets: usize, file_octets: u64) -> Self {
        Arena {
            blocks: Vec::new(),
            free: Vec::new(),
            current: None,
            pool: Vec::new(),
            sealed_octets: 0,
            spilling_octets: 0,
            watermark_octets,
            files: Vec::new(),
            file_octets: file_octets.max(BLOCK_OCTETS as u64),
            emptied: Vec::new(),
            unspilled: Vec::new(),
        }
    }

    /// Octets of memory that full blocks take.
    pub(super) fn sealed_octets(&self) -> usize {
        self.sealed_octets
    }

    /// Whether the keeper is so far behind with writing blocks out that nothing more should come:
    /// what it has in hand is memory, too.
    #[inline]
    pub(super) fn is_behind(&self) -> bool {
        self.spilling_octets > SPILLING_OCTETS_MAX
    }

    /// Whether blocks are to be written that are not.
    pub(super) fn waits(&self) -> bool {
        self.spilling_octets > 0
            || (!self.unspilled.is_empty() && self.sealed_octets > self.watermark_octets)
    }

    /// Writes a record for `holders` entries. The second value is a block that was filled up by
    /// the records before and is to be handed to the keeper.
    #[inline]
    pub(super) fn keep(
        &mut self,
        arrived_ms: u64,
        message: &Message<'_>,
        holders: u32,
    ) -> (MessageRef, u32, Option<Spill<S>>) {
        let no_queues: &[(QueueId, u64)] = &[];
        let needed = codec::record_octets(codec::message_octets(message, 0));
        let mut spill = None;
        let index = match self.current {
            Some(index) if self.fits(index, needed) => index,
            _ => {
                spill = self.start_block(needed);
                self.current.unwrap_or(0)
            }
        };
        let block = &mut self.blocks[index as usize];
        let State::Memory(octets) = &mut block.state else {
            unreachable!("the current block is in memory");
        };
        let start = codec::begin(octets);
        let kind = codec::encode_message(octets, arrived_ms, message, no_queues, 0);
        let record_octets = codec::finish_unchecked(octets, start, 0, kind, false);
        block.live += holders;
        let at = MessageRef {
            segment: index | MessageRef::TRANSIENT,
            place: (start / codec::ALIGNMENT) as u32,
        };
        (at, record_octets, spill)
    }

    #[inline]
    fn fits(&self, index: u32, needed: usize) -> bool {
        match &self.blocks[index as usize].state {
            State::Memory(octets) => octets.capacity() - octets.len() >= needed,
            _ => false,
        }
    }

    /// Makes a block with room for `needed` octets the current one. The full one before it is
    /// returned when memory holds enough full blocks already.
    fn start_block(&mut self, needed: usize) -> Option<Spill<S>> {
        let spill = self.current.take().and_then(|index| self.seal(index));
        let buffer = if needed > BLOCK_OCTETS {
            Vec::with_capacity(needed)
        } else {
            self.pool
                .pop()
                .unwrap_or_else(|| Vec::with_capacity(BLOCK_OCTETS))
        };
        let block = Block {
            state: State::Memory(buffer),
            live: 0,
        };
        self.current = Some(if let Some(index) = self.free.pop() {
            self.blocks[index as usize] = block;
            index
        } else {
            self.blocks.push(block);
            (self.blocks.len() - 1) as u32
        });
        spill
    }

    fn seal(&mut self, index: u32) -> Option<Spill<S>> {
        let block = &self.blocks[index as usize];
        let State::Memory(octets) = &block.state else {
            return None;
        };
        if block.live == 0 {
            self.free_block(index, false);
            return None;
        }
        let length = octets.len();
        self.sealed_octets += length;
        if self.sealed_octets <= self.watermark_octets {
            return None;
        }
        self.spill(index)
    }

    /// Takes a full block out of the watermark's count and finds it a place in a file.
    fn spill(&mut self, index: u32) -> Option<Spill<S>> {
        let State::Memory(octets) = &mut self.blocks[index as usize].state else {
            return None;
        };
        let octets = std::mem::take(octets);
        self.sealed_octets -= octets.len();
        self.spilling_octets += octets.len();
        let slot = self.take_slot(octets.len() as u64);
        let octets = Arc::new(octets);
        self.blocks[index as usize].state = State::Spilling(Arc::clone(&octets), slot.clone());
        Some(Spill {
            block: index,
            octets,
            slot,
        })
    }

    fn take_slot(&mut self, octets: u64) -> SpillSlot<S> {
        let jumbo = octets > BLOCK_OCTETS as u64;
        if !jumbo {
            for (file_index, open) in self.files.iter_mut().enumerate() {
                if let Some(open) = open
                    && let Some(slot) = open.free.pop()
                {
                    return SpillSlot {
                        file: Arc::clone(&open.file),
                        file_index,
                        offset: u64::from(slot) * BLOCK_OCTETS as u64,
                    };
                }
            }
        }
        let file_octets = if jumbo { octets } else { self.file_octets };
        let slots = if jumbo {
            1
        } else {
            (file_octets / BLOCK_OCTETS as u64) as u32
        };
        let open = OpenFile {
            file: Arc::new(SpillFile {
                file: OnceLock::new(),
                octets: file_octets,
            }),
            free: (1..slots).rev().collect(),
            slots,
        };
        let file = Arc::clone(&open.file);
        let vacant = self.files.iter().position(Option::is_none);
        let file_index = vacant.unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        self.files[file_index] = Some(open);
        SpillSlot {
            file,
            file_index,
            offset: 0,
        }
    }

    fn give_slot(&mut self, slot: &SpillSlot<S>) {
        let Some(open) = &mut self.files[slot.file_index] else {
            return;
        };
        open.free.push((slot.offset / BLOCK_OCTETS as u64) as u32);
        if open.free.len() as u32 == open.slots
            && let Some(open) = self.files[slot.file_index].take()
        {
            self.emptied.push(open.file);
        }
    }

    /// The files that nothing lies in any more. They are the keeper's to close: that frees their
    /// space on the disk, which takes milliseconds each, and longer when the disk is busy.
    pub(super) fn take_emptied(&mut self) -> Option<Job<S>> {
        (!self.emptied.is_empty()).then(|| Job::CloseSpills {
            files: std::mem::take(&mut self.emptied),
        })
    }

    /// Those files that blocks may be written to.
    #[cfg(test)]
    pub(super) fn open_files(&self) -> Vec<std::sync::Weak<SpillFile<S>>> {
        let open = self.files.iter().flatten();
        open.map(|open| Arc::downgrade(&open.file)).collect()
    }

    /// The keeper has answered for a block: written, or not for lack of space.
    pub(super) fn spilled(&mut self, index: u32, written: bool, now_s: u32) {
        let block = &mut self.blocks[index as usize];
        let State::Spilling(octets, slot) = std::mem::replace(&mut block.state, State::Free) else {
            debug_assert!(false, "answers come for blocks that were handed out");
            return;
        };
        self.spilling_octets -= octets.len();
        if written && block.live > 0 {
            let length = octets.len() as u64;
            block.state = State::Spilled(slot, now_s + super::segment::WARM_S, length);
            self.recycle(octets);
        } else {
            self.give_slot(&slot);
            if self.blocks[index as usize].live == 0 {
                self.recycle(octets);
                self.free.push(index);
                return;
            }
            let octets = Arc::try_unwrap(octets).unwrap_or_else(|octets| (*octets).clone());
            self.sealed_octets += octets.len();
            self.blocks[index as usize].state = State::Memory(octets);
            self.unspilled.push(index);
        }
    }

    /// One of the blocks that could not be written, to be tried again.
    pub(super) fn retry_spill(&mut self) -> Option<Spill<S>> {
        while let Some(index) = self.unspilled.pop() {
            let block = &self.blocks[index as usize];
            if block.live > 0 && self.current != Some(index) {
                if self.sealed_octets <= self.watermark_octets {
                    self.unspilled.push(index);
                    return None;
                }
                if let Some(spill) = self.spill(index) {
                    return Some(spill);
                }
            }
        }
        None
    }

    fn recycle(&mut self, octets: Arc<Vec<u8>>) {
        if let Ok(octets) = Arc::try_unwrap(octets) {
            self.pool_buffer(octets);
        }
    }

    fn pool_buffer(&mut self, mut octets: Vec<u8>) {
        if octets.capacity() == BLOCK_OCTETS && self.pool.len() < POOL_MAX {
            octets.clear();
            self.pool.push(octets);
        }
    }

    /// Takes away one entry that needed the record at `at`.
    #[inline]
    pub(super) fn release(&mut self, at: MessageRef) {
        let index = at.segment & !MessageRef::TRANSIENT;
        let Some(block) = self.blocks.get_mut(index as usize) else {
            debug_assert!(false, "entries name blocks that exist");
            return;
        };
        debug_assert!(block.live > 0, "each entry is released once");
        block.live = block.live.saturating_sub(1);
        if block.live == 0 {
            if self.current == Some(index) {
                if let State::Memory(octets) = &mut block.state {
                    octets.clear();
                }
            } else {
                self.free_block(index, true);
            }
        }
    }

    fn free_block(&mut self, index: u32, sealed: bool) {
        let block = &mut self.blocks[index as usize];
        match std::mem::replace(&mut block.state, State::Free) {
            State::Memory(octets) => {
                if sealed {
                    self.sealed_octets -= octets.len();
                    self.unspilled.retain(|&other| other != index);
                }
                self.pool_buffer(octets);
            }
            // Freed when the keeper answers.
            spilling @ State::Spilling(..) => {
                block.state = spilling;
                return;
            }
            State::Spilled(slot, ..) => self.give_slot(&slot),
            State::Free => return,
        }
        self.free.push(index);
    }

    /// Where the block of `at` is.
    #[inline]
    pub(super) fn find(&mut self, at: MessageRef) -> Option<Place<'_, S>> {
        let index = at.segment & !MessageRef::TRANSIENT;
        Some(match &mut self.blocks.get_mut(index as usize)?.state {
            State::Memory(octets) => Place::Memory(octets),
            State::Spilling(octets, _) => Place::Memory(octets),
            State::Spilled(slot, warm_until_s, octets) => {
                Place::Spilled(slot, warm_until_s, *octets)
            }
            State::Free => return None,
        })
    }

    /// Sets until which second the spilled block counts as warm.
    pub(super) fn set_warm_until(&mut self, block: u32, until_s: u32) {
        if let Some(Block {
            state: State::Spilled(_, warm_until_s, _),
            ..
        }) = self.blocks.get_mut(block as usize)
        {
            *warm_until_s = until_s;
        }
    }
}
