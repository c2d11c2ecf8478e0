//! The table of commands, and what each of them works with.

use super::args::{Format, Options};
use super::client::{Response, TIMEOUT_S, Transport, unreachable};
use super::{EXIT_SOFTWARE, EXIT_UNAVAILABLE, Failure, Streams, diagnose, listing, manage};
use serde_json::Value;
use std::fmt::Write as _;

/// What a command is about; the order of `help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Nodes,
    Users,
    AccessControl,
    Monitoring,
    VirtualHosts,
    Queues,
    Health,
}

impl Group {
    pub(super) const ALL: [Group; 7] = [
        Group::Nodes,
        Group::Users,
        Group::AccessControl,
        Group::Monitoring,
        Group::VirtualHosts,
        Group::Queues,
        Group::Health,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Nodes => "Nodes",
            Group::Users => "Users",
            Group::AccessControl => "Access Control",
            Group::Monitoring => "Monitoring, observability and health checks",
            Group::VirtualHosts => "Virtual hosts",
            Group::Queues => "Queues and connections",
            Group::Health => "Diagnostics",
        }
    }
}

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) group: Group,
    /// Words after the name: at least, at most.
    pub(super) words: (usize, usize),
    /// How they are called in help.
    pub(super) usage: &'static str,
    /// One sentence without its full stop.
    pub(super) about: &'static str,
    pub(super) run: fn(&mut Session<'_, '_>) -> Result<(), Failure>,
}

const fn command(
    group: Group,
    name: &'static str,
    words: (usize, usize),
    usage: &'static str,
    about: &'static str,
    run: fn(&mut Session<'_, '_>) -> Result<(), Failure>,
) -> Command {
    Command {
        name,
        group,
        words,
        usage,
        about,
        run,
    }
}

use Group::{AccessControl, Health, Monitoring, Nodes, Queues, Users, VirtualHosts};

/// Columns that a listing takes at most.
const MANY: usize = 100;

/// All commands. Both tools understand all of them.
#[rustfmt::skip]
pub(super) const COMMANDS: &[Command] = &[
    command(Nodes, "await_startup", (0, 0), "[--timeout <timeout>]", "Waits until the broker takes clients", diagnose::await_startup),
    command(Nodes, "stop", (0, 1), "", "Stops the broker in an orderly way and waits for its end", diagnose::stop),
    command(Nodes, "shutdown", (0, 0), "", "Stops the broker in an orderly way and waits for its end", diagnose::stop),
    command(Nodes, "status", (0, 0), "", "Displays what the broker is, uses and listens on", diagnose::status),
    command(Nodes, "version", (0, 0), "", "Displays the version", diagnose::version),
    command(Users, "add_user", (1, 2), "<username> [<password>]", "Creates a user, who has no permissions yet; without a password it is read from standard input", manage::add_user),
    command(Users, "authenticate_user", (1, 2), "<username> [<password>]", "Attempts to authenticate a user", manage::authenticate_user),
    command(Users, "change_password", (1, 2), "<username> [<password>]", "Changes a user's password", manage::change_password),
    command(Users, "clear_password", (1, 1), "<username>", "Takes a user's password away, so that none fits", manage::clear_password),
    command(Users, "delete_user", (1, 1), "<username>", "Removes a user", manage::delete_user),
    command(Users, "hash_password", (0, 1), "[<password>]", "Prints the hash of a password, for definitions", manage::hash_password),
    command(Users, "list_users", (0, 0), "", "Lists user names and tags", listing::users),
    command(Users, "set_user_tags", (1, MANY), "<username> [<tag> ...]", "Sets a user's tags; none takes them away", manage::set_user_tags),
    command(AccessControl, "clear_permissions", (1, 1), "[--vhost <vhost>] <username>", "Revokes a user's permissions in a virtual host", manage::clear_permissions),
    command(AccessControl, "list_permissions", (0, 0), "[--vhost <vhost>]", "Lists permissions in a virtual host", listing::permissions),
    command(AccessControl, "list_user_permissions", (1, 1), "<username>", "Lists a user's permissions in all virtual hosts", listing::user_permissions),
    command(AccessControl, "set_permissions", (4, 4), "[--vhost <vhost>] <username> <conf> <write> <read>", "Sets a user's permissions in a virtual host", manage::set_permissions),
    command(Monitoring, "list_bindings", (0, MANY), "[--vhost <vhost>] [<column> ...]", "Lists the bindings of a virtual host", listing::bindings),
    command(Monitoring, "list_channels", (0, MANY), "[<column> ...]", "Lists all channels", listing::channels),
    command(Monitoring, "list_connections", (0, MANY), "[<column> ...]", "Lists all connections", listing::connections),
    command(Monitoring, "list_consumers", (0, MANY), "[--vhost <vhost>] [<column> ...]", "Lists the consumers of a virtual host", listing::consumers),
    command(Monitoring, "list_exchanges", (0, MANY), "[--vhost <vhost>] [<column> ...]", "Lists the exchanges of a virtual host", listing::exchanges),
    command(Monitoring, "list_queues", (0, MANY), "[--vhost <vhost>] [<column> ...]", "Lists the queues of a virtual host", listing::queues),
    command(VirtualHosts, "add_vhost", (1, 1), "<vhost>", "Creates a virtual host", manage::add_vhost),
    command(VirtualHosts, "delete_vhost", (1, 1), "<vhost>", "Deletes a virtual host with everything in it", manage::delete_vhost),
    command(VirtualHosts, "list_vhosts", (0, MANY), "[<column> ...]", "Lists virtual hosts", listing::vhosts),
    command(Queues, "close_connection", (1, 2), "<name> [<explanation>]", "Closes a connection", manage::close_connection),
    command(Queues, "delete_queue", (1, 1), "[--vhost <vhost>] <queue> [--if-empty|-e] [--if-unused|-u]", "Deletes a queue", manage::delete_queue),
    command(Queues, "purge_queue", (1, 1), "[--vhost <vhost>] <queue>", "Removes all ready messages of a queue", manage::purge_queue),
    command(Health, "check_alarms", (0, 0), "", "Fails if a memory or disk alarm is on", diagnose::check_alarms),
    command(Health, "check_local_alarms", (0, 0), "", "Fails if a memory or disk alarm is on", diagnose::check_local_alarms),
    command(Health, "check_port_connectivity", (0, 0), "", "Connects to every listener", diagnose::check_port_connectivity),
    command(Health, "check_port_listener", (1, 1), "<port>", "Fails if nothing listens on the port", diagnose::check_port_listener),
    command(Health, "check_protocol_listener", (1, 1), "<protocol>", "Fails if nothing speaks the protocol", diagnose::check_protocol_listener),
    command(Health, "check_running", (0, 0), "", "Fails unless the broker takes clients", diagnose::check_running),
    command(Health, "check_virtual_hosts", (0, 0), "", "Fails unless all virtual hosts work", diagnose::check_virtual_hosts),
    command(Health, "listeners", (0, 0), "", "Lists what the broker listens on", diagnose::listeners),
    command(Health, "ping", (0, 0), "", "Fails unless the broker answers", diagnose::ping),
];

