//! The commands that ask how the broker is, and the one that ends it.

use super::args::Format;
use super::client::unreachable;
use super::command::{Session, part};
use super::{EXIT_UNAVAILABLE, Failure};
use crate::config::Identity;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

type Done = Result<(), Failure>;

/// Wait of `await_startup` when the command line says nothing, in seconds.
const STARTUP_S: u64 = 300;
/// Wait between two looks at a broker that is starting or stopping.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Wait for one listener to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn ping(session: &mut Session<'_, '_>) -> Done {
    let timeout_ms = session.timeout_s() * 1000;
    let node = session.options.node.clone();
    session.banner(&format!(
        "Will ping {node}. This only checks if the OS process is running and registered with epmd. \
         Timeout: {timeout_ms} ms."
    ))?;
    match session.transport.ask("GET", "/api/whoami", "") {
        Ok(_) => session.say("Ping succeeded"),
        Err(reason) => {
            let text = format!(
                "Failed to connect and authenticate to {node} in {timeout_ms} ms\n{reason}"
            );
            Err(Failure::error(EXIT_UNAVAILABLE, text))
        }
    }
}

fn is_serving(session: &mut Session<'_, '_>) -> Result<bool, String> {
    let path = "/api/health/checks/ready-to-serve-clients";
    session
        .transport
        .ask("GET", path, "")
        .map(|response| response.status == 200)
}

pub(super) fn await_startup(session: &mut Session<'_, '_>) -> Done {
    let wait_s = session.options.timeout_s.unwrap_or(STARTUP_S);
    let mut result = is_serving(session);
    for _ in 0..wait_s.saturating_mul(1000) / LOOK_AGAIN.as_millis() as u64 {
        if result == Ok(true) {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
        result = is_serving(session);
    }
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::error(
            EXIT_UNAVAILABLE,
            "the broker does not take clients",
        )),
        Err(reason) => Err(unreachable(&session.options.node, &reason)),
    }
}

