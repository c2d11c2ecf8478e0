//! Content headers (spec 4.2.6.1), drawn:
//!
//! ```text
//! offset  octets  field
//!      0       2  class id      60, `basic`
//!      2       2  weight        0
//!      4       8  body size     octets of body in all frames that follow
//!     12       2  flags         a bit for each property that is there, from bit 15 downward;
//!                               bit 0 says that another word of flags follows
//!     14       n  property list the values, in the order of the flags
//! ```
//!
//! From `flags` on these octets are "the properties": they pass through the broker as they came.
//! [`Properties`] reads single values out of them where a feature wants one.

use super::error::Snippet;
use super::field_table::FieldTable;
use super::frame::FrameKind;
use super::{ShortString, WireError};

/// Octets of a content header's payload before the properties.
pub const HEADER_OCTETS: usize = 12;

/// The only class that has content.
pub const CLASS_BASIC: u16 = 60;

/// `delivery-mode` of a message that survives a restart.
pub const PERSISTENT: u8 = 2;

/// The properties of a message that has none.
pub const NO_PROPERTIES: &[u8] = &[0, 0];

/// The payload of a content header frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// Class of the method that the content belongs to.
    pub class_id: u16,
    /// Unused, 0. To RabbitMQ a header with another weight is no content header at all.
    pub weight: u16,
    /// Octets of the whole body.
    pub body_size: u64,
    /// Flags and property list, not checked; see [`Properties::check`].
    pub properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// Reads the payload of a content header frame.
    ///
    /// # Errors
    /// [`WireError::UnknownFrame`] when the payload has less than [`HEADER_OCTETS`],
    /// [`WireError::Properties`] when no word of flags follows them.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        match payload.split_first_chunk() {
            Some((&[c1, c0, w1, w0, b7, b6, b5, b4, b3, b2, b1, b0], properties))
                if properties.len() >= 2 =>
            {
                Ok(ContentHeader {
                    class_id: u16::from_be_bytes([c1, c0]),
                    weight: u16::from_be_bytes([w1, w0]),
                    body_size: u64::from_be_bytes([b7, b6, b5, b4, b3, b2, b1, b0]),
                    properties,
                })
            }
            _ => Err(cut_short(payload)),
        }
    }

    /// Appends the payload of a content header frame.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut head = [0; HEADER_OCTETS];
        head[..2].copy_from_slice(&self.class_id.to_be_bytes());
        head[2..4].copy_from_slice(&self.weight.to_be_bytes());
        head[4..].copy_from_slice(&self.body_size.to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(self.properties);
    }
}

#[cold]
#[inline(never)]
fn cut_short(payload: &[u8]) -> WireError {
    if payload.len() >= HEADER_OCTETS {
        return WireError::Properties;
    }
    WireError::UnknownFrame {
        frame_type: FrameKind::Header as u8,
        payload: Snippet::of(payload),
    }
}

/// A property's flag in the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flag(u16);

impl Flag {
    const CONTENT_TYPE: Flag = Flag(1 << 15);
    const CONTENT_ENCODING: Flag = Flag(1 << 14);
    const HEADERS: Flag = Flag(1 << 13);
    const DELIVERY_MODE: Flag = Flag(1 << 12);
    const PRIORITY: Flag = Flag(1 << 11);
    const CORRELATION_ID: Flag = Flag(1 << 10);
    const REPLY_TO: Flag = Flag(1 << 9);
    const EXPIRATION: Flag = Flag(1 << 8);
    const MESSAGE_ID: Flag = Flag(1 << 7);
    const TIMESTAMP: Flag = Flag(1 << 6);
    const TYPE: Flag = Flag(1 << 5);
    const USER_ID: Flag = Flag(1 << 4);
    const APP_ID: Flag = Flag(1 << 3);
    const CLUSTER_ID: Flag = Flag(1 << 2);
    /// Says that another word of flags follows.
    const CONTINUED: Flag = Flag(1);

    /// The flags that stand before this one.
    const fn before(self) -> u16 {
        !(self.0 | (self.0 - 1))
    }

    const fn is_in(self, flags: u16) -> bool {
        flags & self.0 != 0
    }
}

