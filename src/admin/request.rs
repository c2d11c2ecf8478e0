//! Requests of HTTP/1.1: the head by `httparse`, the body by length or in chunks.

use super::reply::{Manner, Reply};
use crate::auth::base64;

/// Header fields of one request at most.
const HEADERS_MAX: usize = 64;
/// Octets of one chunk's size line at most.
const CHUNK_LINE_OCTETS_MAX: usize = 256;

/// The methods that any route knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `GET`, and `HEAD`, which is answered alike but for the body.
    Get,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
}

/// The head of a request, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: Method,
    /// Parts of the path, decoded, without empty ones at the end.
    pub(super) path: Vec<String>,
    /// Pairs of the query, decoded.
    pub(super) query: Vec<(String, String)>,
    /// `Authorization: Basic`, decoded.
    pub(super) credentials: Option<(Vec<u8>, Vec<u8>)>,
    /// `X-Reason`
    pub(super) reason: Option<String>,
    pub(super) manner: Manner,
    pub(super) body: BodyReader,
    /// The client waits for `100 Continue`.
    pub(super) expects_continue: bool,
}

impl Head {
    /// The value of a query parameter.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.as_str())
    }

    /// Whether a query parameter is `true`.
    pub(super) fn has_flag(&self, name: &str) -> bool {
        self.query(name) == Some("true")
    }
}

/// Where the head ends that starts `octets`: after the empty line. Looks at what is beyond
/// `searched` octets only, so that a head that comes octet by octet is searched once.
pub(super) fn head_end(octets: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let rest = &octets[from..];
    rest.iter()
        .enumerate()
        .filter(|(_, octet)| **octet == b'\n')
        .find_map(|(place, _)| {
            let after = &rest[place + 1..];
            let empty_line = [&b"\r\n"[..], b"\n"]
                .into_iter()
                .find(|line| after.starts_with(line))?;
            Some(from + place + 1 + empty_line.len())
        })
}

/// Decodes a whole head.
///
/// * `body_octets_max`: a longer body is refused here when its length is announced.
///
/// # Errors
/// The response to give before the connection ends, since what follows cannot be made out.
pub(super) fn parse_head(octets: &[u8], body_octets_max: usize) -> Result<Head, Reply> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(octets) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Reply::error(431, "bad_request", "too many header fields"));
        }
        Err(httparse::Error::Version) => {
            return Err(Reply::error(
                505,
                "bad_request",
                "HTTP/1.0 or HTTP/1.1 is expected",
            ));
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(Reply::bad_request("not HTTP")),
    }
    let name = request.method.unwrap_or_default();
    let method = match name {
        "GET" | "HEAD" => Method::Get,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        _ => return Err(Reply::error(501, "bad_request", "method is not known")),
    };
    let is_1_1 = request.version == Some(1);
    let (path, query) = target(request.path.unwrap_or_default())
        .ok_or_else(|| Reply::bad_request("malformed request target"))?;
    let mut head = Head {
        method,
        path,
        query,
        credentials: None,
        reason: None,
        manner: Manner {
            is_1_1,
            keep_alive: is_1_1,
            head_only: name == "HEAD",
        },
        body: BodyReader::Length(0),
        expects_continue: false,
    };
    let mut lengths = Lengths::default();
    for header in &*request.headers {
        field(&mut head, &mut lengths, header.name, header.value)?;
    }
    head.body = lengths.reader(body_octets_max)?;
    Ok(head)
}

/// What the head says about the length of the body.
#[derive(Default)]
struct Lengths {
    length: Option<usize>,
    chunked: bool,
}

impl Lengths {
    fn reader(self, body_octets_max: usize) -> Result<BodyReader, Reply> {
        match (self.chunked, self.length) {
            // Two lengths are how one request is smuggled within another.
            (true, Some(_)) => Err(Reply::bad_request("both content-length and chunks")),
            (true, None) => Ok(BodyReader::ChunkSize),
            (false, Some(length)) if length > body_octets_max => Err(too_large()),
            (false, length) => Ok(BodyReader::Length(length.unwrap_or(0))),
        }
    }
}

