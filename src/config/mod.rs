//! What the operator asked for, as plain values.
//!
//! Three sources are read and laid over each other, the later one winning: the configuration file
//! ([`mod@file`], `rabbitmq.conf` syntax), the environment ([`mod@env`]), the command line ([`args`]). The
//! result is a [`Config`]: values as meant, with their units in their names, every bound of the
//! broker among them ([`Limits`]). Nothing here opens a socket or a log; what cannot be accepted
//! is a [`ConfigError`] before anything else has happened.

pub mod args;
pub mod env;
pub mod file;
mod limits;
mod listen;
mod units;

pub use limits::{LimitKey, Limits};
pub use listen::ListenAddress;

use std::fmt;
use std::path::PathBuf;

/// SASL mechanisms that there are, in the order in which they are offered.
pub const MECHANISMS: [&str; 3] = ["PLAIN", "AMQPLAIN", "ANONYMOUS"];

/// Exit code of a server that cannot use its configuration (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;
/// Exit code of a command line that cannot be understood (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;

/// Everything the server is told, with a default for every value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the log, the definitions and the control socket.
    pub data_dir: PathBuf,
    /// Where AMQP is spoken; empty when no listener is wanted.
    pub amqp_listen: Vec<ListenAddress>,
    /// Where HTTP is spoken; empty when only the control socket is wanted.
    pub http_listen: Vec<ListenAddress>,
    /// Options of accepted and listening sockets.
    pub socket: SocketOptions,
    /// Whether a flush waits for stable storage. Off means that a power cut may take confirmed
    /// messages; a crash of the process alone does not.
    pub sync: bool,
    /// Filter in the syntax of `env_logger` (`info`, `leveret::storage=debug,info`).
    pub log_filter: String,
    /// How the server names itself to clients and in the HTTP API.
    pub identity: Identity,
    /// What an empty data directory is filled with.
    pub seed: Seed,
    /// Users who may log in from loopback addresses only.
    pub loopback_users: Vec<String>,
    /// SASL mechanisms that are offered.
    pub mechanisms: Vec<String>,
    /// Name and password of the user as whom the mechanism ANONYMOUS logs in.
    pub anonymous_login: (String, String),
    /// Every bound of the broker.
    pub limits: Limits,
    /// What was understood and has no effect, one sentence each, for the log once there is one.
    pub warnings: Vec<String>,
}

/// How the server names itself. Clients branch on `product` and `version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Server property `product`.
    pub product: String,
    /// Server property `version` and the API's `rabbitmq_version`.
    pub version: String,
    /// Name of this node in the API, `rabbit@HOST` by default.
    pub node: String,
    /// Server property `cluster_name`; the node's name by default.
    pub cluster_name: String,
}

impl Identity {
    /// The default of [`Identity::product`]: kombu, Spring and others take a broker of another name
    /// for one without extensions.
    pub const PRODUCT: &'static str = "RabbitMQ";

    /// The default of [`Identity::version`].
    ///
    /// At least 4.0, since kombu (and Celery with it) then asks for prefetch per consumer as the
    /// specification means it, and since `NServiceBus` accepts an unlimited delivery limit from
    /// there on (it refuses anything below 3.10 outright). Spring's health indicator only needs
    /// some version. Below 4.3, since tools that read 4.3 expect transient queues to be refused
    /// and global prefetch to be ignored, which this broker does not do. 4.1 is the oldest release
    /// of that range with the HTTP health checks that the Kubernetes operator asks for.
    pub const VERSION: &'static str = "4.1.0";
}

/// What an empty data directory is filled with at the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Name of the first user.
    pub user: String,
    /// Password of the first user.
    pub password: String,
    /// Tags of the first user.
    pub tags: Vec<String>,
    /// Name of the first virtual host.
    pub vhost: String,
    /// Expression of what the first user may declare and delete.
    pub configure: String,
    /// Expression of what the first user may publish to and bind.
    pub write: String,
    /// Expression of what the first user may consume from and purge.
    pub read: String,
}

