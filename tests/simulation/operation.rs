//! What a client may ask, as values, and the octets they travel as.

use std::fmt;
use std::rc::Rc;

use leveret::wire::ShortString;
use leveret::wire::content::PropertyList;
use leveret::wire::field_table::{FieldTable, FieldValue, TableBuilder};

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

    pub(crate) fn table(&self) -> TableBuilder {
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

/// What `exchange.declare` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExchangeDeclare {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) passive: bool,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) no_wait: bool,
}

/// What `queue.declare` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueDeclare {
    pub(crate) name: String,
    pub(crate) passive: bool,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) no_wait: bool,
}

/// What a bind or an unbind says, of a queue or of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) destination: String,
    pub(crate) source: String,
    pub(crate) key: String,
    pub(crate) criteria: Criteria,
    pub(crate) no_wait: bool,
}

/// What `basic.consume` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Consume {
    pub(crate) queue: String,
    pub(crate) tag: String,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) no_wait: bool,
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
    ExchangeDeclare(ExchangeDeclare),
    ExchangeDelete {
        name: String,
        if_unused: bool,
        no_wait: bool,
    },
    ExchangeBind(Bind),
    ExchangeUnbind(Bind),
    QueueDeclare(QueueDeclare),
    QueueDelete {
        name: String,
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    },
    QueueBind(Bind),
    /// Always answered: the specification has no `no_wait` here.
    QueueUnbind(Bind),
    QueuePurge {
        name: String,
        no_wait: bool,
    },
    Publish(Rc<Publication>),
    Consume(Consume),
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
            | O::QueueDeclare(_)
            | O::Hostile(_)
            | O::Qos { .. }
            | O::Consume(_)
            // These can end their channel, which sweeps.
            | O::ExchangeDeclare(_)
            | O::ExchangeDelete { .. }
            | O::ExchangeBind(_)
            | O::ExchangeUnbind(_)
            | O::QueueBind(_)
            | O::QueueUnbind(_)
            | O::ConfirmSelect { .. }
            | O::TxSelect => true,
            O::Ack { tag, multiple } | O::Nack { tag, multiple, .. } => *tag == 0 || *multiple,
            _ => false,
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
