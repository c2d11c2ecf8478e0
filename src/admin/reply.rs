//! Responses of HTTP/1.1 as octets, with RabbitMQ's error bodies.

use super::command::{AdminAnswer, AdminError, Outcome};
use serde_json::{Value, json};
use std::io::Write as _;

/// A whole response, but for the parts that depend on the request's protocol version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    /// Status code.
    pub(super) status: u16,
    /// Body; none sends `content-length: 0`, or nothing at all with 204.
    pub(super) body: Option<Value>,
    /// Further headers.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Reply {
    /// A response without a body.
    pub(super) fn empty(status: u16) -> Self {
        Reply {
            status,
            body: None,
            headers: Vec::new(),
        }
    }

    /// A response with a body.
    pub(super) fn json(status: u16, body: impl Into<Value>) -> Self {
        Reply {
            status,
            body: Some(body.into()),
            headers: Vec::new(),
        }
    }

    /// An error as RabbitMQ words it.
    pub(super) fn error(status: u16, error: &str, reason: impl Into<Value>) -> Self {
        Reply::json(status, json!({ "error": error, "reason": reason.into() }))
    }

    /// 404.
    pub(super) fn not_found() -> Self {
        Reply::error(404, "Object Not Found", "Not Found")
    }

    /// 400 for what the request says.
    pub(super) fn bad_request(reason: impl Into<Value>) -> Self {
        Reply::error(400, "bad_request", reason)
    }

    /// 401 for a user who is known and may not.
    pub(super) fn refused(reason: &str) -> Self {
        Reply::error(401, "not_authorised", reason)
    }

    /// 401 for nobody: the request has no credentials.
    pub(super) fn challenge() -> Self {
        Reply::empty(401).with("www-authenticate", REALM)
    }

    /// 401 for credentials that do not fit.
    pub(super) fn login_failed(reason: &str) -> Self {
        Reply::error(401, "not_authorized", reason).with("www-authenticate", REALM)
    }

    /// A health check: 200, or 503 with what is wrong.
    pub(super) fn health(is_well: bool, body: Value) -> Self {
        Reply::json(if is_well { 200 } else { 503 }, body)
    }

    /// The same with one more header.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// What became of a command.
    pub(super) fn answer(answer: AdminAnswer) -> Self {
        match answer {
            Ok(Outcome::Created) => Reply::empty(201),
            Ok(Outcome::Exists | Outcome::Done) => Reply::empty(204),
            Ok(Outcome::Messages(count)) => Reply::empty(204).with("x-messages", count.to_string()),
            Err(AdminError::NotFound) => Reply::not_found(),
            Err(AdminError::EndMissing(reason)) => Reply::error(404, "not_found", reason),
            Err(AdminError::Refused(_)) => Reply::refused("Access refused."),
            Err(AdminError::Precondition(reason)) => Reply::bad_request(reason),
            Err(AdminError::Unavailable(reason)) => Reply::error(503, "unavailable", reason),
        }
    }
}

const REALM: &str = "Basic realm=\"RabbitMQ Management\"";

/// How the request wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// HTTP/1.1, which knows chunks.
    pub(super) is_1_1: bool,
    /// The connection goes on after the response.
    pub(super) keep_alive: bool,
    /// Only the head is wanted.
    pub(super) head_only: bool,
}

/// Appends a whole response.
pub(super) fn write(out: &mut Vec<u8>, reply: &Reply, manner: Manner) {
    let body = reply
        .body
        .as_ref()
        .map(|body| serde_json::to_vec(body).expect("a JSON value always becomes octets"));
    write_head(out, reply.status, &reply.headers, manner);
    write_body(out, reply.status, body.as_deref(), manner);
}

/// Appends a response whose body is rendered already.
pub(super) fn write_rendered(out: &mut Vec<u8>, body: &[u8], manner: Manner) {
    write_head(out, 200, &[], manner);
    write_body(out, 200, Some(body), manner);
}

