//! What users may do, and that every change is remembered.

use super::*;
use crate::auth::Access;

const ALL: PermissionTexts<'static> = PermissionTexts {
    configure: ".*",
    write: ".*",
    read: ".*",
};

fn password(text: &str) -> Secret<'_> {
    Secret::Password {
        password: text.as_bytes(),
        salt: [1, 2, 3, 4],
    }
}

fn guest() -> Users {
    let mut users = Users::new(vec!["guest".to_owned()], 3);
    let tags = Some(vec!["administrator".to_owned()]);
    users
        .put("guest", password("guest"), tags)
        .expect("a valid user");
    users
        .set_permission("guest", "/", ALL)
        .expect("a valid permission");
    users
}

/// What was remembered, replayed into an empty state.
fn replayed(log: &[Changes]) -> Users {
    let mut pairs = BTreeMap::new();
    for (key, value) in log.iter().flatten() {
        match value {
            Some(value) => pairs.insert(key.clone(), value.clone()),
            None => pairs.remove(key),
        };
    }
    let mut users = Users::new(vec![], 100);
    for (key, value) in pairs {
        let definition = Definition::decode(&key, &value)
            .expect("own kind")
            .expect("valid");
        users.replay(definition).expect("it was valid before");
    }
    users
}

fn dump(users: &Users) -> Vec<String> {
    let mut lines = Vec::new();
    for user in users.iter() {
        lines.push(format!(
            "{} {} {:?}",
            user.name(),
            user.password().text(),
            user.tags()
        ));
        for (vhost, permission) in user.permissions() {
            lines.push(format!("{} {vhost} {:?}", user.name(), permission.texts()));
        }
    }
    lines
}

#[test]
fn a_log_in_needs_the_password_and_the_right_place() {
    let users = guest();
    for (name, password, peer, expected) in [
        ("guest", "guest", "127.0.0.1", "ok"),
        ("guest", "guest", "127.8.9.1", "ok"),
        ("guest", "guest", "::1", "ok"),
        ("guest", "guest", "::ffff:127.0.0.1", "ok"),
        (
            "guest",
            "guest",
            "10.0.0.1",
            "user 'guest' can only connect via localhost",
        ),
        (
            "guest",
            "guest",
            "::ffff:10.0.0.1",
            "user 'guest' can only connect via localhost",
        ),
        (
            "guest",
            "wrong",
            "10.0.0.1",
            "user 'guest' - invalid credentials",
        ),
        (
            "guest",
            "",
            "127.0.0.1",
            "user 'guest' - invalid credentials",
        ),
        (
            "nobody",
            "nobody",
            "127.0.0.1",
            "user 'nobody' - invalid credentials",
        ),
        (
            "a\nb",
            "x",
            "127.0.0.1",
            "user 'a\\nb' - invalid credentials",
        ),
    ] {
        let peer = peer.parse().expect("an address");
        let got = users.authenticate(name.as_bytes(), password.as_bytes(), Some(peer));
        let got = got.map_or_else(|refused| refused.to_string(), |_| "ok".to_owned());
        assert_eq!(got, expected, "{name} {password} from {peer}");
    }
    assert!(users.authenticate(b"guest", b"guest", None).is_ok());
    assert!(users.authenticate(b"\xFF", b"guest", None).is_err());
}

#[test]
fn permissions_are_asked_by_kind_and_name() {
    let mut users = guest();
    let texts = PermissionTexts {
        configure: "",
        write: "^amq\\.default$",
        read: "orders",
    };
    users.put("app", password("x"), None).expect("a valid user");
    users.set_permission("app", "v", texts).expect("valid");
    let app = users.named("app").expect("just made").id();
    assert_eq!(users.access(app, "/"), None);
    let permission = users.access(app, "v").expect("just set");
    assert!(!permission.may(Access::Configure, b"orders"));
    assert!(permission.may(Access::Write, b"") && permission.may(Access::Write, b"amq.default"));
    assert!(!permission.may(Access::Write, b"orders"));
    assert!(permission.may(Access::Read, b"my-orders") && !permission.may(Access::Read, b""));
    assert!(permission.may_any(b"orders") && !permission.may_any(b"bills"));
    assert_eq!(permission.texts(), texts);
}

