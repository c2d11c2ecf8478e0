//! The API as a whole, over a small server that exists in memory only.

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

#[test]
fn what_tools_read_is_there() {
    let admin = &mut Fake::with_queues(3);
    let overview = get(admin, "overview");
    assert_eq!(overview["rabbitmq_version"], "4.1.0");
    assert_eq!(overview["queue_totals"]["messages"], 7);
    assert_eq!(overview["object_totals"]["queues"], 3);
    assert_eq!(overview["listeners"][0]["port"], 5672);
    let queue = get(admin, "queues/%2F/q00000");
    for (field, expected) in [
        ("messages", json!(1)),
        ("messages_ready", json!(0)),
        ("messages_unacknowledged", json!(1)),
        ("consumers", json!(1)),
        ("type", json!("classic")),
        ("node", json!("rabbit@here")),
        ("arguments", json!({ "x-message-ttl": 60000 })),
        ("idle_since", json!("1970-01-01T00:00:00.000+00:00")),
        ("effective_policy_definition", json!({})),
    ] {
        assert_eq!(queue[field], expected, "{field}");
    }
    assert_eq!(queue["message_stats"]["publish_details"]["rate"], 2.5);
    assert_eq!(queue["consumer_details"][0]["consumer_tag"], "tag");
    assert_eq!(names(&get(admin, "queues")), ["q00000", "q00001", "q00002"]);
    assert_eq!(
        names(&get(admin, "queues/%2F")),
        ["q00000", "q00001", "q00002"]
    );
    assert_eq!(get(admin, "queues/other"), json!([]));
    assert_eq!(
        get(admin, "whoami"),
        json!({ "name": "guest", "tags": ["administrator"] })
    );
    assert_eq!(get(admin, "nodes")[0]["running"], true);
    assert_eq!(get(admin, "nodes/rabbit@here")["name"], "rabbit@here");
    assert_eq!(names(&get(admin, "vhosts")), ["/", "other"]);
    assert_eq!(get(admin, "vhosts/other")["name"], "other");
    assert_eq!(names(&get(admin, "users")), ["app", "guest", "man", "mon"]);
    let hash = get(admin, "users/man")["password_hash"].clone();
    assert_eq!(
        hash,
        admin.users.named("man").expect("there").password().text()
    );
    assert_eq!(get(admin, "permissions/%2F/man")["configure"], "^mine");
    assert_eq!(get(admin, "permissions").as_array().map(Vec::len), Some(2));
    assert_eq!(get(admin, "exchanges/%2F/amq.default")["name"], "");
    let connection = get(admin, "connections/127.0.0.1:9%20-%3E%20127.0.0.1:5672");
    assert_eq!(
        (&connection["peer_port"], &connection["timeout"]),
        (&json!(9), &json!(60))
    );
    assert_eq!(
        get(admin, "channels")[0]["name"],
        "127.0.0.1:9 -> 127.0.0.1:5672 (1)"
    );
    assert_eq!(
        get(admin, "channels/127.0.0.1:9%20-%3E%20127.0.0.1:5672%20(1)")["number"],
        1
    );
    assert_eq!(get(admin, "consumers")[0]["queue"]["name"], "q00000");
    assert_eq!(get(admin, "aliveness-test/%2F"), json!({ "status": "ok" }));
}

