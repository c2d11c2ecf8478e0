//! The process as whoever starts it sees it: its output, its signals.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

use crate::login::{Login, PATIENCE};
use crate::peer::{Peer, now};

/// A broker whose output nobody reads.
struct Unread {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

impl Unread {
    fn start(name: &str, output: Stdio) -> Self {
        Self::start_under(Command::new(env!("CARGO_BIN_EXE_leveret")), name, output)
    }

    /// Under a command that the arguments are for.
    fn start_under(mut command: Command, name: &str, output: Stdio) -> Self {
        // Nobody reads which port it gets, so it is told.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let directory = env::temp_dir().join(format!("leveret-it-{}-{name}", process::id()));
        let child = command
            .args(["--http", "none", "--log-level", "debug", "--listen"])
            .arg(address.to_string())
            .arg("--data-dir")
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        Unread {
            child,
            address,
            directory,
        }
    }

    /// Opens a connection and leaves it at that.
    fn log_in(&self) -> Result<(), String> {
        let deadline = now() + PATIENCE;
        let mut peer = loop {
            match Peer::connect(self.address, false) {
                Ok(peer) => break peer,
                Err(error) if now() > deadline => return Err(error.to_string()),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        Login::default().log_in(&mut peer).map(drop)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Its exit code.
    fn wait(&mut self) -> Option<i32> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end");
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Both fail only when there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let mut broker = Unread::start("unread", Stdio::piped());
    // Some hundred octets each: 64 KiB, which a pipe holds, several times over.
    for number in 0..1500 {
        let answered = broker.log_in();
        assert_eq!(answered, Ok(()), "connection {number}");
    }
    broker.signal("-TERM");
    assert_eq!(broker.wait(), Some(0));
}

#[test]
fn a_log_that_cannot_be_written_stops_nobody() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut broker = Unread::start("full", full.expect("Linux has it").into());
    assert_eq!(broker.log_in(), Ok(()));
    broker.signal("-INT");
    assert_eq!(broker.wait(), Some(0));
}

#[test]
fn a_reason_to_end_that_nobody_reads_is_no_reason_to_stay() {
    let holder = Unread::start("held", Stdio::null());
    assert_eq!(holder.log_in(), Ok(()));
    let mut second = Unread::start("held", Stdio::piped());
    let mut said = String::new();
    let errors = second.child.stderr.take().expect("piped");
    assert_eq!(second.wait(), Some(69));
    let mut errors = errors;
    errors.read_to_string(&mut said).expect("text");
    assert!(said.contains("holds the data directory"), "{said}");
    // The same, with nowhere to say it.
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let status = Command::new(env!("CARGO_BIN_EXE_leveret"))
        .args(["--listen", "127.0.0.1:0", "--http", "none", "--data-dir"])
        .arg(&holder.directory)
        .stdout(Stdio::null())
        .stderr(full.expect("Linux has it"))
        .status();
    assert_eq!(status.expect("it runs").code(), Some(69));
}

#[test]
fn a_hangup_from_no_terminal_ends_nothing() {
    let mut broker = Unread::start("hangup", Stdio::null());
    assert_eq!(broker.log_in(), Ok(()));
    broker.signal("-HUP");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(broker.log_in(), Ok(()));
    broker.signal("-TERM");
    assert_eq!(broker.wait(), Some(0));
}

#[test]
fn a_data_directory_that_is_removed_ends_it() {
    let mut broker = Unread::start("removed", Stdio::null());
    assert_eq!(broker.log_in(), Ok(()));
    fs::remove_dir_all(&broker.directory).expect("removed");
    fs::create_dir(&broker.directory).expect("made anew");
    // It looks every five seconds.
    assert_eq!(broker.wait(), Some(70));
    let names = fs::read_dir(&broker.directory).expect("readable").count();
    assert_eq!(names, 0, "another directory is none of its business");
}

#[test]
fn files_that_may_not_grow_are_a_full_disk_and_no_end() {
    let mut limited = Command::new("sh");
    // 512 octets each: less than a segment, more than the definitions.
    let script = r#"ulimit -f 1000; exec "$@""#;
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_leveret")]);
    let mut broker = Unread::start_under(limited, "limited", Stdio::null());
    assert_eq!(broker.log_in(), Ok(()));
    thread::sleep(Duration::from_millis(50));
    assert_eq!(broker.log_in(), Ok(()));
    broker.signal("-TERM");
    assert_eq!(broker.wait(), Some(0));
}
