//! A client's end of one connection: writes frames, reads frames, puts methods and their content
//! together. Blocking, on one socket; every wait is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::methods::{self, FieldType, MethodSpec};
use crate::value::{Reader, Value, encode_arguments, encode_value, quoted};

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
pub(crate) const FRAME_END: u8 = 0xCE;
pub(crate) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The present moment, for bounds of waits.
#[expect(clippy::disallowed_methods, reason = "tests measure real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A method with all its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Method {
    pub(crate) spec: &'static MethodSpec,
    pub(crate) values: Vec<Value>,
}

impl Method {
    /// The method `name` with the arguments that are named; the others are zero.
    pub(crate) fn new(name: &str, arguments: &[(&str, Value)]) -> Self {
        let spec = methods::by_name(name).expect("a method of the table");
        let values = spec
            .arguments()
            .map(|(name, kind)| {
                let given = arguments.iter().find(|(given, _)| *given == name);
                given.map_or_else(|| Value::default_of(kind), |(_, value)| value.clone())
            })
            .collect();
        Method { spec, values }
    }

    /// The argument called `name`.
    pub(crate) fn get(&self, name: &str) -> &Value {
        let place = self.spec.arguments().position(|(it, _)| it == name);
        &self.values[place.expect("an argument of the method")]
    }

    /// Class id, method id, arguments.
    pub(crate) fn payload(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        out.extend(self.spec.class_id.to_be_bytes());
        out.extend(self.spec.method_id.to_be_bytes());
        encode_arguments(self.spec.arguments(), &self.values, &mut out)
            .map_err(|why| format!("{}: {why}", self.spec.name))?;
        Ok(out)
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(payload);
        let (class_id, method_id) = (reader.number(2)? as u16, reader.number(2)? as u16);
        let spec = methods::by_ids(class_id, method_id)
            .ok_or_else(|| format!("no method {class_id}.{method_id}"))?;
        let values = reader
            .arguments(spec.arguments())
            .map_err(|why| format!("{}: {why}", spec.name))?;
        Ok(Method { spec, values })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec.name)?;
        for ((name, kind), value) in self.spec.arguments().zip(&self.values) {
            match value {
                Value::Bit(true) => write!(f, " {name}")?,
                value if *value != Value::default_of(kind) => write!(f, " {name}={value}")?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Properties and body of a message.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Content {
    /// Names and values in the order of their flags.
    pub(crate) properties: Vec<(&'static str, Value)>,
    pub(crate) body: Vec<u8>,
    /// Octets of payload of each body frame it came in.
    pub(crate) frames: Vec<usize>,
}

/// Writes flags and values of properties.
pub(crate) fn encode_properties(
    properties: &[(&'static str, Value)],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let (mut flags, mut list) = (0u16, Vec::new());
    for (place, (name, kind)) in methods::basic_properties().enumerate() {
        if let Some((_, value)) = properties.iter().find(|(given, _)| *given == name) {
            flags |= 1 << (15 - place);
            encode_value(kind, value, &mut list).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    out.extend(flags.to_be_bytes());
    out.extend(list);
    Ok(())
}

fn decode_properties(octets: &[u8]) -> Result<Vec<(&'static str, Value)>, String> {
    let mut reader = Reader(octets);
    let flags = reader.number(2)?;
    let mut properties = Vec::new();
    for (place, (name, kind)) in methods::basic_properties().enumerate() {
        if flags >> (15 - place) & 1 == 1 {
            properties.push((name, reader.value(kind)?));
        }
    }
    if flags & 3 != 0 || !reader.0.is_empty() {
        return Err(format!(
            "flags {flags:#06x}, {} octets left over",
            reader.0.len()
        ));
    }
    Ok(properties)
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, (name, value)) in self.properties.iter().enumerate() {
            write!(f, "{}{name}={value}", if place == 0 { "" } else { ", " })?;
        }
        write!(f, "}} {}", quoted(&self.body))?;
        if self.frames.len() > 1 {
            write!(f, " frames={}", self.frames.len())?;
        }
        Ok(())
    }
}

/// One thing that came from the broker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Unit {
    /// A method, with its content when it has one.
    Method(u16, Method, Option<Content>),
    Heartbeat,
    /// The broker closed the socket, with or without a reset.
    Closed,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Method(channel, method, None) => write!(f, "{channel} {method}"),
            Unit::Method(channel, method, Some(content)) => {
                write!(f, "{channel} {method} ; {content}")
            }
            Unit::Heartbeat => f.write_str("0 heartbeat"),
            Unit::Closed => f.write_str("eof"),
        }
    }
}

/// A method whose content is still coming.
struct Partial {
    method: Method,
    body_size: Option<u64>,
    content: Content,
}

/// One connection.
pub(crate) struct Peer {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    partial: BTreeMap<u16, Partial>,
    ready: VecDeque<Unit>,
    /// Octets that a frame from the broker may have, prefix and end included.
    pub(crate) frame_max: usize,
    /// When set, every octet goes out in a segment of its own.
    trickle: bool,
}

impl Peer {
    /// Connects; sends nothing.
    pub(crate) fn connect(address: SocketAddr, trickle: bool) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Peer {
            stream,
            output: Vec::new(),
            input: Vec::new(),
            partial: BTreeMap::new(),
            ready: VecDeque::new(),
            frame_max: 131_072,
            trickle,
        })
    }

    /// Queues octets; [`Peer::flush`] sends them.
    pub(crate) fn put(&mut self, octets: &[u8]) {
        self.output.extend(octets);
    }

    /// Queues a frame.
    pub(crate) fn put_frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.output.push(kind);
        self.output.extend(channel.to_be_bytes());
        self.output.extend((payload.len() as u32).to_be_bytes());
        self.output.extend(payload);
        self.output.push(FRAME_END);
    }

