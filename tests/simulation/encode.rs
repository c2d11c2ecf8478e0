//! The octets that operations travel as.

use leveret::wire::encode;
use leveret::wire::field_table::{FieldTable, FieldValue, TableBuilder};
use leveret::wire::method::{basic, channel, confirm, connection, exchange, queue, tx};
use leveret::wire::{ChannelNumber, DeliveryTag, Method, ShortString};

use super::operation::{Hostility, Operation};

/// A bind or an unbind: the same fields for queues and exchanges, by other names.
macro_rules! binding {
    ($it:ident, $class:ident::$method:ident { $destination:ident, $source:ident $(, $no_wait:ident)? }) => {
        $class::$method {
            ticket: 0,
            $destination: ShortString::truncated(&$it.destination),
            $source: ShortString::truncated(&$it.source),
            routing_key: ShortString::truncated(&$it.key),
            $($no_wait: $it.no_wait,)?
            arguments: $it.criteria.table().as_table(),
        }
        .into()
    };
}

impl Operation {
    /// The octets it travels as.
    pub(crate) fn encode(&self, channel: u16, frame_max: u32) -> Vec<u8> {
        use Operation as O;
        let mut out = Vec::new();
        let number = ChannelNumber(channel);
        let mut method = |method: Method<'_>| encode::any_method_frame(&mut out, number, &method);
        let no_arguments = FieldTable::default();
        match self {
            O::ProtocolHeader => return b"AMQP\0\0\x09\x01".to_vec(),
            O::StartOk { password_is_right } => {
                let mut capabilities = TableBuilder::new();
                for name in [
                    "consumer_cancel_notify",
                    "connection.blocked",
                    "authentication_failure_close",
                ] {
                    capabilities.push(ShortString::truncated(name), FieldValue::Bool(true));
                }
                let properties = TableBuilder::new().with(
                    ShortString::literal("capabilities"),
                    FieldValue::Table(capabilities.as_table()),
                );
                let response: &[u8] = if *password_is_right {
                    b"\0guest\0guest"
                } else {
                    b"\0guest\0quest"
                };
                method(
                    connection::StartOk {
                        client_properties: properties.as_table(),
                        mechanism: ShortString::literal("PLAIN"),
                        response,
                        locale: ShortString::literal("en_US"),
                    }
                    .into(),
                );
            }
            O::TuneOk {
                heartbeat_s,
                frame_max,
            } => method(
                connection::TuneOk {
                    channel_max: 2047,
                    frame_max: *frame_max,
                    heartbeat: *heartbeat_s,
                }
                .into(),
            ),
            O::Open => method(
                connection::Open {
                    virtual_host: ShortString::literal("/"),
                    capabilities: ShortString::EMPTY,
                    insist: false,
                }
                .into(),
            ),
            O::ConnectionClose => method(
                connection::Close {
                    reply_code: 200,
                    reply_text: ShortString::literal("bye"),
                    class_id: 0,
                    method_id: 0,
                }
                .into(),
            ),
            O::ConnectionCloseOk => method(connection::CloseOk {}.into()),
            O::ChannelOpen => method(
                channel::Open {
                    out_of_band: ShortString::EMPTY,
                }
                .into(),
            ),
            O::ChannelClose => method(
                channel::Close {
                    reply_code: 200,
                    reply_text: ShortString::literal("bye"),
                    class_id: 0,
                    method_id: 0,
                }
                .into(),
            ),
            O::ChannelCloseOk => method(channel::CloseOk {}.into()),
            O::Flow => method(channel::Flow { active: true }.into()),
            O::Heartbeat => encode::heartbeat(&mut out),
            O::ExchangeDeclare(it) => method(
                exchange::Declare {
                    ticket: 0,
                    exchange: ShortString::truncated(&it.name),
                    exchange_type: ShortString::truncated(it.kind.name()),
                    passive: it.passive,
                    durable: it.durable,
                    auto_delete: it.auto_delete,
                    internal: it.internal,
                    no_wait: it.no_wait,
                    arguments: no_arguments,
                }
                .into(),
            ),
            O::ExchangeDelete {
                name,
                if_unused,
                no_wait,
            } => method(
                exchange::Delete {
                    ticket: 0,
                    exchange: ShortString::truncated(name),
                    if_unused: *if_unused,
                    no_wait: *no_wait,
                }
                .into(),
            ),
            O::ExchangeBind(it) => method(binding!(
                it,
                exchange::Bind {
                    destination,
                    source,
                    no_wait
                }
            )),
            O::ExchangeUnbind(it) => method(binding!(
                it,
                exchange::Unbind {
                    destination,
                    source,
                    no_wait
                }
            )),
            O::QueueDeclare(it) => method(
                queue::Declare {
                    ticket: 0,
                    queue: ShortString::truncated(&it.name),
                    passive: it.passive,
                    durable: it.durable,
                    exclusive: it.exclusive,
                    auto_delete: it.auto_delete,
                    no_wait: it.no_wait,
                    arguments: no_arguments,
                }
                .into(),
            ),
            O::QueueDelete {
                name,
                if_unused,
                if_empty,
                no_wait,
            } => method(
                queue::Delete {
                    ticket: 0,
                    queue: ShortString::truncated(name),
                    if_unused: *if_unused,
                    if_empty: *if_empty,
                    no_wait: *no_wait,
                }
                .into(),
            ),
            O::QueueBind(it) => method(binding!(
                it,
                queue::Bind {
                    queue,
                    exchange,
                    no_wait
                }
            )),
            O::QueueUnbind(it) => method(binding!(it, queue::Unbind { queue, exchange })),
            O::QueuePurge { name, no_wait } => method(
                queue::Purge {
                    ticket: 0,
                    queue: ShortString::truncated(name),
                    no_wait: *no_wait,
                }
                .into(),
            ),
            O::Publish(publication) => {
                let publish = basic::Publish {
                    ticket: 0,
                    exchange: ShortString::truncated(&publication.exchange),
                    routing_key: ShortString::truncated(&publication.routing_key),
                    mandatory: publication.mandatory,
                    immediate: false,
                };
                encode::content(
                    &mut out,
                    number,
                    &publish,
                    &publication.properties(),
                    &publication.body(),
                    frame_max,
                );
            }
            O::Consume(it) => method(
                basic::Consume {
                    ticket: 0,
                    queue: ShortString::truncated(&it.queue),
                    consumer_tag: ShortString::truncated(&it.tag),
                    no_local: false,
                    no_ack: it.no_ack,
                    exclusive: it.exclusive,
                    no_wait: it.no_wait,
                    arguments: no_arguments,
                }
                .into(),
            ),
            O::Cancel { tag, no_wait } => method(
                basic::Cancel {
                    consumer_tag: ShortString::truncated(tag),
                    no_wait: *no_wait,
                }
                .into(),
            ),
            O::Get { queue, no_ack } => method(
                basic::Get {
                    ticket: 0,
                    queue: ShortString::truncated(queue),
                    no_ack: *no_ack,
                }
                .into(),
            ),
            O::Ack { tag, multiple } => method(
                basic::Ack {
                    delivery_tag: DeliveryTag(*tag),
                    multiple: *multiple,
                }
                .into(),
            ),
            O::Nack {
                tag,
                multiple,
                requeue,
            } => method(
                basic::Nack {
                    delivery_tag: DeliveryTag(*tag),
                    multiple: *multiple,
                    requeue: *requeue,
                }
                .into(),
            ),
            O::Reject { tag, requeue } => method(
                basic::Reject {
                    delivery_tag: DeliveryTag(*tag),
                    requeue: *requeue,
                }
                .into(),
            ),
            O::Recover { wants_answer: true } => method(basic::Recover { requeue: true }.into()),
            O::Recover {
                wants_answer: false,
            } => method(basic::RecoverAsync { requeue: true }.into()),
            O::Qos { count, global } => method(
                basic::Qos {
                    prefetch_size: 0,
                    prefetch_count: *count,
                    global: *global,
                }
                .into(),
            ),
            O::ConfirmSelect { no_wait } => method(confirm::Select { no_wait: *no_wait }.into()),
            O::TxSelect => method(tx::Select {}.into()),
            O::TxCommit => method(tx::Commit {}.into()),
            O::TxRollback => method(tx::Rollback {}.into()),
            O::Hostile(hostility) => hostile(*hostility, number, frame_max, &mut out),
        }
        out
    }
}