/// Appends the head of a response whose body follows in chunks (or, before HTTP/1.1, until the
/// connection ends).
pub(super) fn write_chunked_head(out: &mut Vec<u8>, manner: Manner) {
    write_head(out, 200, &[], manner);
    out.extend_from_slice(b"content-type: application/json\r\n");
    if manner.is_1_1 {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends one piece of such a body; an empty one is skipped, since it would mean the end.
pub(super) fn write_chunk(out: &mut Vec<u8>, piece: &[u8], manner: Manner) {
    if manner.head_only || piece.is_empty() {
        return;
    }
    if manner.is_1_1 {
        put(out, format_args!("{:x}\r\n", piece.len()));
    }
    out.extend_from_slice(piece);
    if manner.is_1_1 {
        out.extend_from_slice(b"\r\n");
    }
}

/// Ends such a body.
pub(super) fn write_last_chunk(out: &mut Vec<u8>, manner: Manner) {
    if manner.is_1_1 && !manner.head_only {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

fn write_head(out: &mut Vec<u8>, status: u16, headers: &[(&str, String)], manner: Manner) {
    let version = if manner.is_1_1 { "1.1" } else { "1.0" };
    put(
        out,
        format_args!("HTTP/{version} {status} {}\r\n", reason_phrase(status)),
    );
    out.extend_from_slice(
        b"cache-control: no-cache\r\nvary: accept, accept-encoding, origin\r\n\
          x-content-type-options: nosniff\r\n\
          content-security-policy: default-src 'self'; frame-ancestors 'none'\r\n",
    );
    for (name, value) in headers {
        put(out, format_args!("{name}: {value}\r\n"));
    }
    if !manner.keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    } else if !manner.is_1_1 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
}

fn write_body(out: &mut Vec<u8>, status: u16, body: Option<&[u8]>, manner: Manner) {
    if body.is_some() {
        out.extend_from_slice(b"content-type: application/json\r\n");
    }
    let body = body.unwrap_or_default();
    // 204 has no body by definition, and must not announce one.
    if status != 204 {
        put(out, format_args!("content-length: {}\r\n", body.len()));
    }
    out.extend_from_slice(b"\r\n");
    if !manner.head_only {
        out.extend_from_slice(body);
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Manner = Manner {
        is_1_1: true,
        keep_alive: true,
        head_only: false,
    };

    fn written(reply: &Reply, manner: Manner) -> String {
        let mut out = Vec::new();
        write(&mut out, reply, manner);
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn responses_are_framed() {
        let text = written(&Reply::not_found(), PLAIN);
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(text.contains("\r\ncontent-length: 49\r\n"));
        assert!(
            text.ends_with("\r\n\r\n{\"error\":\"Object Not Found\",\"reason\":\"Not Found\"}")
        );
        let text = written(&Reply::empty(204), PLAIN);
        assert!(!text.contains("content-length") && text.ends_with("\r\n\r\n"));
        let text = written(&Reply::challenge(), PLAIN);
        assert!(
            text.contains("www-authenticate: Basic realm") && text.contains("content-length: 0")
        );
        let head = Manner {
            head_only: true,
            ..PLAIN
        };
        let text = written(&Reply::not_found(), head);
        assert!(text.contains("content-length: 49\r\n") && text.ends_with("\r\n\r\n"));
        let old = Manner {
            is_1_1: false,
            keep_alive: false,
            head_only: false,
        };
        let text = written(&Reply::empty(201), old);
        assert!(text.starts_with("HTTP/1.0 201 Created\r\n") && text.contains("connection: close"));
    }

    #[test]
    fn chunks_are_framed_where_the_protocol_has_them() {
        for (is_1_1, expected) in [(true, "3\r\nabc\r\n0\r\n\r\n"), (false, "abc")] {
            let manner = Manner { is_1_1, ..PLAIN };
            let mut out = Vec::new();
            write_chunk(&mut out, b"abc", manner);
            write_chunk(&mut out, b"", manner);
            write_last_chunk(&mut out, manner);
            assert_eq!(out, expected.as_bytes());
        }
    }
}