pub(super) fn stop(session: &mut Session<'_, '_>) -> Done {
    let node = session.options.node.clone();
    session.banner(&format!("Stopping and halting node {node} ..."))?;
    session.change("POST", "/api/leveret/stop", "")?;
    let looks = session.timeout_s().saturating_mul(1000) / LOOK_AGAIN.as_millis() as u64;
    for _ in 0..looks {
        // It is gone when nobody answers any more.
        if is_serving(session).is_err() {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(Failure::error(
        EXIT_UNAVAILABLE,
        "the broker did not end in time",
    ))
}

pub(super) fn version(session: &mut Session<'_, '_>) -> Done {
    session.say(Identity::VERSION)
}

pub(super) fn check_running(session: &mut Session<'_, '_>) -> Done {
    let node = session.options.node.clone();
    session.banner(&format!(
        "Checking if RabbitMQ is running on node {node} ..."
    ))?;
    match is_serving(session) {
        Ok(true) => session.say(&format!(
            "RabbitMQ on node {node} is fully booted and running"
        )),
        Ok(false) => {
            let text = format!("RabbitMQ on node {node} does not take clients");
            Err(Failure::error(EXIT_UNAVAILABLE, text))
        }
        Err(reason) => Err(unreachable(&node, &reason)),
    }
}

fn listener_rows(session: &mut Session<'_, '_>) -> Result<Vec<(String, SocketAddr)>, Failure> {
    let overview = session.require("/api/overview?columns=listeners")?;
    let listeners = overview["listeners"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let rows = listeners.iter().filter_map(|row| {
        let address: IpAddr = row["ip_address"].as_str()?.parse().ok()?;
        let port = u16::try_from(row["port"].as_u64()?).ok()?;
        Some((
            row["protocol"].as_str()?.to_owned(),
            SocketAddr::new(address, port),
        ))
    });
    Ok(rows.collect())
}

fn ports(rows: &[(String, SocketAddr)]) -> String {
    let ports: Vec<String> = rows
        .iter()
        .map(|(_, address)| address.port().to_string())
        .collect();
    ports.join(", ")
}

pub(super) fn check_port_connectivity(session: &mut Session<'_, '_>) -> Done {
    let node = session.options.node.clone();
    session.banner(&format!(
        "Testing TCP connections to all active listeners on node {node} ..."
    ))?;
    let rows = listener_rows(session)?;
    let mut failed = Vec::new();
    for (protocol, address) in &rows {
        if let Err(error) = TcpStream::connect_timeout(&reachable(*address), CONNECT_TIMEOUT) {
            failed.push(format!("{protocol} on port {}: {error}", address.port()));
        }
    }
    if failed.is_empty() {
        let ports = ports(&rows);
        return session.say(&format!(
            "Successfully connected to ports {ports} on node {node}."
        ));
    }
    let text = format!(
        "Failed to connect to listeners of node {node}:\n{}",
        failed.join("\n")
    );
    Err(Failure::error(EXIT_UNAVAILABLE, text))
}

/// Where a listener of this machine can be reached: one on all interfaces through the loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

pub(super) fn check_port_listener(session: &mut Session<'_, '_>) -> Done {
    let (node, port) = (
        session.options.node.clone(),
        session.options.word(0).to_owned(),
    );
    session.banner(&format!(
        "Asking node {node} if there's an active listener on port {port} ..."
    ))?;
    let rows = listener_rows(session)?;
    if rows
        .iter()
        .any(|(_, address)| address.port().to_string() == port)
    {
        return session.say(&format!(
            "A listener for port {port} is running on node {node}."
        ));
    }
    let text = format!(
        "No listener for port {port} is active on node {node}. \
         Found listeners that use the following ports: {}",
        ports(&rows)
    );
    Err(Failure::new(EXIT_UNAVAILABLE, text))
}

pub(super) fn check_protocol_listener(session: &mut Session<'_, '_>) -> Done {
    let (node, protocol) = (
        session.options.node.clone(),
        session.options.word(0).to_owned(),
    );
    session.banner(&format!(
        "Asking node {node} if there's an active listener for protocol {protocol} ..."
    ))?;
    let path = format!("/api/health/checks/protocol-listener/{}", part(&protocol));
    let response = session.ask("GET", &path, "")?;
    if response.status == 200 {
        return session.say(&format!(
            "A listener for protocol {protocol} is running on node {node}."
        ));
    }
    let rows = listener_rows(session)?;
    let mut protocols: Vec<&str> = rows.iter().map(|(protocol, _)| protocol.as_str()).collect();
    protocols.sort_unstable();
    protocols.dedup();
    let text = format!(
        "No listener for protocol {protocol} is active on node {node}. \
         Found listeners for the following protocols: {}",
        protocols.join(", ")
    );
    Err(Failure::error(EXIT_UNAVAILABLE, text))
}

fn purpose(protocol: &str) -> &'static str {
    match protocol {
        "amqp" => "AMQP 0-9-1",
        "http" => "HTTP API",
        _ => "",
    }
}

fn listener_lines(rows: &[(String, SocketAddr)]) -> Vec<String> {
    let line = |(protocol, address): &(String, SocketAddr)| {
        let interface = match address.ip() {
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        let port = address.port();
        let purpose = purpose(protocol);
        format!("Interface: {interface}, port: {port}, protocol: {protocol}, purpose: {purpose}")
    };
    rows.iter().map(line).collect()
}

pub(super) fn listeners(session: &mut Session<'_, '_>) -> Done {
    let node = session.options.node.clone();
    session.banner(&format!(
        "Asking node {node} to report its protocol listeners ..."
    ))?;
    let rows = listener_rows(session)?;
    if session.options.format == Some(Format::Json) {
        let rows = rows.iter().map(|(protocol, address)| {
            json!({
                "node": node,
                "interface": address.ip().to_string(),
                "port": address.port(),
                "protocol": protocol,
                "purpose": purpose(protocol),
            })
        });
        let body = json!({ "result": "ok", "node": node, "listeners": rows.collect::<Value>() });
        return session.say(&body.to_string());
    }
    session.say(&listener_lines(&rows).join("\n"))
}

pub(super) fn check_local_alarms(session: &mut Session<'_, '_>) -> Done {
    alarms(session, "no local alarms")
}

pub(super) fn check_alarms(session: &mut Session<'_, '_>) -> Done {
    alarms(session, "no alarms, local or clusterwide")
}

fn alarms(session: &mut Session<'_, '_>, none: &str) -> Done {
    let node = session.options.node.clone();
    session.banner(&format!(
        "Asking node {node} to report any local resource alarms ..."
    ))?;
    let response = session.ask("GET", "/api/health/checks/alarms", "")?;
    if response.status == 200 {
        return session.say(&format!("Node {node} reported {none}"));
    }
    let raised: Vec<String> = alarm_names(&response.body["alarms"]);
    let text = format!("Node {node} reported alarms:\n{}", raised.join("\n"));
    Err(Failure::error(EXIT_UNAVAILABLE, text))
}

fn alarm_names(alarms: &Value) -> Vec<String> {
    let names = alarms.as_array().into_iter().flatten().filter_map(|alarm| {
        let resource = alarm["resource"].as_str()?;
        Some(format!(
            "{} alarm on node {}",
            capitalized(resource),
            alarm["node"].as_str()?
        ))
    });
    names.collect()
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

pub(super) fn check_virtual_hosts(session: &mut Session<'_, '_>) -> Done {
    let node = session.options.node.clone();
    session.banner(&format!(
        "Checking if all vhosts are running on node {node} ..."
    ))?;
    session.require("/api/health/checks/virtual-hosts")?;
    session.say(&format!("Node {node} reported all vhosts as running"))
}

pub(super) fn status(session: &mut Session<'_, '_>) -> Done {
    let overview = session.require("/api/overview")?;
    let nodes = session.require("/api/nodes")?;
    let vhosts = session.require("/api/vhosts?columns=name")?;
    let alarms = session.ask("GET", "/api/health/checks/alarms", "")?.body;
    let rows = listener_rows(session)?;
    let (node, vhosts) = (&nodes[0], vhosts.as_array().map_or(0, Vec::len));
    let name = overview["node"].as_str().unwrap_or_default();
    if session.options.format == Some(Format::Json) {
        let body = json!({
            "product_name": overview["product_name"],
            "product_version": overview["product_version"],
            "rabbitmq_version": overview["rabbitmq_version"],
            "leveret_version": env!("CARGO_PKG_VERSION"),
            "pid": node["os_pid"],
            "os": capitalized(std::env::consts::OS),
            "uptime": seconds(&node["uptime"]),
            "is_under_maintenance": node["being_drained"],
            "data_directory": node["db_dir"],
            "active_plugins": [],
            "config_files": node["config_files"],
            "log_files": node["log_files"],
            "alarms": alarms["alarms"].as_array().cloned().unwrap_or_default(),
            "memory": { "total": { "rss": node["mem_used"] } },
            "vm_memory_high_watermark_limit": node["mem_limit"],
            "disk_free": node["disk_free"],
            "disk_free_limit": node["disk_free_limit"],
            "file_descriptors": {
                "total_used": node["fd_used"],
                "total_limit": node["fd_total"],
                "sockets_used": node["sockets_used"],
                "sockets_limit": node["sockets_total"],
            },
            "totals": {
                "connection_count": overview["object_totals"]["connections"],
                "queue_count": overview["object_totals"]["queues"],
                "virtual_host_count": vhosts,
            },
            "listeners": overview["listeners"],
        });
        return session.say(&body.to_string());
    }
    session.banner(&format!("Status of node {name} ..."))?;
    let shown = |value: &Value| super::output::cell(value);
    let mut raised = alarm_names(&alarms["alarms"]);
    if raised.is_empty() {
        raised.push("(none)".to_owned());
    }
    let sections: [(&str, Vec<String>); 9] = [
        (
            "Runtime",
            vec![
                format!("OS PID: {}", shown(&node["os_pid"])),
                format!("OS: {}", capitalized(std::env::consts::OS)),
                format!("Uptime (seconds): {}", seconds(&node["uptime"])),
                format!("Is under maintenance?: {}", shown(&node["being_drained"])),
                format!("RabbitMQ version: {}", shown(&overview["rabbitmq_version"])),
                format!("leveret version: {}", env!("CARGO_PKG_VERSION")),
                format!("Node name: {name}"),
            ],
        ),
        (
            "Plugins",
            vec![
                "Enabled plugins:".to_owned(),
                String::new(),
                "(none)".to_owned(),
            ],
        ),
        (
            "Data directory",
            vec![format!("Node data directory: {}", shown(&node["db_dir"]))],
        ),
        ("Log file(s)", vec![" * <stdout>".to_owned()]),
        ("Alarms", raised),
        (
            "Memory",
            vec![
                format!("Total memory used: {} gb", gigabytes(&node["mem_used"])),
                "Calculation strategy: rss".to_owned(),
                format!(
                    "Memory high watermark computed to: {} gb",
                    gigabytes(&node["mem_limit"])
                ),
            ],
        ),
        (
            "File Descriptors",
            vec![
                format!(
                    "Total: {}, limit: {}",
                    shown(&node["fd_used"]),
                    shown(&node["fd_total"])
                ),
                format!(
                    "Sockets: {}, limit: {}",
                    shown(&node["sockets_used"]),
                    shown(&node["sockets_total"])
                ),
            ],
        ),
        (
            "Free Disk Space",
            vec![
                format!(
                    "Low free disk space watermark: {} gb",
                    gigabytes(&node["disk_free_limit"])
                ),
                format!("Free disk space: {} gb", gigabytes(&node["disk_free"])),
            ],
        ),
        (
            "Totals",
            vec![
                format!(
                    "Connection count: {}",
                    shown(&overview["object_totals"]["connections"])
                ),
                format!(
                    "Queue count: {}",
                    shown(&overview["object_totals"]["queues"])
                ),
                format!("Virtual host count: {vhosts}"),
            ],
        ),
    ];
    for (title, lines) in &sections {
        let title = bold(session, title);
        session.say(&format!("{title}\n\n{}\n", lines.join("\n")))?;
    }
    let title = bold(session, "Listeners");
    session.say(&format!("{title}\n\n{}", listener_lines(&rows).join("\n")))
}

fn bold(session: &Session<'_, '_>, text: &str) -> String {
    if session.streams.is_terminal {
        format!("\u{1b}[1m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

fn seconds(ms: &Value) -> u64 {
    ms.as_u64().unwrap_or(0) / 1000
}

/// Octets in gigabytes with four places, as RabbitMQ shows them.
fn gigabytes(octets: &Value) -> String {
    let tenths_of_megabytes = octets.as_u64().unwrap_or(0) / 100_000;
    format!(
        "{}.{:04}",
        tenths_of_megabytes / 10_000,
        tenths_of_megabytes % 10_000
    )
}
