//! What a client may ask, as values, and the octets they travel as.

use std::fmt;
use std::rc::Rc;

use leveret::wire::content::PropertyList;
use leveret::wire::encode;
use leveret::wire::field_table::{FieldTable, FieldValue, TableBuilder};
use leveret::wire::method::{basic, channel, confirm, connection, exchange, queue, tx};
use leveret::wire::{ChannelNumber, DeliveryTag, Method, ShortString};

/// The types of exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Direct, Kind::Fanout, Kind::Topic, Kind::Headers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
            Kind::Headers => "headers",
        }
    }
}

/// What a binding asks of the headers, or what headers a message has: letters with numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Criteria {
    /// `x-match`: any instead of all. Messages have none.
    pub(crate) any: Option<bool>,
    pub(crate) pairs: Vec<(char, i32)>,
}

impl Criteria {
    /// The reverse of [`Criteria::table`].
    pub(crate) fn read(arguments: &[u8]) -> Self {
        let mut criteria = Criteria::default();
        let table = FieldTable::check(arguments).expect("a table that was accepted");
        for (key, value) in table {
            match value {
                FieldValue::LongString(mode) => criteria.any = Some(mode == b"any"),
                other => {
                    let key = char::from(key.as_bytes()[0]);
                    let value = other.as_integer().expect("a number") as i32;
                    criteria.pairs.push((key, value));
                }
            }
        }
        criteria
    }

    fn table(&self) -> TableBuilder {
        let mut table = TableBuilder::new();
        if let Some(any) = self.any {
            let mode: &[u8] = if any { b"any" } else { b"all" };
            table.push(
                ShortString::literal("x-match"),
                FieldValue::LongString(mode),
            );
        }
        for (key, value) in &self.pairs {
            table.push(
                ShortString::truncated(&key.to_string()),
                FieldValue::SignedInt(*value),
            );
        }
        table
    }
}

/// A message as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    /// Tells all messages of a run apart; the body begins with it.
    pub(crate) id: u64,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) headers: Criteria,
    pub(crate) persistent: bool,
    pub(crate) mandatory: bool,
    pub(crate) body_octets: usize,
}

/// Messages with bodies of so many octets bear their number as message-id, too: what a large body
/// belongs to is known before its octets were read.
pub(crate) const NAMED_BODY_OCTETS_MIN: usize = 16 << 10;

impl Publication {
    pub(crate) fn properties(&self) -> Vec<u8> {
        let table = self.headers.table();
        let name = self.id.to_string();
        PropertyList {
            headers: (!self.headers.pairs.is_empty()).then(|| table.as_table()),
            delivery_mode: self.persistent.then_some(2),
            message_id: (self.body_octets >= NAMED_BODY_OCTETS_MIN)
                .then(|| ShortString::truncated(&name)),
            ..PropertyList::default()
        }
        .to_octets()
    }

    /// The body can be told from its first eight octets and its length.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        let filler = (self.id as u8).wrapping_mul(31).wrapping_add(7);
        body.resize(self.body_octets, filler);
        body
    }
}

/// Octets that no client should send; each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hostility {
    /// A frame that does not end with the frame-end octet.
    FrameEnd,
    /// A frame longer than was agreed on.
    TooLong,
    /// A frame of a type that does not exist.
    FrameType,
    /// A method on a channel that is not open.
    NotOpen,
    /// A content header where a method should be.
    LoneHeader,
    /// A method number that does not exist.
    UnknownMethod,
    /// Arguments that end too early.
    CutArguments,
    /// `immediate`, which RabbitMQ does not know.
    Immediate,
    /// A second `channel.open`.
    SecondOpen,
}

impl Hostility {
    pub(crate) const ALL: [Hostility; 9] = [
        Hostility::FrameEnd,
        Hostility::TooLong,
        Hostility::FrameType,
        Hostility::NotOpen,
        Hostility::LoneHeader,
        Hostility::UnknownMethod,
        Hostility::CutArguments,
        Hostility::Immediate,
        Hostility::SecondOpen,
    ];

    /// The reply code it is answered with.
    pub(crate) fn reply_code(self) -> u16 {
        match self {
            Hostility::FrameEnd
            | Hostility::TooLong
            | Hostility::FrameType
            | Hostility::CutArguments => 501,
            Hostility::NotOpen | Hostility::SecondOpen => 504,
            Hostility::LoneHeader => 505,
            Hostility::UnknownMethod | Hostility::Immediate => 540,
        }
    }
}

