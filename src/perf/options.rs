//! The command line of `leveret perf`: one table says which option there is, for which of the
//! commands, and what it means; [`parse`] and [`help`] both read it.

use super::client::ConnectOptions;
use super::failure::Failure;
use super::setter::SetterKind;
use super::uri::Target;
use lexopt::{Arg, ValueExt};
use std::ffi::OsString;
use std::fmt::Write;

/// The sub-commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// As fast as it goes, or at a rate.
    Throughput,
    /// Open loop at a rate.
    Latency,
    /// Publish a number of messages and leave them.
    Fill,
    /// Consume what is there.
    Drain,
    /// Idle connections.
    Connections,
    /// Opening and closing, over and over.
    Churn,
    /// Declaring and binding, pipelined.
    Declare,
    /// The same octets through a relay.
    Limit,
}

impl Command {
    /// All of them, in the order of the help.
    pub(super) const ALL: [Command; 8] = [
        Command::Throughput,
        Command::Latency,
        Command::Fill,
        Command::Drain,
        Command::Connections,
        Command::Churn,
        Command::Declare,
        Command::Limit,
    ];

    /// The word on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Command::Throughput => "throughput",
            Command::Latency => "latency",
            Command::Fill => "fill",
            Command::Drain => "drain",
            Command::Connections => "connections",
            Command::Churn => "churn",
            Command::Declare => "declare",
            Command::Limit => "limit",
        }
    }

    /// One line about it.
    fn about(self) -> &'static str {
        match self {
            Command::Throughput => "publish and consume as fast as it goes, or at --rate",
            Command::Latency => {
                "open loop at --rate: times count from when a message was due, not from when it left"
            }
            Command::Fill => "publish --messages and leave them in the queues",
            Command::Drain => "consume what lies in the queues",
            Command::Connections => {
                "open idle connections with a channel each; memory per connection"
            }
            Command::Churn => {
                "open and close connections, channels, queues or transactions, over and over"
            }
            Command::Declare => "declare queues and bindings, pipelined",
            Command::Limit => {
                "the same octets through a relay of one thread that knows no AMQP: what loopback and one core allow"
            }
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// How a producer chooses among the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyChoice {
    /// Each producer has one.
    Fixed,
    /// In turn.
    Cycle,
    /// At random.
    Random,
}

/// What `churn` opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChurnKind {
    /// A connection with a channel.
    Connection,
    /// A channel on a connection that stays.
    Channel,
    /// A durable queue: declare and delete.
    Queue,
    /// One persistent message in a transaction.
    Tx,
}

/// Everything the command line says. Each command reads some of it.
#[derive(Clone, Debug)]
/// What each field means is said once, in the table below.
pub(super) struct Options {
    pub(super) command: Command,
    pub(super) target: Target,
    pub(super) connect: ConnectOptions,
    pub(super) name: String,
    pub(super) producers: usize,
    pub(super) consumers: usize,
    pub(super) queues: usize,
    pub(super) size: usize,
    pub(super) rate_per_s: u64,
    pub(super) persistent: bool,
    pub(super) durable: Option<bool>,
    pub(super) confirm: u64,
    pub(super) ack: u64,
    pub(super) prefetch: u16,
    pub(super) queue_arguments: Vec<(String, String)>,
    pub(super) exchange_type: String,
    pub(super) bindings: usize,
    pub(super) keys: KeyChoice,
    pub(super) mandatory: bool,
    pub(super) seed: u64,
    pub(super) time_ms: u64,
    pub(super) warmup_ms: u64,
    pub(super) messages: u64,
    pub(super) in_flight: u64,
    pub(super) drain_ms: u64,
    pub(super) keep: bool,
    pub(super) check: bool,
    pub(super) burst_octets: usize,
    pub(super) inbox_octets: usize,
    pub(super) spin: bool,
    pub(super) threads: usize,
    pub(super) pin: Vec<usize>,
    pub(super) relay_pin: Option<usize>,
    pub(super) pid: Option<u32>,
    pub(super) json: bool,
    pub(super) live: Option<bool>,
    pub(super) connections: usize,
    pub(super) hold_ms: u64,
    pub(super) churn: ChurnKind,
    pub(super) parallel: usize,
    pub(super) pipeline: usize,
    pub(super) delete: bool,
    pub(super) beside: Vec<SetterKind>,
    pub(super) beside_rate_per_s: u64,
}

