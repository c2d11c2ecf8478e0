//! What lapin was promised before its broker was killed; a binary of its own, since the kill hits every test beside it.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use leveret_interop_lapin::{Outcome, connect, consume, control, declare, name, texts};

/// Publishes with many confirms in flight until the connection breaks; gives the sequence of confirmed numbers and how many were sent.
async fn publish_until_killed(queue: &str) -> lapin::Result<(BTreeSet<u64>, u64)> {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    declare(&channel, queue, QueueDeclareOptions::durable()).await?;
    let (mut confirmed, mut sent) = (BTreeSet::new(), 0);
    let mut killer = None;
    let mut waiting = FuturesUnordered::new();
    'alive: loop {
        while waiting.len() < 500 {
            let number = sent;
            let body = number.to_string();
            let publishing = channel.basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            );
            sent += 1;
            match publishing.await {
                Ok(confirm) => waiting.push(async move { (number, confirm.await) }),
                Err(_) => break 'alive,
            }
        }
        match waiting.next().await {
            Some((number, Ok(Confirmation::Ack(None)))) => confirmed.insert(number),
            _ => break,
        };
        if confirmed.len() > 2000 && killer.is_none() {
            killer = Some(std::thread::spawn(|| control("kill")));
        }
    }
    while let Some((number, confirm)) = waiting.next().await {
        if let Ok(Confirmation::Ack(None)) = confirm {
            confirmed.insert(number);
        }
    }
    killer
        .expect("the connection broke because the broker was killed")
        .join()
        .expect("the thread that kills does not panic")?;
    Ok((confirmed, sent))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_outlives_kill_9() -> Outcome {
    let queue = name("crash");
    let (confirmed, sent) = publish_until_killed(&queue).await?;
    control("start")?;

    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let arguments = FieldTable::default();
    let count = channel
        .queue_declare(queue.as_str().into(), passive, arguments)
        .await?;
    let mut consumer = consume(&channel, &queue).await?;
    let mut got = Vec::new();
    for text in texts(&mut consumer, count.message_count() as usize).await? {
        got.push(text.parse::<u64>()?);
    }
    assert!(
        got.is_sorted_by(|one, next| one < next),
        "each once, in order"
    );
    assert!(got.last().is_none_or(|&last| last < sent));
    let there: BTreeSet<u64> = got.into_iter().collect();
    let lost: Vec<_> = confirmed.difference(&there).collect();
    assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    Ok(())
}
