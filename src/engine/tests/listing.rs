//! What operators see.

use super::*;

#[test]
fn rows_are_walked_in_any_step_each_once() {
    let mut server = Server::start();
    for number in 0..40_u32 {
        let name = format!("q{number:02}");
        assert_eq!(
            server.declare("/", name.as_bytes(), false),
            Ok(Outcome::Created)
        );
    }
    assert_eq!(server.vhost("other"), Ok(Outcome::Created));
    assert_eq!(server.declare("other", b"q00", true), Ok(Outcome::Created));
    let all = server.rows(Table::Queues, Scope::default(), 100);
    assert_eq!(
        (all.len(), &*all[0], &*all[40]),
        (41, "/ q00 0", "other q00 0")
    );
    for step in [1, 2, 7, 41] {
        assert_eq!(server.rows(Table::Queues, Scope::default(), step), all);
    }
    let other = Scope {
        vhost: Some("other"),
        ..Scope::default()
    };
    assert_eq!(server.rows(Table::Queues, other, 1), ["other q00 0"]);
    assert_eq!(server.rows(Table::Exchanges, other, 3).len(), 7);
    assert_eq!(server.rows(Table::Bindings, other, 5), ["->q00 q00"]);
    assert_eq!(
        server.rows(Table::Vhosts, Scope::default(), 1),
        ["/ Default virtual host 0", "other a place 0"]
    );
    let nowhere = Scope {
        vhost: Some("nowhere"),
        ..Scope::default()
    };
    assert_eq!(server.rows(Table::Queues, nowhere, 1), [""; 0]);
}

#[test]
fn a_cursor_passes_over_a_slot_that_has_changed_hands() {
    let mut server = Server::start();
    for name in [&b"a"[..], b"b", b"c"] {
        server.declare("/", name, false).expect("is new");
    }
    let mut seen = Vec::new();
    server.engine.rows(
        Table::Queues,
        Scope::default(),
        Cursor::START,
        9,
        &mut |cursor, _| seen.push(cursor),
    );
    let delete = AdminCommand::DeleteQueue {
        vhost: "/",
        name: b"b",
        if_unused: true,
        if_empty: true,
    };
    assert_eq!(server.command(delete), Ok(Outcome::Messages(0)));
    server.declare("/", b"d", false).expect("is new");
    let at = |cursor| {
        let mut rows = Vec::new();
        server
            .engine
            .rows(Table::Queues, Scope::default(), cursor, 1, &mut |_, row| {
                rows.push(told(&row));
            });
        rows
    };
    assert_eq!(at(seen[0]), ["/ a 0"]);
    assert_eq!(at(seen[1]), ["/ c 0"], "not d, which has the slot now");
}

#[test]
fn messages_and_counts_are_seen_where_they_are() {
    let mut server = Server::start();
    server.declare("/", b"q", true).expect("is new");
    let id = server.connect(4000, "/");
    server.send(id, 1, &confirm::Select { no_wait: false });
    for _ in 0..5 {
        server.publish(id, "q");
    }
    server.publish(id, "nowhere");
    server.settle();
    let get = basic::Get {
        ticket: 0,
        queue: ShortString::literal("q"),
        no_ack: false,
    };
    server.send(id, 1, &get);
    server.settle();
    server.received(id);
    let counts = |row: &crate::admin::QueueRow<'_>| {
        format!(
            "ready {} unacked {} persistent {} published {} got {} acked {}",
            row.messages_ready,
            row.messages_unacknowledged,
            row.messages_persistent,
            row.stats.publish.total,
            row.stats.get.total,
            row.stats.ack.total
        )
    };
    let shown = server.queue_row(b"q", counts);
    assert_eq!(
        shown,
        "ready 4 unacked 1 persistent 5 published 5 got 1 acked 0"
    );
    let octets = |row: &crate::admin::QueueRow<'_>| {
        assert_eq!(row.octets_ready, row.octets_unacknowledged * 4);
        assert!(row.octets_unacknowledged >= 4 && row.memory_octets > 100);
        String::new()
    };
    server.queue_row(b"q", octets);
    let overview = server.engine.overview(server.now);
    assert_eq!(
        (overview.messages_ready, overview.messages_unacknowledged),
        (4, 1)
    );
    assert_eq!(
        (overview.connections, overview.channels, overview.queues),
        (1, 1, 1)
    );
    assert_eq!(overview.stats.publish.total, 6);
    assert_eq!(overview.stats.confirm.total, 6);
    assert_eq!(overview.stats.drop_unroutable.total, 1);
    assert_eq!(overview.churn.channel_created.total, 1);
    assert_eq!(
        server.rows(Table::Channels, Scope::default(), 9),
        ["127.0.0.1:4000 -> 127.0.0.1:5672 (1) guest / unacked 1"]
    );
    let purge = AdminCommand::PurgeQueue {
        vhost: "/",
        name: b"q",
    };
    assert_eq!(server.command(purge), Ok(Outcome::Messages(4)));
    let ack = basic::Ack {
        delivery_tag: crate::wire::DeliveryTag(1),
        multiple: false,
    };
    server.send(id, 1, &ack);
    server.settle();
    let shown = server.queue_row(b"q", counts);
    assert_eq!(
        shown,
        "ready 0 unacked 0 persistent 0 published 5 got 1 acked 1"
    );
    let delete = AdminCommand::DeleteQueue {
        vhost: "/",
        name: b"q",
        if_unused: false,
        if_empty: false,
    };
    assert_eq!(server.command(delete), Ok(Outcome::Messages(0)));
    assert_eq!(
        server.engine.overview(server.now).stats.ack.total,
        1,
        "it happened all the same"
    );
}

