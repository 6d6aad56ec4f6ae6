//! A published message, as every shard shares it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::hub::position::Position;
use crate::proto::channel_name;
use crate::proto::payload::PayloadKind;

/// A channel's name: 1–255 bytes out of `A–Z a–z 0–9 _ - . : @ $ ~ = #`. A `ChannelName` that exists is valid.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// `None` when the name is empty, too long or has a byte outside the alphabet.
    pub fn parse(name: &str) -> Option<Self> {
        let is_valid = (1..=channel_name::BYTES_MAX).contains(&name.len())
            && name.bytes().all(channel_name::is_allowed);
        is_valid.then(|| Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first `:`; `""` where there is none.
    pub fn namespace(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(namespace, _)| namespace)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One message with its position. It is never changed, so an `Arc` of it may cross shards.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub channel: ChannelName,
    pub position: Position,
    /// Offset of the channel's message before this one, stored or not: whoever has that has missed nothing in
    /// between. One less than its own where this node numbers; a broker's numbers may have holes.
    pub previous: u64,
    pub kind: PayloadKind,
    pub event: Option<Box<str>>,
    pub payload: Arc<[u8]>,
    /// When its channel's home numbered it, on the process's monotonic clock.
    pub published_ms: u64,
    /// The same in microseconds, and different for any two messages of one home: the order over several channels.
    pub published_us: u64,
    /// From when on the history no longer gives it out, on the same clock.
    pub expires_ms: u64,
}

impl Message {
    /// What the message counts for in every limit on bytes: what it holds, beside the bookkeeping of its owners.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.payload.len() + self.event.as_ref().map_or(0, |event| event.len())
    }
}

/// Says of one message after the other whether `bytes_max` has room for it, too. The first one always fits, or a
/// listener with a small limit would never get on.
pub fn fits_within(bytes_max: usize) -> impl FnMut(&Message) -> bool {
    let mut bytes = 0;
    move |message| {
        let fits = bytes == 0 || bytes + message.bytes() <= bytes_max;
        bytes += message.bytes();
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_name_is_made_of_its_alphabet() {
        for byte in 0..=127u8 {
            let name = char::from(byte).to_string();
            let wanted = matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9')
                || ['_', '-', '.', ':', '@', '$', '~', '=', '#'].contains(&char::from(byte));
            assert_eq!(
                ChannelName::parse(&name).is_some(),
                wanted,
                "byte {byte:#x}"
            );
        }
        assert_eq!(ChannelName::parse(""), None);
        assert_eq!(ChannelName::parse("é"), None);
        assert!(ChannelName::parse(&"a".repeat(255)).is_some());
        assert_eq!(ChannelName::parse(&"a".repeat(256)), None);
    }

    #[test]
    fn the_namespace_ends_at_the_first_colon() {
        for (name, namespace) in [
            ("news", ""),
            ("chat:42", "chat"),
            ("a:b:c", "a"),
            (":x", ""),
        ] {
            assert_eq!(
                ChannelName::parse(name).unwrap().namespace(),
                namespace,
                "{name}"
            );
        }
    }
}