fn hostile(hostility: Hostility, number: ChannelNumber, frame_max: u32, out: &mut Vec<u8>) {
    let flow = Method::from(channel::Flow { active: true });
    match hostility {
        Hostility::FrameEnd => {
            encode::any_method_frame(out, number, &flow);
            *out.last_mut().expect("a frame") = 0xCD;
        }
        Hostility::TooLong => {
            out.extend_from_slice(&[3, 0, number.0 as u8]);
            out.extend_from_slice(&(frame_max + 9).to_be_bytes());
        }
        Hostility::FrameType => {
            encode::any_method_frame(out, number, &flow);
            out[0] = 7;
        }
        Hostility::NotOpen => encode::any_method_frame(out, ChannelNumber(999), &flow),
        Hostility::LoneHeader => encode::content_header_frame(out, number, 0, &[0, 0]),
        Hostility::UnknownMethod => {
            encode::any_method_frame(out, number, &flow);
            out[10] = 99;
        }
        Hostility::CutArguments => {
            out.extend_from_slice(&[1, 0, number.0 as u8, 0, 0, 0, 6, 0, 50, 0, 10, 0, 0, 0xCE]);
        }
        Hostility::Immediate => {
            let publish = basic::Publish {
                ticket: 0,
                exchange: ShortString::EMPTY,
                routing_key: ShortString::EMPTY,
                mandatory: false,
                immediate: true,
            };
            encode::content(out, number, &publish, &[0, 0], b"", frame_max);
        }
        Hostility::SecondOpen => {
            let open = channel::Open {
                out_of_band: ShortString::EMPTY,
            };
            encode::any_method_frame(out, number, &open.into());
        }
    }
}