/// `delivery-mode` of the message with these properties, for the hot path: nothing is checked but
/// what has to be skipped, and what cannot be read is `None`.
#[inline]
pub fn delivery_mode_of(properties: &[u8]) -> Option<u8> {
    let flags = flags_of(properties);
    if !Flag::DELIVERY_MODE.is_in(flags) {
        return None;
    }
    let mut at = 2;
    if flags & (Flag::DELIVERY_MODE.before() | Flag::CONTINUED.0) != 0 {
        if Flag::CONTINUED.is_in(flags) {
            at = values_start(properties)?;
        }
        if Flag::CONTENT_TYPE.is_in(flags) {
            at += 1 + usize::from(*properties.get(at)?);
        }
        if Flag::CONTENT_ENCODING.is_in(flags) {
            at += 1 + usize::from(*properties.get(at)?);
        }
        if Flag::HEADERS.is_in(flags) {
            at = at.checked_add(4 + long_length(properties.get(at..)?)?)?;
        }
    }
    properties.get(at).copied()
}

/// Whether the message with these properties is to survive a restart; see [`delivery_mode_of`].
#[inline]
pub fn is_persistent(properties: &[u8]) -> bool {
    delivery_mode_of(properties) == Some(PERSISTENT)
}

#[inline]
fn flags_of(properties: &[u8]) -> u16 {
    properties
        .first_chunk()
        .map_or(0, |&octets| u16::from_be_bytes(octets))
}

/// Where the property list starts: after the first word of flags that says it is the last.
fn values_start(properties: &[u8]) -> Option<usize> {
    let words = properties.chunks_exact(2);
    let last = { words }.position(|word| word[1] & Flag::CONTINUED.0 as u8 == 0)?;
    Some(2 * (last + 1))
}

#[inline]
fn long_length(octets: &[u8]) -> Option<usize> {
    octets
        .first_chunk()
        .map(|&length| u32::from_be_bytes(length) as usize)
}

/// A view of a message's properties that reads values one at a time, skipping those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties<'a> {
    flags: u16,
    octets: &'a [u8],
}

impl<'a> Properties<'a> {
    /// Checks all of `octets`: flags and property list, which must end where the octets do.
    /// Properties that AMQP 0-9-1 does not know (bit 1, further words of flags) are tolerated; as
    /// their values have no known form, anything may follow the known ones then. RabbitMQ ignores
    /// those flags and refuses the values.
    ///
    /// # Errors
    /// [`WireError::Properties`], [`WireError::TableTooDeep`].
    #[inline]
    pub fn check(octets: &'a [u8]) -> Result<Self, WireError> {
        if octets == NO_PROPERTIES {
            return Ok(Properties { flags: 0, octets });
        }
        check_list(octets)
    }

    /// The properties of a stored message, which were checked when it came in. Should they be
    /// malformed all the same, what cannot be read is absent.
    #[inline]
    pub fn stored(octets: &'a [u8]) -> Self {
        Properties {
            flags: flags_of(octets),
            octets,
        }
    }