    /// Queues a method and, when it has one, its content.
    pub(crate) fn put_method(
        &mut self,
        channel: u16,
        method: &Method,
        content: Option<&Content>,
    ) -> Result<(), String> {
        self.put_frame(METHOD, channel, &method.payload()?);
        let Some(content) = content else {
            return Ok(());
        };
        let mut header = Vec::new();
        header.extend(method.spec.class_id.to_be_bytes());
        header.extend([0, 0]);
        header.extend((content.body.len() as u64).to_be_bytes());
        encode_properties(&content.properties, &mut header)?;
        self.put_frame(HEADER, channel, &header);
        for part in content.body.chunks(self.frame_max - 8) {
            self.put_frame(BODY, channel, part);
        }
        Ok(())
    }

    /// Sends what is queued. That the broker has closed already is no error here: what it said
    /// before is what counts.
    pub(crate) fn flush(&mut self) {
        let output = std::mem::take(&mut self.output);
        let step = if self.trickle && output.len() < 20_000 {
            1
        } else {
            output.len().max(1)
        };
        for part in output.chunks(step) {
            if self.stream.write_all(part).is_err() {
                return;
            }
        }
    }

    /// Closes the socket at once, with a reset when there are octets unread.
    pub(crate) fn drop_socket(&mut self) {
        self.flush();
        // Failing means that the other side was faster.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Says that no more octets will come, and goes on reading.
    pub(crate) fn finish(&mut self) {
        self.flush();
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// The next thing that the broker says, or `None` when `deadline` comes first.
    ///
    /// # Errors
    /// A sentence, when the octets are no frames or the frames no content.
    pub(crate) fn receive(&mut self, deadline: Instant) -> Result<Option<Unit>, String> {
        self.flush();
        loop {
            if let Some(unit) = self.ready.pop_front() {
                return Ok(Some(unit));
            }
            match self.frame()? {
                Some((kind, channel, payload)) => self.assemble(kind, channel, &payload)?,
                None => match self.fill(deadline)? {
                    Filled::Some => {}
                    Filled::Late => return Ok(None),
                    Filled::Closed if self.input.is_empty() => return Ok(Some(Unit::Closed)),
                    Filled::Closed => {
                        return Err(format!("closed within a frame: {:02x?}", self.input));
                    }
                },
            }
        }
    }

    /// Exactly `octets` octets as they come, or fewer when the broker closes or `deadline` comes.
    pub(crate) fn receive_raw(
        &mut self,
        octets: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, String> {
        self.flush();
        while self.input.len() < octets {
            match self.fill(deadline)? {
                Filled::Some => {}
                Filled::Late | Filled::Closed => break,
            }
        }
        let taken = octets.min(self.input.len());
        Ok(self.input.drain(..taken).collect())
    }

    fn fill(&mut self, deadline: Instant) -> Result<Filled, String> {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(Filled::Late);
        }
        let mut buffer = [0; 16_384];
        self.stream
            .set_read_timeout(Some(left))
            .map_err(|e| e.to_string())?;
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(Filled::Closed),
            Ok(octets) => {
                self.input.extend(&buffer[..octets]);
                Ok(Filled::Some)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(Filled::Late)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Filled::Some),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(Filled::Closed)
            }
            Err(e) => Err(e.to_string()),
        }
    }

