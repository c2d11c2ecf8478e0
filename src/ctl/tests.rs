//! Command lines against the API of the small server of the admin tests, without a socket.

use super::client::{Response, parse};
use super::*;
use crate::admin::tests::Fake;
use crate::admin::{AdminError, HttpConnection, HttpId, HttpPeer, Outcome, Progress};
use crate::clock::Now;
use crate::config::Limits;
use std::cell::RefCell;
use std::rc::Rc;

/// Hands requests to the API as the control socket would.
struct Direct {
    fake: Rc<RefCell<Fake>>,
    /// Answers before the server is gone; `None` lasts for ever.
    left: Option<usize>,
}

impl Transport for Direct {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Response, String> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or("nobody listens")?;
        }
        let request = format!(
            "{method} {path} HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut http = HttpConnection::new(
            Now::default(),
            HttpId(1),
            HttpPeer::Local,
            &Limits::default(),
        );
        let mut out = Vec::new();
        let admin = &mut *self.fake.borrow_mut();
        let mut progress = http.receive(Now::default(), request.as_bytes(), admin, &mut out);
        while progress == Progress::Resume {
            progress = http.resume(Now::default(), admin, &mut out);
        }
        assert_eq!(progress, Progress::Close, "{method} {path}");
        parse(&out).ok_or_else(|| "not HTTP".to_owned())
    }
}

struct Ran {
    code: u8,
    out: String,
    err: String,
}

fn run_on(fake: &Rc<RefCell<Fake>>, left: Option<usize>, tool: ControlTool, words: &[&str]) -> Ran {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
        is_terminal: false,
    };
    let node = "rabbit@here".to_owned();
    let code = run_with(tool, &words, &|_| None, node, &mut streams, &mut |_| {
        Ok(Box::new(Direct {
            fake: Rc::clone(fake),
            left,
        }))
    });
    let text = |octets| String::from_utf8(octets).expect("UTF-8");
    Ran {
        code,
        out: text(out),
        err: text(err),
    }
}

fn shared(fake: Fake) -> Rc<RefCell<Fake>> {
    Rc::new(RefCell::new(fake))
}

fn ctl(fake: &Rc<RefCell<Fake>>, words: &[&str]) -> Ran {
    run_on(fake, None, ControlTool::Control, words)
}

