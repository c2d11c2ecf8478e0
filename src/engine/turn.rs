//! What a connection gets when it asks its host: the router and the log, for the length of a call.

use std::net::SocketAddr;

use super::peer::ends_shown;
use super::plant::Plant;
use crate::auth::sasl::{self, SaslError};
use crate::broker::session::Session;
use crate::broker::{
    Batch, Broker, ChannelKey, Command, Exception, OutboxKey, Outcome, SessionKey, Sink as _,
};
use crate::clock::Now;
use crate::connection::{Client, Host, LogInError, Offer};
use crate::message::LargeBody;
use crate::storage::Storage;

/// One connection's host during one call.
pub(super) struct Turn<'a, S: Storage> {
    pub(super) now: Now,
    pub(super) broker: &'a mut Broker,
    pub(super) plant: &'a mut Plant<S>,
    pub(super) offer: &'a Offer,
    pub(super) outbox: OutboxKey,
    /// The client's end of the socket, and ours.
    pub(super) ends: (SocketAddr, SocketAddr),
    pub(super) outbox_octets_max: usize,
    pub(super) publishing_stopped: bool,
    /// The router's effort at which the call takes no more commands.
    pub(super) effort_max: u64,
}

impl<S: Storage> Host for Turn<'_, S> {
    fn now(&self) -> Now {
        self.now
    }

    fn offer(&self) -> &Offer {
        self.offer
    }

    fn out(&mut self) -> &mut Vec<u8> {
        self.plant.out(self.outbox)
    }

    #[inline]
    fn has_room(&self, held_octets: usize) -> bool {
        let waiting = self.plant.outboxes[self.outbox as usize].octets() + held_octets;
        waiting < self.outbox_octets_max
    }

    #[inline]
    fn has_time(&self) -> bool {
        self.broker.effort() < self.effort_max
    }

    #[inline]
    fn may_publish(&self) -> bool {
        !self.publishing_stopped && !self.plant.store.tail_full()
    }

    fn log_in(&mut self, mechanism: &str, response: &[u8]) -> Result<String, LogInError> {
        let offered = sasl::Offered {
            mechanisms: &self.offer.mechanisms,
            anonymous: (&self.offer.anonymous.0, &self.offer.anonymous.1),
        };
        let credentials = sasl::credentials(offered, mechanism.as_bytes(), response);
        let credentials = credentials.map_err(|error| {
            LogInError::Exception(match error {
                SaslError::UnknownMechanism => Exception::command_invalid(format!(
                    "unknown authentication mechanism '{mechanism}'"
                )),
                SaslError::NotOffered => Exception::command_invalid(format!(
                    "invalid authentication mechanism '{mechanism}'"
                )),
                SaslError::Malformed(why) => Exception::syntax_error(why),
            })
        })?;
        let users = &self.broker.users;
        match users.authenticate(
            credentials.name,
            credentials.password,
            Some(self.ends.0.ip()),
        ) {
            Ok(id) => Ok(users
                .get(id)
                .map(|user| user.name().to_owned())
                .unwrap_or_default()),
            Err(refused) => {
                log::error!("{mechanism} login refused: {refused}");
                Err(LogInError::Refused)
            }
        }
    }

    fn open(&mut self, client: &Client) -> Result<SessionKey, Exception> {
        let Client {
            vhost: name, user, ..
        } = client;
        let Some(vhost) = self.broker.vhost_named(name) else {
            return Err(Exception::not_allowed(format!("vhost {name} not found")));
        };
        let refused = || {
            let text = format!("access to vhost '{name}' refused for user '{user}'");
            Exception::not_allowed(text)
        };
        let id = self.broker.users.named(user).ok_or_else(refused)?.id();
        self.broker.users.access(id, name).ok_or_else(refused)?;
        self.plant.outboxes[self.outbox as usize].frame_max = client.frame_max;
        log::info!(
            "connection {}: user '{user}' authenticated and granted access to vhost '{name}'",
            ends_shown(self.ends)
        );
        Ok(self.broker.open_session(Session {
            generation: 0,
            outbox: self.outbox,
            user: id,
            user_name: user.as_str().into(),
            vhost,
            consumer_cancel_notify: client.consumer_cancel_notify,
            frame_max: client.frame_max,
            exclusive_queues: Vec::new(),
            parked: Vec::new(),
            parked_gone: 0,
            channels: Vec::new(),
        }))
    }

    fn close_session(&mut self, session: SessionKey) {
        self.broker.close_session(session, self.plant);
    }

    fn open_channel(&mut self, session: SessionKey, number: u16) -> ChannelKey {
        self.broker.open_channel(session, number)
    }

    fn close_channel(&mut self, channel: ChannelKey) {
        // A confirm or a delivery that is due goes out before the answer to the close.
        self.broker.send_confirms(self.plant);
        self.broker.close_channel(channel, self.plant);
    }

    #[inline]
    fn apply(&mut self, channel: ChannelKey, command: &Command<'_>) -> Result<Outcome, Exception> {
        self.broker.apply(self.now, channel, command, self.plant)
    }

    fn is_flushed(&self, batch: Batch) -> bool {
        self.plant.is_flushed(batch)
    }

    fn large_begin(&mut self, octets: u64, is_durable: bool) -> LargeBody {
        self.plant.store.large_begin(octets, is_durable)
    }

    fn large_append(&mut self, body: LargeBody, octets: &[u8]) -> bool {
        self.plant.store.large_append(body, octets)
    }

    fn large_release(&mut self, body: LargeBody) {
        self.plant.store.large_abandon(body);
    }
}
