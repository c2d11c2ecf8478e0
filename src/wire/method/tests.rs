use super::*;
use crate::wire::{DeliveryTag, FieldTable, ShortString};

fn text(text: &'static str) -> ShortString<'static> {
    ShortString::literal(text)
}

/// Encodes to `octets`, decodes from them, and from no other length of them.
fn check<'a>(method: impl Into<Method<'a>> + MethodFields + fmt::Display, octets: &'static [u8]) {
    let mut arguments = Vec::new();
    method.encode_arguments(&mut arguments);
    assert_eq!(arguments, octets[4..], "{method}");
    let method: Method<'a> = method.into();
    let mut encoded = Vec::new();
    method.encode(&mut encoded);
    assert_eq!(encoded, octets, "{method}");
    assert_eq!(Method::decode(octets), Ok(method));
    assert!(method.to_string().starts_with(method.name()));
    for end in 0..octets.len() {
        let error = Method::decode(&octets[..end]).expect_err("cut short");
        if end < 4 {
            assert!(error.reply_text().ends_with(": unknown_frame"));
        } else {
            let text = error.reply_text();
            assert!(text.starts_with("FRAME_ERROR - cannot decode <<"));
            assert_eq!(error.failed_method(), method.ids());
        }
    }
    // Whatever an octet becomes, the method is refused or another one, and that one reads back.
    for at in 0..octets.len() {
        for changed in 0..=255 {
            let mut octets = octets.to_vec();
            octets[at] = changed;
            if let Ok(method) = Method::decode(&octets) {
                let mut again = Vec::new();
                method.encode(&mut again);
                assert_eq!(Method::decode(&again), Ok(method));
            }
        }
    }
    let longer = [octets, b"\0"].concat();
    assert!(matches!(
        Method::decode(&longer),
        Err(WireError::Arguments { .. })
    ));
}

