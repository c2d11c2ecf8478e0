//! Values of AMQP as the tests see them: octets to values, values to octets, values in words.

use std::fmt::{self, Write};

use crate::methods::FieldType;

/// The value of one argument or property.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bit(bool),
    Number(u64),
    Text(Vec<u8>),
    Table(Table),
}

/// A field table: pairs in the order of the wire, the same name possibly twice.
pub(crate) type Table = Vec<(Vec<u8>, Field)>;

/// A value in a field table or array, with the letter that it had or will have on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    Bool(bool),
    /// Letters b B s u I i l L.
    Integer(u8, i64),
    Float(f32),
    Double(f64),
    /// Scale and value.
    Decimal(u8, u32),
    /// Letters S and x.
    Octets(u8, Vec<u8>),
    Array(Vec<Field>),
    Table(Table),
    Timestamp(u64),
    Void,
}

impl Value {
    /// What an argument has that nobody spoke of: false, zero, empty.
    pub(crate) fn default_of(kind: FieldType) -> Value {
        match kind {
            FieldType::Bit => Value::Bit(false),
            FieldType::Octet
            | FieldType::Short
            | FieldType::Long
            | FieldType::Longlong
            | FieldType::Timestamp => Value::Number(0),
            FieldType::Shortstr | FieldType::Longstr => Value::Text(Vec::new()),
            FieldType::Table => Value::Table(Vec::new()),
        }
    }
}

/// Writes arguments in order; bits that stand side by side share octets (spec 4.2.5.2).
///
/// # Errors
/// A sentence, when a value does not fit its type.
pub(crate) fn encode_arguments(
    arguments: impl Iterator<Item = (&'static str, FieldType)>,
    values: &[Value],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut bits: Option<(u8, u8)> = None;
    for ((name, kind), value) in arguments.zip(values) {
        if let (FieldType::Bit, Value::Bit(bit)) = (kind, value) {
            let (octet, place) = match bits.take() {
                Some((octet, place)) if place < 8 => (octet, place),
                Some((octet, _)) => {
                    out.push(octet);
                    (0, 0)
                }
                None => (0, 0),
            };
            bits = Some((octet | u8::from(*bit) << place, place + 1));
            continue;
        }
        if let Some((octet, _)) = bits.take() {
            out.push(octet);
        }
        encode_value(kind, value, out).map_err(|why| format!("{name}: {why}"))?;
    }
    if let Some((octet, _)) = bits {
        out.push(octet);
    }
    Ok(())
}

/// Writes one value that is not a bit.
///
/// # Errors
/// A sentence, when the value does not fit its type.
pub(crate) fn encode_value(
    kind: FieldType,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let unfit = || format!("{value} does not fit {kind:?}");
    match (kind, value) {
        (FieldType::Octet, Value::Number(n)) => out.push(u8::try_from(*n).map_err(|_| unfit())?),
        (FieldType::Short, Value::Number(n)) => {
            out.extend(u16::try_from(*n).map_err(|_| unfit())?.to_be_bytes());
        }
        (FieldType::Long, Value::Number(n)) => {
            out.extend(u32::try_from(*n).map_err(|_| unfit())?.to_be_bytes());
        }
        (FieldType::Longlong | FieldType::Timestamp, Value::Number(n)) => {
            out.extend(n.to_be_bytes());
        }
        (FieldType::Shortstr, Value::Text(octets)) => {
            out.push(u8::try_from(octets.len()).map_err(|_| unfit())?);
            out.extend(octets);
        }
        (FieldType::Longstr, Value::Text(octets)) => encode_long(octets, out),
        // A mechanism's response may be a table without its length (AMQPLAIN).
        (FieldType::Longstr, Value::Table(table)) => {
            let mut inner = Vec::new();
            encode_pairs(table, &mut inner);
            encode_long(&inner, out);
        }
        (FieldType::Table, Value::Table(table)) => encode_table(table, out),
        _ => return Err(unfit()),
    }
    Ok(())
}

fn encode_long(octets: &[u8], out: &mut Vec<u8>) {
    out.extend((octets.len() as u32).to_be_bytes());
    out.extend(octets);
}

/// Writes a table with its length.
pub(crate) fn encode_table(table: &Table, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    encode_pairs(table, &mut inner);
    encode_long(&inner, out);
}

fn encode_pairs(table: &Table, out: &mut Vec<u8>) {
    for (name, field) in table {
        out.push(name.len() as u8);
        out.extend(name);
        encode_field(field, out);
    }
}

#[expect(
    clippy::cast_sign_loss,
    reason = "the wire wants the low octets as they are"
)]
fn encode_field(field: &Field, out: &mut Vec<u8>) {
    match field {
        Field::Bool(b) => out.extend([b't', u8::from(*b)]),
        Field::Integer(letter, n) => {
            out.push(*letter);
            match letter {
                b'b' | b'B' => out.push(*n as u8),
                b's' | b'u' => out.extend((*n as u16).to_be_bytes()),
                b'I' | b'i' => out.extend((*n as u32).to_be_bytes()),
                _ => out.extend(n.to_be_bytes()),
            }
        }
        Field::Float(x) => {
            out.push(b'f');
            out.extend(x.to_be_bytes());
        }
        Field::Double(x) => {
            out.push(b'd');
            out.extend(x.to_be_bytes());
        }
        Field::Decimal(scale, n) => {
            out.extend([b'D', *scale]);
            out.extend(n.to_be_bytes());
        }
        Field::Octets(letter, octets) => {
            out.push(*letter);
            encode_long(octets, out);
        }
        Field::Array(items) => {
            out.push(b'A');
            let mut inner = Vec::new();
            for item in items {
                encode_field(item, &mut inner);
            }
            encode_long(&inner, out);
        }
        Field::Table(table) => {
            out.push(b'F');
            encode_table(table, out);
        }
        Field::Timestamp(n) => {
            out.push(b'T');
            out.extend(n.to_be_bytes());
        }
        Field::Void => out.push(b'V'),
    }
}

