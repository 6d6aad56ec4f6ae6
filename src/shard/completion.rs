//! What a completion of the ring is about.

use crate::shard::connection::{ConnectionKey, GENERATION_MASK};

/// A poll that has come home, or is to: packed into the 64 bits of user data that the ring hands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    Readable(ConnectionKey),
    Writable(ConnectionKey),
    Acceptable(u32),
}

impl Completion {
    const KIND_SHIFT: u32 = 62;

    pub(super) fn pack(self) -> u64 {
        let key = |key: ConnectionKey| u64::from(key.index) | u64::from(key.generation) << 32;
        match self {
            Self::Readable(connection) => key(connection),
            Self::Writable(connection) => key(connection) | 1 << Self::KIND_SHIFT,
            Self::Acceptable(entrance) => u64::from(entrance) | 2 << Self::KIND_SHIFT,
        }
    }

    pub(super) fn unpack(user_data: u64) -> Self {
        let generation = (user_data >> 32) as u32 & GENERATION_MASK;
        let key = ConnectionKey {
            index: user_data as u32,
            generation,
        };
        match user_data >> Self::KIND_SHIFT {
            0 => Self::Readable(key),
            1 => Self::Writable(key),
            _ => Self::Acceptable(user_data as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_comes_back_as_it_went() {
        for index in [0, 1, u32::MAX] {
            for generation in [0, 1, GENERATION_MASK] {
                let key = ConnectionKey { index, generation };
                for completion in [
                    Completion::Readable(key),
                    Completion::Writable(key),
                    Completion::Acceptable(index),
                ] {
                    assert_eq!(Completion::unpack(completion.pack()), completion);
                }
            }
        }
    }
}