    fn frame(&mut self) -> Result<Option<(u8, u16, Vec<u8>)>, String> {
        if self.input.len() < 7 {
            return Ok(None);
        }
        let mut reader = Reader(&self.input);
        let (kind, channel) = (reader.number(1)? as u8, reader.number(2)? as u16);
        let octets = reader.number(4)? as usize;
        // Properties cannot be cut: a header frame has the size that its publisher gave it.
        let is_too_large = octets + 8 > self.frame_max && kind != HEADER;
        if is_too_large || ![METHOD, HEADER, BODY, HEARTBEAT].contains(&kind) {
            let start = &self.input[..self.input.len().min(16)];
            return Err(format!("not a frame we agreed on: {start:02x?}"));
        }
        if self.input.len() < octets + 8 {
            return Ok(None);
        }
        if self.input[octets + 7] != FRAME_END {
            return Err(format!("frame end is {:#04x}", self.input[octets + 7]));
        }
        let payload = self.input[7..octets + 7].to_vec();
        self.input.drain(..octets + 8);
        Ok(Some((kind, channel, payload)))
    }

    fn assemble(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<(), String> {
        match kind {
            METHOD => {
                let method = Method::decode(payload)?;
                if self.partial.contains_key(&channel) {
                    return Err(format!("{channel} {method} came within content"));
                }
                if method.spec.has_content() {
                    let (body_size, content) = (None, Content::default());
                    let partial = Partial {
                        method,
                        body_size,
                        content,
                    };
                    self.partial.insert(channel, partial);
                } else {
                    self.ready.push_back(Unit::Method(channel, method, None));
                }
                return Ok(());
            }
            HEARTBEAT if channel == 0 && payload.is_empty() => {
                self.ready.push_back(Unit::Heartbeat);
                return Ok(());
            }
            _ => {}
        }
        let Some(mut partial) = self.partial.remove(&channel) else {
            return Err(format!(
                "frame of type {kind} on channel {channel} without a method"
            ));
        };
        match (kind, partial.body_size) {
            (HEADER, None) => {
                let mut reader = Reader(payload);
                let (class_id, weight) = (reader.number(2)?, reader.number(2)?);
                if (class_id, weight) != (60, 0) {
                    return Err(format!(
                        "content header of class {class_id}, weight {weight}"
                    ));
                }
                partial.body_size = Some(reader.number(8)?);
                partial.content.properties = decode_properties(reader.0)?;
            }
            (BODY, Some(_)) if !payload.is_empty() => {
                partial.content.body.extend(payload);
                partial.content.frames.push(payload.len());
            }
            _ => {
                return Err(format!(
                    "frame of type {kind} out of order on channel {channel}"
                ));
            }
        }
        let octets = partial.content.body.len() as u64;
        match partial.body_size {
            Some(size) if size == octets => {
                let unit = Unit::Method(channel, partial.method, Some(partial.content));
                self.ready.push_back(unit);
            }
            Some(size) if size < octets => {
                return Err(format!("body of {size} octets has {octets}"));
            }
            _ => drop(self.partial.insert(channel, partial)),
        }
        Ok(())
    }
}

enum Filled {
    Some,
    Late,
    Closed,
}

/// The type of the property called `name`.
pub(crate) fn property(name: &str) -> Option<(&'static str, FieldType)> {
    methods::basic_properties().find(|(known, _)| *known == name)
}