/// The octets were computed from the specification's machine-readable form by another program.
#[test]
#[rustfmt::skip]
fn every_method_is_written_and_read_as_the_specification_draws_it() {
    let table = FieldTable::check(b"\x01kt\x01").expect("a table");
    check(connection::Start { version_major: 1, version_minor: 2, server_properties: table, mechanisms: b"mecha4", locales: b"local5" }, b"\x00\x0A\x00\x0A\x01\x02\x00\x00\x00\x04\x01kt\x01\x00\x00\x00\x06mecha4\x00\x00\x00\x06local5");
    check(connection::StartOk { client_properties: table, mechanism: text("mecha7"), response: b"respo8", locale: text("local9") }, b"\x00\x0A\x00\x0B\x00\x00\x00\x04\x01kt\x01\x06mecha7\x00\x00\x00\x06respo8\x06local9");
    check(connection::Secure { challenge: b"chall10" }, b"\x00\x0A\x00\x14\x00\x00\x00\x07chall10");
    check(connection::SecureOk { response: b"respo11" }, b"\x00\x0A\x00\x15\x00\x00\x00\x07respo11");
    check(connection::Tune { channel_max: 11724, frame_max: 1_270_101_001, heartbeat: 13678 }, b"\x00\x0A\x00\x1E-\xCCK\xB44\x095n");
    check(connection::TuneOk { channel_max: 14655, frame_max: 1_563_201_232, heartbeat: 16609 }, b"\x00\x0A\x00\x1F9?],\x8E\xD0@\xE1");
    check(connection::Open { virtual_host: text("virtu18"), capabilities: text("capab19"), insist: true }, b"\x00\x0A\x00(\x07virtu18\x07capab19\x01");
    check(connection::OpenOk { known_hosts: text("known21") }, b"\x00\x0A\x00)\x07known21");
    check(connection::Close { reply_code: 21494, reply_text: text("reply23"), class_id: 23448, method_id: 24425 }, b"\x00\x0A\x002S\xF6\x07reply23[\x98_i");
    check(connection::CloseOk {}, b"\x00\x0A\x003");
    check(connection::Blocked { reason: text("reaso26") }, b"\x00\x0A\x00<\x07reaso26");
    check(connection::Unblocked {}, b"\x00\x0A\x00=");
    check(connection::UpdateSecret { new_secret: b"new-s27", reason: text("reaso28") }, b"\x00\x0A\x00F\x00\x00\x00\x07new-s27\x07reaso28");
    check(connection::UpdateSecretOk {}, b"\x00\x0A\x00G");
    check(channel::Open { out_of_band: text("out-o29") }, b"\x00\x14\x00\x0A\x07out-o29");
    check(channel::OpenOk { channel_id: b"chann30" }, b"\x00\x14\x00\x0B\x00\x00\x00\x07chann30");
    check(channel::Flow { active: true }, b"\x00\x14\x00\x14\x01");
    check(channel::FlowOk { active: true }, b"\x00\x14\x00\x15\x01");
    check(channel::Close { reply_code: 32241, reply_text: text("reply34"), class_id: 34195, method_id: 35172 }, b"\x00\x14\x00(}\xF1\x07reply34\x85\x93\x89d");
    check(channel::CloseOk {}, b"\x00\x14\x00)");
    check(access::Request { realm: text("realm37"), exclusive: true, passive: false, active: false, write: false, read: true }, b"\x00\x1E\x00\x0A\x07realm37\x11");
    check(access::RequestOk { ticket: 42011 }, b"\x00\x1E\x00\x0B\xA4\x1B");
    check(exchange::Declare { ticket: 42988, exchange: text("excha45"), exchange_type: text("type46"), passive: false, durable: true, auto_delete: true, internal: true, no_wait: false, arguments: table }, b"\x00(\x00\x0A\xA7\xEC\x07excha45\x06type46\x0E\x00\x00\x00\x04\x01kt\x01");
    check(exchange::DeclareOk {}, b"\x00(\x00\x0B");
    check(exchange::Delete { ticket: 51781, exchange: text("excha54"), if_unused: true, no_wait: true }, b"\x00(\x00\x14\xCAE\x07excha54\x03");
    check(exchange::DeleteOk {}, b"\x00(\x00\x15");
    check(exchange::Bind { ticket: 55689, destination: text("desti58"), source: text("sourc59"), routing_key: text("routi60"), no_wait: true, arguments: table }, b"\x00(\x00\x1E\xD9\x89\x07desti58\x07sourc59\x07routi60\x01\x00\x00\x00\x04\x01kt\x01");
    check(exchange::BindOk {}, b"\x00(\x00\x1F");
    check(exchange::Unbind { ticket: 61551, destination: text("desti64"), source: text("sourc65"), routing_key: text("routi66"), no_wait: true, arguments: table }, b"\x00(\x00(\xF0o\x07desti64\x07sourc65\x07routi66\x01\x00\x00\x00\x04\x01kt\x01");
    check(exchange::UnbindOk {}, b"\x00(\x003");
    check(queue::Declare { ticket: 1877, queue: text("queue70"), passive: false, durable: true, exclusive: true, auto_delete: true, no_wait: false, arguments: table }, b"\x002\x00\x0A\x07U\x07queue70\x0E\x00\x00\x00\x04\x01kt\x01");
    check(queue::DeclareOk { queue: text("queue77"), message_count: 3_325_638_710, consumer_count: 3_423_338_787 }, b"\x002\x00\x0B\x07queue77\xC6986\xCC\x0C\x01#");
    check(queue::Bind { ticket: 12624, queue: text("queue81"), exchange: text("excha82"), routing_key: text("routi83"), no_wait: true, arguments: table }, b"\x002\x00\x141P\x07queue81\x07excha82\x07routi83\x01\x00\x00\x00\x04\x01kt\x01");
    check(queue::BindOk {}, b"\x002\x00\x15");
    check(queue::Purge { ticket: 18486, queue: text("queue87"), no_wait: false }, b"\x002\x00\x1EH6\x07queue87\x00");
    check(queue::PurgeOk { message_count: 105_372_261 }, b"\x002\x00\x1F\x06G\xDAe");
    check(queue::Delete { ticket: 22394, queue: text("queue91"), if_unused: true, if_empty: false, no_wait: false }, b"\x002\x00(Wz\x07queue91\x01");
    check(queue::DeleteOk { message_count: 691_572_723 }, b"\x002\x00))8\x8F\xF3");
    check(queue::Unbind { ticket: 28256, queue: text("queue97"), exchange: text("excha98"), routing_key: text("routi99"), arguments: table }, b"\x002\x002n`\x07queue97\x07excha98\x07routi99\x00\x00\x00\x04\x01kt\x01");
    check(queue::UnbindOk {}, b"\x002\x003");
    check(basic::Qos { prefetch_size: 1_277_773_185, prefetch_count: 34118, global: true }, b"\x00<\x00\x0AL)E\x81\x85F\x01");
    check(basic::QosOk {}, b"\x00<\x00\x0B");
    check(basic::Consume { ticket: 36072, queue: text("queue105"), consumer_tag: text("consu106"), no_local: false, no_ack: true, exclusive: true, no_wait: true, arguments: table }, b"\x00<\x00\x14\x8C\xE8\x08queue105\x08consu106\x0E\x00\x00\x00\x04\x01kt\x01");
    check(basic::ConsumeOk { consumer_tag: text("consu112") }, b"\x00<\x00\x15\x08consu112");
    check(basic::Cancel { consumer_tag: text("consu113"), no_wait: true }, b"\x00<\x00\x1E\x08consu113\x01");
    check(basic::CancelOk { consumer_tag: text("consu115") }, b"\x00<\x00\x1F\x08consu115");
    check(basic::Publish { ticket: 47796, exchange: text("excha117"), routing_key: text("routi118"), mandatory: false, immediate: true }, b"\x00<\x00(\xBA\xB4\x08excha117\x08routi118\x02");
    check(basic::Return { reply_code: 52681, reply_text: text("reply122"), exchange: text("excha123"), routing_key: text("routi124") }, b"\x00<\x002\xCD\xC9\x08reply122\x08excha123\x08routi124");
    check(basic::Deliver { consumer_tag: text("consu125"), delivery_tag: DeliveryTag(10_330_176_681_277_348_770), redelivered: true, exchange: text("excha128"), routing_key: text("routi129") }, b"\x00<\x00<\x08consu125\x8F\\(\xF5\xC2\x8F[\xA2\x01\x08excha128\x08routi129");
    check(basic::Get { ticket: 61474, queue: text("queue131"), no_ack: true }, b"\x00<\x00F\xF0\"\x08queue131\x01");
    check(basic::GetOk { delivery_tag: DeliveryTag(10_904_075_385_792_757_035), redelivered: true, exchange: text("excha135"), routing_key: text("routi136"), message_count: 500_008_661 }, b"\x00<\x00G\x97S\x0E\xCA\x86A\xFD+\x01\x08excha135\x08routi136\x1D\xCD\x86\xD5");
    check(basic::GetEmpty { cluster_id: text("clust138") }, b"\x00<\x00H\x08clust138");
    check(basic::Ack { delivery_tag: DeliveryTag(11_395_988_561_091_678_405), multiple: true }, b"\x00<\x00P\x9E&\xAF7\xC0H\xD0\xC5\x01");
    check(basic::Reject { delivery_tag: DeliveryTag(11_559_959_619_524_652_195), requeue: false }, b"\x00<\x00Z\xA0m:\x06\xD3\xA0l\xA3\x00");
    check(basic::RecoverAsync { requeue: false }, b"\x00<\x00d\x00");
    check(basic::Recover { requeue: true }, b"\x00<\x00n\x01");
    check(basic::RecoverOk {}, b"\x00<\x00o");
    check(basic::Nack { delivery_tag: DeliveryTag(11_887_901_736_390_599_775), multiple: true, requeue: false }, b"\x00<\x00x\xA4\xFAO\xA4\xFAO\xA4_\x01");
    check(tx::Select {}, b"\x00Z\x00\x0A");
    check(tx::SelectOk {}, b"\x00Z\x00\x0B");
    check(tx::Commit {}, b"\x00Z\x00\x14");
    check(tx::CommitOk {}, b"\x00Z\x00\x15");
    check(tx::Rollback {}, b"\x00Z\x00\x1E");
    check(tx::RollbackOk {}, b"\x00Z\x00\x1F");
    check(confirm::Select { no_wait: false }, b"\x00U\x00\x0A\x00");
    check(confirm::SelectOk {}, b"\x00U\x00\x0B");
}

