//! Plays `tests/conformance/*.txt`, one test for each; `docs/conformance.md` is the index.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::broker::Broker;
use crate::transcript::{Transcript, run};

/// A test for each transcript, and one that says when a file has none.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })*

        #[test]
        fn every_transcript_is_played() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
            let entries = fs::read_dir(directory).expect("the directory of transcripts is there");
            let files: BTreeSet<String> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter_map(|file| file.strip_suffix(".txt").map(String::from))
                .collect();
            let played = [$(stringify!($name)),*].map(String::from);
            assert_eq!(files, BTreeSet::from(played));
        }
    };
}

transcripts! {
    connection_close
    connection_handshake
    connection_open
    connection_protocol_header
    connection_server_properties
}

fn play(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let text = fs::read_to_string(path.join(format!("{name}.txt"))).expect("a transcript");
    let outcome =
        Transcript::parse(name, &text).and_then(|transcript| run(&transcript, &Broker::get()?));
    if let Err(why) = outcome {
        panic!("\n{why}");
    }
}
