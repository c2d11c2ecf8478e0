//! The API as a whole, over a small server that exists in memory only.

mod access;
mod change;
mod http;
mod listing;

use super::*;
use crate::auth::{PermissionTexts, Secret, Users, base64};
use crate::clock::Now;
use crate::config::Limits;
use crate::wire::ShortString;
use crate::wire::field_table::{FieldTable, FieldValue, TableBuilder};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A queue of [`Fake`].
pub(crate) struct FakeQueue {
    vhost: String,
    name: Vec<u8>,
    ready: u64,
    durable: bool,
}

/// A server that only shows rows and notes commands.
pub(crate) struct Fake {
    users: Users,
    vhosts: Vec<String>,
    queues: Vec<FakeQueue>,
    arguments: TableBuilder,
    /// Commands are answered later.
    is_slow: bool,
    pub(crate) commands: Vec<String>,
    pub(crate) answer: AdminAnswer,
    pub(crate) alarm: bool,
    pub(crate) serving: bool,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Fake {
    pub(crate) fn new() -> Self {
        let mut users = Users::new(vec!["guest".to_owned()], 100);
        let all = PermissionTexts {
            configure: ".*",
            write: ".*",
            read: ".*",
        };
        let mine = PermissionTexts {
            configure: "^mine",
            write: "",
            read: "^mine",
        };
        for (name, tag) in [
            ("guest", "administrator"),
            ("mon", "monitoring"),
            ("man", "management"),
            ("app", ""),
        ] {
            let secret = Secret::Password {
                password: name.as_bytes(),
                salt: [1, 2, 3, 4],
            };
            users
                .put(name, secret, Some(vec![tag.to_owned()]))
                .expect("valid");
        }
        users.set_permission("guest", "/", all).expect("valid");
        users.set_permission("man", "/", mine).expect("valid");
        let arguments = TableBuilder::new().with(
            ShortString::literal("x-message-ttl"),
            FieldValue::SignedInt(60_000),
        );
        Fake {
            users,
            vhosts: vec!["/".to_owned(), "other".to_owned()],
            queues: Vec::new(),
            arguments,
            is_slow: false,
            commands: Vec::new(),
            answer: Ok(Outcome::Created),
            alarm: false,
            serving: true,
        }
    }

    pub(crate) fn users_mut(&mut self) -> &mut Users {
        &mut self.users
    }

    pub(crate) fn with_queues(count: usize) -> Self {
        let mut fake = Fake::new();
        // Not in the order of their names, so that sorting shows.
        for number in (0..count).rev() {
            let name = format!("q{number:05}").into_bytes();
            fake.queues.push(FakeQueue {
                vhost: "/".to_owned(),
                name,
                ready: number as u64 * 7 % 11,
                durable: true,
            });
        }
        fake
    }

    fn queue_row<'a>(&'a self, queue: &'a FakeQueue) -> QueueRow<'a> {
        QueueRow {
            vhost: &queue.vhost,
            name: &queue.name,
            kind: "classic",
            durable: queue.durable,
            auto_delete: false,
            exclusive: false,
            owner: None,
            arguments: self.arguments.as_table(),
            messages_ready: queue.ready,
            messages_unacknowledged: 1,
            messages_persistent: queue.ready,
            octets_ready: 10 * queue.ready,
            octets_unacknowledged: 10,
            consumers: 1,
            exclusive_consumer_tag: None,
            single_active_consumer_tag: None,
            memory_octets: 500,
            idle_since_ms: Some(0),
            state: "running",
            stats: MessageStats {
                publish: Counter {
                    total: 9,
                    rate: 2.5,
                },
                ..MessageStats::default()
            },
        }
    }

    fn row_at(&self, table: Table, place: usize) -> Option<Row<'_>> {
        let connection = ConnectionName {
            name: b"127.0.0.1:9 -> 127.0.0.1:5672",
            peer: address("127.0.0.1:9"),
        };
        Some(match (table, place) {
            (Table::Vhosts, _) => Row::Vhost(VhostRow {
                name: self.vhosts.get(place)?,
                description: "about",
                tags: &[],
                default_queue_type: None,
                messages_ready: 1,
                messages_unacknowledged: 2,
            }),
            (Table::Queues, _) => Row::Queue(self.queue_row(self.queues.get(place)?)),
            (Table::Exchanges, 0) => Row::Exchange(ExchangeRow {
                vhost: "/",
                name: b"",
                kind: "direct",
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: FieldTable::EMPTY,
                publish_in: 3.into(),
                publish_out: 3.into(),
            }),
            (Table::Bindings, 0 | 1) => Row::Binding(BindingRow {
                vhost: "/",
                source: b"logs",
                destination: if place == 0 { b"orders" } else { b"audit" },
                destination_kind: if place == 0 {
                    DestinationKind::Queue
                } else {
                    DestinationKind::Exchange
                },
                routing_key: b"a.*",
                arguments: FieldTable::EMPTY,
            }),
            (Table::Connections, 0) => Row::Connection(ConnectionRow {
                name: connection,
                local: address("127.0.0.1:5672"),
                state: "running",
                user: "guest",
                vhost: "/",
                auth_mechanism: "PLAIN",
                channels: 1,
                channel_max: 2047,
                frame_max: 131_072,
                heartbeat_s: 60,
                connected_at_ms: 1,
                client_properties: FieldTable::EMPTY,
                received_octets: 100.into(),
                sent_octets: 200.into(),
                received_count: 1,
                sent_count: 2,
                pending_octets: 0,
            }),
            (Table::Channels, 0) => Row::Channel(ChannelRow {
                connection,
                number: 1,
                user: "guest",
                vhost: "/",
                state: "running",
                confirm: true,
                transactional: false,
                consumer_count: 1,
                prefetch_count: 10,
                global_prefetch_count: 0,
                messages_unacknowledged: 1,
                messages_unconfirmed: 0,
                messages_uncommitted: 0,
                acks_uncommitted: 0,
                idle_since_ms: None,
                stats: MessageStats::default(),
            }),
            (Table::Consumers, 0) => Row::Consumer(ConsumerRow {
                vhost: "/",
                queue: b"q00000",
                consumer_tag: b"tag",
                connection,
                channel: 1,
                user: "guest",
                ack_required: true,
                exclusive: false,
                active: true,
                prefetch_count: 10,
                arguments: FieldTable::EMPTY,
            }),
            _ => return None,
        })
    }
}

