//! Users and what each may do: the state.

use super::record::{Definition, PermissionDefinition, UserDefinition};
use super::{AuthError, HashingAlgorithm, PasswordHash, Pattern, SALT_OCTETS};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Names a user for as long as the process runs. Never reused: a user who was deleted and made
/// anew is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u32);

/// Pairs to be remembered, whole or not at all: a key, and its value or `None` to forget it.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What a permission is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Declare and delete.
    Configure,
    /// Publish to, bind to.
    Write,
    /// Consume, get, purge, bind from.
    Read,
}

impl Access {
    /// The word in `ACCESS_REFUSED - write access to …`.
    pub fn name(self) -> &'static str {
        match self {
            Access::Configure => "configure",
            Access::Write => "write",
            Access::Read => "read",
        }
    }
}

/// What one user may do in one virtual host.
#[derive(Clone, Debug, PartialEq)]
pub struct Permission {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Permission {
    /// Compiles the three expressions.
    pub fn new(texts: PermissionTexts<'_>) -> Result<Self, AuthError> {
        Ok(Permission {
            configure: Pattern::new(texts.configure)?,
            write: Pattern::new(texts.write)?,
            read: Pattern::new(texts.read)?,
        })
    }

    /// Whether `access` to the queue or exchange `resource_name` is allowed. The default exchange
    /// is asked for as [`super::DEFAULT_EXCHANGE_RESOURCE`]; an empty name is taken for it.
    pub fn may(&self, access: Access, resource_name: &[u8]) -> bool {
        let name = match resource_name {
            b"" => super::DEFAULT_EXCHANGE_RESOURCE.as_bytes(),
            name => name,
        };
        let pattern = match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        };
        pattern.matches(name)
    }

    /// Whether any access at all is allowed, which is what passive declaration needs.
    pub fn may_any(&self, resource_name: &[u8]) -> bool {
        [Access::Configure, Access::Write, Access::Read]
            .into_iter()
            .any(|access| self.may(access, resource_name))
    }

    /// The expressions as they were given.
    pub fn texts(&self) -> PermissionTexts<'_> {
        PermissionTexts {
            configure: self.configure.text(),
            write: self.write.text(),
            read: self.read.text(),
        }
    }
}

/// The expressions of a permission as texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermissionTexts<'a> {
    /// What may be declared and deleted.
    pub configure: &'a str,
    /// What may be published to and bound.
    pub write: &'a str,
    /// What may be consumed, purged and bound from.
    pub read: &'a str,
}

/// One user.
#[derive(Clone, Debug)]
pub struct User {
    id: UserId,
    name: String,
    password: PasswordHash,
    tags: Vec<String>,
    permissions: BTreeMap<String, Permission>,
}

impl User {
    /// Its id.
    pub fn id(&self) -> UserId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of its password.
    pub fn password(&self) -> &PasswordHash {
        &self.password
    }

    /// Its tags, in the order given.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Whether it has the tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }

    /// What it may do, by virtual host.
    pub fn permissions(&self) -> impl Iterator<Item = (&str, &Permission)> {
        self.permissions
            .iter()
            .map(|(vhost, permission)| (vhost.as_str(), permission))
    }

    /// What it may do in `vhost`.
    pub fn permission(&self, vhost: &str) -> Option<&Permission> {
        self.permissions.get(vhost)
    }

    fn definition(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let definition = Definition::User(UserDefinition {
            name: self.name.clone(),
            password_hash: self.password.text(),
            hashing_algorithm: self.password.algorithm().name().to_owned(),
            tags: self.tags.clone(),
        });
        let (key, value) = definition.encode();
        (key, Some(value))
    }
}

/// What a user is to prove itself with.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// This password, hashed here.
    Password {
        /// The password; not empty.
        password: &'a [u8],
        /// Four random octets.
        salt: [u8; SALT_OCTETS],
    },
    /// A hash made elsewhere.
    Hash {
        /// Base64 of salt and digest; empty for no password.
        text: &'a str,
        /// How it was made.
        algorithm: HashingAlgorithm,
    },
    /// What it has; nothing for a new user.
    Unchanged,
}

/// A user was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Whether it is new.
    pub created: bool,
    /// What is to be remembered.
    pub changes: Changes,
}

