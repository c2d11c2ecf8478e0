//! What a client is told when its command cannot be done.

use crate::wire::ReplyCode;

/// An exception: a reply code and the text after `NAME - `. Whether it ends the channel or the
/// connection is a property of the code ([`ReplyCode::is_hard`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The reply code.
    pub reply_code: ReplyCode,
    /// What is wrong, naming the thing, as RabbitMQ words it.
    pub explanation: String,
}

macro_rules! raised_as {
    ($($(#[$doc:meta])* $name:ident = $code:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(explanation: impl Into<String>) -> Self {
            Exception { reply_code: ReplyCode::$code, explanation: explanation.into() }
        })*
    };
}

impl Exception {
    raised_as! {
        /// 403
        access_refused = AccessRefused;
        /// 404
        not_found = NotFound;
        /// 405
        resource_locked = ResourceLocked;
        /// 406
        precondition_failed = PreconditionFailed;
        /// 501
        frame_error = FrameError;
        /// 502
        syntax_error = SyntaxError;
        /// 503
        command_invalid = CommandInvalid;
        /// 504
        channel_error = ChannelError;
        /// 506
        resource_error = ResourceError;
        /// 530
        not_allowed = NotAllowed;
        /// 540
        not_implemented = NotImplemented;
        /// 541
        internal_error = InternalError;
    }
}

/// Octets of a name as text for an explanation. Names are valid UTF-8 by the time they are used;
/// what is not is shown with replacement characters.
pub fn shown(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}
