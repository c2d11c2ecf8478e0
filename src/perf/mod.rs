//! `leveret perf`: load for any AMQP 0-9-1 broker, and what came of it.
//!
//! `throughput`, `latency`, `fill` and `drain` are one engine ([`load`]) with different settings;
//! `connections`, `churn` and `declare` measure what is not a message; `limit` sends the octets of
//! `throughput` through a relay that knows no AMQP, to say what the machine allows.
//!
//! A load generator must cost less than what it measures. So messages are encoded once
//! ([`template`]), deliveries are read where they lie ([`parser`]), and a worker's turn
//! ([`worker`]) makes one system call a peer and direction. Times are taken from when a message
//! was due, not from when it could be sent: a broker that stalls shows its stall (coordinated
//! omission). Every body of 16 octets or more bears who sent it, its sequence and its time, and
//! every delivery is checked against them ([`check`]).
//!
//! Deliberately absent: TLS, and clients that reconnect. A connection that breaks ends the run.

mod check;
mod churn;
mod client;
mod connections;
mod consumer;
mod declare;
mod failure;
mod histogram;
mod interrupt;
mod limit;
mod load;
mod number;
mod options;
mod parser;
mod process;
mod producer;
mod setter;
mod template;
mod topology;
mod uri;
mod watch;
mod worker;

use failure::Failure;
use options::{Command, Options, Request};
use std::ffi::OsStr;
use std::io::Write;

/// Runs `leveret perf` and prints its result.
///
/// * `args`: what follows the word `perf` on the command line.
///
/// Returns the exit code: 0 done, 1 messages were lost, doubled or out of order, 64 the command
/// line cannot be understood, 69 the broker cannot be reached, 70 the broker or this machine
/// refused something.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> i32 {
    let args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
    let done = options::parse(args).and_then(|request| match request {
        Request::Help(text) => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            Ok(())
        }
        Request::Run(options) => dispatch(&options),
    });
    match done {
        Ok(()) => 0,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "leveret perf: {failure}");
            failure.exit_code()
        }
    }
}

fn dispatch(options: &Options) -> Result<(), Failure> {
    match options.command {
        Command::Throughput | Command::Latency | Command::Fill | Command::Drain => {
            load::run(options)
        }
        Command::Limit => limit::run(options),
        Command::Connections => connections::run(options),
        Command::Churn => churn::run(options),
        Command::Declare => declare::run(options),
    }
}
