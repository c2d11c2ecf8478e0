//! Standard output and standard error, as a server writes to them: without ever waiting for whoever
//! reads them.
//!
//! A pipe that nobody reads is full after 64 KiB, and whoever writes to it then stands still. A line
//! is written at once as long as that cannot happen. When it could, a thread takes the lines from
//! there on and does the waiting, in order, until it has caught up; what does not fit into its bound
//! is dropped, counted, and said so. The lock is never held while somebody waits.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What a pipe or socket takes without waiting when it says that it takes anything (`PIPE_BUF`).
const WRITE_OCTETS: usize = 4096;
/// Octets of lines that wait for the thread. One line may be longer.
const WAITING_OCTETS_MAX: usize = 256 << 10;
/// Octets of the thread's stack.
const STACK_OCTETS: usize = 128 << 10;
/// How long the last words of a process are waited for.
const FAREWELL: Duration = Duration::from_millis(250);

/// Where lines go. Clones write to the same place.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    outlet: Box<dyn AsFd + Send + Sync>,
    /// What polls as writable may still wait: a terminal does for its flow control.
    is_terminal: bool,
    state: Mutex<State>,
    changed: Condvar,
}

/// Invariant: `waiting` is empty unless `is_behind`.
#[derive(Default)]
struct State {
    /// Lines that the thread has not taken yet.
    waiting: Vec<u8>,
    /// Lines that were given up since it was last said how many.
    dropped: u64,
    /// The thread has, or will find, something to write.
    is_behind: bool,
    has_thread: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console {
    /// The standard output of the process.
    pub fn stdout() -> Self {
        Self::new(io::stdout(), io::stdout().is_terminal())
    }

    /// The standard error of the process.
    pub fn stderr() -> Self {
        Self::new(io::stderr(), io::stderr().is_terminal())
    }

    fn new(outlet: impl AsFd + Send + Sync + 'static, is_terminal: bool) -> Self {
        Console {
            shared: Arc::new(Shared {
                outlet: Box::new(outlet),
                is_terminal,
                state: Mutex::new(State::default()),
                changed: Condvar::new(),
            }),
        }
    }

    /// Writes one line, or as much as it takes at once and leaves the rest to the thread. A reader
    /// that is gone gets nothing, and nobody is told: there is nowhere to tell it.
    ///
    /// * `line`: with its line feed. Its first word tells the time, which a note about dropped lines
    ///   repeats.
    pub fn write_line(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        let mut rest = line;
        if !state.is_behind {
            if !self.shared.is_terminal {
                rest = self.shared.write_at_once(line);
            }
            if rest.is_empty() {
                return;
            }
        } else if state.waiting.len() + line.len() > WAITING_OCTETS_MAX {
            state.dropped += 1;
            return;
        }
        if !state.has_thread {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name("console".to_owned())
                .stack_size(STACK_OCTETS)
                .spawn(move || shared.write_on());
            if thread.is_err() {
                // Half a line may stand there; waiting for the rest is worse.
                state.dropped += 1;
                return;
            }
            state.has_thread = true;
        }
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            let time = line.split(|&octet| octet == b' ').next();
            state.waiting.extend_from_slice(time.unwrap_or_default());
            // Writing to memory does not fail.
            let _ = writeln!(
                state.waiting,
                " [warning] <0.1.0> {dropped} lines were dropped here, since nobody read them"
            );
        }
        state.waiting.extend_from_slice(rest);
        state.is_behind = true;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, for a quarter of a second at most.
    pub fn finish(&self) {
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, FAREWELL, |state| state.is_behind);
        drop(waited);
    }
}

