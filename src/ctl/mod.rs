//! The control commands: RabbitMQ's `rabbitmqctl` and `rabbitmq-diagnostics`, over the HTTP API.
//!
//! A command line becomes a call of one [`command::Command`], which asks the broker through a
//! [`client::Transport`] and prints what RabbitMQ's tool prints. The broker is reached through the
//! control socket in its data directory, where whoever may open it is an administrator, or over
//! TCP with a user. Blocking is fine here: this is a process of its own.

mod args;
mod client;
mod command;
mod diagnose;
mod listing;
mod manage;
mod output;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::config::args::ControlTool;
use args::Options;
use client::{Client, Transport};
use command::Session;
use std::ffi::OsString;
use std::fmt;
use std::io::{IsTerminal as _, Write};

/// Name of the control socket in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Done (`EX_OK`).
const EXIT_OK: u8 = 0;
/// The command line is wrong (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// What was given is wrong (`EX_DATAERR`).
const EXIT_DATA: u8 = 65;
/// There is no such user (`EX_NOUSER`).
const EXIT_NO_USER: u8 = 67;
/// The broker cannot be reached or does not do it (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// The broker failed at it (`EX_SOFTWARE`).
const EXIT_SOFTWARE: u8 = 70;

/// Runs one command and returns the exit code.
///
/// * `tool`: whose words are understood.
/// * `words`: what follows the tool's name.
/// * `variable`: reads one environment variable.
pub fn run(tool: ControlTool, words: &[OsString], variable: &dyn Fn(&str) -> Option<String>) -> u8 {
    let node = variable("RABBITMQ_NODENAME").unwrap_or_else(|| Config::default().identity.node);
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let is_terminal = stdout.is_terminal();
    let (mut out, mut err) = (stdout.lock(), stderr.lock());
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
        is_terminal,
    };
    run_with(tool, words, variable, node, &mut streams, &mut |options| {
        Ok(Box::new(Client::new(options, variable)?))
    })
}

/// Where a command writes.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Headings may be bold.
    is_terminal: bool,
}

/// Makes the way to the broker, once the options are known.
type Connect<'a> = dyn FnMut(&Options) -> Result<Box<dyn Transport>, Failure> + 'a;

fn run_with(
    tool: ControlTool,
    words: &[OsString],
    variable: &dyn Fn(&str) -> Option<String>,
    node: String,
    streams: &mut Streams<'_>,
    connect: &mut Connect<'_>,
) -> u8 {
    let result = perform(tool, words, variable, node, streams, connect);
    // A reader that went away (`| head`) has seen what it wanted.
    let _ = streams.out.flush();
    match result {
        Ok(()) => EXIT_OK,
        Err(failure) => {
            if !failure.text.is_empty() {
                let _ = writeln!(streams.err, "{}", failure.text);
            }
            failure.exit_code
        }
    }
}

fn perform(
    tool: ControlTool,
    words: &[OsString],
    variable: &dyn Fn(&str) -> Option<String>,
    node: String,
    streams: &mut Streams<'_>,
    connect: &mut Connect<'_>,
) -> Result<(), Failure> {
    let (options, command) = args::parse(tool, words, variable, node)?;
    let Some(command) = command else {
        streams
            .out
            .write_all(args::help(tool, &options).as_bytes())?;
        return Ok(());
    };
    let transport = connect(&options)?;
    let mut session = Session {
        options,
        transport,
        streams,
    };
    (command.run)(&mut session)
}

/// A command that did not succeed.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    exit_code: u8,
    /// What goes to standard error; nothing when all is said.
    text: String,
}

impl Failure {
    fn new(exit_code: u8, text: impl Into<String>) -> Self {
        Failure {
            exit_code,
            text: text.into(),
        }
    }

    /// With RabbitMQ's heading.
    fn error(exit_code: u8, text: impl fmt::Display) -> Self {
        Failure {
            exit_code,
            text: format!("Error:\n{text}"),
        }
    }
}

impl From<std::io::Error> for Failure {
    /// Standard output cannot be written: nobody is there to be told.
    fn from(error: std::io::Error) -> Self {
        let is_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        Failure {
            exit_code: if is_gone { EXIT_OK } else { EXIT_SOFTWARE },
            text: if is_gone {
                String::new()
            } else {
                format!("Error: {error}")
            },
        }
    }
}
