//! One connection of a worker, and what it is for.

use mio::net::TcpStream;

use crate::perf::consumer::Consumer;
use crate::perf::failure::Failure;
use crate::perf::parser::Parser;
use crate::perf::producer::Producer;
use crate::perf::setter::Setter;

/// What a connection is for.
#[derive(Debug)]
pub(in crate::perf) enum Role {
    /// Publishes.
    Producer(Producer),
    /// Consumes.
    Consumer(Consumer),
    /// Commits or declares, beside them.
    Setter(Setter),
}

/// One connection of a worker.
#[derive(Debug)]
pub(in crate::perf) struct Peer {
    pub(super) socket: TcpStream,
    pub(super) parser: Parser,
    /// The start of a frame that is not there in full.
    pub(super) rest: Vec<u8>,
    pub(super) outbox: Vec<u8>,
    pub(super) role: Role,
}

impl Peer {
    /// A peer for a socket whose handshake is done.
    ///
    /// * `rest`: octets that were read from it already.
    /// * `frame_max`: as agreed on.
    pub(in crate::perf) fn new(
        stream: std::net::TcpStream,
        rest: Vec<u8>,
        frame_max: u32,
        role: Role,
    ) -> Result<Self, Failure> {
        stream
            .set_nonblocking(true)
            .map_err(|error| Failure::local("non-blocking socket", error))?;
        Ok(Peer {
            socket: TcpStream::from_std(stream),
            parser: Parser::new(frame_max),
            rest,
            outbox: Vec::new(),
            role,
        })
    }
}
