//! Cuts frames out of an inbox. Nothing is copied: a frame borrows the octets it came in.
//!
//! How to drive it: call [`decode`] with all octets that are there and not consumed. On
//! [`Decoded::Frame`] drop `consumed` octets when done with the frame and call again; on
//! [`Decoded::Incomplete`] wait for more octets, the result is the same however they are cut. After
//! an error the stream has lost its frames: the connection can only be closed.
//!
//! A body frame need not be there in full: [`decode_prefix`] reads what stands before its payload,
//! and after `length` octets of payload [`check_frame_end`] takes the last octet.

use super::error::{Snippet, WireError};
use super::frame::{ChannelNumber, FRAME_END, FRAME_OVERHEAD, FRAME_PREFIX, FrameKind};

/// What stands at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Not a whole frame yet.
    Incomplete {
        /// Octets that the input must have in all before another try can bring more.
        need: usize,
    },
    /// A whole frame.
    Frame {
        /// What the payload is.
        kind: FrameKind,
        /// The channel it belongs to.
        channel: ChannelNumber,
        /// The payload.
        payload: &'a [u8],
        /// Octets of the input that the frame takes, `payload.len() + FRAME_OVERHEAD`.
        consumed: usize,
    },
}

/// What stands before a frame's payload; [`FRAME_PREFIX`] octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePrefix {
    /// What the payload is.
    pub kind: FrameKind,
    /// The channel it belongs to.
    pub channel: ChannelNumber,
    /// Octets of payload.
    pub length: u32,
}

/// The frame at the start of `input`.
///
/// * `frame_max`: octets of a whole frame as agreed on. As RabbitMQ we let the payload alone be as
///   long as that, eight octets more than the specification does.
///
/// # Errors
/// [`WireError::FrameTooLarge`] as soon as the prefix is there; [`WireError::FrameEnd`] and
/// [`WireError::UnknownFrame`] with the whole frame, since their texts show the payload.
#[inline]
pub fn decode(input: &[u8], frame_max: u32) -> Result<Decoded<'_>, WireError> {
    let Some((&[frame_type, c1, c0, l3, l2, l1, l0], rest)) =
        input.split_first_chunk::<FRAME_PREFIX>()
    else {
        return Ok(Decoded::Incomplete {
            need: FRAME_OVERHEAD,
        });
    };
    let length = u32::from_be_bytes([l3, l2, l1, l0]);
    if length > frame_max {
        return Err(too_large(frame_type, length, frame_max));
    }
    let length = length as usize;
    let Some((&end, payload)) = rest.get(..=length).and_then(<[u8]>::split_last) else {
        return Ok(Decoded::Incomplete {
            need: length.saturating_add(FRAME_OVERHEAD),
        });
    };
    if end != FRAME_END {
        return Err(bad_end(frame_type, end, payload));
    }
    let Some(kind) = FrameKind::from_octet(frame_type) else {
        return Err(unknown(frame_type, payload));
    };
    Ok(Decoded::Frame {
        kind,
        channel: ChannelNumber(u16::from_be_bytes([c1, c0])),
        payload,
        consumed: length + FRAME_OVERHEAD,
    })
}

/// The prefix of the frame at the start of `input`; `None` while it is not there in full.
///
/// # Errors
/// [`WireError::FrameTooLarge`], [`WireError::UnknownFrame`].
#[inline]
pub fn decode_prefix(input: &[u8], frame_max: u32) -> Result<Option<FramePrefix>, WireError> {
    let Some(&[frame_type, c1, c0, l3, l2, l1, l0]) = input.first_chunk::<FRAME_PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([l3, l2, l1, l0]);
    if length > frame_max {
        return Err(too_large(frame_type, length, frame_max));
    }
    let Some(kind) = FrameKind::from_octet(frame_type) else {
        return Err(unknown(frame_type, &input[FRAME_PREFIX..]));
    };
    Ok(Some(FramePrefix {
        kind,
        channel: ChannelNumber(u16::from_be_bytes([c1, c0])),
        length,
    }))
}

/// Takes the octet after the payload of a frame that was read piece by piece.
///
/// * `tail`: the end of the payload, as far as it is still there; only for the reply text.
///
/// # Errors
/// [`WireError::FrameEnd`].
#[inline]
pub fn check_frame_end(kind: FrameKind, end: u8, tail: &[u8]) -> Result<(), WireError> {
    if end == FRAME_END {
        Ok(())
    } else {
        Err(bad_end(kind as u8, end, tail))
    }
}

#[cold]
#[inline(never)]
fn too_large(frame_type: u8, length: u32, frame_max: u32) -> WireError {
    WireError::FrameTooLarge {
        frame_type,
        length,
        payload_octets_max: frame_max.saturating_sub(FRAME_OVERHEAD as u32),
    }
}

#[cold]
#[inline(never)]
fn bad_end(frame_type: u8, found: u8, payload: &[u8]) -> WireError {
    WireError::FrameEnd {
        frame_type,
        found,
        payload: Snippet::of(payload),
    }
}

