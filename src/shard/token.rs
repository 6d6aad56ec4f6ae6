//! What a connection is called while it is not at hand: in mail, and by the ring.

/// Names one connection of one shard for as long as it lives, and never another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionKey {
    pub index: u32,
    /// Differs from that of every other connection that had or will have this index.
    pub generation: u32,
}

/// Generations have the 30 bits that a [`Token`] has for them: the number of a connection comes again after a billion.
pub(super) const GENERATION_MASK: u32 = (1 << 30) - 1;

/// What a completion is about, packed into the 64 bits that the ring hands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Readable(ConnectionKey),
    Writable(ConnectionKey),
    Acceptable(u32),
}

impl Token {
    const KIND_SHIFT: u32 = 62;

    pub(super) fn pack(self) -> u64 {
        let key = |key: ConnectionKey| u64::from(key.index) | u64::from(key.generation) << 32;
        match self {
            Self::Readable(connection) => key(connection),
            Self::Writable(connection) => key(connection) | 1 << Self::KIND_SHIFT,
            Self::Acceptable(entrance) => u64::from(entrance) | 2 << Self::KIND_SHIFT,
        }
    }

    pub(super) fn unpack(token: u64) -> Self {
        let generation = (token >> 32) as u32 & GENERATION_MASK;
        let key = ConnectionKey {
            index: token as u32,
            generation,
        };
        match token >> Self::KIND_SHIFT {
            0 => Self::Readable(key),
            1 => Self::Writable(key),
            _ => Self::Acceptable(token as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        for index in [0, 1, u32::MAX] {
            for generation in [0, 1, GENERATION_MASK] {
                let key = ConnectionKey { index, generation };
                for token in [
                    Token::Readable(key),
                    Token::Writable(key),
                    Token::Acceptable(index),
                ] {
                    assert_eq!(Token::unpack(token.pack()), token);
                }
            }
        }
    }
}