impl Admin for Fake {
    fn overview(&self, _: Now) -> Overview<'_> {
        Overview {
            product: "RabbitMQ",
            version: "4.1.0",
            node: "rabbit@here",
            cluster_name: "here",
            mechanisms: "PLAIN AMQPLAIN",
            queues: self.queues.len() as u64,
            messages_ready: 5,
            messages_unacknowledged: 2,
            memory_alarm: self.alarm,
            is_serving: self.serving,
            connections_max: 10,
            ..Overview::default()
        }
    }

    fn listeners(&self, visit: &mut dyn FnMut(ListenerRow)) {
        visit(ListenerRow {
            protocol: "amqp",
            address: address("[::]:5672"),
        });
        visit(ListenerRow {
            protocol: "http",
            address: address("[::]:15672"),
        });
    }

    fn users(&self) -> &Users {
        &self.users
    }

    fn has_vhost(&self, vhost: &str) -> bool {
        self.vhosts.iter().any(|other| other == vhost)
    }

    fn rows(
        &self,
        table: Table,
        _: Scope<'_>,
        from: Cursor,
        rows_max: usize,
        visit: &mut dyn FnMut(Cursor, Row<'_>),
    ) -> Option<Cursor> {
        assert!((1..=1024).contains(&rows_max), "a slice is bounded");
        let mut place = from.major;
        for _ in 0..rows_max {
            let row = self.row_at(table, place as usize)?;
            visit(
                Cursor {
                    major: place,
                    minor: 0,
                },
                row,
            );
            place += 1;
        }
        self.row_at(table, place as usize).map(|_| Cursor {
            major: place,
            minor: 0,
        })
    }

    fn queue(&self, vhost: &str, name: &[u8], visit: &mut dyn FnMut(QueueRow<'_>)) -> bool {
        let found = self
            .queues
            .iter()
            .find(|queue| queue.vhost == vhost && queue.name == name);
        found.map(|queue| visit(self.queue_row(queue))).is_some()
    }

    fn exchange(&self, vhost: &str, name: &[u8], visit: &mut dyn FnMut(ExchangeRow<'_>)) -> bool {
        match self.row_at(Table::Exchanges, 0) {
            Some(Row::Exchange(row)) if vhost == "/" && name.is_empty() => {
                visit(row);
                true
            }
            _ => false,
        }
    }

    fn command(&mut self, _: Now, _: HttpId, command: AdminCommand<'_>) -> Option<AdminAnswer> {
        self.commands.push(format!("{command:?}"));
        (!self.is_slow).then(|| self.answer.clone())
    }
}

fn at(ms: u64) -> Now {
    Now {
        monotonic_us: ms * 1000,
        wall_ms: ms,
    }
}

fn connection(peer: HttpPeer) -> HttpConnection {
    HttpConnection::new(at(0), HttpId(1), peer, &Limits::default())
}

fn remote() -> HttpPeer {
    HttpPeer::Remote(address("127.0.0.1:1").ip())
}

/// Gives `octets` to a connection and drives it until it waits, draining `out` as it goes.
fn drive(http: &mut HttpConnection, admin: &mut Fake, octets: &[u8]) -> (Vec<u8>, Progress) {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    let mut progress = http.receive(at(0), octets, admin, &mut out);
    for _ in 0..100_000 {
        assert!(out.len() < 2_000_000, "an outbox is bounded");
        all.append(&mut out);
        if progress != Progress::Resume {
            return (all, progress);
        }
        progress = http.resume(at(0), admin, &mut out);
    }
    panic!("it never ends");
}

/// Status and body of the one response in `octets`, taken out of its chunks.
fn response(octets: &[u8]) -> (u16, String) {
    let text = String::from_utf8(octets.to_vec()).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head[9..12].parse().expect("a status");
    if !head.contains("chunked") {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
        assert_eq!(length, body.len(), "{head}");
        return (status, body.to_owned());
    }
    let (mut rest, mut whole) = (body, String::new());
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("hexadecimal");
        if size == 0 {
            assert_eq!(after, "\r\n");
            return (status, whole);
        }
        whole.push_str(&after[..size]);
        rest = after[size..]
            .strip_prefix("\r\n")
            .expect("the end of a chunk");
    }
}

fn ask(admin: &mut Fake, user: &str, line: &str, body: &str) -> (u16, Value) {
    let login = base64::encode(format!("{user}:{user}").as_bytes());
    let request = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut http = connection(remote());
    let (octets, progress) = drive(&mut http, admin, request.as_bytes());
    assert_eq!(progress, Progress::Read, "{line}");
    let (status, body) = response(&octets);
    let value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&body).expect("JSON")
    };
    (status, value)
}

fn get(admin: &mut Fake, path: &str) -> Value {
    let (status, body) = ask(admin, "guest", &format!("GET /api/{path}"), "");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|item| item["name"].as_str().expect("a name"))
        .collect()
}
