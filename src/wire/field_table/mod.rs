//! Field tables and arrays (spec 4.2.5.5), with the letters as RabbitMQ reads them:
//!
//! ```text
//! table = length(4) *( key-length(1) key value )        array = length(4) *value
//! value = letter(1) and then
//!   't' 1 bool            'b' 1 byte           'B' 1 unsignedbyte
//!   's' 2 short           'u' 2 unsignedshort
//!   'I' 4 signedint       'i' 4 unsignedint
//!   'l' 8 long            'L' 8 long           (both signed)
//!   'f' 4 float           'd' 8 double         'D' 1+4 decimal (scale, value)
//!   'T' 8 timestamp       'S' 4+n longstr      'x' 4+n binary
//!   'F' 4+n table         'A' 4+n array        'V' 0 void
//! ```
//!
//! A table is checked once, where it comes in, and then read where it lies, as often as wanted:
//! [`FieldTable`] is a borrowed slice. It goes out as the octets that it came as. A length is
//! believed only as far as the octets around it reach, and nesting is limited to [`DEPTH_MAX`], so
//! neither time nor memory can be had for nothing.

mod builder;
mod text;

#[cfg(test)]
mod tests;

pub use builder::{ArrayBuilder, TableBuilder};

use super::{ShortString, WireError};

/// Levels that tables and arrays may be nested in each other, the outermost included.
pub const DEPTH_MAX: usize = 64;

/// A field table, borrowed and checked: reading it cannot fail.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FieldTable<'a>(&'a [u8]);

impl<'a> FieldTable<'a> {
    /// The table without fields.
    pub const EMPTY: FieldTable<'static> = FieldTable(b"");

    /// Checks `octets`, the fields without the length before them.
    ///
    /// # Errors
    /// [`TableError`] when a field is cut short, has an unknown letter, or lies too deep.
    #[inline]
    pub fn check(octets: &'a [u8]) -> Result<Self, TableError> {
        if !octets.is_empty() {
            check_nested(octets, Container::Table, 1)?;
        }
        Ok(FieldTable(octets))
    }

    /// A table that was checked before and kept since. Should it be malformed all the same, its
    /// fields end where it cannot be read on.
    #[inline]
    pub const fn stored(octets: &'a [u8]) -> Self {
        FieldTable(octets)
    }

    /// The fields as they came, without the length before them.
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no field.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The fields in the order they came.
    #[inline]
    pub fn iter(self) -> Fields<'a> {
        Fields(self.0)
    }

    /// The value of the first field named `key`.
    pub fn get(self, key: impl AsRef<[u8]>) -> Option<FieldValue<'a>> {
        let key = key.as_ref();
        self.iter()
            .find_map(|(name, value)| (name.as_bytes() == key).then_some(value))
    }

    /// Appends the length and the fields.
    pub fn encode(self, out: &mut Vec<u8>) {
        encode_long(out, self.0);
    }
}

impl<'a> IntoIterator for FieldTable<'a> {
    type Item = (ShortString<'a>, FieldValue<'a>);
    type IntoIter = Fields<'a>;

    fn into_iter(self) -> Fields<'a> {
        self.iter()
    }
}

/// A field array, borrowed and checked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FieldArray<'a>(&'a [u8]);

impl<'a> FieldArray<'a> {
    /// Checks `octets`, the values without the length before them.
    ///
    /// # Errors
    /// [`TableError`] when a value is cut short, has an unknown letter, or lies too deep.
    pub fn check(octets: &'a [u8]) -> Result<Self, TableError> {
        check_nested(octets, Container::Array, 1)?;
        Ok(FieldArray(octets))
    }

    /// The values as they came, without the length before them.
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no value.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The values in their order.
    #[inline]
    pub fn iter(self) -> Values<'a> {
        Values(self.0)
    }
}

impl<'a> IntoIterator for FieldArray<'a> {
    type Item = FieldValue<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

/// What is wrong with a field table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// A field is cut short, reaches out of its table, or has an unknown letter.
    Malformed,
    /// Tables or arrays are nested deeper than [`DEPTH_MAX`].
    TooDeep,
}

impl TableError {
    /// The error for a table that is an argument of a method, or part of a content header;
    /// `otherwise` says what a malformed one is there.
    pub fn or(self, otherwise: impl FnOnce() -> WireError) -> WireError {
        match self {
            TableError::Malformed => otherwise(),
            TableError::TooDeep => WireError::TableTooDeep,
        }
    }
}

/// The fields of a table; see [`FieldTable::iter`].
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (ShortString<'a>, FieldValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = split_key(self.0)?;
        let (value, rest) = FieldValue::split(rest)?;
        self.0 = rest;
        Some((key, value))
    }
}

/// The values of an array; see [`FieldArray::iter`].
#[derive(Clone, Debug)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = FieldValue<'a>;

    fn next(&mut self) -> Option<FieldValue<'a>> {
        let (value, rest) = FieldValue::split(self.0)?;
        self.0 = rest;
        Some(value)
    }
}

