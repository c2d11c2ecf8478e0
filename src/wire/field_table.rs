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

use super::{ShortString, WireError};
use std::fmt;

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

/// As RabbitMQ prints a value in its texts: a string bare, everything else as an Erlang term.
impl fmt::Display for FieldValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FieldValue::LongString(octets) | FieldValue::Binary(octets) => {
                octets.utf8_chunks().try_for_each(|chunk| {
                    f.write_str(chunk.valid())?;
                    if chunk.invalid().is_empty() {
                        Ok(())
                    } else {
                        f.write_str("\u{FFFD}")
                    }
                })
            }
            value => value.fmt_term(f),
        }
    }
}

impl FieldValue<'_> {
    fn fmt_term(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FieldValue::Bool(value) => fmt::Display::fmt(&value, f),
            FieldValue::Float(value) => fmt_float(f, value.into()),
            FieldValue::Double(value) => fmt_float(f, value),
            FieldValue::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            FieldValue::Timestamp(seconds) => fmt::Display::fmt(&seconds, f),
            FieldValue::LongString(octets) | FieldValue::Binary(octets) => {
                let mut text = String::new();
                super::erlang::pretty_binary_line(&mut text, octets);
                f.write_str(&text)
            }
            FieldValue::Table(table) => fmt::Display::fmt(&table, f),
            FieldValue::Array(array) => fmt::Display::fmt(&array, f),
            FieldValue::Void => f.write_str("undefined"),
            integer => fmt::Display::fmt(&integer.as_integer().unwrap_or_default(), f),
        }
    }
}

/// As Erlang's `~p` prints RabbitMQ's form of a table, on one line.
impl fmt::Display for FieldTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, (key, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let mut name = String::new();
            super::erlang::pretty_binary_line(&mut name, key.as_bytes());
            write!(f, "{comma}{{{name},{},", value.type_name())?;
            value.fmt_term(f)?;
            f.write_str("}")?;
        }
        f.write_str("]")
    }
}

/// As Erlang's `~p` prints RabbitMQ's form of an array, on one line.
impl fmt::Display for FieldArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, value) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{{{},", value.type_name())?;
            value.fmt_term(f)?;
            f.write_str("}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for FieldTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for FieldArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The shortest digits that read back as `value`, always with a point, as Erlang has it.
fn fmt_float(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    let magnitude = value.abs();
    if value.is_finite() && magnitude != 0.0 && !(1e-4..1e15).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let point = if mantissa.contains('.') { "" } else { ".0" };
        write!(f, "{mantissa}{point}e{exponent}")
    } else {
        write!(f, "{value:?}")
    }
}

/// Builds the octets of a table: server properties, headers, arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableBuilder {
    octets: Vec<u8>,
}

impl TableBuilder {
    /// A table without fields.
    pub fn new() -> Self {
        TableBuilder::default()
    }

    /// A table that starts as `table`.
    pub fn from_table(table: FieldTable<'_>) -> Self {
        TableBuilder {
            octets: table.0.to_vec(),
        }
    }

    /// Appends a field, whether or not there is one of that name.
    #[must_use]
    pub fn with(mut self, key: ShortString<'_>, value: FieldValue<'_>) -> Self {
        self.push(key, value);
        self
    }

    /// Appends a field with a text, whether or not there is one of that name.
    #[must_use]
    pub fn with_text(self, key: ShortString<'_>, text: &str) -> Self {
        self.with(key, FieldValue::LongString(text.as_bytes()))
    }

    /// Appends a field, whether or not there is one of that name.
    pub fn push(&mut self, key: ShortString<'_>, value: FieldValue<'_>) {
        key.encode(&mut self.octets);
        value.encode(&mut self.octets);
    }

