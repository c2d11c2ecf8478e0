//! Whether every message came, once and in order: the stamps in the bodies, the sequences that a
//! queue must see, and the publisher's window of confirms.

use super::histogram::Histogram;

/// What the first octets of a body say; drawn in [`super::template`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which producer sent it.
    pub(super) producer: u16,
    /// Place among that producer's messages; 48 bits.
    pub(super) sequence: u64,
    /// When it was due, in microseconds of the run's clock.
    pub(super) sent_us: u64,
}

impl Stamp {
    /// Octets of a stamp.
    pub(super) const OCTETS: usize = 16;

    /// The octets of the stamp.
    #[inline]
    pub(super) fn encode(self) -> [u8; Self::OCTETS] {
        let first = u64::from(self.producer) << 48 | self.sequence & 0xFFFF_FFFF_FFFF;
        (u128::from(first) << 64 | u128::from(self.sent_us)).to_be_bytes()
    }

    /// The reverse of [`Stamp::encode`].
    #[inline]
    pub(super) fn decode(octets: &[u8; Self::OCTETS]) -> Self {
        let both = u128::from_be_bytes(*octets);
        Stamp {
            producer: (both >> 112) as u16,
            sequence: (both >> 64) as u64 & 0xFFFF_FFFF_FFFF,
            sent_us: both as u64,
        }
    }
}

/// Which numbers above a mark were seen: all below `low`, and those in a ring of bits above it.
///
/// Invariant: bit `n % bits` speaks for `n` in `low .. low + bits` only, and that of `low` is clear.
#[derive(Debug)]
pub(super) struct Seen {
    low: u64,
    /// One above the greatest number seen.
    high: u64,
    ring: Box<[u64]>,
}

/// What [`Seen::insert`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not seen before.
    New,
    /// Seen before.
    Again,
    /// Too far above `low` to be remembered.
    Beyond,
}

impl Seen {
    /// Nothing seen from `low` on; remembers up to `ahead` numbers above the lowest missing one.
    pub(super) fn new(low: u64, ahead: usize) -> Self {
        Seen {
            low,
            high: low,
            ring: vec![0; ahead.div_ceil(64).max(1).next_power_of_two()].into(),
        }
    }

    fn place(&self, number: u64) -> (usize, u64) {
        let word = (number / 64) & (self.ring.len() as u64 - 1);
        (word as usize, 1 << (number % 64))
    }

    /// Numbers above `low` that can be told apart.
    pub(super) fn ahead(&self) -> u64 {
        self.ring.len() as u64 * 64
    }

    /// All below it were seen, itself was not.
    #[inline]
    pub(super) fn low(&self) -> u64 {
        self.low
    }

    /// Whether `number` was seen.
    #[cfg(test)]
    pub(super) fn contains(&self, number: u64) -> bool {
        let (word, bit) = self.place(number);
        number < self.low || number < self.high && self.ring[word] & bit != 0
    }

    /// Marks `number` as seen.
    #[inline]
    pub(super) fn insert(&mut self, number: u64) -> Verdict {
        if number == self.low && self.low == self.high {
            // Everything in order: no bit is ever set.
            self.low += 1;
            self.high = self.low;
            return Verdict::New;
        }
        self.insert_out_of_order(number)
    }

    fn insert_out_of_order(&mut self, number: u64) -> Verdict {
        if number < self.low {
            return Verdict::Again;
        }
        if number - self.low >= self.ahead() {
            return Verdict::Beyond;
        }
        let (word, bit) = self.place(number);
        if self.ring[word] & bit != 0 {
            return Verdict::Again;
        }
        self.ring[word] |= bit;
        self.high = self.high.max(number + 1);
        self.raise();
        Verdict::New
    }

    /// Moves `low` up over what was seen, clearing the bits that lose their meaning.
    fn raise(&mut self) {
        while self.low < self.high {
            let (word, bit) = self.place(self.low);
            if self.ring[word] & bit == 0 {
                return;
            }
            self.ring[word] &= !bit;
            self.low += 1;
        }
    }

    /// Numbers below the greatest seen one that were not seen.
    pub(super) fn missing(&self) -> u64 {
        let above: u64 = self
            .ring
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        self.high - self.low - above
    }
}

/// Counts of what must not happen; and of what may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Came twice without being marked as redelivered.
    pub(super) duplicates: u64,
    /// Came to a consumer after a later one of the same producer.
    pub(super) misordered: u64,
    /// Marked as redelivered.
    pub(super) redelivered: u64,
    /// Below the last one that came, and never came.
    pub(super) missing: u64,
    /// Too far ahead of a missing one to be checked.
    pub(super) unchecked: u64,
    /// With a body of another size than was sent.
    pub(super) wrong_size: u64,
}

impl Findings {
    /// Adds the counts of `other`.
    pub(super) fn merge(&mut self, other: &Findings) {
        self.duplicates += other.duplicates;
        self.misordered += other.misordered;
        self.redelivered += other.redelivered;
        self.missing += other.missing;
        self.unchecked += other.unchecked;
        self.wrong_size += other.wrong_size;
    }
}

