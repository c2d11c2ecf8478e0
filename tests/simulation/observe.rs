//! What the engine puts into the outboxes, held against the model.

use std::collections::{BTreeMap, VecDeque};

use leveret::wire::content::{ContentHeader, Properties};
use leveret::wire::decoder::{Decoded, decode};
use leveret::wire::{FrameKind, Method};

use super::model::{ConnectionKey, Expected, Model, State};

/// What a client learns from a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An answer by name, on a channel or on channel 0.
    Answer(u16, &'static str),
    /// A message that wants an acknowledgement: channel, delivery tag.
    Delivered(u16, u64),
    ChannelClosed(u16),
    ConnectionClosed,
    ConsumerCancelled(u16, String),
    Blocked(bool),
}

/// A content that is not all there yet.
#[derive(Debug)]
struct Partial {
    method: Vec<u8>,
    header: Option<(u64, Vec<u8>)>,
    body: Vec<u8>,
}

/// A content as its octets come, which for a large body is later than its place in line.
#[derive(Debug)]
struct Coming {
    /// Octets of the body to come; `None` until the header has come.
    left: Option<u64>,
    is_large: bool,
    body: Vec<u8>,
}

/// Reads what goes to one client.
///
/// A large body is read from the disk only when its turn to be written has come, while the engine
/// goes on and puts more in line behind it. The model is told of everything as soon as it stands in
/// line; the client learns of it when the octets are there.
#[derive(Debug)]
pub(crate) struct Tap {
    /// A body of so many octets stands in line by name.
    large_octets_min: u64,
    buffer: Vec<u8>,
    partial: BTreeMap<u16, Partial>,
    /// Octets of the line behind a large body that were looked at already.
    ahead: usize,
    coming: BTreeMap<u16, Coming>,
    /// What the model was told of and the client was not: an entry for each method or content.
    announced: VecDeque<Option<Event>>,
    /// The messages with large bodies that the model was told of and that have not come.
    large: VecDeque<u64>,
}

impl Tap {
    pub(crate) fn new(large_octets_min: u64) -> Self {
        Tap {
            large_octets_min,
            buffer: Vec::new(),
            partial: BTreeMap::new(),
            ahead: 0,
            coming: BTreeMap::new(),
            announced: VecDeque::new(),
            large: VecDeque::new(),
        }
    }

    /// Whether there is nothing that was not looked at.
    pub(crate) fn is_idle(&self, new: &[u8], behind: &[&[u8]]) -> bool {
        new.is_empty() && behind.iter().map(|it| it.len()).sum::<usize>() == self.ahead
    }

    /// Whether a large body was announced that has not come.
    pub(crate) fn awaits(&self, message: u64) -> bool {
        self.large.contains(&message)
    }

    /// Takes octets in, and those that stand in line behind them, and tells the model of each whole
    /// frame. Gives what the client learns from the octets.
    pub(crate) fn take(
        &mut self,
        new: &[u8],
        behind: &[&[u8]],
        model: &mut Model,
        key: ConnectionKey,
        trace: &mut dyn FnMut(String),
    ) -> Vec<Event> {
        let (mut line, ended, bodies) = self.sort(new);
        let known = self.ahead.min(line.len());
        line.drain(..known);
        self.ahead -= known;
        let mut known = self.ahead;
        for octets in behind {
            line.extend_from_slice(&octets[known.min(octets.len())..]);
            known = known.saturating_sub(octets.len());
        }
        assert_eq!(known, 0, "octets that stood in line are gone");
        self.ahead = behind.iter().map(|it| it.len()).sum();
        self.look(&line, model, key, trace);
        for body in bodies {
            let id = self.large.pop_front().expect("a large body was announced");
            assert_eq!(body, model.publications[&id].body(), "the body of #{id}");
            model.counts.add("large bodies read");
        }
        assert!(
            ended <= self.announced.len(),
            "more came than stood in line"
        );
        self.announced.drain(..ended).flatten().collect()
    }