/// What a command works with.
pub(super) struct Session<'a, 'b> {
    pub(super) options: Options,
    pub(super) transport: Box<dyn Transport>,
    pub(super) streams: &'a mut Streams<'b>,
}

impl Session<'_, '_> {
    /// Prints a courtesy, unless none are wanted.
    pub(super) fn banner(&mut self, text: &str) -> Result<(), Failure> {
        let is_for_people = matches!(
            self.options.format,
            None | Some(Format::Table | Format::PrettyTable)
        );
        if !self.options.quiet && is_for_people {
            writeln!(self.streams.out, "{text}")?;
        }
        Ok(())
    }

    /// Prints a line of the result.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.streams.out, "{text}")?;
        Ok(())
    }

    /// Asks the broker, whatever it answers.
    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Response, Failure> {
        self.transport
            .ask(method, path, body)
            .map_err(|reason| unreachable(&self.options.node, &reason))
    }

    /// Asks the broker and takes anything but success for a failure, except a 404, which is `None`.
    pub(super) fn change(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Option<Response>, Failure> {
        let response = self.ask(method, path, body)?;
        match response.status {
            200..=299 => Ok(Some(response)),
            404 => Ok(None),
            _ => Err(failed(&response)),
        }
    }

    /// The body at `path`; `None` when it is not there.
    pub(super) fn get(&mut self, path: &str) -> Result<Option<Value>, Failure> {
        Ok(self.change("GET", path, "")?.map(|response| response.body))
    }

    /// The body at a path that every broker has.
    pub(super) fn require(&mut self, path: &str) -> Result<Value, Failure> {
        let missing = || Failure::error(EXIT_SOFTWARE, format!("the broker does not know {path}"));
        self.get(path)?.ok_or_else(missing)
    }

    /// How long to wait at most, in seconds.
    pub(super) fn timeout_s(&self) -> u64 {
        self.options.timeout_s.unwrap_or(TIMEOUT_S)
    }
}

/// An answer that is none of success and 404.
fn failed(response: &Response) -> Failure {
    let reason = match &response.body["reason"] {
        Value::String(reason) => reason.clone(),
        Value::Null => format!("the broker answered {}", response.status),
        other => other.to_string(),
    };
    let exit_code = if response.status == 500 {
        EXIT_SOFTWARE
    } else {
        EXIT_UNAVAILABLE
    };
    Failure::error(exit_code, reason)
}

/// A name as a part of a path.
pub(super) fn part(name: &str) -> String {
    let mut text = String::new();
    for octet in name.bytes() {
        if octet.is_ascii_alphanumeric() || b"-_.".contains(&octet) {
            text.push(octet as char);
        } else {
            write!(text, "%{octet:02X}").expect("a string takes everything");
        }
    }
    text
}
