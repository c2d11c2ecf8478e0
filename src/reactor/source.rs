//! What an event of the poll is about.

use mio::Token;

/// What an event is about: the kind in the token's highest bits, an index below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An AMQP peer, by slot.
    Peer(usize),
    /// An AMQP listener.
    Listener(usize),
    /// An HTTP peer, by slot.
    HttpPeer(usize),
    /// An HTTP listener.
    HttpListener(usize),
    /// A helper has answered.
    Helpers,
    /// The operating system asks for something.
    Signals,
}

impl Source {
    const KIND_SHIFT: u32 = usize::BITS - 3;

    pub(super) fn token(self) -> Token {
        let (kind, index) = match self {
            Source::Peer(slot) => (0, slot),
            Source::Listener(index) => (1, index),
            Source::HttpPeer(slot) => (2, slot),
            Source::HttpListener(index) => (3, index),
            Source::Helpers => (4, 0),
            Source::Signals => (5, 0),
        };
        Token(kind << Self::KIND_SHIFT | index)
    }

    #[inline]
    pub(super) fn of(Token(token): Token) -> Self {
        let index = token & ((1 << Self::KIND_SHIFT) - 1);
        match token >> Self::KIND_SHIFT {
            0 => Source::Peer(index),
            1 => Source::Listener(index),
            2 => Source::HttpPeer(index),
            3 => Source::HttpListener(index),
            4 => Source::Helpers,
            _ => Source::Signals,
        }
    }
}
