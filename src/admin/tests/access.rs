//! Who may read and change what, and what a wrong password costs.

use super::*;

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