#[test]
fn trace_lines_show_what_matters() {
    let check = |method: Method<'_>, expected: &str| assert_eq!(method.to_string(), expected);
    check(
        basic::Publish {
            routing_key: text("q"),
            mandatory: true,
            ..Default::default()
        }
        .into(),
        "basic.publish ex='' rk='q' mandatory",
    );
    check(
        connection::SecureOk { response: b"guest" }.into(),
        "connection.secure-ok response=5B",
    );
    let long = [b"\x01kS\0\0\x01\0".as_slice(), &[b'x'; 256]].concat();
    let arguments = FieldTable::check(&long).expect("a table");
    let line = Method::from(queue::Declare {
        arguments,
        ..Default::default()
    })
    .to_string();
    assert!(
        line.starts_with("queue.declare q='' arguments=[{<<\"k\">>,longstr,<<\"xxx"),
        "{line}"
    );
    assert!(line.ends_with("xxx…") && line.len() < 250, "{line}");
}

#[test]
fn unknown_methods_are_named() {
    for payload in [[0, 60, 0, 99], [0, 61, 0, 40], [0, 0, 0, 0], [255; 4]] {
        let error = Method::decode(&payload).expect_err("no method");
        assert_eq!(error.reply_code(), crate::wire::ReplyCode::NotImplemented);
    }
}

