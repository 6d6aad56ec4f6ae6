//! Positions and cursors as a client reads them, without the server's code.

use std::fmt;

/// Where a channel's history is: which one, and how many of its messages are behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: Epoch,
    pub(super) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Epoch([u8; 8]);

impl Position {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.split_once('-')?;
        let letters: [u8; 8] = epoch.as_bytes().try_into().ok()?;
        let is_plain = !offset.starts_with('+') && (offset == "0" || !offset.starts_with('0'));
        let is_epoch = letters.iter().all(u8::is_ascii_alphanumeric);
        (is_plain && is_epoch).then_some(())?;
        Some(Self {
            epoch: Epoch(letters),
            offset: offset.parse().ok()?,
        })
    }

    pub(super) fn next(self) -> Self {
        Self {
            offset: self.offset + 1,
            ..self
        }
    }

    pub(super) fn before(self) -> Self {
        Self {
            offset: self.offset.saturating_sub(1),
            ..self
        }
    }
}

/// A cursor of exactly `channels` positions.
pub(super) fn parse_cursor(text: &str, channels: usize) -> Option<Vec<Position>> {
    let positions: Option<Vec<_>> = text.split(',').map(Position::parse).collect();
    positions.filter(|positions| positions.len() == channels)
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).expect("letters and digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_contract_says() {
        for text in ["k2NNwEB7-0", "k2NNwEB7-1042"] {
            assert_eq!(Position::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "k2NNwEB7", "k2NNwEB-1", "k2NNwEB7-", "k2NNwEB7-01"] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
        assert_eq!(parse_cursor("k2NNwEB7-1,aCkA5NT5-2", 2).unwrap().len(), 2);
        assert_eq!(parse_cursor("k2NNwEB7-1", 2), None);
    }
}
