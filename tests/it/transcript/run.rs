//! Plays a transcript against a broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::words::{ContentWords, Expression, PropertyWords, Variables, all_octets};
use super::{Expecting, Line, Sending, Step, Transcript};
use crate::broker::Broker;
use crate::login::{Login, PATIENCE, ask};
use crate::methods::FieldType;
use crate::peer::{self, Content, Method, Peer, Unit, now};
use crate::value::Value;

/// What of the talk is shown when a step fails.
const TALK_LINES_SHOWN: usize = 24;

/// Plays `transcript`; when it ends, removes from a shared broker what it declared.
///
/// # Errors
/// Script, line, what was expected, what came instead, and the talk before.
pub(crate) fn run(transcript: &Transcript, broker: &Broker) -> Result<(), String> {
    let mut player = Player {
        broker,
        peers: BTreeMap::new(),
        variables: Variables::new(),
        talk: Vec::new(),
        last_step: now(),
        declared: BTreeSet::new(),
    };
    let outcome = player.play(&transcript.lines);
    let talk = player.talk.iter().rev().take(TALK_LINES_SHOWN).rev();
    let talk = talk.fold(String::new(), |all, line| all + "\n    " + &cut(line));
    let declared = std::mem::take(&mut player.declared);
    drop(player);
    if broker.is_shared() {
        clean_up(broker, &declared)?;
    }
    outcome.map_err(|(line, why)| {
        let at = line.map_or(String::new(), |(number, _)| format!(":{number}"));
        let text = line.map_or("", |(_, text)| text);
        format!(
            "{}.txt{at}\n  step      {text}\n  {why}\n  the talk before:{talk}",
            transcript.name
        )
    })
}

type StepError<'a> = (Option<(usize, &'a str)>, String);

struct Player<'a> {
    broker: &'a Broker,
    peers: BTreeMap<String, Peer>,
    variables: Variables,
    talk: Vec<String>,
    last_step: Instant,
    /// Queues and exchanges to delete in the end: (is it an exchange, name).
    declared: BTreeSet<(bool, Vec<u8>)>,
}

