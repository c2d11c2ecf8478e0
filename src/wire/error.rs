//! What can be wrong with octets, and what the peer is told about it.

use super::erlang::{Binary, pretty_binary};
use super::reply_code::{self, ReplyCode};
use std::fmt::Write;

/// The first octets of a payload, kept for the reply text. RabbitMQ shows 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snippet {
    octets: [u8; Snippet::OCTETS_MAX],
    used: u8,
    whole: bool,
}

impl Snippet {
    const OCTETS_MAX: usize = 16;

    /// The first octets of `payload`.
    pub fn of(payload: &[u8]) -> Self {
        let used = payload.len().min(Self::OCTETS_MAX);
        let mut octets = [0; Self::OCTETS_MAX];
        octets[..used].copy_from_slice(&payload[..used]);
        Snippet {
            octets,
            used: used as u8,
            whole: used == payload.len(),
        }
    }

    fn describe(&self, frame_type: u8) -> String {
        let share = if self.whole { "all" } else { "first 16" };
        let mut text = format!("type {frame_type}, {share} octets = ");
        pretty_binary(&mut text, &self.octets[..usize::from(self.used)]);
        text
    }
}

/// Octets that cannot be understood. Each ends the connection: [`WireError::reply_code`] is hard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The octet after the payload is not frame-end (spec 4.2.3).
    FrameEnd {
        /// The frame's type octet.
        frame_type: u8,
        /// What stands in place of frame-end.
        found: u8,
        /// The payload before it.
        payload: Snippet,
    },
    /// A frame declares more octets than were agreed on.
    FrameTooLarge {
        /// The frame's type octet.
        frame_type: u8,
        /// Octets of payload that it declares.
        length: u32,
        /// Octets of payload that a frame may have.
        payload_octets_max: u32,
    },
    /// No such frame type, or a payload that no frame of this type can have.
    UnknownFrame {
        /// The frame's type octet.
        frame_type: u8,
        /// The payload.
        payload: Snippet,
    },
    /// A well-formed frame that has no place here: a heartbeat on a channel, content on channel 0.
    /// Decoding never finds this; `connection` does.
    UnexpectedFrame {
        /// The frame's type octet.
        frame_type: u8,
        /// The payload.
        payload: Snippet,
    },
    /// No method has these numbers. RabbitMQ drops the connection without a word; we answer 540.
    UnknownMethod {
        /// Number of the class.
        class_id: u16,
        /// Number of the method in its class.
        method_id: u16,
    },
    /// Arguments that are cut short, go on after the last, or hold a malformed field table (over
    /// which RabbitMQ drops the connection without a word).
    Arguments {
        /// Number of the class.
        class_id: u16,
        /// Number of the method in its class.
        method_id: u16,
        /// As much of the arguments as a reply text can show.
        octets: Box<[u8]>,
    },
    /// A short string of a method is no UTF-8.
    MalformedUtf8,
    /// A field table is nested deeper than [`super::field_table::DEPTH_MAX`]. RabbitMQ has no such
    /// limit; its parser takes what memory it needs.
    TableTooDeep,
    /// A content header's property list cannot be read. RabbitMQ fails over it and sends the bare
    /// text `INTERNAL_ERROR`; we send its code and say why.
    Properties,
}

impl WireError {
    /// `payload` is that of a frame which has no place here.
    #[cold]
    pub fn unexpected_frame(frame_type: u8, payload: &[u8]) -> Self {
        WireError::UnexpectedFrame {
            frame_type,
            payload: Snippet::of(payload),
        }
    }

    /// `payload` is one that no frame of this type has.
    #[cold]
    pub fn unknown_frame(frame_type: u8, payload: &[u8]) -> Self {
        WireError::UnknownFrame {
            frame_type,
            payload: Snippet::of(payload),
        }
    }

    /// The arguments `octets` of a method cannot be read.
    #[cold]
    pub(super) fn arguments(class_id: u16, method_id: u16, octets: &[u8]) -> Self {
        // Each octet takes two characters at least, so more can never be shown.
        let shown = octets.len().min(reply_code::REPLY_TEXT_OCTETS_MAX / 2 + 1);
        WireError::Arguments {
            class_id,
            method_id,
            octets: octets[..shown].into(),
        }
    }

