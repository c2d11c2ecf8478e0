//! Sockets and their options.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, SockRef, Socket, Type};

use crate::config::{ListenAddress, SocketOptions};

/// Opens a listening socket.
///
/// # Errors
/// What the operating system says, as when the address is in use.
pub(super) fn listen(address: ListenAddress, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = match address {
        ListenAddress::At(address) => bound(address, None)?,
        ListenAddress::Any { port } => {
            // One socket serves both families; a machine without IPv6 gets IPv4 alone.
            let v6 = bound(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), Some(false));
            match v6 {
                Err(error) if is_no_ipv6(&error) => {
                    bound(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), None)?
                }
                socket => socket?,
            }
        }
    };
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(TcpListener::from_std(socket.into()))
}

fn is_no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(97)
}

fn bound(address: SocketAddr, only_v6: Option<bool>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(only_v6) = only_v6 {
        socket.set_only_v6(only_v6)?;
    }
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options of an accepted socket. What cannot be set is left as it is.
pub(super) fn configure(stream: &TcpStream, options: &SocketOptions) {
    let socket = SockRef::from(stream);
    let _ = stream.set_nodelay(options.nodelay);
    if options.keepalive {
        let _ = socket.set_keepalive(true);
    }
    if let Some(octets) = options.send_octets {
        let _ = socket.set_send_buffer_size(octets as usize);
    }
    if let Some(octets) = options.receive_octets {
        let _ = socket.set_recv_buffer_size(octets as usize);
    }
    if let Some(linger_s) = options.linger_s {
        let _ = socket.set_linger(Some(std::time::Duration::from_secs(linger_s.into())));
    }
}