/// Each listing as RabbitMQ 3.10.8 prints it.
#[test]
fn listings() {
    let fake = shared(Fake::with_queues(2));
    for (words, expected) in [
        (
            &["list_queues"][..],
            "Timeout: 60.0 seconds ...\nListing queues for vhost / ...\n\
             name\tmessages\nq00000\t1\nq00001\t8\n",
        ),
        (&["-q", "list_queues", "name"], "name\nq00000\nq00001\n"),
        (&["list_queues", "-s", "name"], "q00000\nq00001\n"),
        (
            &["-q", "list_queues", "--no-table-headers", "-p", "/"],
            "q00000\t1\nq00001\t8\n",
        ),
        (
            &[
                "list_queues",
                "-t",
                "5",
                "name,durable",
                "type",
                "arguments",
            ],
            "Timeout: 5.0 seconds ...\nListing queues for vhost / ...\nname\tdurable\ttype\targuments\n\
             q00000\ttrue\tclassic\t[{\"x-message-ttl\",60000}]\n\
             q00001\ttrue\tclassic\t[{\"x-message-ttl\",60000}]\n",
        ),
        (
            &["list_queues", "name", "messages", "--formatter", "json"],
            "[\n{\"name\":\"q00000\",\"messages\":1}\n,{\"name\":\"q00001\",\"messages\":8}\n]\n",
        ),
        (
            &["list_queues", "--formatter=csv", "name", "policy"],
            "\"name\",\"policy\"\n\"q00000\",\"\"\n\"q00001\",\"\"\n",
        ),
        (
            &["list_queues", "-p", "other"],
            "Timeout: 60.0 seconds ...\nListing queues for vhost other ...\n",
        ),
        (
            &["list_exchanges"],
            "Listing exchanges for vhost / ...\nname\ttype\n\tdirect\n",
        ),
        (
            &["list_bindings"],
            "Listing bindings for vhost /...\n\
             source_name\tsource_kind\tdestination_name\tdestination_kind\trouting_key\targuments\n\
             logs\texchange\taudit\texchange\ta.*\t[]\nlogs\texchange\torders\tqueue\ta.*\t[]\n",
        ),
        (
            &["list_connections"],
            "Listing connections ...\nuser\tpeer_host\tpeer_port\tstate\nguest\t127.0.0.1\t9\trunning\n",
        ),
        (
            &[
                "-q",
                "list_channels",
                "number",
                "consumer_count",
                "connection",
            ],
            "number\tconsumer_count\tconnection\n1\t1\t127.0.0.1:9 -> 127.0.0.1:5672\n",
        ),
        (
            &["-q", "list_consumers"],
            "queue_name\tchannel_pid\tconsumer_tag\tack_required\tprefetch_count\tactive\targuments\n\
             q00000\t127.0.0.1:9 -> 127.0.0.1:5672 (1)\ttag\ttrue\t10\ttrue\t[]\n",
        ),
        (
            &["list_users"],
            "Listing users ...\nuser\ttags\napp\t[]\nguest\t[administrator]\nman\t[management]\n\
             mon\t[monitoring]\n",
        ),
        (&["list_vhosts"], "Listing vhosts ...\nname\n/\nother\n"),
        (
            &["list_vhosts", "-s", "name", "tracing"],
            "/\tfalse\nother\tfalse\n",
        ),
        (
            &["list_permissions"],
            "Listing permissions for vhost \"/\" ...\nuser\tconfigure\twrite\tread\n\
             guest\t.*\t.*\t.*\nman\t^mine\t\t^mine\n",
        ),
        (
            &["list_user_permissions", "man"],
            "Listing permissions for user \"man\" ...\nvhost\tconfigure\twrite\tread\n\
             /\t^mine\t\t^mine\n",
        ),
    ] {
        let ran = ctl(&fake, words);
        assert_eq!(
            (ran.out.as_str(), ran.err.as_str(), ran.code),
            (expected, "", 0),
            "{words:?}"
        );
    }
}

/// Each change: the words, what is said, and the command that the broker got.
#[test]
fn changes() {
    for (words, said, command) in [
        (
            &["add_user", "new", "pw"][..],
            "Adding user \"new\" ...\nDone. Don't forget to grant the user permissions to some virtual \
             hosts! See 'rabbitmqctl help set_permissions' to learn more.\n",
            "Put { name: \"new\", secret: Password(..), tags: Some([]) }",
        ),
        (
            &["change_password", "man", "pw"],
            "Changing password for user \"man\" ...\n",
            "Put { name: \"man\", secret: Password(..), tags: Some([\"management\"]) }",
        ),
        (
            &["clear_password", "man"],
            "Clearing password for user \"man\" ...\n",
            "Put { name: \"man\", secret: Hash(..), tags: Some([\"management\"]) }",
        ),
        (
            &["set_user_tags", "man", "administrator", "x"],
            "Setting tags for user \"man\" to [administrator, x] ...\n",
            "Put { name: \"man\", secret: Hash(..), tags: Some([\"administrator\", \"x\"]) }",
        ),
        (
            &["set_user_tags", "man"],
            "Setting tags for user \"man\" to [] ...\n",
            "Put { name: \"man\", secret: Hash(..), tags: Some([]) }",
        ),
        (
            &["delete_user", "man"],
            "Deleting user \"man\" ...\n",
            "Delete { name: \"man\" }",
        ),
        (
            &["set_permissions", "-p", "other", "man", "^a", "", ".*"],
            "Setting permissions for user \"man\" in vhost \"other\" ...\n",
            "SetPermission { user: \"man\", vhost: \"other\", texts: PermissionTexts { \
             configure: \"^a\", write: \"\", read: \".*\" } }",
        ),
        (
            &["clear_permissions", "man"],
            "Clearing permissions for user \"man\" in vhost \"/\" ...\n",
            "ClearPermission { user: \"man\", vhost: \"/\" }",
        ),
        (
            &["add_vhost", "a/b"],
            "Adding vhost \"a/b\" ...\n",
            "PutVhost { name: \"a/b\"",
        ),
        (
            &["delete_vhost", "other"],
            "Deleting vhost \"other\" ...\n",
            "DeleteVhost { name: \"other\" }",
        ),
        (
            &["purge_queue", "q"],
            "Purging queue 'q' in vhost '/' ...\n",
            "PurgeQueue",
        ),
        (
            &["delete_queue", "q"],
            "Deleting queue 'q' on vhost '/' ...\nQueue was successfully deleted with 7 ready messages\n",
            "if_unused: false, if_empty: false",
        ),
        (
            &["delete_queue", "q", "-e", "-u"],
            "Deleting queue 'q' on vhost '/' if queue is empty and if queue is unused ...\n\
             Queue was successfully deleted with 7 ready messages\n",
            "if_unused: true, if_empty: true",
        ),
        (
            &["close_connection", "a -> b", "go away"],
            "Closing connection a -> b, reason: go away...\n",
            "reason: \"go away\", only_of: None",
        ),
    ] {
        let fake = shared(Fake::new());
        fake.borrow_mut().answer = Ok(Outcome::Messages(7));
        let ran = ctl(&fake, words);
        assert_eq!(
            (ran.out.as_str(), ran.err.as_str(), ran.code),
            (said, "", 0),
            "{words:?}"
        );
        let commands = &fake.borrow().commands;
        assert_eq!(commands.len(), 1, "{words:?}");
        assert!(commands[0].contains(command), "{words:?}: {}", commands[0]);
    }
}

