//! The tail: what was appended and is not yet on disk, and a little of what just got there.
//!
//! The loop fills one block after the other. A block that is handed to the flusher is frozen: both
//! threads read it, nobody writes it, and it comes back for reuse when its flush has answered.
//! Records never straddle blocks, so one record is one slice.

use std::collections::VecDeque;
use std::sync::Arc;

/// Octets of a block as it is allocated; a larger record gets a block of its own size.
pub(super) const BLOCK_OCTETS: usize = 512 << 10;
/// Octets that stay readable in memory after their flush.
const KEPT_OCTETS: usize = 1 << 20;
/// Blocks that stay readable in memory after their flush.
const KEPT_BLOCKS: usize = 64;
/// Buffers kept for reuse.
const POOL_MAX: usize = 4;

/// Consecutive octets of one segment.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) segment: u32,
    /// Where in the segment's file the block starts.
    pub(super) offset: u64,
    pub(super) octets: Vec<u8>,
}

impl Block {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.octets.len() as u64
    }

    /// The octets from `offset` of `segment` on, if they lie here.
    #[inline]
    fn find(&self, segment: u32, offset: u64) -> Option<&[u8]> {
        if self.segment != segment || offset < self.offset {
            return None;
        }
        self.octets
            .get((offset - self.offset) as usize..)
            .filter(|octets| !octets.is_empty())
    }
}

/// Blocks from the oldest that is still readable to the one being filled.
///
/// Invariant: `frozen` = flushed blocks, then blocks in flight, then blocks that wait.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) current: Block,
    frozen: VecDeque<Arc<Block>>,
    flushed: usize,
    in_flight: usize,
    flushed_octets: usize,
    unflushed_octets: usize,
    pool: Vec<Vec<u8>>,
}

impl Tail {
    pub(super) fn new() -> Self {
        Tail {
            current: Block {
                segment: 0,
                offset: 0,
                octets: Vec::new(),
            },
            frozen: VecDeque::new(),
            flushed: 0,
            in_flight: 0,
            flushed_octets: 0,
            unflushed_octets: 0,
            pool: Vec::new(),
        }
    }

    /// Octets that are not yet on disk.
    pub(super) fn unflushed_octets(&self) -> usize {
        self.unflushed_octets + self.current.octets.len()
    }

    /// Whether something was appended since the last [`Tail::hand_over`].
    pub(super) fn has_new(&self) -> bool {
        !self.current.octets.is_empty() || self.frozen.len() > self.flushed + self.in_flight
    }

    /// Whether a record of so many octets goes into the current block.
    #[inline]
    pub(super) fn fits(&self, octets: usize) -> bool {
        self.current.octets.capacity() - self.current.octets.len() >= octets
    }

    /// Freezes the current block and starts another at `offset` of `segment`, with room for at
    /// least `octets`.
    pub(super) fn turn_over(&mut self, segment: u32, offset: u64, octets: usize) {
        let next = if octets > BLOCK_OCTETS {
            Vec::with_capacity(octets)
        } else {
            self.pool
                .pop()
                .unwrap_or_else(|| Vec::with_capacity(BLOCK_OCTETS))
        };
        let next = Block {
            segment,
            offset,
            octets: next,
        };
        let block = std::mem::replace(&mut self.current, next);
        if block.octets.is_empty() {
            self.reuse(block.octets);
        } else {
            self.unflushed_octets += block.octets.len();
            self.frozen.push_back(Arc::new(block));
        }
    }

    /// The blocks that wait, for the flusher; they are in flight from now on.
    ///
    /// One hand-over is in flight at a time.
    pub(super) fn hand_over(&mut self) -> Vec<Arc<Block>> {
        debug_assert_eq!(self.in_flight, 0);
        if !self.current.octets.is_empty() {
            let (segment, end) = (self.current.segment, self.current.end());
            self.turn_over(segment, end, 0);
        }
        let waiting = self.frozen.iter().skip(self.flushed).map(Arc::clone);
        let waiting: Vec<_> = waiting.collect();
        self.in_flight = waiting.len();
        waiting
    }