/// Reads octets from the front; every error is a sentence.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, octets: usize) -> Result<&'a [u8], String> {
        if octets > self.0.len() {
            return Err(format!("{octets} octets wanted, {} there", self.0.len()));
        }
        let (head, tail) = self.0.split_at(octets);
        self.0 = tail;
        Ok(head)
    }

    /// An unsigned number of `octets` octets, at most eight.
    pub(crate) fn number(&mut self, octets: usize) -> Result<u64, String> {
        Ok(self
            .take(octets)?
            .iter()
            .fold(0, |n, octet| n << 8 | u64::from(*octet)))
    }

    fn signed(&mut self, octets: usize) -> Result<i64, String> {
        let shift = 64 - 8 * octets as u32;
        Ok((self.number(octets)?.cast_signed() << shift) >> shift)
    }

    fn long_octets(&mut self) -> Result<&'a [u8], String> {
        let octets = self.number(4)? as usize;
        self.take(octets)
    }

    /// One value that is not a bit.
    pub(crate) fn value(&mut self, kind: FieldType) -> Result<Value, String> {
        Ok(match kind {
            FieldType::Bit => unreachable!("bits are read together"),
            FieldType::Octet => Value::Number(self.number(1)?),
            FieldType::Short => Value::Number(self.number(2)?),
            FieldType::Long => Value::Number(self.number(4)?),
            FieldType::Longlong | FieldType::Timestamp => Value::Number(self.number(8)?),
            FieldType::Shortstr => {
                let octets = self.number(1)? as usize;
                Value::Text(self.take(octets)?.to_vec())
            }
            FieldType::Longstr => Value::Text(self.long_octets()?.to_vec()),
            FieldType::Table => Value::Table(self.table()?),
        })
    }

    fn table(&mut self) -> Result<Table, String> {
        let mut inner = Reader(self.long_octets()?);
        let mut table = Table::new();
        while !inner.0.is_empty() {
            let octets = inner.number(1)? as usize;
            let name = inner.take(octets)?.to_vec();
            table.push((name, inner.field()?));
        }
        Ok(table)
    }

    fn field(&mut self) -> Result<Field, String> {
        let letter = self.number(1)? as u8;
        Ok(match letter {
            b't' => Field::Bool(self.number(1)? != 0),
            b'b' => Field::Integer(letter, self.signed(1)?),
            b'B' => Field::Integer(letter, self.number(1)?.cast_signed()),
            b's' => Field::Integer(letter, self.signed(2)?),
            b'u' => Field::Integer(letter, self.number(2)?.cast_signed()),
            b'I' => Field::Integer(letter, self.signed(4)?),
            b'i' => Field::Integer(letter, self.number(4)?.cast_signed()),
            b'l' | b'L' => Field::Integer(letter, self.signed(8)?),
            b'f' => Field::Float(f32::from_bits(self.number(4)? as u32)),
            b'd' => Field::Double(f64::from_bits(self.number(8)?)),
            b'D' => Field::Decimal(self.number(1)? as u8, self.number(4)? as u32),
            b'S' | b'x' => Field::Octets(letter, self.long_octets()?.to_vec()),
            b'A' => {
                let mut inner = Reader(self.long_octets()?);
                let mut items = Vec::new();
                while !inner.0.is_empty() {
                    items.push(inner.field()?);
                }
                Field::Array(items)
            }
            b'F' => Field::Table(self.table()?),
            b'T' => Field::Timestamp(self.number(8)?),
            b'V' => Field::Void,
            other => return Err(format!("no field type {:?}", other as char)),
        })
    }

    /// Arguments in order; what is left over is an error.
    pub(crate) fn arguments(
        &mut self,
        arguments: impl Iterator<Item = (&'static str, FieldType)>,
    ) -> Result<Vec<Value>, String> {
        let mut values = Vec::new();
        let mut bits: Option<(u64, u32)> = None;
        for (_, kind) in arguments {
            if kind == FieldType::Bit {
                let (octet, place) = match bits.take() {
                    Some((octet, place)) if place < 8 => (octet, place),
                    _ => (self.number(1)?, 0),
                };
                values.push(Value::Bit(octet >> place & 1 == 1));
                bits = Some((octet, place + 1));
            } else {
                bits = None;
                values.push(self.value(kind)?);
            }
        }
        if self.0.is_empty() {
            Ok(values)
        } else {
            Err(format!("{} octets left over", self.0.len()))
        }
    }
}

