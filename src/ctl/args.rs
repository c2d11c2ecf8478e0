//! The command line of the control tools: options anywhere, then words.

use super::command::{COMMANDS, Command, Group};
use super::{EXIT_DATA, EXIT_USAGE, Failure};
use crate::config::args::ControlTool;
use lexopt::{Arg, ValueExt};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Columns with tabs between.
    Table,
    /// Boxes.
    PrettyTable,
    /// One JSON text.
    Json,
    /// Quoted, with commas between.
    Csv,
}

/// Everything that was said besides the command's name.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// The command's words.
    pub(super) words: Vec<String>,
    /// All words as typed, for errors.
    pub(super) typed: String,
    pub(super) node: String,
    pub(super) vhost: String,
    /// No courtesies.
    pub(super) quiet: bool,
    /// No heading of the columns.
    pub(super) no_table_headers: bool,
    pub(super) format: Option<Format>,
    pub(super) timeout_s: Option<u64>,
    pub(super) if_empty: bool,
    pub(super) if_unused: bool,
    pub(super) data_dir: PathBuf,
    /// `ADDRESS:PORT`, instead of the control socket.
    pub(super) http: Option<String>,
    pub(super) user: String,
    pub(super) password: Option<String>,
}

impl Options {
    /// The word at this place; commands ask for no more than they declare.
    pub(super) fn word(&self, place: usize) -> &str {
        self.words.get(place).map_or("", String::as_str)
    }
}

/// Name of the tool in texts.
fn tool_name(tool: ControlTool) -> &'static str {
    match tool {
        ControlTool::Control => "rabbitmqctl",
        ControlTool::Diagnostics => "rabbitmq-diagnostics",
    }
}

/// Reads the words. Without a command (`help`, `--help`) there is only [`help`] to give.
pub(super) fn parse(
    tool: ControlTool,
    words: &[OsString],
    variable: &dyn Fn(&str) -> Option<String>,
    node: String,
) -> Result<(Options, Option<&'static Command>), Failure> {
    let typed: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut options = Options {
        words: Vec::new(),
        typed: typed.join(" "),
        node,
        vhost: variable("RABBITMQ_VHOST").unwrap_or_else(|| "/".to_owned()),
        quiet: false,
        no_table_headers: false,
        format: None,
        timeout_s: None,
        if_empty: false,
        if_unused: false,
        data_dir: variable("LEVERET_DATA_DIR")
            .map_or_else(|| PathBuf::from("leveret-data"), PathBuf::from),
        http: None,
        user: "guest".to_owned(),
        password: None,
    };
    let mut wants_help = false;
    let mut parser = lexopt::Parser::from_args(words);
    loop {
        let arg = parser
            .next()
            .map_err(|error| invalid(&options, &error.to_string()))?;
        match arg {
            None => break,
            Some(Arg::Value(word)) => {
                let word = word
                    .string()
                    .map_err(|_| invalid(&options, "a word is not UTF-8."))?;
                options.words.push(word);
            }
            Some(Arg::Short('h' | '?') | Arg::Long("help")) => wants_help = true,
            Some(arg) => {
                let name = match arg {
                    Arg::Long(name) => name.to_owned(),
                    Arg::Short(letter) => letter.to_string(),
                    Arg::Value(_) => String::new(),
                };
                option(&mut options, &mut parser, &name)?;
            }
        }
    }
    let name = if options.words.is_empty() {
        String::new()
    } else {
        options.words.remove(0)
    };
    if wants_help || name == "help" {
        if !wants_help && !options.words.is_empty() {
            options.words.truncate(1);
        } else {
            options.words = if name == "help" {
                Vec::new()
            } else {
                vec![name]
            };
        }
        return Ok((options, None));
    }
    if name.is_empty() {
        return Err(Failure::new(EXIT_USAGE, overview(tool)));
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let text = format!("\nCommand '{name}' not found. \n{}", overview(tool));
        return Err(Failure::new(EXIT_USAGE, text));
    };
    let (least, most) = command.words;
    let problem = match options.words.len() {
        count if count < least => "not enough arguments.",
        count if count > most => "too many arguments.",
        _ => {
            if let Some(what) = empty_name(&options, command) {
                let problem = format!("Bad argument: {what} cannot be an empty string");
                let mut failure = wrong(&options, tool, command, &problem);
                failure.exit_code = EXIT_DATA;
                return Err(failure);
            }
            return Ok((options, Some(command)));
        }
    };
    Err(wrong(&options, tool, command, problem))
}

/// Which name that the command needs is empty, as that of an unset variable. In a path it would be
/// gone, and what is left means something else.
fn empty_name(options: &Options, command: &Command) -> Option<&'static str> {
    if options.vhost.is_empty() {
        return Some("vhost");
    }
    let names = [
        ("<username>", "user"),
        ("<vhost>", "vhost"),
        ("<queue>", "queue"),
        ("<name>", "name"),
    ];
    let operands = command.usage.strip_prefix("[--vhost <vhost>] ");
    let operands = operands.unwrap_or(command.usage);
    let (_, what) = names
        .into_iter()
        .find(|(name, _)| operands.starts_with(name))?;
    options.word(0).is_empty().then_some(what)
}