    /// Takes large bodies out of octets that have come: what is left, how many methods and contents
    /// have ended, and the bodies that have.
    fn sort(&mut self, octets: &[u8]) -> (Vec<u8>, usize, Vec<Vec<u8>>) {
        let (mut line, mut ended, mut bodies) = (Vec::new(), 0, Vec::new());
        let mut at = 0;
        while let Decoded::Frame {
            kind,
            channel,
            payload,
            consumed,
        } = decode(&octets[at..], u32::MAX).expect("the engine sends well-formed frames")
        {
            let frame = &octets[at..at + consumed];
            at += consumed;
            if kind == FrameKind::Method {
                let method = Method::decode(payload).expect("a method that can be read");
                if method.has_content() {
                    let coming = Coming {
                        left: None,
                        is_large: false,
                        body: Vec::new(),
                    };
                    self.coming.insert(channel.0, coming);
                } else {
                    ended += 1;
                }
            }
            let coming = self.coming.get_mut(&channel.0);
            match (kind, coming) {
                (FrameKind::Header, Some(coming)) => {
                    let header = ContentHeader::decode(payload).expect("a header that can be read");
                    coming.left = Some(header.body_size);
                    coming.is_large = header.body_size >= self.large_octets_min;
                }
                (FrameKind::Body, Some(coming)) => {
                    let left = coming
                        .left
                        .and_then(|left| left.checked_sub(payload.len() as u64));
                    coming.left = Some(left.expect("no more body than was announced"));
                    if coming.is_large {
                        coming.body.extend_from_slice(payload);
                    }
                }
                _ => {}
            }
            let is_large_body = kind == FrameKind::Body && self.coming[&channel.0].is_large;
            if !is_large_body {
                line.extend_from_slice(frame);
            }
            if self
                .coming
                .get(&channel.0)
                .is_some_and(|it| it.left == Some(0))
            {
                ended += 1;
                let whole = self.coming.remove(&channel.0).expect("seen above");
                bodies.extend(whole.is_large.then_some(whole.body));
            }
        }
        assert_eq!(at, octets.len(), "the engine writes whole frames");
        (line, ended, bodies)
    }

    /// Tells the model of each whole frame.
    fn look(
        &mut self,
        octets: &[u8],
        model: &mut Model,
        key: ConnectionKey,
        trace: &mut dyn FnMut(String),
    ) {
        self.buffer.extend_from_slice(octets);
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while let Decoded::Frame {
            kind,
            channel,
            payload,
            consumed,
        } = decode(&buffer[at..], u32::MAX).expect("the engine sends well-formed frames")
        {
            at += consumed;
            let number = channel.0;
            match kind {
                FrameKind::Heartbeat => trace("heartbeat".to_owned()),
                FrameKind::Method => {
                    let method = Method::decode(payload).expect("a method that can be read");
                    assert!(
                        !self.partial.contains_key(&number),
                        "a method within a content: {method}"
                    );
                    if method.has_content() {
                        let partial = Partial {
                            method: payload.to_vec(),
                            header: None,
                            body: Vec::new(),
                        };
                        self.partial.insert(number, partial);
                    } else {
                        trace(format!("{number} {method}"));
                        self.announced
                            .push_back(Some(model.observe(key, number, &method)));
                    }
                }
                FrameKind::Header => {
                    let header = ContentHeader::decode(payload).expect("a header that can be read");
                    let partial = self
                        .partial
                        .get_mut(&number)
                        .expect("a method before its header");
                    assert!(partial.header.is_none(), "a second content header");
                    partial.header = Some((header.body_size, header.properties.to_vec()));
                    self.finish(model, key, number, trace);
                }
                FrameKind::Body => {
                    let partial = self
                        .partial
                        .get_mut(&number)
                        .expect("a header before its body");
                    partial.body.extend_from_slice(payload);
                    self.finish(model, key, number, trace);
                }
            }
        }
        self.buffer = buffer[at..].to_vec();
    }