    /// Gives the field `key` a new value at its place, or appends it; further fields of that name
    /// go.
    pub fn set(&mut self, key: ShortString<'_>, value: FieldValue<'_>) {
        let mut octets = Vec::with_capacity(self.octets.len() + key.len() + 16);
        let mut placed = false;
        let mut place = |octets: &mut Vec<u8>| {
            if !std::mem::replace(&mut placed, true) {
                key.encode(octets);
                value.encode(octets);
            }
        };
        for (name, field) in raw_fields(&self.octets) {
            if name == key {
                place(&mut octets);
            } else {
                octets.extend_from_slice(field);
            }
        }
        place(&mut octets);
        self.octets = octets;
    }

    /// Removes every field named `key`; says whether there was one.
    pub fn remove(&mut self, key: ShortString<'_>) -> bool {
        let octets: Vec<u8> = raw_fields(&self.octets)
            .filter(|&(name, _)| name != key)
            .flat_map(|(_, field)| field.iter().copied())
            .collect();
        let removed = octets.len() < self.octets.len();
        self.octets = octets;
        removed
    }

    /// The table.
    pub fn as_table(&self) -> FieldTable<'_> {
        FieldTable(&self.octets)
    }
}

/// Builds the octets of an array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayBuilder {
    octets: Vec<u8>,
}

impl ArrayBuilder {
    /// An array without values.
    pub fn new() -> Self {
        ArrayBuilder::default()
    }

    /// Appends a value.
    pub fn push(&mut self, value: FieldValue<'_>) {
        value.encode(&mut self.octets);
    }

    /// Appends a value.
    #[must_use]
    pub fn with(mut self, value: FieldValue<'_>) -> Self {
        self.push(value);
        self
    }

    /// The array.
    pub fn as_array(&self) -> FieldArray<'_> {
        FieldArray(&self.octets)
    }
}

