//! Bodies of requests become commands, and their answers responses.

use super::*;

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