    /// Flags and property list as they came.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.octets
    }

    /// MIME type of the body.
    pub fn content_type(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::CONTENT_TYPE)
    }

    /// MIME encoding of the body.
    pub fn content_encoding(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::CONTENT_ENCODING)
    }

    /// The application's headers, and some that RabbitMQ gives a meaning.
    pub fn headers(self) -> Option<FieldTable<'a>> {
        let value = self.value(Flag::HEADERS)?;
        Some(FieldTable::stored(value.get(4..)?))
    }

    /// 1 transient, 2 persistent.
    #[inline]
    pub fn delivery_mode(self) -> Option<u8> {
        delivery_mode_of(self.octets)
    }

    /// Priority, 0 ..= 9 by the specification, 0 ..= 255 for RabbitMQ.
    pub fn priority(self) -> Option<u8> {
        self.value(Flag::PRIORITY)?.first().copied()
    }

    /// The application's correlation identifier.
    pub fn correlation_id(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::CORRELATION_ID)
    }

    /// Where an answer shall go.
    pub fn reply_to(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::REPLY_TO)
    }

    /// Milliseconds to live, in decimal digits.
    pub fn expiration(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::EXPIRATION)
    }

    /// The application's message identifier.
    pub fn message_id(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::MESSAGE_ID)
    }

    /// The application's timestamp, in seconds since 1970-01-01 UTC.
    pub fn timestamp(self) -> Option<u64> {
        let octets = self.value(Flag::TIMESTAMP)?.try_into().ok()?;
        Some(u64::from_be_bytes(octets))
    }

    /// The application's name for the type of the message (property `type`).
    pub fn message_type(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::TYPE)
    }

    /// The user that published it; RabbitMQ checks it.
    pub fn user_id(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::USER_ID)
    }

    /// The application that published it.
    pub fn app_id(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::APP_ID)
    }

    /// Unused.
    pub fn cluster_id(self) -> Option<ShortString<'a>> {
        self.short_string(Flag::CLUSTER_ID)
    }

    /// All of them, to be changed and encoded again. Properties that AMQP 0-9-1 does not know are
    /// lost.
    pub fn to_list(self) -> PropertyList<'a> {
        PropertyList {
            content_type: self.content_type(),
            content_encoding: self.content_encoding(),
            headers: self.headers(),
            delivery_mode: self.delivery_mode(),
            priority: self.priority(),
            correlation_id: self.correlation_id(),
            reply_to: self.reply_to(),
            expiration: self.expiration(),
            message_id: self.message_id(),
            timestamp: self.timestamp(),
            message_type: self.message_type(),
            user_id: self.user_id(),
            app_id: self.app_id(),
            cluster_id: self.cluster_id(),
        }
    }

    fn short_string(self, flag: Flag) -> Option<ShortString<'a>> {
        ShortString::new(self.value(flag)?.get(1..)?)
    }

    /// The octets of a property's value, a length before it included.
    #[inline]
    fn value(self, flag: Flag) -> Option<&'a [u8]> {
        if flag.is_in(self.flags) {
            self.find(flag)
        } else {
            None
        }
    }

    fn find(self, wanted: Flag) -> Option<&'a [u8]> {
        let mut rest = self.octets.get(values_start(self.octets)?..)?;
        let mut before = self.flags & wanted.before();
        while before != 0 {
            let first = Flag(1 << (before.ilog2()));
            rest = split_value(first, rest)?.1;
            before &= !first.0;
        }
        Some(split_value(wanted, rest)?.0)
    }
}

#[inline(never)]
fn check_list(octets: &[u8]) -> Result<Properties<'_>, WireError> {
    const KNOWN: u16 = !0b11;
    let list = Properties {
        flags: flags_of(octets),
        octets,
    };
    let mut rest = values_start(octets)
        .and_then(|start| octets.get(start..))
        .ok_or(WireError::Properties)?;
    let mut flags = list.flags & KNOWN;
    while flags != 0 {
        let first = Flag(1 << (flags.ilog2()));
        let (value, after) = split_value(first, rest).ok_or(WireError::Properties)?;
        if first == Flag::HEADERS {
            FieldTable::check(&value[4..]).map_err(|error| error.or(|| WireError::Properties))?;
        }
        rest = after;
        flags &= !first.0;
    }
    if rest.is_empty() || list.flags & !KNOWN != 0 {
        Ok(list)
    } else {
        Err(WireError::Properties)
    }
}

/// The octets of the value of `flag` at the start of `octets`, a length before it included, and
/// what follows.
fn split_value(flag: Flag, octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match flag {
        Flag::DELIVERY_MODE | Flag::PRIORITY => 1,
        Flag::TIMESTAMP => 8,
        Flag::HEADERS => long_length(octets)?.checked_add(4)?,
        _ => 1 + usize::from(*octets.first()?),
    };
    octets.split_at_checked(length)
}

/// All properties, to be encoded: fill in those that shall be there.
///
/// To change the properties of a message on its way (dead-lettering sets headers and removes the
/// expiration), take [`Properties::to_list`], change the fields, and encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PropertyList<'a> {
    /// MIME type of the body.
    pub content_type: Option<ShortString<'a>>,
    /// MIME encoding of the body.
    pub content_encoding: Option<ShortString<'a>>,
    /// The headers.
    pub headers: Option<FieldTable<'a>>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// Priority.
    pub priority: Option<u8>,
    /// The application's correlation identifier.
    pub correlation_id: Option<ShortString<'a>>,
    /// Where an answer shall go.
    pub reply_to: Option<ShortString<'a>>,
    /// Milliseconds to live, in decimal digits.
    pub expiration: Option<ShortString<'a>>,
    /// The application's message identifier.
    pub message_id: Option<ShortString<'a>>,
    /// Seconds since 1970-01-01 UTC.
    pub timestamp: Option<u64>,
    /// Property `type`.
    pub message_type: Option<ShortString<'a>>,
    /// The user that published it.
    pub user_id: Option<ShortString<'a>>,
    /// The application that published it.
    pub app_id: Option<ShortString<'a>>,
    /// Unused.
    pub cluster_id: Option<ShortString<'a>>,
}

