//! What the tests of lapin share; see `tests/`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, Error, ErrorKind,
};

/// What a test gives back.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The longest that any step may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the broker is.
///
/// # Panics
/// When `AMQP_URL` does not say so.
#[must_use]
pub fn url() -> String {
    std::env::var("AMQP_URL").expect("AMQP_URL says where the broker is")
}

/// A name that no other test uses.
#[must_use]
pub fn name(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("lapin.{what}.{}.{count}", std::process::id())
}

/// A connection as `guest`.
pub async fn connect() -> lapin::Result<Connection> {
    Connection::connect(&url(), ConnectionProperties::default()).await
}

/// Declares a queue; gives its name back, which the broker chose when `name` is empty.
pub async fn declare(
    channel: &Channel,
    name: &str,
    options: QueueDeclareOptions,
) -> lapin::Result<String> {
    let queue = channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await?;
    Ok(queue.name().to_string())
}

/// A queue of this connection's own, named by the broker.
pub async fn temporary(channel: &Channel) -> lapin::Result<String> {
    declare(
        channel,
        "",
        QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        },
    )
    .await
}

/// Publishes a body without properties.
pub async fn publish(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
) -> lapin::Result<()> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel
        .basic_publish(
            exchange.into(),
            routing_key.into(),
            options,
            body,
            properties,
        )
        .await?;
    Ok(())
}

/// A consumer that acknowledges; the broker chooses its tag.
pub async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    channel
        .basic_consume(queue.into(), "".into(), options, arguments)
        .await
}

/// The next delivery, or an error when none comes in time.
pub async fn next(consumer: &mut Consumer) -> Result<Delivery, Box<dyn std::error::Error>> {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?;
    Ok(delivery.ok_or("the consumer was cancelled")??)
}

/// The next `count` bodies as text, each acknowledged.
pub async fn texts(
    consumer: &mut Consumer,
    count: usize,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut out = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await?;
        delivery.ack(BasicAckOptions::default()).await?;
        out.push(String::from_utf8(delivery.data)?);
    }
    Ok(out)
}

/// The reply code of a broker's refusal.
#[must_use]
pub fn code(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    }
}

/// Says `word` (`kill` or `start`) to whoever runs the broker and waits until it is done.
pub fn control(word: &str) -> std::io::Result<()> {
    let address = std::env::var("BROKER_CONTROL").map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(address)?;
    writeln!(stream, "{word}")?;
    BufReader::new(stream).read_line(&mut String::new())?;
    Ok(())
}