#[test]
fn bindings_are_found_by_their_ends_and_keys() {
    let admin = &mut Fake::with_queues(1);
    assert_eq!(get(admin, "bindings").as_array().map(Vec::len), Some(2));
    let list = get(admin, "bindings/%2F/e/logs/q/orders");
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    let key = list[0]["properties_key"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert_eq!(key, "a.%2A");
    for path in ["q/orders/a.%2A", "q/orders/a.%252A", "e/audit/a.%2A"] {
        assert_eq!(
            get(admin, &format!("bindings/%2F/e/logs/{path}"))["routing_key"],
            "a.*"
        );
    }
    let missing = ask(
        admin,
        "guest",
        "GET /api/bindings/%2F/e/logs/q/orders/b",
        "",
    );
    assert_eq!(missing.0, 404);
    assert_eq!(get(admin, "bindings/%2F/e/logs/q/audit"), json!([]));
}

#[test]
fn columns_pages_names_and_order() {
    let admin = &mut Fake::with_queues(25);
    let list = get(
        admin,
        "queues?columns=name,message_stats.publish_details.rate,none",
    );
    assert_eq!(
        list[0],
        json!({ "name": "q00000", "message_stats": { "publish_details": { "rate": 2.5 } } })
    );
    let page = get(admin, "queues?page=2&page_size=10");
    assert_eq!(names(&page["items"])[0], "q00010");
    for (field, expected) in [
        ("filtered_count", 25),
        ("item_count", 10),
        ("page", 2),
        ("page_count", 3),
        ("page_size", 10),
        ("total_count", 25),
    ] {
        assert_eq!(page[field], expected, "{field}");
    }
    let found = get(admin, "queues?page=1&name=Q0001&pagination=false");
    assert_eq!(
        (&found["filtered_count"], &found["total_count"]),
        (&json!(10), &json!(25))
    );
    let found = get(admin, "queues?name=%5Eq0000%5B12%5D%24&use_regex=true");
    assert_eq!(names(&found), ["q00001", "q00002"]);
    let sorted = get(
        admin,
        "queues?sort=messages_ready&sort_reverse=true&columns=messages_ready",
    );
    let ready: Vec<u64> = sorted
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|q| q["messages_ready"].as_u64())
        .collect();
    assert_eq!(ready.len(), 25);
    assert!(ready.is_sorted_by(|left, right| left >= right), "{ready:?}");
    let brief = get(
        admin,
        "queues?disable_stats=true&enable_queue_totals=true&page=1&page_size=1",
    );
    assert_eq!(brief["items"][0]["messages"], 1);
    assert_eq!(brief["items"][0].get("message_stats"), None);
    for (query, error) in [
        ("page=0", "invalid_pagination_parameters"),
        ("page=1&page_size=501", "invalid_pagination_parameters"),
        ("page=x", "invalid_pagination_parameters"),
        ("page=99999999999999999", "invalid_pagination_parameters"),
        ("page=4&page_size=10", "page_out_of_range"),
        ("name=(&use_regex=true", "bad_request"),
    ] {
        let (status, body) = ask(admin, "guest", &format!("GET /api/queues?{query}"), "");
        assert_eq!((status, &body["error"]), (400, &json!(error)), "{query}");
    }
}

#[test]
fn a_long_listing_comes_in_slices_and_chunks() {
    let admin = &mut Fake::with_queues(12_000);
    let list = get(admin, "queues?columns=name");
    let list = names(&list);
    assert_eq!(list.len(), 12_000);
    assert_eq!(
        list[0], "q11999",
        "too many to be sorted: in the state's order"
    );
    let page = get(admin, "queues?columns=name&page=120&page_size=100");
    assert_eq!(names(&page["items"]).last(), Some(&"q00000"));
    assert_eq!(
        (&page["item_count"], &page["page_count"]),
        (&json!(100), &json!(120))
    );
    let out_of_range = ask(admin, "guest", "GET /api/queues?page=122", "");
    assert_eq!(out_of_range.1["error"], "page_out_of_range");
    let sorted = get(admin, "queues?columns=name&sort=name&page=1&page_size=2");
    assert_eq!(names(&sorted["items"]), ["q00000", "q00001"]);
    let found = get(admin, "queues?columns=name&name=q00007");
    assert_eq!(names(&found), ["q00007"]);

    let admin = &mut Fake::with_queues(3_000);
    let list = get(admin, "queues");
    assert!(names(&list).is_sorted());
}

#[test]
fn a_sort_over_very_many_rows_keeps_a_bounded_window() {
    let admin = &mut Fake::with_queues(45_000);
    let page = get(admin, "queues?columns=name&sort=name&page=3&page_size=2");
    assert_eq!(names(&page["items"]), ["q00004", "q00005"]);
    assert_eq!(page["filtered_count"], 45_000);
    let (status, body) = ask(admin, "guest", "GET /api/queues?sort=name", "");
    assert_eq!((status, &body["error"]), (400, &json!("bad_request")));
}

