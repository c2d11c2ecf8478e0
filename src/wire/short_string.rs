//! Short strings (spec 4.2.5.3): at most 255 octets, meant to be UTF-8.

use super::{WireError, reply_code};
use std::fmt;

/// A short string, borrowed. UTF-8 is checked where methods are decoded, except for those of
/// `basic.publish`, which are on the hot path: the router checks them when it sees a name for the
/// first time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortString<'a>(&'a [u8]);

impl<'a> ShortString<'a> {
    /// The empty string.
    pub const EMPTY: ShortString<'static> = ShortString(b"");

    /// Octets that a short string has at most.
    pub const OCTETS_MAX: usize = 255;

    /// `octets` as a short string; `None` when they are more than 255.
    #[inline]
    pub const fn new(octets: &'a [u8]) -> Option<Self> {
        if octets.len() <= Self::OCTETS_MAX {
            Some(ShortString(octets))
        } else {
            None
        }
    }

    /// A short string that stands in the source.
    ///
    /// # Panics
    /// When `text` has more than 255 octets; at compile time in a constant.
    #[inline]
    pub const fn literal(text: &'static str) -> ShortString<'static> {
        assert!(text.len() <= ShortString::OCTETS_MAX);
        ShortString(text.as_bytes())
    }

    /// As much of `text` as fits, whole characters only.
    pub fn truncated(text: &'a str) -> Self {
        let end = text.floor_char_boundary(reply_code::REPLY_TEXT_OCTETS_MAX);
        ShortString(&text.as_bytes()[..end])
    }

    /// The octets.
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text.
    ///
    /// # Errors
    /// [`WireError::MalformedUtf8`] when the octets are no UTF-8.
    pub fn as_str(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.0).map_err(|_| WireError::MalformedUtf8)
    }

    /// Whether there is no octet.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Number of octets, 0 ..= 255.
    #[inline]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Appends the length octet and the octets.
    #[inline]
    pub fn encode(self, out: &mut Vec<u8>) {
        out.push(self.0.len() as u8);
        out.extend_from_slice(self.0);
    }
}

/// Fails with the number of octets when there are more than 255.
impl<'a> TryFrom<&'a [u8]> for ShortString<'a> {
    type Error = usize;

    fn try_from(octets: &'a [u8]) -> Result<Self, usize> {
        ShortString::new(octets).ok_or(octets.len())
    }
}

/// Fails with the number of octets when there are more than 255.
impl<'a> TryFrom<&'a str> for ShortString<'a> {
    type Error = usize;

    fn try_from(text: &'a str) -> Result<Self, usize> {
        text.as_bytes().try_into()
    }
}

impl fmt::Display for ShortString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            write!(f, "{}", chunk.invalid().escape_ascii())
        })
    }
}

impl fmt::Debug for ShortString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{self}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_string_has_at_most_255_octets() {
        let octets = [b'a'; 256];
        assert_eq!(ShortString::new(&octets), None);
        assert_eq!(
            ShortString::new(&octets[1..]).map(ShortString::len),
            Some(255)
        );
        assert_eq!(ShortString::try_from(&octets[..]), Err(256));
        let text = "é".repeat(200);
        assert_eq!(ShortString::truncated(&text).len(), 254);
        assert_eq!(ShortString::truncated("abc").as_bytes(), b"abc");
    }

    #[test]
    fn text_is_checked_and_shown_with_what_is_no_text_escaped() {
        let odd = ShortString(b"a\xFFb");
        assert_eq!(odd.as_str(), Err(WireError::MalformedUtf8));
        assert_eq!(format!("{odd:?}"), "'a\\xffb'");
        assert_eq!(ShortString::literal("é").as_str(), Ok("é"));
    }
}