impl Options {
    /// What holds when the command line says nothing.
    fn new(command: Command) -> Result<Self, Failure> {
        let latency = command == Command::Latency;
        let fill_or_drain = matches!(command, Command::Fill | Command::Drain);
        Ok(Options {
            command,
            target: Target::parse("amqp://localhost").map_err(Failure::Usage)?,
            connect: ConnectOptions {
                frame_max: 131_072,
                heartbeat_s: 0,
                sndbuf: None,
                rcvbuf: None,
                nodelay: true,
            },
            name: "leveret-perf".to_owned(),
            producers: usize::from(command != Command::Drain),
            consumers: usize::from(command != Command::Fill),
            queues: 1,
            size: if fill_or_drain { 100 } else { 16 },
            rate_per_s: if latency { 1_000 } else { 0 },
            persistent: fill_or_drain,
            durable: None,
            confirm: if latency || command == Command::Fill {
                1_000
            } else {
                0
            },
            ack: if command == Command::Drain { 100 } else { 0 },
            prefetch: if command == Command::Drain { 1_000 } else { 0 },
            queue_arguments: Vec::new(),
            exchange_type: "default".to_owned(),
            bindings: 1,
            keys: KeyChoice::Fixed,
            mandatory: false,
            seed: 1,
            time_ms: if fill_or_drain { 600_000 } else { 10_000 },
            warmup_ms: if fill_or_drain { 0 } else { 1_000 },
            messages: if command == Command::Fill {
                1_000_000
            } else {
                0
            },
            in_flight: 0,
            drain_ms: 10_000,
            keep: fill_or_drain,
            check: true,
            burst_octets: 64 << 10,
            inbox_octets: 256 << 10,
            spin: latency,
            threads: 1,
            pin: Vec::new(),
            relay_pin: None,
            pid: None,
            json: false,
            live: None,
            connections: 1_000,
            hold_ms: 2_000,
            churn: ChurnKind::Connection,
            parallel: 1,
            pipeline: 500,
            delete: false,
            beside: Vec::new(),
            beside_rate_per_s: 0,
        })
    }
}

/// One row of the table.
struct Row {
    name: &'static str,
    /// What stands for the value; empty for a switch that needs none.
    value: &'static str,
    about: &'static str,
    /// Bits of the commands that know it.
    commands: u8,
    set: fn(&mut Options, &str) -> Result<(), String>,
}

const T: u8 = 1 << Command::Throughput as u8;
const L: u8 = 1 << Command::Latency as u8;
const F: u8 = 1 << Command::Fill as u8;
const D: u8 = 1 << Command::Drain as u8;
const N: u8 = 1 << Command::Connections as u8;
const U: u8 = 1 << Command::Churn as u8;
const E: u8 = 1 << Command::Declare as u8;
const M: u8 = 1 << Command::Limit as u8;
/// Those that publish through the common engine.
const LOAD: u8 = T | L | F | D;
const PUBLISH: u8 = T | L | F;
const CONSUME: u8 = T | L | D;
const BROKER: u8 = LOAD | N | U | E;
const ANY: u8 = BROKER | M;

macro_rules! rows {
    ($($name:literal $value:literal $commands:expr => $about:literal, $set:expr;)*) => {
        const ROWS: &[Row] = &[$(Row {
            name: $name,
            value: $value,
            about: $about,
            commands: $commands,
            set: $set,
        },)*];
    };
}