/// Options of sockets; `None` leaves the kernel's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections that the kernel queues before they are accepted.
    pub backlog: u32,
    /// `TCP_NODELAY`: a small answer leaves at once.
    pub nodelay: bool,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `SO_SNDBUF`.
    pub send_octets: Option<u32>,
    /// `SO_RCVBUF`.
    pub receive_octets: Option<u32>,
    /// `SO_LINGER`.
    pub linger_s: Option<u16>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            backlog: 1024,
            nodelay: true,
            keepalive: false,
            send_octets: None,
            receive_octets: None,
            linger_s: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let node = format!("rabbit@{}", env::short_host_name());
        Config {
            data_dir: PathBuf::from("leveret-data"),
            amqp_listen: vec![ListenAddress::Any { port: 5672 }],
            http_listen: vec![ListenAddress::Any { port: 15672 }],
            socket: SocketOptions::default(),
            sync: true,
            log_filter: "info".to_owned(),
            identity: Identity {
                product: Identity::PRODUCT.to_owned(),
                version: Identity::VERSION.to_owned(),
                cluster_name: node.clone(),
                node,
            },
            seed: Seed {
                user: "guest".to_owned(),
                password: "guest".to_owned(),
                tags: vec!["administrator".to_owned()],
                vhost: "/".to_owned(),
                configure: ".*".to_owned(),
                write: ".*".to_owned(),
                read: ".*".to_owned(),
            },
            loopback_users: vec!["guest".to_owned()],
            mechanisms: MECHANISMS.map(str::to_owned).to_vec(),
            anonymous_login: ("guest".to_owned(), "guest".to_owned()),
            limits: Limits::default(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// Lays file, environment and command line over the defaults.
    ///
    /// * `variable`: reads one environment variable; `None` when unset or not UTF-8.
    pub fn load(
        args: &args::ServerArgs,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(path) = env::config_file(args.config_file.as_deref(), variable) {
            file::apply(&mut config, &path, variable)?;
        }
        env::apply(&mut config, variable)?;
        args.apply(&mut config)?;
        config.check()?;
        Ok(config)
    }

    /// Relations between values that no single source can judge.
    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let ordered = [
            ("outbox_octets_low", limits.outbox_octets_low as u64),
            ("outbox_octets_high", limits.outbox_octets_high as u64),
            ("outbox_octets_max", limits.outbox_octets_max as u64),
        ];
        for pair in ordered.windows(2) {
            if pair[0].1 > pair[1].1 {
                let reason = format!("must not be greater than {} ({})", pair[1].0, pair[1].1);
                return Err(ConfigError::new(
                    format!("leveret.{}", pair[0].0),
                    pair[0].1.to_string(),
                    reason,
                ));
            }
        }
        if limits.segment_octets_min > limits.segment_octets_max {
            return Err(ConfigError::new(
                "leveret.segment_octets_min",
                limits.segment_octets_min.to_string(),
                format!(
                    "must not be greater than segment_octets_max ({})",
                    limits.segment_octets_max
                ),
            ));
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, counted from 1; 0 is the file as a whole.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment,
    /// The command line.
    CommandLine,
    /// Two sources together.
    Combined,
}

/// A value that cannot be accepted, and why. Raised before any file of the server is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the option, variable or key.
    pub key: String,
    /// The value as given; empty for one that is missing. Passwords are not repeated.
    pub value: String,
    /// What is wrong with it, as the end of a sentence.
    pub reason: String,
    /// Where it stands.
    pub origin: Origin,
}

impl ConfigError {
    /// An error that belongs to no single source yet; see [`ConfigError::at`].
    pub fn new(
        key: impl Into<String>,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        ConfigError {
            key: key.into(),
            value: value.into(),
            reason: reason.into(),
            origin: Origin::Combined,
        }
    }

    /// The same error, told where it stands.
    #[must_use]
    pub fn at(self, origin: Origin) -> Self {
        ConfigError { origin, ..self }
    }

    /// 64 for the command line, 78 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self.origin {
            Origin::CommandLine => EXIT_USAGE,
            _ => EXIT_CONFIG,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { path, line: 0 } => write!(f, "{}: ", path.display())?,
            Origin::File { path, line } => write!(f, "{}:{line}: ", path.display())?,
            Origin::Environment => f.write_str("environment: ")?,
            Origin::CommandLine | Origin::Combined => {}
        }
        match (self.key.as_str(), self.value.as_str()) {
            ("", _) => f.write_str(&self.reason),
            (key, "") => write!(f, "{key}: {}", self.reason),
            (key, value) => write!(f, "{key} = {value}: {}", self.reason),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use args::ServerArgs;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn without_any_source_the_defaults_hold() {
        let config = Config::load(&ServerArgs::default(), &nothing).expect("defaults are valid");
        assert_eq!(config, Config::default());
        assert_eq!(config.limits.channel_max, 2047);
        assert_eq!(config.limits.frame_max, 131_072);
        assert_eq!(config.limits.heartbeat_s, 60);
        assert_eq!(config.limits.body_octets_max, 134_217_728);
        assert_eq!(config.amqp_listen, [ListenAddress::Any { port: 5672 }]);
        assert_eq!(config.http_listen, [ListenAddress::Any { port: 15672 }]);
        assert!(config.sync && config.identity.node.starts_with("rabbit@"));
    }

    #[test]
    fn the_command_line_beats_the_environment_beats_the_file() {
        let path = std::env::temp_dir().join(format!("leveret-config-{}.conf", std::process::id()));
        std::fs::write(
            &path,
            "listeners.tcp.default = 1000\ndefault_user = file\ndefault_vhost = filed\n",
        )
        .expect("the temporary directory takes files");
        let environment = |name: &str| match name {
            "RABBITMQ_CONFIG_FILE" => Some(path.display().to_string()),
            "RABBITMQ_NODE_PORT" => Some("2000".to_owned()),
            "RABBITMQ_DEFAULT_USER" => Some("environment".to_owned()),
            _ => None,
        };
        let ports = |args: &ServerArgs| {
            let config = Config::load(args, &environment).expect("all sources are valid");
            assert_eq!(config.seed.user, "environment");
            assert_eq!(config.seed.vhost, "filed");
            config.amqp_listen
        };
        assert_eq!(
            ports(&ServerArgs::default()),
            [ListenAddress::Any { port: 2000 }]
        );
        let args = ServerArgs {
            listen: vec!["127.0.0.1:3000".to_owned()],
            ..ServerArgs::default()
        };
        assert_eq!(
            ports(&args),
            [ListenAddress::At(
                "127.0.0.1:3000".parse().expect("an address")
            )]
        );
        std::fs::remove_file(&path).expect("the file was written above");
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        let mut config = Config::default();
        config.limits.outbox_octets_low = config.limits.outbox_octets_high + 1;
        let error = config.check().expect_err("low is above high");
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("outbox_octets_low"), "{error}");
    }
}
