//! What operators change.

use super::*;

#[test]
fn refusals_say_what_is_in_the_way() {
    let mut server = Server::start();
    assert_eq!(server.declare("/", b"q", true), Ok(Outcome::Created));
    assert_eq!(server.declare("/", b"q", true), Ok(Outcome::Exists));
    let differs = "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'";
    assert_eq!(
        server.declare("/", b"q", false),
        Err(AdminError::Precondition(differs.to_owned()))
    );
    assert!(matches!(
        server.declare("/", b"amq.q", true),
        Err(AdminError::Refused(_))
    ));
    assert_eq!(
        server.declare("nowhere", b"q", true),
        Err(AdminError::NotFound)
    );
    let delete = |name| AdminCommand::DeleteExchange {
        vhost: "/",
        name,
        if_unused: false,
    };
    assert_eq!(server.command(delete(b"no")), Err(AdminError::NotFound));
    assert!(matches!(
        server.command(delete(b"amq.topic")),
        Err(AdminError::Refused(_))
    ));
    let purge = AdminCommand::PurgeQueue {
        vhost: "/",
        name: b"no",
    };
    assert_eq!(server.command(purge), Err(AdminError::NotFound));
}

#[test]
fn exchanges_and_bindings_come_and_go() {
    let mut server = Server::start();
    let declare = AdminCommand::DeclareExchange {
        vhost: "/",
        name: b"x",
        kind: "topic",
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: FieldTable::default(),
    };
    assert_eq!(server.command(declare), Ok(Outcome::Created));
    assert_eq!(server.command(declare), Ok(Outcome::Exists));
    server.declare("/", b"q", true).expect("is new");
    let bind = AdminCommand::Bind(Binding {
        vhost: "/",
        source: b"x",
        destination: b"q",
        destination_kind: DestinationKind::Queue,
        routing_key: b"a.#",
        arguments: FieldTable::default(),
    });
    assert_eq!(server.command(bind), Ok(Outcome::Created));
    assert_eq!(server.command(bind), Ok(Outcome::Exists));
    let from = Scope {
        exchange: Some(b"x"),
        ..Scope::default()
    };
    assert_eq!(server.rows(Table::Bindings, from, 1), ["x->q a.#"]);
    let unbind = |properties_key| AdminCommand::Unbind {
        vhost: "/",
        source: b"x",
        destination: b"q",
        destination_kind: DestinationKind::Queue,
        properties_key,
    };
    assert_eq!(server.command(unbind("b")), Err(AdminError::NotFound));
    assert_eq!(server.command(unbind("a.%23")), Ok(Outcome::Done));
    assert_eq!(server.rows(Table::Bindings, from, 1), [""; 0]);
}

#[test]
fn a_connection_is_closed_by_its_name() {
    let mut server = Server::start();
    let (one, other) = (server.connect(4000, "/"), server.connect(4001, "/"));
    let name = b"127.0.0.1:4000 -> 127.0.0.1:5672";
    let close = |only_of| AdminCommand::CloseConnection {
        name,
        reason: "Closed via management plugin",
        only_of,
    };
    assert_eq!(
        server.command(close(Some("someone"))),
        Err(AdminError::NotFound)
    );
    assert_eq!(server.command(close(Some("guest"))), Ok(Outcome::Done));
    let told = server.received(one).concat();
    assert!(
        told.contains("320") && told.contains("CONNECTION_FORCED - Closed via management plugin")
    );
    assert_eq!(server.received(other), [""; 0]);
    server.send(one, 0, &connection::CloseOk {});
    assert!(server.engine.is_over(one));
    assert_eq!(server.command(close(None)), Err(AdminError::NotFound));
    let rows = server.rows(Table::Connections, Scope::default(), 9);
    assert_eq!(rows, ["127.0.0.1:4001 -> 127.0.0.1:5672 guest / running 1"]);
}

#[test]
fn a_virtual_host_takes_its_connections_and_everything_in_it_along() {
    let mut server = Server::start();
    server.vhost("v").expect("is new");
    assert_eq!(server.vhost("v"), Ok(Outcome::Exists));
    server.declare("v", b"q", true).expect("is new");
    let (within, without) = (server.connect(4000, "v"), server.connect(4001, "/"));
    let delete = AdminCommand::DeleteVhost { name: "v" };
    assert_eq!(server.command(delete), Ok(Outcome::Done));
    let told = server.received(within).concat();
    assert!(
        told.contains("CONNECTION_FORCED - vhost 'v' is deleted"),
        "{told}"
    );
    assert_eq!(server.received(without), [""; 0]);
    assert_eq!(server.command(delete), Err(AdminError::NotFound));
    assert!(!server.engine.has_vhost("v"));
    assert_eq!(server.rows(Table::Queues, Scope::default(), 9), [""; 0]);
    let guest = server.engine.users().named("guest").expect("is seeded");
    assert!(guest.permission("v").is_none() && guest.permission("/").is_some());
}

