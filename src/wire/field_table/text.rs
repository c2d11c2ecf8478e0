//! Values, tables and arrays as RabbitMQ prints them in its texts.

use super::{FieldArray, FieldTable, FieldValue};
use crate::wire::erlang;
use std::fmt;

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
                erlang::pretty_binary_line(&mut text, octets);
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
            erlang::pretty_binary_line(&mut name, key.as_bytes());
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
