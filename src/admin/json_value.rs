//! The leaves of those objects: texts, rates, dates, and tables of AMQP as JSON and back.

use super::json::Object;
use crate::wire::ShortString;
use crate::wire::field_table::{ArrayBuilder, FieldArray, FieldTable, FieldValue, TableBuilder};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

/// Octets that are mostly UTF-8, as a string.
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

/// What has a form for people, as a string.
pub(super) struct Shown<T>(pub(super) T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// `{"rate": …}`
pub(super) struct Rate(pub(super) f64);

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([("rate", self.0)])
    }
}

/// A table of AMQP. Where a key occurs twice, the last one is shown. The depth is bounded, since
/// tables are checked before they get here.
pub(super) struct Table<'a>(pub(super) FieldTable<'a>);

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields: BTreeMap<Cow<'_, str>, Field<'_>> = BTreeMap::new();
        for (key, value) in self.0 {
            fields.insert(String::from_utf8_lossy(key.as_bytes()), Field(value));
        }
        serializer.collect_map(&fields)
    }
}

/// A value in such a table.
struct Field<'a>(FieldValue<'a>);

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            FieldValue::Bool(value) => serializer.serialize_bool(value),
            FieldValue::Byte(value) => serializer.serialize_i8(value),
            FieldValue::UnsignedByte(value) => serializer.serialize_u8(value),
            FieldValue::Short(value) => serializer.serialize_i16(value),
            FieldValue::UnsignedShort(value) => serializer.serialize_u16(value),
            FieldValue::SignedInt(value) => serializer.serialize_i32(value),
            FieldValue::UnsignedInt(value) => serializer.serialize_u32(value),
            FieldValue::Long(value) => serializer.serialize_i64(value),
            FieldValue::Timestamp(value) => serializer.serialize_u64(value),
            FieldValue::Float(value) => serializer.serialize_f64(f64::from(value)),
            FieldValue::Double(value) => serializer.serialize_f64(value),
            FieldValue::Decimal { scale, value } => {
                serializer.serialize_f64(f64::from(value) / 10_f64.powi(i32::from(scale)))
            }
            FieldValue::LongString(octets) | FieldValue::Binary(octets) => {
                Text(octets).serialize(serializer)
            }
            FieldValue::Table(table) => Table(table).serialize(serializer),
            FieldValue::Array(array) => Array(array).serialize(serializer),
            FieldValue::Void => serializer.serialize_none(),
        }
    }
}

/// An array in such a table.
struct Array<'a>(FieldArray<'a>);

impl Serialize for Array<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Field))
    }
}

/// A JSON object as a table of AMQP: whole numbers become `l`, others `d`, as in RabbitMQ.
///
/// # Errors
/// A key longer than 255 octets, or a whole number beyond 64 bits.
pub(super) fn to_table(object: &Object) -> Result<TableBuilder, String> {
    let mut builder = TableBuilder::new();
    for (key, value) in object {
        let short = ShortString::new(key.as_bytes()).ok_or_else(|| {
            format!(
                "key '{}...' is too long",
                key.chars().take(40).collect::<String>()
            )
        })?;
        with_field(value, &mut |field| builder.push(short, field))?;
    }
    Ok(builder)
}

/// Builds the field for a value and hands it over; nested ones live only as long as that.
fn with_field(value: &Value, push: &mut dyn FnMut(FieldValue<'_>)) -> Result<(), String> {
    match value {
        Value::Null => push(FieldValue::Void),
        Value::Bool(bool) => push(FieldValue::Bool(*bool)),
        Value::String(text) => push(FieldValue::LongString(text.as_bytes())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => push(FieldValue::Long(whole)),
            (None, Some(fraction)) if !number.is_u64() => push(FieldValue::Double(fraction)),
            _ => return Err(format!("number {number} is too great")),
        },
        Value::Array(values) => {
            let mut builder = ArrayBuilder::new();
            for value in values {
                with_field(value, &mut |field| builder.push(field))?;
            }
            push(FieldValue::Array(builder.as_array()));
        }
        Value::Object(object) => push(FieldValue::Table(to_table(object)?.as_table())),
    }
    Ok(())
}

/// Milliseconds since 1970 as `2026-11-22T13:24:50.888+00:00`.
pub(super) fn date(wall_ms: u64) -> String {
    let (days, ms) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    // Days are counted from 0000-03-01, so that the day that leap years add comes last; a cycle of
    // 400 years has 146,097 days.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let ms = ms % 1_000;
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (wall_ms, expected) in [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (951_782_400_000, "2000-02-29T00:00:00.000+00:00"),
            (951_868_800_000, "2000-03-01T00:00:00.000+00:00"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999+00:00"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001+00:00"),
            (1_795_353_890_888, "2026-11-22T13:24:50.888+00:00"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+00:00"),
        ] {
            assert_eq!(date(wall_ms), expected);
        }
    }

    #[test]
    fn tables_go_there_and_back() {
        let text = r#"{"a":1,"b":-2.5,"c":"x","d":[true,null,{"e":[]}],"f":9223372036854775807}"#;
        let parsed: Object = serde_json::from_str(text).expect("valid");
        let built = to_table(&parsed).expect("all of it fits");
        assert_eq!(
            serde_json::to_string(&Table(built.as_table()))
                .ok()
                .as_deref(),
            Some(text)
        );
        let field = built.as_table().get("a").expect("it is there");
        assert_eq!(field, FieldValue::Long(1));
        for bad in [
            r#"{"a":18446744073709551615}"#,
            &format!(r#"{{"{}":1}}"#, "k".repeat(256)),
        ] {
            let parsed: Object = serde_json::from_str(bad).expect("valid");
            assert!(to_table(&parsed).is_err(), "{bad}");
        }
    }
}