impl Player<'_> {
    fn play<'l>(&mut self, lines: &'l [Line]) -> Result<(), StepError<'l>> {
        let mut place = 0;
        while let Some(line) = lines.get(place) {
            place += 1;
            if !self.broker.is_among(&line.only) {
                continue;
            }
            if let Step::Repeat {
                counter,
                first,
                last,
                lines,
            } = &line.step
            {
                for n in *first..=*last {
                    self.variables.insert(counter.clone(), Value::Number(n));
                    self.play(lines)?;
                }
                continue;
            }
            if let Step::Set(setting) = &line.step {
                self.flush_others("");
                let set = self.broker.set(setting);
                let is_ours = set.map_err(|why| (Some((line.number, line.text.as_str())), why))?;
                if !is_ours {
                    break;
                }
                continue;
            }
            let mut group = vec![line];
            if matches!(line.step, Step::Unordered(_)) {
                while let Some(next) = lines
                    .get(place)
                    .filter(|it| matches!(it.step, Step::Unordered(_)))
                {
                    place += 1;
                    if self.broker.is_among(&next.only) {
                        group.push(next);
                    }
                }
            }
            let outcome = if group.len() > 1 {
                self.unordered(&group)
            } else {
                self.step(line)
            };
            outcome.map_err(|why| (Some((line.number, line.text.as_str())), why))?;
        }
        for peer in self.peers.values_mut() {
            peer.flush();
        }
        Ok(())
    }

    fn step(&mut self, line: &Line) -> Result<(), String> {
        let to = line.connection.as_str();
        match &line.step {
            Step::Repeat { .. } | Step::Set(_) => unreachable!("done by the caller"),
            Step::Tcp => {
                self.flush_others("");
                let peer = self.broker.peer()?;
                self.peers.insert(to.to_string(), peer);
            }
            Step::Connect(options) => self.connect(to, options)?,
            Step::Control(words) => {
                self.flush_others("");
                self.broker.control(words)?;
            }
            Step::Crash => {
                self.flush_others("");
                self.broker.crash()?;
            }
            Step::Stop => {
                self.flush_others("");
                self.broker.stop()?;
            }
            Step::Exited => self.broker.has_exited(PATIENCE)?,
            Step::Reopen(channel) => {
                self.flush_others("");
                let peer = self.peer(to)?;
                peer.put_method(*channel, &Method::new("channel.close-ok", &[]), None)?;
                ask(peer, *channel, &Method::new("channel.open", &[]))?;
                self.talk.push(format!("reopened {channel}"));
            }
            Step::Quiet(channel) => self.quiet(to, *channel)?,
            Step::Send(sending) => {
                self.flush_others(to);
                let words = self.send(to, sending)?;
                self.talk.push(format!("C.{to}: {words}"));
                return Ok(());
            }
            Step::Expect(expecting) | Step::Unordered(expecting) => {
                self.flush_others("");
                let started = self.last_step;
                let (earliest, latest) = line.window.unwrap_or((Duration::ZERO, PATIENCE));
                let latest = match line.window {
                    Some(_) => started + latest,
                    None => now() + latest,
                };
                self.expect(to, expecting, latest)?;
                if started.elapsed() < earliest {
                    return Err(format!("came after {:?} already", started.elapsed()));
                }
            }
        }
        self.last_step = now();
        Ok(())
    }

    /// Sends what other connections than `to` have queued, so that lines take effect in order.
    fn flush_others(&mut self, to: &str) {
        for (name, peer) in &mut self.peers {
            if name != to {
                peer.flush();
            }
        }
    }

    fn peer(&mut self, name: &str) -> Result<&mut Peer, String> {
        self.peers
            .get_mut(name)
            .ok_or_else(|| format!("no connection {name}"))
    }

    fn connect(&mut self, name: &str, options: &[(String, Expression)]) -> Result<(), String> {
        self.flush_others("");
        let mut login = Login::default();
        let mut channels = 1;
        for (option, expression) in options {
            let as_number = || expression.value(FieldType::Long, &self.variables);
            let as_text = || expression.value(FieldType::Longstr, &self.variables);
            match (
                option.as_str(),
                if matches!(expression, Expression::Number(_)) {
                    as_number()?
                } else {
                    as_text()?
                },
            ) {
                ("channels", Value::Number(n)) => channels = n,
                ("heartbeat", Value::Number(n)) => login.heartbeat = n,
                ("frame_max", Value::Number(n)) => login.frame_max = Some(n),
                ("channel_max", Value::Number(n)) => login.channel_max = Some(n),
                ("user", Value::Text(octets)) => login.user = octets,
                ("pass", Value::Text(octets)) => login.pass = octets,
                ("vhost", Value::Text(octets)) => login.vhost = octets,
                ("properties", Value::Table(table)) => login.properties = table,
                (other, _) => return Err(format!("no option {other:?}, or not of that type")),
            }
        }
        let mut peer = self.broker.peer()?;
        login.log_in(&mut peer)?;
        for channel in 1..=channels {
            ask(&mut peer, channel as u16, &Method::new("channel.open", &[]))?;
        }
        self.talk.push(format!("connected {name}"));
        self.peers.insert(name.to_string(), peer);
        Ok(())
    }

    fn send(&mut self, to: &str, sending: &Sending) -> Result<String, String> {
        let variables = &self.variables;
        let peer = self
            .peers
            .get_mut(to)
            .ok_or_else(|| format!("no connection {to}"))?;
        Ok(match sending {
            Sending::Method(channel, words, content) => {
                let channel = channel_number(channel, variables)?;
                let method = words.method(variables)?;
                let content = match content {
                    Some(words) => Some(content_of(words, variables)?),
                    None => None,
                };
                peer.put_method(channel, &method, content.as_ref())?;
                note_declaration(&method, &mut self.declared);
                Unit::Method(channel, method, content).to_string()
            }
            Sending::Header {
                channel,
                fields,
                properties,
            } => {
                let channel = channel_number(channel, variables)?;
                let field = |name, default| named(fields, name).unwrap_or(default);
                let mut payload = Vec::new();
                payload.extend((field("class_id", 60) as u16).to_be_bytes());
                payload.extend((field("weight", 0) as u16).to_be_bytes());
                payload.extend(field("body_size", 0).to_be_bytes());
                let place = payload.len();
                peer::encode_properties(&properties_of(properties, variables)?, &mut payload)?;
                if let Some(flags) = named(fields, "flags") {
                    payload[place..place + 2].copy_from_slice(&(flags as u16).to_be_bytes());
                }
                peer.put_frame(peer::HEADER, channel, &payload);
                format!("{channel} header {fields:?}")
            }
            Sending::Body(channel, body) => {
                let channel = channel_number(channel, variables)?;
                let body = body.value(FieldType::Longstr, variables)?;
                let Value::Text(octets) = &body else {
                    return Err("a body is text".into());
                };
                peer.put_frame(peer::BODY, channel, octets);
                format!("{channel} body {body}")
            }
            Sending::Heartbeat => {
                peer.put_frame(peer::HEARTBEAT, 0, &[]);
                "0 heartbeat".into()
            }
            Sending::Raw(octets) => {
                let octets = all_octets(octets, variables)?;
                peer.put(&octets);
                format!("raw {}", in_hex(&octets))
            }
            Sending::Frame { fields, payload } => {
                let payload = all_octets(payload, variables)?;
                let field = |name, default| named(fields, name).unwrap_or(default);
                let size = field("size", payload.len() as u64);
                let mut frame = vec![field("type", 1) as u8];
                frame.extend((field("channel", 1) as u16).to_be_bytes());
                frame.extend((size as u32).to_be_bytes());
                frame.extend(&payload);
                frame.push(field("end", 0xCE) as u8);
                peer.put(&frame);
                format!("frame {}", in_hex(&frame))
            }
            Sending::Finish => {
                peer.finish();
                "finish".into()
            }
            Sending::Drop => {
                peer.drop_socket();
                "drop".into()
            }
        })
    }

    fn expect(
        &mut self,
        from: &str,
        expecting: &Expecting,
        deadline: Instant,
    ) -> Result<(), String> {
        match expecting {
            Expecting::Raw(parts) => {
                let wanted = all_octets(parts, &self.variables)?;
                let got = self.peer(from)?.receive_raw(wanted.len(), deadline)?;
                self.talk.push(format!("S.{from}: raw {}", in_hex(&got)));
                if got == wanted {
                    Ok(())
                } else {
                    Err(instead(&in_hex(&got)))
                }
            }
            Expecting::Confirms {
                channel,
                method,
                first,
                last,
            } => self.confirms(from, *channel, method, (*first..=*last).collect(), deadline),
            _ => {
                let unit =
                    self.receive(from, matches!(expecting, Expecting::Heartbeat), deadline)?;
                let mut variables = self.variables.clone();
                if matches(expecting, &unit, &mut variables)? {
                    self.variables = variables;
                    Ok(())
                } else {
                    Err(instead(&unit.to_string()))
                }
            }
        }
    }

    fn unordered(&mut self, group: &[&Line]) -> Result<(), String> {
        self.flush_others("");
        let mut open: Vec<&Line> = group.to_vec();
        while let Some(first) = open.first() {
            let from = first.connection.clone();
            let deadline = now() + PATIENCE;
            let unit = self.receive(&from, false, deadline).map_err(|why| {
                let open = open
                    .iter()
                    .fold(String::new(), |all, it| all + "\n            " + &it.text);
                format!("{why}\n  still open:{open}")
            })?;
            let mut found = None;
            for (place, line) in open.iter().enumerate() {
                let (Step::Unordered(expecting), mut variables) =
                    (&line.step, self.variables.clone())
                else {
                    unreachable!("only unordered steps are in a group")
                };
                if line.connection == from && matches(expecting, &unit, &mut variables)? {
                    found = Some(place);
                    self.variables = variables;
                    break;
                }
            }
            match found {
                Some(place) => drop(open.remove(place)),
                None => return Err(instead(&format!("{unit} (on {from})"))),
            }
        }
        self.last_step = now();
        Ok(())
    }

    /// The next unit that is no heartbeat, unless heartbeats are wanted.
    fn receive(&mut self, from: &str, heartbeats: bool, deadline: Instant) -> Result<Unit, String> {
        loop {
            let unit = self.peer(from)?.receive(deadline)?;
            match unit {
                None => return Err(instead("nothing")),
                Some(Unit::Heartbeat) if !heartbeats => {}
                Some(unit) => {
                    self.talk.push(format!("S.{from}: {unit}"));
                    if let Unit::Method(_, method, _) = &unit {
                        note_declaration(method, &mut self.declared);
                    }
                    return Ok(unit);
                }
            }
        }
    }

    fn confirms(
        &mut self,
        from: &str,
        channel: u16,
        name: &str,
        mut open: BTreeSet<u64>,
        deadline: Instant,
    ) -> Result<(), String> {
        while !open.is_empty() {
            let unit = self.receive(from, false, deadline)?;
            let answered = match &unit {
                Unit::Method(it, method, None) if *it == channel && method.spec.name == name => {
                    let Value::Number(tag) = *method.get("delivery_tag") else {
                        unreachable!("a delivery tag is a number")
                    };
                    let multiple = *method.get("multiple") == Value::Bit(true);
                    if !multiple && !open.contains(&tag)
                        || open.last().is_none_or(|last| tag > *last)
                    {
                        return Err(instead(&unit.to_string()));
                    }
                    if multiple {
                        open.range(..=tag).copied().collect()
                    } else {
                        vec![tag]
                    }
                }
                _ => return Err(instead(&unit.to_string())),
            };
            open.retain(|tag| !answered.contains(tag));
        }
        Ok(())
    }

    fn quiet(&mut self, from: &str, channel: u16) -> Result<(), String> {
        self.flush_others("");
        let question = Method::new("channel.flow", &[("active", Value::Bit(true))]);
        self.peer(from)?.put_method(channel, &question, None)?;
        let answer = Method::new("channel.flow-ok", &[("active", Value::Bit(true))]);
        match self.receive(from, false, now() + PATIENCE)? {
            Unit::Method(it, method, None) if it == channel && method == answer => Ok(()),
            other => Err(instead(&other.to_string())),
        }
    }
}

