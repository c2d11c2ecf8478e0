//! What the store does besides: indexes of sealed segments, checkpoints, compaction, and giving
//! dead segments back.

use std::io;

use super::answers::RETRY_US;
use super::checkpoint::{Encoder, Head};
use super::compaction::{Liveness, Rewritten};
use super::event::Event;
use super::files::Storage;
use super::files::is_shortage;
use super::jobs::{Helpers, Job, KeeperJob};
use super::record_codec::Seed;
use super::segment::{Stage, index_name, segment_name};
use super::store::Store;
use crate::broker::Batch;
use crate::broker::record::QueueId;
use crate::clock::{Deadline, Now};
use crate::planted::{Fault, planted};

/// Queues that a checkpoint takes in one turn.
const QUEUES_A_TURN: usize = 256;
/// Ranges of settled sequences that a checkpoint takes in one turn, unless one queue has more.
const RANGES_A_TURN: usize = 8192;
/// Dead segments whose files are kept for reuse.
const RECYCLABLE_MAX: usize = 2;
/// Full segments that may wait for their index.
const UNINDEXED_MAX: usize = 1;

/// A checkpoint on its way.
#[derive(Debug)]
pub(super) struct Checkpointing {
    covers_lsn: u64,
    /// Segments that it leaves out, to be given back when it is in its place.
    dead: Vec<u32>,
    stage: CheckpointStage,
}

#[derive(Debug)]
enum CheckpointStage {
    /// Queues from this slot on are still to be taken.
    Taking { encoder: Encoder, slot: usize },
    /// All are taken; what they may reflect is not yet on stable storage.
    Waiting { octets: Vec<u8>, after: Batch },
    /// With the keeper.
    Writing { octets: u64 },
}

/// A compaction that waits for the settlements it counts on.
#[derive(Debug)]
pub(super) struct Compacting {
    number: u32,
    /// `None` when the keeper has it.
    liveness: Option<Liveness>,
    /// Batch after which it may begin.
    after: Batch,
}

impl<S: Storage> Store<S> {
    /// Takes a checkpoint soon: before a clean stop, so that the next start has less to do.
    pub fn checkpoint(&mut self) {
        self.checkpoint_wanted = true;
    }

    /// Whether a checkpoint is wanted or on its way.
    pub fn checkpoint_pending(&self) -> bool {
        self.checkpoint_wanted || self.checkpointing.is_some()
    }

    /// Whether everything is on stable storage and no checkpoint is on its way: the moment to stop.
    pub fn is_at_rest(&self) -> bool {
        self.failed.is_some()
            || (self.flushed() >= self.newest_batch() && !self.checkpoint_pending())
    }

    /// Called when a store was filled with what its files say.
    pub(super) fn after_recovery(&mut self) {
        for number in self.segments.numbers() {
            self.consider(number);
        }
        self.remove_superfluous();
        self.prepare_next();
    }

    /// Puts a segment on the list of those that may go or be rewritten, if it is one.
    #[inline]
    pub(super) fn consider(&mut self, number: u32) {
        let Some(segment) = self.segments.get_mut(number) else {
            return;
        };
        if segment.stage != Stage::Indexed || segment.compacting {
            return;
        }
        if segment.live_entries == 0 {
            if !segment.is_dead {
                segment.is_dead = true;
                self.dead_segments += 1;
            }
        } else if !segment.candidate && segment.worth_a_look() {
            segment.candidate = true;
            self.candidates.push_back(number);
        }
    }

    /// One turn's share of all that is not urgent.
    pub(super) fn background(&mut self, now: Now) {
        self.next_indexes(now);
        // Compaction before checkpoints, since it may find that it wants one.
        self.next_compaction(now);
        self.next_checkpoint();
        self.next_checkpoint();
    }

    /// Whether the next turn has some of it to do even if nothing else happens.
    pub(super) fn background_waits(&self) -> bool {
        match &self.checkpointing {
            None => self.checkpoint_is_due() && self.retry_at.is_none(),
            Some(checkpointing) => matches!(checkpointing.stage, CheckpointStage::Taking { .. }),
        }
    }

    /// When the next turn is wanted for any of it, if that is not at once.
    pub(super) fn background_deadline(&self) -> Option<Deadline> {
        let index = self.unindexed.front().map(|&(_, due)| due);
        let idle = self.candidates.is_empty() || self.compacting.is_some();
        // Nothing is looked at while something waits to be tried again.
        let look = self.look_at.filter(|_| !idle).max(self.retry_at);
        index.into_iter().chain(look).min()
    }

    // ---- indexes --------------------------------------------------------------------------

