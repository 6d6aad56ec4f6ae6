//! The names of everything at the server, and in which slot of a cluster each of them lies.

use crate::backplane::order::NodeId;
use crate::hub::message::ChannelName;

/// Slots of a cluster; every key and channel is in one of them.
pub(super) const SLOTS: u16 = 16_384;

/// Why a prefix cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixInvalid;

impl PrefixInvalid {
    pub(super) fn message(self) -> &'static str {
        "backplane_prefix: with Redis it is 1 to 64 printable ASCII characters without a space and braces"
    }
}

/// The names under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Result<Self, PrefixInvalid> {
        // A brace in front would take the place of the channel's, which decides the slot.
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'{' && byte != b'}';
        let is_valid = (1..=64).contains(&prefix.len()) && prefix.bytes().all(is_allowed);
        let prefix = prefix.to_owned();
        is_valid.then_some(Self { prefix }).ok_or(PrefixInvalid)
    }

    /// What all keys of the channel begin with, and the name under which its messages are announced. A channel's name
    /// has no braces, so the slot is that of the name alone.
    pub(super) fn base(&self, channel: &ChannelName) -> String {
        format!("{}:{{{channel}}}", self.prefix)
    }

    /// The channel whose [`base`](Self::base) this is.
    pub(super) fn channel(&self, base: &[u8]) -> Option<ChannelName> {
        let name = base
            .strip_prefix(self.prefix.as_bytes())?
            .strip_prefix(b":{")?
            .strip_suffix(b"}")?;
        ChannelName::parse(str::from_utf8(name).ok()?)
    }

    /// Where nodes tell each other something.
    pub(super) fn notes(&self) -> String {
        format!("{}:notes", self.prefix)
    }

    /// Where the node hears its own canary, by a name in one of the slots that `is_served` says.
    pub(super) fn canary(
        &self,
        node: NodeId,
        connection: usize,
        is_served: impl Fn(u16) -> bool,
    ) -> Option<String> {
        let name = |tag| format!("{}:canary:{:x}:{connection}:{{{tag}}}", self.prefix, node.0);
        // Nobody says how few slots a master has; of this many names some are in any single one.
        (0..64 * u32::from(SLOTS))
            .find(|tag| is_served(slot(tag.to_string().as_bytes())))
            .map(name)
    }
}

/// The slot of a key or channel: of what stands between its first `{` and the next `}`, if that is anything.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let rest = &key[open + 1..];
        memchr::memchr(b'}', rest).map(|close| &rest[..close])
    });
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM, as the cluster specification wants it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from((crc >> 8) as u8 ^ byte);
        (crc << 8) ^ CRC16[index]
    })
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `redis-cli cluster keyslot` says.
        for (key, wanted) in [
            ("foo", 12182),
            ("", 0),
            ("{user1000}.following", 3443),
            ("user1000", 3443),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("{bar", 4015),
            ("foo{bar}{zap}", 5061),
            ("bar", 5061),
        ] {
            assert_eq!(slot(key.as_bytes()), wanted, "{key}");
        }
    }

    #[test]
    fn a_channel_is_found_by_its_base_only() {
        let keys = Keys::new("push").unwrap();
        for name in ["news", "chat:42", ":x", "a#$~=@"] {
            let channel = ChannelName::parse(name).unwrap();
            let base = keys.base(&channel);
            assert_eq!(keys.channel(base.as_bytes()), Some(channel));
            assert_eq!(slot(base.as_bytes()), slot(name.as_bytes()), "{name}");
        }
        let canary = keys.canary(NodeId(7), 0, |_| true).unwrap();
        for other in ["", "push", "push:{}", "push:{a}x", "pusher:{a}", "push:{ä}"] {
            assert_eq!(keys.channel(other.as_bytes()), None, "{other}");
        }
        for other in [keys.notes(), canary] {
            assert_eq!(keys.channel(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_canary_is_in_a_slot_of_its_connection() {
        let keys = Keys::new("push").unwrap();
        for wanted in [0, 1, 5460, 16_383] {
            let name = keys.canary(NodeId(u64::MAX), 2, |slot| slot == wanted);
            assert_eq!(slot(name.unwrap().as_bytes()), wanted);
        }
        assert_eq!(keys.canary(NodeId(1), 0, |_| false), None);
    }

    #[test]
    fn a_prefix_leaves_the_slot_to_the_channel() {
        for prefix in ["", "a b", "{a}", "a}", "ä", "a\n", &"a".repeat(65)] {
            assert!(Keys::new(prefix).is_err(), "{prefix:?}");
        }
        for prefix in ["a", "app:push", &"a".repeat(64)] {
            assert!(Keys::new(prefix).is_ok(), "{prefix:?}");
        }
    }
}