#[test]
fn refusals_have_rabbitmqs_texts_and_codes() {
    for (words, code, text) in [
        (
            &["add_user", "man", "pw"][..],
            70,
            "Error:\nUser \"man\" already exists\n",
        ),
        (
            &["change_password", "nobody", "x"],
            67,
            "Error:\nUser \"nobody\" does not exist\n",
        ),
        (
            &["set_user_tags", "nobody", "x"],
            67,
            "Error:\nUser \"nobody\" does not exist\n",
        ),
        (
            &["delete_user", "nobody"],
            67,
            "Error:\nUser \"nobody\" does not exist\n",
        ),
        (
            &["list_user_permissions", "nobody"],
            67,
            "Error:\nUser \"nobody\" does not exist\n",
        ),
        (
            &["set_permissions", "nobody", "", "", ""],
            67,
            "Error:\nUser nobody does not exist\n",
        ),
        (
            &["set_permissions", "-p", "nov", "man", "", "", ""],
            69,
            "Error:\nVirtual host nov does not exist\n",
        ),
        (
            &["list_permissions", "-p", "nov"],
            65,
            "Virtual host 'nov' does not exist\n",
        ),
        (
            &["list_queues", "-p", "nov"],
            65,
            "Virtual host 'nov' does not exist\n",
        ),
        (
            &["delete_vhost", "nov"],
            65,
            "Virtual host 'nov' does not exist\n",
        ),
        (&["purge_queue", "q"], 69, "Error:\nnot_found\n"),
        (&["delete_queue", "q"], 64, "Error:\nQueue not found\n"),
        (
            &["authenticate_user", "man", "bad"],
            65,
            "Error:\nError: failed to authenticate user \"man\"\nuser 'man' - invalid credentials\n",
        ),
    ] {
        let fake = shared(Fake::new());
        fake.borrow_mut().answer = Err(AdminError::NotFound);
        let ran = ctl(&fake, words);
        assert_eq!((ran.err.as_str(), ran.code), (text, code), "{words:?}");
    }
    let fake = shared(Fake::new());
    fake.borrow_mut().answer = Err(AdminError::Precondition(
        "queue 'q' in vhost '/' not empty".to_owned(),
    ));
    let ran = ctl(&fake, &["delete_queue", "q", "-e"]);
    assert_eq!(
        (ran.err.as_str(), ran.code),
        ("Error:\nqueue 'q' in vhost '/' not empty\n", 69)
    );
}

