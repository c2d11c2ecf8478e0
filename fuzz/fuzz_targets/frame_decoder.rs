//! Frames cut at any place are the same frames, and every payload decodes or is refused; what
//! decodes encodes to something that decodes to the same.
//!
//! The first octet of the input chooses where the rest is cut, the rest is what a peer sends.
#![no_main]

use leveret::wire::content::{ContentHeader, Properties, delivery_mode_of};
use leveret::wire::decoder::{Decoded, decode, decode_prefix};
use leveret::wire::{FrameKind, Method, WireError};
use libfuzzer_sys::fuzz_target;

const FRAME_MAX: u32 = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((&step, stream)) = input.split_first() else {
        return;
    };
    let whole = frames(stream, stream.len().max(1));
    let pieces = frames(stream, usize::from(step).max(1));
    assert_eq!(whole, pieces);
});

/// The frames in `stream` when it comes in pieces of `step` octets, and how it ends.
fn frames(stream: &[u8], step: usize) -> (Vec<(FrameKind, u16, Vec<u8>)>, Option<WireError>) {
    let (mut frames, mut start, mut end) = (Vec::new(), 0, 0);
    while end < stream.len() {
        end = stream.len().min(end + step);
        loop {
            let input = &stream[start..end];
            match decode(input, FRAME_MAX) {
                Ok(Decoded::Incomplete { need }) => {
                    assert!(need > input.len() && need <= FRAME_MAX as usize + 8);
                    break;
                }
                Ok(Decoded::Frame { kind, channel, payload, consumed }) => {
                    let prefix = decode_prefix(input, FRAME_MAX)
                        .expect("a whole frame has a prefix")
                        .expect("which is there");
                    assert_eq!((prefix.kind, prefix.channel), (kind, channel));
                    assert_eq!(prefix.length as usize, payload.len());
                    read_payload(kind, payload);
                    frames.push((kind, channel.0, payload.to_vec()));
                    start += consumed;
                }
                Err(error) => {
                    check_error(&error);
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, None)
}

fn read_payload(kind: FrameKind, payload: &[u8]) {
    match kind {
        FrameKind::Method => match Method::decode(payload) {
            Ok(method) => {
                let mut octets = Vec::new();
                method.encode(&mut octets);
                // Unused bits of an octet of bits are not kept, so octets may differ once.
                let again = Method::decode(&octets).expect("what was encoded decodes");
                assert_eq!(again, method);
                assert_eq!(octets.len(), payload.len());
                assert!(method.to_string().starts_with(method.name()));
            }
            Err(error) => check_error(&error),
        },
        FrameKind::Header => match ContentHeader::decode(payload) {
            Ok(header) => {
                let _ = delivery_mode_of(header.properties);
                let _ = Properties::stored(header.properties).to_list();
                match Properties::check(header.properties) {
                    Ok(properties) => {
                        let list = properties.to_list();
                        assert_eq!(list.delivery_mode, delivery_mode_of(header.properties));
                        let octets = list.to_octets();
                        let again = Properties::check(&octets).expect("what was encoded decodes");
                        assert_eq!(again.to_list(), list);
                    }
                    Err(error) => check_error(&error),
                }
            }
            Err(error) => check_error(&error),
        },
        FrameKind::Body | FrameKind::Heartbeat => {}
    }
}

fn check_error(error: &WireError) {
    assert!(error.reply_code().is_hard());
    assert!(error.reply_text().len() <= 255);
}