fn option(options: &mut Options, parser: &mut lexopt::Parser, name: &str) -> Result<(), Failure> {
    let flag = match name {
        "q" | "quiet" => Some(&mut options.quiet),
        "no-table-headers" => Some(&mut options.no_table_headers),
        "e" | "if-empty" => Some(&mut options.if_empty),
        "u" | "if-unused" => Some(&mut options.if_unused),
        _ => None,
    };
    if let Some(flag) = flag {
        *flag = true;
        return Ok(());
    }
    match name {
        "s" | "silent" => {
            options.quiet = true;
            options.no_table_headers = true;
            return Ok(());
        }
        // There is one node: it is online, local, and its name has no long form.
        "l" | "longnames" | "online" | "local" | "dry-run" => return Ok(()),
        _ => {}
    }
    let known = [
        "p",
        "vhost",
        "n",
        "node",
        "t",
        "timeout",
        "formatter",
        "data-dir",
        "http",
        "user",
        "password",
        "erlang-cookie",
    ];
    let dashes = if name.chars().count() == 1 { "-" } else { "--" };
    if !known.contains(&name) {
        let text = format!("Invalid options for this command:\n{dashes}{name} : ");
        return Err(invalid(options, &text));
    }
    let value = parser
        .value()
        .ok()
        .and_then(|value| value.string().ok())
        .ok_or_else(|| invalid(options, &format!("option {dashes}{name} needs a value.")))?;
    match name {
        "p" | "vhost" => options.vhost = value,
        "n" | "node" => options.node = value,
        "t" | "timeout" => options.timeout_s = Some(timeout(options, &value)?),
        "formatter" => options.format = Some(format_named(options, &value)?),
        "data-dir" => options.data_dir = PathBuf::from(value),
        "http" => options.http = Some(value),
        "user" => options.user = value,
        "password" => options.password = Some(value),
        // Erlang's secret between nodes means nothing here.
        _ => {}
    }
    Ok(())
}

fn timeout(options: &Options, value: &str) -> Result<u64, Failure> {
    match value {
        "infinity" => Ok(u64::from(u32::MAX)),
        value => value
            .parse::<u32>()
            .map(u64::from)
            .map_err(|_| invalid(options, "a timeout is a whole number of seconds.")),
    }
}

fn format_named(options: &Options, value: &str) -> Result<Format, Failure> {
    match value {
        "table" => Ok(Format::Table),
        "pretty_table" => Ok(Format::PrettyTable),
        "json" | "json_stream" => Ok(Format::Json),
        "csv" => Ok(Format::Csv),
        _ => Err(invalid(
            options,
            &format!("formatter '{value}' is not known."),
        )),
    }
}

fn invalid(options: &Options, problem: &str) -> Failure {
    let text = format!(
        "Error (argument validation): {problem}\nArguments given:\n\t{}",
        options.typed
    );
    Failure::new(EXIT_USAGE, text)
}

/// A problem with the words of a known command, with how it is used.
pub(super) fn wrong(
    options: &Options,
    tool: ControlTool,
    command: &Command,
    problem: &str,
) -> Failure {
    let mut failure = invalid(options, problem);
    let usage = usage(tool, command);
    write!(failure.text, "\n\nUsage\n\n{usage}").expect("a string takes everything");
    failure
}

fn usage(tool: ControlTool, command: &Command) -> String {
    let Command { name, usage, .. } = command;
    let tool = tool_name(tool);
    format!("{tool} [--node <node>] [--longnames] [--quiet] {name} {usage}")
        .trim_end()
        .to_owned()
}

/// The answer to `help`: about one command or about all.
pub(super) fn help(tool: ControlTool, options: &Options) -> String {
    let wanted = options.word(0);
    match COMMANDS.iter().find(|command| command.name == wanted) {
        Some(command) => format!(
            "\nUsage\n\n{}\n\n{}.\n\n{GENERAL_OPTIONS}",
            usage(tool, command),
            command.about
        ),
        None => overview(tool),
    }
}

const GENERAL_OPTIONS: &str = "\
General Options

  -p, --vhost <vhost>      virtual host to use                                  [/]
  -q, --quiet              suppress informational messages
  -s, --silent             suppress informational messages and table header row
      --no-table-headers   suppress the table header row
      --formatter <name>   table, pretty_table, json or csv
  -t, --timeout <seconds>  give up after this time                              [60]
  -n, --node <node>        accepted; the broker is found by its directory
      --data-dir <dir>     the broker's data directory   [LEVERET_DATA_DIR or ./leveret-data]
      --http <addr:port>   speak HTTP over TCP instead, as a user:
      --user <name>                                                             [guest]
      --password <text>                                      [LEVERET_PASSWORD or guest]
";

fn overview(tool: ControlTool) -> String {
    let mut text = format!(
        "\nUsage\n\n{} [--node <node>] [--timeout <timeout>] [--quiet] <command> [<command options>]\n\
         \nAvailable commands:\n",
        tool_name(tool)
    );
    for group in Group::ALL {
        writeln!(text, "\n{}:\n", group.title()).expect("a string takes everything");
        for command in COMMANDS.iter().filter(|command| command.group == group) {
            let Command { name, about, .. } = command;
            writeln!(text, "   {name:<26} {about}").expect("a string takes everything");
        }
    }
    write!(text, "\n{GENERAL_OPTIONS}").expect("a string takes everything");
    text
}