#[cold]
#[inline(never)]
fn unknown(frame_type: u8, payload: &[u8]) -> WireError {
    WireError::UnknownFrame {
        frame_type,
        payload: Snippet::of(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_MAX: u32 = 4096;

    fn frame(frame_type: u8, channel: u16, payload: &[u8], end: u8) -> Vec<u8> {
        let mut octets = vec![frame_type];
        octets.extend_from_slice(&channel.to_be_bytes());
        octets.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        octets.extend_from_slice(payload);
        octets.push(end);
        octets
    }

    type Owned = (FrameKind, u16, Vec<u8>);

    /// Feeds `pieces` as a socket would and collects the frames.
    fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Owned>, WireError> {
        let (mut inbox, mut frames) = (Vec::new(), Vec::new());
        for piece in pieces {
            inbox.extend_from_slice(piece);
            loop {
                match decode(&inbox, FRAME_MAX)? {
                    Decoded::Incomplete { need } => {
                        assert!(need > inbox.len());
                        break;
                    }
                    Decoded::Frame {
                        kind,
                        channel,
                        payload,
                        consumed,
                    } => {
                        assert_eq!(consumed, payload.len() + FRAME_OVERHEAD);
                        frames.push((kind, channel.0, payload.to_vec()));
                        inbox.drain(..consumed);
                    }
                }
            }
        }
        assert!(inbox.is_empty());
        Ok(frames)
    }

    #[test]
    fn frames_are_the_same_at_every_split_point_and_octet_by_octet() {
        let stream = [
            frame(1, 1, b"method", FRAME_END),
            frame(2, 1, b"header", FRAME_END),
            frame(3, 1, &[FRAME_END; 20], FRAME_END),
            frame(3, 65535, b"", FRAME_END),
            frame(8, 0, b"", FRAME_END),
        ]
        .concat();
        let expected = vec![
            (FrameKind::Method, 1, b"method".to_vec()),
            (FrameKind::Header, 1, b"header".to_vec()),
            (FrameKind::Body, 1, vec![FRAME_END; 20]),
            (FrameKind::Body, 65535, vec![]),
            (FrameKind::Heartbeat, 0, vec![]),
        ];
        assert_eq!(feed(stream.chunks(1)).as_ref(), Ok(&expected));
        for split in 0..=stream.len() {
            let (head, tail) = stream.split_at(split);
            assert_eq!(
                feed([head, tail].into_iter()).as_ref(),
                Ok(&expected),
                "at {split}"
            );
        }
    }

    #[test]
    fn what_is_needed_is_told_exactly_once_the_length_is_known() {
        let check = |input: &[u8], need| {
            assert_eq!(decode(input, FRAME_MAX), Ok(Decoded::Incomplete { need }));
        };
        check(b"", 8);
        check(&[1, 0, 0, 0, 0, 0], 8);
        check(&[1, 0, 0, 0, 0, 0, 0], 8);
        check(&[1, 0, 0, 0, 0, 0, 5], 13);
        check(&[1, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4, 5], 13);
    }

    #[test]
    fn broken_frames_name_what_is_wrong() {
        let check = |input: &[u8], expected: &str| {
            let error = decode(input, FRAME_MAX).expect_err("a broken frame");
            assert_eq!(error.reply_text(), expected);
        };
        check(
            &frame(1, 0, &[0, 10, 0, 11], 0),
            "FRAME_ERROR - type 1, all octets = <<0,10,0,11>>: {invalid_frame_end_marker,0}",
        );
        check(
            &frame(1, 0, &[1; 17], 205),
            "FRAME_ERROR - type 1, first 16 octets = <<1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1>>: {invalid_frame_end_marker,205}",
        );
        check(
            &frame(9, 0, b"", FRAME_END),
            "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame",
        );
        check(
            &[3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF],
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4294967295,4088}",
        );
    }

    #[test]
    fn eight_octets_of_slack_are_allowed_and_no_more() {
        for (length, fits) in [(4088, true), (4096, true), (4097, false)] {
            let octets = frame(3, 1, &vec![0; length], FRAME_END);
            assert_eq!(decode(&octets, FRAME_MAX).is_ok(), fits, "{length}");
            assert_eq!(decode_prefix(&octets, FRAME_MAX).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn a_frame_can_be_read_piece_by_piece() {
        let octets = frame(3, 7, b"body", FRAME_END);
        for end in 0..FRAME_PREFIX {
            assert_eq!(decode_prefix(&octets[..end], FRAME_MAX), Ok(None));
        }
        let prefix = FramePrefix {
            kind: FrameKind::Body,
            channel: ChannelNumber(7),
            length: 4,
        };
        for end in FRAME_PREFIX..=octets.len() {
            assert_eq!(decode_prefix(&octets[..end], FRAME_MAX), Ok(Some(prefix)));
        }
        assert_eq!(check_frame_end(FrameKind::Body, octets[11], b""), Ok(()));
        assert!(check_frame_end(FrameKind::Body, 0, b"body").is_err());
        assert!(decode_prefix(&frame(7, 7, b"", FRAME_END), FRAME_MAX).is_err());
    }
}