fn instead(got: &str) -> String {
    format!("but came  {got}")
}

/// The front of a long line of the talk.
fn cut(line: &str) -> String {
    const CHARS_MAX: usize = 300;
    match line.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_string(),
    }
}

fn in_hex(octets: &[u8]) -> String {
    let shown = &octets[..octets.len().min(64)];
    let digits = shown.iter().fold(String::new(), |mut all, octet| {
        write!(all, "{octet:02x} ").expect("writing to a string works");
        all
    });
    let more = if octets.len() > shown.len() {
        format!("… {} octets", octets.len())
    } else {
        String::new()
    };
    digits + &more
}

fn named(fields: &[(String, u64)], name: &str) -> Option<u64> {
    fields.iter().find(|(it, _)| it == name).map(|(_, n)| *n)
}

fn channel_number(channel: &Expression, variables: &Variables) -> Result<u16, String> {
    match channel.value(FieldType::Short, variables)? {
        Value::Number(n) => u16::try_from(n).map_err(|_| format!("channel {n}")),
        other => Err(format!("channel {other}")),
    }
}

fn properties_of(
    words: &PropertyWords,
    variables: &Variables,
) -> Result<Vec<(&'static str, Value)>, String> {
    words
        .iter()
        .map(|(name, kind, expression)| Ok((*name, expression.value(*kind, variables)?)))
        .collect()
}