/// One value of a table or an array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    Byte(i8),
    /// `B`
    UnsignedByte(u8),
    /// `s`
    Short(i16),
    /// `u`
    UnsignedShort(u16),
    /// `I`
    SignedInt(i32),
    /// `i`
    UnsignedInt(u32),
    /// `l`, also read from `L`
    Long(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` with `scale` decimal places.
    Decimal {
        /// Number of decimal places.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// `T`: seconds since 1970-01-01 UTC.
    Timestamp(u64),
    /// `S`: octets, mostly UTF-8.
    LongString(&'a [u8]),
    /// `x`
    Binary(&'a [u8]),
    /// `F`
    Table(FieldTable<'a>),
    /// `A`
    Array(FieldArray<'a>),
    /// `V`
    Void,
}

impl<'a> FieldValue<'a> {
    /// The value at the start of `octets`, and what follows it. `None` when it is malformed;
    /// nested tables are not looked into.
    fn split(octets: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&letter, rest) = octets.split_first()?;
        Some(match letter {
            b'S' => split_long(rest).map(|(text, rest)| (FieldValue::LongString(text), rest))?,
            b'I' => fixed(rest, |octets| {
                FieldValue::SignedInt(i32::from_be_bytes(octets))
            })?,
            b't' => fixed(rest, |[octet]| FieldValue::Bool(octet != 0))?,
            b'l' | b'L' => fixed(rest, |octets| FieldValue::Long(i64::from_be_bytes(octets)))?,
            b'T' => fixed(rest, |octets| {
                FieldValue::Timestamp(u64::from_be_bytes(octets))
            })?,
            b'F' => split_long(rest).map(|(t, rest)| (FieldValue::Table(FieldTable(t)), rest))?,
            b'A' => split_long(rest).map(|(a, rest)| (FieldValue::Array(FieldArray(a)), rest))?,
            b'b' => fixed(rest, |octets| FieldValue::Byte(i8::from_be_bytes(octets)))?,
            b'B' => fixed(rest, |[octet]| FieldValue::UnsignedByte(octet))?,
            b's' => fixed(rest, |octets| FieldValue::Short(i16::from_be_bytes(octets)))?,
            b'u' => fixed(rest, |octets| {
                FieldValue::UnsignedShort(u16::from_be_bytes(octets))
            })?,
            b'i' => fixed(rest, |octets| {
                FieldValue::UnsignedInt(u32::from_be_bytes(octets))
            })?,
            b'f' => fixed(rest, |octets| FieldValue::Float(f32::from_be_bytes(octets)))?,
            b'd' => fixed(rest, |octets| {
                FieldValue::Double(f64::from_be_bytes(octets))
            })?,
            b'D' => fixed(rest, |[scale, v3, v2, v1, v0]| FieldValue::Decimal {
                scale,
                value: u32::from_be_bytes([v3, v2, v1, v0]),
            })?,
            b'x' => split_long(rest).map(|(octets, rest)| (FieldValue::Binary(octets), rest))?,
            b'V' => (FieldValue::Void, rest),
            _ => return None,
        })
    }

    /// Appends the letter and the value. A [`FieldValue::Long`] is written as `l`, as RabbitMQ
    /// writes it.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            FieldValue::Bool(value) => out.extend_from_slice(&[b't', u8::from(value)]),
            FieldValue::Byte(value) => out.extend_from_slice(&[b'b', value.cast_unsigned()]),
            FieldValue::UnsignedByte(value) => out.extend_from_slice(&[b'B', value]),
            FieldValue::Short(value) => put(out, b's', &value.to_be_bytes()),
            FieldValue::UnsignedShort(value) => put(out, b'u', &value.to_be_bytes()),
            FieldValue::SignedInt(value) => put(out, b'I', &value.to_be_bytes()),
            FieldValue::UnsignedInt(value) => put(out, b'i', &value.to_be_bytes()),
            FieldValue::Long(value) => put(out, b'l', &value.to_be_bytes()),
            FieldValue::Float(value) => put(out, b'f', &value.to_be_bytes()),
            FieldValue::Double(value) => put(out, b'd', &value.to_be_bytes()),
            FieldValue::Decimal { scale, value } => {
                out.extend_from_slice(&[b'D', scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            FieldValue::Timestamp(seconds) => put(out, b'T', &seconds.to_be_bytes()),
            FieldValue::LongString(octets) => put_long(out, b'S', octets),
            FieldValue::Binary(octets) => put_long(out, b'x', octets),
            FieldValue::Table(table) => put_long(out, b'F', table.0),
            FieldValue::Array(array) => put_long(out, b'A', array.0),
            FieldValue::Void => out.push(b'V'),
        }
    }

    /// The type's name as RabbitMQ's texts have it: `signedint`, `longstr`, …
    pub fn type_name(self) -> &'static str {
        match self {
            FieldValue::Bool(_) => "bool",
            FieldValue::Byte(_) => "byte",
            FieldValue::UnsignedByte(_) => "unsignedbyte",
            FieldValue::Short(_) => "short",
            FieldValue::UnsignedShort(_) => "unsignedshort",
            FieldValue::SignedInt(_) => "signedint",
            FieldValue::UnsignedInt(_) => "unsignedint",
            FieldValue::Long(_) => "long",
            FieldValue::Float(_) => "float",
            FieldValue::Double(_) => "double",
            FieldValue::Decimal { .. } => "decimal",
            FieldValue::Timestamp(_) => "timestamp",
            FieldValue::LongString(_) => "longstr",
            FieldValue::Binary(_) => "binary",
            FieldValue::Table(_) => "table",
            FieldValue::Array(_) => "array",
            FieldValue::Void => "void",
        }
    }

    /// The number, if the value is of one of the integer types.
    pub fn as_integer(self) -> Option<i64> {
        Some(match self {
            FieldValue::Byte(value) => value.into(),
            FieldValue::UnsignedByte(value) => value.into(),
            FieldValue::Short(value) => value.into(),
            FieldValue::UnsignedShort(value) => value.into(),
            FieldValue::SignedInt(value) => value.into(),
            FieldValue::UnsignedInt(value) => value.into(),
            FieldValue::Long(value) => value,
            _ => return None,
        })
    }

    /// The octets, if the value is a long string.
    pub fn as_long_string(self) -> Option<&'a [u8]> {
        match self {
            FieldValue::LongString(octets) => Some(octets),
            _ => None,
        }
    }

    /// The text, if the value is a long string of UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_long_string()?).ok()
    }

    /// The truth, if the value is one.
    pub fn as_bool(self) -> Option<bool> {
        match self {
            FieldValue::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The table, if the value is one.
    pub fn as_table(self) -> Option<FieldTable<'a>> {
        match self {
            FieldValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The array, if the value is one.
    pub fn as_array(self) -> Option<FieldArray<'a>> {
        match self {
            FieldValue::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Whether RabbitMQ takes two arguments of a queue or an exchange as the same: all integer
    /// types are one class, so are `float` and `double`; within tables and arrays types must agree.
    #[expect(clippy::float_cmp, reason = "equal as Erlang compares two floats")]
    pub fn is_equivalent(self, other: FieldValue<'_>) -> bool {
        if let (Some(a), Some(b)) = (self.as_integer(), other.as_integer()) {
            return a == b;
        }
        match (self, other) {
            (FieldValue::Float(a), FieldValue::Double(b))
            | (FieldValue::Double(b), FieldValue::Float(a)) => f64::from(a) == b,
            (FieldValue::Table(a), FieldValue::Table(b)) => a.iter().eq(b.iter()),
            (FieldValue::Array(a), FieldValue::Array(b)) => a.iter().eq(b.iter()),
            (a, b) => a == b,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Table,
    Array,
}

/// Looks at every octet once, from front to back; `depth` counts this table or array and those
/// around it, so the stack is bounded by [`DEPTH_MAX`].
fn check_nested(octets: &[u8], container: Container, depth: usize) -> Result<(), TableError> {
    if depth > DEPTH_MAX {
        return Err(TableError::TooDeep);
    }
    let mut rest = octets;
    while !rest.is_empty() {
        let value = match container {
            Container::Table => split_key(rest).ok_or(TableError::Malformed)?.1,
            Container::Array => rest,
        };
        let (value, after) = FieldValue::split(value).ok_or(TableError::Malformed)?;
        match value {
            FieldValue::Table(table) => check_nested(table.0, Container::Table, depth + 1)?,
            FieldValue::Array(array) => check_nested(array.0, Container::Array, depth + 1)?,
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

#[inline]
fn split_key(octets: &[u8]) -> Option<(ShortString<'_>, &[u8])> {
    let (&length, rest) = octets.split_first()?;
    let (key, rest) = rest.split_at_checked(length.into())?;
    Some((ShortString::new(key)?, rest))
}

#[inline]
fn split_long(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(length) as usize)
}

#[inline]
fn fixed<'a, const N: usize>(
    octets: &'a [u8],
    value: impl FnOnce([u8; N]) -> FieldValue<'a>,
) -> Option<(FieldValue<'a>, &'a [u8])> {
    let (&head, rest) = octets.split_first_chunk()?;
    Some((value(head), rest))
}

fn put(out: &mut Vec<u8>, letter: u8, octets: &[u8]) {
    out.push(letter);
    out.extend_from_slice(octets);
}

fn put_long(out: &mut Vec<u8>, letter: u8, octets: &[u8]) {
    out.push(letter);
    encode_long(out, octets);
}

/// Appends a length in four octets and `octets`.
pub(super) fn encode_long(out: &mut Vec<u8>, octets: &[u8]) {
    debug_assert!(u32::try_from(octets.len()).is_ok());
    out.extend_from_slice(&(octets.len() as u32).to_be_bytes());
    out.extend_from_slice(octets);
}
