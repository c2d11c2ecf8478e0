//! Every method of AMQP 0-9-1 with RabbitMQ's extensions, as words: class, method, name, arguments.
//!
//! The test peer has a codec of its own, driven by this table, so that a mistake in the broker's
//! codec cannot hide behind the same mistake in the tests; and a table can also write what a typed
//! codec refuses to.

/// The type of one argument of a method or one property of a content header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldType {
    Bit,
    Octet,
    Short,
    Long,
    Longlong,
    Shortstr,
    Longstr,
    Table,
    Timestamp,
}

impl FieldType {
    fn of(word: &str) -> Self {
        match word {
            "bit" => FieldType::Bit,
            "octet" => FieldType::Octet,
            "short" => FieldType::Short,
            "long" => FieldType::Long,
            "longlong" => FieldType::Longlong,
            "shortstr" => FieldType::Shortstr,
            "longstr" => FieldType::Longstr,
            "table" => FieldType::Table,
            "timestamp" => FieldType::Timestamp,
            other => panic!("no field type {other}"),
        }
    }
}

/// One method: its ids, its name, its arguments as `name:type` separated by spaces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MethodSpec {
    pub(crate) class_id: u16,
    pub(crate) method_id: u16,
    pub(crate) name: &'static str,
    arguments: &'static str,
}

impl MethodSpec {
    /// Names and types in the order of the wire.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = (&'static str, FieldType)> {
        fields(self.arguments)
    }

    /// Whether a content header and a body follow.
    pub(crate) fn has_content(&self) -> bool {
        self.class_id == 60 && matches!(self.method_id, 40 | 50 | 60 | 71)
    }
}

fn fields(words: &'static str) -> impl Iterator<Item = (&'static str, FieldType)> {
    words.split_ascii_whitespace().map(|word| {
        let (name, kind) = word.split_once(':').expect("the table says name:type");
        (name, FieldType::of(kind))
    })
}

/// The properties of class basic, in the order of their flags from bit 15 down.
pub(crate) fn basic_properties() -> impl Iterator<Item = (&'static str, FieldType)> {
    fields(
        "content_type:shortstr content_encoding:shortstr headers:table delivery_mode:octet \
         priority:octet correlation_id:shortstr reply_to:shortstr expiration:shortstr \
         message_id:shortstr timestamp:timestamp type:shortstr user_id:shortstr app_id:shortstr \
         cluster_id:shortstr",
    )
}

/// The method called `name`.
pub(crate) fn by_name(name: &str) -> Option<&'static MethodSpec> {
    METHODS.iter().find(|spec| spec.name == name)
}

/// The method with these ids.
pub(crate) fn by_ids(class_id: u16, method_id: u16) -> Option<&'static MethodSpec> {
    METHODS
        .iter()
        .find(|spec| (spec.class_id, spec.method_id) == (class_id, method_id))
}

const fn method(
    class_id: u16,
    method_id: u16,
    name: &'static str,
    arguments: &'static str,
) -> MethodSpec {
    MethodSpec {
        class_id,
        method_id,
        name,
        arguments,
    }
}

