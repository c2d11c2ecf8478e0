//! How much memory there is and how much of it we use.
//!
//! The limit is what the process may really have: a container's share where there is one, else the
//! machine's. What counts against it is anonymous memory; mapped segments are the kernel's cache,
//! which it takes back when it needs to.

use std::fs;

/// Share of the limit at which publishers are stopped, in percent (RabbitMQ 4's default).
const HIGH_WATERMARK_PERCENT: u64 = 60;

/// Watches the process's memory.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    high_octets: u64,
    page_octets: u64,
}

impl MemoryWatch {
    /// Reads the limit once; it does not change while a process runs in practice.
    pub(super) fn new() -> Self {
        let limit = limit_octets(&|path| fs::read_to_string(path).ok());
        MemoryWatch {
            high_octets: limit.map_or(u64::MAX, |limit| limit / 100 * HIGH_WATERMARK_PERCENT),
            page_octets: rustix::param::page_size() as u64,
        }
    }

    /// Octets at which publishers are stopped; `None` where no limit is known.
    pub(super) fn high_octets(&self) -> Option<u64> {
        (self.high_octets != u64::MAX).then_some(self.high_octets)
    }

    /// Anonymous octets of the process; 0 where that is not told.
    pub(super) fn used_octets(&self) -> u64 {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        anonymous_pages(&statm).unwrap_or(0) * self.page_octets
    }

    /// Whether publishers are to be stopped.
    pub(super) fn is_high(&self) -> bool {
        self.used_octets() > self.high_octets
    }
}

/// Resident pages that are no file's, from the text of `/proc/self/statm`.
fn anonymous_pages(statm: &str) -> Option<u64> {
    let mut fields = statm
        .split_ascii_whitespace()
        .skip(1)
        .map(str::parse::<u64>);
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(resident.saturating_sub(shared))
}

/// The smallest limit that applies: cgroup v2, cgroup v1, the machine. `read` gives a file's text.
fn limit_octets(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    // A process sees its own group at the root of the mount in a container; elsewhere the path
    // below it is in /proc/self/cgroup, and every group above it limits it as well.
    let own = read("/proc/self/cgroup").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let mut limits = vec![number("/sys/fs/cgroup/memory/memory.limit_in_bytes")];
    let mut group = own.trim_end_matches('/');
    loop {
        limits.push(number(&format!("/sys/fs/cgroup{group}/memory.max")));
        match group.rfind('/') {
            Some(cut) => group = &group[..cut],
            None => break,
        }
    }
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kb| kb * 1024)
    });
    limits.push(total);
    limits.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_applies() {
        let check = |files: &[(&str, &str)], expected: Option<u64>| {
            let read = |path: &str| {
                let found = files.iter().find(|(name, _)| *name == path);
                found.map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(limit_octets(&read), expected, "{files:?}");
        };
        let meminfo = ("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\n");
        check(&[], None);
        check(&[meminfo], Some(1_024_000));
        check(
            &[meminfo, ("/sys/fs/cgroup/memory.max", "65536\n")],
            Some(65536),
        );
        check(
            &[meminfo, ("/sys/fs/cgroup/memory.max", "max\n")],
            Some(1_024_000),
        );
        let own = ("/proc/self/cgroup", "0::/a/b\n");
        check(
            &[meminfo, own, ("/sys/fs/cgroup/a/memory.max", "5000\n")],
            Some(5000),
        );
        let v1 = (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        check(&[meminfo, v1], Some(1_024_000));
    }

    #[test]
    fn anonymous_memory_is_what_is_resident_and_not_shared() {
        assert_eq!(anonymous_pages("900 500 300 10 0 20 0\n"), Some(200));
        assert_eq!(anonymous_pages("900"), None);
    }
}