    pub(super) fn segment_written(&mut self, number: u32) {
        if let Some(segment) = self.segments.get_mut(number) {
            segment.stage = Stage::Written;
            // The keeper reads it through the map, as everybody does from now on.
            segment.file = None;
            // A queue that is behind by more than a segment will not have emptied this one soon.
            let is_consumed = segment.live_share < segment.used / 8 * 7;
            let rests_us = if is_consumed {
                self.config.look_ms * 4000
            } else {
                0
            };
            self.unindexed
                .push_back((number, self.now.after_us(rests_us)));
        }
        self.sealed_octets += self.segments.get(number).map_or(0, |segment| segment.used);
    }

    /// Has indexes written of segments that have waited. Those that nobody needs any more get none:
    /// a short queue's segments come and go without the keeper ever reading them.
    fn next_indexes(&mut self, now: Now) {
        while let Some(&(number, due)) = self.unindexed.front() {
            let segment = self.segments.get(number);
            let used = segment.map_or(0, |segment| segment.used);
            let is_dead = segment.is_none_or(|segment| segment.live_entries == 0);
            let is_due =
                self.checkpoint_wanted || self.unindexed.len() > UNINDEXED_MAX || due.is_due(now);
            if is_dead {
                self.segment_indexed(number, Ok(Vec::new()));
            } else if is_due {
                self.jobs.push_back(Job::Index { number, used });
            } else {
                return;
            }
            self.unindexed.pop_front();
        }
    }

    pub(super) fn segment_indexed(&mut self, number: u32, result: io::Result<Vec<String>>) {
        match result {
            Ok(damage) => self.events.extend(damage.into_iter().map(Event::Damage)),
            // The next start reads the segment itself.
            Err(error) => log::debug!("no index for {}: {error}", segment_name(number)),
        }
        if let Some(segment) = self.segments.get_mut(number) {
            segment.stage = Stage::Indexed;
        }
        self.consider(number);
    }

    // ---- checkpoints ----------------------------------------------------------------------

    fn checkpoint_is_due(&self) -> bool {
        self.checkpoint_wanted
            || self.dead_segments > 0
            || (self.sealed_octets > 0 && self.sealed_octets > 4 * self.checkpoint_octets)
    }

    fn next_checkpoint(&mut self) {
        match &mut self.checkpointing {
            None => {
                if self.checkpoint_is_due() && self.retry_at.is_none() {
                    self.begin_checkpoint();
                }
            }
            Some(Checkpointing {
                stage: CheckpointStage::Waiting { octets, after },
                ..
            }) => {
                if Batch(self.flushed_batch) >= *after || planted(Fault::CheckpointBeforeFlush) {
                    let octets = std::mem::take(octets);
                    self.write_checkpoint(octets);
                }
            }
            Some(Checkpointing {
                stage: CheckpointStage::Taking { .. },
                ..
            }) => self.take_queues(),
            Some(_) => {}
        }
    }

    fn begin_checkpoint(&mut self) {
        self.checkpoint_wanted = false;
        self.sealed_octets = 0;
        let covers_lsn = self.next_lsn - 1;
        let seed = Seed(self.random.draw());
        let (mut dead, mut kept) = (Vec::new(), Vec::new());
        let filling = self.filling.map(|filling| filling.number);
        for number in self.segments.numbers() {
            let Some(segment) = self.segments.get(number) else {
                continue;
            };
            let gone = segment.live_entries == 0
                && segment.stage == Stage::Indexed
                && !segment.compacting
                && Some(number) != filling;
            if gone {
                dead.push(number);
            } else if segment.first_lsn <= covers_lsn {
                kept.push((number, segment.last_lsn.min(covers_lsn)));
            }
        }
        self.dead_segments = 0;
        let head = Head {
            covers_lsn,
            stable_lsn: self.flushed_lsn,
            next_number: self.next_number,
            queue_id_next: self.ledgers.id_next,
        };
        self.checkpointing = Some(Checkpointing {
            covers_lsn,
            dead,
            stage: CheckpointStage::Taking {
                encoder: Encoder::new(seed, head, &kept),
                slot: 0,
            },
        });
        self.take_queues();
    }

