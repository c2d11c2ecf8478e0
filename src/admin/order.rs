//! The order of listings.

use super::filter::Item;
use super::json::{self, QueueFields};
use super::listing::at_path;
use super::view::{Cursor, DestinationKind, Row};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What rows are sorted by. As in Erlang, numbers come before everything else.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SortKey {
    Number(f64),
    Nothing,
    Text(Box<[u8]>),
}

impl SortKey {
    /// The order in which RabbitMQ lists: virtual host, then name.
    pub(super) fn natural(item: &Item<'_>) -> SortKey {
        let join = |parts: &[&[u8]]| SortKey::Text(parts.join(&0).into());
        let row = match item {
            Item::Row(row) => row,
            Item::User(user) => return join(&[user.name().as_bytes()]),
            Item::Permission(user, vhost, _) => {
                return join(&[vhost.as_bytes(), user.name().as_bytes()]);
            }
        };
        match row {
            Row::Vhost(row) => join(&[row.name.as_bytes()]),
            Row::Queue(row) => join(&[row.vhost.as_bytes(), row.name]),
            Row::Exchange(row) => join(&[row.vhost.as_bytes(), row.name]),
            Row::Binding(row) => {
                let kind: &[u8] = match row.destination_kind {
                    DestinationKind::Exchange => b"e",
                    DestinationKind::Queue => b"q",
                };
                join(&[
                    row.vhost.as_bytes(),
                    row.source,
                    kind,
                    row.destination,
                    row.routing_key,
                ])
            }
            Row::Connection(row) => join(&[row.vhost.as_bytes(), row.name.name]),
            Row::Channel(row) => join(&[
                row.vhost.as_bytes(),
                row.connection.name,
                &row.number.to_be_bytes(),
            ]),
            Row::Consumer(row) => join(&[row.vhost.as_bytes(), row.queue, row.consumer_tag]),
        }
    }

    /// The value of a column.
    pub(super) fn of_column(
        item: &Item<'_>,
        path: &[String],
        node: &str,
        fields: QueueFields,
    ) -> SortKey {
        let columns = [path.to_vec()];
        let object = json::object(&columns, |to| item.write(to, node, fields));
        match at_path(&object, path) {
            Some(Value::Number(number)) => SortKey::Number(number.as_f64().unwrap_or_default()),
            Some(Value::String(text)) => SortKey::Text(text.as_bytes().into()),
            Some(Value::Bool(value)) => SortKey::Text(value.to_string().into_bytes().into()),
            _ => SortKey::Nothing,
        }
    }

    fn compare(&self, other: &SortKey) -> Ordering {
        let rank = |key: &SortKey| match key {
            SortKey::Number(_) => 0,
            SortKey::Nothing => 1,
            SortKey::Text(_) => 2,
        };
        match (self, other) {
            (SortKey::Number(left), SortKey::Number(right)) => left.total_cmp(right),
            (SortKey::Text(left), SortKey::Text(right)) => left.cmp(right),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// What was collected: runs of keys, each sorted as it came, merged as it is taken. So no step has
/// to sort everything.
pub(super) struct Runs {
    reverse: bool,
    sorted: Vec<std::vec::IntoIter<Entry>>,
    /// The next entry of each run, once taking has begun.
    heads: BinaryHeap<Head>,
    count: usize,
}

type Entry = (SortKey, Cursor);

/// The first entry of a run; the greatest in the heap is the next one.
struct Head {
    entry: Entry,
    run: usize,
    reverse: bool,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&other.entry, &self.entry, self.reverse)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl Runs {
    /// Nothing collected.
    ///
    /// * `reverse`: the greatest comes first.
    pub(super) fn new(reverse: bool) -> Self {
        Runs {
            reverse,
            sorted: Vec::new(),
            heads: BinaryHeap::new(),
            count: 0,
        }
    }

    /// How many entries are left.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds entries in any order, as one run.
    pub(super) fn push(&mut self, mut entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        entries.sort_unstable_by(|left, right| compare(left, right, self.reverse));
        self.count += entries.len();
        self.sorted.push(entries.into_iter());
    }

    /// Keeps the first `window` entries.
    pub(super) fn keep(&mut self, window: usize) {
        let mut entries: Vec<Entry> = self.sorted.drain(..).flatten().collect();
        if (1..entries.len()).contains(&window) {
            let reverse = self.reverse;
            entries.select_nth_unstable_by(window - 1, |left, right| compare(left, right, reverse));
            entries.truncate(window);
        }
        self.count = 0;
        self.push(entries);
    }

    /// Takes the next entry.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        if self.heads.is_empty() && self.count > 0 {
            for run in 0..self.sorted.len() {
                self.advance(run);
            }
        }
        let Head { entry, run, .. } = self.heads.pop()?;
        self.count -= 1;
        self.advance(run);
        Some(entry)
    }

    fn advance(&mut self, run: usize) {
        let reverse = self.reverse;
        if let Some(entry) = self.sorted[run].next() {
            self.heads.push(Head {
                entry,
                run,
                reverse,
            });
        }
    }
}

/// The order of two entries. Equal keys stay in the state's order either way, so that pages fit
/// together.
fn compare(left: &Entry, right: &Entry, reverse: bool) -> Ordering {
    let order = left.0.compare(&right.0);
    (if reverse { order.reverse() } else { order }).then(left.1.cmp(&right.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(letter: u64, place: u64) -> Entry {
        let text = letter.to_be_bytes().to_vec().into_boxed_slice();
        (
            SortKey::Text(text),
            Cursor {
                major: place,
                minor: 0,
            },
        )
    }

    fn taken(mut runs: Runs) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        while let Some((key, cursor)) = runs.pop() {
            let SortKey::Text(text) = key else {
                panic!("only texts went in")
            };
            let letter = u64::from_be_bytes((*text).try_into().expect("eight octets"));
            all.push((letter, cursor.major));
        }
        assert_eq!(runs.len(), 0);
        all
    }

    #[test]
    fn runs_are_merged_into_one_order() {
        for reverse in [false, true] {
            for window in [0, 1, 7, 50, 1000] {
                let mut runs = Runs::new(reverse);
                let mut expected = Vec::new();
                for run in 0..7 {
                    let entries: Vec<Entry> = (0..run * 3)
                        .map(|place| entry((place * 31 + run * 17) % 10, run * 100 + place))
                        .collect();
                    expected.extend(
                        (0..run * 3).map(|place| ((place * 31 + run * 17) % 10, run * 100 + place)),
                    );
                    runs.push(entries);
                }
                expected.sort_by(|left, right| {
                    let order = left.0.cmp(&right.0);
                    (if reverse { order.reverse() } else { order }).then(left.1.cmp(&right.1))
                });
                assert_eq!(runs.len(), expected.len());
                if window > 0 {
                    runs.keep(window);
                    expected.truncate(window);
                }
                assert_eq!(taken(runs), expected, "reverse {reverse}, window {window}");
            }
        }
    }

    #[test]
    fn numbers_come_before_nothing_before_texts() {
        let text = |text: &str| SortKey::Text(text.as_bytes().into());
        let keys = [
            SortKey::Number(-1.0),
            SortKey::Number(2.0),
            SortKey::Nothing,
            text(""),
            text("a"),
        ];
        for (place, key) in keys.iter().enumerate() {
            for (other_place, other) in keys.iter().enumerate() {
                assert_eq!(key.compare(other), place.cmp(&other_place));
            }
        }
    }
}
