//! A blocking AMQP client for everything that is not measured message by message: the handshake,
//! declarations, and the hand-over of a ready connection to a worker.
//!
//! How to drive it: [`Client::connect`], then [`Client::send`] methods and [`Client::expect`] their
//! answers in order; [`Client::call`] does both. [`Client::into_parts`] gives the socket away with
//! what was read from it beyond the last answer.

use super::failure::Failure;
use super::uri::Target;
use crate::wire::decoder::{Decoded, decode};
use crate::wire::field_table::FieldValue;
use crate::wire::frame::PROTOCOL_HEADER;
use crate::wire::method::{channel, connection};
use crate::wire::{
    ChannelNumber, FieldTable, FrameKind, Method, MethodFields, ShortString, encode,
};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The only channel that a client opens.
pub(super) const CHANNEL: ChannelNumber = ChannelNumber(1);

/// How long an answer may take before the broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_mins(1);

/// Room of an inbox at first; it grows up to one frame.
const INBOX_OCTETS: usize = 4096;

/// How sockets and connections are set up.
#[derive(Clone, Debug)]
pub(super) struct ConnectOptions {
    /// Octets of a whole frame that are asked for; the broker may lower it.
    pub(super) frame_max: u32,
    /// Seconds between heartbeats, 0 for none; the broker may lower it.
    pub(super) heartbeat_s: u16,
    /// `SO_SNDBUF`, in octets; the kernel's choice when absent.
    pub(super) sndbuf: Option<usize>,
    /// `SO_RCVBUF`, in octets; the kernel's choice when absent.
    pub(super) rcvbuf: Option<usize>,
    /// `TCP_NODELAY`.
    pub(super) nodelay: bool,
}

/// The addresses that `target` resolves to.
pub(super) fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Failure> {
    let what = || format!("{}:{}", target.host, target.port);
    let addresses: Vec<_> = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|error| Failure::socket(&what(), &error))?
        .collect();
    if addresses.is_empty() {
        return Err(Failure::Unavailable(format!("{} has no address", what())));
    }
    Ok(addresses)
}

/// A TCP connection to the first of `addresses` that answers.
///
/// * `index`: which connection of the run it is. Beyond 20,000 to a loopback address the source
///   address changes, since one pair of addresses has some 28,000 ports only.
pub(super) fn open_socket(
    addresses: &[SocketAddr],
    options: &ConnectOptions,
    index: usize,
) -> Result<TcpStream, Failure> {
    const PER_SOURCE: usize = 20_000;
    let mut last = None;
    for address in addresses {
        let open = || {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
            // Buffers are set before connecting: the window scale is settled by then.
            if let Some(octets) = options.sndbuf {
                socket.set_send_buffer_size(octets)?;
            }
            if let Some(octets) = options.rcvbuf {
                socket.set_recv_buffer_size(octets)?;
            }
            socket.set_tcp_nodelay(options.nodelay)?;
            if index >= PER_SOURCE && address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
                let host = (1 + index / PER_SOURCE).min(250) as u8;
                socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into())?;
            }
            socket.connect_timeout(&(*address).into(), ANSWER_WAIT)?;
            socket.set_read_timeout(Some(ANSWER_WAIT))?;
            socket.set_write_timeout(Some(ANSWER_WAIT))?;
            Ok(TcpStream::from(socket))
        };
        match open() {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some((address, error)),
        }
    }
    Err(match last {
        Some((address, error)) => Failure::socket(&format!("cannot connect to {address}"), &error),
        None => Failure::Unavailable("no address to connect to".to_owned()),
    })
}

/// One connection with one channel.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    /// Octets from the broker, `inbox[start..end]` not looked at yet.
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    outbox: Vec<u8>,
    frame_max: u32,
    server: String,
}

