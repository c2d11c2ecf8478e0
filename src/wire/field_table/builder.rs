//! Tables and arrays that are put together here: server properties, headers, arguments.

use super::{FieldArray, FieldTable, FieldValue, ShortString, split_key};

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
