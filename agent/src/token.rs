//! What an `epoll` event is about, in the 64 bits that come with it.

/// The descriptor that an event is about.
///
/// A token may outlive its descriptor within one batch of events. That is harmless: every handler only tries what the event
/// says is possible, without blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The control stream.
    Control,
    /// A child has ended.
    Children,
    /// The status socket of the process in this slot.
    Status(u8),
    /// The file of this watch.
    Watch(u8),
    /// One end of a link of the process in this slot.
    Link {
        /// The process.
        slot: u8,
        /// Which of its links.
        link: u8,
        /// Which end.
        end: End,
    },
}

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Where bytes come from.
    Source,
    /// Where they go.
    Sink,
}

impl Token {
    /// As `epoll` carries it.
    pub(crate) fn to_bits(self) -> u64 {
        let (kind, slot, link) = match self {
            Self::Control => (0, 0, 0),
            Self::Children => (1, 0, 0),
            Self::Status(slot) => (2, slot, 0),
            Self::Link { slot, link, end: End::Source } => (3, slot, link),
            Self::Link { slot, link, end: End::Sink } => (4, slot, link),
            Self::Watch(slot) => (5, slot, 0),
        };
        u64::from_le_bytes([kind, slot, link, 0, 0, 0, 0, 0])
    }

    /// From what `epoll` carried.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let [kind, slot, link, ..] = bits.to_le_bytes();
        match kind {
            0 => Some(Self::Control),
            1 => Some(Self::Children),
            2 => Some(Self::Status(slot)),
            3 => Some(Self::Link { slot, link, end: End::Source }),
            4 => Some(Self::Link { slot, link, end: End::Sink }),
            5 => Some(Self::Watch(slot)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Token};

    #[test]
    fn tokens_survive_the_way_through_epoll() {
        let link = |end| Token::Link { slot: 63, link: 4, end };
        let all = [Token::Control, Token::Children, Token::Status(63), Token::Watch(15)];
        for token in all.into_iter().chain([End::Source, End::Sink].map(link)) {
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(Token::from_bits(u64::MAX), None);
    }
}
