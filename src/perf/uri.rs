//! `amqp://user:password@host:port/vhost`, as RabbitMQ's URI specification has it: parts are
//! percent-encoded, no path at all means the vhost `/`, an empty one the vhost with the empty name.

/// Where a broker is and who logs in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Name or address.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
    /// Login name.
    pub(super) user: String,
    /// Password.
    pub(super) password: String,
    /// Virtual host.
    pub(super) vhost: String,
}

impl Target {
    /// Reads a URI; what it does not say is `guest`, `guest`, port 5672 and `/`.
    pub(super) fn parse(uri: &str) -> Result<Self, String> {
        let rest = uri
            .strip_prefix("amqp://")
            .ok_or("a URI that starts with amqp:// is expected")?;
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (login, place),
            None => ("guest:guest", authority),
        };
        let (user, password) = login.split_once(':').unwrap_or((login, "guest"));
        let (host, port) = split_port(place)?;
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        if vhost.len() > 255 {
            return Err("the vhost has more than 255 octets".to_owned());
        }
        Ok(Target {
            host: host.to_owned(),
            port,
            user: decode(user)?,
            password: decode(password)?,
            vhost,
        })
    }
}

/// Host and port; an IPv6 address stands in brackets.
fn split_port(place: &str) -> Result<(&str, u16), String> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("']' is missing")?;
        (host, after.strip_prefix(':'))
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let port = match port {
        None => 5672,
        Some(text) => text
            .parse()
            .map_err(|_| format!("'{text}' is no port number"))?,
    };
    Ok((host, port))
}

/// Resolves `%XX`.
fn decode(text: &str) -> Result<String, String> {
    let bad = || format!("'{text}' is not percent-encoded UTF-8");
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let mut digit = || char::from(rest.next().unwrap_or(b'?')).to_digit(16);
            let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
            octets.push((high << 4 | low) as u8);
        } else {
            octets.push(octet);
        }
    }
    String::from_utf8(octets).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, expected: Option<(&str, u16, &str, &str, &str)>) {
        let target = Target::parse(uri).ok();
        let found = target.as_ref().map(|target| {
            let Target {
                host,
                port,
                user,
                password,
                vhost,
            } = target;
            (
                host.as_str(),
                *port,
                user.as_str(),
                password.as_str(),
                vhost.as_str(),
            )
        });
        assert_eq!(found, expected, "{uri}");
    }

    #[test]
    fn uris_are_read_as_rabbitmq_reads_them() {
        check("amqp://h", Some(("h", 5672, "guest", "guest", "/")));
        check("amqp://h/", Some(("h", 5672, "guest", "guest", "")));
        check("amqp://h:1/%2f", Some(("h", 1, "guest", "guest", "/")));
        check("amqp://u:p%40@h:1/v", Some(("h", 1, "u", "p@", "v")));
        check("amqp://u:a@b@[::1]:7", Some(("::1", 7, "u", "a@b", "/")));
        check("amqp://[::1]", Some(("::1", 5672, "guest", "guest", "/")));
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for uri in [
            "h:1",
            "amqp://",
            "amqp://h:x",
            "amqp://h:70000",
            "amqp://[::1",
            "amqp://h/%2",
        ] {
            check(uri, None);
        }
        check(&format!("amqp://h/{}", "v".repeat(256)), None);
    }
}
