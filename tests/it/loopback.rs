//! The user `guest` may log in from this machine only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::broker::Broker;
use crate::login::Login;
use crate::peer::Peer;

/// An address of this machine that is not a loopback one, if it has any. No datagram is sent: the
/// kernel only picks the address it would send one from.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}

fn log_in(ip: IpAddr, port: u16) -> Result<(), String> {
    let mut peer = Peer::connect(SocketAddr::new(ip, port), false).map_err(|e| e.to_string())?;
    Login::default().log_in(&mut peer).map(drop)
}

#[test]
fn guest_is_for_loopback_only() {
    let broker = Broker::start(&["--listen", "0.0.0.0:0"]).expect("a broker on all addresses");
    let port = broker.address().port();
    for last in [1, 77] {
        assert_eq!(
            log_in(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), port),
            Ok(())
        );
    }
    // Where there is no network at all, nobody can come from elsewhere.
    if let Some(ip) = other_address() {
        let refused = log_in(ip, port).expect_err("guest came from elsewhere");
        let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.";
        assert!(refused.contains(text), "{refused}");
    }
}
