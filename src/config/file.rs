//! Settings from a file in the syntax of `rabbitmq.conf`.
//!
//! ```text
//! # a comment
//! listeners.tcp.default = 5672        # a comment after a value
//! default_pass          = 'a#b'       # quoted: taken as it stands
//! default_user          = $(APP_USER) # an environment variable
//! ```
//!
//! A key that RabbitMQ knows and that has no effect here is accepted with a warning, so that a
//! file which works there works here; a key that nobody knows is an error with its line, since it
//! is most likely a slip. The last of two lines with the same key wins, as in RabbitMQ.

use super::units;
use super::{Config, ConfigError, ListenAddress, MECHANISMS, Origin};
use std::path::{Path, PathBuf};

/// A configuration file is read whole; more than this is not one.
const FILE_OCTETS_MAX: u64 = 1 << 20;

/// Reads `path` and lays it over `config`. A directory stands for its `*.conf` files in the order
/// of their names; as in RabbitMQ the extension `.conf` may be left out.
///
/// * `variable`: reads one environment variable, for `$(NAME)`.
pub(super) fn apply(
    config: &mut Config,
    path: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    for path in files(path)? {
        let text = read(&path).map_err(|reason| {
            let whole = Origin::File {
                path: path.clone(),
                line: 0,
            };
            ConfigError::new("", "", reason).at(whole)
        })?;
        apply_text(config, &path, &text, variable)?;
    }
    Ok(())
}

fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if !path.is_dir() {
        let with_extension = PathBuf::from(format!("{}.conf", path.display()));
        let chosen = if !path.exists() && with_extension.exists() {
            with_extension
        } else {
            path.to_owned()
        };
        return Ok(vec![chosen]);
    }
    let unreadable = |error: std::io::Error| {
        let whole = Origin::File {
            path: path.to_owned(),
            line: 0,
        };
        ConfigError::new("", "", format!("the directory cannot be read: {error}")).at(whole)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if about.len() > FILE_OCTETS_MAX {
        return Err(format!("is longer than {FILE_OCTETS_MAX} octets"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

fn apply_text(
    config: &mut Config,
    path: &Path,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    let mut listeners = Listeners::default();
    // Some editors begin a file with a mark that nobody sees.
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let at = || Origin::File {
            path: path.to_owned(),
            line: index + 1,
        };
        let (key, value) = match setting(line, variable) {
            Ok(None) => continue,
            Ok(Some(pair)) => pair,
            Err(reason) => return Err(ConfigError::new("", "", reason).at(at())),
        };
        if let Err(reason) = set(config, &mut listeners, key, &value) {
            let shown = if key == "default_pass" || key == "anonymous_login_pass" {
                String::new()
            } else {
                value
            };
            return Err(ConfigError::new(key, shown, reason).at(at()));
        }
    }
    listeners.apply(config);
    Ok(())
}

/// One line as (key, value); `None` for an empty line or a comment.
fn setting<'a>(
    line: &'a str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(&'a str, String)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, rest) = line.split_once('=').ok_or("'key = value' is expected")?;
    let (key, rest) = (key.trim(), rest.trim());
    if key.is_empty() || key.contains(char::is_whitespace) || key.contains('#') {
        return Err("'key = value' is expected".to_owned());
    }
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => {
            let (value, after) = quoted
                .split_once('\'')
                .ok_or("the closing quote is missing")?;
            let after = after.trim();
            if !after.is_empty() && !after.starts_with('#') {
                return Err("something follows the closing quote".to_owned());
            }
            value.to_owned()
        }
        None => interpolated(
            rest.split('#').next().unwrap_or_default().trim_end(),
            variable,
        )?,
    };
    if value.is_empty() {
        return Err(format!("{key}: a value is expected"));
    }
    Ok(Some((key, value)))
}

/// The value with every `$(NAME)` replaced by the variable's value.
fn interpolated(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut value, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("$(") {
        let (name, after) = after.split_once(')').ok_or("')' is missing after '$('")?;
        value.push_str(before);
        value.push_str(&variable(name).ok_or_else(|| format!("variable {name} is not set"))?);
        rest = after;
    }
    value.push_str(rest);
    Ok(value)
}

/// Listeners and mechanisms are collected over the whole file, since several lines make one set.
#[derive(Default)]
struct Listeners {
    /// Mechanisms named by `auth_mechanisms.N`, with their number.
    mechanisms: Vec<(String, String)>,
    amqp: Vec<(String, ListenAddress)>,
    amqp_none: bool,
    http_port: Option<u16>,
    http_host: Option<ListenAddress>,
}