#[test]
fn rows_that_go_between_two_slices_are_left_out() {
    let admin = &mut Fake::with_queues(200);
    let mut http = connection(HttpPeer::Local);
    let mut out = Vec::new();
    let mut progress = http.receive(
        at(0),
        b"GET /api/queues?columns=name HTTP/1.1\r\n\r\n",
        admin,
        &mut out,
    );
    let mut steps = 0;
    while progress == Progress::Resume {
        steps += 1;
        admin.queues.truncate(100);
        progress = http.resume(at(0), admin, &mut out);
    }
    assert!(steps >= 3);
    let (status, body) = response(&out);
    let list: Value = serde_json::from_str(&body).expect("JSON");
    let list = names(&list);
    assert_eq!(status, 200);
    assert!(
        (100..200).contains(&list.len()) && list.is_sorted(),
        "{}",
        list.len()
    );
}

#[test]
fn a_peer_that_does_not_read_stops_the_rendering() {
    let admin = &mut Fake::with_queues(5_000);
    let mut http = connection(HttpPeer::Local);
    let mut out = Vec::new();
    let mut progress = http.receive(at(0), b"GET /api/queues HTTP/1.1\r\n\r\n", admin, &mut out);
    for _ in 0..1000 {
        assert_eq!(progress, Progress::Resume);
        progress = http.resume(at(0), admin, &mut out);
    }
    let bound = Limits::default().http_outbox_octets_max;
    assert!(out.len() < bound + 200_000, "{}", out.len());
    let deadline = http.deadline().expect("it is given up one day");
    assert!(deadline.is_due(at(30_000)));
    assert_eq!(http.expired(at(30_000), admin, &mut out), Progress::Close);
}

#[test]
fn who_may_what() {
    let admin = &mut Fake::with_queues(1);
    admin.queues[0].name = b"mine".to_vec();
    for (user, line, status, reason) in [
        ("app", "GET /api/overview", 401, "Not management user"),
        ("man", "GET /api/overview", 200, ""),
        ("man", "GET /api/nodes", 401, "Not monitor user"),
        ("mon", "GET /api/nodes", 200, ""),
        ("mon", "GET /api/users", 401, "Not administrator user"),
        ("guest", "GET /api/users", 200, ""),
        (
            "man",
            "GET /api/queues/other",
            401,
            "User not authorised to access virtual host",
        ),
        ("mon", "GET /api/queues/other", 200, ""),
        ("man", "PUT /api/queues/%2F/mine", 201, ""),
        ("man", "PUT /api/queues/%2F/yours", 401, "Access refused."),
        (
            "mon",
            "PUT /api/queues/%2F/mine",
            401,
            "User not authorised to access virtual host",
        ),
        (
            "man",
            "DELETE /api/queues/%2F/yours",
            401,
            "Access refused.",
        ),
        ("man", "DELETE /api/queues/%2F/mine/contents", 201, ""),
        (
            "man",
            "DELETE /api/queues/%2F/yours/contents",
            401,
            "Access refused.",
        ),
        (
            "man",
            "POST /api/bindings/%2F/e/mine/q/mine",
            401,
            "Access refused.",
        ),
        ("man", "PUT /api/vhosts/v", 401, "Not administrator user"),
        ("man", "PUT /api/users/v", 401, "Not administrator user"),
        (
            "mon",
            "POST /api/leveret/stop",
            401,
            "Not administrator user",
        ),
    ] {
        let (got, body) = ask(admin, user, line, "");
        assert_eq!(got, status, "{user} {line}: {body}");
        if status == 401 {
            assert_eq!(
                body,
                json!({ "error": "not_authorised", "reason": reason }),
                "{user} {line}"
            );
        }
    }
    // What a user without the monitoring tag may not open it does not see, either.
    let (_, list) = ask(admin, "man", "GET /api/vhosts", "");
    assert_eq!(names(&list), ["/"]);
    let (_, list) = ask(admin, "man", "GET /api/connections", "");
    assert_eq!(list, json!([]));
    let (_, list) = ask(admin, "mon", "GET /api/connections", "");
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    let (_, overview) = ask(admin, "man", "GET /api/overview", "");
    assert_eq!(overview.get("listeners"), None);
}

