//! How channels and connections end: by an exception, by us, or since the peer is gone.

use super::assembler::{Assembly, PartialBody};
use super::channel::{ChannelState, encode_close};
use super::host::Host;
use super::{Connection, Fault, State};
use crate::broker::{Answer, Exception, Outcome};
use crate::wire::encode::method_frame;
use crate::wire::method::connection;
use crate::wire::reply_code::reply_text;
use crate::wire::{ChannelNumber, ReplyCode, ShortString};

impl Connection {
    pub(super) fn fail<H: Host>(&mut self, fault: &Fault, host: &mut H) {
        let (code, text, ids) = match fault {
            Fault::Wire(error) => (
                error.reply_code(),
                error.reply_text(),
                error.failed_method(),
            ),
            Fault::Exception(exception, ids) => (
                exception.reply_code,
                reply_text(exception.reply_code, &exception.explanation),
                *ids,
            ),
        };
        if matches!(self.state, State::Header | State::Start) {
            // Nobody has logged in: as RabbitMQ does, nothing is said.
            log::error!("closing AMQP connection: {text}");
            self.abandon(host);
            return;
        }
        self.close(code, &text, ids, host);
    }

    /// Sends `connection.close` and lets go of everything the connection has.
    pub fn close<H: Host>(&mut self, code: ReplyCode, text: &str, ids: (u16, u16), host: &mut H) {
        if matches!(self.state, State::Closing | State::Over) {
            self.state = State::Over;
            return;
        }
        log::error!(
            "closing AMQP connection of user '{}': {text}",
            self.client.user
        );
        self.end_session(host);
        let close = connection::Close {
            reply_code: code.as_u16(),
            reply_text: ShortString::truncated(text),
            class_id: ids.0,
            method_id: ids.1,
        };
        method_frame(host.out(), ChannelNumber::CONNECTION, &close);
        let until = host.now().after_ms(host.offer().close_timeout_ms);
        (self.state, self.deadline) = (State::Closing, Some(until));
    }

    /// The peer is gone: everything the connection has is let go of.
    pub fn abandon<H: Host>(&mut self, host: &mut H) {
        self.end_session(host);
        self.state = State::Over;
    }

    pub(super) fn end_session<H: Host>(&mut self, host: &mut H) {
        for at in 0..self.channels.len() {
            self.drop_assembly(at, host);
        }
        self.channels = Vec::new();
        self.held_octets = 0;
        self.open_frame = None;
        self.heartbeat = None;
        if let State::Open(session) = self.state {
            host.close_session(session);
        }
        self.deadline = Some(host.now().after_ms(host.offer().close_timeout_ms));
        self.state = State::Over;
    }

    pub(super) fn drop_assembly<H: Host>(&mut self, at: usize, host: &mut H) {
        let assembly = std::mem::take(&mut self.channels[at].1.assembly);
        if let Assembly::Body(partial) = assembly
            && let PartialBody::Large { body, .. } = partial.body
        {
            host.large_release(body);
        }
    }

    /// Closes a channel for an exception.
    pub(super) fn close_channel<H: Host>(
        &mut self,
        number: u16,
        exception: &Exception,
        ids: (u16, u16),
        host: &mut H,
    ) {
        let Some(at) = self.find(number) else { return };
        let text = reply_text(exception.reply_code, &exception.explanation);
        log::error!("channel {number} of user '{}': {text}", self.client.user);
        self.drop_assembly(at, host);
        let slot = &mut self.channels[at].1;
        self.held_octets -= slot.drop_held();
        if let ChannelState::Open(key) = slot.state {
            slot.state = ChannelState::Closing;
            host.close_channel(key);
        }
        encode_close(
            host.out(),
            number,
            (exception.reply_code.as_u16(), &text),
            ids,
        );
    }

    /// A soft exception closes the channel, a hard one is passed on.
    #[cold]
    pub(super) fn channel_fault<H: Host>(
        &mut self,
        number: u16,
        fault: Fault,
        host: &mut H,
    ) -> Result<Outcome, Fault> {
        match fault {
            Fault::Exception(exception, ids) if !exception.reply_code.is_hard() => {
                self.close_channel(number, &exception, ids, host);
                Ok(Outcome::now(Answer::Nothing))
            }
            fault => Err(fault),
        }
    }
}