    /// Segments of the blocks that the next [`Tail::hand_over`] gives, ascending, with repeats.
    pub(super) fn waiting_segments(&self) -> impl Iterator<Item = u32> {
        let frozen = self.frozen.iter().skip(self.flushed + self.in_flight);
        let current = (!self.current.octets.is_empty()).then_some(self.current.segment);
        frozen.map(|block| block.segment).chain(current)
    }

    /// What was handed over is on disk. `note` is told each block as (segment, start, end).
    pub(super) fn flushed(&mut self, mut note: impl FnMut(u32, u64, u64)) {
        for block in self.frozen.iter().skip(self.flushed).take(self.in_flight) {
            note(block.segment, block.offset, block.end());
            self.flushed_octets += block.octets.len();
            self.unflushed_octets -= block.octets.len();
        }
        self.flushed += std::mem::take(&mut self.in_flight);
        while self.flushed > KEPT_BLOCKS || (self.flushed_octets > KEPT_OCTETS && self.flushed > 0)
        {
            self.drop_oldest();
        }
    }

    /// Gives back what only serves readers of what was just written.
    pub(super) fn trim(&mut self) {
        while self.flushed > 0 {
            self.drop_oldest();
        }
        self.pool.truncate(1);
    }

    fn drop_oldest(&mut self) {
        if let Some(block) = self.frozen.pop_front() {
            self.flushed -= 1;
            self.flushed_octets -= block.octets.len();
            if let Ok(block) = Arc::try_unwrap(block) {
                self.reuse(block.octets);
            }
        }
    }

    fn reuse(&mut self, mut octets: Vec<u8>) {
        if octets.capacity() == BLOCK_OCTETS && self.pool.len() < POOL_MAX {
            octets.clear();
            self.pool.push(octets);
        }
    }

    /// The octets from `offset` of `segment` on, if they are still here.
    #[inline]
    pub(super) fn find(&self, segment: u32, offset: u64) -> Option<&[u8]> {
        if let Some(octets) = self.current.find(segment, offset) {
            return Some(octets);
        }
        let oldest = self.frozen.front()?;
        if (segment, offset) < (oldest.segment, oldest.offset) {
            return None;
        }
        let after = self
            .frozen
            .partition_point(|block| (block.segment, block.offset) <= (segment, offset));
        self.frozen.get(after - 1)?.find(segment, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_readable_from_append_until_they_are_trimmed() {
        let mut tail = Tail::new();
        tail.turn_over(1, 100, 0);
        tail.current.octets.extend_from_slice(b"abc");
        tail.turn_over(1, 103, 0);
        tail.current.octets.extend_from_slice(b"def");
        let check = |tail: &Tail, there: bool| {
            assert_eq!(tail.find(1, 101), there.then_some(&b"bc"[..]));
            assert_eq!(tail.find(1, 103), there.then_some(&b"def"[..]));
            assert_eq!((tail.find(1, 106), tail.find(2, 101)), (None, None));
        };
        check(&tail, true);
        assert_eq!(tail.unflushed_octets(), 6);
        let blocks = tail.hand_over();
        assert_eq!(
            blocks.iter().map(|b| b.offset).collect::<Vec<_>>(),
            [100, 103]
        );
        check(&tail, true);
        assert!(!tail.has_new());
        drop(blocks);
        tail.flushed(|_, _, _| {});
        assert_eq!(tail.unflushed_octets(), 0);
        check(&tail, true);
        tail.trim();
        check(&tail, false);
    }

    #[test]
    fn memory_is_bounded_and_buffers_come_back() {
        let mut tail = Tail::new();
        for turn in 0..1000_u64 {
            tail.turn_over(1, turn * 100_000, 0);
            tail.current.octets.resize(100_000, 1);
            drop(tail.hand_over());
            tail.flushed(|_, _, _| {});
            assert!(tail.flushed_octets <= KEPT_OCTETS && tail.pool.len() <= POOL_MAX);
        }
    }
}
