//! lapin, the client of most Rust programs, against the broker at `AMQP_URL`; run by `../with_broker.py`.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, BasicRecoverOptions,
    ConfirmSelectOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use leveret_interop_lapin::{
    Outcome, PATIENCE, code, connect, consume, declare, name, next, publish, temporary, texts, url,
};

#[tokio::test]
async fn hello_world() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary(&channel).await?;
    publish(&channel, "", &queue, b"Hello World!").await?;
    let mut consumer = consume(&channel, &queue).await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(delivery.data, b"Hello World!");
    assert_eq!(delivery.routing_key.as_str(), queue);
    assert!(!delivery.redelivered);
    delivery.ack(BasicAckOptions::default()).await?;
    connection.close(200, "bye".into()).await?;
    Ok(())
}

#[tokio::test]
async fn three_consumers_are_served_in_turn() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary(&channel).await?;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(consume(&connection.create_channel().await?, &queue).await?);
    }
    for number in 0..9 {
        publish(&channel, "", &queue, number.to_string().as_bytes()).await?;
    }
    for (first, consumer) in consumers.iter_mut().enumerate() {
        let expected: Vec<_> = (0..3).map(|turn| (first + 3 * turn).to_string()).collect();
        assert_eq!(texts(consumer, 3).await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn unacked_comes_back_redelivered() -> Outcome {
    let queue = name("unacked");
    let other = connect().await?;
    let channel = other.create_channel().await?;
    declare(&channel, &queue, QueueDeclareOptions::default()).await?;
    publish(&channel, "", &queue, b"task").await?;
    let doomed = connect().await?;
    let mut first = consume(&doomed.create_channel().await?, &queue).await?;
    assert!(!next(&mut first).await?.redelivered);
    let mut second = consume(&channel, &queue).await?;
    doomed.close(200, "gone".into()).await?;
    let again = next(&mut second).await?;
    assert!(again.redelivered);
    again.ack(BasicAckOptions::default()).await?;
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_thousand_confirms_in_flight() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let queue = declare(&channel, &name("confirms"), QueueDeclareOptions::durable()).await?;
    let mut waiting = FuturesUnordered::new();
    for number in 0..1000_u32 {
        let confirm = channel
            .basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                &number.to_be_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?;
        waiting.push(confirm);
    }
    while let Some(confirm) = tokio::time::timeout(PATIENCE, waiting.next()).await? {
        assert!(matches!(confirm?, Confirmation::Ack(None)));
    }
    let purged = channel
        .queue_purge(queue.as_str().into(), QueuePurgeOptions::default())
        .await?;
    assert_eq!(purged, 1000);
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_return_comes_with_its_confirm() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let nowhere = name("nowhere");
    let confirmation = channel
        .basic_publish(
            "".into(),
            nowhere.as_str().into(),
            options,
            b"x",
            BasicProperties::default(),
        )
        .await?
        .await?;
    let Confirmation::Ack(Some(returned)) = confirmation else {
        return Err(format!("{confirmation:?}").into());
    };
    assert_eq!(
        (returned.reply_code, returned.reply_text.as_str()),
        (312, "NO_ROUTE")
    );
    assert_eq!(returned.delivery.routing_key.as_str(), nowhere);
    assert_eq!(returned.delivery.data, b"x");
    Ok(())
}

#[tokio::test]
async fn exchanges_of_each_type() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary(&channel).await?;
    let inner = name("inner");
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .exchange_declare(
            inner.as_str().into(),
            ExchangeKind::Fanout,
            options,
            FieldTable::default(),
        )
        .await?;
    let bind = |source: &str, key: &str, arguments: FieldTable| {
        let options = QueueBindOptions::default();
        channel.queue_bind(
            queue.as_str().into(),
            source.into(),
            key.into(),
            options,
            arguments,
        )
    };
    bind(&inner, "", FieldTable::default()).await?;
    bind("amq.direct", &queue, FieldTable::default()).await?;
    let mut all = FieldTable::default();
    all.insert("x-match".into(), AMQPValue::LongString("all".into()));
    all.insert("size".into(), AMQPValue::LongInt(3));
    bind("amq.headers", "", all).await?;
    channel
        .exchange_bind(
            inner.as_str().into(),
            "amq.topic".into(),
            "*.lapin.#".into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        )
        .await?;

    publish(&channel, &inner, "any", b"fanout").await?;
    publish(&channel, "amq.direct", &queue, b"direct").await?;
    publish(&channel, "amq.topic", "a.lapin", b"topic").await?;
    publish(&channel, "amq.topic", "a.b.lapin", b"not this").await?;
    for (size, body) in [(2, b"not this".as_slice()), (3, b"headers")] {
        let mut headers = FieldTable::default();
        headers.insert("size".into(), AMQPValue::LongLongInt(size));
        let properties = BasicProperties::default().with_headers(headers);
        let options = BasicPublishOptions::default();
        channel
            .basic_publish("amq.headers".into(), "".into(), options, body, properties)
            .await?;
    }
    publish(&channel, "", &queue, b"default").await?;

    let mut consumer = consume(&channel, &queue).await?;
    let expected = ["fanout", "direct", "topic", "headers", "default"];
    assert_eq!(texts(&mut consumer, 5).await?, expected);
    Ok(())
}

#[tokio::test]
async fn properties_come_back_as_they_were_sent() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary(&channel).await?;
    let mut inner = FieldTable::default();
    inner.insert("x".into(), AMQPValue::ShortShortInt(-1));
    let mut list = FieldArray::default();
    list.push(AMQPValue::LongString("one".into()));
    list.push(AMQPValue::FieldTable(inner.clone()));
    let mut headers = FieldTable::default();
    for (key, value) in [
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-16_000)),
        ("u16", AMQPValue::ShortUInt(60_000)),
        ("i32", AMQPValue::LongInt(-2_000_000_000)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(0.1)),
        (
            "decimal",
            AMQPValue::DecimalValue(DecimalValue {
                scale: 2,
                value: 12345,
            }),
        ),
        ("string", AMQPValue::LongString("grüße".into())),
        ("list", AMQPValue::FieldArray(list)),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("table", AMQPValue::FieldTable(inner)),
        ("octets", AMQPValue::ByteArray(vec![0, 255, 206].into())),
        ("void", AMQPValue::Void),
    ] {
        headers.insert(key.into(), value);
    }
    let sent = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(1)
        .with_priority(9)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id("m".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("a".into());
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), queue.as_str().into(), options, b"", sent.clone())
        .await?;
    let mut consumer = consume(&channel, &queue).await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(delivery.properties, sent);
    assert!(delivery.data.is_empty());
    Ok(())
}