    fn take_queues(&mut self) {
        let Some(Checkpointing { stage, .. }) = &mut self.checkpointing else {
            return;
        };
        let CheckpointStage::Taking { encoder, slot } = stage else {
            return;
        };
        let (mut queues, mut ranges) = (Vec::new(), 0);
        let mut done = true;
        for (index, queue, ledger) in self.ledgers.iter_from(*slot) {
            if queues.len() >= QUEUES_A_TURN || ranges >= RANGES_A_TURN {
                *slot = index;
                done = false;
                break;
            }
            ranges += ledger.settled.ranges();
            queues.push((queue, ledger));
        }
        if !queues.is_empty() {
            encoder.queues(&queues);
        }
        if done {
            let after = self.newest_batch();
            let Some(Checkpointing { stage, .. }) = &mut self.checkpointing else {
                return;
            };
            let CheckpointStage::Taking { encoder, .. } = stage else {
                return;
            };
            let empty = Encoder::new(Seed(0), Head::default(), &[]);
            let encoder = std::mem::replace(encoder, empty);
            *stage = CheckpointStage::Waiting {
                octets: encoder.finish(),
                // Whatever the queues reflect is in this batch or an earlier one, now that this
                // turn's settlements are written: records, and definitions that say that a queue
                // is gone.
                after,
            };
        }
    }

    fn write_checkpoint(&mut self, octets: Vec<u8>) {
        if let Some(checkpointing) = &mut self.checkpointing {
            checkpointing.stage = CheckpointStage::Writing {
                octets: octets.len() as u64,
            };
            if planted(Fault::RecycleEarly) {
                let dead = std::mem::take(&mut checkpointing.dead);
                self.retire(&dead);
            }
            self.jobs.push_back(Job::Checkpoint { octets });
        }
    }

    pub(super) fn checkpoint_written(&mut self, result: io::Result<()>) {
        let Some(checkpointing) = self.checkpointing.take() else {
            return;
        };
        match result {
            Ok(()) => {
                self.covered_lsn = checkpointing.covers_lsn;
                if let CheckpointStage::Writing { octets } = checkpointing.stage {
                    self.checkpoint_octets = octets;
                }
                self.counters.checkpoints += 1;
                self.retire(&checkpointing.dead);
            }
            Err(error) => {
                // The one before still holds; nothing was given back.
                if !is_shortage(&error) {
                    let line = format!("cannot write a checkpoint: {error}");
                    self.events.push_back(Event::Damage(line));
                }
                self.checkpoint_wanted = true;
                self.retry_at = Some(self.now.after_us(RETRY_US));
            }
        }
    }

    /// Gives dead segments back: a checkpoint that does not name them is in its place.
    fn retire(&mut self, dead: &[u32]) {
        for &number in dead {
            let Some(segment) = self.segments.remove(number) else {
                continue;
            };
            self.counters.retired += 1;
            let mut names = vec![index_name(number)];
            let is_useful =
                segment.octets >= self.config.segment_octets_min && segment.rewritten == 0;
            if is_useful {
                names.extend(self.keep_for_reuse(number, segment.octets));
            } else {
                names.push(segment_name(number));
            }
            self.jobs.push_back(Job::Remove {
                names,
                map: segment.map,
            });
        }
    }

    /// Keeps the file of a dead segment, unless there are enough; then the name of the smallest,
    /// which is to be removed. Small ones are followed by larger ones under load: made longer they
    /// would cost as much as new ones.
    fn keep_for_reuse(&mut self, number: u32, octets: u64) -> Option<String> {
        if self.disk_full || self.disk_low {
            return Some(segment_name(number));
        }
        self.recyclable.push((octets, segment_name(number)));
        self.recyclable.sort_by_key(|(octets, _)| *octets);
        let is_too_many = self.recyclable.len() > RECYCLABLE_MAX;
        is_too_many.then(|| self.recyclable.remove(0).1)
    }

    /// Removes the files that are kept for reuse: somebody needs the room.
    pub(super) fn give_up_spares(&mut self) {
        if !self.recyclable.is_empty() {
            let names = self.recyclable.drain(..).map(|(_, name)| name).collect();
            self.jobs.push_back(Job::Remove { names, map: None });
        }
    }

    /// Removes files beyond those that are kept for reuse.
    fn remove_superfluous(&mut self) {
        if self.recyclable.len() > RECYCLABLE_MAX {
            let names = self.recyclable.split_off(RECYCLABLE_MAX);
            let names = names.into_iter().map(|(_, name)| name).collect();
            self.jobs.push_back(Job::Remove { names, map: None });
        }
    }

    // ---- compaction -----------------------------------------------------------------------