/// A log-in that was refused. The client is told no reason; the log is told this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The name that was given, made fit for a log line.
    pub name: String,
    /// Why.
    pub reason: RefusedReason,
}

/// Why a log-in was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// No such user, or not its password. Which of them is not told.
    InvalidCredentials,
    /// The right password from a machine that this user may not come from.
    NotLoopback,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            RefusedReason::InvalidCredentials => {
                write!(f, "user '{}' - invalid credentials", self.name)
            }
            RefusedReason::NotLoopback => {
                write!(f, "user '{}' can only connect via localhost", self.name)
            }
        }
    }
}

/// All users with their permissions. Ordered by name, so that listings are stable.
#[derive(Debug)]
pub struct Users {
    by_name: BTreeMap<String, User>,
    names: BTreeMap<UserId, String>,
    loopback_only: Vec<String>,
    count_max: u32,
    next_id: u32,
    epoch: u64,
    /// Hashed against when there is no such user, so that this takes as long.
    nobody: PasswordHash,
}

impl Users {
    /// No users.
    ///
    /// * `loopback_only`: names of users who may come from loopback addresses only.
    /// * `users_max`: how many users there may be.
    pub fn new(loopback_only: Vec<String>, users_max: u32) -> Self {
        let nobody = PasswordHash::new(b"nobody", [0; SALT_OCTETS]).expect("it is not blank");
        Users {
            by_name: BTreeMap::new(),
            names: BTreeMap::new(),
            loopback_only,
            count_max: users_max,
            next_id: 1,
            epoch: 0,
            nobody,
        }
    }