impl Listeners {
    fn apply(self, config: &mut Config) {
        if !self.mechanisms.is_empty() {
            let is_named = |name: &str| self.mechanisms.iter().any(|(_, it)| it == name);
            config.mechanisms.retain(|name| is_named(name));
        }
        if self.amqp_none || !self.amqp.is_empty() {
            config.amqp_listen = self.amqp.into_iter().map(|(_, address)| address).collect();
        }
        if self.http_port.is_some() || self.http_host.is_some() {
            let host = self.http_host.unwrap_or(ListenAddress::Any { port: 0 });
            config.http_listen = vec![host.with_port(self.http_port.unwrap_or(15672))];
        }
    }
}

/// Applies one setting; the error is the end of a sentence about it.
fn set(
    config: &mut Config,
    listeners: &mut Listeners,
    key: &str,
    value: &str,
) -> Result<(), String> {
    let port = || units::number(value, 0, 65_535).map(|number| number as u16);
    match key {
        "default_user" => value.clone_into(&mut config.seed.user),
        "default_pass" => value.clone_into(&mut config.seed.password),
        "default_vhost" => value.clone_into(&mut config.seed.vhost),
        "default_permissions.configure" => value.clone_into(&mut config.seed.configure),
        "default_permissions.write" => value.clone_into(&mut config.seed.write),
        "default_permissions.read" => value.clone_into(&mut config.seed.read),
        "listeners.tcp" => {
            if value != "none" {
                return Err("'none' is expected, or a name after 'listeners.tcp.'".to_owned());
            }
            listeners.amqp.clear();
            listeners.amqp_none = true;
        }
        "heartbeat" => return limit(config, "heartbeat_s", value),
        "frame_max" | "initial_frame_max" => return limit(config, key, value),
        "channel_max" | "max_channels_per_connection" => {
            // Zero is RabbitMQ's word for no limit; the protocol's own limit remains.
            let value = if value == "0" { "65535" } else { value };
            return limit(config, "channel_max", value);
        }
        "connection_max" | "max_connections" | "consumer_max_per_channel"
            if value == "infinity" => {}
        "connection_max" | "max_connections" => return limit(config, "connections_max", value),
        "consumer_max_per_channel" => return limit(config, "consumers_per_channel_max", value),
        "disk_free_limit.absolute" => return limit(config, "disk_free_octets_min", value),
        "max_message_size" => return limit(config, "body_octets_max", value),
        "handshake_timeout" => return limit(config, "handshake_timeout_ms", value),
        "loopback_users" => {
            if value != "none" {
                return Err("'none' is expected, or a name after 'loopback_users.'".to_owned());
            }
            config.loopback_users.clear();
        }
        "anonymous_login_user" if value == "none" => {
            config.mechanisms.retain(|name| name != "ANONYMOUS");
        }
        "anonymous_login_user" => value.clone_into(&mut config.anonymous_login.0),
        "anonymous_login_pass" => value.clone_into(&mut config.anonymous_login.1),
        "log.console.level" | "log.default.level" => config.log_filter = units::log_level(value)?,
        "management.tcp.port" => listeners.http_port = Some(port()?),
        "management.tcp.ip" => listeners.http_host = Some(ListenAddress::with_host(value, 0)?),
        "product.name" => value.clone_into(&mut config.identity.product),
        "product.version" => value.clone_into(&mut config.identity.version),
        "cluster_name" => value.clone_into(&mut config.identity.cluster_name),
        "leveret.data_dir" => config.data_dir = PathBuf::from(value),
        "leveret.sync" => config.sync = units::switch(value)?,
        _ => return set_family(config, listeners, key, value),
    }
    Ok(())
}

/// Keys whose last part is a name of the operator's choice, and keys without effect.
fn set_family(
    config: &mut Config,
    listeners: &mut Listeners,
    key: &str,
    value: &str,
) -> Result<(), String> {
    if let Some(name) = key.strip_prefix("listeners.tcp.") {
        let address = ListenAddress::parse(value)?;
        listeners.amqp.retain(|(other, _)| other != name);
        listeners.amqp.push((name.to_owned(), address));
    } else if let Some(number) = key.strip_prefix("auth_mechanisms.") {
        if !MECHANISMS.contains(&value) {
            let warning = format!("mechanism '{value}' is not there and is not offered");
            config.warnings.push(warning);
        }
        listeners.mechanisms.retain(|(other, _)| other != number);
        let (number, value) = (number.to_owned(), value.to_owned());
        listeners.mechanisms.push((number, value));
    } else if let Some(user) = key.strip_prefix("loopback_users.") {
        put_in_list(&mut config.loopback_users, user, units::switch(value)?);
    } else if let Some(tag) = key.strip_prefix("default_user_tags.") {
        put_in_list(&mut config.seed.tags, tag, units::switch(value)?);
    } else if let Some(option) = key.strip_prefix("tcp_listen_options.") {
        return socket_option(config, option, value);
    } else if let Some(name) = key.strip_prefix("leveret.") {
        return limit(config, name, value);
    } else if is_without_effect(key) {
        config.warnings.push(format!(
            "configuration key '{key}' is known and has no effect yet"
        ));
    } else {
        return Err("this key is not known".to_owned());
    }
    Ok(())
}