impl Client {
    /// Logs in and enters the vhost; see [`open_socket`] for `index`.
    pub(super) fn connect(
        target: &Target,
        addresses: &[SocketAddr],
        options: &ConnectOptions,
        index: usize,
    ) -> Result<Self, Failure> {
        let mut client = Client {
            stream: open_socket(addresses, options, index)?,
            inbox: vec![0; INBOX_OCTETS],
            start: 0,
            end: 0,
            outbox: Vec::new(),
            frame_max: options.frame_max,
            server: String::new(),
        };
        client.outbox.extend_from_slice(&PROTOCOL_HEADER);
        client.flush()?;
        client.server = client.expect(|method| match method {
            Method::ConnectionStart(start) => Some(server_name(start.server_properties)),
            _ => None,
        })?;
        client.start_ok(target)?;
        let tune = client.expect(|method| match method {
            Method::ConnectionTune(tune) => Some(*tune),
            _ => None,
        })?;
        let lower = |ours: u32, theirs: u32| if theirs == 0 { ours } else { ours.min(theirs) };
        client.frame_max = lower(options.frame_max, tune.frame_max);
        client.send_on(
            ChannelNumber::CONNECTION,
            &connection::TuneOk {
                channel_max: tune.channel_max,
                frame_max: client.frame_max,
                heartbeat: lower(options.heartbeat_s.into(), tune.heartbeat.into()) as u16,
            },
        );
        client.send_on(
            ChannelNumber::CONNECTION,
            &connection::Open {
                virtual_host: short(&target.vhost)?,
                ..Default::default()
            },
        );
        client.expect(|method| matches!(method, Method::ConnectionOpenOk(_)).then_some(()))?;
        Ok(client)
    }

    fn start_ok(&mut self, target: &Target) -> Result<(), Failure> {
        let mut capabilities = Vec::new();
        for name in [
            "publisher_confirms",
            "consumer_cancel_notify",
            "basic.nack",
            "connection.blocked",
            "authentication_failure_close",
        ] {
            field(&mut capabilities, name, FieldValue::Bool(true));
        }
        let capabilities = table(&capabilities)?;
        let mut properties = Vec::new();
        let text = |text: &'static str| FieldValue::LongString(text.as_bytes());
        field(&mut properties, "product", text("leveret perf"));
        field(&mut properties, "version", text(env!("CARGO_PKG_VERSION")));
        field(&mut properties, "platform", text("Rust"));
        field(
            &mut properties,
            "capabilities",
            FieldValue::Table(capabilities),
        );
        let response = format!("\0{}\0{}", target.user, target.password);
        self.send_on(
            ChannelNumber::CONNECTION,
            &connection::StartOk {
                client_properties: table(&properties)?,
                mechanism: ShortString::literal("PLAIN"),
                response: response.as_bytes(),
                locale: ShortString::literal("en_US"),
            },
        );
        Ok(())
    }

    /// What the broker calls itself: product and version.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Octets of a whole frame as agreed on.
    pub(super) fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// Opens [`CHANNEL`].
    pub(super) fn open_channel(&mut self) -> Result<(), Failure> {
        self.call(&channel::Open::default(), |method| {
            matches!(method, Method::ChannelOpenOk(_)).then_some(())
        })
    }

    /// Appends a method on [`CHANNEL`] to the outbox.
    pub(super) fn send<M: MethodFields>(&mut self, method: &M) {
        self.send_on(CHANNEL, method);
    }

    fn send_on<M: MethodFields>(&mut self, channel: ChannelNumber, method: &M) {
        encode::method_frame(&mut self.outbox, channel, method);
    }

    /// The octets that wait to be sent, to append whole frames to.
    pub(super) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// Tells the broker that we are alive.
    pub(super) fn send_heartbeat(&mut self) -> Result<(), Failure> {
        encode::heartbeat(&mut self.outbox);
        self.flush()
    }

