//! The command line as typed.
//!
//! `leveret` is one binary with many names: the first argument or the name it was called by says
//! which of its commands is meant ([`Command`]). Values are kept as texts here; [`ServerArgs::apply`]
//! turns them into what is meant.

use super::units;
use super::{Config, ConfigError, ListenAddress, Origin};
use lexopt::{Arg, ValueExt};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the broker.
    Serve(ServerArgs),
    /// A control command; see [`crate::ctl`].
    Control {
        /// The tool that is imitated.
        tool: ControlTool,
        /// What follows its name.
        args: Vec<OsString>,
    },
    /// Read a data directory and report.
    Inspect {
        /// The directory.
        data_dir: PathBuf,
    },
    /// The load generator; see [`crate::perf`].
    Perf {
        /// What follows the word `perf`.
        args: Vec<OsString>,
    },
    /// Print [`HELP`].
    Help,
    /// Print [`version_line`].
    Version,
}

/// The control tools of RabbitMQ that the binary answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTool {
    /// `leveret ctl`, `leveretctl`, `rabbitmqctl` (also `rabbitmq-queues` and the like).
    Control,
    /// `rabbitmq-diagnostics`.
    Diagnostics,
}

impl ControlTool {
    /// The tool called by this program name, if it is one.
    fn called(name: &str) -> Option<ControlTool> {
        match name {
            "leveretctl" | "rabbitmqctl" | "rabbitmq-queues" => Some(ControlTool::Control),
            "leveret-diagnostics" | "rabbitmq-diagnostics" => Some(ControlTool::Diagnostics),
            _ => None,
        }
    }
}