    fn finish(
        &mut self,
        model: &mut Model,
        key: ConnectionKey,
        number: u16,
        trace: &mut dyn FnMut(String),
    ) {
        let partial = self.partial.get_mut(&number).expect("a content was begun");
        if let Some((body_size, properties)) = &partial.header
            && *body_size >= self.large_octets_min
        {
            let properties = Properties::check(properties).expect("properties that can be read");
            let id = properties.message_id().map(|it| it.to_string());
            let id = id.and_then(|it| it.parse().ok()).expect("its number");
            let publication = model.publications.get(&id);
            partial.body = publication.expect("it was published").body();
            self.large.push_back(id);
        }
        let (body_size, _) = partial.header.as_ref().expect("a header before its body");
        assert!(
            partial.body.len() as u64 <= *body_size,
            "more body than was announced"
        );
        if (partial.body.len() as u64) < *body_size {
            return;
        }
        let partial = self.partial.remove(&number).expect("it is there");
        let method = Method::decode(&partial.method).expect("a method that can be read");
        let (_, properties) = partial.header.expect("a header before its body");
        trace(format!("{number} {method} #{}", identity(&partial.body)));
        let event = model.observe_content(key, number, &method, &properties, &partial.body);
        self.announced.push_back(event);
    }
}

/// The number that a message's body begins with.
fn identity(body: &[u8]) -> u64 {
    u64::from_be_bytes(*body.first_chunk().expect("bodies begin with their number"))
}

impl Model {
    fn observe(&mut self, key: ConnectionKey, number: u16, method: &Method<'_>) -> Event {
        if number == 0 {
            return self.observe_connection(key, method);
        }
        let connection = self
            .connections
            .get_mut(&key)
            .expect("a connection that is there");
        assert_eq!(
            connection.state,
            State::Open,
            "{method} on connection {key}, which is closed"
        );
        let Some(channel) = connection.channel(number) else {
            panic!("{method} on channel {number} of connection {key}, which is not open");
        };
        match method {
            Method::BasicAck(ack) => {
                assert!(
                    !channel.is_closing || !channel.expected.is_empty(),
                    "a confirm on a closed channel"
                );
                self.confirmed(key, number, ack.delivery_tag.0, ack.multiple);
                return Event::Answer(number, "confirm");
            }
            Method::BasicNack(_) => panic!("a publish was refused without a reason"),
            Method::BasicCancel(cancel) => {
                let tag = cancel.consumer_tag.to_string();
                assert!(
                    channel.cancelled.remove(&tag),
                    "{method}: nobody took its queue away"
                );
                assert!(cancel.no_wait);
                return Event::ConsumerCancelled(number, tag);
            }
            _ => {}
        }
        let name = method.name();
        let expected = loop {
            match channel.expected.pop_front() {
                // Answers that waited for the disk are dropped when the channel is closed.
                Some(
                    Expected::Method(_, Some(_))
                    | Expected::Declared(.., Some(_))
                    | Expected::Count(_, _, Some(_)),
                ) if name == "channel.close" => {}
                Some(Expected::Close(code)) if name != "channel.close" => {
                    panic!("{method}, where a channel.close with {code} must come")
                }
                // What waited behind such an answer goes with it.
                Some(other) if name == "channel.close" && !matches!(other, Expected::Close(_)) => {}
                Some(expected) => break expected,
                None => panic!("{method} on channel {number} of connection {key} answers nothing"),
            }
        };
        let promised = match (&expected, method) {
            (Expected::Method(wanted, after), _) if *wanted == name => *after,
            (
                Expected::Declared(wanted, uid, messages, consumers, after),
                Method::QueueDeclareOk(it),
            ) => {
                let found = it.queue.to_string();
                match wanted {
                    Some(wanted) => assert_eq!(&found, wanted),
                    None => self.named(key, number, *uid, &found),
                }
                let count = u64::from(it.message_count);
                assert!(
                    messages.0 <= count && count <= messages.1,
                    "{method}: {}..={} messages are ready",
                    messages.0,
                    messages.1
                );
                assert_eq!(it.consumer_count, *consumers, "{method}: consumers");
                *after
            }
            (Expected::Count(wanted, counts, after), _) if *wanted == name => {
                let count = match method {
                    Method::QueueDeleteOk(it) => u64::from(it.message_count),
                    Method::QueuePurgeOk(it) => u64::from(it.message_count),
                    _ => unreachable!("the two methods with a count"),
                };
                assert!(
                    counts.0 <= count && count <= counts.1,
                    "{method}: {}..={} messages are ready",
                    counts.0,
                    counts.1
                );
                *after
            }
            (Expected::Consuming(tag), Method::BasicConsumeOk(it)) => {
                assert_eq!(&it.consumer_tag.to_string(), tag);
                // The queue may have gone before the answer.
                if let Some(consumer) = self.channel(key, number).consumers.get_mut(tag) {
                    consumer.is_announced = true;
                }
                None
            }
            (
                Expected::Got {
                    queue,
                    or_empty,
                    sequences,
                    ..
                },
                Method::BasicGetEmpty(_),
            ) => {
                assert!(
                    or_empty,
                    "{method}, but message {sequences:?} of queue {queue} is ready"
                );
                for &sequence in sequences {
                    self.resolve(*queue, sequence, false);
                }
                self.counts.add("get-empty");
                None
            }
            (Expected::Close(code), Method::ChannelClose(it)) => {
                assert_eq!(it.reply_code, *code, "{method}");
                return Event::ChannelClosed(number);
            }
            _ => panic!(
                "{method} on channel {number} of connection {key}, where {expected:?} must come"
            ),
        };
        if let Some(turn) = promised {
            self.promised(turn);
        }
        if name == "channel.close-ok" {
            let connection = self
                .connections
                .get_mut(&key)
                .expect("a connection that is there");
            connection
                .channels
                .retain(|(other, it)| *other != number || !it.closed_by_client);
        }
        Event::Answer(number, name)
    }