/// What one queue has seen of each producer, whichever consumer got it.
#[derive(Debug)]
pub(super) struct QueueCheck {
    /// By producer; grown when one is first seen.
    seen: Vec<Option<Seen>>,
    /// Whether the queue gets every message of a producer that it gets one of.
    complete: bool,
}

impl QueueCheck {
    /// Numbers remembered above a missing one, for each producer. Consumers of one queue hold
    /// back less than that.
    const AHEAD: usize = 1 << 20;

    /// * `complete`: false when only some of a producer's messages reach the queue; then only
    ///   their order at each consumer can be checked.
    pub(super) fn new(complete: bool) -> Self {
        QueueCheck {
            seen: Vec::new(),
            complete,
        }
    }

    /// Takes note of a delivery. A queue that held messages before the run starts with the first
    /// that comes.
    #[inline]
    pub(super) fn note(&mut self, stamp: &Stamp, redelivered: bool, findings: &mut Findings) {
        if !self.complete {
            return;
        }
        let slot = usize::from(stamp.producer);
        if slot >= self.seen.len() {
            self.seen.resize_with(slot + 1, || None);
        }
        let seen = self.seen[slot].get_or_insert_with(|| Seen::new(stamp.sequence, Self::AHEAD));
        match seen.insert(stamp.sequence) {
            Verdict::New => {}
            Verdict::Again if redelivered => {}
            Verdict::Again => findings.duplicates += 1,
            Verdict::Beyond => findings.unchecked += 1,
        }
    }

    /// Messages that other ones of the same producer overtook for good.
    pub(super) fn missing(&self) -> u64 {
        self.seen.iter().flatten().map(Seen::missing).sum()
    }
}

/// What one consumer has seen of each producer: the order.
#[derive(Debug, Default)]
pub(super) struct OrderCheck {
    /// By producer: one above the last sequence.
    next: Vec<u64>,
}

impl OrderCheck {
    /// Takes note of a delivery. What comes back as redelivered may be older.
    #[inline]
    pub(super) fn note(&mut self, stamp: &Stamp, redelivered: bool, findings: &mut Findings) {
        let slot = usize::from(stamp.producer);
        if slot >= self.next.len() {
            self.next.resize(slot + 1, 0);
        }
        if redelivered {
            findings.redelivered += 1;
        } else if stamp.sequence < self.next[slot] {
            findings.misordered += 1;
        } else {
            self.next[slot] = stamp.sequence + 1;
        }
    }
}

/// The publishes of one channel that await their confirm.
#[derive(Debug)]
pub(super) struct ConfirmWindow {
    /// Publishes that may be unconfirmed.
    messages_max: u64,
    /// Tag of the next publish, from 1.
    next_tag: u64,
    settled: Seen,
    unconfirmed: u64,
    /// When each was due, by tag modulo the length, a power of two.
    sent_us: Box<[u64]>,
}

impl ConfirmWindow {
    /// A window of `messages_max` publishes, 1 ..= 2^24.
    pub(super) fn new(messages_max: u64) -> Self {
        let settled = Seen::new(1, 2 * messages_max as usize);
        ConfirmWindow {
            messages_max,
            next_tag: 1,
            unconfirmed: 0,
            sent_us: vec![0; settled.ahead() as usize].into(),
            settled,
        }
    }

    /// Publishes that may be sent now. Confirms that come out of order hold it back only when the
    /// oldest one lags by a whole window.
    #[inline]
    pub(super) fn room(&self) -> u64 {
        let remembered = self.next_tag - self.settled.low();
        (self.messages_max - self.unconfirmed).min(self.settled.ahead() - remembered)
    }

    /// Publishes without a confirm.
    #[cfg(test)]
    pub(super) fn unconfirmed(&self) -> u64 {
        self.unconfirmed
    }

    /// Takes note of a publish, due at `sent_us`; there must be room.
    #[inline]
    pub(super) fn sent(&mut self, sent_us: u64) {
        let mask = self.sent_us.len() as u64 - 1;
        self.sent_us[(self.next_tag & mask) as usize] = sent_us;
        self.next_tag += 1;
        self.unconfirmed += 1;
    }

