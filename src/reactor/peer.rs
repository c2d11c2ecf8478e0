//! One socket and the connection behind it.

use mio::net::TcpStream;

use crate::engine::ConnectionId;

/// One socket and the connection behind it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    pub(super) id: ConnectionId,
    /// Octets that came and are not consumed yet; holds no memory when empty.
    pub(super) inbox: Vec<u8>,
    /// What is in the inbox was left there although it may hold a whole frame.
    pub(super) is_held: bool,
    /// It is on the list of peers to read from.
    pub(super) is_listed: bool,
    /// The end of what the peer sends has been announced, but perhaps not been read up to: no
    /// further edge will come.
    pub(super) is_half_closed: bool,
    /// The peer will send no more.
    pub(super) is_ended: bool,
    /// Its connection is over and everything was written: what still comes is thrown away until
    /// the peer closes its side, or the moment on the reactor's list of lingering peers is there.
    pub(super) is_lingering: bool,
}
