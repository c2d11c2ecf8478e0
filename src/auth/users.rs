//! Users and what each may do: the state.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::record::{Definition, PermissionDefinition};
use super::{
    AuthError, HashingAlgorithm, PasswordHash, Permission, PermissionTexts, SALT_OCTETS, User,
    UserId,
};

/// Pairs to be remembered, whole or not at all: a key, and its value or `None` to forget it.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

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
mod tests;
