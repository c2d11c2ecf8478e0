//! The `leveret` binary: a thin shell around the library.

use std::io::Write as _;
use std::process::ExitCode;

use leveret::clock::Clock;
use leveret::config::args::{self, Command};
use leveret::config::{Config, ConfigError};
use leveret::console::{self, Console};
use leveret::engine::Engine;
use leveret::reactor::{End, Reactor};
use leveret::storage::FileStorage;

/// Exit code of a server that cannot have what it needs: a port, its directory (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code of a server that cannot go on (`EX_SOFTWARE`).
const EXIT_INTERNAL: u8 = 70;

fn main() -> ExitCode {
    match args::parse(std::env::args_os()) {
        Ok(Command::Serve(server_args)) => serve(&server_args),
        Ok(command) => other(command),
        Err(error) => complain(&error),
    }
}

fn other(command: Command) -> ExitCode {
    match command {
        Command::Help => print(args::HELP),
        Command::Version => print(&args::version_line()),
        Command::Perf { args } => {
            let code = leveret::perf::run(&args);
            ExitCode::from(u8::try_from(code).unwrap_or(EXIT_INTERNAL))
        }
        Command::Control { tool, args } => {
            let variable = |name: &str| std::env::var(name).ok();
            ExitCode::from(leveret::ctl::run(tool, &args, &variable))
        }
        Command::Inspect { data_dir } => {
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            ExitCode::from(leveret::inspect::run(&data_dir, &mut out))
        }
        Command::Serve(_) => ExitCode::from(EXIT_UNAVAILABLE),
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that has gone has seen what it wanted.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}

/// A wrong option or value, as one line.
fn complain(error: &ConfigError) -> ExitCode {
    console::complain(&error.to_string());
    ExitCode::from(error.exit_code())
}

fn serve(server_args: &args::ServerArgs) -> ExitCode {
    let config = match Config::load(server_args, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => return complain(&error),
    };
    // Files that may grow no longer are as good as a full disk; the signal would end the process.
    let ignored = std::sync::Arc::default();
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, ignored) {
        console::complain(&format!("cannot take signals: {error}"));
        return ExitCode::from(EXIT_UNAVAILABLE);
    }
    let console = Console::stdout();
    start_log(&config.log_filter, console.clone());
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let code = match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, line)) => {
            log::error!("{line}");
            console::complain(&line);
            ExitCode::from(code)
        }
    };
    console.finish();
    code
}

fn run(config: Config) -> Result<(), (u8, String)> {
    let unavailable = |line: String| (EXIT_UNAVAILABLE, line);
    let clock = Clock::start();
    let storage =
        FileStorage::open(&config.data_dir).map_err(|error| unavailable(error.to_string()))?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| unavailable(format!("no random numbers: {error}")))?;
    let seed = u64::from_ne_bytes(random);
    let engine = Engine::open(storage.clone(), &config, clock.now(), seed)
        .map_err(|error| unavailable(error.to_string()))?;
    let mut reactor = Reactor::new(engine, &storage, clock, config).map_err(unavailable)?;
    for address in reactor.amqp_addresses() {
        log::info!("started TCP listener on {address}");
    }
    for address in reactor.http_addresses() {
        let port = address.port();
        log::info!("Management plugin: HTTP (non-TLS) listener started on port {port}");
    }
    if let Some(path) = reactor.control_socket() {
        log::info!("started control socket {}", path.display());
    }
    log::info!("Server startup complete; 0 plugins started.");
    match reactor.run() {
        End::Stopped => {
            reactor.close();
            log::info!("stopped");
            Ok(())
        }
        End::Storage(line) => Err((EXIT_INTERNAL, line)),
    }
}

/// Log lines go to standard output, in RabbitMQ's form.
fn start_log(filter: &str, console: Console) {
    env_logger::Builder::new()
        .parse_filters(filter)
        .target(env_logger::Target::Pipe(Box::new(console)))
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "info",
                log::Level::Debug | log::Level::Trace => "debug",
            };
            // Control octets in names that clients choose must not forge lines.
            let text = record.args().to_string();
            let text = text.replace(char::is_control, " ");
            writeln!(out, "{} [{level}] <0.1.0> {text}", out.timestamp_micros())
        })
        .init();
}
