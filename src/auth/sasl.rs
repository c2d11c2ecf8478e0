//! The SASL mechanisms PLAIN (RFC 4616), AMQPLAIN and ANONYMOUS, as RabbitMQ reads them.

use crate::wire::field_table::{FieldTable, FieldValue};

/// What a client may log in with.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    /// The mechanisms that `connection.start` names, separated by blanks.
    pub mechanisms: &'a str,
    /// Name and password of the user as whom ANONYMOUS logs in.
    pub anonymous: (&'a str, &'a str),
}

impl Offered<'_> {
    fn has(&self, mechanism: &[u8]) -> bool {
        let mut names = self.mechanisms.split(' ');
        names.any(|name| name.as_bytes() == mechanism)
    }
}

/// A name and a password as a client sent them, borrowed from its response. `Debug` does not
/// show the password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// Name of the user.
    pub name: &'a [u8],
    /// The password.
    pub password: &'a [u8],
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &String::from_utf8_lossy(self.name))
            .finish_non_exhaustive()
    }
}

/// Why no credentials could be read from a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslError {
    /// No mechanism that RabbitMQ knows: 503 `unknown authentication mechanism '…'`.
    UnknownMechanism,
    /// A mechanism of RabbitMQ that is not offered: 503 `invalid authentication mechanism '…'`.
    NotOffered,
    /// The response is not what the mechanism prescribes: 502.
    Malformed(&'static str),
}

/// Reads `response` as the mechanism prescribes. What a client says of itself under ANONYMOUS is
/// not looked at: it is the user that the server is told to take.
pub fn credentials<'a>(
    offered: Offered<'a>,
    mechanism: &[u8],
    response: &'a [u8],
) -> Result<Credentials<'a>, SaslError> {
    match mechanism {
        b"PLAIN" | b"AMQPLAIN" | b"ANONYMOUS" if !offered.has(mechanism) => {
            Err(SaslError::NotOffered)
        }
        b"PLAIN" => plain(response),
        b"AMQPLAIN" => amqplain(response),
        b"ANONYMOUS" => Ok(Credentials {
            name: offered.anonymous.0.as_bytes(),
            password: offered.anonymous.1.as_bytes(),
        }),
        b"EXTERNAL" | b"RABBIT-CR-DEMO" => Err(SaslError::NotOffered),
        _ => Err(SaslError::UnknownMechanism),
    }
}

/// PLAIN: a zero octet, the name, a zero octet, the password. An authorization identity before
/// the first zero is refused, as in RabbitMQ. The text of the error does not repeat the response,
/// as RabbitMQ's does, since that would put passwords into logs.
pub fn plain(response: &[u8]) -> Result<Credentials<'_>, SaslError> {
    let parts = response.strip_prefix(&[0]).and_then(|rest| {
        let end = rest.iter().position(|&octet| octet == 0)?;
        Some((&rest[..end], &rest[end + 1..]))
    });
    match parts {
        Some((name, password)) if !password.contains(&0) => Ok(Credentials { name, password }),
        _ => Err(SaslError::Malformed("response <<...>> invalid")),
    }
}

/// AMQPLAIN: the fields of a table without its length, `LOGIN` and `PASSWORD` among them.
pub fn amqplain(response: &[u8]) -> Result<Credentials<'_>, SaslError> {
    let malformed = SaslError::Malformed;
    let table = FieldTable::check(response)
        .map_err(|_| malformed("AMQPLAIN auth info cannot be decoded"))?;
    let text = |key: &str| table.get(key).and_then(FieldValue::as_long_string);
    match (text("LOGIN"), text("PASSWORD")) {
        (Some(name), Some(password)) => Ok(Credentials { name, password }),
        _ => Err(malformed(
            "AMQPLAIN auth info is missing LOGIN or PASSWORD field",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offered<'_> = Offered {
        mechanisms: "PLAIN AMQPLAIN ANONYMOUS",
        anonymous: ("guest", "pw"),
    };

    fn check(mechanism: &str, response: &[u8], expected: Result<(&str, &str), SaslError>) {
        let got = credentials(ALL, mechanism.as_bytes(), response);
        let expected = expected.map(|(name, password)| Credentials {
            name: name.as_bytes(),
            password: password.as_bytes(),
        });
        assert_eq!(got, expected, "{mechanism} {response:?}");
    }

    #[test]
    fn plain_responses() {
        let malformed = Err(SaslError::Malformed("response <<...>> invalid"));
        check("PLAIN", b"\0guest\0guest", Ok(("guest", "guest")));
        check("PLAIN", b"\0guest\0", Ok(("guest", "")));
        check("PLAIN", b"\0\0", Ok(("", "")));
        for response in [
            &b""[..],
            b"\0",
            b"guest\0guest",
            b"a\0b\0c",
            b"\0a\0b\0",
            b"\0guest",
        ] {
            check("PLAIN", response, malformed);
        }
    }

    #[test]
    fn amqplain_responses() {
        let missing = Err(SaslError::Malformed(
            "AMQPLAIN auth info is missing LOGIN or PASSWORD field",
        ));
        let whole = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x02pw";
        check("AMQPLAIN", whole, Ok(("guest", "pw")));
        check("AMQPLAIN", b"\x05LOGINS\0\0\0\x05guest", missing);
        check(
            "AMQPLAIN",
            b"\x05LOGINt\x01\x08PASSWORDS\0\0\0\x02pw",
            missing,
        );
        check("AMQPLAIN", b"", missing);
        let garbage = Err(SaslError::Malformed("AMQPLAIN auth info cannot be decoded"));
        for cut in 1..whole.len() {
            // Between the two fields the table is whole, and lacks the password.
            let expected = if cut == 16 { missing } else { garbage };
            check("AMQPLAIN", &whole[..cut], expected);
        }
    }

    #[test]
    fn other_mechanisms_are_told_apart() {
        check("ANONYMOUS", b"trace", Ok(("guest", "pw")));
        let few = Offered {
            mechanisms: "AMQPLAIN",
            ..ALL
        };
        for mechanism in [&b"PLAIN"[..], b"ANONYMOUS"] {
            let refused = credentials(few, mechanism, b"\0guest\0guest");
            assert_eq!(refused, Err(SaslError::NotOffered));
        }
        check("EXTERNAL", b"", Err(SaslError::NotOffered));
        check("ROT13", b"", Err(SaslError::UnknownMechanism));
        let shown = format!("{:?}", plain(b"\0guest\0secret"));
        assert!(
            shown.contains("guest") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