/// One thing that a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    ProtocolHeader,
    StartOk {
        password_is_right: bool,
    },
    TuneOk {
        heartbeat_s: u16,
        frame_max: u32,
    },
    Open,
    ConnectionClose,
    ConnectionCloseOk,
    ChannelOpen,
    ChannelClose,
    ChannelCloseOk,
    Flow,
    Heartbeat,
    ExchangeDeclare {
        name: String,
        kind: Kind,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        no_wait: bool,
    },
    ExchangeDelete {
        name: String,
        if_unused: bool,
        no_wait: bool,
    },
    ExchangeBind {
        destination: String,
        source: String,
        key: String,
        criteria: Criteria,
        no_wait: bool,
    },
    ExchangeUnbind {
        destination: String,
        source: String,
        key: String,
        criteria: Criteria,
        no_wait: bool,
    },
    QueueDeclare {
        name: String,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        no_wait: bool,
    },
    QueueDelete {
        name: String,
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    },
    QueueBind {
        queue: String,
        exchange: String,
        key: String,
        criteria: Criteria,
        no_wait: bool,
    },
    QueueUnbind {
        queue: String,
        exchange: String,
        key: String,
        criteria: Criteria,
    },
    QueuePurge {
        name: String,
        no_wait: bool,
    },
    Publish(Rc<Publication>),
    Consume {
        queue: String,
        tag: String,
        no_ack: bool,
        exclusive: bool,
        no_wait: bool,
    },
    Cancel {
        tag: String,
        no_wait: bool,
    },
    Get {
        queue: String,
        no_ack: bool,
    },
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Reject {
        tag: u64,
        requeue: bool,
    },
    Recover {
        wants_answer: bool,
    },
    Qos {
        count: u16,
        global: bool,
    },
    ConfirmSelect {
        no_wait: bool,
    },
    TxSelect,
    TxCommit,
    TxRollback,
    Hostile(Hostility),
}

impl Operation {
    /// Whether its effect or its answer depends on deliveries that the same call may bring about:
    /// it is handed to the engine alone, so that the model knows all that was delivered before.
    pub(crate) fn is_sweeping(&self) -> bool {
        use Operation as O;
        match self {
            O::ConnectionClose
            | O::ChannelClose
            | O::QueueDelete { .. }
            | O::QueuePurge { .. }
            | O::Cancel { .. }
            | O::Get { .. }
            | O::Recover { .. }
            | O::TxCommit
            | O::TxRollback
            | O::QueueDeclare { .. }
            | O::Hostile(_)
            | O::Qos { .. }
            | O::Consume { .. }             // These can end their channel, which sweeps.
            | O::ExchangeDeclare { .. }
            | O::ExchangeDelete { .. }
            | O::ExchangeBind { .. }
            | O::ExchangeUnbind { .. }
            | O::QueueBind { .. }
            | O::QueueUnbind { .. }
            | O::ConfirmSelect { .. }
            | O::TxSelect => true,
            O::Ack { tag, multiple } | O::Nack { tag, multiple, .. } => *tag == 0 || *multiple,
            _ => false,
        }
    }

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
            O::ExchangeDeclare {
                name,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
            } => method(
                exchange::Declare {
                    ticket: 0,
                    exchange: ShortString::truncated(name),
                    exchange_type: ShortString::truncated(kind.name()),
                    passive: *passive,
                    durable: *durable,
                    auto_delete: *auto_delete,
                    internal: *internal,
                    no_wait: *no_wait,
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
            O::ExchangeBind {
                destination,
                source,
                key,
                criteria,
                no_wait,
            } => method(
                exchange::Bind {
                    ticket: 0,
                    destination: ShortString::truncated(destination),
                    source: ShortString::truncated(source),
                    routing_key: ShortString::truncated(key),
                    no_wait: *no_wait,
                    arguments: criteria.table().as_table(),
                }
                .into(),
            ),
            O::ExchangeUnbind {
                destination,
                source,
                key,
                criteria,
                no_wait,
            } => method(
                exchange::Unbind {
                    ticket: 0,
                    destination: ShortString::truncated(destination),
                    source: ShortString::truncated(source),
                    routing_key: ShortString::truncated(key),
                    no_wait: *no_wait,
                    arguments: criteria.table().as_table(),
                }
                .into(),
            ),
            O::QueueDeclare {
                name,
                passive,
                durable,
                exclusive,
                auto_delete,
                no_wait,
            } => method(
                queue::Declare {
                    ticket: 0,
                    queue: ShortString::truncated(name),
                    passive: *passive,
                    durable: *durable,
                    exclusive: *exclusive,
                    auto_delete: *auto_delete,
                    no_wait: *no_wait,
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
            O::QueueBind {
                queue,
                exchange,
                key,
                criteria,
                no_wait,
            } => method(
                queue::Bind {
                    ticket: 0,
                    queue: ShortString::truncated(queue),
                    exchange: ShortString::truncated(exchange),
                    routing_key: ShortString::truncated(key),
                    no_wait: *no_wait,
                    arguments: criteria.table().as_table(),
                }
                .into(),
            ),
            O::QueueUnbind {
                queue,
                exchange,
                key,
                criteria,
            } => method(
                queue::Unbind {
                    ticket: 0,
                    queue: ShortString::truncated(queue),
                    exchange: ShortString::truncated(exchange),
                    routing_key: ShortString::truncated(key),
                    arguments: criteria.table().as_table(),
                }
                .into(),
            ),
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
            O::Consume {
                queue,
                tag,
                no_ack,
                exclusive,
                no_wait,
            } => method(
                basic::Consume {
                    ticket: 0,
                    queue: ShortString::truncated(queue),
                    consumer_tag: ShortString::truncated(tag),
                    no_local: false,
                    no_ack: *no_ack,
                    exclusive: *exclusive,
                    no_wait: *no_wait,
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

/// As in a trace line.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Publish(it) => write!(
                f,
                "publish #{} ex='{}' rk='{}' {} octets{}{}",
                it.id,
                it.exchange,
                it.routing_key,
                it.body_octets,
                if it.persistent { " persistent" } else { "" },
                if it.mandatory { " mandatory" } else { "" },
            ),
            other => write!(f, "{other:?}"),
        }
    }
}