/// The fields of a checked table with the octets of each, key included.
fn raw_fields(octets: &[u8]) -> impl Iterator<Item = (ShortString<'_>, &[u8])> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let (key, value) = split_key(rest)?;
        let (_, after) = FieldValue::split(value)?;
        let field = &rest[..rest.len() - after.len()];
        rest = after;
        Some((key, field))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use FieldValue as V;

    fn key(text: &'static str) -> ShortString<'static> {
        ShortString::literal(text)
    }

    /// Octets of each kind of value, what is read from them, and the type's name.
    fn kinds() -> Vec<(&'static [u8], V<'static>, &'static str)> {
        let array = FieldArray(b"t\x01V");
        let table = FieldTable(b"\x01at\x00");
        vec![
            (b"t\x01", V::Bool(true), "bool"),
            (b"b\xFF", V::Byte(-1), "byte"),
            (b"B\xFF", V::UnsignedByte(255), "unsignedbyte"),
            (b"s\xFF\xFE", V::Short(-2), "short"),
            (b"u\xFF\xFE", V::UnsignedShort(65_534), "unsignedshort"),
            (b"I\xFF\xFF\xFF\xFD", V::SignedInt(-3), "signedint"),
            (
                b"i\xFF\xFF\xFF\xFD",
                V::UnsignedInt(4_294_967_293),
                "unsignedint",
            ),
            (b"l\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFC", V::Long(-4), "long"),
            (b"f\x3F\x80\0\0", V::Float(1.0), "float"),
            (b"d\x3F\xF8\0\0\0\0\0\0", V::Double(1.5), "double"),
            (
                b"D\x02\0\0\x04\xD2",
                V::Decimal {
                    scale: 2,
                    value: 1234,
                },
                "decimal",
            ),
            (b"T\0\0\0\0\0\0\0\x07", V::Timestamp(7), "timestamp"),
            (b"S\0\0\0\x02hi", V::LongString(b"hi"), "longstr"),
            (b"x\0\0\0\x01\xFF", V::Binary(b"\xFF"), "binary"),
            (b"F\0\0\0\x04\x01at\x00", V::Table(table), "table"),
            (b"A\0\0\0\x03t\x01V", V::Array(array), "array"),
            (b"V", V::Void, "void"),
        ]
    }

    #[test]
    fn every_letter_is_read_and_written_back_and_cut_short_nowhere() {
        for (octets, expected, name) in kinds() {
            let fields = [b"\x01k", octets].concat();
            let table = FieldTable::check(&fields).expect(name);
            assert_eq!(table.iter().collect::<Vec<_>>(), [(key("k"), expected)]);
            assert_eq!(expected.type_name(), name);
            let built = TableBuilder::new().with(key("k"), expected);
            assert_eq!(built.as_table(), table);
            let array = FieldArray::check(octets).expect(name);
            assert_eq!(array.iter().collect::<Vec<_>>(), [expected]);
            for end in 1..fields.len() {
                let cut = FieldTable::check(&fields[..end]);
                assert_eq!(cut, Err(TableError::Malformed), "{name} cut at {end}");
            }
        }
    }

    #[test]
    fn only_rabbitmqs_letters_are_known_and_both_longs_are_signed() {
        let known = b"tbBsuIilLfdDTSxFAV";
        for letter in 0..=255 {
            let octets = [1, b'k', letter, 0, 0, 0, 0, 0, 0, 0, 0];
            let read = (2..=octets.len()).any(|end| FieldTable::check(&octets[..end]).is_ok());
            assert_eq!(read, known.contains(&letter), "{letter}");
        }
        let table = FieldTable::check(b"\x01kL\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF").expect("a table");
        assert_eq!(table.get("k"), Some(V::Long(-1)));
        let mut out = Vec::new();
        table.encode(&mut out);
        assert_eq!(out, b"\0\0\0\x0B\x01kL\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
    }

    /// `depth` tables or arrays in each other, the outermost without its length.
    fn nested(depth: usize, letter: u8) -> Vec<u8> {
        let head = |inner: usize| {
            let key: &[u8] = if letter == b'F' { b"\x00F" } else { b"A" };
            [key, &(inner as u32).to_be_bytes()].concat()
        };
        let step = head(0).len();
        (1..depth)
            .rev()
            .flat_map(|level| head((level - 1) * step))
            .collect()
    }

    #[test]
    fn nesting_has_a_limit_and_deep_tables_cost_nothing() {
        for letter in [b'F', b'A'] {
            let check = |depth: usize, expected: Result<(), TableError>| {
                let octets = nested(depth, letter);
                let outcome = match letter {
                    b'F' => FieldTable::check(&octets).map(|table| drop(table.to_string())),
                    _ => FieldArray::check(&octets).map(|array| drop(array.to_string())),
                };
                assert_eq!(outcome, expected, "{depth} levels");
            };
            check(1, Ok(()));
            check(2, Ok(()));
            check(DEPTH_MAX, Ok(()));
            check(DEPTH_MAX + 1, Err(TableError::TooDeep));
            check(10_000, Err(TableError::TooDeep));
            check(25_000, Err(TableError::TooDeep));
        }
    }

    #[test]
    fn lengths_that_reach_out_of_their_table_are_refused() {
        let check = |octets: &[u8]| {
            assert_eq!(
                FieldTable::check(octets),
                Err(TableError::Malformed),
                "{octets:?}"
            );
        };
        for letter in *b"SxFA" {
            for length in [1, 2, 65_536, u32::MAX] {
                let [l3, l2, l1, l0] = u32::to_be_bytes(length);
                check(&[1, b'k', letter, l3, l2, l1, l0]);
            }
        }
        check(b"\xFFk");
        check(b"\x00");
        // The inner table's string reaches into the outer table.
        check(b"\x01kF\0\0\0\x07\x01sS\0\0\0\x02ab");
        // The inner table's key does.
        check(b"\x01kF\0\0\0\x01\x05abcdeV");
    }

    #[test]
    fn fields_are_found_set_and_removed_and_the_others_stay_as_they_were() {
        let first = b"\x01aL\0\0\0\0\0\0\0\x01".as_slice();
        let octets = [first, b"\x01bt\x07", b"\x01aV"].concat();
        let table = FieldTable::check(&octets).expect("a table");
        assert_eq!(table.get("a"), Some(V::Long(1)));
        assert_eq!(table.get("c"), None);
        let mut builder = TableBuilder::from_table(table);
        builder.set(key("b"), V::Byte(2));
        builder.set(key("c"), V::Void);
        let expected = [first, b"\x01bb\x02", b"\x01aV", b"\x01cV"].concat();
        assert_eq!(builder.as_table().as_bytes(), expected);
        assert!(builder.remove(key("a")));
        assert!(!builder.remove(key("a")));
        assert_eq!(builder.as_table().as_bytes(), b"\x01bb\x02\x01cV");
        builder.push(key("b"), V::Void);
        builder.set(key("b"), V::Byte(3));
        assert_eq!(builder.as_table().as_bytes(), b"\x01bb\x03\x01cV");
    }

    #[test]
    fn integers_are_one_class_and_so_are_floats() {
        let check = |a: V<'_>, b: V<'_>, expected| {
            assert_eq!(a.is_equivalent(b), expected, "{a:?} {b:?}");
            assert_eq!(b.is_equivalent(a), expected, "{b:?} {a:?}");
        };
        let integers = [
            V::Byte(10),
            V::UnsignedByte(10),
            V::Short(10),
            V::UnsignedShort(10),
            V::SignedInt(10),
            V::UnsignedInt(10),
            V::Long(10),
        ];
        for a in integers {
            for b in integers {
                check(a, b, true);
            }
            check(a, V::Long(11), false);
            check(a, V::Double(10.0), false);
            check(a, V::Timestamp(10), false);
            check(a, V::LongString(b"10"), false);
        }
        check(V::Float(0.5), V::Double(0.5), true);
        check(V::LongString(b"a"), V::Binary(b"a"), false);
        check(
            V::Decimal {
                scale: 1,
                value: 10,
            },
            V::Decimal {
                scale: 1,
                value: 10,
            },
            true,
        );
        check(
            V::Table(FieldTable(b"\x01kb\x01")),
            V::Table(FieldTable(b"\x01kB\x01")),
            false,
        );
        check(
            V::Table(FieldTable(b"\x01kb\x01")),
            V::Table(FieldTable(b"\x01kb\x01")),
            true,
        );
        check(
            V::Array(FieldArray(b"t\x01")),
            V::Array(FieldArray(b"t\x02")),
            true,
        );
        check(V::Void, V::Void, true);
    }

    #[test]
    fn values_are_printed_as_erlang_prints_them() {
        let check = |value: V<'_>, expected: &str| assert_eq!(value.to_string(), expected);
        check(V::LongString(b"abc"), "abc");
        check(V::LongString(b"a\xFFc"), "a\u{FFFD}c");
        check(V::Long(-10), "-10");
        check(V::Bool(true), "true");
        check(V::Void, "undefined");
        check(V::Decimal { scale: 1, value: 2 }, "{1,2}");
        let table = TableBuilder::new()
            .with_text(key("a"), "b")
            .with(key("c"), V::Bool(true))
            .with(key("n"), V::Table(FieldTable::EMPTY));
        check(
            V::Table(table.as_table()),
            r#"[{<<"a">>,longstr,<<"b">>},{<<"c">>,bool,true},{<<"n">>,table,[]}]"#,
        );
        let array = ArrayBuilder::new()
            .with(V::LongString(b"x"))
            .with(V::Binary(b"\0\x01"));
        check(
            V::Array(array.as_array()),
            r#"[{longstr,<<"x">>},{binary,<<0,1>>}]"#,
        );
        for (number, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1.5e300, "1.5e300"),
            (1.0e-7, "1.0e-7"),
            (3.0e-5, "3.0e-5"),
            (0.0001, "0.0001"),
            (0.001, "0.001"),
            (123_456_789.0, "123456789.0"),
            (123_456.789, "123456.789"),
            (1.0e15, "1.0e15"),
            (1.0e22, "1.0e22"),
            (9_007_199_254_740_992.0, "9.007199254740992e15"),
        ] {
            check(V::Double(number), expected);
        }
    }
}