#[test]
fn every_change_is_remembered_as_it_is_applied() {
    let mut users = Users::new(vec![], 10);
    let mut log = Vec::new();
    let tags = |tag: &str| Some(vec![tag.to_owned()]);
    log.push(
        users
            .put("a", password("1"), tags("administrator"))
            .expect("valid")
            .changes,
    );
    log.push(users.put("b", password("2"), None).expect("valid").changes);
    for (name, vhost) in [("a", "/"), ("a", "v"), ("b", "v")] {
        log.push(
            users
                .set_permission(name, vhost, ALL)
                .expect("valid")
                .changes,
        );
        assert_eq!(dump(&replayed(&log)), dump(&users));
    }
    let narrow = PermissionTexts { read: "^x", ..ALL };
    let put = users.set_permission("a", "/", narrow).expect("valid");
    assert!(!put.created);
    log.push(put.changes);
    assert_eq!(dump(&replayed(&log)), dump(&users));
    log.push(
        users
            .put("a", password("new"), None)
            .expect("valid")
            .changes,
    );
    assert!(
        users.named("a").expect("there").has_tag("administrator"),
        "tags were left"
    );
    assert_eq!(dump(&replayed(&log)), dump(&users));
    log.push(users.clear_permission("a", "v").expect("there"));
    assert_eq!(users.clear_permission("a", "v"), Ok(vec![]));
    assert_eq!(dump(&replayed(&log)), dump(&users));
    log.push(users.forget_vhost("v"));
    assert_eq!(dump(&replayed(&log)), dump(&users));
    log.push(users.delete("a").expect("there"));
    assert_eq!(dump(&replayed(&log)), dump(&users));
    assert_eq!(dump(&users).len(), 1);
}

#[test]
fn ids_are_never_reused_and_the_epoch_grows_with_every_change() {
    let mut users = guest();
    let first = users.named("guest").expect("there").id();
    let mut epoch = users.epoch();
    let mut grew = |users: &Users| {
        let before = std::mem::replace(&mut epoch, users.epoch());
        assert!(epoch > before);
    };
    users.delete("guest").expect("there");
    grew(&users);
    assert!(users.get(first).is_none() && users.access(first, "/").is_none());
    users.put("guest", password("guest"), None).expect("valid");
    grew(&users);
    assert_ne!(users.named("guest").expect("there").id(), first);
    assert_eq!(users.access(first, "/"), None);
    users.set_permission("guest", "/", ALL).expect("valid");
    grew(&users);
}

#[test]
fn wrong_changes_leave_everything_as_it_was() {
    let mut users = guest();
    let before = dump(&users);
    let long = "x".repeat(256);
    let bad = PermissionTexts { write: "(", ..ALL };
    for (error, part) in [
        (
            users.put("", password("x"), None).map(|_| ()),
            "1 to 255 octets",
        ),
        (
            users.put(&long, password("x"), None).map(|_| ()),
            "1 to 255 octets",
        ),
        (users.put("u", password(""), None).map(|_| ()), "blank"),
        (users.delete("u").map(|_| ()), "user 'u' does not exist"),
        (
            users.set_permission("u", "/", ALL).map(|_| ()),
            "user 'u' does not exist",
        ),
        (
            users.set_permission("guest", "/", bad).map(|_| ()),
            "regular expression '('",
        ),
    ] {
        let error = error.expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(dump(&users), before);
    users.put("2", password("x"), None).expect("room for three");
    users
        .put("3", Secret::Unchanged, None)
        .expect("room for three");
    assert_eq!(
        users.put("4", password("x"), None),
        Err(AuthError::TooManyUsers(3))
    );
    assert!(
        users.authenticate(b"3", b"", None).is_err(),
        "no password fits"
    );
}