    fn next_compaction(&mut self, now: Now) {
        if let Some(compacting) = &mut self.compacting {
            if compacting.after <= Batch(self.flushed_batch)
                && let Some(liveness) = compacting.liveness.take()
            {
                let number = compacting.number;
                self.jobs.push_back(Job::Compact {
                    number,
                    used: self.segments.get(number).map_or(0, |segment| segment.used),
                    liveness,
                });
            }
            return;
        }
        let waits = |at: Option<Deadline>| at.is_some_and(|at| !at.is_due(now));
        if self.candidates.is_empty() || waits(self.retry_at) || waits(self.look_at) {
            return;
        }
        let look_us = self.config.look_ms * 1000;
        self.look_at = (look_us > 0).then(|| now.after_us(look_us));
        if !self.wants_compaction() && !self.disk_full && !self.disk_low {
            return;
        }
        let (mut most, mut wants_checkpoint) = (None, false);
        for _ in 0..self.candidates.len() {
            let Some(number) = self.candidates.pop_front() else {
                break;
            };
            let Some(segment) = self.segments.get_mut(number) else {
                continue;
            };
            if segment.live_entries == 0 || !segment.worth_a_look() {
                segment.candidate = false;
                continue;
            }
            self.candidates.push_back(number);
            if segment.is_passing(now.monotonic_us, look_us) {
                continue;
            }
            if segment.last_lsn > self.covered_lsn {
                wants_checkpoint = true;
                continue;
            }
            let waste = segment.octets - segment.live_share.min(segment.octets);
            most = most.max(Some((waste, number)));
        }
        match most {
            Some((_, number)) => {
                self.candidates.retain(|&candidate| candidate != number);
                self.begin_compaction(number);
            }
            None => self.checkpoint_wanted |= wants_checkpoint,
        }
    }

    /// Whether the files take so much more than what lives in them that rewriting is due. What is
    /// consumed in order dies a segment at a time and need not be rewritten on its way.
    fn wants_compaction(&self) -> bool {
        let ahead = self.prepared.values().map(|prepared| prepared.octets);
        let spare = self.segment_octets * self.recyclable.len() as u64;
        let files = self.segments.file_octets() + ahead.sum::<u64>() + spare;
        // A quarter of a segment less, for what is estimated.
        let slack = self.segment_octets * (4 * self.config.segment_slack).saturating_sub(1) / 4;
        files > 2 * self.segments.live_share() + slack
    }

    fn begin_compaction(&mut self, number: u32) {
        let mut settled: Vec<(QueueId, Vec<(u64, u64)>)> = Vec::new();
        for (_, queue, ledger) in self.ledgers.iter_from(0) {
            if let Some((first, last)) = ledger.part_in(number) {
                settled.push((queue, ledger.settled.ranges_in(first, last)));
            }
        }
        settled.sort_unstable_by_key(|(queue, _)| *queue);
        let mut unlogged = Vec::new();
        if let Some(segment) = self.segments.get_mut(number) {
            segment.candidate = false;
            segment.compacting = true;
            segment.looked_at();
            unlogged.extend(segment.unlogged.iter().map(|(place, _)| *place));
        }
        self.compacting = Some(Compacting {
            number,
            liveness: Some(Liveness { settled, unlogged }),
            // What was settled is in that batch, as a record or about to be. A queue that is
            // gone is gone for good when its definition says so on the disk.
            after: self.newest_batch(),
        });
    }

    pub(super) fn compacted(
        &mut self,
        number: u32,
        result: io::Result<Option<Rewritten<S>>>,
        damage: Vec<String>,
    ) {
        self.compacting = None;
        self.tell_damage(damage);
        // Where there was one there may be more.
        self.look_at = None;
        let now_s = self.now_s();
        let Some(segment) = self.segments.get_mut(number) else {
            return;
        };
        segment.compacting = false;
        match result {
            Ok(Some(rewritten)) => {
                let old = segment.map.replace(rewritten.map);
                segment.table = Some(rewritten.table);
                segment.used = rewritten.records_end;
                segment.rewritten = rewritten.times;
                segment.warmth = super::segment::Warmth::default();
                segment.warmth.warm(0, segment.used.max(1), now_s);
                self.segments.set_octets(number, rewritten.octets);
                self.counters.compacted += 1;
                // Unmapping takes as long as the map is large: not the loop's business.
                self.jobs.push_back(Job::Remove {
                    names: Vec::new(),
                    map: old,
                });
            }
            Ok(None) => {}
            Err(error) => {
                // The old file is still in its place; more settlements bring the next look.
                if is_shortage(&error) {
                    self.retry_at = Some(self.now.after_us(RETRY_US));
                } else {
                    let name = segment_name(number);
                    let line = format!("{name}: cannot be rewritten: {error}");
                    self.events.push_back(Event::Damage(line));
                }
            }
        }
        self.consider(number);
    }

    /// Runs what is left and the last batch before a clean stop: hands everything out that waits,
    /// without regard to load.
    pub fn commit_all(&mut self, now: Now, helpers: &mut impl Helpers<S>) {
        self.hurry = true;
        self.commit(now, helpers);
        while let Some(job) = self.jobs.pop_front() {
            helpers.keep(KeeperJob(job));
        }
        self.hurry = false;
    }
}
