//! Transcripts: what clients say and what the broker must answer, in words.
//!
//! One line is one step, `#` starts a comment line. A step is a word, and for most `:` and more.
//!
//! ```text
//! connect            a connection with everything up to open-ok and channel 1 open; options:
//!                    channels=N user='u' pass='p' vhost='/' heartbeat=N frame_max=N channel_max=N
//!                    properties={client properties}
//! tcp                a connection that has said nothing yet
//! C: 1 queue.declare queue='q' durable            a method on channel 1; the rest is zero
//! C: 1 basic.publish routing_key='q' ; {delivery_mode=2} 'body'           ... with its content
//! C: 1 header body_size=5 {priority=1}            a content header alone (class_id= weight= flags=)
//! C: 1 body 'hello'                               a body frame alone
//! C: heartbeat · C: raw OCTETS · C: finish (half-close) · C: drop (close the socket)
//! C: frame type=1 channel=1 size=N end=0xCE payload=OCTETS     size and end when they shall lie
//! S: 1 queue.declare-ok queue='q'                 the next thing that comes, exactly this
//! S: 1 basic.deliver ... ; 'body'                 `...`: arguments that are not named may be any
//! S: 1 channel.close reply_code=404 reply_text='…' in=queue.declare      class_id and method_id
//! S: 1 confirms 1..9 · S: 1 nacks 1..9            acks (nacks) until just these tags are answered
//! S: heartbeat · S: raw OCTETS · S: eof
//! U: …                like S:, several lines in a row in any order
//! quiet 1            nothing has come on the connection but the answer to a question on channel 1
//! reopen 1           the broker has closed channel 1: answers that and opens it again
//! ctl add_user u p   the control command; its output is not looked at
//! stop               the broker is told to stop (SIGTERM) · exited: it has, with exit code 0
//! set KEY = VALUE    starts the broker anew with this setting; ends the script on a shared broker
//! crash              the broker is killed and started again on its data directory
//! repeat i=1..9 … end                             $i is the counter, '${i}' within text
//! ```
//!
//! `C.b:` speaks of connection `b`, `C:` of `a`. `S[3]:` is a step only against RabbitMQ 3,
//! `[4]` against RabbitMQ 4 and leveret, `[rabbitmq]` and `[leveret]` against that product.
//! `S{900..3000ms}:` must come within that time after the step before. Words of values are drawn
//! in [`words`]. Heartbeats are passed over unless one is expected. Client lines in a row go out
//! in one write.

mod run;
mod words;

use std::time::Duration;

pub(crate) use run::run;
use words::{ContentWords, Cursor, Expression, MethodWords, Octets, PropertyWords};

/// A script, read.
pub(crate) struct Transcript {
    pub(crate) name: String,
    lines: Vec<Line>,
}

struct Line {
    number: usize,
    text: String,
    connection: String,
    /// Brokers that the line is for; empty for all.
    only: Vec<String>,
    /// When it must come, counted from the step before.
    window: Option<(Duration, Duration)>,
    step: Step,
}

enum Step {
    Connect(Vec<(String, Expression)>),
    Tcp,
    Send(Sending),
    Expect(Expecting),
    Unordered(Expecting),
    Quiet(u16),
    Reopen(u16),
    Control(Vec<String>),
    Set(String),
    Crash,
    Stop,
    Exited,
    Repeat {
        counter: String,
        first: u64,
        last: u64,
        lines: Vec<Line>,
    },
}

enum Sending {
    Method(Expression, MethodWords, Option<ContentWords>),
    Header {
        channel: Expression,
        fields: Vec<(String, u64)>,
        properties: PropertyWords,
    },
    Body(Expression, Expression),
    Heartbeat,
    Raw(Vec<Octets>),
    Frame {
        fields: Vec<(String, u64)>,
        payload: Vec<Octets>,
    },
    Finish,
    Drop,
}

enum Expecting {
    Method(Expression, MethodWords, Option<ContentWords>),
    Confirms {
        channel: u16,
        method: &'static str,
        first: u64,
        last: u64,
    },
    Heartbeat,
    Raw(Vec<Octets>),
    Eof,
}

impl Transcript {
    /// Reads a script.
    ///
    /// # Errors
    /// File, line and what is wrong with it.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut blocks: Vec<(Option<Line>, Vec<Line>)> = vec![(None, Vec::new())];
        for (place, text) in text.lines().enumerate() {
            let located = |why: String| format!("{name}.txt:{}: {why}\n    {text}", place + 1);
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if text == "end" {
                let (head, body) = blocks.pop().expect("one block is always there");
                let mut head = head.ok_or_else(|| located("end without repeat".into()))?;
                if let Step::Repeat { lines, .. } = &mut head.step {
                    *lines = body;
                }
                let outer = blocks
                    .last_mut()
                    .ok_or_else(|| located("end without repeat".into()))?;
                outer.1.push(head);
                continue;
            }
            let line = parse_line(place + 1, text).map_err(located)?;
            if matches!(line.step, Step::Repeat { .. }) {
                blocks.push((Some(line), Vec::new()));
            } else {
                blocks
                    .last_mut()
                    .expect("one block is always there")
                    .1
                    .push(line);
            }
        }
        match <[_; 1]>::try_from(blocks) {
            Ok([(None, lines)]) => Ok(Transcript {
                name: name.into(),
                lines,
            }),
            _ => Err(format!("{name}.txt: repeat without end")),
        }
    }
}

