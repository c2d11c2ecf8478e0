//! What a connection asks of the server around it.

use crate::broker::{Batch, ChannelKey, Command, Exception, Outcome, SessionKey};
use crate::clock::Now;
use crate::message::LargeBody;

/// Why a log-in came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogInError {
    /// The credentials are wrong, or not good from where the client is. The client is told no
    /// more than that.
    Refused,
    /// The mechanism or its response makes no sense; the exception says why.
    Exception(Exception),
}

/// What the client said of itself, for the server's lists and for what it may be sent.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Name of the user it logged in as.
    pub user: String,
    /// Mechanism by which it did.
    pub mechanism: String,
    /// Name of its virtual host.
    pub vhost: String,
    /// Its properties, a field table's octets without its length.
    pub properties: Box<[u8]>,
    /// It understands `basic.cancel` from the server.
    pub consumer_cancel_notify: bool,
    /// It understands `connection.blocked`.
    pub connection_blocked: bool,
    /// It understands `connection.close` as the answer to a refused log-in.
    pub authentication_failure_close: bool,
    /// Octets of a frame, as agreed on.
    pub frame_max: u32,
    /// Channels, as agreed on.
    pub channel_max: u16,
    /// Seconds between heartbeats, as the client has it; 0 is none.
    pub heartbeat_s: u16,
}

/// What the server offers before anything is agreed on.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Server properties, a field table's octets without its length.
    pub server_properties: Box<[u8]>,
    /// SASL mechanisms, separated by blanks.
    pub mechanisms: String,
    /// Name and password of the user as whom clients without any log in.
    pub anonymous: (String, String),
    /// Channels of a connection.
    pub channel_max: u16,
    /// Octets of a frame.
    pub frame_max: u32,
    /// Octets of a frame before the connection is tuned.
    pub initial_frame_max: u32,
    /// Seconds between heartbeats.
    pub heartbeat_s: u16,
    /// Octets of a message's body.
    pub body_octets_max: u64,
    /// A body of so many octets, or more, is handed to the storage piece by piece
    /// ([`Host::large_begin`]).
    pub large_body_octets_min: u64,
    /// Octets of a body that may be published from where it lies: it is neither too large nor
    /// [large](Self::large_body_octets_min). One bound, so that a message costs one comparison.
    pub whole_body_octets_max: u64,
    /// From accept to open-ok, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// From close to close-ok, in milliseconds.
    pub close_timeout_ms: u64,
    /// How long a refusal is held back, in milliseconds.
    pub login_refusal_delay_ms: u64,
}

/// See the module. One instance stands for one connection during one call.
pub trait Host {
    /// The time of this turn.
    fn now(&self) -> Now;
    /// What the server offers.
    fn offer(&self) -> &Offer;
    /// Where octets for this connection's client go.
    fn out(&mut self) -> &mut Vec<u8>;
    /// Whether there is room for the answer to another command, in the outbox together with
    /// answers of `held_octets` octets that are not in it yet.
    fn has_room(&self, held_octets: usize) -> bool;
    /// Whether another command may be taken in this call; the first always may. A few octets can ask
    /// for much work, and other peers wait for the turn to end.
    fn has_time(&self) -> bool;
    /// Whether publishers may go on: the log's tail and the alarms allow it.
    fn may_publish(&self) -> bool;
    /// Checks credentials; gives the user's name.
    ///
    /// # Errors
    /// See [`LogInError`].
    fn log_in(&mut self, mechanism: &str, response: &[u8]) -> Result<String, LogInError>;
    /// The client wants to use a virtual host.
    ///
    /// # Errors
    /// 530 when it may not, with the reason.
    fn open(&mut self, client: &Client) -> Result<SessionKey, Exception>;
    /// The connection is over for the router.
    fn close_session(&mut self, session: SessionKey);
    /// A channel opens.
    fn open_channel(&mut self, session: SessionKey, number: u16) -> ChannelKey;
    /// A channel is over for the router.
    fn close_channel(&mut self, channel: ChannelKey);
    /// Carries out a command.
    ///
    /// # Errors
    /// The exception that ends the channel or the connection.
    fn apply(&mut self, channel: ChannelKey, command: &Command<'_>) -> Result<Outcome, Exception>;
    /// Whether everything up to `batch` is on stable storage.
    fn is_flushed(&self, batch: Batch) -> bool;
    /// The body of a message begins that is too large for a record.
    ///
    /// * `is_durable`: the message may go to the log.
    fn large_begin(&mut self, octets: u64, is_durable: bool) -> LargeBody;
    /// Takes more octets of a large body, or none, to ask; says whether the storage keeps up. If
    /// it does not, the next octets are to wait.
    fn large_append(&mut self, body: LargeBody, octets: &[u8]) -> bool;
    /// Lets go of a large body, unless a queue has got it.
    fn large_release(&mut self, body: LargeBody);
}
