//! What the HTTP API changes, as values.

use super::view::DestinationKind;
use crate::auth::{AuthError, HashingAlgorithm, PermissionTexts, Put, SALT_OCTETS, Secret, Users};
use crate::wire::field_table::FieldTable;

/// Names an HTTP connection to the engine, so that a late answer finds it. Chosen by whoever owns
/// the connections; never reused for another one while an answer may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpId(pub u64);

/// One change. Names are borrowed from the request.
#[derive(Clone, Copy, Debug)]
pub enum AdminCommand<'a> {
    /// As `queue.declare`; [`Outcome::Exists`] when it is there and equal.
    DeclareQueue {
        /// Its virtual host, which exists.
        vhost: &'a str,
        /// Its name, at most 255 octets; not empty.
        name: &'a [u8],
        /// Outlives a restart.
        durable: bool,
        /// Goes with its last consumer.
        auto_delete: bool,
        /// Arguments.
        arguments: FieldTable<'a>,
    },
    /// As `queue.delete`; [`Outcome::Messages`] tells how many went with it.
    DeleteQueue {
        /// Its virtual host.
        vhost: &'a str,
        /// Its name.
        name: &'a [u8],
        /// Only without consumers.
        if_unused: bool,
        /// Only without messages.
        if_empty: bool,
    },
    /// As `queue.purge`; [`Outcome::Messages`].
    PurgeQueue {
        /// Its virtual host.
        vhost: &'a str,
        /// Its name.
        name: &'a [u8],
    },
    /// As `exchange.declare`.
    DeclareExchange {
        /// Its virtual host, which exists.
        vhost: &'a str,
        /// Its name.
        name: &'a [u8],
        /// `direct` and so on.
        kind: &'a str,
        /// Outlives a restart.
        durable: bool,
        /// Goes with its last binding.
        auto_delete: bool,
        /// Takes messages from other exchanges only.
        internal: bool,
        /// Arguments.
        arguments: FieldTable<'a>,
    },
    /// As `exchange.delete`.
    DeleteExchange {
        /// Its virtual host.
        vhost: &'a str,
        /// Its name.
        name: &'a [u8],
        /// Only without bindings.
        if_unused: bool,
    },
    /// As `queue.bind` or `exchange.bind`.
    Bind(Binding<'a>),
    /// As `queue.unbind` or `exchange.unbind`, for the binding whose [`super::properties_key`] is
    /// this; [`AdminError::NotFound`] when there is none.
    Unbind {
        /// Virtual host of both ends.
        vhost: &'a str,
        /// The exchange it leads from.
        source: &'a [u8],
        /// What it leads to.
        destination: &'a [u8],
        /// What kind of thing that is.
        destination_kind: DestinationKind,
        /// The key as a client put it into a path: ask [`super::is_properties_key`].
        properties_key: &'a str,
    },
    /// Makes a virtual host or changes the one there is.
    PutVhost {
        /// Its name.
        name: &'a str,
        /// For people; `None` leaves it.
        description: Option<&'a str>,
        /// For people; `None` leaves them.
        tags: Option<&'a [String]>,
        /// Type of queues that are declared without one; `None` leaves it.
        default_queue_type: Option<&'a str>,
        /// Who made it: a new virtual host is fully open to this user, as in RabbitMQ.
        user: Option<&'a str>,
    },
    /// Deletes a virtual host and everything in it.
    DeleteVhost {
        /// Its name.
        name: &'a str,
    },
    /// A change of users or permissions.
    Users(UsersCommand<'a>),
    /// Closes a connection with 320 and `reason`.
    CloseConnection {
        /// Its name.
        name: &'a [u8],
        /// The explanation in the reply text.
        reason: &'a str,
        /// Only if it is this user's; [`AdminError::NotFound`] otherwise.
        only_of: Option<&'a str>,
    },
    /// Stops the server in an orderly way.
    Stop,
}

/// A binding to be made.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// Virtual host of both ends.
    pub vhost: &'a str,
    /// The exchange it leads from.
    pub source: &'a [u8],
    /// What it leads to.
    pub destination: &'a [u8],
    /// What kind of thing that is.
    pub destination_kind: DestinationKind,
    /// Its key.
    pub routing_key: &'a [u8],
    /// Arguments.
    pub arguments: FieldTable<'a>,
}

/// A change of users or permissions.
#[derive(Clone, Copy, Debug)]
pub enum UsersCommand<'a> {
    /// Makes a user or changes the one there is.
    Put {
        /// Name of the user.
        name: &'a str,
        /// What it proves itself with.
        secret: NewSecret<'a>,
        /// Replaces the tags; `None` leaves them.
        tags: Option<&'a [String]>,
    },
    /// Deletes a user; its connections are closed.
    Delete {
        /// Name of the user.
        name: &'a str,
    },
    /// Says what a user may do in a virtual host, which exists.
    SetPermission {
        /// Name of the user.
        user: &'a str,
        /// The virtual host.
        vhost: &'a str,
        /// The expressions.
        texts: PermissionTexts<'a>,
    },
    /// Takes a permission away.
    ClearPermission {
        /// Name of the user.
        user: &'a str,
        /// The virtual host.
        vhost: &'a str,
    },
}

