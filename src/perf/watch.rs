//! Watching a run from outside: the broker's process beside the counters, and the live line.

use super::failure::Failure;
use super::number::{float, grouped, octets, ratio, rounded, whole};
use super::process::{Meter, Usage};
use super::worker::Shared;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

/// Counters and usage at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Microseconds of the run's clock.
    pub(super) at_us: u64,
    /// See [`Shared`].
    pub(super) published: u64,
    /// See [`Shared`].
    pub(super) confirmed: u64,
    /// See [`Shared`].
    pub(super) delivered: u64,
    /// Of the broker, when its process is known.
    pub(super) usage: Option<Usage>,
}

impl Sample {
    /// Reads counters and usage now.
    pub(super) fn take(shared: &Shared, meter: Option<&Meter>) -> Result<Self, Failure> {
        let usage = meter.map(Meter::read_usage).transpose()?;
        Ok(Sample {
            at_us: shared.clock.now().monotonic_us,
            published: shared.published.load(Relaxed),
            confirmed: shared.confirmed.load(Relaxed),
            delivered: shared.delivered.load(Relaxed),
            usage,
        })
    }
}

/// What the broker's process used between two readings.
///
/// * `elapsed_us`: time between them.
/// * `messages`: what the CPU time is divided by.
pub(super) fn usage_json(
    pid: u32,
    before: &Usage,
    after: &Usage,
    elapsed_us: u64,
    messages: u64,
) -> Value {
    let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns);
    let per_message = |ns: u64| rounded(ratio(float(ns) / 1e3, float(messages)), 4);
    let mut threads = Map::new();
    for (name, &ns) in &after.threads_ns {
        let used = ns.saturating_sub(before.threads_ns.get(name).copied().unwrap_or_default());
        if used > cpu_ns / 1_000 {
            threads.insert(name.clone(), json!(per_message(used)));
        }
    }
    json!({
        "pid": pid,
        "cpu_us_per_message": per_message(cpu_ns),
        "cpu_percent": rounded(ratio(float(cpu_ns) / 10.0, float(elapsed_us)), 1),
        "cpu_user_ms": after.user_ms.saturating_sub(before.user_ms),
        "cpu_system_ms": after.system_ms.saturating_sub(before.system_ms),
        "threads_us_per_message": threads,
        "rss_octets": after.rss_octets,
        "anon_octets": after.anon_octets,
        "anon_octets_before": before.anon_octets,
        "disk_written_octets": after.disk_written_octets.saturating_sub(before.disk_written_octets),
    })
}

/// A line that is written over and over on stderr.
#[derive(Debug)]
pub(super) struct LiveLine {
    is_on: bool,
    is_terminal: bool,
    last: Sample,
}

impl LiveLine {
    /// * `wanted`: as asked for; on terminals when nothing was said.
    pub(super) fn new(wanted: Option<bool>) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        LiveLine {
            is_on: wanted.unwrap_or(is_terminal),
            is_terminal,
            last: Sample::default(),
        }
    }

    /// Whether a line is wanted `now_us`: one a second.
    pub(super) fn is_due(&self, now_us: u64) -> bool {
        self.is_on && now_us >= self.last.at_us + 1_000_000
    }

    /// Shows what happened since the last line.
    pub(super) fn show(&mut self, sample: Sample, copies: u64) {
        let last = std::mem::replace(&mut self.last, sample);
        let now = &self.last;
        let elapsed_s = float(now.at_us.saturating_sub(last.at_us)) / 1e6;
        let rate = |after: u64, before: u64| whole(ratio(float(after - before), elapsed_s));
        let mut line = format!(
            "{:>4} s  published {:>11}/s  delivered {:>11}/s",
            now.at_us / 1_000_000,
            grouped(rate(now.published, last.published)),
            grouped(rate(now.delivered, last.delivered)),
        );
        if now.confirmed != 0 {
            let rate = grouped(rate(now.confirmed, last.confirmed));
            let _ = write!(line, "  confirmed {rate:>11}/s");
        }
        let backlog = (now.published * copies).saturating_sub(now.delivered);
        let _ = write!(line, "  outstanding {:>11}", grouped(backlog));
        if let (Some(after), Some(before)) = (&now.usage, &last.usage) {
            let cpu_ns = float(after.cpu_ns.saturating_sub(before.cpu_ns));
            let moved = (now.delivered - last.delivered).max(now.published - last.published);
            let _ = write!(
                line,
                "  broker {:>3.0} % CPU, {:.3} µs each, {}",
                ratio(cpu_ns / 1e7, elapsed_s),
                ratio(cpu_ns / 1e3, float(moved)),
                octets(after.rss_octets),
            );
        }
        self.put(&line);
    }

    /// Leaves the last line where it is and starts a new one.
    pub(super) fn end(&mut self) {
        if self.is_on && self.is_terminal {
            let _ = writeln!(std::io::stderr());
        }
    }

    fn put(&self, line: &str) {
        let mut stderr = std::io::stderr().lock();
        // What cannot be shown is not worth ending the run for.
        let _ = if self.is_terminal {
            let line = fitting(line, columns(&stderr));
            write!(stderr, "\r{line}\x1b[K").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
    }
}