#[tokio::test]
async fn transactions() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary(&channel).await?;
    let count = async || -> lapin::Result<u32> {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let arguments = FieldTable::default();
        let onlooker = connection.create_channel().await?;
        let queue = onlooker
            .queue_declare(queue.as_str().into(), options, arguments)
            .await?;
        Ok(queue.message_count())
    };
    channel.tx_select().await?;
    publish(&channel, "", &queue, b"rolled back").await?;
    assert_eq!(count().await?, 0);
    channel.tx_rollback().await?;
    publish(&channel, "", &queue, b"committed").await?;
    channel.tx_commit().await?;
    assert_eq!(count().await?, 1);

    let got = channel
        .basic_get(queue.as_str().into(), BasicGetOptions::default())
        .await?;
    let got = got.ok_or("the committed message")?;
    assert_eq!(got.delivery.data, b"committed");
    channel
        .basic_ack(got.delivery.delivery_tag, BasicAckOptions::default())
        .await?;
    channel.tx_rollback().await?;
    // The acknowledgement is undone: the message is unacked still, and comes back.
    channel
        .basic_recover(BasicRecoverOptions { requeue: true })
        .await?;
    assert_eq!(count().await?, 1);
    Ok(())
}

#[tokio::test]
async fn refusals_have_rabbitmqs_codes() -> Outcome {
    let connection = connect().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let missing = declare(&connection.create_channel().await?, &name("none"), passive).await;
    assert_eq!(
        missing.as_ref().err().and_then(code),
        Some(404),
        "{missing:?}"
    );

    let reserved = QueueDeclareOptions::default();
    let reserved = declare(&connection.create_channel().await?, "amq.mine", reserved).await;
    assert_eq!(
        reserved.as_ref().err().and_then(code),
        Some(403),
        "{reserved:?}"
    );

    let mine = temporary(&connection.create_channel().await?).await?;
    let other = connect().await?;
    let locked = consume(&other.create_channel().await?, &mine)
        .await
        .map(|_| ());
    assert_eq!(
        locked.as_ref().err().and_then(code),
        Some(405),
        "{locked:?}"
    );

    let durable = QueueDeclareOptions {
        durable: true,
        auto_delete: true,
        ..Default::default()
    };
    let channel = connection.create_channel().await?;
    let queue = declare(&channel, &name("queue"), durable).await?;
    let transient = QueueDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    let unlike = declare(&channel, &queue, transient).await;
    assert_eq!(
        unlike.as_ref().err().and_then(code),
        Some(406),
        "{unlike:?}"
    );
    let options = QueueDeleteOptions::default();
    connection
        .create_channel()
        .await?
        .queue_delete(queue.into(), options)
        .await?;

    let wrong = url().replace("guest:guest", "guest:wrong");
    let refused = Connection::connect(&wrong, ConnectionProperties::default()).await;
    assert_eq!(
        refused.as_ref().err().and_then(code),
        Some(403),
        "{:?}",
        refused.err()
    );
    Ok(())
}

#[tokio::test]
async fn a_hundred_channels_at_once() -> Outcome {
    let connection = Arc::new(connect().await?);
    let mut work = FuturesUnordered::new();
    for _ in 0..100 {
        let connection = Arc::clone(&connection);
        work.push(async move {
            let channel = connection.create_channel().await?;
            let queue = temporary(&channel).await?;
            for number in 0..20 {
                publish(&channel, "", &queue, number.to_string().as_bytes()).await?;
            }
            let mut consumer = consume(&channel, &queue).await?;
            let got = texts(&mut consumer, 20).await?;
            assert_eq!(
                got,
                (0..20).map(|number| number.to_string()).collect::<Vec<_>>()
            );
            Ok::<(), Box<dyn std::error::Error>>(())
        });
    }
    while let Some(done) = tokio::time::timeout(PATIENCE, work.next()).await? {
        done?;
    }
    Ok(())
}