#[test]
fn without_credentials_only_health_is_told() {
    for (peer, line, status) in [
        (remote(), "GET /api/overview", 401),
        (
            remote(),
            "GET /api/health/checks/ready-to-serve-clients",
            200,
        ),
        (
            remote(),
            "GET /api/health/checks/reached-target-cluster-size",
            200,
        ),
        (remote(), "GET /api/health/checks/alarms", 401),
        (remote(), "DELETE /api/queues/%2F/q", 401),
        (remote(), "GET /api/nonsense", 404),
        (HttpPeer::Local, "GET /api/overview", 200),
        (HttpPeer::Local, "DELETE /api/queues/%2F/q", 201),
    ] {
        let admin = &mut Fake::new();
        let request = format!("{line} HTTP/1.1\r\n\r\n");
        let (octets, _) = drive(&mut connection(peer), admin, request.as_bytes());
        assert_eq!(response(&octets).0, status, "{line}");
        if status == 401 {
            let text = String::from_utf8_lossy(&octets);
            assert!(text.contains("www-authenticate: Basic realm=\"RabbitMQ Management\""));
            assert!(admin.commands.is_empty());
        }
    }
}

#[test]
fn a_refused_log_in_is_answered_late() {
    for (user, password, from, reason) in [
        ("guest", "wrong", "127.0.0.1:1", "Login failed"),
        ("nobody", "x", "127.0.0.1:1", "Login failed"),
        (
            "guest",
            "guest",
            "10.0.0.1:1",
            "User can only log in via localhost",
        ),
    ] {
        let admin = &mut Fake::new();
        let mut http = connection(HttpPeer::Remote(address(from).ip()));
        let login = base64::encode(format!("{user}:{password}").as_bytes());
        let request = format!("GET /api/overview HTTP/1.1\r\nAuthorization: Basic {login}\r\n\r\n");
        let mut out = Vec::new();
        let progress = http.receive(at(0), request.as_bytes(), admin, &mut out);
        assert_eq!((progress, out.len()), (Progress::Wait, 0));
        assert_eq!(http.expired(at(999), admin, &mut out), Progress::Wait);
        assert_eq!(http.expired(at(1000), admin, &mut out), Progress::Close);
        let (status, body) = response(&out);
        assert_eq!(status, 401);
        let expected = json!({ "error": "not_authorized", "reason": reason });
        assert_eq!(body, expected.to_string());
    }
}

#[test]
fn changes_become_commands() {
    for (line, body, command) in [
        (
            "PUT /api/queues/%2F/q",
            r#"{"durable":true,"arguments":{"x-max-length":5}}"#,
            "DeclareQueue",
        ),
        (
            "DELETE /api/queues/%2F/q?if-empty=true",
            "",
            "if_unused: false, if_empty: true",
        ),
        ("DELETE /api/queues/%2F/q/contents", "", "PurgeQueue"),
        (
            "PUT /api/exchanges/%2F/x",
            r#"{"type":"fanout","durable":"true"}"#,
            "kind: \"fanout\", durable: true",
        ),
        (
            "DELETE /api/exchanges/%2F/x?if-unused=true",
            "",
            "if_unused: true",
        ),
        (
            "POST /api/bindings/%2F/e/x/q/q",
            r#"{"routing_key":"k"}"#,
            "Bind(Binding",
        ),
        (
            "DELETE /api/bindings/%2F/e/x/e/y/k",
            "",
            "properties_key: \"k\"",
        ),
        ("PUT /api/vhosts/v", "", "PutVhost { name: \"v\""),
        (
            "PUT /api/vhosts/v",
            r#"{"tags":"a, b"}"#,
            "tags: Some([\"a\", \"b\"])",
        ),
        ("DELETE /api/vhosts/v", "", "DeleteVhost"),
        (
            "PUT /api/users/u",
            r#"{"password":"x","tags":"administrator"}"#,
            "Password(..)",
        ),
        (
            "PUT /api/users/u",
            r#"{"password_hash":"","tags":["a"]}"#,
            "Hash(..), tags: Some([\"a\"])",
        ),
        (
            "PUT /api/users/u",
            r#"{"password":"","tags":""}"#,
            "secret: None, tags: Some([])",
        ),
        ("DELETE /api/users/u", "", "Delete { name: \"u\" }"),
        (
            "PUT /api/permissions/%2F/man",
            r#"{"configure":"","write":"a","read":".*"}"#,
            "write: \"a\"",
        ),
        ("DELETE /api/permissions/%2F/man", "", "ClearPermission"),
        (
            "DELETE /api/connections/c",
            "",
            "Closed via management plugin\", only_of: None",
        ),
        ("POST /api/leveret/stop", "", "Stop"),
    ] {
        let admin = &mut Fake::new();
        let (status, _) = ask(admin, "guest", line, body);
        assert_eq!(status, 201, "{line}");
        assert_eq!(admin.commands.len(), 1, "{line}");
        assert!(
            admin.commands[0].contains(command),
            "{line}: {}",
            admin.commands[0]
        );
    }
}

