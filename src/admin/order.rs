//! The order of listings.

use super::filter::Item;
use super::json::Object;
use super::listing::at_path;
use super::view::{Cursor, DestinationKind, Row};
use serde_json::Value;
use std::cmp::Ordering;

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

    /// The value at `path` of the rendered row.
    pub(super) fn of_column(object: &Object, path: &[String]) -> SortKey {
        match at_path(object, path) {
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

/// The order of a listing.
pub(super) fn compare(
    left: &(SortKey, Cursor),
    right: &(SortKey, Cursor),
    reverse: bool,
) -> Ordering {
    let order = left.0.compare(&right.0);
    // Equal keys stay in the state's order either way, so that pages fit together.
    (if reverse { order.reverse() } else { order }).then(left.1.cmp(&right.1))
}