#[test]
fn wrong_command_lines_exit_64_and_touch_nothing() {
    for (words, text) in [
        (
            &["nonsense"][..],
            "\nCommand 'nonsense' not found. \n\nUsage\n",
        ),
        (&[], "\nUsage\n"),
        (
            &["add_user"],
            "Error (argument validation): not enough arguments.\nArguments given:\n\tadd_user\n",
        ),
        (
            &["add_user", "a", "b", "c"],
            "Error (argument validation): too many arguments.",
        ),
        (
            &["list_queues", "--nonsense"],
            "Error (argument validation): Invalid options for this command:\n--nonsense : \n",
        ),
        (
            &["list_queues", "bad", "name"],
            "Error (argument validation): Info key(s) bad are not supported\n\
             Arguments given:\n\tlist_queues bad name\n\nUsage\n\nrabbitmqctl",
        ),
        (
            &["list_queues", "--formatter", "erlang"],
            "Error (argument validation): formatter 'erlang'",
        ),
        (
            &["list_queues", "-t", "x"],
            "Error (argument validation): a timeout is",
        ),
        (
            &["list_queues", "-p"],
            "Error (argument validation): option -p needs a value.",
        ),
    ] {
        let fake = shared(Fake::new());
        let ran = ctl(&fake, words);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{words:?}");
        assert!(ran.err.starts_with(text), "{words:?}: {}", ran.err);
        assert!(fake.borrow().commands.is_empty());
    }
}

#[test]
fn an_empty_name_exits_65_and_touches_nothing() {
    for (words, what) in [
        (&["add_user", "", "x"][..], "user"),
        (&["delete_user", ""], "user"),
        (&["set_permissions", "", ".*", ".*", ".*"], "user"),
        (&["list_user_permissions", ""], "user"),
        (&["add_vhost", ""], "vhost"),
        (&["delete_vhost", ""], "vhost"),
        (&["list_queues", "-p", ""], "vhost"),
        (&["delete_queue", ""], "queue"),
        (&["purge_queue", ""], "queue"),
        (&["close_connection", "", "bye"], "name"),
    ] {
        let fake = shared(Fake::new());
        let ran = ctl(&fake, words);
        let text = format!(
            "Error (argument validation): Bad argument: {what} cannot be an empty string\n\
             Arguments given:\n\t{}\n\nUsage",
            words.join(" ")
        );
        assert_eq!((ran.code, ran.out.as_str()), (65, ""), "{words:?}");
        assert!(ran.err.starts_with(&text), "{words:?}: {}", ran.err);
        assert!(fake.borrow().commands.is_empty());
    }
}

#[test]
fn an_unreachable_broker_exits_69() {
    for words in [
        &["list_queues"][..],
        &["status"],
        &["stop"],
        &["add_user", "a", "b"],
        &["check_running"],
    ] {
        let ran = run_on(&shared(Fake::new()), Some(0), ControlTool::Control, words);
        assert_eq!(ran.code, 69, "{words:?}");
        let start = "Error: unable to perform an operation on node 'rabbit@here'.";
        assert!(
            ran.err.starts_with(start) && ran.err.contains("nobody listens"),
            "{}",
            ran.err
        );
    }
    let ran = run_on(
        &shared(Fake::new()),
        Some(0),
        ControlTool::Diagnostics,
        &["-q", "ping"],
    );
    assert_eq!((ran.code, ran.out.as_str()), (69, ""));
    let expected = "Error:\nFailed to connect and authenticate to rabbit@here in 60000 ms\n";
    assert!(ran.err.starts_with(expected), "{}", ran.err);
}