rows! {
    "uri" "URI" BROKER => "the broker: amqp://user:password@host:port/vhost  [amqp://localhost]",
        |o, v| put(&mut o.target, Target::parse(v));
    "name" "NAME" BROKER => "prefix of the names of queues and exchanges  [leveret-perf]",
        |o, v| put(&mut o.name, name(v));
    "producers" "N" T | L | F => "publishing connections  [1]",
        |o, v| put(&mut o.producers, number(v, 0, 10_000));
    "consumers" "N" CONSUME => "consuming connections; queues are dealt out to them in turn  [1]",
        |o, v| put(&mut o.consumers, number(v, 0, 10_000));
    "queues" "N" LOAD | E => "queues  [1]",
        |o, v| put(&mut o.queues, number(v, 0, 10_000_000));
    "size" "OCTETS" LOAD | U | M => "octets of a body; from 16 on each bears a stamp  [16; fill, drain: 100]",
        |o, v| put(&mut o.size, octets(v, 256 << 20));
    "rate" "N" PUBLISH | M => "messages a second of all producers, 0 for as fast as it goes  [0; latency: 1000]",
        |o, v| put(&mut o.rate_per_s, number(v, 0, 100_000_000));
    "persistent" "on|off" PUBLISH => "delivery-mode 2, and durable queues  [off; fill: on]",
        |o, v| put(&mut o.persistent, switch(v));
    "durable" "on|off" LOAD | E => "whether queues and exchanges are durable  [as --persistent; declare: on]",
        |o, v| put(&mut o.durable, switch(v).map(Some));
    "confirm" "WINDOW" PUBLISH => "publisher confirms, at most so many open; 0 for none  [0; latency, fill: 1000]",
        |o, v| put(&mut o.confirm, number(v, 0, 1 << 22));
    "ack" "N" CONSUME => "one acknowledgement for N deliveries; 0 for auto-ack  [0; drain: 100]",
        |o, v| put(&mut o.ack, number(v, 0, 1 << 20));
    "prefetch" "N" CONSUME => "deliveries that may await it; 0 for no limit  [0; drain: 1000]",
        |o, v| put(&mut o.prefetch, number(v, 0, 65_535));
    "queue-arg" "KEY=VALUE" LOAD | E => "argument of the queues; digits make an integer, true/false a bool; repeatable",
        |o, v| { let pair = v.split_once('=').ok_or("KEY=VALUE is expected")?;
                 o.queue_arguments.push((pair.0.to_owned(), pair.1.to_owned())); Ok(()) };
    "exchange" "TYPE" LOAD | E => "default, direct, fanout, topic or headers  [default; declare: direct]",
        |o, v| put(&mut o.exchange_type, exchange_type(v));
    "bindings" "N" LOAD | E => "bindings in all; they go to the queues in turn  [as many as queues]",
        |o, v| put(&mut o.bindings, number(v, 0, 10_000_000));
    "keys" "HOW" PUBLISH => "fixed (each producer has one), cycle or random  [fixed]",
        |o, v| put(&mut o.keys, match v {
            "fixed" => Ok(KeyChoice::Fixed), "cycle" => Ok(KeyChoice::Cycle),
            "random" => Ok(KeyChoice::Random), _ => Err("fixed, cycle or random is expected".to_owned()) });
    "mandatory" "" PUBLISH => "publish with the flag mandatory; what comes back is counted",
        |o, _| { o.mandatory = true; Ok(()) };
    "seed" "N" PUBLISH => "which random keys  [1]",
        |o, v| put(&mut o.seed, number(v, 0, u64::MAX));
    "time" "SECONDS" LOAD | U | M => "how long to measure  [10; fill, drain: at most 600]",
        |o, v| put(&mut o.time_ms, seconds(v));
    "warmup" "SECONDS" T | L | M => "how long to run before that  [1; with --messages: 0]",
        |o, v| put(&mut o.warmup_ms, seconds(v));
    "messages" "N" T | L | F | D => "stop after so many in all; 0 for no such limit, drain: for what is there  [0; fill: 1000000]",
        |o, v| put(&mut o.messages, number(v, 0, 1 << 40));
    "in-flight" "N" T | L => "publish only while fewer deliveries are outstanding; 0 for no limit  [0]",
        |o, v| put(&mut o.in_flight, number(v, 0, 1 << 40));
    "drain" "SECONDS" T | L => "how long to wait for the rest afterwards  [10]",
        |o, v| put(&mut o.drain_ms, seconds(v));
    "beside" "WHAT[,WHAT]" T | L => "a further connection each that commits a persistent message (tx) or declares and deletes a durable queue (queue), over and over",
        |o, v| { o.beside = v.split(',').map(setter_kind).collect::<Result<_, _>>()?; Ok(()) };
    "beside-rate" "N" T | L => "rounds a second of each of these, 0 for one after the other  [0]",
        |o, v| put(&mut o.beside_rate_per_s, number(v, 0, 1_000_000));
    "keep" "on|off" LOAD => "use queues as they are and leave them  [off; fill, drain: on]",
        |o, v| put(&mut o.keep, switch(v));
    "check" "on|off" LOAD | M => "look for lost, doubled and misordered messages  [on]",
        |o, v| put(&mut o.check, switch(v));
    "connections" "N" N => "how many  [1000]",
        |o, v| put(&mut o.connections, number(v, 1, 1_000_000));
    "hold" "SECONDS" N => "how long they stay before the memory is read  [2]",
        |o, v| put(&mut o.hold_ms, seconds(v));
    "what" "WHAT" U => "connection, channel, queue (durable) or tx  [connection]",
        |o, v| put(&mut o.churn, match v {
            "connection" => Ok(ChurnKind::Connection), "channel" => Ok(ChurnKind::Channel),
            "queue" => Ok(ChurnKind::Queue), "tx" => Ok(ChurnKind::Tx),
            _ => Err("connection, channel, queue or tx is expected".to_owned()) });
    "parallel" "N" U => "how many at a time, a thread each  [1]",
        |o, v| put(&mut o.parallel, number(v, 1, 256));
    "pipeline" "N" E => "declarations that may be unanswered  [500]",
        |o, v| put(&mut o.pipeline, number(v, 1, 500));
    "delete" "" E => "delete all of it afterwards, and measure that",
        |o, _| { o.delete = true; Ok(()) };
    "frame-max" "OCTETS" BROKER => "octets of a frame to ask for  [131072]",
        |o, v| put(&mut o.connect.frame_max, number(v, 4_096, 1 << 24));
    "heartbeat" "SECONDS" BROKER => "to ask for; 0 for none  [0]",
        |o, v| put(&mut o.connect.heartbeat_s, number(v, 0, 65_535));
    "sndbuf" "OCTETS" ANY => "SO_SNDBUF of the sockets  [the kernel's choice]",
        |o, v| put(&mut o.connect.sndbuf, octets(v, 1 << 30).map(Some));
    "rcvbuf" "OCTETS" ANY => "SO_RCVBUF of the sockets  [the kernel's choice]",
        |o, v| put(&mut o.connect.rcvbuf, octets(v, 1 << 30).map(Some));
    "nodelay" "on|off" ANY => "TCP_NODELAY  [on]",
        |o, v| put(&mut o.connect.nodelay, switch(v));
    "burst" "OCTETS" PUBLISH | M => "most octets of one write  [64k]",
        |o, v| put(&mut o.burst_octets, octets(v, 1 << 30));
    "inbox" "OCTETS" CONSUME | M => "most octets of one read  [256k]",
        |o, v| put(&mut o.inbox_octets, octets(v, 1 << 30));
    "spin" "on|off" LOAD | M => "never sleep; times below a millisecond need it  [off; latency: on]",
        |o, v| put(&mut o.spin, switch(v));
    "threads" "1|2" T | L => "1: one for all; 2: one publishes, one consumes  [1]",
        |o, v| put(&mut o.threads, number(v, 1, 2));
    "pin" "CORE[,CORE]" ANY => "cores for the load generator's threads",
        |o, v| { o.pin = v.split(',').map(|core| number(core, 0, 1_023)).collect::<Result<_, _>>()?; Ok(()) };
    "relay-pin" "CORE" M => "core for the relay's thread",
        |o, v| put(&mut o.relay_pin, number(v, 0, 1_023).map(Some));
    "pid" "PID" BROKER => "the broker's process: report its CPU time and memory",
        |o, v| put(&mut o.pid, number(v, 1, 1 << 22).map(Some));
    "json" "" ANY => "print the result as JSON",
        |o, _| { o.json = true; Ok(()) };
    "live" "on|off" ANY => "a line each second on stderr  [on when that is a terminal]",
        |o, v| put(&mut o.live, switch(v).map(Some));
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn number<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Result<T, String> {
    text.replace('_', "")
        .parse::<u64>()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("a whole number from {min} to {max} is expected"))
}

