//! Where a message stands in its channel, and what a returning client says it has.

use std::fmt;

use crate::proto::decimal::Decimal;

/// Characters of an [`Epoch`].
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Bytes of an epoch on the wire: 62^8 ≈ 2^47.6, so two histories of one channel never share a name by chance.
pub const EPOCH_BYTES: usize = 8;

/// Bytes of the longest position: an epoch, `-`, and the digits of a `u64`.
const POSITION_BYTES_MAX: usize = EPOCH_BYTES + 1 + 20;

/// Names one unbroken history of one channel. It changes when that history is lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; EPOCH_BYTES]);

impl Epoch {
    /// Stands where no epoch is known. That one is drawn like it is as unlikely as two that are the same.
    pub const NONE: Self = Self([b'0'; EPOCH_BYTES]);

    /// The epoch drawn by `random`, of which about 48 bits count.
    pub fn from_random(mut random: u64) -> Self {
        let mut text = [0; EPOCH_BYTES];
        for byte in &mut text {
            *byte = BASE62[(random % 62) as usize];
            random /= 62;
        }
        Self(text)
    }

    /// The epoch of these bytes; `None` when they are none.
    pub fn from_bytes(bytes: [u8; EPOCH_BYTES]) -> Option<Self> {
        bytes
            .iter()
            .all(u8::is_ascii_alphanumeric)
            .then_some(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; EPOCH_BYTES] {
        &self.0
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an epoch is made of BASE62 only")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `epoch-offset`, for example `k3Qz9aXb-1042`. Offsets count the messages of one channel from 1; 0 is "before the
/// first".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    pub offset: u64,
}

impl Position {
    /// The wire form, without an allocation.
    pub fn text(self) -> PositionText {
        let offset = Decimal::new(self.offset);
        let offset = offset.as_bytes();
        let mut bytes = [0; POSITION_BYTES_MAX];
        let len = EPOCH_BYTES + 1 + offset.len();
        bytes[..EPOCH_BYTES].copy_from_slice(&self.epoch.0);
        bytes[EPOCH_BYTES] = b'-';
        bytes[EPOCH_BYTES + 1..len].copy_from_slice(offset);
        PositionText {
            bytes,
            len: len as u8,
        }
    }

    /// Reads exactly what [`Display`](fmt::Display) writes; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.split_once('-')?;
        let epoch = Epoch::from_bytes(epoch.as_bytes().try_into().ok()?)?;
        // `u64::from_str` takes a sign and leading zeros; a cursor has one spelling.
        let canonical = offset == "0"
            || (!offset.starts_with('0') && offset.bytes().all(|b| b.is_ascii_digit()));
        if !canonical {
            return None;
        }
        Some(Self {
            epoch,
            offset: offset.parse().ok()?,
        })
    }

    /// Whoever has everything up to `end` has this one; of another epoch, it has nothing.
    pub fn is_within(self, end: Self) -> bool {
        self.epoch == end.epoch && self.offset <= end.offset
    }
}

/// A position as it stands on the wire.
#[derive(Clone, Copy)]
pub struct PositionText {
    bytes: [u8; POSITION_BYTES_MAX],
    len: u8,
}

impl PositionText {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("a position is ASCII")
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The cursor of a request whose channels stand at `positions`.
pub fn cursor(positions: impl IntoIterator<Item = Position>) -> String {
    let mut cursor = String::new();
    write_cursor(&mut cursor, positions);
    cursor
}

/// Writes the positions of a request's channels in the request's order, joined by `,`.
pub fn write_cursor(out: &mut String, positions: impl IntoIterator<Item = Position>) {
    for (index, position) in positions.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(position.text().as_str());
    }
}

/// Reads a cursor for `n_channels` channels; `None` when it has another count or a malformed part.
pub fn parse_cursor(text: &str, n_channels: usize) -> Option<Vec<Position>> {
    let positions = text
        .split(',')
        .map(Position::parse)
        .collect::<Option<Vec<_>>>()?;
    (positions.len() == n_channels).then_some(positions)
}

/// Where on one channel a listener starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Only what is published from now on.
    Now,
    /// Everything that the history still holds.
    Earliest,
    /// Everything after this position, with a notice if that is no longer possible.
    After(Position),
    /// The newest `n` messages of the history.
    Last(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: u64) -> Position {
        Position {
            epoch: Epoch(*b"k3Qz9aXb"),
            offset,
        }
    }

    #[test]
    fn a_position_has_one_spelling() {
        for offset in [0, 1, 9, 10, 1042, u64::MAX] {
            let text = position(offset).to_string();
            assert_eq!(Position::parse(&text), Some(position(offset)), "{text}");
        }
        for text in [
            "",
            "-",
            "k3Qz9aXb",
            "k3Qz9aXb-",
            "-1",
            "k3Qz9aX-1",
            "k3Qz9aXbb-1",
            "k3Qz9aX!-1",
            "k3Qz9aXb-01",
            "k3Qz9aXb-+1",
            "k3Qz9aXb--1",
            "k3Qz9aXb-1 ",
            "k3Qz9aXb-18446744073709551616",
            "k3Qz9aXb-1x",
            "k3Qz9aXb-00",
        ] {
            assert_eq!(Position::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_cursor_names_every_channel_once() {
        let mut text = String::new();
        write_cursor(&mut text, [position(1), position(2)]);
        assert_eq!(text, "k3Qz9aXb-1,k3Qz9aXb-2");
        assert_eq!(parse_cursor(&text, 2), Some(vec![position(1), position(2)]));
        assert_eq!(parse_cursor(&text, 1), None);
        assert_eq!(parse_cursor(&text, 3), None);
        assert_eq!(parse_cursor("k3Qz9aXb-1,", 2), None);
    }

    #[test]
    fn epochs_differ_and_stay_in_their_alphabet() {
        let epochs: std::collections::HashSet<_> = (0..1000u64)
            .map(|n| Epoch::from_random(n * 0x9E37_79B9))
            .collect();
        assert_eq!(epochs.len(), 1000);
        for epoch in epochs {
            assert_eq!(
                Position::parse(&format!("{epoch}-7")),
                Some(Position { epoch, offset: 7 })
            );
        }
    }
}