/// Options of the server, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerArgs {
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`, each time it was given.
    pub listen: Vec<String>,
    /// `--http`.
    pub http: Option<String>,
    /// `--sync`.
    pub sync: Option<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

/// The answer to `--help`.
pub const HELP: &str = "\
leveret - a message broker that speaks RabbitMQ's AMQP 0-9-1

USAGE
  leveret [OPTIONS]              run the broker
  leveret ctl COMMAND ...        ask or tell a running broker ('leveret ctl help' lists all)
  leveret inspect DIR            read a data directory: segments, records, damage
  leveret perf ...               generate load and measure ('leveret perf --help')

OPTIONS
  --config FILE          read settings from FILE, in the syntax of rabbitmq.conf
  --data-dir DIR         keep messages and definitions in DIR            [./leveret-data]
  --listen ADDR:PORT     speak AMQP there; may be given more than once   [all interfaces, 5672]
  --http ADDR:PORT       speak HTTP (management API) there               [all interfaces, 15672]
  --sync on|off          wait for stable storage before confirming       [on]
  --log-level LEVEL      off, error, warn, info, debug or trace          [info]
  --version              print the version
  --help                 print this text

  Port 0 picks a free port, which the log then names. 'none' as address means no listener.
  Called as rabbitmqctl, leveretctl or rabbitmq-diagnostics, leveret acts as that tool.

ENVIRONMENT
  LEVERET_DATA_DIR                 as --data-dir
  LEVERET_LOG, RUST_LOG            log filter, for example 'info,leveret::storage=debug'
  RABBITMQ_CONFIG_FILE             as --config
  RABBITMQ_NODE_PORT               AMQP port
  RABBITMQ_NODE_IP_ADDRESS         AMQP address
  RABBITMQ_NODENAME                name of the node in the API           [rabbit@HOST]
  RABBITMQ_DEFAULT_USER, _PASS     first user of an empty data directory [guest, guest]
  RABBITMQ_DEFAULT_VHOST           first virtual host                    [/]
  RABBITMQ_DEFAULT_USER_FILE, RABBITMQ_DEFAULT_PASS_FILE
                                   the same, read from a file

  The command line beats the environment, the environment beats the file.

SIGNALS
  SIGTERM, SIGINT        tell clients, write what is pending, exit
  SIGHUP                 the same from a terminal that is closed; else nothing

EXIT CODES
  0 done   64 wrong command line   69 not available   70 internal or storage failure
  78 wrong configuration
";

/// The answer to `--version`.
pub fn version_line() -> String {
    format!("leveret {}", env!("CARGO_PKG_VERSION"))
}

/// Reads a whole command line, the program's name included.
///
/// # Errors
/// One for what cannot be understood; its exit code is 64.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Command, ConfigError> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let args: Vec<OsString> = argv.collect();
    let name = Path::new(&program).file_name().and_then(OsStr::to_str);
    if let Some(tool) = name.and_then(ControlTool::called) {
        return Ok(Command::Control { tool, args });
    }
    let rest = || args[1..].to_vec();
    match args.first().and_then(|word| word.to_str()) {
        Some("ctl") => Ok(Command::Control {
            tool: ControlTool::Control,
            args: rest(),
        }),
        Some("diagnostics") => Ok(Command::Control {
            tool: ControlTool::Diagnostics,
            args: rest(),
        }),
        Some("perf") => Ok(Command::Perf { args: rest() }),
        Some("inspect") => inspect(&args[1..]),
        Some("help") => Ok(Command::Help),
        _ => server(args).map_err(|error| error.at(Origin::CommandLine)),
    }
}

fn inspect(args: &[OsString]) -> Result<Command, ConfigError> {
    match args {
        [word] if word == "--help" || word == "-h" => Ok(Command::Help),
        [directory] if !directory.to_string_lossy().starts_with('-') => Ok(Command::Inspect {
            data_dir: PathBuf::from(directory),
        }),
        _ => Err(usage("exactly one directory is expected after 'inspect'")),
    }
}

fn server(args: Vec<OsString>) -> Result<Command, ConfigError> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut server = ServerArgs::default();
    while let Some(arg) = parser.next().map_err(|error| usage(&error.to_string()))? {
        let option = match arg {
            Arg::Short('h') => return Ok(Command::Help),
            Arg::Short('V') => return Ok(Command::Version),
            Arg::Long(name) => name.to_owned(),
            Arg::Short(letter) => return Err(usage(&format!("unknown option '-{letter}'"))),
            Arg::Value(word) => {
                return Err(usage(&format!(
                    "unexpected argument '{}'",
                    word.to_string_lossy()
                )));
            }
        };
        let known = ["config", "data-dir", "listen", "http", "sync", "log-level"];
        match option.as_str() {
            "help" => return Ok(Command::Help),
            "version" => return Ok(Command::Version),
            name if !known.contains(&name) => {
                return Err(usage(&format!("unknown option '--{name}'")));
            }
            _ => {}
        }
        let value = parser
            .value()
            .map_err(|_| usage(&format!("option '--{option}' needs a value")))?;
        if value.is_empty() {
            return Err(usage(&format!("option '--{option}' needs a value")));
        }
        match option.as_str() {
            "config" => server.config_file = Some(PathBuf::from(value)),
            "data-dir" => server.data_dir = Some(PathBuf::from(value)),
            _ => {
                let text = value
                    .string()
                    .map_err(|_| usage(&format!("the value of '--{option}' is not UTF-8")))?;
                match option.as_str() {
                    "listen" => server.listen.push(text),
                    "http" => server.http = Some(text),
                    "sync" => server.sync = Some(text),
                    _ => server.log_level = Some(text),
                }
            }
        }
    }
    Ok(Command::Serve(server))
}

fn usage(reason: &str) -> ConfigError {
    ConfigError::new("", "", reason).at(Origin::CommandLine)
}

impl ServerArgs {
    /// Lays the options over `config`.
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        let wrong = |option: &str, value: &str| {
            let (option, value) = (format!("--{option}"), value.to_owned());
            move |reason: String| ConfigError::new(option, value, reason).at(Origin::CommandLine)
        };
        if let Some(directory) = &self.data_dir {
            config.data_dir.clone_from(directory);
        }
        if !self.listen.is_empty() {
            config.amqp_listen.clear();
        }
        for text in self.listen.iter().filter(|text| *text != "none") {
            let address = ListenAddress::parse(text).map_err(wrong("listen", text))?;
            config.amqp_listen.push(address);
        }
        if let Some(text) = &self.http {
            config.http_listen.clear();
            if text != "none" {
                let address = ListenAddress::parse(text).map_err(wrong("http", text))?;
                config.http_listen.push(address);
            }
        }
        if let Some(text) = &self.sync {
            config.sync = units::switch(text).map_err(wrong("sync", text))?;
        }
        if let Some(text) = &self.log_level {
            config.log_filter = units::log_level(text).map_err(wrong("log-level", text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Command, ConfigError> {
        parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_command_line_is_read_as_typed() {
        let full = "leveret --config a.conf --data-dir=/d --listen 1.2.3.4:5 --listen :6 --http none \
                    --sync off --log-level debug";
        let expected = ServerArgs {
            config_file: Some("a.conf".into()),
            data_dir: Some("/d".into()),
            listen: vec!["1.2.3.4:5".into(), ":6".into()],
            http: Some("none".into()),
            sync: Some("off".into()),
            log_level: Some("debug".into()),
        };
        assert_eq!(line(full), Ok(Command::Serve(expected.clone())));
        let mut config = Config::default();
        assert_eq!(expected.apply(&mut config), Ok(()));
        assert_eq!(config.amqp_listen.len(), 2);
        assert!(config.http_listen.is_empty() && !config.sync);
        assert_eq!(config.log_filter, "debug");
    }

    #[test]
    fn names_and_first_words_choose_the_command() {
        let control = |tool, args: &[&str]| {
            Ok(Command::Control {
                tool,
                args: args.iter().map(OsString::from).collect(),
            })
        };
        for (text, expected) in [
            ("leveret", Ok(Command::Serve(ServerArgs::default()))),
            ("rabbitmq-server", Ok(Command::Serve(ServerArgs::default()))),
            (
                "leveret ctl status",
                control(ControlTool::Control, &["status"]),
            ),
            (
                "/usr/sbin/rabbitmqctl -q ping",
                control(ControlTool::Control, &["-q", "ping"]),
            ),
            ("leveretctl", control(ControlTool::Control, &[])),
            (
                "rabbitmq-diagnostics -q ping",
                control(ControlTool::Diagnostics, &["-q", "ping"]),
            ),
            (
                "leveret inspect /d",
                Ok(Command::Inspect {
                    data_dir: "/d".into(),
                }),
            ),
            (
                "leveret perf --rate 1",
                Ok(Command::Perf {
                    args: vec!["--rate".into(), "1".into()],
                }),
            ),
            ("leveret --help", Ok(Command::Help)),
            ("leveret -h --nonsense", Ok(Command::Help)),
            ("leveret --version", Ok(Command::Version)),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_exits_64() {
        for (text, part) in [
            ("leveret --frobnicate", "unknown option '--frobnicate'"),
            ("leveret --frobnicate=1", "unknown option '--frobnicate'"),
            ("leveret -x", "unknown option '-x'"),
            ("leveret --listen", "'--listen' needs a value"),
            ("leveret --help=no", "--help"),
            ("leveret start", "unexpected argument 'start'"),
            ("leveret --data-dir=", "option '--data-dir' needs a value"),
            ("leveret --config=", "option '--config' needs a value"),
            ("leveret --listen=", "option '--listen' needs a value"),
            ("leveret inspect", "exactly one directory"),
            ("leveret inspect a b", "exactly one directory"),
        ] {
            match line(text) {
                Err(error) => {
                    assert!(error.to_string().contains(part), "{text}: {error}");
                    assert_eq!(error.exit_code(), 64, "{text}");
                }
                Ok(Command::Help) if text.contains("--help") => {}
                Ok(command) => panic!("{text}: {command:?}"),
            }
        }
        for (field, part) in [
            (
                ServerArgs {
                    listen: vec!["x:1".into()],
                    ..ServerArgs::default()
                },
                "--listen = x:1",
            ),
            (
                ServerArgs {
                    http: Some("1:2:3".into()),
                    ..ServerArgs::default()
                },
                "--http",
            ),
            (
                ServerArgs {
                    sync: Some("sometimes".into()),
                    ..ServerArgs::default()
                },
                "--sync",
            ),
            (
                ServerArgs {
                    log_level: Some("loud".into()),
                    ..ServerArgs::default()
                },
                "--log-level",
            ),
        ] {
            let error = field.apply(&mut Config::default()).expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 64);
        }
    }

    #[test]
    fn the_help_names_every_option() {
        for option in [
            "--config",
            "--data-dir",
            "--listen",
            "--http",
            "--sync",
            "--log-level",
        ] {
            assert!(HELP.contains(option), "{option}");
        }
        assert!(HELP.lines().all(|line| line.len() <= 100));
    }
}
