//! Requests however they are cut, what is no request, time and pipelines.

use super::*;

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
