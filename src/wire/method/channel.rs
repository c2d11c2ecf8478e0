//! `channel`: opening, closing and pausing a channel (spec 1.5).

use crate::wire::ShortString;

methods! {
    /// The client opens a channel.
    Open<'a> = 20 10 "channel.open" {
        /// Unused.
        out_of_band: ShortString<'a>,
    }

    /// The channel is open.
    OpenOk<'a> = 20 11 "channel.open-ok" {
        /// Unused.
        channel_id: &'a [u8],
    }

    /// Pauses or resumes the flow of content.
    Flow = 20 20 "channel.flow" {
        /// Whether content flows.
        active: bool,
    }

    /// Says whether content flows.
    FlowOk = 20 21 "channel.flow-ok" {
        /// Whether content flows.
        active: bool,
    }

    /// Either side closes the channel, and says why.
    Close<'a> = 20 40 "channel.close" {
        /// See [`crate::wire::ReplyCode`].
        reply_code: u16,
        /// The code in words.
        reply_text: ShortString<'a>,
        /// Class of the method that failed, or 0.
        class_id: u16,
        /// Number of the method that failed, or 0.
        method_id: u16,
    }

    /// The channel is closed.
    CloseOk = 20 41 "channel.close-ok" {}
}
