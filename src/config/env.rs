//! Settings from the environment.

use super::units;
use super::{Config, ConfigError, ListenAddress, Origin};
use std::path::{Path, PathBuf};

/// Which configuration file to read: `--config` or `RABBITMQ_CONFIG_FILE`.
pub(super) fn config_file(
    typed: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let named = || set(variable, "RABBITMQ_CONFIG_FILE").map(PathBuf::from);
    typed.map(Path::to_owned).or_else(named)
}

/// Lays the variables over `config`.
pub(super) fn apply(
    config: &mut Config,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    let get = |name: &str| set(variable, name);
    if let Some(directory) = get("LEVERET_DATA_DIR") {
        config.data_dir = PathBuf::from(directory);
    }
    if let Some(filter) = get("LEVERET_LOG").or_else(|| get("RUST_LOG")) {
        config.log_filter = filter;
    }
    if let Some(node) = get("RABBITMQ_NODENAME") {
        let node = if node.contains('@') {
            node
        } else {
            format!("{node}@{}", short_host_name())
        };
        config.identity.cluster_name.clone_from(&node);
        config.identity.node = node;
    }
    listeners(config, &get)?;
    for (name, target) in [
        ("RABBITMQ_DEFAULT_USER", &mut config.seed.user),
        ("RABBITMQ_DEFAULT_PASS", &mut config.seed.password),
        ("RABBITMQ_DEFAULT_VHOST", &mut config.seed.vhost),
    ] {
        if let Some(value) = get(name) {
            *target = value;
        } else if let Some(path) = get(&format!("{name}_FILE")) {
            *target = secret(&format!("{name}_FILE"), &path)?;
        }
    }
    Ok(())
}

/// `RABBITMQ_NODE_PORT` and `RABBITMQ_NODE_IP_ADDRESS` replace the AMQP listeners; each keeps what
/// the other would have been.
fn listeners(config: &mut Config, get: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let (port, host) = (get("RABBITMQ_NODE_PORT"), get("RABBITMQ_NODE_IP_ADDRESS"));
    if port.is_none() && host.is_none() {
        return Ok(());
    }
    let number = match &port {
        None => 5672,
        Some(text) => units::number(text, 0, 65_535)
            .map_err(|reason| wrong("RABBITMQ_NODE_PORT", text, reason))?
            as u16,
    };
    let host = host.unwrap_or_default();
    let address = ListenAddress::with_host(&host, number)
        .map_err(|reason| wrong("RABBITMQ_NODE_IP_ADDRESS", &host, reason))?;
    config.amqp_listen = vec![address];
    Ok(())
}

/// The text of a file that holds one secret, without the line end that editors leave.
fn secret(name: &str, path: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(name, path, format!("cannot be read: {error}")))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.len() > 4096 {
        return Err(wrong(
            name,
            path,
            "holds no text of 1 to 4096 octets".to_owned(),
        ));
    }
    Ok(text.to_owned())
}

/// A variable that is set to something; an empty one counts as unset.
fn set(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).filter(|value| !value.is_empty())
}

fn wrong(name: &str, value: &str, reason: String) -> ConfigError {
    ConfigError::new(name, value, reason).at(Origin::Environment)
}

/// The machine's name up to the first dot, as RabbitMQ puts it into the node's name.
pub(super) fn short_host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    match name.split('.').next() {
        Some(short) if !short.is_empty() => short.to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&'static str, &'static str)]) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        let lookup = |name: &str| {
            pairs
                .iter()
                .find(|pair| pair.0 == name)
                .map(|pair| pair.1.to_owned())
        };
        apply(&mut config, &lookup).map(|()| config)
    }

    #[test]
    fn variables_are_laid_over_the_defaults() {
        let config = with(&[
            ("LEVERET_DATA_DIR", "/data"),
            ("RUST_LOG", "debug"),
            ("RABBITMQ_NODE_PORT", "5673"),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1"),
            ("RABBITMQ_NODENAME", "hare@box"),
            ("RABBITMQ_DEFAULT_USER", "u"),
            ("RABBITMQ_DEFAULT_PASS", "p"),
            ("RABBITMQ_DEFAULT_VHOST", "v"),
        ])
        .expect("all valid");
        assert_eq!(config.data_dir, Path::new("/data"));
        assert_eq!(config.log_filter, "debug");
        assert_eq!(config.amqp_listen[0].to_string(), "127.0.0.1:5673");
        assert_eq!(config.identity.node, "hare@box");
        assert_eq!(config.identity.cluster_name, "hare@box");
        let seed = &config.seed;
        assert_eq!(
            (&*seed.user, &*seed.password, &*seed.vhost),
            ("u", "p", "v")
        );

        let config = with(&[
            ("LEVERET_LOG", "warn"),
            ("RUST_LOG", "debug"),
            ("RABBITMQ_NODE_PORT", ""),
        ])
        .expect("an empty variable is unset");
        assert_eq!(config.log_filter, "warn");
        assert_eq!(config.amqp_listen, Config::default().amqp_listen);
    }

    #[test]
    fn wrong_variables_are_named_and_exit_78() {
        for (pairs, part) in [
            (&[("RABBITMQ_NODE_PORT", "x")][..], "RABBITMQ_NODE_PORT = x"),
            (
                &[("RABBITMQ_NODE_IP_ADDRESS", "nowhere")][..],
                "not an IP address",
            ),
            (
                &[("RABBITMQ_DEFAULT_PASS_FILE", "/no/such/file")][..],
                "cannot be read",
            ),
        ] {
            let error = with(pairs).expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 78);
        }
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_line_end() {
        let path = std::env::temp_dir().join(format!("leveret-secret-{}", std::process::id()));
        std::fs::write(&path, "pass word\n").expect("the temporary directory takes files");
        let read = secret("X_FILE", &path.display().to_string());
        std::fs::remove_file(&path).expect("the file was written above");
        assert_eq!(read, Ok("pass word".to_owned()));
    }
}
