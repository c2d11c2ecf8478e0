//! Headers matching: a binding's arguments are compared with a message's headers (spec 3.1.3.4,
//! with RabbitMQ's `all-with-x` and `any-with-x`).
//!
//! Keys that begin with `x-` do not count unless the mode says so; a void value asks for presence
//! alone; an empty set of criteria matches everything under `all` and nothing under `any`. Of headers
//! with the same key the last counts.

use crate::broker::exception::{Exception, shown};
use crate::wire::field_table::{FieldTable, FieldValue};

/// How the criteria of a binding are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchMode {
    any: bool,
    with_x: bool,
}

impl MatchMode {
    /// The mode that a binding's arguments ask for; `all` where they are silent.
    ///
    /// # Errors
    /// 406 for any other `x-match`.
    pub fn of(arguments: FieldTable<'_>) -> Result<Self, Exception> {
        let mode = |any, with_x| Ok(MatchMode { any, with_x });
        match arguments.get("x-match") {
            None | Some(FieldValue::LongString(b"all")) => mode(false, false),
            Some(FieldValue::LongString(b"any")) => mode(true, false),
            Some(FieldValue::LongString(b"all-with-x")) => mode(false, true),
            Some(FieldValue::LongString(b"any-with-x")) => mode(true, true),
            Some(FieldValue::LongString(other)) => Err(Exception::precondition_failed(format!(
                "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
                shown(other)
            ))),
            Some(other) => Err(Exception::precondition_failed(format!(
                "Invalid x-match field type {} (value {}); expected longstr",
                other.type_name(),
                other
            ))),
        }
    }
}

/// A message's headers in the order of their keys, made once a message: the cost of matching is
/// criteria × log headers, however large the tables are.
#[derive(Debug, Default)]
pub struct SortedHeaders<'a>(Vec<(&'a [u8], FieldValue<'a>)>);

impl<'a> SortedHeaders<'a> {
    /// Sorts the headers of one message.
    pub fn of(headers: FieldTable<'a>) -> Self {
        let mut sorted: Vec<_> = headers
            .iter()
            .map(|(key, value)| (key.as_bytes(), value))
            .collect();
        sorted.sort_by_key(|&(key, _)| key);
        SortedHeaders(sorted)
    }

    fn get(&self, key: &[u8]) -> Option<FieldValue<'a>> {
        // Of those with the same key the last in the table, which sorting has kept last.
        let end = self.0.partition_point(|&(other, _)| other <= key);
        let &(other, value) = self.0.get(end.checked_sub(1)?)?;
        (other == key).then_some(value)
    }
}

/// Whether `headers` satisfy the criteria of a binding's `arguments`.
pub fn matches(mode: MatchMode, arguments: FieldTable<'_>, headers: &SortedHeaders<'_>) -> bool {
    let mut criteria = arguments
        .iter()
        .map(|(key, value)| (key.as_bytes(), value))
        .filter(|&(key, _)| {
            if mode.with_x {
                key != b"x-match"
            } else {
                !key.starts_with(b"x-")
            }
        });
    let holds = |(key, wanted): (&[u8], FieldValue<'_>)| match headers.get(key) {
        None => false,
        Some(given) => wanted == FieldValue::Void || given.is_equivalent(wanted),
    };
    if mode.any {
        criteria.any(holds)
    } else {
        criteria.all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ShortString;
    use crate::wire::field_table::TableBuilder;

    #[test]
    fn the_last_of_headers_with_the_same_key_counts() {
        let table = |numbers: &[(&'static str, i64)]| {
            let mut table = TableBuilder::new();
            for &(key, number) in numbers {
                table.push(ShortString::literal(key), FieldValue::Long(number));
            }
            table
        };
        let given = table(&[("k", 1), ("j", 5), ("k", 2), ("l", 6), ("k", 3)]);
        let headers = SortedHeaders::of(given.as_table());
        for (number, holds) in [(1, false), (2, false), (3, true)] {
            let wanted = table(&[("k", number)]);
            let mode = MatchMode::of(wanted.as_table()).expect("all");
            assert_eq!(
                matches(mode, wanted.as_table(), &headers),
                holds,
                "{number}"
            );
        }
        for missing in ["a", "kk", "z"] {
            assert_eq!(headers.get(missing.as_bytes()), None);
        }
    }
}
