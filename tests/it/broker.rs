//! The broker that a test talks to: by default a `leveret` process of its own with an empty data
//! directory, or the one that `LEVERET_TEST_BROKER=host:port` names, which all tests share.
//!
//! `LEVERET_TEST_CTL` is the control command of a shared broker, `rabbitmqctl -n rabbit@host`.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, fs, process, thread};

use crate::peer::{PROTOCOL_HEADER, Peer, Unit, now};
use crate::value::{Field, Table, Value};

/// How long a broker may take from exec to its ready line.
const START_MAX: Duration = Duration::from_secs(20);

/// One at a time on a broker that is shared: scripts use the same names.
static SHARED: Mutex<()> = Mutex::new(());

/// A running broker.
pub(crate) struct Broker {
    address: Cell<SocketAddr>,
    process: RefCell<Option<Process>>,
    _shared: Option<MutexGuard<'static, ()>>,
    /// Whether clients send octet by octet, as `LEVERET_TEST_TRICKLE=1` asks them to.
    trickles: Cell<bool>,
    /// What `[…]` in a script may ask for: `3` or `4`, `rabbitmq` or `leveret`.
    names: Vec<&'static str>,
}

struct Process {
    child: Child,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl Process {
    /// Starts it and waits for its ready line; gives the address of the AMQP listener too.
    fn start(directory: PathBuf, arguments: Vec<String>) -> Result<(Self, SocketAddr), String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        if !arguments.iter().any(|argument| argument == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let child = command
            .args(["--http", "127.0.0.1:0", "--data-dir"])
            .arg(&directory)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("leveret does not run: {e}"))?;
        let mut process = Process {
            child,
            directory,
            arguments,
        };
        let address = ready_address(&mut process.child)?;
        Ok((process, address))
    }

    /// SIGKILL; it gets to say nothing.
    fn kill(&mut self) {
        // Both fail only when there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
        if self.directory.file_name().is_some() {
            let _ = fs::remove_file(self.directory.with_extension("conf"));
        }
    }
}

impl Broker {
    /// The broker that the environment names, or a fresh one.
    ///
    /// # Errors
    /// A sentence, when there is none to talk to.
    pub(crate) fn get() -> Result<Self, String> {
        match env::var("LEVERET_TEST_BROKER") {
            Ok(address) => Self::shared(&address),
            Err(_) => Self::start(&[]),
        }
    }

    /// The broker at `address`, which others use too.
    pub(crate) fn shared(address: &str) -> Result<Self, String> {
        let guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let found = address
            .to_socket_addrs()
            .map_err(|e| format!("{address}: {e}"))?
            .next();
        let found = found.ok_or_else(|| format!("{address} is no address"))?;
        Self::at(found, None, Some(guard))
    }