fn limit(config: &mut Config, name: &str, value: &str) -> Result<(), String> {
    let set = config.limits.set(name, value);
    set.unwrap_or_else(|| Err("this key is not known".to_owned()))
}

fn put_in_list(list: &mut Vec<String>, name: &str, present: bool) {
    list.retain(|other| other != name);
    if present {
        list.push(name.to_owned());
    }
}

fn socket_option(config: &mut Config, option: &str, value: &str) -> Result<(), String> {
    let octets = || units::number(value, 1_024, 1 << 30).map(|number| number as u32);
    let socket = &mut config.socket;
    match option {
        "backlog" => socket.backlog = units::number(value, 1, 65_535)? as u32,
        "nodelay" => socket.nodelay = units::switch(value)?,
        "keepalive" => socket.keepalive = units::switch(value)?,
        "sndbuf" => socket.send_octets = Some(octets()?),
        "recbuf" => socket.receive_octets = Some(octets()?),
        "linger.on" => {
            socket.linger_s = units::switch(value)?.then_some(socket.linger_s.unwrap_or(0));
        }
        "linger.timeout" => socket.linger_s = Some(units::number(value, 0, 65_535)? as u16),
        "exit_on_close" | "send_timeout" | "buffer" | "high_watermark" | "low_watermark" => {
            let warning = format!(
                "configuration key 'tcp_listen_options.{option}' is known and has no effect yet"
            );
            config.warnings.push(warning);
        }
        _ => return Err("this key is not known".to_owned()),
    }
    Ok(())
}

/// Keys of RabbitMQ that are accepted and do nothing: one by one, or whole families (ending with
/// a dot).
const WITHOUT_EFFECT: &[&str] = &[
    "auth_backends.",
    "auth_cache.",
    "auth_http.",
    "auth_ldap.",
    "auth_oauth2.",
    "background_gc_enabled",
    "background_gc_target_interval",
    "channel_max_per_node",
    "channel_operation_timeout",
    "classic_queue.",
    "cluster_exchange_limit",
    "cluster_formation.",
    "cluster_keepalive_interval",
    "cluster_partition_handling",
    "cluster_partition_handling.",
    "cluster_queue_limit",
    "cluster_tags.",
    "collect_statistics",
    "collect_statistics_interval",
    "consumer_timeout",
    "credential_validator.",
    "default_limits.",
    "default_policies.",
    "default_queue_type",
    "default_users.",
    "definitions.",
    "delegate_count",
    "deprecated_features.",
    "disk_free_limit.",
    "distribution.",
    "erlang.",
    "federation.",
    "hipe_compile",
    "listeners.ssl",
    "listeners.ssl.",
    "load_definitions",
    "log.",
    "management.",
    "management_agent.",
    "max_message_interceptors.",
    "message_interceptors.",
    "message_store_shutdown_timeout",
    "metadata_store.",
    "mirroring_flow_control",
    "mirroring_sync_batch_size",
    "mnesia_table_loading_retry_limit",
    "mnesia_table_loading_retry_timeout",
    "motd_file",
    "mqtt.",
    "msg_store_credit_disc_bound.",
    "msg_store_file_size_limit",
    "net_ticktime",
    "node_tags.",
    "num_acceptors.",
    "password_hashing_module",
    "prometheus.",
    "proxy_protocol",
    "queue_index_embed_msgs_below",
    "queue_leader_locator",
    "queue_master_locator",
    "quorum_cluster_size",
    "quorum_queue.",
    "raft.",
    "reverse_dns_lookups",
    "session_max_per_connection",
    "shovel.",
    "ssl_cert_login_from",
    "ssl_handshake_timeout",
    "ssl_options",
    "ssl_options.",
    "statistics_delegate_count",
    "stomp.",
    "stream.",
    "stream_queue.",
    "tcp_listen_options",
    "total_memory_available_override_value",
    "trace_vhosts.",
    "track_auth_attempt_source",
    "vhost_max",
    "vhost_restart_strategy",
    "vm_memory_calculation_strategy",
    "vm_memory_high_watermark.",
    "vm_memory_high_watermark_paging_ratio",
    "web_dispatch.",
    "web_mqtt.",
    "web_stomp.",
];