fn parse_line(number: usize, text: &str) -> Result<Line, String> {
    let mut cursor = Cursor::new(text);
    let head = cursor.name();
    let (word, connection) = head.split_once('.').unwrap_or((head, "a"));
    let mut only = Vec::new();
    if cursor.rest.starts_with('[') {
        cursor.expect("[")?;
        while !cursor.accept("]") {
            only.push(cursor.name().to_string());
            cursor.accept(",");
        }
    }
    let mut window = None;
    if cursor.rest.starts_with('{') {
        cursor.expect("{")?;
        let (first, last) = range(cursor.name().trim_end_matches("ms"))?;
        window = Some((Duration::from_millis(first), Duration::from_millis(last)));
        cursor.expect("}")?;
    }
    let colon = cursor.accept(":");
    let step = match (word, colon) {
        ("C", true) => Step::Send(parse_sending(&mut cursor)?),
        ("S", true) => Step::Expect(parse_expecting(&mut cursor)?),
        ("U", true) => Step::Unordered(parse_expecting(&mut cursor)?),
        ("tcp", false) => Step::Tcp,
        ("crash", false) => Step::Crash,
        ("set", false) => {
            let line = cursor.rest.trim().to_string();
            cursor.rest = "";
            Step::Set(line)
        }
        ("stop", false) => Step::Stop,
        ("exited", false) => Step::Exited,
        ("reopen", false) => Step::Reopen(cursor.number()? as u16),
        ("quiet", false) => Step::Quiet(cursor.number()? as u16),
        ("ctl", false) => {
            let words = cursor.rest.split_ascii_whitespace();
            let words = words
                .map(|word| word.trim_matches('\'').to_string())
                .collect();
            cursor.rest = "";
            Step::Control(words)
        }
        ("connect", false) => {
            let mut options = Vec::new();
            while !cursor.is_at_end() {
                let name = cursor.name().to_string();
                cursor.expect("=")?;
                options.push((name, cursor.expression()?));
            }
            Step::Connect(options)
        }
        ("repeat", false) => {
            let counter = cursor.name().to_string();
            cursor.expect("=")?;
            let (first, last) = range(cursor.name())?;
            Step::Repeat {
                counter,
                first,
                last,
                lines: Vec::new(),
            }
        }
        _ => return Err(format!("no step {word:?}")),
    };
    if !cursor.is_at_end() {
        return Err(format!("left over: {:?}", cursor.rest));
    }
    let (text, connection) = (text.to_string(), connection.to_string());
    Ok(Line {
        number,
        text,
        connection,
        only,
        window,
        step,
    })
}

/// `first..last`.
fn range(word: &str) -> Result<(u64, u64), String> {
    let (first, last) = word
        .split_once("..")
        .ok_or_else(|| format!("no range: {word:?}"))?;
    let number = |word: &str| {
        word.parse::<u64>()
            .map_err(|why| format!("{word:?}: {why}"))
    };
    Ok((number(first)?, number(last)?))
}

fn parse_sending(cursor: &mut Cursor) -> Result<Sending, String> {
    for (word, simple) in [
        ("finish", Sending::Finish),
        ("drop", Sending::Drop),
        ("heartbeat", Sending::Heartbeat),
    ] {
        if cursor.accept(word) {
            return Ok(simple);
        }
    }
    if cursor.accept("raw ") {
        return Ok(Sending::Raw(cursor.octets()?));
    }
    if cursor.accept("frame ") {
        let fields = named_numbers(cursor, &["type", "channel", "size", "end"])?;
        cursor.expect("payload=")?;
        return Ok(Sending::Frame {
            fields,
            payload: cursor.octets()?,
        });
    }
    let channel = cursor.expression()?;
    if cursor.accept("header ") {
        let fields = named_numbers(cursor, &["class_id", "weight", "body_size", "flags"])?;
        let (properties, _) = if cursor.is_at_end() {
            (Vec::new(), false)
        } else {
            cursor.properties()?
        };
        return Ok(Sending::Header {
            channel,
            fields,
            properties,
        });
    }
    if cursor.accept("body ") {
        return Ok(Sending::Body(channel, cursor.expression()?));
    }
    let method = cursor.method()?;
    let content = if cursor.accept(";") {
        Some(cursor.content()?)
    } else {
        None
    };
    Ok(Sending::Method(channel, method, content))
}

/// `name=number` as long as the names are among `known`.
fn named_numbers(cursor: &mut Cursor, known: &[&str]) -> Result<Vec<(String, u64)>, String> {
    let mut fields = Vec::new();
    while let Some(name) = known.iter().find(|name| cursor.accept(&format!("{name}="))) {
        fields.push(((*name).to_string(), cursor.number()?));
    }
    Ok(fields)
}

fn parse_expecting(cursor: &mut Cursor) -> Result<Expecting, String> {
    if cursor.accept("eof") {
        return Ok(Expecting::Eof);
    }
    if cursor.accept("heartbeat") {
        return Ok(Expecting::Heartbeat);
    }
    if cursor.accept("raw ") {
        return Ok(Expecting::Raw(cursor.octets()?));
    }
    let channel = cursor.expression()?;
    for (word, method) in [("confirms ", "basic.ack"), ("nacks ", "basic.nack")] {
        if cursor.accept(word) {
            let channel = match channel {
                Expression::Number(n) => u16::try_from(n).map_err(|e| e.to_string())?,
                _ => return Err("confirms want a plain channel number".into()),
            };
            let (first, last) = range(cursor.name())?;
            return Ok(Expecting::Confirms {
                channel,
                method,
                first,
                last,
            });
        }
    }
    let method = cursor.method()?;
    let content = if cursor.accept(";") {
        Some(cursor.content()?)
    } else {
        None
    };
    Ok(Expecting::Method(channel, method, content))
}
