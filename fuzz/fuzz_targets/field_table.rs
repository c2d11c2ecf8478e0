//! A field table is refused, or all of it can be read, written back octet for octet, printed and
//! changed.
#![no_main]

use leveret::wire::field_table::{FieldArray, TableBuilder};
use leveret::wire::{FieldTable, FieldValue, ShortString};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(array) = FieldArray::check(input) {
        array.iter().for_each(|value| walk(value, 0));
    }
    let Ok(table) = FieldTable::check(input) else {
        return;
    };
    let mut copy = TableBuilder::new();
    let mut octets = 0;
    for (key, value) in table.iter() {
        walk(value, 0);
        copy.push(key, value);
        octets += 1 + key.len();
        // Not for every value, since that one holds a NaN that nothing equals.
        let _ = (value.is_equivalent(value), value.as_integer());
    }
    // Nothing is skipped: the copy is as long, and the same but for `L` and odd truths.
    assert_eq!(copy.as_table().as_bytes().len(), input.len());
    assert!(octets <= input.len());
    assert!(FieldTable::check(copy.as_table().as_bytes()).is_ok());
    let _ = table.to_string();
    let key = ShortString::literal("x-death");
    let mut changed = TableBuilder::from_table(table);
    changed.set(key, FieldValue::Long(1));
    assert!(FieldTable::check(changed.as_table().as_bytes()).is_ok());
    assert_eq!(changed.as_table().get("x-death"), Some(FieldValue::Long(1)));
    changed.remove(key);
    assert_eq!(changed.as_table().get("x-death"), None);
});

/// Reads through everything; a checked table is never deeper than the limit.
fn walk(value: FieldValue<'_>, depth: usize) {
    assert!(depth < leveret::wire::field_table::DEPTH_MAX);
    match value {
        FieldValue::Table(table) => {
            let octets: usize = table.iter().map(|(key, _)| 2 + key.len()).sum();
            assert!(octets <= table.as_bytes().len());
            table.iter().for_each(|(_, value)| walk(value, depth + 1));
        }
        FieldValue::Array(array) => {
            assert_eq!(array.is_empty(), array.iter().next().is_none());
            array.iter().for_each(|value| walk(value, depth + 1));
        }
        _ => {}
    }
}
