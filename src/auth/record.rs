//! Users, permissions and virtual hosts as pairs for the definition log.
//!
//! ```text
//! key                          value (JSON, the fields of RabbitMQ's definitions export)
//! user:NAME                    {"name":…,"password_hash":…,"hashing_algorithm":…,"tags":[…]}
//! vhost:NAME                   {"name":…,"description":…,"tags":[…],"default_queue_type":…}
//! permission:["VHOST","USER"]  {"user":…,"vhost":…,"configure":…,"write":…,"read":…}
//! ```
//!
//! The value says everything, the key only makes it unique: two strings of any content are told
//! apart by JSON's own quoting. Fields that a later version adds are ignored by this one.

use serde::{Deserialize, Serialize};

const USER: &str = "user:";
const VHOST: &str = "vhost:";
const PERMISSION: &str = "permission:";

/// A user as remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDefinition {
    /// Name; the key.
    pub name: String,
    /// See [`super::PasswordHash`].
    pub password_hash: String,
    /// Name of the algorithm, see [`super::HashingAlgorithm`].
    pub hashing_algorithm: String,
    /// `administrator`, `monitoring` and so on.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A virtual host as remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostDefinition {
    /// Name; the key.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// For people.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Type of queues that are declared without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_queue_type: Option<String>,
}

/// What a user may do in a virtual host, as remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionDefinition {
    /// Name of the user; with the virtual host the key.
    pub user: String,
    /// Name of the virtual host.
    pub vhost: String,
    /// Expression of what may be declared and deleted.
    pub configure: String,
    /// Expression of what may be published to and bound.
    pub write: String,
    /// Expression of what may be consumed, purged and bound from.
    pub read: String,
}

/// One remembered definition of this module's kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A user.
    User(UserDefinition),
    /// A virtual host.
    Vhost(VhostDefinition),
    /// A permission.
    Permission(PermissionDefinition),
}

impl Definition {
    /// The key of a user.
    pub fn user_key(name: &str) -> Vec<u8> {
        [USER, name].concat().into_bytes()
    }

    /// The key of a virtual host.
    pub fn vhost_key(name: &str) -> Vec<u8> {
        [VHOST, name].concat().into_bytes()
    }

    /// The key of a permission.
    pub fn permission_key(vhost: &str, user: &str) -> Vec<u8> {
        [PERMISSION, &serde_json::json!([vhost, user]).to_string()]
            .concat()
            .into_bytes()
    }

    /// The pair that remembers this definition.
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        fn json<T: Serialize>(value: &T) -> Vec<u8> {
            serde_json::to_vec(value).expect("strings and lists of them always become JSON")
        }
        match self {
            Definition::User(user) => (Self::user_key(&user.name), json(user)),
            Definition::Vhost(vhost) => (Self::vhost_key(&vhost.name), json(vhost)),
            Definition::Permission(permission) => (
                Self::permission_key(&permission.vhost, &permission.user),
                json(permission),
            ),
        }
    }

    /// The reverse of [`Definition::encode`].
    ///
    /// Returns `None` when the key is of another module's kind, and what is wrong with the value
    /// when it cannot be read.
    pub fn decode(key: &[u8], value: &[u8]) -> Option<Result<Definition, String>> {
        fn json<'a, T: Deserialize<'a>>(
            value: &'a [u8],
            kind: fn(T) -> Definition,
        ) -> Result<Definition, String> {
            serde_json::from_slice(value)
                .map(kind)
                .map_err(|error| error.to_string())
        }
        let is = |prefix: &str| key.starts_with(prefix.as_bytes());
        if is(USER) {
            Some(json(value, Definition::User))
        } else if is(VHOST) {
            Some(json(value, Definition::Vhost))
        } else if is(PERMISSION) {
            Some(json(value, Definition::Permission))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [Definition; 3] {
        [
            Definition::User(UserDefinition {
                name: "h\"are\0".into(),
                password_hash: "AAAA".into(),
                hashing_algorithm: "rabbit_password_hashing_sha256".into(),
                tags: vec!["administrator".into()],
            }),
            Definition::Vhost(VhostDefinition {
                name: "/".into(),
                description: "the first".into(),
                tags: vec![],
                default_queue_type: Some("classic".into()),
            }),
            Definition::Permission(PermissionDefinition {
                user: "hare".into(),
                vhost: "/".into(),
                configure: String::new(),
                write: ".*".into(),
                read: "^a$".into(),
            }),
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for sample in samples() {
            let (key, value) = sample.encode();
            assert_eq!(Definition::decode(&key, &value), Some(Ok(sample)));
        }
    }

    #[test]
    fn the_form_on_disk_stays_as_it_is() {
        let shown: Vec<String> = samples()
            .iter()
            .map(|sample| {
                let (key, value) = sample.encode();
                String::from_utf8([&key[..], b" ", &value].concat()).expect("JSON is UTF-8")
            })
            .collect();
        assert_eq!(
            shown[1],
            r#"vhost:/ {"name":"/","description":"the first","tags":[],"default_queue_type":"classic"}"#
        );
        assert_eq!(
            shown[2],
            r#"permission:["/","hare"] {"user":"hare","vhost":"/","configure":"","write":".*","read":"^a$"}"#
        );
    }

    #[test]
    fn other_keys_are_left_alone_and_bad_values_are_told() {
        assert_eq!(Definition::decode(b"queue:x", b"{}"), None);
        assert!(matches!(Definition::decode(b"user:x", b"{}"), Some(Err(_))));
        assert!(matches!(
            Definition::decode(b"vhost:x", b"\xFF"),
            Some(Err(_))
        ));
        let later = br#"{"name":"v","colour":"green"}"#;
        assert!(matches!(Definition::decode(b"vhost:v", later), Some(Ok(_))));
    }
}
