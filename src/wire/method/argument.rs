//! How one argument of a method is read, written and shown (spec 4.2.5).

use crate::wire::field_table::{self, FieldTable, TableError};
use crate::wire::{DeliveryTag, ShortString, WireError};
use std::fmt::{self, Write};

/// Why arguments cannot be read.
pub(super) enum Fault {
    /// Cut short, too long, or a malformed table.
    Malformed,
    /// A short string that is no UTF-8.
    Utf8,
    /// A table that is nested too deep.
    TooDeep,
}

/// Reads arguments from front to back; consecutive bits share an octet (spec 4.2.5.2).
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet of bits that was read last.
    bits: u8,
    /// The next bit in it, 8 when there is none.
    next_bit: u8,
    /// Whether short strings must be UTF-8. Not in methods that carry content, for speed, as in
    /// RabbitMQ.
    check_utf8: bool,
}

impl<'a> Reader<'a> {
    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (&head, rest) = self.rest.split_first_chunk().ok_or(Fault::Malformed)?;
        self.rest = rest;
        self.next_bit = 8;
        Ok(head)
    }

    #[inline]
    fn octets(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Fault::Malformed)?;
        self.rest = rest;
        Ok(head)
    }
}

/// Reads a whole method with `read`; `octets` must end where its arguments do.
#[inline]
pub(super) fn decode<'a, T>(
    octets: &'a [u8],
    check_utf8: bool,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut reader = Reader {
        rest: octets,
        bits: 0,
        next_bit: 8,
        check_utf8,
    };
    let method = read(&mut reader)?;
    if reader.rest.is_empty() {
        Ok(method)
    } else {
        Err(Fault::Malformed)
    }
}

/// Writes arguments one after the other.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    next_bit: u8,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out, next_bit: 8 }
    }

    #[inline]
    fn put(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        self.next_bit = 8;
    }
}

/// A type that an argument can have.
pub(super) trait Argument<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault>;
    fn write(&self, writer: &mut Writer<'_>);
    /// Shows the argument in a trace line, with a blank before it, or nothing when it says nothing.
    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

macro_rules! number {
    ($($number:ty),*) => {$(
        impl<'a> Argument<'a> for $number {
            #[inline]
            fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
                reader.fixed().map(<$number>::from_be_bytes)
            }

            #[inline]
            fn write(&self, writer: &mut Writer<'_>) {
                writer.put(&self.to_be_bytes());
            }

            fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if name == "ticket" { Ok(()) } else { write!(f, " {name}={self}") }
            }
        }
    )*};
}

number!(u8, u16, u32, u64);

impl<'a> Argument<'a> for DeliveryTag {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        u64::read(reader).map(DeliveryTag)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        self.0.write(writer);
    }

    fn show(&self, _: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " tag={self}")
    }
}

impl<'a> Argument<'a> for bool {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        if reader.next_bit == 8 {
            [reader.bits] = reader.fixed()?;
            reader.next_bit = 0;
        }
        let bit = reader.bits >> reader.next_bit & 1;
        reader.next_bit += 1;
        Ok(bit != 0)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        if writer.next_bit == 8 {
            writer.put(&[0]);
            writer.next_bit = 0;
        }
        if let Some(bits) = writer.out.last_mut() {
            *bits |= u8::from(*self) << writer.next_bit;
        }
        writer.next_bit += 1;
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self { write!(f, " {name}") } else { Ok(()) }
    }
}

impl<'a> Argument<'a> for ShortString<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let [length] = reader.fixed()?;
        let octets = reader.octets(length.into())?;
        if reader.check_utf8 && std::str::from_utf8(octets).is_err() {
            return Err(Fault::Utf8);
        }
        ShortString::new(octets).ok_or(Fault::Malformed)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        self.encode(writer.out);
        writer.next_bit = 8;
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match name {
            "exchange" => "ex",
            "routing_key" => "rk",
            "queue" => "q",
            name => name,
        };
        write!(f, " {name}={self:?}")
    }
}

/// A long string. Trace lines tell its length only: it may be a password.
impl<'a> Argument<'a> for &'a [u8] {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let length = u32::from_be_bytes(reader.fixed()?);
        reader.octets(length as usize)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        field_table::encode_long(writer.out, self);
        writer.next_bit = 8;
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {name}={}B", self.len())
    }
}

impl<'a> Argument<'a> for FieldTable<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        FieldTable::check(<&[u8]>::read(reader)?).map_err(|error| match error {
            TableError::Malformed => Fault::Malformed,
            TableError::TooDeep => Fault::TooDeep,
        })
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        self.as_bytes().write(writer);
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longest part of a table that a trace line shows, in octets.
        const SHOWN_MAX: usize = 200;
        if self.is_empty() {
            return Ok(());
        }
        let mut shown = Bounded {
            text: String::new(),
            octets_max: SHOWN_MAX,
        };
        let whole = write!(shown, "{self}").is_ok();
        write!(f, " {name}={}{}", shown.text, if whole { "" } else { "…" })
    }
}

/// Takes text up to a bound and then fails, which ends the printing.
struct Bounded {
    text: String,
    octets_max: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = self.octets_max - self.text.len();
        let fits = piece.floor_char_boundary(room);
        self.text.push_str(&piece[..fits]);
        if fits == piece.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

impl Fault {
    /// The error for the arguments `octets` of a method.
    #[cold]
    #[inline(never)]
    pub(super) fn into_error(self, class_id: u16, method_id: u16, octets: &[u8]) -> WireError {
        match self {
            Fault::Malformed => WireError::arguments(class_id, method_id, octets),
            Fault::Utf8 => WireError::MalformedUtf8,
            Fault::TooDeep => WireError::TableTooDeep,
        }
    }
}