/// Octets with an optional unit `k` of 1024 or `M` of its square.
fn octets(text: &str, max: u64) -> Result<usize, String> {
    let (digits, shift) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 10),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 20),
            None => (text, 0),
        },
    };
    number::<usize>(digits, 0, max >> shift)
        .map(|octets| octets << shift)
        .map_err(|_| format!("octets up to {max} are expected, as 4096, 64k or 4M"))
}

/// Seconds, with a fraction if wanted, as milliseconds.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=1e6).contains(&seconds) => {
            Ok(super::number::whole(seconds * 1_000.0))
        }
        _ => Err("seconds from 0 to 1000000 are expected".to_owned()),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err("'on' or 'off' is expected".to_owned()),
    }
}

fn setter_kind(text: &str) -> Result<SetterKind, String> {
    match text {
        "tx" => Ok(SetterKind::Tx),
        "queue" => Ok(SetterKind::Queue),
        _ => Err("tx or queue is expected".to_owned()),
    }
}

/// A prefix that leaves room for a number behind it.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 200 {
        return Err("a name of 1 to 200 octets is expected".to_owned());
    }
    Ok(text.to_owned())
}

fn exchange_type(text: &str) -> Result<String, String> {
    match text {
        "default" | "direct" | "fanout" | "topic" | "headers" => Ok(text.to_owned()),
        _ => Err("default, direct, fanout, topic or headers is expected".to_owned()),
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// This text.
    Help(String),
    /// This run.
    Run(Box<Options>),
}

/// Reads what follows the word `perf`.
///
/// # Errors
/// [`Failure::Usage`].
pub(super) fn parse(args: Vec<OsString>) -> Result<Request, Failure> {
    let mut args = args.into_iter();
    let word = args.next().unwrap_or_default();
    let word = word.to_string_lossy();
    let Some(command) = Command::ALL
        .into_iter()
        .find(|command| command.name() == word)
    else {
        return match &*word {
            "" | "help" | "--help" | "-h" => Ok(Request::Help(overview())),
            _ => Err(Failure::Usage(format!("unknown command '{word}'"))),
        };
    };
    let mut options = Options::new(command)?;
    let mut bindings_given = false;
    let mut exchange_given = false;
    let mut warmup_given = false;
    let usage = |error: lexopt::Error| Failure::Usage(error.to_string());
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(usage)? {
        let name = match arg {
            Arg::Short('h') => return Ok(Request::Help(help(command))),
            Arg::Long(name) => name.to_owned(),
            other => return Err(usage(other.unexpected())),
        };
        if name == "help" {
            return Ok(Request::Help(help(command)));
        }
        let row = ROWS
            .iter()
            .find(|row| row.name == name && row.commands & command.bit() != 0)
            .ok_or_else(|| {
                Failure::Usage(format!("'{}' has no option --{name}", command.name()))
            })?;
        let value = if row.value.is_empty() {
            String::new()
        } else {
            parser.value().map_err(usage)?.string().map_err(usage)?
        };
        (row.set)(&mut options, &value)
            .map_err(|reason| Failure::Usage(format!("--{name} {value}: {reason}")))?;
        bindings_given |= name == "bindings";
        exchange_given |= name == "exchange";
        warmup_given |= name == "warmup";
    }
    if !bindings_given {
        options.bindings = if command == Command::Declare {
            0
        } else {
            options.queues
        };
    }
    if command == Command::Declare && !exchange_given {
        "direct".clone_into(&mut options.exchange_type);
    }
    if options.messages != 0 && !warmup_given {
        // A number of messages is soon sent, and nothing would be left to measure.
        options.warmup_ms = 0;
    }
    validate(&options).map_err(|reason| Failure::Usage(reason.to_owned()))?;
    Ok(Request::Run(Box::new(options)))
}

/// What does not go together.
fn validate(options: &Options) -> Result<(), &'static str> {
    let load = options.command.bit() & LOAD != 0;
    let rules = [
        (
            options.command == Command::Latency && (options.size < 16 || options.rate_per_s == 0),
            "latency needs a --size of 16 or more, for the stamp, and a --rate",
        ),
        (
            options.ack != 0 && options.prefetch != 0 && options.ack > u64::from(options.prefetch),
            "--ack beyond --prefetch would wait for deliveries that never come",
        ),
        (load && options.queues == 0, "--queues must be at least 1"),
        (
            load && options.exchange_type != "default" && options.bindings == 0,
            "--bindings must be at least 1",
        ),
        (
            load && options.exchange_type == "fanout" && options.bindings != options.queues,
            "a fanout exchange has one binding for each queue",
        ),
        (
            options.exchange_type == "default" && options.bindings != options.queues && load,
            "--bindings needs an --exchange",
        ),
        (
            options.command == Command::Fill && options.messages == 0,
            "fill needs --messages",
        ),
        (
            load && options.producers + options.consumers == 0,
            "there is neither producer nor consumer",
        ),
        (
            options.burst_octets == 0 || options.inbox_octets == 0,
            "--burst and --inbox must be at least 1",
        ),
    ];
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, reason)) => Err(reason),
        None => Ok(()),
    }
}