fn content_of(words: &ContentWords, variables: &Variables) -> Result<Content, String> {
    let Value::Text(body) = words.body.value(FieldType::Longstr, variables)? else {
        return Err("a body is text".into());
    };
    let properties = properties_of(&words.properties, variables)?;
    Ok(Content {
        properties,
        body,
        frames: Vec::new(),
    })
}

fn matches(expecting: &Expecting, unit: &Unit, variables: &mut Variables) -> Result<bool, String> {
    Ok(match (expecting, unit) {
        (Expecting::Eof, Unit::Closed) | (Expecting::Heartbeat, Unit::Heartbeat) => true,
        (Expecting::Method(channel, words, wanted), Unit::Method(it, method, content)) => {
            channel_number(channel, variables)? == *it
                && words.matches(method, variables)
                && match (wanted, content) {
                    (None, None) => true,
                    (Some(wanted), Some(content)) => content_matches(wanted, content, variables),
                    _ => false,
                }
        }
        _ => false,
    })
}

fn content_matches(wanted: &ContentWords, content: &Content, variables: &mut Variables) -> bool {
    let found = wanted.properties.iter().all(|(name, kind, expected)| {
        content
            .properties
            .iter()
            .any(|(it, value)| it == name && expected.matches(*kind, value, variables))
    });
    found
        && (wanted.properties_open || wanted.properties.len() == content.properties.len())
        && wanted.body.matches(
            FieldType::Longstr,
            &Value::Text(content.body.clone()),
            variables,
        )
        && wanted
            .frames
            .is_none_or(|frames| frames == content.frames.len())
}

