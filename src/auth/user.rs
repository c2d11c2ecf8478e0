//! One user.

use std::collections::BTreeMap;

use super::record::{Definition, UserDefinition};
use super::{PasswordHash, Permission};

/// Names a user for as long as the process runs. Never reused: a user who was deleted and made
/// anew is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u32);

/// One user.
#[derive(Clone, Debug)]
pub struct User {
    pub(super) id: UserId,
    pub(super) name: String,
    pub(super) password: PasswordHash,
    pub(super) tags: Vec<String>,
    pub(super) permissions: BTreeMap<String, Permission>,
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

    pub(super) fn definition(&self) -> (Vec<u8>, Option<Vec<u8>>) {
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