/// The table itself.
#[rustfmt::skip]
pub(crate) const METHODS: &[MethodSpec] = &[
    method(10, 10, "connection.start", "\
        version_major:octet version_minor:octet server_properties:table mechanisms:longstr \
        locales:longstr"),
    method(10, 11, "connection.start-ok", "\
        client_properties:table mechanism:shortstr response:longstr locale:shortstr"),
    method(10, 20, "connection.secure", "challenge:longstr"),
    method(10, 21, "connection.secure-ok", "response:longstr"),
    method(10, 30, "connection.tune", "channel_max:short frame_max:long heartbeat:short"),
    method(10, 31, "connection.tune-ok", "channel_max:short frame_max:long heartbeat:short"),
    method(10, 40, "connection.open", "virtual_host:shortstr capabilities:shortstr insist:bit"),
    method(10, 41, "connection.open-ok", "known_hosts:shortstr"),
    method(10, 50, "connection.close", "\
        reply_code:short reply_text:shortstr class_id:short method_id:short"),
    method(10, 51, "connection.close-ok", ""),
    method(10, 60, "connection.blocked", "reason:shortstr"),
    method(10, 61, "connection.unblocked", ""),
    method(10, 70, "connection.update-secret", "new_secret:longstr reason:shortstr"),
    method(10, 71, "connection.update-secret-ok", ""),
    method(20, 10, "channel.open", "out_of_band:shortstr"),
    method(20, 11, "channel.open-ok", "channel_id:longstr"),
    method(20, 20, "channel.flow", "active:bit"),
    method(20, 21, "channel.flow-ok", "active:bit"),
    method(20, 40, "channel.close", "\
        reply_code:short reply_text:shortstr class_id:short method_id:short"),
    method(20, 41, "channel.close-ok", ""),
    method(30, 10, "access.request", "\
        realm:shortstr exclusive:bit passive:bit active:bit write:bit read:bit"),
    method(30, 11, "access.request-ok", "ticket:short"),
    method(40, 10, "exchange.declare", "\
        ticket:short exchange:shortstr type:shortstr passive:bit durable:bit auto_delete:bit \
        internal:bit nowait:bit arguments:table"),
    method(40, 11, "exchange.declare-ok", ""),
    method(40, 20, "exchange.delete", "ticket:short exchange:shortstr if_unused:bit nowait:bit"),
    method(40, 21, "exchange.delete-ok", ""),
    method(40, 30, "exchange.bind", "\
        ticket:short destination:shortstr source:shortstr routing_key:shortstr nowait:bit \
        arguments:table"),
    method(40, 31, "exchange.bind-ok", ""),
    method(40, 40, "exchange.unbind", "\
        ticket:short destination:shortstr source:shortstr routing_key:shortstr nowait:bit \
        arguments:table"),
    method(40, 51, "exchange.unbind-ok", ""),
    method(50, 10, "queue.declare", "\
        ticket:short queue:shortstr passive:bit durable:bit exclusive:bit auto_delete:bit \
        nowait:bit arguments:table"),
    method(50, 11, "queue.declare-ok", "queue:shortstr message_count:long consumer_count:long"),
    method(50, 20, "queue.bind", "\
        ticket:short queue:shortstr exchange:shortstr routing_key:shortstr nowait:bit \
        arguments:table"),
    method(50, 21, "queue.bind-ok", ""),
    method(50, 30, "queue.purge", "ticket:short queue:shortstr nowait:bit"),
    method(50, 31, "queue.purge-ok", "message_count:long"),
    method(50, 40, "queue.delete", "\
        ticket:short queue:shortstr if_unused:bit if_empty:bit nowait:bit"),
    method(50, 41, "queue.delete-ok", "message_count:long"),
    method(50, 50, "queue.unbind", "\
        ticket:short queue:shortstr exchange:shortstr routing_key:shortstr arguments:table"),
    method(50, 51, "queue.unbind-ok", ""),
    method(60, 10, "basic.qos", "prefetch_size:long prefetch_count:short global:bit"),
    method(60, 11, "basic.qos-ok", ""),
    method(60, 20, "basic.consume", "\
        ticket:short queue:shortstr consumer_tag:shortstr no_local:bit no_ack:bit exclusive:bit \
        nowait:bit arguments:table"),
    method(60, 21, "basic.consume-ok", "consumer_tag:shortstr"),
    method(60, 30, "basic.cancel", "consumer_tag:shortstr nowait:bit"),
    method(60, 31, "basic.cancel-ok", "consumer_tag:shortstr"),
    method(60, 40, "basic.publish", "\
        ticket:short exchange:shortstr routing_key:shortstr mandatory:bit immediate:bit"),
    method(60, 50, "basic.return", "\
        reply_code:short reply_text:shortstr exchange:shortstr routing_key:shortstr"),
    method(60, 60, "basic.deliver", "\
        consumer_tag:shortstr delivery_tag:longlong redelivered:bit exchange:shortstr \
        routing_key:shortstr"),
    method(60, 70, "basic.get", "ticket:short queue:shortstr no_ack:bit"),
    method(60, 71, "basic.get-ok", "\
        delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr \
        message_count:long"),
    method(60, 72, "basic.get-empty", "cluster_id:shortstr"),
    method(60, 80, "basic.ack", "delivery_tag:longlong multiple:bit"),
    method(60, 90, "basic.reject", "delivery_tag:longlong requeue:bit"),
    method(60, 100, "basic.recover-async", "requeue:bit"),
    method(60, 110, "basic.recover", "requeue:bit"),
    method(60, 111, "basic.recover-ok", ""),
    method(60, 120, "basic.nack", "delivery_tag:longlong multiple:bit requeue:bit"),
    method(85, 10, "confirm.select", "nowait:bit"),
    method(85, 11, "confirm.select-ok", ""),
    method(90, 10, "tx.select", ""),
    method(90, 11, "tx.select-ok", ""),
    method(90, 20, "tx.commit", ""),
    method(90, 21, "tx.commit-ok", ""),
    method(90, 30, "tx.rollback", ""),
    method(90, 31, "tx.rollback-ok", ""),
];