    /// Checks a log-in.
    ///
    /// * `peer`: where it comes from; `None` for the control socket, which is local.
    ///
    /// Costs one hash over password and salt, whether or not there is such a user.
    pub fn authenticate(
        &self,
        name: &[u8],
        password: &[u8],
        peer: Option<IpAddr>,
    ) -> Result<UserId, Refused> {
        let user = std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.by_name.get(name));
        let fits = user
            .map_or(&self.nobody, |user| &user.password)
            .fits(password);
        let refused = |reason| Refused {
            name: name.escape_ascii().to_string(),
            reason,
        };
        match user {
            Some(user) if fits => {
                let is_local = peer.is_none_or(is_loopback);
                if !is_local && self.loopback_only.contains(&user.name) {
                    return Err(refused(RefusedReason::NotLoopback));
                }
                Ok(user.id)
            }
            _ => Err(refused(RefusedReason::InvalidCredentials)),
        }
    }

    /// What `user` may do in `vhost`; `None` when it may not even open it, or is gone.
    pub fn access(&self, user: UserId, vhost: &str) -> Option<&Permission> {
        self.get(user)?.permissions.get(vhost)
    }

    /// The user of this id, unless it was deleted.
    pub fn get(&self, user: UserId) -> Option<&User> {
        self.by_name.get(self.names.get(&user)?)
    }

    /// The user of this name.
    pub fn named(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// All users, by name.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.by_name.values()
    }

    /// Users from this id on, by id: an order in which a long walk can be continued.
    pub fn iter_from(&self, from: UserId) -> impl Iterator<Item = &User> {
        self.names
            .range(from..)
            .filter_map(|(_, name)| self.by_name.get(name))
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Grows with every change: what was learned from a permission holds until then.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Makes a user or changes the one there is.
    ///
    /// * `tags`: replaces the tags; `None` leaves them.
    pub fn put(
        &mut self,
        name: &str,
        secret: Secret<'_>,
        tags: Option<Vec<String>>,
    ) -> Result<Put, AuthError> {
        check_name(name)?;
        let created = !self.by_name.contains_key(name);
        if created && self.by_name.len() >= self.count_max as usize {
            return Err(AuthError::TooManyUsers(self.count_max));
        }
        let password = match secret {
            Secret::Password { password, salt } => Some(PasswordHash::new(password, salt)?),
            Secret::Hash { text, algorithm } => Some(PasswordHash::parse(text, algorithm)?),
            Secret::Unchanged => None,
        };
        let user = self.entry(name);
        if let Some(password) = password {
            user.password = password;
        }
        if let Some(tags) = tags {
            user.tags = tags;
        }
        let changes = vec![user.definition()];
        Ok(Put { created, changes })
    }

    /// Deletes a user and its permissions. Its connections hold an id that leads nowhere then;
    /// the engine closes them.
    pub fn delete(&mut self, name: &str) -> Result<Changes, AuthError> {
        let user = self.by_name.remove(name).ok_or_else(|| no_such(name))?;
        self.names.remove(&user.id);
        self.epoch += 1;
        let permissions = user.permissions.keys();
        let mut changes = vec![(Definition::user_key(name), None)];
        changes.extend(permissions.map(|vhost| (Definition::permission_key(vhost, name), None)));
        Ok(changes)
    }

    /// Says what a user may do in a virtual host, which the caller knows to exist.
    pub fn set_permission(
        &mut self,
        name: &str,
        vhost: &str,
        texts: PermissionTexts<'_>,
    ) -> Result<Put, AuthError> {
        let user = self.by_name.get_mut(name).ok_or_else(|| no_such(name))?;
        let permission = Permission::new(texts)?;
        let created = user
            .permissions
            .insert(vhost.to_owned(), permission)
            .is_none();
        self.epoch += 1;
        let definition = Definition::Permission(PermissionDefinition {
            user: name.to_owned(),
            vhost: vhost.to_owned(),
            configure: texts.configure.to_owned(),
            write: texts.write.to_owned(),
            read: texts.read.to_owned(),
        });
        let (key, value) = definition.encode();
        Ok(Put {
            created,
            changes: vec![(key, Some(value))],
        })
    }

    /// Takes a permission away; no changes when there was none.
    pub fn clear_permission(&mut self, name: &str, vhost: &str) -> Result<Changes, AuthError> {
        let user = self.by_name.get_mut(name).ok_or_else(|| no_such(name))?;
        if user.permissions.remove(vhost).is_none() {
            return Ok(Changes::new());
        }
        self.epoch += 1;
        Ok(vec![(Definition::permission_key(vhost, name), None)])
    }

    /// Forgets the permissions of a virtual host that is gone.
    pub fn forget_vhost(&mut self, vhost: &str) -> Changes {
        self.epoch += 1;
        let mut changes = Changes::new();
        for user in self.by_name.values_mut() {
            if user.permissions.remove(vhost).is_some() {
                changes.push((Definition::permission_key(vhost, &user.name), None));
            }
        }
        changes
    }

    /// Takes over a definition that was remembered, at start. A permission may come before its
    /// user; virtual hosts are not kept here and are ignored.
    pub fn replay(&mut self, definition: Definition) -> Result<(), AuthError> {
        match definition {
            Definition::User(user) => {
                check_name(&user.name)?;
                let algorithm = HashingAlgorithm::named(&user.hashing_algorithm)?;
                let password = PasswordHash::parse(&user.password_hash, algorithm)?;
                let entry = self.entry(&user.name);
                entry.password = password;
                entry.tags = user.tags;
            }
            Definition::Permission(permission) => {
                let compiled = Permission::new(PermissionTexts {
                    configure: &permission.configure,
                    write: &permission.write,
                    read: &permission.read,
                })?;
                self.entry(&permission.user)
                    .permissions
                    .insert(permission.vhost, compiled);
            }
            Definition::Vhost(_) => {}
        }
        Ok(())
    }

    /// The user of this name, made if there is none.
    fn entry(&mut self, name: &str) -> &mut User {
        self.epoch += 1;
        self.by_name.entry(name.to_owned()).or_insert_with(|| {
            let id = UserId(self.next_id);
            self.next_id += 1;
            self.names.insert(id, name.to_owned());
            User {
                id,
                name: name.to_owned(),
                password: PasswordHash::NONE,
                tags: Vec::new(),
                permissions: BTreeMap::new(),
            }
        })
    }
}

fn check_name(name: &str) -> Result<(), AuthError> {
    if name.is_empty() || name.len() > AuthError::NAME_OCTETS_MAX {
        return Err(AuthError::InvalidName(name.chars().take(40).collect()));
    }
    Ok(())
}

fn no_such(name: &str) -> AuthError {
    AuthError::NoSuchUser(name.to_owned())
}

/// Whether the address is this machine's own: 127.0.0.0/8, `::1`, or an IPv4 one of these mapped
/// into IPv6, as a dual-stack listener sees it.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            permission.may(Access::Write, b"") && permission.may(Access::Write, b"amq.default")
        );
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
}