impl PropertyList<'_> {
    /// Appends flags and property list.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(NO_PROPERTIES);
        let mut flags = 0;
        let mut text = |out: &mut Vec<u8>, flag: Flag, value: Option<ShortString<'_>>| {
            if let Some(value) = value {
                flags |= flag.0;
                value.encode(out);
            }
        };
        text(out, Flag::CONTENT_TYPE, self.content_type);
        text(out, Flag::CONTENT_ENCODING, self.content_encoding);
        if let Some(headers) = self.headers {
            headers.encode(out);
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        text(out, Flag::CORRELATION_ID, self.correlation_id);
        text(out, Flag::REPLY_TO, self.reply_to);
        text(out, Flag::EXPIRATION, self.expiration);
        text(out, Flag::MESSAGE_ID, self.message_id);
        if let Some(seconds) = self.timestamp {
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        text(out, Flag::TYPE, self.message_type);
        text(out, Flag::USER_ID, self.user_id);
        text(out, Flag::APP_ID, self.app_id);
        text(out, Flag::CLUSTER_ID, self.cluster_id);
        let mut mark = |flag: Flag, is_there: bool| flags |= u16::from(is_there) * flag.0;
        mark(Flag::HEADERS, self.headers.is_some());
        mark(Flag::DELIVERY_MODE, self.delivery_mode.is_some());
        mark(Flag::PRIORITY, self.priority.is_some());
        mark(Flag::TIMESTAMP, self.timestamp.is_some());
        out[start..start + 2].copy_from_slice(&flags.to_be_bytes());
    }

    /// Flags and property list as octets of their own.
    pub fn to_octets(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        self.encode(&mut octets);
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "the form the properties have")]
    fn text(text: &'static str) -> Option<ShortString<'static>> {
        Some(ShortString::literal(text))
    }

    fn full() -> PropertyList<'static> {
        PropertyList {
            content_type: text("text/plain"),
            content_encoding: text("gzip"),
            headers: FieldTable::check(b"\x01kt\x01").ok(),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: text("correlation"),
            reply_to: text("reply"),
            expiration: text("60000"),
            message_id: text("message"),
            timestamp: Some(0x0102_0304_0506_0708),
            message_type: text("type"),
            user_id: text("guest"),
            app_id: text("app"),
            cluster_id: text(""),
        }
    }

    /// The list with only those properties whose bit is set in `flags`.
    fn subset(flags: u16) -> PropertyList<'static> {
        let full = full();
        let has = |flag: Flag| flag.is_in(flags);
        PropertyList {
            content_type: full.content_type.filter(|_| has(Flag::CONTENT_TYPE)),
            content_encoding: full
                .content_encoding
                .filter(|_| has(Flag::CONTENT_ENCODING)),
            headers: full.headers.filter(|_| has(Flag::HEADERS)),
            delivery_mode: full.delivery_mode.filter(|_| has(Flag::DELIVERY_MODE)),
            priority: full.priority.filter(|_| has(Flag::PRIORITY)),
            correlation_id: full.correlation_id.filter(|_| has(Flag::CORRELATION_ID)),
            reply_to: full.reply_to.filter(|_| has(Flag::REPLY_TO)),
            expiration: full.expiration.filter(|_| has(Flag::EXPIRATION)),
            message_id: full.message_id.filter(|_| has(Flag::MESSAGE_ID)),
            timestamp: full.timestamp.filter(|_| has(Flag::TIMESTAMP)),
            message_type: full.message_type.filter(|_| has(Flag::TYPE)),
            user_id: full.user_id.filter(|_| has(Flag::USER_ID)),
            app_id: full.app_id.filter(|_| has(Flag::APP_ID)),
            cluster_id: full.cluster_id.filter(|_| has(Flag::CLUSTER_ID)),
        }
    }

    #[test]
    fn a_content_header_is_read_as_drawn() {
        let octets = b"\0\x3C\0\0\0\0\0\0\0\0\x01\x02\x10\0\x02";
        let header = ContentHeader {
            class_id: 60,
            weight: 0,
            body_size: 258,
            properties: b"\x10\0\x02",
        };
        assert_eq!(ContentHeader::decode(octets), Ok(header));
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(out, octets);
        for end in 0..14 {
            let error = ContentHeader::decode(&octets[..end]).expect_err("cut short");
            match end {
                0..12 => assert_eq!(error.reply_code().as_u16(), 501),
                _ => assert_eq!(error, WireError::Properties),
            }
        }
    }

    #[test]
    fn all_properties_lie_as_the_specification_draws_them() {
        let expected = b"\xFF\xFC\x0Atext/plain\x04gzip\0\0\0\x04\x01kt\x01\x02\x09\
            \x0Bcorrelation\x05reply\x0560000\x07message\x01\x02\x03\x04\x05\x06\x07\x08\
            \x04type\x05guest\x03app\x00";
        assert_eq!(full().to_octets(), expected);
    }

    #[test]
    fn every_set_of_properties_reads_back() {
        for flags in (0..=u16::MAX).step_by(4) {
            let list = subset(flags);
            let octets = list.to_octets();
            assert_eq!(octets[..2], flags.to_be_bytes());
            let properties = Properties::check(&octets).expect("well-formed");
            assert_eq!(properties.to_list(), list);
            assert_eq!(Properties::stored(&octets), properties);
            assert_eq!(delivery_mode_of(&octets), list.delivery_mode);
            assert_eq!(is_persistent(&octets), list.delivery_mode.is_some());
        }
    }

    #[test]
    fn a_list_that_ends_elsewhere_than_its_octets_is_malformed() {
        for flags in [0x0004, 0x0040, 0x1000, 0x2000, 0x8000, 0xFFFC] {
            let octets = subset(flags).to_octets();
            for end in 0..octets.len() {
                let cut = &octets[..end];
                assert_eq!(
                    Properties::check(cut),
                    Err(WireError::Properties),
                    "{flags:x} {end}"
                );
                // Views of what was never checked must not panic either.
                let _ = (Properties::stored(cut).to_list(), delivery_mode_of(cut));
            }
            let longer = [&octets[..], b"x"].concat();
            assert_eq!(Properties::check(&longer), Err(WireError::Properties));
        }
        let check = |octets: &[u8], expected| assert_eq!(Properties::check(octets), Err(expected));
        check(b"", WireError::Properties);
        check(b"\x20\0\xFF\xFF\xFF\xFF", WireError::Properties);
        check(b"\x20\0\0\0\0\x02\x01k", WireError::Properties);
        check(b"\0\x01", WireError::Properties);
        check(b"\0\x01\0\x01\0\x01", WireError::Properties);
        let step = |level: usize| [&b"\0F"[..], &(level as u32 * 6).to_be_bytes()].concat();
        let deep: Vec<u8> = (0..100).rev().flat_map(step).collect();
        let octets = [
            b"\x20\0".as_slice(),
            &(deep.len() as u32).to_be_bytes(),
            &deep,
        ]
        .concat();
        check(&octets, WireError::TableTooDeep);
    }

    #[test]
    fn properties_that_nobody_knows_are_tolerated_and_skipped() {
        for octets in [
            b"\x90\x01\x00\x00\x01a\x02".as_slice(),
            b"\x90\x01\x80\x01\x40\x00\x01a\x02unknown",
            b"\x90\x02\x01a\x02unknown",
        ] {
            let properties = Properties::check(octets).expect("tolerated");
            assert_eq!(properties.content_type(), text("a"));
            assert_eq!(properties.delivery_mode(), Some(2));
            assert_eq!(properties.cluster_id(), None);
        }
    }

    #[test]
    fn headers_are_rewritten_and_the_rest_stays() {
        use crate::wire::field_table::TableBuilder;
        let octets = full().to_octets();
        let mut list = Properties::stored(&octets).to_list();
        let mut headers = TableBuilder::from_table(list.headers.unwrap_or_default());
        headers.set(
            ShortString::literal("x-death"),
            crate::wire::FieldValue::Long(1),
        );
        list.headers = Some(headers.as_table());
        list.expiration = None;
        let rewritten = list.to_octets();
        let properties = Properties::check(&rewritten).expect("well-formed");
        let headers = properties.headers().expect("headers");
        assert_eq!(headers.iter().count(), 2);
        assert_eq!(properties.expiration(), None);
        assert_eq!(properties.message_id(), text("message"));
    }
}