#[test]
fn diagnostics() {
    let fake = shared(Fake::new());
    for (words, expected) in [
        (
            &["ping"][..],
            "Will ping rabbit@here. This only checks if the OS process is running and registered \
             with epmd. Timeout: 60000 ms.\nPing succeeded\n",
        ),
        (&["-q", "ping"], "Ping succeeded\n"),
        (
            &["-q", "check_running"],
            "RabbitMQ on node rabbit@here is fully booted and running\n",
        ),
        (
            &["-q", "check_local_alarms"],
            "Node rabbit@here reported no local alarms\n",
        ),
        (
            &["-q", "check_port_listener", "5672"],
            "A listener for port 5672 is running on node rabbit@here.\n",
        ),
        (
            &["-q", "check_protocol_listener", "amqp"],
            "A listener for protocol amqp is running on node rabbit@here.\n",
        ),
        (
            &["-q", "check_virtual_hosts"],
            "Node rabbit@here reported all vhosts as running\n",
        ),
        (
            &["-q", "listeners"],
            "Interface: [::], port: 5672, protocol: amqp, purpose: AMQP 0-9-1\n\
             Interface: [::], port: 15672, protocol: http, purpose: HTTP API\n",
        ),
        (&["await_startup"], ""),
        (&["version"], "4.1.0\n"),
        (
            &["authenticate_user", "man", "man"],
            "Authenticating user \"man\" ...\nSuccess\n",
        ),
    ] {
        let ran = run_on(&fake, None, ControlTool::Diagnostics, words);
        assert_eq!(
            (ran.out.as_str(), ran.err.as_str(), ran.code),
            (expected, "", 0),
            "{words:?}"
        );
    }
    for (words, expected) in [
        (
            &["-q", "check_port_listener", "1"][..],
            "No listener for port 1 is active on node rabbit@here. Found listeners that use the \
             following ports: 5672, 15672\n",
        ),
        (
            &["-q", "check_protocol_listener", "mqtt"],
            "Error:\nNo listener for protocol mqtt is active on node rabbit@here. Found listeners for \
             the following protocols: amqp, http\n",
        ),
    ] {
        let ran = run_on(&fake, None, ControlTool::Diagnostics, words);
        assert_eq!((ran.err.as_str(), ran.code), (expected, 69), "{words:?}");
    }
    fake.borrow_mut().alarm = true;
    fake.borrow_mut().serving = false;
    let ran = ctl(&fake, &["-q", "check_alarms"]);
    assert_eq!(
        ran.err,
        "Error:\nNode rabbit@here reported alarms:\nMemory alarm on node rabbit@here\n"
    );
    assert_eq!((ran.code, ctl(&fake, &["check_running"]).code), (69, 69));
    assert_eq!(ctl(&fake, &["await_startup", "-t", "0"]).code, 69);
}

#[test]
fn status_tells_what_people_look_for() {
    let fake = shared(Fake::with_queues(3));
    let ran = ctl(&fake, &["status"]);
    assert_eq!((ran.err.as_str(), ran.code), ("", 0));
    for line in [
        "Status of node rabbit@here ...",
        "RabbitMQ version: 4.1.0",
        "Alarms\n\n(none)",
        "Queue count: 3",
        "Virtual host count: 2",
        "Interface: [::], port: 5672, protocol: amqp, purpose: AMQP 0-9-1",
    ] {
        assert!(ran.out.contains(line), "{line}: {}", ran.out);
    }
    let ran = ctl(&fake, &["status", "--formatter", "json"]);
    let status: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON alone");
    assert_eq!(status["totals"]["queue_count"], 3);
}

#[test]
fn stop_waits_for_the_end() {
    let fake = shared(Fake::new());
    let ran = run_on(&fake, Some(2), ControlTool::Control, &["stop"]);
    assert_eq!(
        (ran.out.as_str(), ran.code),
        ("Stopping and halting node rabbit@here ...\n", 0)
    );
    assert_eq!(fake.borrow().commands, ["Stop"]);
    let ran = run_on(&fake, None, ControlTool::Control, &["stop", "-t", "0"]);
    assert_eq!(ran.code, 69);
}

#[test]
fn help_names_every_command_and_needs_no_broker() {
    let fake = shared(Fake::new());
    let ran = run_on(&fake, Some(0), ControlTool::Control, &["help"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for command in command::COMMANDS {
        assert!(
            ran.out.contains(&format!("   {} ", command.name)),
            "{}",
            command.name
        );
        let about = run_on(
            &fake,
            Some(0),
            ControlTool::Control,
            &["help", command.name],
        );
        assert!(about.out.contains(command.about), "{}", command.name);
        assert_eq!(about.code, 0);
    }
    assert!(
        run_on(&fake, Some(0), ControlTool::Control, &["--help"])
            .out
            .contains("list_queues")
    );
    let hash = ctl(&fake, &["-q", "hash_password", "secret"]);
    let parsed =
        crate::auth::PasswordHash::parse(hash.out.trim(), crate::auth::HashingAlgorithm::Sha256);
    assert!(parsed.is_ok_and(|hash| hash.fits(b"secret")));
}
