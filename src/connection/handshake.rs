//! Channel 0: from the protocol header to `connection.open`, and the end of a connection
//! (spec 2.2.4, 1.4).

use super::heartbeat::Heartbeat;
use super::host::{Host, LogInError};
use super::{Client, Connection, Fault, State, Step};
use crate::broker::Exception;
use crate::wire::encode::method_frame;
use crate::wire::field_table::{FieldTable, FieldValue};
use crate::wire::frame::{PROTOCOL_HEADER, PROTOCOL_HEADER_0_9, PROTOCOL_HEADER_SASL_1_0};
use crate::wire::method::connection;
use crate::wire::reply_code::reply_text;
use crate::wire::{ChannelNumber, Method, MethodFields as _, ReplyCode, ShortString};

const CHANNEL_0: ChannelNumber = ChannelNumber::CONNECTION;

/// Smallest `frame_max` accepted: the specification's, not RabbitMQ 4.1's 8192, which locks older
/// clients out.
const FRAME_MAX_MIN: u32 = 4096;

impl Connection {
    /// Takes the protocol header; says how many octets it took.
    pub(super) fn protocol_header<H: Host>(&mut self, input: &[u8], host: &mut H) -> usize {
        let Some(&header) = input.first_chunk::<8>() else {
            // What cannot become the header is answered as soon as that is plain; a peer that
            // speaks something else may send less than eight octets and wait.
            let could_be = |header: [u8; 8]| header.starts_with(input);
            if !could_be(PROTOCOL_HEADER) && !could_be(PROTOCOL_HEADER_0_9) && !is_amqp(input) {
                self.refuse_protocol(PROTOCOL_HEADER_SASL_1_0, host);
                return input.len();
            }
            return 0;
        };
        match header {
            PROTOCOL_HEADER | PROTOCOL_HEADER_0_9 => {
                let offer = host.offer();
                let mut frame = Vec::new();
                let start = connection::Start {
                    version_major: 0,
                    version_minor: 9,
                    server_properties: FieldTable::stored(&offer.server_properties),
                    mechanisms: offer.mechanisms.as_bytes(),
                    locales: b"en_US",
                };
                method_frame(&mut frame, CHANNEL_0, &start);
                host.out().extend_from_slice(&frame);
                self.state = State::Start;
                8
            }
            // Another AMQP of the 0-9 family is told which one we speak, anything else is shown
            // what RabbitMQ 4 speaks first.
            [b'A', b'M', b'Q', b'P', 0, 0, minor, _] if minor >= 9 => {
                self.refuse_protocol(PROTOCOL_HEADER, host);
                input.len()
            }
            _ => {
                self.refuse_protocol(PROTOCOL_HEADER_SASL_1_0, host);
                input.len()
            }
        }
    }

    fn refuse_protocol<H: Host>(&mut self, answer: [u8; 8], host: &mut H) {
        log::error!("closing AMQP connection: the peer does not speak AMQP 0-9-1");
        host.out().extend_from_slice(&answer);
        self.state = State::Over;
    }

    /// Takes a method on channel 0.
    pub(super) fn connection_method<H: Host>(
        &mut self,
        payload: &[u8],
        host: &mut H,
    ) -> Result<Step, Fault> {
        let method = match Method::decode(payload) {
            Ok(method) => method,
            Err(_) if matches!(self.state, State::Closing) => return Ok(Step::Done),
            Err(error) => return Err(error.into()),
        };
        match (&self.state, method) {
            (State::Closing, Method::ConnectionCloseOk(_)) => self.state = State::Over,
            (State::Closing, Method::ConnectionClose(_)) => {
                method_frame(host.out(), CHANNEL_0, &connection::CloseOk {});
            }
            (State::Closing, _) => {}
            // Before it has logged in, a client that leaves is let go without a word (RabbitMQ).
            (State::Start, Method::ConnectionClose(_)) => self.abandon(host),
            (_, Method::ConnectionClose(_)) => {
                self.end_session(host);
                method_frame(host.out(), CHANNEL_0, &connection::CloseOk {});
            }
            (State::Start, Method::ConnectionStartOk(start_ok)) => {
                self.start_ok(&start_ok, host)
                    .map_err(|it| Fault::Exception(it, method.ids()))?;
            }
            (State::Tune, Method::ConnectionTuneOk(tune_ok)) => {
                // RabbitMQ names the method that it sent itself.
                let ids = (connection::Tune::CLASS_ID, connection::Tune::METHOD_ID);
                self.tune_ok(tune_ok, host)
                    .map_err(|it| Fault::Exception(it, ids))?;
            }
            (State::Tuned, Method::ConnectionOpen(open)) => {
                self.open(&open, host)
                    .map_err(|it| Fault::Exception(it, method.ids()))?;
            }
            (State::Open(_), Method::ConnectionUpdateSecret(_)) => {
                // Passwords do not expire: like RabbitMQ's own user database we take any secret.
                method_frame(host.out(), CHANNEL_0, &connection::UpdateSecretOk {});
            }
            (state, _) => {
                let name = match state {
                    State::Start => "starting",
                    State::Tune => "tuning",
                    State::Tuned => "opening",
                    _ => "running",
                };
                let text = format!("unexpected method in connection state {name}");
                return Err(Fault::Exception(
                    Exception::channel_error(text),
                    method.ids(),
                ));
            }
        }
        Ok(Step::Done)
    }