#[test]
fn rates_are_taken_every_five_seconds_and_an_empty_server_sleeps() {
    let mut server = Server::start();
    server.pass(20);
    assert_eq!(server.engine.sampler.next_deadline(), None);
    let id = server.connect(4000, "/");
    let declare = queue::Declare {
        ticket: 0,
        queue: ShortString::literal("q"),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: false,
        arguments: FieldTable::default(),
    };
    server.send(id, 1, &declare);
    for _ in 0..50 {
        server.publish(id, "q");
    }
    let rate = |row: &crate::admin::QueueRow<'_>| {
        let name = row
            .owner
            .map(|owner| String::from_utf8_lossy(owner.name).into_owned());
        format!(
            "{:.0}/s of {}",
            row.stats.publish.rate,
            name.unwrap_or_default()
        )
    };
    assert_eq!(
        server.queue_row(b"q", rate),
        "0/s of 127.0.0.1:4000 -> 127.0.0.1:5672"
    );
    server.pass(6);
    assert_eq!(
        server.queue_row(b"q", rate),
        "10/s of 127.0.0.1:4000 -> 127.0.0.1:5672"
    );
    let overview = server.engine.overview(server.now);
    assert!(
        (9.0..=10.0).contains(&overview.stats.publish.rate),
        "{:?}",
        overview.stats
    );
    let mut exchanged = 0.0;
    server
        .engine
        .exchange("/", b"", &mut |row| exchanged = row.publish_out.rate);
    assert!(exchanged > 0.0);
    let mut received = 0.0;
    server.engine.rows(
        Table::Connections,
        Scope::default(),
        Cursor::START,
        1,
        &mut |_, row| {
            if let Row::Connection(row) = row {
                received = row.received_octets.rate;
            }
        },
    );
    assert!(received > 50.0);
    server.pass(6);
    assert!(server.queue_row(b"q", rate).starts_with("0/s"));
    server.engine.drop_peer(server.now, id);
    server.pass(20);
    assert_eq!(server.engine.sampler.next_deadline(), None);
}

#[test]
fn sums_over_many_queues_are_those_of_the_last_look() {
    let mut server = Server::start();
    for number in 0..1500_u32 {
        server.engine.command(
            server.now,
            HTTP,
            declaration("/", number.to_string().as_bytes(), false),
        );
    }
    server.declare("/", b"q", false).expect("is new");
    let id = server.connect(4000, "/");
    server.publish(id, "q");
    let ready = |server: &Server| server.engine.overview(server.now).messages_ready;
    assert_eq!(ready(&server), 0);
    server.pass(6);
    assert_eq!(ready(&server), 1);
    assert_eq!(server.engine.overview(server.now).stats.publish.total, 1);
    assert_eq!(
        server.rows(Table::Vhosts, Scope::default(), 1),
        ["/ Default virtual host 1"]
    );
}
