//! HTTP/1.1 as a client, blocking: one request a connection.

use super::args::Options;
use super::{CONTROL_SOCKET, EXIT_UNAVAILABLE, Failure};
use crate::auth::base64;
use crate::config::ListenAddress;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Octets of a response that are read at most.
const RESPONSE_OCTETS_MAX: u64 = 1 << 32;
/// Wait for an answer when the command line says nothing, in seconds.
pub(super) const TIMEOUT_S: u64 = 60;

/// A way to ask the broker.
pub(super) trait Transport {
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// What is in the way, when there is no answer.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Response, String>;
}

/// An answer of the broker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Response {
    /// Status code.
    pub(super) status: u16,
    /// The body; `Null` when there is none.
    pub(super) body: Value,
    /// Messages that went with a deleted or purged queue, when the broker says it.
    pub(super) messages: Option<u64>,
}

enum Place {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

/// The broker behind its control socket or a TCP port.
pub(super) struct Client {
    place: Place,
    authorization: String,
    timeout: Duration,
}

impl Client {
    /// A client for the broker that the options name; nothing is sent yet.
    ///
    /// * `variable`: reads one environment variable.
    pub(super) fn new(
        options: &Options,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Client, Failure> {
        let place = match &options.http {
            None => Place::Socket(options.data_dir.join(CONTROL_SOCKET)),
            Some(text) => Place::Tcp(address(text)?),
        };
        // A password on the command line can be read by everybody on the machine.
        let password = options
            .password
            .clone()
            .or_else(|| variable("LEVERET_PASSWORD"));
        let password = password.unwrap_or_else(|| "guest".to_owned());
        let login = base64::encode(format!("{}:{password}", options.user).as_bytes());
        let timeout = options.timeout_s.unwrap_or(TIMEOUT_S).max(1);
        Ok(Client {
            place,
            authorization: format!("Authorization: Basic {login}\r\n"),
            timeout: Duration::from_secs(timeout),
        })
    }

    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        match &self.place {
            Place::Socket(path) => {
                let shown = path.display();
                let stream = UnixStream::connect(path)
                    .map_err(|error| format!("cannot connect to {shown}: {error}"))?;
                let timeouts = stream
                    .set_read_timeout(Some(self.timeout))
                    .and_then(|()| stream.set_write_timeout(Some(self.timeout)));
                timeouts
                    .and_then(|()| converse(stream, request))
                    .map_err(|error| format!("no answer from {shown}: {error}"))
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, self.timeout)
                    .map_err(|error| format!("cannot connect to {address}: {error}"))?;
                let timeouts = stream
                    .set_read_timeout(Some(self.timeout))
                    .and_then(|()| stream.set_write_timeout(Some(self.timeout)));
                timeouts
                    .and_then(|()| converse(stream, request))
                    .map_err(|error| format!("no answer from {address}: {error}"))
            }
        }
    }
}

impl Transport for Client {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Response, String> {
        let authorization = match self.place {
            Place::Socket(_) => "",
            Place::Tcp(_) => &self.authorization,
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let octets = self.exchange(request.as_bytes())?;
        parse(&octets).ok_or_else(|| "the answer is not HTTP".to_owned())
    }
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    let wrong =
        |reason: String| Failure::new(super::EXIT_USAGE, format!("--http {text}: {reason}"));
    match ListenAddress::parse(text).map_err(wrong)? {
        ListenAddress::At(address) => Ok(address),
        ListenAddress::Any { port } => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
    }
}

fn converse(mut stream: impl Read + Write, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    let mut octets = Vec::new();
    stream.take(RESPONSE_OCTETS_MAX).read_to_end(&mut octets)?;
    Ok(octets)
}

/// A whole response; `None` when it is not one.
pub(super) fn parse(octets: &[u8]) -> Option<Response> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(end)) = head.parse(octets) else {
        return None;
    };
    let value = |name: &str| {
        let header = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        str::from_utf8(header.value).ok()
    };
    let body = &octets[end..];
    let body = match value("transfer-encoding") {
        Some("chunked") => joined(body)?,
        _ => match value("content-length") {
            Some(length) => body.get(..length.parse().ok()?)?.to_vec(),
            None => body.to_vec(),
        },
    };
    Some(Response {
        status: head.code?,
        body: if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).ok()?
        },
        messages: value("x-messages").and_then(|text| text.parse().ok()),
    })
}

/// The chunks without their frames; `None` when the last one is missing.
fn joined(octets: &[u8]) -> Option<Vec<u8>> {
    let (mut body, mut rest) = (Vec::new(), octets);
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) else {
            return None;
        };
        if size == 0 {
            return Some(body);
        }
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(rest.get(start..end)?);
        rest = rest.get(end..)?.strip_prefix(b"\r\n")?;
    }
}

