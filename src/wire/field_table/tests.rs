//! Reading, building and printing, octet for octet.

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