/// Remembers what a method declares, for [`clean_up`].
fn note_declaration(method: &Method, declared: &mut BTreeSet<(bool, Vec<u8>)>) {
    let (is_exchange, name) = match method.spec.name {
        "queue.declare" | "queue.declare-ok" => (false, method.get("queue")),
        "exchange.declare" => (true, method.get("exchange")),
        _ => return,
    };
    if let Value::Text(name) = name
        && !name.is_empty()
        && std::str::from_utf8(name).is_ok()
        && !(is_exchange && name.starts_with(b"amq."))
    {
        declared.insert((is_exchange, name.clone()));
    }
}

/// Deletes the queues and exchanges that a script left on a broker that others use after it. An
/// exclusive queue goes with its connection, which may take the broker a moment.
fn clean_up(broker: &Broker, declared: &BTreeSet<(bool, Vec<u8>)>) -> Result<(), String> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut peer = broker.peer()?;
    Login::default().log_in(&mut peer)?;
    ask(&mut peer, 1, &Method::new("channel.open", &[]))?;
    let deadline = now() + PATIENCE;
    for (is_exchange, name) in declared {
        let name = Value::Text(name.clone());
        let deletion = if *is_exchange {
            Method::new("exchange.delete", &[("exchange", name)])
        } else {
            Method::new("queue.delete", &[("queue", name)])
        };
        loop {
            peer.put_method(1, &deletion, None)?;
            match peer.receive(deadline)? {
                Some(Unit::Method(_, method, _)) if method.spec.name == "channel.close" => {
                    peer.put_method(1, &Method::new("channel.close-ok", &[]), None)?;
                    ask(&mut peer, 1, &Method::new("channel.open", &[]))?;
                    if now() > deadline {
                        return Err(format!("cleaning up: {method}"));
                    }
                    std::thread::sleep(PAUSE);
                }
                Some(Unit::Method(..)) => break,
                other => return Err(format!("cleaning up: {other:?}")),
            }
        }
    }
    Ok(())
}
