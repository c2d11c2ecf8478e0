//! What a process and its threads use, out of `/proc`; and this process's own cores and limits.

use super::failure::Failure;
use std::collections::BTreeMap;
use std::fs;

/// Ticks of `/proc/PID/stat` in a second; fixed by Linux for what it shows to programs.
const TICKS_PER_S: u64 = 100;

/// What a process has used up to now, and what it holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// CPU time of all threads in nanoseconds, from the scheduler's own account.
    pub(super) cpu_ns: u64,
    /// CPU time in user mode, in milliseconds (10 ms steps).
    pub(super) user_ms: u64,
    /// CPU time in the kernel, in milliseconds (10 ms steps).
    pub(super) system_ms: u64,
    /// CPU time in nanoseconds by thread name; threads of a kind that are numbered count as one.
    pub(super) threads_ns: BTreeMap<String, u64>,
    /// Resident octets.
    pub(super) rss_octets: u64,
    /// Resident octets that no file stands behind.
    pub(super) anon_octets: u64,
    /// Octets that the process made the disk write; 0 when the kernel does not tell.
    pub(super) disk_written_octets: u64,
}

/// Reads `/proc` of one process.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    root: String,
    pid: u32,
}

impl Meter {
    /// A meter for the process `pid`.
    pub(super) fn new(pid: u32) -> Result<Self, Failure> {
        let meter = Meter {
            root: format!("/proc/{pid}"),
            pid,
        };
        meter.read("stat")?;
        Ok(meter)
    }

    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    fn read(&self, file: &str) -> Result<String, Failure> {
        let path = format!("{}/{file}", self.root);
        fs::read_to_string(&path).map_err(|error| Failure::local(&path, error))
    }

    /// What the process has used.
    ///
    /// # Errors
    /// [`Failure::Local`] when the process is gone.
    pub(super) fn read_usage(&self) -> Result<Usage, Failure> {
        let mut usage = Usage::default();
        let stat = self.read("stat")?;
        let (user, system) = cpu_ticks(&stat).unwrap_or_default();
        usage.user_ms = user * 1_000 / TICKS_PER_S;
        usage.system_ms = system * 1_000 / TICKS_PER_S;
        self.read_threads(&mut usage);
        // A thread that has ended is missing among the threads, not in the sum of the process.
        let ticks_ns = (user + system) * (1_000_000_000 / TICKS_PER_S);
        let behind = ticks_ns.saturating_sub(usage.cpu_ns);
        if behind > 1_000_000_000 / TICKS_PER_S * 2 * (usage.threads_ns.len() as u64 + 1) {
            usage.cpu_ns = ticks_ns;
        }
        let memory = self.read("smaps_rollup").or_else(|_| self.read("status"))?;
        usage.rss_octets = kilobytes(&memory, &["Rss:", "VmRSS:"]);
        usage.anon_octets = kilobytes(&memory, &["Anonymous:", "RssAnon:"]);
        usage.disk_written_octets = self
            .read("io")
            .ok()
            .and_then(|io| line_value(&io, "write_bytes:"))
            .unwrap_or_default();
        Ok(usage)
    }

    fn read_threads(&self, usage: &mut Usage) {
        let Ok(threads) = fs::read_dir(format!("{}/task", self.root)) else {
            return;
        };
        for thread in threads.flatten() {
            let read = |file| fs::read_to_string(thread.path().join(file));
            let (Ok(name), Ok(schedstat)) = (read("comm"), read("schedstat")) else {
                continue;
            };
            let Some(ns) = first_number(&schedstat) else {
                continue;
            };
            usage.cpu_ns += ns;
            *usage.threads_ns.entry(kind_of_thread(&name)).or_default() += ns;
        }
    }
}

/// Nanoseconds of CPU time that the calling thread has used; 0 when the kernel does not tell.
pub(super) fn own_thread_ns() -> u64 {
    fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| first_number(&text))
        .unwrap_or_default()
}

/// User and system ticks out of `/proc/PID/stat`. The name in parentheses may hold anything.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..]
        .split_ascii_whitespace()
        .skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The number after `key` at the start of a line.
fn line_value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| first_number(line.strip_prefix(key)?))
}

/// The first of `keys` that is there, in octets.
fn kilobytes(text: &str, keys: &[&str]) -> u64 {
    let value = keys.iter().find_map(|key| line_value(text, key));
    value.unwrap_or_default() * 1024
}

/// `12_scheduler` and `erts_dcpu_3` without what numbers them.
fn kind_of_thread(name: &str) -> String {
    name.trim_matches(|c: char| c.is_ascii_digit() || c.is_whitespace() || c == '_')
        .to_owned()
}

/// Binds the calling thread, and those that it starts from now on, to one core.
pub(super) fn pin(core: usize) -> Result<(), Failure> {
    let mut cores = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(Failure::Usage(format!("there is no core {core}")));
    }
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores)
        .map_err(|error| Failure::local(&format!("cannot run on core {core}"), error))
}

/// Makes room for `wanted` open files.
///
/// # Errors
/// [`Failure::Local`] when the hard limit is lower.
pub(super) fn raise_open_files(wanted: u64) -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    // Root may raise the hard limit as well; for everybody else the second try decides.
    let raised = |maximum| Rlimit {
        current: Some(wanted),
        maximum,
    };
    let higher = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, raised(higher))
        .or_else(|_| setrlimit(Resource::Nofile, raised(limit.maximum)))
        .map_err(|error| Failure::local(&format!("cannot open {wanted} files"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 314 159 0 0 20";
        assert_eq!(cpu_ticks(stat), Some((314, 159)));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn numbered_threads_are_of_one_kind() {
        for (name, kind) in [
            ("12_scheduler\n", "scheduler"),
            ("erts_dcpus_3\n", "erts_dcpus"),
            ("flusher\n", "flusher"),
        ] {
            assert_eq!(kind_of_thread(name), kind);
        }
    }

    #[test]
    fn memory_is_read_from_either_file() {
        assert_eq!(
            kilobytes("Rss:      12 kB\nAnonymous: 3 kB", &["Anonymous:"]),
            3 * 1024
        );
        assert_eq!(
            kilobytes("Name: x\nVmRSS:\t5 kB", &["Rss:", "VmRSS:"]),
            5 * 1024
        );
        assert_eq!(kilobytes("", &["Rss:"]), 0);
    }

    #[test]
    fn this_process_is_measured() {
        let meter = Meter::new(std::process::id()).expect("this process is there");
        let before = meter.read_usage().expect("this process is there");
        let started = own_thread_ns();
        while own_thread_ns() < started + 30_000_000 {
            std::hint::spin_loop();
        }
        let after = meter.read_usage().expect("this process is there");
        assert!(after.cpu_ns >= before.cpu_ns + 20_000_000);
        assert!(after.rss_octets > 100_000 && after.anon_octets > 10_000);
        assert!(after.threads_ns.values().sum::<u64>() > 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_a_failure() {
        assert!(matches!(Meter::new(u32::MAX), Err(Failure::Local(_))));
    }
}