/// Every write is one line.
impl Write for Console {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.write_line(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `WRITE_OCTETS` can be written without waiting, after waiting for it at most so long.
    fn is_ready(&self, timeout: Option<&Timespec>) -> bool {
        let mut outlets = [PollFd::new(&self.outlet, PollFlags::OUT)];
        // An error of the outlet counts as ready: the writing tells.
        poll(&mut outlets, timeout).is_ok_and(|ready| ready > 0)
    }

    /// Writes as long as that means no wait; what is left of `octets`. Nothing is left when the
    /// reader has gone.
    fn write_at_once<'a>(&self, mut octets: &'a [u8]) -> &'a [u8] {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while !octets.is_empty() && self.is_ready(Some(&now)) {
            match self.write_some(octets) {
                Ok(rest) => octets = rest,
                Err(Errno::AGAIN) => break,
                Err(_) => return &[],
            }
        }
        octets
    }

    /// One write; what is left of `octets`.
    fn write_some<'a>(&self, octets: &'a [u8]) -> Result<&'a [u8], Errno> {
        match rustix::io::write(&self.outlet, &octets[..octets.len().min(WRITE_OCTETS)]) {
            Ok(written) => Ok(&octets[written..]),
            Err(Errno::INTR) => Ok(octets),
            Err(error) => Err(error),
        }
    }

    /// The thread: writes what waits, for as long as the process runs.
    fn write_on(&self) {
        let mut state = self.lock();
        loop {
            if state.waiting.is_empty() {
                state.is_behind = false;
                self.changed.notify_all();
                state = self
                    .changed
                    .wait_while(state, |state| !state.is_behind)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let lines = std::mem::take(&mut state.waiting);
            drop(state);
            let mut rest = &lines[..];
            while !rest.is_empty() {
                // Somebody else may have made the outlet one that refuses to wait.
                self.is_ready(None);
                match self.write_some(rest) {
                    Ok(left) => rest = left,
                    Err(Errno::AGAIN) => {}
                    Err(_) => break,
                }
            }
            state = self.lock();
        }
    }
}

/// Says why the process ends, as a line on standard error.
pub fn complain(line: &str) {
    let console = Console::stderr();
    console.write_line(format!("leveret: {line}\n").as_bytes());
    console.finish();
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn lines(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|number| format!("12:00:{number} [info] {}\n", "x".repeat(90)))
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_none_of_the_first_lines_is_lost() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let console = Console::new(writer, false);
        // Far beyond what pipe and bound hold: a writer that waits would be here for ever.
        let mut has_thread = false;
        for line in lines(10_000) {
            console.write_line(line.as_bytes());
            if !has_thread && console.shared.lock().is_behind {
                // From here on it stands before the full pipe and makes no more room.
                while !console.shared.lock().waiting.is_empty() {
                    std::thread::yield_now();
                }
                has_thread = true;
            }
        }
        let state = console.shared.lock();
        assert!(state.is_behind && state.dropped > 1000, "{}", state.dropped);
        assert!(state.waiting.len() <= WAITING_OCTETS_MAX);
        drop(state);
        let mut reader = BufReader::new(reader);
        let mut next = || {
            let mut line = String::new();
            reader.read_line(&mut line).expect("reads");
            line
        };
        let mut expected = lines(10_000);
        for _ in 0..2000 {
            assert_eq!(Some(next()), expected.next());
        }
        // There is room now: what is said next says how much is missing.
        while console.shared.lock().waiting.len() + 200 > WAITING_OCTETS_MAX {
            assert_eq!(Some(next()), expected.next());
        }
        console.write_line(b"13:00 [info] last\n");
        let told = loop {
            let line = next();
            if !line.starts_with("12:00") {
                break line;
            }
            assert_eq!(Some(line), expected.next());
        };
        let missing = expected.count();
        assert_eq!(
            told,
            format!(
                "13:00 [warning] <0.1.0> {missing} lines were dropped here, since nobody read them\n"
            )
        );
        assert_eq!(next(), "13:00 [info] last\n");
        console.finish();
        // The thread has caught up: lines go out at once again, and in order.
        assert!(!console.shared.lock().is_behind);
        console.write_line(b"14:00 [info] after\n");
        assert!(!console.shared.lock().is_behind);
        assert_eq!(next(), "14:00 [info] after\n");
    }

    #[test]
    fn a_long_line_is_written_whole() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let console = Console::new(writer, false);
        let long = vec![b'y'; 1 << 20];
        console.write_line(&long);
        let mut octets = vec![0; long.len()];
        io::Read::read_exact(&mut reader, &mut octets).expect("reads");
        assert!(octets == long);
    }

    #[test]
    fn a_reader_that_has_gone_costs_nothing() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let console = Console::new(writer, false);
        for line in lines(2000) {
            console.write_line(line.as_bytes());
        }
        assert!(console.shared.lock().is_behind);
        drop(reader);
        console.finish();
        for line in lines(2000) {
            console.write_line(line.as_bytes());
        }
        let state = console.shared.lock();
        assert!(!state.is_behind && state.dropped == 0);
    }
}