    /// The code to close the connection with.
    pub fn reply_code(&self) -> ReplyCode {
        match self {
            WireError::FrameEnd { .. }
            | WireError::FrameTooLarge { .. }
            | WireError::UnknownFrame { .. }
            | WireError::Arguments { .. }
            | WireError::MalformedUtf8 => ReplyCode::FrameError,
            WireError::UnexpectedFrame { .. } => ReplyCode::UnexpectedFrame,
            WireError::UnknownMethod { .. } => ReplyCode::NotImplemented,
            WireError::TableTooDeep => ReplyCode::SyntaxError,
            WireError::Properties => ReplyCode::InternalError,
        }
    }

    /// The method that failed, as `connection.close` names it: class and method number, 0 and 0
    /// when it was none.
    pub fn failed_method(&self) -> (u16, u16) {
        match *self {
            WireError::UnknownMethod {
                class_id,
                method_id,
            }
            | WireError::Arguments {
                class_id,
                method_id,
                ..
            } => (class_id, method_id),
            _ => (0, 0),
        }
    }

    /// The reply text, at most 255 octets, worded as RabbitMQ's.
    pub fn reply_text(&self) -> String {
        reply_code::reply_text(self.reply_code(), &self.explanation())
    }

    fn explanation(&self) -> String {
        match self {
            WireError::FrameEnd {
                frame_type,
                found,
                payload,
            } => {
                let mut text = payload.describe(*frame_type);
                let _ = write!(text, ": {{invalid_frame_end_marker,{found}}}");
                text
            }
            WireError::FrameTooLarge {
                frame_type,
                length,
                payload_octets_max,
            } => format!(
                "type {frame_type}, all octets = <<>>: {{frame_too_large,{length},{payload_octets_max}}}"
            ),
            WireError::UnknownFrame {
                frame_type,
                payload,
            } => payload.describe(*frame_type) + ": unknown_frame",
            WireError::UnexpectedFrame {
                frame_type,
                payload,
            } => payload.describe(*frame_type),
            WireError::UnknownMethod {
                class_id,
                method_id,
            } => format!("unknown method {method_id} of class {class_id}"),
            WireError::Arguments { octets, .. } => format!("cannot decode {}", Binary(octets)),
            WireError::MalformedUtf8 => "Malformed UTF-8 in shortstr".into(),
            WireError::TableTooDeep => format!(
                "field table is nested deeper than {} levels",
                super::field_table::DEPTH_MAX
            ),
            WireError::Properties => "malformed content properties".into(),
        }
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reply_text())
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_texts_are_rabbitmqs() {
        let check = |error: WireError, expected: &str| {
            assert_eq!(error.reply_text(), expected);
            assert!(error.reply_code().is_hard());
        };
        let frame_end = |payload: &[u8]| WireError::FrameEnd {
            frame_type: 1,
            found: 0,
            payload: Snippet::of(payload),
        };
        check(
            frame_end(&[0, 10, 0, 11]),
            "FRAME_ERROR - type 1, all octets = <<0,10,0,11>>: {invalid_frame_end_marker,0}",
        );
        check(
            frame_end(b"GET \"/\" \n"),
            "FRAME_ERROR - type 1, all octets = <<\"GET \\\"/\\\" \\n\">>: {invalid_frame_end_marker,0}",
        );
        check(
            frame_end("é".as_bytes()),
            "FRAME_ERROR - type 1, all octets = <<\"é\"/utf8>>: {invalid_frame_end_marker,0}",
        );
        check(
            frame_end(b"h\xE9"),
            "FRAME_ERROR - type 1, all octets = <<\"hé\">>: {invalid_frame_end_marker,0}",
        );
        check(
            frame_end(&[
                0, 10, 0, 11, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212,
            ]),
            "FRAME_ERROR - type 1, first 16 octets = <<0,10,0,11,200,201,202,203,204,205,206,207,208,209,\n                            210,211>>: {invalid_frame_end_marker,0}",
        );
        check(
            WireError::FrameTooLarge {
                frame_type: 3,
                length: 200_000,
                payload_octets_max: 131_064,
            },
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,200000,131064}",
        );
        check(
            WireError::UnknownFrame {
                frame_type: 9,
                payload: Snippet::of(b""),
            },
            "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame",
        );
        check(
            WireError::unexpected_frame(8, b""),
            "UNEXPECTED_FRAME - type 8, all octets = <<>>",
        );
        check(
            WireError::arguments(60, 40, &[0, 0, 255]),
            "FRAME_ERROR - cannot decode <<0,0,255>>",
        );
        check(
            WireError::MalformedUtf8,
            "FRAME_ERROR - Malformed UTF-8 in shortstr",
        );
        let long = WireError::arguments(60, 40, &vec![1; 100_000]).reply_text();
        assert!(long.len() == 255 && long.ends_with("1,..."), "{long}");
    }
}
