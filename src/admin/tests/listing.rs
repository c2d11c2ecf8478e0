//! What is read: objects, listings, their columns, pages, order and slices.

use super::*;

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