/// The answer to `leveret perf --help`.
fn overview() -> String {
    let mut text = String::from(
        "leveret perf - load for any AMQP 0-9-1 broker, and what came of it\n\n\
         USAGE\n  leveret perf COMMAND [OPTIONS]        'leveret perf COMMAND --help' lists them\n\nCOMMANDS\n",
    );
    for command in Command::ALL {
        let _ = writeln!(text, "  {:<12} {}", command.name(), command.about());
    }
    text.push_str(
        "\nEXIT CODES\n  0 done   1 messages lost, doubled or out of order   64 wrong command line\n  \
         69 broker not available   70 refused by the broker or this machine\n",
    );
    text
}

/// The answer to `leveret perf COMMAND --help`.
fn help(command: Command) -> String {
    let name = command.name();
    let mut text = format!(
        "leveret perf {name} - {}\n\nUSAGE\n  leveret perf {name} [OPTIONS]\n\nOPTIONS\n",
        command.about()
    );
    for row in ROWS.iter().filter(|row| row.commands & command.bit() != 0) {
        let option = format!("--{} {}", row.name, row.value);
        let _ = writeln!(text, "  {option:<24} {}", row.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Options, String> {
        match parse(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Request::Run(options)) => Ok(*options),
            Ok(Request::Help(text)) => Err(text),
            Err(failure) => {
                assert_eq!(failure.exit_code(), 64);
                Err(failure.to_string())
            }
        }
    }

    #[test]
    fn options_are_read_and_the_rest_has_defaults() {
        let options = run(
            "throughput --uri amqp://a:b@h:1/v --size 64k --confirm 10_000 --ack=100 \
             --prefetch 1000 --time 2.5 --pin 0,1 --queue-arg x-max-length=5 --persistent on",
        )
        .expect("all of it is valid");
        assert_eq!((options.target.host.as_str(), options.size), ("h", 65_536));
        assert_eq!(
            (options.confirm, options.ack, options.prefetch),
            (10_000, 100, 1_000)
        );
        assert_eq!((options.time_ms, options.pin), (2_500, vec![0, 1]));
        assert_eq!(
            options.queue_arguments,
            [("x-max-length".to_owned(), "5".to_owned())]
        );
        assert!(options.persistent && options.durable.is_none());
        assert_eq!(
            (options.producers, options.queues, options.bindings),
            (1, 1, 1)
        );
    }

    #[test]
    fn defaults_follow_the_command() {
        let options = run("drain").expect("no option is needed");
        assert_eq!(
            (options.producers, options.consumers, options.ack),
            (0, 1, 100)
        );
        let options = run("fill --queues 3").expect("valid");
        assert_eq!(
            (options.producers, options.consumers, options.bindings),
            (1, 0, 3)
        );
        let options = run("latency").expect("valid");
        assert!(options.spin && options.rate_per_s == 1_000 && options.confirm == 1_000);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (line, reason) in [
            ("swim", "unknown command"),
            ("throughput --sise 3", "no option --sise"),
            ("drain --producers 3", "no option --producers"),
            ("throughput --size", "missing argument"),
            ("throughput --size 3x", "octets up to"),
            ("throughput --size 300m", "octets up to"),
            ("throughput --time -1", "seconds"),
            ("throughput more", "unexpected argument"),
            ("throughput --exchange x-odd", "headers is expected"),
            ("throughput --ack 100 --prefetch 10", "never come"),
            ("throughput --bindings 5", "needs an --exchange"),
            ("throughput --queues 0", "at least 1"),
            ("latency --size 8", "16 or more"),
            ("fill --messages 0", "needs --messages"),
            ("throughput --queue-arg x", "KEY=VALUE"),
            ("churn --what dust", "queue or tx"),
            ("latency --beside dust", "tx or queue"),
            ("drain --beside tx", "no option --beside"),
        ] {
            let found = run(line).expect_err(line);
            assert!(found.contains(reason), "{line}: {found}");
        }
    }

    #[test]
    fn help_lists_what_each_command_knows() {
        assert!(run("").expect_err("help").contains("COMMANDS"));
        for command in Command::ALL {
            let text = run(&format!("{} --help", command.name())).expect_err("help");
            for row in ROWS {
                let listed = text.contains(&format!("  --{} ", row.name));
                assert_eq!(listed, row.commands & command.bit() != 0, "{}", row.name);
            }
        }
    }

    #[test]
    fn no_option_stands_twice_in_the_table() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..index].iter().all(|other| other.name != row.name),
                "{}",
                row.name
            );
        }
    }
}