    fn observe_connection(&mut self, key: ConnectionKey, method: &Method<'_>) -> Event {
        let connection = self
            .connections
            .get_mut(&key)
            .expect("a connection that is there");
        match method {
            Method::ConnectionClose(close) => {
                let wanted = connection.close_code.take();
                if connection.state == State::Refused {
                    assert_eq!(close.reply_code, 403, "{method}");
                    connection.state = State::Closing;
                } else {
                    assert_eq!(Some(close.reply_code), wanted, "{method}");
                }
                Event::ConnectionClosed
            }
            Method::ConnectionBlocked(_) => {
                assert!(!connection.is_blocked, "blocked twice");
                connection.is_blocked = true;
                self.counts.add("blocked");
                Event::Blocked(true)
            }
            Method::ConnectionUnblocked(_) => {
                assert!(connection.is_blocked, "unblocked without being blocked");
                connection.is_blocked = false;
                Event::Blocked(false)
            }
            _ => {
                let name = method.name();
                assert_eq!(
                    connection.expected.pop_front(),
                    Some(name),
                    "on connection {key}"
                );
                Event::Answer(0, name)
            }
        }
    }

    fn observe_content(
        &mut self,
        key: ConnectionKey,
        number: u16,
        method: &Method<'_>,
        properties: &[u8],
        body: &[u8],
    ) -> Option<Event> {
        let id = identity(body);
        let publication = self.publications.get(&id);
        let publication = publication
            .unwrap_or_else(|| panic!("{method}: nobody published #{id}"))
            .clone();
        assert_eq!(body, publication.body(), "the body of #{id}");
        assert_eq!(
            properties,
            publication.properties(),
            "the properties of #{id}"
        );
        let names = |exchange: &[u8], routing_key: &[u8]| {
            assert_eq!(
                exchange,
                publication.exchange.as_bytes(),
                "the exchange of #{id}"
            );
            assert_eq!(
                routing_key,
                publication.routing_key.as_bytes(),
                "the routing key of #{id}"
            );
        };
        match method {
            Method::BasicReturn(it) => {
                names(it.exchange.as_bytes(), it.routing_key.as_bytes());
                assert_eq!(it.reply_code, 312);
                self.returned(key, number, id);
                Some(Event::Answer(number, "return"))
            }
            Method::BasicDeliver(it) => {
                names(it.exchange.as_bytes(), it.routing_key.as_bytes());
                let tag = it.consumer_tag.to_string();
                let no_ack =
                    self.delivered(key, number, &tag, it.delivery_tag.0, it.redelivered, id);
                (!no_ack).then_some(Event::Delivered(number, it.delivery_tag.0))
            }
            Method::BasicGetOk(it) => {
                names(it.exchange.as_bytes(), it.routing_key.as_bytes());
                let no_ack = self.got(
                    key,
                    number,
                    (
                        it.delivery_tag.0,
                        it.redelivered,
                        u64::from(it.message_count),
                    ),
                    id,
                );
                Some(if no_ack {
                    Event::Answer(number, "basic.get-ok")
                } else {
                    Event::Delivered(number, it.delivery_tag.0)
                })
            }
            _ => panic!("{method} has no content"),
        }
    }
}
