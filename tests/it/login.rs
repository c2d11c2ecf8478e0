//! What a client says up to connection.open, and questions that wait for their answers.

use std::time::Duration;

use crate::peer::{self, Method, Peer, Unit, now};
use crate::value::{Field, Table, Value};

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Sends `method` and gives the answer.
pub(crate) fn ask(peer: &mut Peer, channel: u16, method: &Method) -> Result<Method, String> {
    peer.put_method(channel, method, None)?;
    loop {
        match peer.receive(now() + PATIENCE)? {
            Some(Unit::Method(it, answer, None))
                if it == channel && answer.spec.name == format!("{}-ok", method.spec.name) =>
            {
                return Ok(answer);
            }
            Some(Unit::Heartbeat) => {}
            Some(other) => return Err(format!("{method} was answered with {other}")),
            None => return Err(format!("{method} was not answered")),
        }
    }
}

/// What a client says of itself up to connection.open.
pub(crate) struct Login {
    pub(crate) user: Vec<u8>,
    pub(crate) pass: Vec<u8>,
    pub(crate) vhost: Vec<u8>,
    /// Seconds.
    pub(crate) heartbeat: u64,
    /// As the broker proposes when absent.
    pub(crate) frame_max: Option<u64>,
    pub(crate) channel_max: Option<u64>,
    pub(crate) properties: Table,
}

impl Default for Login {
    fn default() -> Self {
        let capability = |name: &str| (name.as_bytes().to_vec(), Field::Bool(true));
        let capabilities = [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "authentication_failure_close",
        ];
        let capabilities = Field::Table(capabilities.into_iter().map(capability).collect());
        Login {
            user: b"guest".to_vec(),
            pass: b"guest".to_vec(),
            vhost: b"/".to_vec(),
            heartbeat: 0,
            frame_max: None,
            channel_max: None,
            properties: vec![(b"capabilities".to_vec(), capabilities)],
        }
    }
}

impl Login {
    /// Says everything up to open-ok; gives the broker's connection.start.
    pub(crate) fn log_in(self, peer: &mut Peer) -> Result<Method, String> {
        peer.put(peer::PROTOCOL_HEADER);
        let start = expect_method(peer, "connection.start")?;
        let response = [b"\0", &self.user[..], b"\0", &self.pass[..]].concat();
        let text = |octets: &[u8]| Value::Text(octets.to_vec());
        let start_ok = [
            ("client_properties", Value::Table(self.properties)),
            ("mechanism", text(b"PLAIN")),
            ("response", Value::Text(response)),
            ("locale", text(b"en_US")),
        ];
        peer.put_method(0, &Method::new("connection.start-ok", &start_ok), None)?;
        let tune = expect_method(peer, "connection.tune")?;
        let tuned = |name, wish: Option<u64>| wish.map_or(tune.get(name).clone(), Value::Number);
        let frame_max = tuned("frame_max", self.frame_max);
        if let Value::Number(octets) = frame_max {
            peer.frame_max = octets as usize;
        }
        let tune_ok = [
            ("channel_max", tuned("channel_max", self.channel_max)),
            ("frame_max", frame_max),
            ("heartbeat", Value::Number(self.heartbeat)),
        ];
        peer.put_method(0, &Method::new("connection.tune-ok", &tune_ok), None)?;
        let open = Method::new("connection.open", &[("virtual_host", text(&self.vhost))]);
        ask(peer, 0, &open)?;
        Ok(start)
    }
}

fn expect_method(peer: &mut Peer, name: &str) -> Result<Method, String> {
    match peer.receive(now() + PATIENCE)? {
        Some(Unit::Method(0, method, None)) if method.spec.name == name => Ok(method),
        Some(other) => Err(format!("{name} was expected, {other} came")),
        None => Err(format!("{name} was expected, nothing came")),
    }
}