/// Columns of a terminal, as far as it tells.
fn columns(terminal: &impl AsFd) -> usize {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col != 0 => usize::from(size.ws_col),
        _ => usize::MAX,
    }
}

/// The beginning of `line` that a terminal shows without going on to a next line, which could not
/// be written over. The last column stays free, since some go on once it is used.
fn fitting(line: &str, columns: usize) -> &str {
    let end = line.char_indices().nth(columns.saturating_sub(1));
    &line[..end.map_or(line.len(), |(at, _)| at)]
}

/// Prints a result on stdout: as JSON, or as lines of `key  value` with nested keys joined.
pub(super) fn print(result: &Value, as_json: bool) {
    let mut stdout = std::io::stdout().lock();
    let text = if as_json {
        format!("{result:#}\n")
    } else {
        let mut text = String::new();
        lines(&mut text, "", result);
        text
    };
    let _ = stdout.write_all(text.as_bytes());
}

fn lines(text: &mut String, key: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            // What belongs to the whole comes before what belongs to a part.
            let (parts, wholes) = fields
                .iter()
                .partition::<Vec<_>, _>(|(_, value)| value.is_object());
            for (name, value) in wholes.into_iter().chain(parts) {
                let joined = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key} {name}")
                };
                lines(text, &joined, value);
            }
        }
        Value::Null => {}
        Value::Number(number) => {
            line(
                text,
                key,
                &number.as_u64().map_or_else(|| number.to_string(), grouped),
            );
        }
        Value::String(word) => line(text, key, word),
        other => line(text, key, &other.to_string()),
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{:<40} {value:>16}", key.replace('_', " "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_divided_by_messages_and_time() {
        let usage = |cpu_ns, ns| Usage {
            cpu_ns,
            threads_ns: [("loop".to_owned(), ns), ("idle".to_owned(), 5)].into(),
            rss_octets: 7,
            ..Usage::default()
        };
        let json = usage_json(
            3,
            &usage(1_000, 0),
            &usage(2_001_000, 1_500_000),
            4_000,
            1_000,
        );
        assert_eq!(json["cpu_us_per_message"], json!(2.0));
        assert_eq!(json["cpu_percent"], json!(50.0));
        assert_eq!(json["threads_us_per_message"], json!({ "loop": 1.5 }));
        assert_eq!((&json["pid"], &json["rss_octets"]), (&json!(3), &json!(7)));
    }

    #[test]
    fn a_live_line_does_not_go_on_to_a_second_one() {
        for (columns, shown) in [
            (8, "0.5 µs "),
            (4, "0.5"),
            (1, ""),
            (0, ""),
            (100, "0.5 µs each"),
        ] {
            assert_eq!(fitting("0.5 µs each", columns), shown, "{columns}");
        }
    }

    #[test]
    fn a_result_is_shown_as_one_line_a_value() {
        let mut text = String::new();
        lines(
            &mut text,
            "",
            &json!({ "a_b": { "c": 1_234 }, "d": null, "e": "f", "g": true }),
        );
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words,
            [
                vec!["e", "f"],
                vec!["g", "true"],
                vec!["a", "b", "c", "1,234"]
            ]
        );
    }
}
