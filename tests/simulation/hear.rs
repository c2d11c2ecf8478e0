//! What the server says about itself, as its operator reads it.

use std::cell::RefCell;
use std::io::Write as _;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Ear {
    is_traced: bool,
}

impl Log for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_traced || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.is_traced {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{} {}", record.level(), record.args());
        }
        if record.level() <= Level::Warn {
            HEARD.with_borrow_mut(|heard| heard.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Begins to listen.
///
/// * `is_traced`: all that is said is printed, too.
pub(crate) fn listen(is_traced: bool) {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| {
        let ear = Box::new(Ear { is_traced });
        log::set_boxed_logger(ear).expect("nobody else listens");
        log::set_max_level(if is_traced {
            LevelFilter::Debug
        } else {
            LevelFilter::Warn
        });
    });
}

/// The warnings and errors of this thread since it was asked last.
pub(crate) fn heard() -> Vec<String> {
    HEARD.take()
}