/// What is said when the broker cannot be reached.
pub(super) fn unreachable(node: &str, reason: &str) -> Failure {
    let text = format!(
        "Error: unable to perform an operation on node '{node}'. \
         Please see diagnostics information and suggestions below.\n\n\
         Most common reasons for this are:\n\n \
         * The broker is not running\n \
         * It runs with another data directory: say which by --data-dir or LEVERET_DATA_DIR\n \
         * It runs as another user, and its control socket is not yours to open\n\n\
         DIAGNOSTICS\n===========\n\n{reason}"
    );
    Failure::new(EXIT_UNAVAILABLE, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn responses_are_parsed() {
        for (text, expected) in [
            (
                "HTTP/1.1 204 No Content\r\nx-messages: 7\r\n\r\n",
                Some((204, Value::Null, Some(7))),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
                Some((200, json!([]), None)),
            ),
            ("HTTP/1.0 200 OK\r\n\r\n[1]", Some((200, json!([1]), None))),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n",
                Some((200, json!([1]), None)),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n",
                None,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffff\r\n[",
                None,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[]", None),
            ("HTTP/1.1 200 OK\r\n\r\n[", None),
            ("HTTP/1.1 200", None),
            ("AMQP\0\0\x09\x01", None),
        ] {
            let expected = expected.map(|(status, body, messages)| Response {
                status,
                body,
                messages,
            });
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn an_unreachable_broker_is_told_with_what_to_look_at() {
        let failure = unreachable("rabbit@here", "cannot connect to ./x/control.sock: none");
        assert_eq!(failure.exit_code, 69);
        assert!(
            failure.text.contains("node 'rabbit@here'")
                && failure.text.contains("./x/control.sock")
        );
    }
}

#[cfg(test)]
mod socket_tests {
    use super::*;
    use crate::config::args::ControlTool;
    use std::ffi::OsString;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn client(words: &[&str]) -> Client {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let (options, _) =
            super::super::args::parse(ControlTool::Control, &words, &|_| None, "n".to_owned())
                .expect("valid words");
        Client::new(&options, &|_| None).expect("valid options")
    }

    /// Takes one request to the end of its head, and answers with `answer`.
    fn serve(mut stream: impl Read + Write, answer: &[u8]) -> String {
        let (mut seen, mut octet) = (Vec::new(), [0]);
        while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|count| count == 1)
        {
            seen.push(octet[0]);
        }
        stream.write_all(answer).expect("the client reads");
        String::from_utf8(seen).expect("UTF-8")
    }

    #[test]
    fn the_control_socket_needs_no_password() {
        let directory = std::env::temp_dir().join(format!("leveret-ctl-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the temporary directory takes directories");
        let path = directory.join(CONTROL_SOCKET);
        let listener = UnixListener::bind(&path).expect("the path is free");
        let shown = directory.display().to_string();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client comes");
            serve(stream, b"HTTP/1.1 204 No Content\r\nx-messages: 3\r\n\r\n")
        });
        let mut to = client(&["purge_queue", "q", "--data-dir", &shown]);
        let response = to
            .ask("DELETE", "/api/queues/%2F/q/contents", "")
            .expect("an answer");
        assert_eq!((response.status, response.messages), (204, Some(3)));
        let request = server.join().expect("the server ends");
        assert!(request.starts_with("DELETE /api/queues/%2F/q/contents HTTP/1.1\r\n"));
        assert!(!request.contains("Authorization"), "{request}");
        std::fs::remove_dir_all(&directory).expect("made above");
        let error = to.ask("GET", "/", "").expect_err("nobody listens any more");
        assert!(error.contains(CONTROL_SOCKET), "{error}");
    }

    #[test]
    fn over_tcp_a_user_logs_in_and_silence_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client comes");
            let request = serve(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]");
            // The second client gets no answer.
            let (_silent, _) = listener.accept().expect("another client comes");
            thread::sleep(Duration::from_millis(1500));
            request
        });
        let words = [
            "list_users",
            "--http",
            &address,
            "--user",
            "u",
            "--password",
            "p",
            "-t",
            "1",
        ];
        let mut to = client(&words);
        assert_eq!(
            to.ask("GET", "/api/users", "")
                .map(|response| response.status),
            Ok(200)
        );
        let error = to.ask("GET", "/api/users", "").expect_err("silence");
        assert!(error.contains("no answer from 127.0.0.1"), "{error}");
        let request = server.join().expect("the server ends");
        assert!(
            request.contains("\r\nAuthorization: Basic dTpw\r\n"),
            "{request}"
        );
    }
}
