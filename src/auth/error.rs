//! What can be wrong with a change to users and permissions.

use std::fmt;

/// A change that was not made. The text is fit for the `reason` of an HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// There is no user of this name.
    NoSuchUser(String),
    /// A name is empty or longer than 255 octets.
    InvalidName(String),
    /// A password is empty or longer than [`AuthError::PASSWORD_OCTETS_MAX`].
    InvalidPassword(&'static str),
    /// A password hash is not what its algorithm yields.
    InvalidHash,
    /// A name of a hashing algorithm that is not known.
    UnknownAlgorithm(String),
    /// An expression of a permission that cannot be compiled.
    InvalidPattern {
        /// The expression as given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// As many users exist as the configuration allows.
    TooManyUsers(u32),
}

impl AuthError {
    /// Longest password that is hashed.
    pub const PASSWORD_OCTETS_MAX: usize = 4096;
    /// Longest name of a user or a virtual host.
    pub const NAME_OCTETS_MAX: usize = 255;
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::NoSuchUser(name) => write!(f, "user '{name}' does not exist"),
            AuthError::InvalidName(name) => {
                let limit = AuthError::NAME_OCTETS_MAX;
                write!(
                    f,
                    "a name has 1 to {limit} octets, '{name}' has {}",
                    name.len()
                )
            }
            AuthError::InvalidPassword(reason) => f.write_str(reason),
            AuthError::InvalidHash => f.write_str("the password hash does not fit its algorithm"),
            AuthError::UnknownAlgorithm(name) => {
                write!(f, "hashing algorithm '{name}' is not known")
            }
            AuthError::InvalidPattern { pattern, reason } => {
                write!(f, "invalid regular expression '{pattern}': {reason}")
            }
            AuthError::TooManyUsers(limit) => write!(f, "the limit of {limit} users is reached"),
        }
    }
}

impl std::error::Error for AuthError {}