    /// Takes note of a confirm and records how long those took that were due within `measured_us`.
    /// Returns the number of publishes that it settles; `None` when it names none that is open.
    pub(super) fn confirmed(
        &mut self,
        delivery_tag: u64,
        multiple: bool,
        now_us: u64,
        measured_us: &std::ops::Range<u64>,
        latency: &mut Histogram,
    ) -> Option<u64> {
        let tag = match (delivery_tag, multiple) {
            (0, true) => self.next_tag - 1,
            (tag, _) => tag,
        };
        if tag >= self.next_tag {
            return None;
        }
        let mask = self.sent_us.len() as u64 - 1;
        let first = if multiple { self.settled.low() } else { tag };
        let mut count = 0;
        for tag in first..=tag {
            if self.settled.insert(tag) == Verdict::New {
                count += 1;
                let sent_us = self.sent_us[(tag & mask) as usize];
                if measured_us.contains(&sent_us) {
                    latency.record(now_us.saturating_sub(sent_us));
                }
            }
        }
        self.unconfirmed -= count;
        (count != 0).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_as_it_was_written() {
        let stamp = Stamp {
            producer: 0xABCD,
            sequence: 0x1234_5678_9ABC,
            sent_us: u64::MAX - 5,
        };
        assert_eq!(Stamp::decode(&stamp.encode()), stamp);
        assert_eq!(stamp.encode()[..2], [0xAB, 0xCD]);
    }

    #[test]
    fn numbers_are_seen_once_in_any_order() {
        let mut seen = Seen::new(10, 64);
        let order = [12, 10, 73, 11, 13];
        for (index, number) in order.into_iter().enumerate() {
            assert!(!seen.contains(number));
            assert_eq!(seen.insert(number), Verdict::New, "step {index}");
            assert!(seen.contains(number));
            assert_eq!(seen.insert(number), Verdict::Again);
        }
        assert_eq!((seen.low(), seen.missing()), (14, 73 - 14));
        assert_eq!(seen.insert(9), Verdict::Again);
        assert_eq!(seen.insert(14 + 64), Verdict::Beyond);
        for number in 14..73 {
            assert_eq!(seen.insert(number), Verdict::New);
        }
        assert_eq!((seen.low(), seen.missing()), (74, 0));
        // The ring's bits are clear again and serve the next numbers.
        for number in (74..500).rev().skip(426 - 64) {
            assert_eq!(seen.insert(number), Verdict::New, "{number}");
        }
        assert_eq!((seen.low(), seen.missing()), (138, 0));
    }

    fn stamp(sequence: u64) -> Stamp {
        Stamp {
            producer: 2,
            sequence,
            sent_us: 0,
        }
    }

    #[test]
    fn a_queue_that_gets_everything_shows_loss_and_doubling() {
        let mut check = QueueCheck::new(true);
        let mut findings = Findings::default();
        for (sequence, redelivered) in [(5, false), (6, false), (8, false), (8, false), (6, true)] {
            check.note(&stamp(sequence), redelivered, &mut findings);
        }
        assert_eq!((findings.duplicates, check.missing()), (1, 1));
        check.note(&stamp(7), false, &mut findings);
        assert_eq!(check.missing(), 0);
    }

    #[test]
    fn a_queue_that_gets_some_messages_shows_neither() {
        let mut check = QueueCheck::new(false);
        let mut findings = Findings::default();
        for sequence in [5, 9, 5] {
            check.note(&stamp(sequence), false, &mut findings);
        }
        assert_eq!((findings, check.missing()), (Findings::default(), 0));
    }

    #[test]
    fn order_is_checked_for_each_consumer_and_redeliveries_may_be_older() {
        let mut check = OrderCheck::default();
        let mut findings = Findings::default();
        for (sequence, redelivered) in [(5, false), (9, false), (6, true), (7, false), (10, false)]
        {
            check.note(&stamp(sequence), redelivered, &mut findings);
        }
        assert_eq!((findings.misordered, findings.redelivered), (1, 1));
    }

    #[test]
    fn a_window_opens_with_confirms_in_any_order() {
        let mut window = ConfirmWindow::new(3);
        let mut latency = Histogram::new();
        for sent_us in [100, 200, 300] {
            assert!(window.room() > 0);
            window.sent(sent_us);
        }
        assert_eq!((window.room(), window.unconfirmed()), (0, 3));
        let mut confirm = |window: &mut ConfirmWindow, tag, multiple| {
            window.confirmed(tag, multiple, 1_000, &(200..u64::MAX), &mut latency)
        };
        assert_eq!(confirm(&mut window, 2, false), Some(1));
        assert_eq!(confirm(&mut window, 2, false), None);
        assert_eq!(confirm(&mut window, 4, false), None);
        assert_eq!(window.room(), 1);
        assert_eq!(confirm(&mut window, 3, true), Some(2));
        assert_eq!((window.room(), window.unconfirmed()), (3, 0));
        window.sent(900);
        assert_eq!(confirm(&mut window, 0, true), Some(1));
        // The one due at 100 lies before what is measured.
        assert_eq!((latency.count(), latency.percentile(100.0)), (3, 800));
    }

    #[test]
    fn a_confirm_that_never_comes_stops_the_window_before_it_forgets() {
        let mut window = ConfirmWindow::new(64);
        let mut latency = Histogram::new();
        window.sent(0);
        let mut sent = 1;
        while window.room() > 0 {
            sent += 1;
            window.sent(0);
            assert_eq!(
                window.confirmed(sent, false, 0, &(0..1), &mut latency),
                Some(1)
            );
        }
        assert_eq!((window.unconfirmed(), sent), (1, window.settled.ahead()));
    }
}
