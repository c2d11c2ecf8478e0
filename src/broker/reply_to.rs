//! Direct reply-to (RabbitMQ): replies reach a channel without a queue that anyone declares.
//!
//! A client consumes from `amq.rabbitmq.reply-to` and publishes with that name as `reply-to`; the
//! broker replaces it by a name that only the receiver of the request learns. Behind that name lies
//! a queue of the broker's own: exclusive, gone with its consumer, in no list, so replies are
//! bounded and spilled as everything else. The name holds 128 random bits and means nothing by
//! itself: a forged one is a queue that does not exist.

use super::Broker;
use super::exception::Exception;
use super::queue::{QueueKey, QueueProperties};
use super::record::Pairs;
use super::sink::Sink;
use crate::clock::Now;
use crate::wire::ShortString;
use crate::wire::content::Properties;
use crate::wire::method::basic;

/// The name that clients consume from and publish with.
pub(super) const REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to";

/// Whether a queue is one of the broker's own, which no list shows.
pub fn is_reply_queue(name: &[u8]) -> bool {
    name.strip_prefix(REPLY_TO)
        .is_some_and(|rest| rest.first() == Some(&b'.'))
}

impl Broker {
    /// Makes the queue behind a channel's reply consumer.
    ///
    /// # Errors
    /// 406 when the consumer wants to acknowledge, or the channel has one already.
    pub(super) fn reply_queue<S: Sink>(
        &mut self,
        now: Now,
        channel: u32,
        consume: &basic::Consume<'_>,
        sink: &mut S,
    ) -> Result<QueueKey, Exception> {
        if !consume.no_ack {
            return Err(Exception::precondition_failed(
                "reply consumer cannot acknowledge",
            ));
        }
        let state = &self.channels[channel as usize];
        if state.reply_to.is_some() {
            return Err(Exception::precondition_failed("reply consumer already set"));
        }
        let properties = QueueProperties {
            durable: false,
            exclusive_to: Some(state.session),
            auto_delete: true,
            arguments: Box::default(),
        };
        let vhost = self.vhost_of(channel);
        let name = self.generated_name(&[REPLY_TO, b"."].concat());
        let key = self.create_queue(now, vhost, &name, properties, &mut Pairs::default(), sink);
        self.channels[channel as usize].reply_to = Some(name.into());
        Ok(key)
    }

    /// The properties of a request with `reply-to` replaced by the name that replies go to; `None`
    /// when it asks for nothing of the kind.
    ///
    /// # Errors
    /// 406 when the channel has no reply consumer.
    pub(super) fn with_reply_to(
        &self,
        channel: u32,
        properties: Properties<'_>,
    ) -> Result<Option<Vec<u8>>, Exception> {
        if properties
            .reply_to()
            .is_none_or(|reply_to| reply_to.as_bytes() != REPLY_TO)
        {
            return Ok(None);
        }
        let Some(name) = &self.channels[channel as usize].reply_to else {
            return Err(Exception::precondition_failed(
                "fast reply consumer does not exist",
            ));
        };
        let mut list = properties.to_list();
        list.reply_to = ShortString::new(name);
        Ok(Some(list.to_octets()))
    }
}