fn too_large() -> Reply {
    Reply::error(413, "bad_request", "payload too large")
}

fn field(head: &mut Head, lengths: &mut Lengths, name: &str, value: &[u8]) -> Result<(), Reply> {
    let is = |expected: &str| name.eq_ignore_ascii_case(expected);
    let text = || str::from_utf8(value).map(str::trim).unwrap_or_default();
    if is("content-length") {
        let digits = text().bytes().all(|octet| octet.is_ascii_digit());
        let length = text().parse().ok().filter(|_| digits);
        if length.is_none() || lengths.length.is_some_and(|other| Some(other) != length) {
            return Err(Reply::bad_request("malformed content-length"));
        }
        lengths.length = length;
    } else if is("transfer-encoding") {
        if lengths.chunked || !text().eq_ignore_ascii_case("chunked") {
            return Err(Reply::error(
                501,
                "bad_request",
                "transfer-encoding is not known",
            ));
        }
        lengths.chunked = true;
    } else if is("connection") {
        for option in text().split(',').map(str::trim) {
            if option.eq_ignore_ascii_case("close") {
                head.manner.keep_alive = false;
            } else if option.eq_ignore_ascii_case("keep-alive") && !head.manner.is_1_1 {
                head.manner.keep_alive = true;
            }
        }
    } else if is("authorization") {
        head.credentials = basic(text());
    } else if is("x-reason") {
        head.reason = Some(String::from_utf8_lossy(value).chars().take(200).collect());
    } else if is("expect") {
        head.expects_continue = text().eq_ignore_ascii_case("100-continue");
    }
    Ok(())
}

/// Name and password of the Basic scheme.
fn basic(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::decode(encoded.trim().as_bytes())?;
    let colon = decoded.iter().position(|&octet| octet == b':')?;
    Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
}

/// Parts of the path, and pairs of the query.
type Target = (Vec<String>, Vec<(String, String)>);

/// Path and query of a request target; `None` when a part is not UTF-8 after decoding.
fn target(text: &str) -> Option<Target> {
    // The absolute form, which proxies use, names the host once more.
    let text = match text.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => text,
    };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let query = query.split('#').next().unwrap_or_default();
    let path = path.strip_prefix('/')?;
    let mut parts = Vec::new();
    for part in path.split('/') {
        parts.push(percent_decode(part, false)?);
    }
    while parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((percent_decode(name, true)?, percent_decode(value, true)?));
    }
    Some((parts, pairs))
}