    /// Sends a method on [`CHANNEL`] and waits for its answer; see [`Client::expect`].
    pub(super) fn call<M: MethodFields, T>(
        &mut self,
        method: &M,
        pick: impl Fn(&Method<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        self.send(method);
        self.expect(pick)
    }

    /// Writes the outbox out.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if !self.outbox.is_empty() {
            self.stream
                .write_all(&self.outbox)
                .map_err(|error| Failure::socket("cannot send", &error))?;
            self.outbox.clear();
        }
        Ok(())
    }

    /// Sends what waits and reads until `pick` takes a method. Heartbeats and blocked notices are
    /// passed over.
    ///
    /// # Errors
    /// [`Failure::Broker`] with its text when the broker closes channel or connection, or sends
    /// what `pick` does not take.
    pub(super) fn expect<T>(
        &mut self,
        pick: impl Fn(&Method<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        self.flush()?;
        loop {
            let decoded = decode(&self.inbox[self.start..self.end], self.frame_max)
                .map_err(|error| Failure::Broker(format!("malformed answer: {error:?}")))?;
            let Decoded::Frame {
                kind,
                payload,
                consumed,
                ..
            } = decoded
            else {
                self.fill()?;
                continue;
            };
            let taken = match kind {
                FrameKind::Heartbeat => None,
                FrameKind::Method => {
                    let method = Method::decode(payload)
                        .map_err(|error| Failure::Broker(format!("malformed answer: {error:?}")))?;
                    let is_notice = passed_over(&method)?;
                    let taken = if is_notice { None } else { pick(&method) };
                    if taken.is_none() && !is_notice {
                        return Err(Failure::Broker(format!("unexpected: {method}")));
                    }
                    taken
                }
                FrameKind::Header | FrameKind::Body => {
                    return Err(Failure::Broker("content where none is expected".to_owned()));
                }
            };
            self.start += consumed;
            if let Some(taken) = taken {
                return Ok(taken);
            }
        }
    }

    /// Reads once; makes room for a whole frame first.
    fn fill(&mut self) -> Result<(), Failure> {
        self.inbox.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.inbox.len() {
            // A frame is at most frame_max octets of payload and 8 around it, and decode() refuses
            // greater ones before they are here: so the inbox never doubles beyond that.
            self.inbox.resize(2 * self.end, 0);
        }
        let read = self
            .stream
            .read(&mut self.inbox[self.end..])
            .map_err(|error| Failure::socket("no answer", &error))?;
        if read == 0 {
            return Err(Failure::Unavailable("the broker hung up".to_owned()));
        }
        self.end += read;
        Ok(())
    }

    /// The socket and what was read beyond the last answer.
    pub(super) fn into_parts(mut self) -> Result<(TcpStream, Vec<u8>), Failure> {
        self.flush()?;
        self.inbox.truncate(self.end);
        self.inbox.drain(..self.start);
        Ok((self.stream, self.inbox))
    }

    /// Closes the connection in good order.
    pub(super) fn close(mut self) -> Result<(), Failure> {
        self.send_on(ChannelNumber::CONNECTION, &goodbye());
        self.expect(|method| matches!(method, Method::ConnectionCloseOk(_)).then_some(()))
    }
}

/// What a client says when it is done.
pub(super) fn goodbye() -> connection::Close<'static> {
    connection::Close {
        reply_code: 200,
        reply_text: ShortString::literal("done"),
        class_id: 0,
        method_id: 0,
    }
}

/// Whether `method` is a notice that nothing waits for.
///
/// # Errors
/// [`Failure::Broker`] when it closes the channel or the connection or ends a consumer.
pub(super) fn passed_over(method: &Method<'_>) -> Result<bool, Failure> {
    match method {
        Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_) => Ok(true),
        Method::ConnectionClose(connection::Close {
            reply_code,
            reply_text,
            ..
        })
        | Method::ChannelClose(channel::Close {
            reply_code,
            reply_text,
            ..
        }) => Err(Failure::Broker(format!("{reply_code} {reply_text}"))),
        Method::BasicCancel(cancel) => Err(Failure::Broker(format!(
            "the broker cancelled consumer {}",
            cancel.consumer_tag
        ))),
        _ => Ok(false),
    }
}

/// `text` as a short string.
pub(super) fn short(text: &str) -> Result<ShortString<'_>, Failure> {
    ShortString::try_from(text)
        .map_err(|octets| Failure::Usage(format!("a name has {octets} octets, 255 are possible")))
}

/// Appends a field to the octets of a field table.
pub(super) fn field(octets: &mut Vec<u8>, key: &str, value: FieldValue<'_>) {
    ShortString::truncated(key).encode(octets);
    value.encode(octets);
}

/// The field table that `octets` make.
pub(super) fn table(octets: &[u8]) -> Result<FieldTable<'_>, Failure> {
    FieldTable::check(octets).map_err(|error| Failure::Usage(format!("arguments: {error:?}")))
}

/// Product and version out of the server properties.
fn server_name(properties: FieldTable<'_>) -> String {
    let text = |key| {
        properties
            .get(key)
            .and_then(FieldValue::as_str)
            .unwrap_or("?")
    };
    format!("{} {}", text("product"), text("version"))
}