fn is_without_effect(key: &str) -> bool {
    WITHOUT_EFFECT
        .iter()
        .any(|known| match known.strip_suffix('.') {
            Some(_) => key.starts_with(known),
            None => key == *known,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        let variable = |name: &str| (name == "APP_USER").then(|| "hare".to_owned());
        apply_text(&mut config, Path::new("a.conf"), text, &variable).map(|()| config)
    }

    #[test]
    fn a_file_as_operators_write_it() {
        let config = load(
            "## AMQP\n\
             listeners.tcp.default = 5673\n\
             listeners.tcp.local=127.0.0.1:5674   # second\n\
             heartbeat = 30\n frame_max=65536\nchannel_max = 0\n\
             max_message_size = 64MiB\ndisk_free_limit.absolute = 1MB\nhandshake_timeout = 5000\n\
             default_user = $(APP_USER)\ndefault_pass = 'a#b $(X)'\ndefault_vhost = v\n\
             default_user_tags.administrator = false\ndefault_user_tags.monitoring = true\n\
             default_permissions.read = ^a\n\
             loopback_users.guest = false\nloopback_users.root = true\n\
             log.console.level = warning\n\
             management.tcp.port = 15673\nmanagement.tcp.ip = 127.0.0.1\n\
             tcp_listen_options.backlog = 4096\ntcp_listen_options.nodelay = false\n\
             tcp_listen_options.sndbuf = 65536\ntcp_listen_options.linger.timeout = 3\n\
             product.version = 4.2.0\n\
             leveret.tail_octets_max = 8MiB\nleveret.sync = off\n\
             cluster_formation.peer_discovery_backend = k8s\nvm_memory_high_watermark.relative = 0.4\n",
        )
        .expect("every line is valid");
        let shown: Vec<String> = config.amqp_listen.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[::]:5673", "127.0.0.1:5674"]);
        assert_eq!(config.http_listen[0].to_string(), "127.0.0.1:15673");
        let limits = &config.limits;
        assert_eq!(
            (limits.heartbeat_s, limits.frame_max, limits.channel_max),
            (30, 65_536, 65_535)
        );
        assert_eq!(
            (limits.body_octets_max, limits.handshake_timeout_ms),
            (64 << 20, 5_000)
        );
        assert_eq!(limits.tail_octets_max, 8 << 20);
        assert_eq!(limits.disk_free_octets_min, 1_000_000);
        let seed = &config.seed;
        assert_eq!(
            (&*seed.user, &*seed.password, &*seed.vhost),
            ("hare", "a#b $(X)", "v")
        );
        assert_eq!(
            (&seed.tags[..], &*seed.read),
            (&["monitoring".to_owned()][..], "^a")
        );
        assert_eq!(config.loopback_users, ["root"]);
        assert_eq!(config.log_filter, "warn");
        assert_eq!(
            (config.socket.backlog, config.socket.nodelay),
            (4096, false)
        );
        assert_eq!(
            (config.socket.send_octets, config.socket.linger_s),
            (Some(65_536), Some(3))
        );
        assert_eq!(config.identity.version, "4.2.0");
        assert!(!config.sync);
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
        assert!(config.warnings[0].contains("cluster_formation.peer_discovery_backend"));
    }

    #[test]
    fn a_file_from_an_editor_that_ends_lines_by_two_and_marks_the_beginning() {
        let config =
            load("\u{FEFF}heartbeat = 30\r\n# c\r\nchannel_max = 7\r\n").expect("it is read");
        assert_eq!(config.limits.heartbeat_s, 30);
        assert_eq!(config.limits.channel_max, 7);
    }

    #[test]
    fn a_slip_is_named_with_its_line() {
        for (text, expected) in [
            (
                "\n\nhartbeat = 3\n",
                "a.conf:3: hartbeat = 3: this key is not known",
            ),
            (
                "leveret.nonsense = 3",
                "a.conf:1: leveret.nonsense = 3: this key is not known",
            ),
            (
                "tcp_listen_options.x = 3",
                "a.conf:1: tcp_listen_options.x = 3: this key is not known",
            ),
            (
                "frame_max = 100",
                "a.conf:1: frame_max = 100: must be from 4096 to 16777216",
            ),
            (
                "heartbeat = soon",
                "a.conf:1: heartbeat = soon: a number is expected",
            ),
            (
                "listeners.tcp.1 = here",
                "a.conf:1: listeners.tcp.1 = here: ADDRESS:PORT is expected, a port being from 0 to 65535",
            ),
            (
                "listeners.tcp = 5672",
                "a.conf:1: listeners.tcp = 5672: 'none' is expected, or a name after 'listeners.tcp.'",
            ),
            (
                "loopback_users.guest = perhaps",
                "a.conf:1: loopback_users.guest = perhaps: 'on' or 'off' is expected",
            ),
            ("no equals sign", "a.conf:1: 'key = value' is expected"),
            ("two words = 1", "a.conf:1: 'key = value' is expected"),
            (
                "default_user =",
                "a.conf:1: default_user: a value is expected",
            ),
            (
                "default_user = # nobody",
                "a.conf:1: default_user: a value is expected",
            ),
            (
                "default_user = $(NOBODY)",
                "a.conf:1: variable NOBODY is not set",
            ),
            (
                "default_user = $(NOBODY",
                "a.conf:1: ')' is missing after '$('",
            ),
            (
                "default_pass = 'x",
                "a.conf:1: the closing quote is missing",
            ),
            (
                "default_pass = 'x' y",
                "a.conf:1: something follows the closing quote",
            ),
        ] {
            let error = load(text).expect_err(text);
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.exit_code(), 78);
        }
    }

    #[test]
    fn listeners_can_be_taken_away_and_the_last_line_wins() {
        assert!(
            load("listeners.tcp = none")
                .expect("valid")
                .amqp_listen
                .is_empty()
        );
        let config = load("listeners.tcp.default = 1\nlisteners.tcp.default = 2").expect("valid");
        assert_eq!(config.amqp_listen, [ListenAddress::Any { port: 2 }]);
        assert!(
            load("loopback_users = none")
                .expect("valid")
                .loopback_users
                .is_empty()
        );
    }

    #[test]
    fn a_directory_is_read_in_order_and_an_extension_may_be_missing() {
        let directory = std::env::temp_dir().join(format!("leveret-conf.d-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the temporary directory takes directories");
        for (name, text) in [
            ("20-b.conf", "heartbeat = 20\n"),
            ("10-a.conf", "heartbeat = 10\nframe_max = 8192\n"),
            ("30-c.txt", "this is no configuration"),
        ] {
            std::fs::write(directory.join(name), text).expect("a file can be written");
        }
        let limits = |path: &Path| {
            let mut config = Config::default();
            apply(&mut config, path, &|_| None).expect("readable");
            (config.limits.heartbeat_s, config.limits.frame_max)
        };
        assert_eq!(limits(&directory), (20, 8192));
        assert_eq!(limits(&directory.join("10-a")), (10, 8192));
        let mut config = Config::default();
        let missing =
            apply(&mut config, &directory.join("x"), &|_| None).expect_err("no such file");
        assert_eq!(missing.exit_code(), 78);
        assert!(
            missing.to_string().contains("x: cannot be read"),
            "{missing}"
        );
        std::fs::remove_dir_all(&directory).expect("made above");
    }

    #[test]
    fn mechanisms_are_those_that_are_named() {
        let offered = |text: &str| load(text).expect("it is valid").mechanisms.join(" ");
        assert_eq!(offered("heartbeat = 10"), "PLAIN AMQPLAIN ANONYMOUS");
        assert_eq!(offered("anonymous_login_user = none"), "PLAIN AMQPLAIN");
        let named = "auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = ANONYMOUS\nauth_mechanisms.2 = PLAIN";
        assert_eq!(offered(named), "PLAIN");
        let config = load("anonymous_login_user = app\nanonymous_login_pass = secret");
        let login = config.expect("it is valid").anonymous_login;
        assert_eq!(login, ("app".to_owned(), "secret".to_owned()));
    }

    #[test]
    fn families_without_effect_do_not_swallow_keys_that_have_one() {
        for key in [
            "log.console.level",
            "management.tcp.port",
            "tcp_listen_options.backlog",
        ] {
            let value = if key.ends_with("level") {
                "info"
            } else {
                "2000"
            };
            let config = load(&format!("{key} = {value}")).expect(key);
            assert!(config.warnings.is_empty(), "{key}");
        }
        assert!(WITHOUT_EFFECT.is_sorted());
    }
}