/// Decodes `%XX`, in a query also `+`. A `%` that no two digits follow stands for itself.
pub(super) fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    let octets = text.as_bytes();
    let mut decoded = Vec::with_capacity(octets.len());
    let mut place = 0;
    while let Some(&octet) = octets.get(place) {
        let escaped = (octet == b'%')
            .then(|| text.get(place + 1..place + 3))
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(value) = escaped {
            decoded.push(value);
            place += 3;
        } else {
            let is_space = octet == b'+' && plus_is_space;
            decoded.push(if is_space { b' ' } else { octet });
            place += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyReader {
    /// So many octets.
    Length(usize),
    /// The line with the next chunk's size.
    ChunkSize,
    /// So many octets of a chunk, and the line end after it.
    Chunk(usize),
    /// Lines after the last chunk, up to an empty one.
    Trailer,
    /// Nothing.
    Done,
}

impl BodyReader {
    /// Moves what belongs to the body from the front of `octets` to `body`, and returns how many
    /// octets it took. [`BodyReader::Done`] when the body is whole.
    ///
    /// # Errors
    /// The response to give before the connection ends.
    pub(super) fn read(
        &mut self,
        octets: &[u8],
        body: &mut Vec<u8>,
        body_octets_max: usize,
    ) -> Result<usize, Reply> {
        let mut taken = 0;
        loop {
            let rest = &octets[taken..];
            match *self {
                BodyReader::Length(missing) => {
                    let now = missing.min(rest.len());
                    body.extend_from_slice(&rest[..now]);
                    let missing = missing - now;
                    *self = match missing {
                        0 => BodyReader::Done,
                        _ => BodyReader::Length(missing),
                    };
                    return Ok(taken + now);
                }
                BodyReader::ChunkSize => {
                    let Some((line, length)) = line(rest)? else {
                        return Ok(taken);
                    };
                    taken += length;
                    let size = line
                        .split(|&octet| octet == b';')
                        .next()
                        .unwrap_or_default();
                    let size = chunk_size(size)
                        .ok_or_else(|| Reply::bad_request("malformed chunk size"))?;
                    if size > body_octets_max - body.len() {
                        return Err(too_large());
                    }
                    *self = match size {
                        0 => BodyReader::Trailer,
                        _ => BodyReader::Chunk(size),
                    };
                }
                BodyReader::Chunk(0) => {
                    let Some((line, length)) = line(rest)? else {
                        return Ok(taken);
                    };
                    if !line.is_empty() {
                        return Err(Reply::bad_request("malformed chunk"));
                    }
                    taken += length;
                    *self = BodyReader::ChunkSize;
                }
                BodyReader::Chunk(missing) => {
                    let now = missing.min(rest.len());
                    if now == 0 {
                        return Ok(taken);
                    }
                    body.extend_from_slice(&rest[..now]);
                    taken += now;
                    *self = BodyReader::Chunk(missing - now);
                }
                BodyReader::Trailer => {
                    let Some((line, length)) = line(rest)? else {
                        return Ok(taken);
                    };
                    taken += length;
                    if line.is_empty() {
                        *self = BodyReader::Done;
                    }
                }
                BodyReader::Done => return Ok(taken),
            }
        }
    }
}

/// The first line of `octets` without its end, and how many octets it takes with it.
fn line(octets: &[u8]) -> Result<Option<(&[u8], usize)>, Reply> {
    match octets.iter().position(|&octet| octet == b'\n') {
        Some(end) if end <= CHUNK_LINE_OCTETS_MAX => {
            let line = &octets[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if octets.len() <= CHUNK_LINE_OCTETS_MAX => Ok(None),
        _ => Err(Reply::bad_request("malformed chunk")),
    }
}

fn chunk_size(text: &[u8]) -> Option<usize> {
    let text = str::from_utf8(text).ok()?.trim();
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    usize::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, u16> {
        parse_head(text.as_bytes(), 1000).map_err(|reply| reply.status)
    }

    #[test]
    fn heads_are_decoded() {
        let got = head(
            "GET /api/queues/%2F/a%20b/?page=1&name=%5Ea+b&flag=true&empty HTTP/1.1\r\n\
             Host: x\r\nAuthorization: Basic Z3Vlc3Q6cDpx\r\nX-Reason: tired\r\n\r\n",
        )
        .expect("well formed");
        assert_eq!(got.path, ["api", "queues", "/", "a b"]);
        assert_eq!(
            (got.query("page"), got.query("name")),
            (Some("1"), Some("^a b"))
        );
        assert_eq!((got.query("empty"), got.query("none")), (Some(""), None));
        assert!(got.has_flag("flag") && !got.has_flag("page"));
        assert_eq!(got.credentials, Some((b"guest".to_vec(), b"p:q".to_vec())));
        assert_eq!(got.reason.as_deref(), Some("tired"));
        assert!(got.manner.keep_alive && got.manner.is_1_1 && !got.manner.head_only);
        assert_eq!(got.body, BodyReader::Length(0));

        for (text, keep_alive, head_only, body) in [
            ("HEAD / HTTP/1.1\r\n\r\n", true, true, BodyReader::Length(0)),
            (
                "GET / HTTP/1.0\r\n\r\n",
                false,
                false,
                BodyReader::Length(0),
            ),
            (
                "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
                true,
                false,
                BodyReader::Length(0),
            ),
            (
                "GET / HTTP/1.1\r\nconnection: x, close\r\n\r\n",
                false,
                false,
                BodyReader::Length(0),
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 7\r\n\r\n",
                true,
                false,
                BodyReader::Length(7),
            ),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                true,
                false,
                BodyReader::ChunkSize,
            ),
            (
                "GET http://h:1/ HTTP/1.1\n\n",
                true,
                false,
                BodyReader::Length(0),
            ),
        ] {
            let got = head(text).expect(text);
            let manner = got.manner;
            assert_eq!(
                (manner.keep_alive, manner.head_only, got.body),
                (keep_alive, head_only, body)
            );
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        for (text, status) in [
            ("\0\0\0\r\n\r\n", 400),
            ("AMQP\0\0\x09\x01\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("BREW / HTTP/1.1\r\n\r\n", 501),
            ("GET api HTTP/1.1\r\n\r\n", 400),
            ("GET /%FF HTTP/1.1\r\n\r\n", 400),
            ("PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
            ("PUT / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", 400),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                400,
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                501,
            ),
            ("PUT / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
            (&*many, 431),
        ] {
            assert_eq!(head(text).map(|_| ()), Err(status), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        for (text, expected) in [
            ("GET / HTTP/1.1\r\na: b\r\n\r\nrest", Some(24)),
            ("GET / HTTP/1.1\na: b\n\nrest", Some(21)),
            ("GET / HTTP/1.1\r\na: b\r\n", None),
        ] {
            for searched in 0..text.len() {
                let found = head_end(text.as_bytes(), 0);
                assert_eq!(found, expected, "{text:?}");
                if expected.is_none_or(|end| searched < end) {
                    assert_eq!(
                        head_end(text.as_bytes(), searched),
                        expected,
                        "{text:?} {searched}"
                    );
                }
            }
        }
    }

    #[test]
    fn percent_signs() {
        for (text, plus, expected) in [
            ("%2F", false, Some("/")),
            ("a+b", false, Some("a+b")),
            ("a+b", true, Some("a b")),
            ("100%", false, Some("100%")),
            ("%zz%4", false, Some("%zz%4")),
            ("%é", false, Some("%é")),
            ("%+1", false, Some("%+1")),
            ("%C3%A9", false, Some("é")),
            ("%C3", false, None),
        ] {
            assert_eq!(percent_decode(text, plus).as_deref(), expected, "{text:?}");
        }
    }

    /// Feeds `octets` in pieces of `step` and returns the body and what was left over.
    fn read(mut reader: BodyReader, octets: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), u16> {
        let (mut body, mut pending) = (Vec::new(), Vec::new());
        for piece in octets.chunks(step) {
            pending.extend_from_slice(piece);
            let taken = reader
                .read(&pending, &mut body, 20)
                .map_err(|reply| reply.status)?;
            pending.drain(..taken);
        }
        if reader == BodyReader::Done {
            Ok((body, pending))
        } else {
            Err(0)
        }
    }

    #[test]
    fn bodies_are_read_wherever_they_are_cut() {
        let chunks = BodyReader::ChunkSize;
        for step in 1..40 {
            for (reader, octets, expected) in [
                (BodyReader::Length(0), "GET", Ok(("", "GET"))),
                (BodyReader::Length(3), "abcGET", Ok(("abc", "GET"))),
                (BodyReader::Length(3), "ab", Err(0)),
                (chunks, "0\r\n\r\nGET", Ok(("", "GET"))),
                (
                    chunks,
                    "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\nGET",
                    Ok(("abcde", "GET")),
                ),
                (chunks, "3\nabc\n0\n\n", Ok(("abc", ""))),
                (chunks, "3\r\nabcd\r\n", Err(400)),
                (chunks, "x\r\n", Err(400)),
                (chunks, "\r\n", Err(400)),
                (chunks, "-1\r\n", Err(400)),
                (chunks, "ffffffffff\r\n", Err(400)),
                (chunks, "15\r\n", Err(413)),
                (chunks, "13\r\n0123456789012345678\r\n2\r\n", Err(413)),
            ] {
                let got = read(reader, octets.as_bytes(), step);
                let expected = expected
                    .map(|(body, rest)| (body.as_bytes().to_vec(), rest.as_bytes().to_vec()));
                assert_eq!(got, expected, "{octets:?} in steps of {step}");
            }
            let endless = "0".repeat(1000);
            assert_eq!(read(chunks, endless.as_bytes(), step), Err(400));
        }
    }
}