/// What a user is to prove itself with; see [`Secret`]. `Debug` does not show it.
#[derive(Clone, Copy)]
pub enum NewSecret<'a> {
    /// A password, to be hashed.
    Password(&'a [u8]),
    /// A hash made elsewhere.
    Hash {
        /// Base64 of salt and digest.
        text: &'a str,
        /// How it was made.
        algorithm: HashingAlgorithm,
    },
    /// No password fits.
    None,
}

impl std::fmt::Debug for NewSecret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NewSecret::Password(_) => "Password(..)",
            NewSecret::Hash { .. } => "Hash(..)",
            NewSecret::None => "None",
        })
    }
}

impl UsersCommand<'_> {
    /// Applies the change. The caller remembers `Put::changes` and answers
    /// [`Outcome::created`]`(put.created)` when they are durable.
    ///
    /// * `salt`: random octets for a new password's hash.
    pub fn apply(self, users: &mut Users, salt: [u8; SALT_OCTETS]) -> Result<Put, AuthError> {
        let changed = |changes| Put {
            created: false,
            changes,
        };
        match self {
            UsersCommand::Put { name, secret, tags } => {
                let secret = match secret {
                    NewSecret::Password(password) => Secret::Password { password, salt },
                    NewSecret::Hash { text, algorithm } => Secret::Hash { text, algorithm },
                    NewSecret::None => Secret::Hash {
                        text: "",
                        algorithm: HashingAlgorithm::Sha256,
                    },
                };
                users.put(name, secret, tags.map(<[String]>::to_vec))
            }
            UsersCommand::Delete { name } => users.delete(name).map(changed),
            UsersCommand::SetPermission { user, vhost, texts } => {
                users.set_permission(user, vhost, texts)
            }
            UsersCommand::ClearPermission { user, vhost } => {
                users.clear_permission(user, vhost).map(changed)
            }
        }
    }
}

/// What became of a command.
pub type AdminAnswer = Result<Outcome, AdminError>;

/// A command that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something new is there: 201.
    Created,
    /// It was there already, or was changed: 204.
    Exists,
    /// Done: 204.
    Done,
    /// So many messages went: 204.
    Messages(u64),
}

impl Outcome {
    /// [`Outcome::Created`] or [`Outcome::Exists`].
    pub fn created(created: bool) -> Self {
        if created {
            Outcome::Created
        } else {
            Outcome::Exists
        }
    }
}

/// A command that was not carried out. The texts are what AMQP's reply text says after the dash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminError {
    /// What is to be changed does not exist: 404.
    NotFound,
    /// What it is to lead from or to does not exist: 404 with the reason.
    EndMissing(String),
    /// Not allowed, whoever asks (a reserved name, a system exchange): 401 as RabbitMQ answers.
    Refused(String),
    /// Contradicts what is there: 400.
    Precondition(String),
    /// Cannot be done now (no space, the server stops): 503.
    Unavailable(String),
}

impl From<AuthError> for AdminError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::NoSuchUser(_) => AdminError::NotFound,
            error => AdminError::Precondition(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_users_are_applied() {
        let mut users = Users::new(vec![], 10);
        let mut apply = |command: UsersCommand<'_>| {
            command
                .apply(&mut users, [1, 2, 3, 4])
                .map_err(AdminError::from)
                .map(|put| put.created)
        };
        let all = PermissionTexts {
            configure: ".*",
            write: ".*",
            read: ".*",
        };
        let put = |name, secret| UsersCommand::Put {
            name,
            secret,
            tags: None,
        };
        assert_eq!(apply(put("a", NewSecret::Password(b"x"))), Ok(true));
        assert_eq!(apply(put("a", NewSecret::None)), Ok(false));
        let blank = "a password cannot be blank".to_owned();
        assert_eq!(
            apply(put("a", NewSecret::Password(b""))),
            Err(AdminError::Precondition(blank))
        );
        let set = UsersCommand::SetPermission {
            user: "a",
            vhost: "/",
            texts: all,
        };
        assert_eq!((apply(set), apply(set)), (Ok(true), Ok(false)));
        assert_eq!(
            apply(UsersCommand::ClearPermission {
                user: "a",
                vhost: "/"
            }),
            Ok(false)
        );
        assert_eq!(apply(UsersCommand::Delete { name: "a" }), Ok(false));
        assert_eq!(
            apply(UsersCommand::Delete { name: "a" }),
            Err(AdminError::NotFound)
        );
        assert_eq!(apply(set), Err(AdminError::NotFound));
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!(
            "{:?}",
            AdminCommand::Users(UsersCommand::Put {
                name: "a",
                secret: NewSecret::Password(b"secret"),
                tags: None,
            })
        );
        assert!(
            !shown.contains("secret\"") && shown.contains("Password(..)"),
            "{shown}"
        );
    }
}
