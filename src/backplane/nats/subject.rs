//! Names at the server: the stream, and the subjects under the prefix.
//!
//! | subject | what is there |
//! |---|---|
//! | `PREFIX.msg.CHANNEL` | where messages are published; kept in the stream |
//! | `PREFIX.canary.NODE` | a node's signs of life to itself; kept in the stream, the newest only |
//! | `PREFIX.live.EPOCH.msg.CHANNEL` | every kept message once more, with its position: nodes listen here |
//! | `PREFIX.note` | what nodes tell each other; not kept |
//! | `PREFIX.moved` | the stream has another epoch; not kept |
//!
//! A `.` separates tokens of a subject, so one in a channel's name is written `%2E`.

use crate::backplane::order::NodeId;
use crate::hub::message::ChannelName;
use crate::hub::position::{EPOCH_BYTES, Epoch};
use crate::proto::channel_name;

#[derive(Clone, Debug)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// Dots in `prefix` separate tokens; whatever else means something to NATS is percent-encoded.
    pub fn new(prefix: &str) -> Self {
        let tokens: Vec<_> = prefix
            .split(['.', ':'])
            .filter(|token| !token.is_empty())
            .map(token)
            .collect();
        Self {
            prefix: match tokens.is_empty() {
                true => "pushring".into(),
                false => tokens.join("."),
            },
        }
    }

    /// Name of the stream, which may hold no dot.
    pub fn stream(&self) -> String {
        self.prefix.replace('.', "_")
    }

    /// What the stream keeps.
    pub fn kept(&self) -> [String; 2] {
        ["msg", "canary"].map(|kind| format!("{}.{kind}.*", self.prefix))
    }

    pub fn message(&self, channel: &ChannelName) -> String {
        format!("{}.msg.{}", self.prefix, token(channel.as_str()))
    }

    pub fn canary(&self, node: NodeId) -> String {
        format!("{}.canary.{:016x}", self.prefix, node.0)
    }

    pub fn live_message(&self, epoch: Epoch, channel: &ChannelName) -> String {
        format!(
            "{}.live.{epoch}.msg.{}",
            self.prefix,
            token(channel.as_str())
        )
    }

    pub fn live_canary(&self, epoch: Epoch, node: NodeId) -> String {
        format!("{}.live.{epoch}.canary.{:016x}", self.prefix, node.0)
    }

    pub fn note(&self) -> String {
        format!("{}.note", self.prefix)
    }

    pub fn moved(&self) -> String {
        format!("{}.moved", self.prefix)
    }

    /// What the stream sends again.
    pub fn republish_source(&self) -> String {
        format!("{}.*.*", self.prefix)
    }

    /// Where to. The epoch is part of it, so that every message comes under the epoch in which it was numbered.
    pub fn republish_destination(&self, epoch: Epoch) -> String {
        format!(
            "{}.live.{epoch}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
            self.prefix
        )
    }

    /// The epoch in a destination.
    pub fn epoch_of(&self, destination: &str) -> Option<Epoch> {
        let rest = destination
            .strip_prefix(&self.prefix)?
            .strip_prefix(".live.")?;
        let epoch = Epoch::from_bytes(rest.as_bytes().get(..EPOCH_BYTES)?.try_into().ok()?)?;
        (self.republish_destination(epoch) == destination).then_some(epoch)
    }
}

/// `name` as one token: without what separates tokens, is a wildcard, or ends a line. NATS takes every other byte.
pub fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte != b'.' && channel_name::is_allowed(byte) {
            true => token.push(char::from(byte)),
            false => token.push_str(&format!("%{byte:02X}")),
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_one_token_and_no_two_are_the_same() {
        let names = ["news", "a.b", "a:b", ".", "..", "$JS", "x~@=#_-", "a.2Eb"];
        let tokens: std::collections::HashSet<_> = names.iter().map(|name| token(name)).collect();
        assert_eq!(tokens.len(), names.len());
        for token in tokens {
            assert!(
                !token.contains(['.', '*', '>', ' ']) && !token.is_empty(),
                "{token}"
            );
        }
        assert_eq!(token("a.b"), "a%2Eb");
    }

    #[test]
    fn every_name_begins_with_the_prefix() {
        let channel = ChannelName::parse("chat:4.2").unwrap();
        let epoch = Epoch::from_bytes(*b"k3Qz9aXb").unwrap();
        for (prefix, tokens) in [
            ("pushring", "pushring"),
            ("prod.push", "prod.push"),
            ("pushring:", "pushring"),
            ("a b.*", "a%20b.%2A"),
            ("", "pushring"),
        ] {
            let subjects = Subjects::new(prefix);
            assert_eq!(
                subjects.message(&channel),
                format!("{tokens}.msg.chat:4%2E2")
            );
            assert_eq!(
                subjects.live_message(epoch, &channel),
                format!("{tokens}.live.k3Qz9aXb.msg.chat:4%2E2")
            );
            assert_eq!(
                subjects.canary(NodeId(255)),
                format!("{tokens}.canary.00000000000000ff")
            );
            assert!(!subjects.stream().contains('.'));
        }
    }

    #[test]
    fn the_epoch_stands_in_the_destination() {
        let epoch = Epoch::from_random(12345);
        for prefix in ["pushring", "a.b"] {
            let subjects = Subjects::new(prefix);
            let destination = subjects.republish_destination(epoch);
            assert_eq!(subjects.epoch_of(&destination), Some(epoch));
            for len in 0..destination.len() {
                assert_eq!(subjects.epoch_of(&destination[..len]), None);
            }
            assert_eq!(Subjects::new("other").epoch_of(&destination), None);
        }
    }
}