#[test]
fn wrong_bodies_become_no_command() {
    let deep = format!(
        r#"{{"arguments":{}1{}}}"#,
        r#"{"a":"#.repeat(70),
        "}".repeat(70)
    );
    let bottomless = "[".repeat(100_000);
    for (line, body, reason) in [
        ("PUT /api/queues/%2F/q", "{bad", json!("not_json")),
        ("PUT /api/queues/%2F/q", "[]", json!("not_json")),
        ("PUT /api/queues/%2F/q", "\u{0}", json!("not_json")),
        ("PUT /api/queues/%2F/q", &bottomless, json!("not_json")),
        (
            "PUT /api/queues/%2F/q",
            r#"{"durable":"maybe"}"#,
            json!(["not_boolean", "maybe"]),
        ),
        (
            "PUT /api/queues/%2F/q",
            r#"{"arguments":5}"#,
            json!("'arguments' is not an object"),
        ),
        (
            "PUT /api/queues/%2F/q",
            &deep,
            json!("'arguments' is nested too deeply"),
        ),
        (
            "PUT /api/users/u",
            r#"{"password":"x"}"#,
            json!("tags_not_present"),
        ),
        (
            "PUT /api/users/u",
            r#"{"tags":[1]}"#,
            json!("'tags' is neither a list of strings nor a string"),
        ),
        (
            "PUT /api/users/u",
            r#"{"tags":"","hashing_algorithm":"rot13"}"#,
            json!("hashing algorithm 'rot13' is not known"),
        ),
        (
            "PUT /api/permissions/%2F/man",
            r#"{"configure":"","write":""}"#,
            json!("[{key_missing,read}]"),
        ),
        (
            "PUT /api/permissions/nov/man",
            r#"{"configure":"","write":"","read":""}"#,
            json!("vhost_or_user_not_found"),
        ),
    ] {
        let admin = &mut Fake::new();
        let (status, got) = ask(admin, "guest", line, body);
        assert_eq!(status, 400, "{line} {body}");
        assert_eq!(
            got,
            json!({ "error": "bad_request", "reason": reason }),
            "{line}"
        );
        assert!(admin.commands.is_empty());
    }
    let (status, body) = ask(&mut Fake::new(), "guest", "PUT /api/queues/nov/q", "");
    assert_eq!((status, &body["reason"]), (404, &json!("vhost_not_found")));
}

#[test]
fn answers_become_responses_at_once_or_later() {
    let precondition = || AdminError::Precondition("queue 'q' in vhost '/' not empty".to_owned());
    for (answer, status) in [
        (Ok(Outcome::Created), 201),
        (Ok(Outcome::Exists), 204),
        (Ok(Outcome::Messages(5)), 204),
        (Err(AdminError::NotFound), 404),
        (Err(AdminError::EndMissing("no queue 'q'".to_owned())), 404),
        (Err(AdminError::Refused("reserved".to_owned())), 401),
        (Err(precondition()), 400),
        (Err(AdminError::Unavailable("stopping".to_owned())), 503),
    ] {
        let admin = &mut Fake::new();
        admin.answer = answer.clone();
        let (at_once, _) = ask(admin, "guest", "PUT /api/queues/%2F/q", "");
        assert_eq!(at_once, status);

        admin.is_slow = true;
        let mut http = connection(HttpPeer::Local);
        // A second request is in the pipe already: it waits for its turn.
        let request = b"DELETE /api/queues/%2F/q HTTP/1.1\r\n\r\nGET /api/whoami HTTP/1.1\r\n\r\n";
        let (octets, progress) = drive(&mut http, admin, request);
        assert_eq!(
            (octets.len(), progress, http.deadline()),
            (0, Progress::Wait, None)
        );
        let mut out = Vec::new();
        let progress = http.answered(at(1), answer, admin, &mut out);
        assert_eq!(progress, Progress::Read);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
    }
    let admin = &mut Fake::new();
    let mut http = connection(HttpPeer::Local);
    let request = b"POST /api/bindings/%2F/e/x/q/a%0d%0ab HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    let (octets, _) = drive(&mut http, admin, request);
    let text = String::from_utf8(octets).expect("UTF-8");
    assert!(text.contains("\r\nlocation: a%0D%0Ab/~\r\n"), "{text}");
}