/// Octets between single quotes, as a script would write them; long ones are cut.
pub(crate) fn quoted(octets: &[u8]) -> String {
    const SHOWN_MAX: usize = 400;
    let shown = &octets[..octets.len().min(SHOWN_MAX)];
    let mut out = String::from("'");
    match std::str::from_utf8(shown) {
        Ok(text) => out.push_str(&text.escape_debug().to_string().replace("\\\"", "\"")),
        Err(_) => shown.iter().for_each(|octet| match octet {
            0x20..=0x7E => out.push(*octet as char),
            _ => write!(out, "\\x{octet:02x}").expect("writing to a string works"),
        }),
    }
    out.push('\'');
    if octets.len() > SHOWN_MAX {
        write!(out, " (the first of {} octets)", octets.len()).expect("writing to a string works");
    }
    out
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bit(bit) => write!(f, "{bit}"),
            Value::Number(n) => write!(f, "{n}"),
            Value::Text(octets) => f.write_str(&quoted(octets)),
            Value::Table(table) => write_table(table, f),
        }
    }
}

fn write_table(table: &Table, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("{")?;
    for (place, (name, field)) in table.iter().enumerate() {
        let separator = if place == 0 { "" } else { ", " };
        write!(f, "{separator}{}={field}", String::from_utf8_lossy(name))?;
    }
    f.write_str("}")
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Bool(b) => write!(f, "{b}"),
            Field::Integer(letter, n) => write!(f, "{}:{n}", *letter as char),
            Field::Float(x) => write!(f, "f:{x}"),
            Field::Double(x) => write!(f, "d:{x}"),
            Field::Decimal(scale, n) => write!(f, "D:{n}/{scale}"),
            Field::Octets(b'S', octets) => f.write_str(&quoted(octets)),
            Field::Octets(_, octets) => write!(f, "x:{}", quoted(octets)),
            Field::Array(items) => {
                f.write_str("[")?;
                for (place, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if place == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Field::Table(table) => write_table(table, f),
            Field::Timestamp(n) => write!(f, "T:{n}"),
            Field::Void => f.write_str("V"),
        }
    }
}