#[test]
fn utf8_is_checked_except_in_methods_with_content() {
    let malformed = ShortString::new(b"\xFF").expect("short");
    let mut octets = Vec::new();
    Method::from(queue::Declare {
        queue: malformed,
        ..Default::default()
    })
    .encode(&mut octets);
    assert_eq!(Method::decode(&octets), Err(WireError::MalformedUtf8));
    let publish = basic::Publish {
        routing_key: malformed,
        ..Default::default()
    };
    octets.clear();
    Method::from(publish).encode(&mut octets);
    assert_eq!(Method::decode(&octets), Ok(publish.into()));
}

#[test]
fn lengths_that_reach_beyond_the_payload_are_refused() {
    for length in [5u32, 255, 65_536, u32::MAX] {
        let arguments = [&length.to_be_bytes()[..], b"abcd"].concat();
        assert!(connection::Secure::decode_arguments(&arguments).is_err());
    }
    let shortstr = [0, 0, 255, b'q'];
    assert!(basic::Publish::decode_arguments(&shortstr).is_err());
}

#[test]
fn malformed_and_deep_tables_are_told_apart() {
    let declare = |table: &[u8]| {
        let length = (table.len() as u32).to_be_bytes();
        [b"\0\x32\0\x0A\0\0\x01q\0".as_slice(), &length, table].concat()
    };
    let check = |table: &[u8], expected: &str| {
        let error = Method::decode(&declare(table)).expect_err("a bad table");
        let text = error.reply_text();
        assert!(text.starts_with(expected), "{text}");
    };
    let wrap = |inner: Vec<u8>| {
        let length = (inner.len() as u32).to_be_bytes();
        [b"\0F".as_slice(), &length, &inner].concat()
    };
    let deep = (0..100).fold(Vec::new(), |inner, _| wrap(inner));
    check(
        b"\x01kZ",
        "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,3,1,107,90>>",
    );
    check(
        &deep,
        "SYNTAX_ERROR - field table is nested deeper than 64 levels",
    );
    assert!(Method::decode(&declare(b"\x01kV")).is_ok());
}
