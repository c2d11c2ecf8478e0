//! `leveret inspect`: reads a data directory and changes nothing. It may run beside a broker that
//! holds the directory; it then sees the files as they are at that moment.

use std::io::Write;
use std::path::Path;

use crate::storage::{FileStorage, survey};

/// Exit code of a directory that cannot be read (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code of a directory with damage in it (`EX_SOFTWARE`).
const EXIT_DAMAGED: u8 = 70;

/// Writes what lies in `directory` to `out`: definitions, checkpoint, segments with their records,
/// damage. Returns the exit code: 0 when all of it checks, 69 when the directory cannot be read, 70
/// when something in it is damaged.
pub fn run(directory: &Path, out: &mut dyn Write) -> u8 {
    let storage = match FileStorage::open_to_inspect(directory) {
        Ok(storage) => storage,
        Err(error) => {
            crate::console::complain(&error.to_string());
            return EXIT_UNAVAILABLE;
        }
    };
    match survey(&storage, out) {
        Ok(survey) if survey.damaged > 0 => EXIT_DAMAGED,
        Ok(_) => 0,
        // A reader that has gone has seen what it wanted.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            crate::console::complain(&format!("cannot read {}: {error}", directory.display()));
            EXIT_UNAVAILABLE
        }
    }
}
