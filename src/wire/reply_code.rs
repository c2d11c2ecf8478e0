//! Reply codes of `connection.close`, `channel.close` and `basic.return` (spec 1.2), as RabbitMQ
//! knows them, and how a reply text is put together.

use std::fmt;

/// Octets that a reply text can have at most: it travels as a short string.
pub const REPLY_TEXT_OCTETS_MAX: usize = 255;

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal $kind:ident,)*) => {
        /// A reply code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ReplyCode {
            $($(#[$doc])* $variant = $code,)*
        }

        impl ReplyCode {
            /// Every code, in ascending order.
            pub const ALL: &[ReplyCode] = &[$(ReplyCode::$variant),*];

            /// The constant's name in the specification, as it opens a reply text.
            pub fn name(self) -> &'static str {
                match self {
                    $(ReplyCode::$variant => $name,)*
                }
            }

            /// The code with the number `code`, if it is known.
            pub fn from_u16(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(ReplyCode::$variant),)*
                    _ => None,
                }
            }

            /// Whether the code closes the connection (a hard error of the specification) rather
            /// than only the channel.
            pub fn is_hard(self) -> bool {
                match self {
                    $(ReplyCode::$variant => reply_codes!(@$kind),)*
                }
            }
        }
    };
    (@hard) => { true };
    (@soft) => { false };
}

reply_codes! {
    /// No error: an orderly close.
    ReplySuccess = 200 "REPLY_SUCCESS" soft,
    /// Content is larger than the server takes; RabbitMQ uses 406 instead.
    ContentTooLarge = 311 "CONTENT_TOO_LARGE" soft,
    /// A mandatory message reached no queue (only in `basic.return`).
    NoRoute = 312 "NO_ROUTE" soft,
    /// An immediate message found no consumer; never sent.
    NoConsumers = 313 "NO_CONSUMERS" soft,
    /// An operator closed the connection.
    ConnectionForced = 320 "CONNECTION_FORCED" hard,
    /// Unknown virtual host in the specification; RabbitMQ uses 530 instead.
    InvalidPath = 402 "INVALID_PATH" hard,
    /// No permission.
    AccessRefused = 403 "ACCESS_REFUSED" soft,
    /// The named thing does not exist.
    NotFound = 404 "NOT_FOUND" soft,
    /// The queue belongs to another connection.
    ResourceLocked = 405 "RESOURCE_LOCKED" soft,
    /// The request contradicts what exists.
    PreconditionFailed = 406 "PRECONDITION_FAILED" soft,
    /// A frame that cannot be decoded.
    FrameError = 501 "FRAME_ERROR" hard,
    /// A frame that holds illegal values.
    SyntaxError = 502 "SYNTAX_ERROR" hard,
    /// A method that is not valid here.
    CommandInvalid = 503 "COMMAND_INVALID" hard,
    /// A channel that is not open, or is already.
    ChannelError = 504 "CHANNEL_ERROR" hard,
    /// A frame that does not belong here.
    UnexpectedFrame = 505 "UNEXPECTED_FRAME" hard,
    /// The server lacks resources.
    ResourceError = 506 "RESOURCE_ERROR" hard,
    /// Forbidden by the server's rules.
    NotAllowed = 530 "NOT_ALLOWED" hard,
    /// Not implemented.
    NotImplemented = 540 "NOT_IMPLEMENTED" hard,
    /// The server failed.
    InternalError = 541 "INTERNAL_ERROR" hard,
}

impl ReplyCode {
    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.as_u16(), self.name())
    }
}

/// `NAME - explanation`, at most 255 octets, cut between characters as [`cut`] does.
pub fn reply_text(code: ReplyCode, explanation: &str) -> String {
    let mut text = String::with_capacity(REPLY_TEXT_OCTETS_MAX);
    text.push_str(code.name());
    text.push_str(" - ");
    text.push_str(explanation);
    cut(&mut text);
    text
}

/// Shortens `text` to what a short string bears: a longer one keeps what fits into 252 octets,
/// whole characters only, and ends with `...`, as RabbitMQ's does.
pub fn cut(text: &mut String) {
    if text.len() > REPLY_TEXT_OCTETS_MAX {
        text.truncate(text.floor_char_boundary(REPLY_TEXT_OCTETS_MAX - 3));
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_severity_agree_with_the_specification() {
        for &code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_u16(code.as_u16()), Some(code));
            let soft = [200, 311, 312, 313, 403, 404, 405, 406];
            assert_eq!(code.is_hard(), !soft.contains(&code.as_u16()), "{code}");
        }
        assert_eq!(ReplyCode::from_u16(999), None);
        assert_eq!(ReplyCode::ALL.len(), 19);
        assert_eq!(ReplyCode::NotFound.to_string(), "404 NOT_FOUND");
    }

    #[test]
    fn a_reply_text_fits_a_short_string_and_is_cut_between_characters() {
        assert_eq!(
            reply_text(ReplyCode::NotFound, "no queue 'q' in vhost '/'"),
            "NOT_FOUND - no queue 'q' in vhost '/'"
        );
        for filler in ["x", "é", "漢", "🐇"] {
            for count in 0..300 {
                let text = reply_text(ReplyCode::NotFound, &filler.repeat(count));
                let whole = "NOT_FOUND - ".len() + filler.len() * count;
                assert_eq!(text.ends_with("..."), whole > REPLY_TEXT_OCTETS_MAX);
                assert!(text.len() <= REPLY_TEXT_OCTETS_MAX);
                assert!(whole > REPLY_TEXT_OCTETS_MAX || text.len() == whole);
                assert!(text.len() >= whole.min(REPLY_TEXT_OCTETS_MAX - 3));
            }
        }
    }
}