#[test]
fn requests_are_taken_however_they_are_cut() {
    let request = b"PUT /api/queues/%2F/q HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\n{\"dur\r\nb\r\nable\":true}\r\n0\r\n\r\n\
        GET /api/whoami HTTP/1.1\r\nConnection: close\r\n\r\n";
    let whole = drive(&mut connection(HttpPeer::Local), &mut Fake::new(), request);
    assert_eq!(whole.1, Progress::Close);
    for cut in 0..request.len() {
        let (mut http, mut admin) = (connection(HttpPeer::Local), Fake::new());
        let (mut octets, _) = drive(&mut http, &mut admin, &request[..cut]);
        let (rest, progress) = drive(&mut http, &mut admin, &request[cut..]);
        octets.extend(rest);
        assert_eq!(
            (&octets, progress),
            (&whole.0, Progress::Close),
            "cut at {cut}"
        );
        assert!(admin.commands[0].contains("durable: true"));
    }
    let (mut http, mut admin) = (connection(HttpPeer::Local), Fake::new());
    let mut octets = Vec::new();
    for octet in request {
        octets.extend(drive(&mut http, &mut admin, &[*octet]).0);
    }
    assert_eq!(octets, whole.0);
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let long = format!("GET /api/{} HTTP/1.1\r\n", "x".repeat(20_000));
    let many = "a: b\r\n".repeat(3000);
    for (octets, status) in [
        ("AMQP\0\0\x09\x01\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\n\r\n", 505),
        (&*long, 431),
        (&*format!("GET / HTTP/1.1\r\n{many}"), 431),
        (
            "PUT /api/queues/%2F/q HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            413,
        ),
        (
            "PUT /api/queues/%2F/q HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
    ] {
        let mut http = connection(HttpPeer::Local);
        let (out, progress) = drive(&mut http, &mut Fake::new(), octets.as_bytes());
        assert_eq!(
            (response(&out).0, progress),
            (status, Progress::Close),
            "{octets:.40}"
        );
        assert!(!http.wants_input());
    }
}

#[test]
fn a_body_from_nobody_is_not_read() {
    let mut http = connection(remote());
    let head = "PUT /api/queues/%2F/q HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n";
    let (out, progress) = drive(&mut http, &mut Fake::new(), head.as_bytes());
    assert_eq!((response(&out).0, progress), (401, Progress::Close));
    let mut http = connection(HttpPeer::Local);
    let head =
        "PUT /api/queues/%2F/q HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let (out, progress) = drive(&mut http, &mut Fake::new(), head.as_bytes());
    assert_eq!(out, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(progress, Progress::Read);
}

#[test]
fn time_runs_out() {
    let admin = &mut Fake::new();
    let out = &mut Vec::new();
    let mut idle = connection(HttpPeer::Local);
    assert_eq!(idle.expired(at(29_999), admin, out), Progress::Read);
    assert_eq!(
        (idle.expired(at(30_000), admin, out), out.len()),
        (Progress::Close, 0)
    );
    for part in [
        "GET /api/whoami HTTP/1.1\r\n",
        "PUT /api/vhosts/v HTTP/1.1\r\nContent-Length: 5\r\n\r\n{",
    ] {
        let mut slow = connection(HttpPeer::Local);
        drive(&mut slow, admin, part.as_bytes());
        let mut out = Vec::new();
        assert_eq!(slow.expired(at(30_000), admin, &mut out), Progress::Close);
        assert_eq!(response(&out).0, 408);
    }
    assert!(admin.commands.is_empty());
}

#[test]
fn a_pipeline_does_not_hold_the_loop() {
    let admin = &mut Fake::new();
    let mut http = connection(HttpPeer::Local);
    let requests = "GET /api/whoami HTTP/1.1\r\n\r\n".repeat(200);
    let mut out = Vec::new();
    assert_eq!(
        http.receive(at(0), requests.as_bytes(), admin, &mut out),
        Progress::Resume
    );
    let answered = |out: &[u8]| String::from_utf8_lossy(out).matches("HTTP/1.1 200").count();
    assert!(answered(&out) <= 16);
    while http.resume(at(0), admin, &mut out) == Progress::Resume {}
    assert_eq!(answered(&out), 200);
}

#[test]
fn head_requests_and_health() {
    let admin = &mut Fake::with_queues(3);
    for line in ["HEAD /api/queues", "HEAD /api/overview"] {
        let request = format!("{line} HTTP/1.1\r\n\r\n");
        let (out, progress) = drive(&mut connection(HttpPeer::Local), admin, request.as_bytes());
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(
            text.starts_with("HTTP/1.1 200 OK") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        assert_eq!(
            (text.matches("\r\n\r\n").count(), progress),
            (1, Progress::Read)
        );
    }
    let check = |admin: &mut Fake, path: &str| {
        ask(
            admin,
            "guest",
            &format!("GET /api/health/checks/{path}"),
            "",
        )
    };
    assert_eq!(check(admin, "alarms"), (200, json!({ "status": "ok" })));
    assert_eq!(
        check(admin, "port-listener/5672"),
        (200, json!({ "status": "ok", "port": 5672 }))
    );
    let missing = json!({
        "status": "failed", "reason": "No active listener", "missing": 1, "ports": [5672, 15672]
    });
    assert_eq!(check(admin, "port-listener/1"), (503, missing));
    assert_eq!(check(admin, "protocol-listener/amqp").0, 200);
    assert_eq!(check(admin, "protocol-listener/mqtt").0, 503);
    admin.alarm = true;
    admin.serving = false;
    let (status, body) = check(admin, "alarms");
    assert_eq!(
        (status, &body["alarms"][0]["resource"]),
        (503, &json!("memory"))
    );
    assert_eq!(check(admin, "ready-to-serve-clients").0, 503);
}

/// Requests that are nearly right, cut, doubled and changed at random: no panic, no growth, and
/// either an answer or the end.
#[test]
fn no_input_panics_or_grows() {
    let seeds: [&[u8]; 5] = [
        b"GET /api/queues?page=1&page_size=2&sort=name&columns=a.b,c&name=%5B&use_regex=true HTTP/1.1\r\n\r\n",
        b"PUT /api/queues/%2F/q HTTP/1.1\r\nContent-Length: 35\r\n\r\n{\"arguments\":{\"a\":[1,{\"b\":-0.5e9}]}}",
        b"PUT /api/users/u HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"tag\r\n8;x\r\ns\":\"a\"}\r\n0\r\n\r\n",
        b"POST /api/bindings/%2F/e/x/q/q HTTP/1.0\r\nAuthorization: Basic Og==\r\nConnection: keep-alive\r\n\r\n",
        b"DELETE /api/connections/x HTTP/1.1\r\nX-Reason: a\xFFb\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let admin = &mut Fake::with_queues(5);
    let mut answers = 0;
    for _ in 0..20_000 {
        let mut octets = seeds[random(seeds.len())].to_vec();
        for _ in 0..random(6) {
            let place = random(octets.len());
            match random(5) {
                0 => octets[place] = random(256) as u8,
                1 => octets[place] ^= 1 << random(8),
                2 => octets.truncate(place + 1),
                3 => octets.insert(place, b"\r\n%/?&=:;0"[random(10)]),
                _ => octets.extend_from_within(place..),
            }
        }
        let peer = if random(3) == 0 {
            remote()
        } else {
            HttpPeer::Local
        };
        let mut http = connection(peer);
        let split = random(octets.len() + 1);
        let (mut all, _) = drive(&mut http, admin, &octets[..split]);
        let (rest, progress) = drive(&mut http, admin, &octets[split..]);
        all.extend(rest);
        assert!(matches!(
            progress,
            Progress::Read | Progress::Close | Progress::Wait
        ));
        answers += usize::from(all.starts_with(b"HTTP/1."));
    }
    assert!(answers > 5_000, "{answers}");
    assert!(admin.commands.len() > 500, "{}", admin.commands.len());
}