    fn start_ok<H: Host>(
        &mut self,
        start_ok: &connection::StartOk<'_>,
        host: &mut H,
    ) -> Result<(), Exception> {
        let capabilities = start_ok.client_properties.get("capabilities");
        let capabilities = capabilities
            .and_then(FieldValue::as_table)
            .unwrap_or_default();
        let can = |name: &str| capabilities.get(name).and_then(FieldValue::as_bool) == Some(true);
        self.client = Client {
            mechanism: String::from_utf8_lossy(start_ok.mechanism.as_bytes()).into_owned(),
            properties: start_ok.client_properties.as_bytes().into(),
            consumer_cancel_notify: can("consumer_cancel_notify"),
            connection_blocked: can("connection.blocked"),
            authentication_failure_close: can("authentication_failure_close"),
            ..Client::default()
        };
        match host.log_in(&self.client.mechanism, start_ok.response) {
            Ok(user) => self.client.user = user,
            Err(LogInError::Exception(exception)) => return Err(exception),
            Err(LogInError::Refused) => {
                // The refusal is held back, so that guessing takes time.
                let until = host.now().after_ms(host.offer().login_refusal_delay_ms);
                (self.state, self.deadline) = (State::Refused, Some(until));
                return Ok(());
            }
        }
        let offer = host.offer();
        let tune = connection::Tune {
            channel_max: offer.channel_max,
            frame_max: offer.frame_max,
            heartbeat: offer.heartbeat_s,
        };
        method_frame(host.out(), CHANNEL_0, &tune);
        self.state = State::Tune;
        Ok(())
    }

    /// Tells a client that its log-in was refused, if it understands that; else only the socket
    /// is closed (RabbitMQ).
    pub(super) fn refuse<H: Host>(&mut self, host: &mut H) {
        if !self.client.authentication_failure_close {
            self.state = State::Over;
            return;
        }
        let text = format!(
            "Login was refused using authentication mechanism {}. For details see the broker logfile.",
            self.client.mechanism
        );
        let text = reply_text(ReplyCode::AccessRefused, &text);
        self.close(ReplyCode::AccessRefused, &text, (0, 0), host);
    }

    fn tune_ok<H: Host>(
        &mut self,
        tune_ok: connection::TuneOk,
        host: &mut H,
    ) -> Result<(), Exception> {
        let offer = host.offer();
        let refuse = |what: String| Err(Exception::not_allowed(format!("negotiated {what}")));
        let (frame_max, channel_max) = (tune_ok.frame_max, tune_ok.channel_max);
        let frame_max_max = offer.frame_max;
        if frame_max == 0 && frame_max_max != 0 {
            return refuse(format!(
                "frame_max = 0 (no limit) is higher than the maximum allowed value ({frame_max_max})"
            ));
        }
        if frame_max != 0 && frame_max < FRAME_MAX_MIN {
            return refuse(format!(
                "frame_max = {frame_max} is lower than the minimum allowed value ({FRAME_MAX_MIN})"
            ));
        }
        if frame_max_max != 0 && frame_max > frame_max_max {
            return refuse(format!(
                "frame_max = {frame_max} is higher than the maximum allowed value ({frame_max_max})"
            ));
        }
        let channel_max_max = offer.channel_max;
        if channel_max == 0 && channel_max_max != 0 {
            return refuse(format!(
                "channel_max = 0 (no limit) is higher than the maximum allowed value ({channel_max_max})"
            ));
        }
        if channel_max_max != 0 && channel_max > channel_max_max {
            return refuse(format!(
                "channel_max = {channel_max} is higher than the maximum allowed value ({channel_max_max})"
            ));
        }
        (self.client.frame_max, self.client.channel_max) = (frame_max, channel_max);
        self.client.heartbeat_s = tune_ok.heartbeat;
        self.frame_max = frame_max;
        self.heartbeat = Heartbeat::start(tune_ok.heartbeat, host.now());
        self.state = State::Tuned;
        Ok(())
    }

    fn open<H: Host>(
        &mut self,
        open: &connection::Open<'_>,
        host: &mut H,
    ) -> Result<(), Exception> {
        self.client.vhost = String::from_utf8_lossy(open.virtual_host.as_bytes()).into_owned();
        let session = host.open(&self.client)?;
        (self.state, self.deadline) = (State::Open(session), None);
        method_frame(
            host.out(),
            CHANNEL_0,
            &connection::OpenOk {
                known_hosts: ShortString::EMPTY,
            },
        );
        Ok(())
    }
}

/// Whether fewer than eight octets may be the start of a protocol header of AMQP.
fn is_amqp(input: &[u8]) -> bool {
    input
        .iter()
        .zip(b"AMQP")
        .all(|(given, expected)| given == expected)
}
