//! How Erlang prints terms. RabbitMQ's reply texts contain them, and clients match on those texts.
//!
//! Bounded: nothing here prints more than a reply text can hold.

use std::fmt::{self, Write};

/// The columns of a line after which Erlang's pretty printer breaks it.
const COLUMNS: usize = 80;

/// `~w` of a binary: `<<1,2,3>>`, whatever the octets mean. Elements beyond what a reply text can
/// hold are left out.
#[derive(Clone, Copy, Debug)]
pub struct Binary<'a>(pub &'a [u8]);

impl fmt::Display for Binary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(super::reply_code::REPLY_TEXT_OCTETS_MAX)];
        f.write_str("<<")?;
        for (index, octet) in shown.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{octet}")?;
        }
        f.write_str(">>")
    }
}

/// Appends `~p` of a short binary to the last line of `text`: as a string when all of it can be
/// printed, else as numbers, on a new line where the line would grow beyond 80 columns.
pub fn pretty_binary(text: &mut String, octets: &[u8]) {
    print(text, octets, COLUMNS);
}

/// The same without line breaks, for binaries inside of other terms.
pub fn pretty_binary_line(text: &mut String, octets: &[u8]) {
    let shown = octets.len().min(super::reply_code::REPLY_TEXT_OCTETS_MAX);
    print(text, &octets[..shown], usize::MAX);
}

fn print(text: &mut String, octets: &[u8], columns: usize) {
    if octets.is_empty() {
        text.push_str("<<>>");
    } else if octets.iter().all(|&octet| is_printable(char::from(octet)))
        && (octets.is_ascii() || std::str::from_utf8(octets).is_err())
    {
        quote(text, octets.iter().map(|&octet| char::from(octet)));
        text.push_str(">>");
    } else if let Ok(utf8) = std::str::from_utf8(octets)
        && utf8.chars().all(is_printable)
    {
        quote(text, utf8.chars());
        text.push_str("/utf8>>");
    } else {
        numbers(text, octets, columns);
    }
}

fn numbers(text: &mut String, octets: &[u8], columns: usize) {
    let line_start = text.rfind('\n').map_or(0, |newline| newline + 1);
    let indent = text.len() - line_start + 2;
    let mut column = indent;
    text.push_str("<<");
    for (index, octet) in octets.iter().enumerate() {
        let last = index + 1 == octets.len();
        let mut element = octet.to_string();
        element.push_str(if last { ">>" } else { "," });
        // The end of the last line may stand out.
        let counted = element.len() - if last { 2 } else { 0 };
        if column + counted >= columns {
            let _ = write!(text, "\n{:indent$}", "");
            column = indent;
        }
        column += element.len();
        text.push_str(&element);
    }
}

fn quote(text: &mut String, characters: impl Iterator<Item = char>) {
    text.push_str("<<\"");
    for character in characters {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\x0B' => text.push_str("\\v"),
            '\x08' => text.push_str("\\b"),
            '\x0C' => text.push_str("\\f"),
            '\x1B' => text.push_str("\\e"),
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            other => text.push(other),
        }
    }
    text.push('"');
}

fn is_printable(character: char) -> bool {
    matches!(character, ' '..='~' | '\u{A0}'.. | '\x08'..='\r' | '\x1B')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_broken_where_erlang_breaks_them() {
        // Printed by `io_lib:format("type ~tp, ~ts octets = ~tp")` of Erlang/OTP 25.
        let check = |octets: &[u8], expected: &str| {
            let mut text = "type 121, first 16 octets = ".to_owned();
            pretty_binary(&mut text, octets);
            assert_eq!(text, expected);
        };
        check(
            &[
                0, 100, 100, 0, 10, 10, 10, 0, 0, 100, 10, 10, 100, 100, 10, 100,
            ],
            "type 121, first 16 octets = <<0,100,100,0,10,10,10,0,0,100,10,10,100,100,10,100>>",
        );
        check(
            &[
                216, 234, 222, 202, 225, 246, 227, 248, 218, 222, 201, 206, 204, 233, 205, 15,
            ],
            "type 121, first 16 octets = <<216,234,222,202,225,246,227,248,218,222,201,206,\n                              204,233,205,15>>",
        );
        check(
            b"abc\n\t\"\\\x1B\x08",
            r#"type 121, first 16 octets = <<"abc\n\t\"\\\e\b">>"#,
        );
        check(b"", "type 121, first 16 octets = <<>>");
        check(b"a\x7F", "type 121, first 16 octets = <<97,127>>");
        check(
            &[197, 138, 37],
            "type 121, first 16 octets = <<\"Ŋ%\"/utf8>>",
        );
    }

    #[test]
    fn plain_binaries_are_numbers_and_bounded() {
        assert_eq!(Binary(b"").to_string(), "<<>>");
        assert_eq!(Binary(b"\x01\xFFa").to_string(), "<<1,255,97>>");
        assert!(Binary(&[1; 7_000]).to_string().len() < 600);
        let mut text = String::new();
        pretty_binary_line(&mut text, &[1; 7_000]);
        assert!(text.len() < 600 && !text.contains('\n'));
    }
}
