//! Where a listener listens.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// All interfaces, IPv6 and IPv4 by one socket; where the machine has no IPv6, IPv4 alone.
    Any {
        /// The port; 0 picks a free one.
        port: u16,
    },
    /// This address alone.
    At(SocketAddr),
}

impl ListenAddress {
    /// Reads `ADDRESS:PORT`, `[ADDRESS]:PORT`, `:PORT`, `*:PORT` or `PORT`.
    ///
    /// The address is a number, since looking names up can block; `localhost` stands for
    /// 127.0.0.1. RabbitMQ's `::1:5672` and `:::5672` (no brackets) are understood.
    pub fn parse(text: &str) -> Result<ListenAddress, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port
            .parse::<u16>()
            .map_err(|_| "ADDRESS:PORT is expected, a port being from 0 to 65535".to_owned())?;
        ListenAddress::with_host(host, port)
    }

    /// The address `host` (as in [`ListenAddress::parse`]; empty is all interfaces) with `port`.
    pub fn with_host(host: &str, port: u16) -> Result<ListenAddress, String> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let address = match bare {
            "" | "*" => return Ok(ListenAddress::Any { port }),
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => bare
                .parse()
                .map_err(|_| format!("'{bare}' is not an IP address"))?,
        };
        Ok(match address {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => ListenAddress::Any { port },
            address => ListenAddress::At(SocketAddr::new(address, port)),
        })
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> ListenAddress {
        match self {
            ListenAddress::Any { .. } => ListenAddress::Any { port },
            ListenAddress::At(mut address) => {
                address.set_port(port);
                ListenAddress::At(address)
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Any { port } => write!(f, "[::]:{port}"),
            ListenAddress::At(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_common_form() {
        for (text, expected) in [
            ("5672", Ok("[::]:5672")),
            (":5672", Ok("[::]:5672")),
            ("*:5672", Ok("[::]:5672")),
            ("[::]:5672", Ok("[::]:5672")),
            (":::5672", Ok("[::]:5672")),
            ("::1:5672", Ok("[::1]:5672")),
            ("[::1]:0", Ok("[::1]:0")),
            ("127.0.0.1:0", Ok("127.0.0.1:0")),
            ("0.0.0.0:5672", Ok("0.0.0.0:5672")),
            ("localhost:5672", Ok("127.0.0.1:5672")),
            ("broker.example:5672", Err("not an IP address")),
            ("127.0.0.1:99999", Err("a port being from 0 to 65535")),
            ("127.0.0.1", Err("a port")),
            ("", Err("a port")),
        ] {
            match (ListenAddress::parse(text), expected) {
                (Ok(address), Ok(shown)) => assert_eq!(address.to_string(), shown, "{text:?}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{text:?}: {reason}"),
                (got, _) => panic!("{text:?}: {got:?}"),
            }
        }
    }
}