#[test]
fn a_full_virtual_host_goes_in_slices() {
    let mut server = Server::start();
    server.vhost("v").expect("is new");
    for number in 0..2000_u32 {
        let name = number.to_string();
        server.engine.command(
            server.now,
            HTTP,
            declaration("v", name.as_bytes(), number % 2 == 0),
        );
    }
    server.settle();
    assert_eq!(
        server.engine.take_answers().len(),
        1000,
        "of the durable ones"
    );
    let overview = server.engine.overview(server.now);
    assert_eq!((overview.queues, overview.exchanges), (2000, 14));
    let delete = AdminCommand::DeleteVhost { name: "v" };
    assert_eq!(server.engine.command(server.now, HTTP, delete), None);
    assert!(!server.engine.has_vhost("v"));
    assert!(matches!(server.vhost("v"), Err(AdminError::Unavailable(_))));
    server.turn();
    let left = server.engine.overview(server.now).queues;
    assert!(
        (1000..2000).contains(&left),
        "some go in a turn, not all: {left} are left"
    );
    assert_eq!(server.engine.take_answers(), []);
    server.settle();
    while !server
        .engine
        .take_answers()
        .contains(&(HTTP, Ok(Outcome::Done)))
    {
        assert!(server.engine.owes_answers());
        server.settle();
    }
    let overview = server.engine.overview(server.now);
    assert_eq!((overview.queues, overview.exchanges), (0, 7));
    assert_eq!(server.vhost("v"), Ok(Outcome::Created));
    let (disk, config) = (server.disk.clone(), Config::default());
    let again = Engine::open(disk, &config, server.now, 43).expect("what was written is read");
    assert_eq!(
        (again.overview(server.now).queues, again.has_vhost("v")),
        (0, true)
    );
}

#[test]
fn users_lose_their_connections_with_themselves() {
    let mut server = Server::start();
    let id = server.connect(4000, "/");
    let put = |password| {
        AdminCommand::Users(UsersCommand::Put {
            name: "hare",
            secret: NewSecret::Password(password),
            tags: Some(&[]),
        })
    };
    assert_eq!(server.command(put(b"one")), Ok(Outcome::Created));
    assert_eq!(server.command(put(b"two")), Ok(Outcome::Exists));
    let users = server.engine.users();
    assert!(users.authenticate(b"hare", b"two", None).is_ok());
    assert!(users.authenticate(b"hare", b"one", None).is_err());
    let delete = |name| AdminCommand::Users(UsersCommand::Delete { name });
    assert_eq!(server.command(delete("hare")), Ok(Outcome::Done));
    assert_eq!(server.command(delete("hare")), Err(AdminError::NotFound));
    assert_eq!(server.received(id), [""; 0]);
    assert_eq!(server.command(delete("guest")), Ok(Outcome::Done));
    assert!(
        server
            .received(id)
            .concat()
            .contains("user 'guest' is deleted")
    );
}

#[test]
fn a_server_that_was_told_to_stop_takes_no_more_commands() {
    let mut server = Server::start();
    assert!(!server.engine.is_stop_asked());
    assert_eq!(server.command(AdminCommand::Stop), Ok(Outcome::Done));
    assert!(server.engine.is_stop_asked());
    server.engine.stop(server.now);
    assert!(matches!(
        server.declare("/", b"q", true),
        Err(AdminError::Unavailable(_))
    ));
    assert!(!server.engine.overview(server.now).is_serving);
}

#[test]
fn a_queue_that_came_with_the_start_is_idle_since_then() {
    let mut server = Server::start();
    let outcome = server.declare("/", b"q", true);
    assert_eq!(outcome, Ok(Outcome::Created));
    server.settle();
    let started = Now {
        monotonic_us: 0,
        wall_ms: 1_000_000,
    };
    let config = Config::default();
    let disk = server.disk.killed();
    let mut again = Engine::open(disk, &config, started, 43).expect("it opens again");
    let mut helpers = Later::default();
    for after_ms in [2_000, 60_000] {
        let now = Now {
            monotonic_us: after_ms * 1000,
            wall_ms: started.wall_ms + after_ms,
        };
        again.end_turn(now, &mut helpers, &mut Vec::new());
        let mut idle_since_ms = Some(1);
        again.queue("/", b"q", &mut |row| idle_since_ms = row.idle_since_ms);
        let expected = (after_ms > 10_000).then_some(started.wall_ms);
        assert_eq!(idle_since_ms, expected, "after {after_ms} ms");
    }
}
