//! `basic`: publishing, consuming, fetching and acknowledging messages (spec 1.8), with RabbitMQ's
//! `nack`.
//!
//! Short strings of the methods that carry content (`publish`, `return`, `deliver`, `get-ok`) are
//! not checked to be UTF-8 here, see [`ShortString`].

use crate::wire::{DeliveryTag, FieldTable, ShortString};

methods! {
    /// Limits the deliveries that await an acknowledgement.
    Qos = 60 10 "basic.qos" {
        /// Octets; RabbitMQ takes 0 only.
        prefetch_size: u32,
        /// Messages; 0 means no limit.
        prefetch_count: u16,
        /// For the whole channel, not for each consumer started later.
        global: bool,
    }

    /// The limit holds.
    QosOk = 60 11 "basic.qos-ok" {}

    /// Starts a consumer.
    Consume<'a> = 60 20 "basic.consume" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty means the last one declared on the channel.
        queue: ShortString<'a>,
        /// Name of the consumer; empty lets the server choose one.
        consumer_tag: ShortString<'a>,
        /// Ignored.
        no_local: bool,
        /// Deliveries need no acknowledgement.
        no_ack: bool,
        /// The only consumer of the queue.
        exclusive: bool,
        /// No answer is sent.
        no_wait: bool,
        /// RabbitMQ's `x-` arguments.
        arguments: FieldTable<'a>,
    }

    /// The consumer is there; deliveries follow.
    ConsumeOk<'a> = 60 21 "basic.consume-ok" {
        /// Name of the consumer within its channel.
        consumer_tag: ShortString<'a>,
    }

    /// Ends a consumer. The server sends it too, when the queue is gone (RabbitMQ).
    Cancel<'a> = 60 30 "basic.cancel" {
        /// Name of the consumer within its channel.
        consumer_tag: ShortString<'a>,
        /// No answer is sent.
        no_wait: bool,
    }

    /// The consumer is gone.
    CancelOk<'a> = 60 31 "basic.cancel-ok" {
        /// Name of the consumer within its channel.
        consumer_tag: ShortString<'a>,
    }

    /// Publishes a message; its content follows.
    Publish<'a> = 60 40 "basic.publish" content {
        /// Unused.
        ticket: u16,
        /// Name of the exchange, empty for the default one.
        exchange: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
        /// Return the message when it reaches no queue.
        mandatory: bool,
        /// Refused by RabbitMQ.
        immediate: bool,
    }

    /// A mandatory message that reached no queue; its content follows.
    Return<'a> = 60 50 "basic.return" content {
        /// See [`crate::wire::ReplyCode`].
        reply_code: u16,
        /// The code in words.
        reply_text: ShortString<'a>,
        /// Exchange that the message was published to.
        exchange: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
    }

    /// A message for a consumer; its content follows.
    Deliver<'a> = 60 60 "basic.deliver" content {
        /// Name of the consumer within its channel.
        consumer_tag: ShortString<'a>,
        /// The channel's number of the delivery.
        delivery_tag: DeliveryTag,
        /// May have been delivered before.
        redelivered: bool,
        /// Exchange that the message was published to.
        exchange: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
    }

    /// Fetches one message.
    Get<'a> = 60 70 "basic.get" {
        /// Unused.
        ticket: u16,
        /// Name of the queue; empty means the last one declared on the channel.
        queue: ShortString<'a>,
        /// Deliveries need no acknowledgement.
        no_ack: bool,
    }

    /// The message; its content follows.
    GetOk<'a> = 60 71 "basic.get-ok" content {
        /// The channel's number of the delivery.
        delivery_tag: DeliveryTag,
        /// May have been delivered before.
        redelivered: bool,
        /// Exchange that the message was published to.
        exchange: ShortString<'a>,
        /// What the exchange routes by.
        routing_key: ShortString<'a>,
        /// Messages that are still ready.
        message_count: u32,
    }

    /// There is none.
    GetEmpty<'a> = 60 72 "basic.get-empty" {
        /// Unused.
        cluster_id: ShortString<'a>,
    }

    /// The consumer has dealt with messages; from the server, the publisher's confirm.
    Ack = 60 80 "basic.ack" {
        /// The channel's number of the delivery, or of the publish.
        delivery_tag: DeliveryTag,
        /// All up to `delivery_tag`, or simply all when it is 0.
        multiple: bool,
    }

    /// The consumer refuses a message.
    Reject = 60 90 "basic.reject" {
        /// The channel's number of the delivery.
        delivery_tag: DeliveryTag,
        /// Back to the queue rather than dropped.
        requeue: bool,
    }

    /// As [`Recover`], without an answer.
    RecoverAsync = 60 100 "basic.recover-async" {
        /// Must be true.
        requeue: bool,
    }

    /// Gives all unacknowledged messages of the channel back to their queues.
    Recover = 60 110 "basic.recover" {
        /// Must be true.
        requeue: bool,
    }

    /// They are given back.
    RecoverOk = 60 111 "basic.recover-ok" {}

    /// The consumer refuses messages; from the server, the publisher's message is lost (RabbitMQ).
    Nack = 60 120 "basic.nack" {
        /// The channel's number of the delivery, or of the publish.
        delivery_tag: DeliveryTag,
        /// All up to `delivery_tag`, or simply all when it is 0.
        multiple: bool,
        /// Back to the queue rather than dropped.
        requeue: bool,
    }
}
