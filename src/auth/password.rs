//! RabbitMQ's password hashes: Base64 of a four-octet salt followed by the digest of salt and
//! password. The texts can be taken from and given to RabbitMQ as they are.

use super::{AuthError, base64};
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use std::hint::black_box;

/// Octets of a salt.
pub const SALT_OCTETS: usize = 4;

/// How a password was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashingAlgorithm {
    /// `rabbit_password_hashing_sha256`, what new passwords get.
    Sha256,
    /// `rabbit_password_hashing_sha512`.
    Sha512,
    /// `rabbit_password_hashing_md5`, found in definitions of old brokers.
    Md5,
}

impl HashingAlgorithm {
    /// The name that RabbitMQ gives it in definitions.
    pub fn name(self) -> &'static str {
        match self {
            HashingAlgorithm::Sha256 => "rabbit_password_hashing_sha256",
            HashingAlgorithm::Sha512 => "rabbit_password_hashing_sha512",
            HashingAlgorithm::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// The algorithm of this name.
    pub fn named(name: &str) -> Result<Self, AuthError> {
        [
            HashingAlgorithm::Sha256,
            HashingAlgorithm::Sha512,
            HashingAlgorithm::Md5,
        ]
        .into_iter()
        .find(|algorithm| algorithm.name() == name)
        .ok_or_else(|| AuthError::UnknownAlgorithm(name.to_owned()))
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        fn over<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update(salt)
                .chain_update(password)
                .finalize()
                .to_vec()
        }
        match self {
            HashingAlgorithm::Sha256 => over::<Sha256>(salt, password),
            HashingAlgorithm::Sha512 => over::<Sha512>(salt, password),
            HashingAlgorithm::Md5 => over::<Md5>(salt, password),
        }
    }

    fn digest_octets(self) -> usize {
        match self {
            HashingAlgorithm::Sha256 => 32,
            HashingAlgorithm::Sha512 => 64,
            HashingAlgorithm::Md5 => 16,
        }
    }
}

/// The hash of a password, or the absence of one: then no password fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash {
    algorithm: HashingAlgorithm,
    /// Salt and digest; empty when there is no password.
    octets: Vec<u8>,
}

impl PasswordHash {
    /// The hash of a user who cannot log in by password.
    pub const NONE: PasswordHash = PasswordHash {
        algorithm: HashingAlgorithm::Sha256,
        octets: Vec::new(),
    };

    /// Hashes `password` with SHA-256.
    ///
    /// # Errors
    /// An empty password is refused, as RabbitMQ does; so is one beyond
    /// [`AuthError::PASSWORD_OCTETS_MAX`].
    pub fn new(password: &[u8], salt: [u8; SALT_OCTETS]) -> Result<Self, AuthError> {
        if password.is_empty() {
            return Err(AuthError::InvalidPassword("a password cannot be blank"));
        }
        if password.len() > AuthError::PASSWORD_OCTETS_MAX {
            return Err(AuthError::InvalidPassword(
                "a password has at most 4096 octets",
            ));
        }
        let algorithm = HashingAlgorithm::Sha256;
        let mut octets = salt.to_vec();
        octets.extend(algorithm.digest(&salt, password));
        Ok(PasswordHash { algorithm, octets })
    }

    /// Reads the text of definitions; an empty one is [`PasswordHash::NONE`].
    pub fn parse(text: &str, algorithm: HashingAlgorithm) -> Result<Self, AuthError> {
        let octets = base64::decode(text.trim().as_bytes()).ok_or(AuthError::InvalidHash)?;
        if octets.is_empty() || octets.len() == SALT_OCTETS + algorithm.digest_octets() {
            Ok(PasswordHash { algorithm, octets })
        } else {
            Err(AuthError::InvalidHash)
        }
    }

    /// The text of definitions.
    pub fn text(&self) -> String {
        base64::encode(&self.octets)
    }

    /// How the password was hashed.
    pub fn algorithm(&self) -> HashingAlgorithm {
        self.algorithm
    }

    /// Whether `password` is the one. Takes as long for a wrong password as for the right one, and
    /// for a user without a password as for others.
    pub fn fits(&self, password: &[u8]) -> bool {
        let (salt, digest) = self.octets.split_at(SALT_OCTETS.min(self.octets.len()));
        let computed = self.algorithm.digest(salt, password);
        let equal = is_equal(digest, &computed);
        equal && !password.is_empty() && password.len() <= AuthError::PASSWORD_OCTETS_MAX
    }
}

/// Compares in a time that depends on the lengths only.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    let differing = left
        .iter()
        .zip(right)
        .fold(0, |bits, (left, right)| black_box(bits | (left ^ right)));
    left.len() == right.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_rabbitmq() {
        // The worked example of RabbitMQ's documentation on computing password hashes.
        let hash = PasswordHash::new(b"test12", [0x90, 0x8D, 0xC6, 0x0A]).expect("not blank");
        assert_eq!(
            hash.text(),
            "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
        );
        assert_eq!(
            PasswordHash::parse(&hash.text(), HashingAlgorithm::Sha256),
            Ok(hash.clone())
        );
        assert!(hash.fits(b"test12"));
        for wrong in ["", "test1", "test123", "Test12"] {
            assert!(!hash.fits(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn other_algorithms_are_verified() {
        for algorithm in [HashingAlgorithm::Sha512, HashingAlgorithm::Md5] {
            let salt = [1, 2, 3, 4];
            let mut octets = salt.to_vec();
            octets.extend(algorithm.digest(&salt, b"secret"));
            let hash =
                PasswordHash::parse(&base64::encode(&octets), algorithm).expect("well formed");
            assert!(hash.fits(b"secret") && !hash.fits(b"Secret"));
            assert_eq!(HashingAlgorithm::named(algorithm.name()), Ok(algorithm));
            let other = PasswordHash::parse(&hash.text(), HashingAlgorithm::Sha256);
            assert_eq!(other, Err(AuthError::InvalidHash));
        }
        assert!(HashingAlgorithm::named("rabbit_password_hashing_rot13").is_err());
    }

    #[test]
    fn no_password_fits_where_there_is_none() {
        let none = PasswordHash::parse("", HashingAlgorithm::Sha256).expect("an empty hash is one");
        assert_eq!(none, PasswordHash::NONE);
        assert!(!none.fits(b"") && !none.fits(b"x"));
        assert!(PasswordHash::new(b"", [0; 4]).is_err());
        assert!(PasswordHash::new(&[b'x'; 4097], [0; 4]).is_err());
        assert_eq!(
            PasswordHash::parse("AAAA", HashingAlgorithm::Sha256),
            Err(AuthError::InvalidHash)
        );
        assert_eq!(
            PasswordHash::parse("?", HashingAlgorithm::Sha256),
            Err(AuthError::InvalidHash)
        );
    }
}