    /// Where it speaks AMQP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.get()
    }

    /// A fresh leveret with further `arguments`.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("leveret-it-{}-{number}", process::id()));
        fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let (process, address) = Process::start(directory, arguments)?;
        Self::at(address, Some(process), None)
    }

    fn at(
        address: SocketAddr,
        process: Option<Process>,
        shared: Option<MutexGuard<'static, ()>>,
    ) -> Result<Self, String> {
        let (address, process) = (Cell::new(address), RefCell::new(process));
        let mut broker = Broker {
            address,
            process,
            _shared: shared,
            trickles: Cell::new(env::var_os("LEVERET_TEST_TRICKLE").is_some()),
            names: Vec::new(),
        };
        broker.names = broker.ask_names()?;
        Ok(broker)
    }

    /// Reads product and version from connection.start.
    fn ask_names(&self) -> Result<Vec<&'static str>, String> {
        let mut peer = self.peer()?;
        peer.put(PROTOCOL_HEADER);
        let start = match peer.receive(now() + START_MAX)? {
            Some(Unit::Method(0, method, None)) if method.spec.name == "connection.start" => method,
            other => return Err(format!("connection.start was expected, {other:?} came")),
        };
        let Value::Table(properties) = start.get("server_properties") else {
            unreachable!("server_properties is a table")
        };
        if text(properties, "platform").contains("leveret") {
            Ok(vec!["4", "leveret"])
        } else if text(properties, "version").starts_with("3.") {
            Ok(vec!["3", "rabbitmq"])
        } else {
            Ok(vec!["4", "rabbitmq"])
        }
    }

    /// Whether a line for the brokers in `only` is for this one.
    pub(crate) fn is_among(&self, only: &[String]) -> bool {
        only.is_empty() || only.iter().any(|name| self.names.contains(&name.as_str()))
    }

    /// Whether other tests use it after this one.
    pub(crate) fn is_shared(&self) -> bool {
        self.process.borrow().is_none()
    }

    /// A new connection that has said nothing yet.
    pub(crate) fn peer(&self) -> Result<Peer, String> {
        let address = self.address();
        Peer::connect(address, self.trickles.get()).map_err(|e| format!("{address}: {e}"))
    }

    /// From now on its clients send every octet in a segment of its own.
    pub(crate) fn trickle(&self) {
        self.trickles.set(true);
    }

    /// Kills the process and starts another on the same data directory.
    pub(crate) fn crash(&self) -> Result<(), String> {
        let mut slot = self.process.borrow_mut();
        let process = slot.as_mut().ok_or("a shared broker is not ours to kill")?;
        process.kill();
        let directory = std::mem::take(&mut process.directory);
        let arguments = std::mem::take(&mut process.arguments);
        let (process, address) = Process::start(directory, arguments)?;
        *slot = Some(process);
        self.address.set(address);
        Ok(())
    }

    /// Starts the process anew with one line more in its configuration file. False on a shared
    /// broker, whose settings are not ours.
    pub(crate) fn set(&self, line: &str) -> Result<bool, String> {
        {
            let mut slot = self.process.borrow_mut();
            let Some(process) = slot.as_mut() else {
                return Ok(false);
            };
            let path = process.directory.with_extension("conf");
            let mut text = fs::read_to_string(&path).unwrap_or_default();
            text = text + line + "\n";
            fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            if !process.arguments.iter().any(|it| it == "--config") {
                let path = path.display().to_string();
                process.arguments.extend(["--config".to_string(), path]);
            }
        }
        self.crash().map(|()| true)
    }

    /// Octets of memory of the process that are no file's; `None` where nobody tells.
    pub(crate) fn anonymous_octets(&self) -> Option<u64> {
        let slot = self.process.borrow();
        let path = format!("/proc/{}/status", slot.as_ref()?.child.id());
        let status = fs::read_to_string(path).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kilobytes = line.trim().strip_suffix("kB")?.trim();
        Some(kilobytes.parse::<u64>().ok()? * 1024)
    }

    /// Tells the process to stop, as an operator does.
    pub(crate) fn stop(&self) -> Result<(), String> {
        let slot = self.process.borrow();
        let process = slot.as_ref().ok_or("a shared broker is not ours to stop")?;
        let id = process.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("kill -TERM {id}: {other:?}")),
        }
    }

    /// Waits until the process has ended, with exit code 0.
    pub(crate) fn has_exited(&self, patience: Duration) -> Result<(), String> {
        let mut slot = self.process.borrow_mut();
        let process = slot
            .as_mut()
            .ok_or("a shared broker is not ours to wait for")?;
        let deadline = now() + patience;
        loop {
            match process.child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("it ended with {status}")),
                None if now() > deadline => return Err("it did not end".into()),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Runs a control command against it.
    pub(crate) fn control(&self, words: &[String]) -> Result<(), String> {
        let mut command = match (&*self.process.borrow(), env::var("LEVERET_TEST_CTL")) {
            (Some(process), _) => leveret_control(&process.directory),
            (None, Ok(line)) => {
                let mut line = line.split_ascii_whitespace();
                let mut command = Command::new(line.next().ok_or("LEVERET_TEST_CTL is empty")?);
                command.args(line);
                command
            }
            (None, Err(_)) => return Err("the script wants LEVERET_TEST_CTL".into()),
        };
        let output = command
            .args(words)
            .output()
            .map_err(|e| format!("{words:?}: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{words:?}: {}: {said}", output.status))
    }
}

fn leveret_control(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.arg("ctl").arg("--data-dir").arg(directory);
    command
}

/// The text of `name` in `table`; empty when it is not there.
fn text(table: &Table, name: &str) -> String {
    let field = table.iter().find(|(it, _)| it == name.as_bytes());
    match field {
        Some((_, Field::Octets(_, octets))) => String::from_utf8_lossy(octets).into_owned(),
        _ => String::new(),
    }
}

/// Waits for the ready line and gives the address of the AMQP listener; output goes on being read
/// so that the broker never blocks on it.
fn ready_address(child: &mut Child) -> Result<SocketAddr, String> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens any more once the broker is up.
            let _ = sender.send(line);
        }
    });
    let deadline = now() + START_MAX;
    let (mut address, mut said) = (None, String::new());
    loop {
        let left = deadline.saturating_duration_since(now());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(why) => return Err(format!("leveret is not ready: {why}; it said:\n{said}")),
        };
        if let (None, Some((_, rest))) = (address, line.split_once("started TCP listener on ")) {
            address = rest
                .split_ascii_whitespace()
                .next()
                .and_then(|it| it.parse().ok());
        }
        if line.contains("Server startup complete") {
            let mut address: SocketAddr =
                address.ok_or_else(|| format!("leveret named no listener:\n{said}"))?;
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            return Ok(address);
        }
        said = said + &line + "\n";
    }
}
