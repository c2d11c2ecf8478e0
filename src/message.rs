//! A message on its way, and the place of a stored one.
//!
//! A message is never an owned object in the broker: on the way in it is a view over the octets of
//! the publisher's frames, at rest it is a record in a segment, on the way out a view over that
//! record. Both views are this [`Message`].

/// A view of one message: what the publisher gave, in the octets it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The exchange it was published to and its routing key, as two adjacent short strings (a
    /// length octet, then so many octets): just as `basic.publish` brings them and
    /// `basic.deliver` wants them.
    pub names: &'a [u8],
    /// The property flags and property list of the content header, as on the wire
    /// (spec 4.2.6.1), passed through untouched.
    pub properties: &'a [u8],
    /// The body, whole.
    pub body: Body<'a>,
}

impl<'a> Message<'a> {
    /// Name of the exchange it was published to.
    pub fn exchange(&self) -> &'a [u8] {
        &self.names[1..=usize::from(self.names[0])]
    }

    /// Octets that it takes where it is stored; those of a large body lie elsewhere.
    pub fn octets_in_memory(&self) -> u64 {
        let body = match self.body {
            Body::Octets(octets) => octets.len(),
            Body::Large(_) => 0,
        };
        (self.names.len() + self.properties.len() + body) as u64
    }

    /// Routing key.
    pub fn routing_key(&self) -> &'a [u8] {
        &self.names[usize::from(self.names[0]) + 2..]
    }
}

/// The body of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// All its octets.
    Octets(&'a [u8]),
    /// It lies in a file of its own, since it has `large_body_octets_min` octets or more, so that no
    /// turn of the loop copies more than that for one message.
    Large(LargeBody),
}

impl Body<'_> {
    /// Length in octets.
    #[inline]
    pub fn octets(&self) -> u64 {
        match self {
            Body::Octets(octets) => octets.len() as u64,
            Body::Large(large) => large.octets,
        }
    }
}

/// A body that lies in a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LargeBody {
    /// Number of the file; never reused while a record names it.
    pub file: u64,
    /// Length in octets.
    pub octets: u64,
}

/// Where a stored message lies: a segment and a place in it.
///
/// `place` counts units of eight octets from the start of the segment *as it was first written*;
/// a compacted segment keeps its number and translates places, so no entry of a queue ever changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageRef {
    /// Number of the segment; [`MessageRef::TRANSIENT`] is set in transient ones.
    pub segment: u32,
    /// Units of eight octets from the start of the segment.
    pub place: u32,
}

impl MessageRef {
    /// The bit of `segment` that tells the transient arena from the durable log.
    pub const TRANSIENT: u32 = 1 << 31;

    /// Whether the record lies in the transient arena.
    pub fn is_transient(self) -> bool {
        self.segment & Self::TRANSIENT != 0
    }
}

/// One message of one queue: where it lies and its place in the queue's order. Sixteen octets;
/// a backlog costs this much a message in memory at most, and long queues page even that out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where the record lies.
    pub at: MessageRef,
    /// Sequence (48 bits) · size class of this entry's share of the record (12) · flags (4).
    packed: u64,
}

impl Entry {
    /// The entry was delivered (or may have been, before a crash) and came back.
    pub const REDELIVERED: u8 = 1;
    /// Its settlement must be written to the log: a logged message on a durable queue.
    pub const LOGGED: u8 = 2;

    /// The greatest sequence an entry can bear.
    pub const SEQUENCE_MAX: u64 = (1 << 48) - 1;

    /// An entry for the record `at`, of which `share_octets` octets are this queue's share
    /// (the record's octets divided by the number of queues that hold it).
    pub fn new(at: MessageRef, sequence: u64, share_octets: u32, flags: u8) -> Self {
        debug_assert!(sequence <= Self::SEQUENCE_MAX && flags < 16);
        let class = u64::from(SizeClass::of(share_octets).0);
        Entry {
            at,
            packed: sequence << 16 | class << 4 | u64::from(flags),
        }
    }

    /// Place in the queue's order.
    #[inline]
    pub fn sequence(self) -> u64 {
        self.packed >> 16
    }

    /// Octets of the record that this entry answers for, rounded down to its size class. Adding
    /// and subtracting the same entry's share cancels exactly.
    #[inline]
    pub fn share_octets(self) -> u32 {
        SizeClass((self.packed >> 4 & 0xFFF) as u16).octets()
    }

    /// Whether all bits of `flag` are set.
    #[inline]
    pub fn has(self, flag: u8) -> bool {
        self.packed as u8 & flag == flag
    }

    /// The same entry with `flag` set.
    #[inline]
    #[must_use]
    pub fn with(self, flag: u8) -> Self {
        debug_assert!(flag < 16);
        Entry {
            packed: self.packed | u64::from(flag),
            ..self
        }
    }

    /// The packed word, for paging entries out.
    pub fn to_words(self) -> [u64; 2] {
        [
            u64::from(self.at.segment) << 32 | u64::from(self.at.place),
            self.packed,
        ]
    }

    /// The reverse of [`Entry::to_words`].
    pub fn from_words(words: [u64; 2]) -> Self {
        let at = MessageRef {
            segment: (words[0] >> 32) as u32,
            place: words[0] as u32,
        };
        Entry {
            at,
            packed: words[1],
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MessageRef { segment, place } = self.at;
        write!(f, "#{}@{segment:x}:{place:x}", self.sequence())?;
        write!(
            f,
            " ({} octets, flags {:x})",
            self.share_octets(),
            self.packed & 15
        )
    }
}

/// A number of octets in twelve bits: five of exponent, seven of mantissa; rounds down by less
/// than one part in 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SizeClass(u16);

impl SizeClass {
    #[inline]
    fn of(octets: u32) -> Self {
        if octets < 128 {
            return SizeClass(octets as u16);
        }
        let exponent = octets.ilog2() - 7;
        let mantissa = (octets >> exponent) & 0x7F;
        SizeClass(((exponent + 1) << 7 | mantissa) as u16)
    }

    #[inline]
    fn octets(self) -> u32 {
        let (exponent, mantissa) = (u32::from(self.0 >> 7), u32::from(self.0 & 0x7F));
        if exponent == 0 {
            mantissa
        } else {
            (mantissa | 0x80) << (exponent - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_sixteen_octets_and_keeps_what_it_is_given() {
        assert_eq!(size_of::<Entry>(), 16);
        let at = MessageRef {
            segment: 7 | MessageRef::TRANSIENT,
            place: 99,
        };
        let entry = Entry::new(at, Entry::SEQUENCE_MAX, 100, Entry::LOGGED);
        assert_eq!((entry.at, entry.sequence()), (at, Entry::SEQUENCE_MAX));
        assert!(entry.has(Entry::LOGGED) && !entry.has(Entry::REDELIVERED));
        assert!(entry.with(Entry::REDELIVERED).has(Entry::REDELIVERED));
        assert_eq!(entry.with(Entry::REDELIVERED).share_octets(), 100);
        assert_eq!(Entry::from_words(entry.to_words()), entry);
    }

    #[test]
    fn a_size_class_rounds_down_by_less_than_one_part_in_128() {
        for octets in (0..100_000)
            .chain((0..32).map(|e| 1u32 << e))
            .chain([u32::MAX])
        {
            let rounded = SizeClass::of(octets).octets();
            assert!(rounded <= octets && u64::from(octets - rounded) * 128 <= u64::from(octets));
        }
    }
}
