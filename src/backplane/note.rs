//! What nodes tell each other through the broker, as bytes.
//!
//! A pack is a version, then notes, each of them its kind, the length of its body (`u16`, big-endian like all numbers
//! here) and the body. A reader skips kinds that it does not know, and what follows the fields that it knows, so that
//! nodes of two releases understand each other; another version is another language.

use crate::backplane::order::{CountQuestion, NodeId};
use crate::hub::message::ChannelName;

const VERSION: u8 = 1;

const HERE: u8 = 1;
const GONE: u8 = 2;
const ASKED: u8 = 3;
const ANSWERED: u8 = 4;

/// Bytes before each body.
const HEAD_BYTES: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The node is there; said again and again.
    Here(NodeId),
    /// The node ends. It answers no question any more.
    Gone(NodeId),
    /// How many listeners has everybody on this channel?
    Asked {
        question: CountQuestion,
        channel: ChannelName,
    },
    Answered {
        question: CountQuestion,
        node: NodeId,
        listeners: u32,
    },
}

/// Adds a note to the pack `out`, and begins it if it is empty.
pub(super) fn write(out: &mut Vec<u8>, note: &Note) {
    if out.is_empty() {
        out.push(VERSION);
    }
    let head = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    let kind = match note {
        Note::Here(node) => {
            out.extend_from_slice(&node.0.to_be_bytes());
            HERE
        }
        Note::Gone(node) => {
            out.extend_from_slice(&node.0.to_be_bytes());
            GONE
        }
        Note::Asked { question, channel } => {
            write_question(out, *question);
            let name = channel.as_str().as_bytes();
            out.push(u8::try_from(name.len()).expect("a channel's name has at most 255 bytes"));
            out.extend_from_slice(name);
            ASKED
        }
        Note::Answered {
            question,
            node,
            listeners,
        } => {
            write_question(out, *question);
            out.extend_from_slice(&node.0.to_be_bytes());
            out.extend_from_slice(&listeners.to_be_bytes());
            ANSWERED
        }
    };
    let body_bytes = u16::try_from(out.len() - head - HEAD_BYTES).expect("a note is short");
    out[head] = kind;
    out[head + 1..head + HEAD_BYTES].copy_from_slice(&body_bytes.to_be_bytes());
}

fn write_question(out: &mut Vec<u8>, question: CountQuestion) {
    out.extend_from_slice(&question.node.0.to_be_bytes());
    out.extend_from_slice(&question.number.to_be_bytes());
}

/// The notes of a pack that this release understands.
pub(super) fn read(pack: &[u8]) -> impl Iterator<Item = Note> {
    let mut rest = match pack.split_first() {
        Some((&VERSION, rest)) => rest,
        _ => &[],
    };
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<HEAD_BYTES>()?;
        let body_bytes = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (body, tail) = tail.split_at_checked(body_bytes)?;
        rest = tail;
        Some(read_body(head[0], body))
    })
    .flatten()
}

fn read_body(kind: u8, mut body: &[u8]) -> Option<Note> {
    let body = &mut body;
    match kind {
        HERE => Some(Note::Here(take_node(body)?)),
        GONE => Some(Note::Gone(take_node(body)?)),
        ASKED => {
            let question = take_question(body)?;
            let [name_bytes] = take(body)?;
            let name = body.get(..usize::from(name_bytes))?;
            let channel = ChannelName::parse(std::str::from_utf8(name).ok()?)?;
            Some(Note::Asked { question, channel })
        }
        ANSWERED => Some(Note::Answered {
            question: take_question(body)?,
            node: take_node(body)?,
            listeners: u32::from_be_bytes(take(body)?),
        }),
        _ => None,
    }
}

fn take_question(body: &mut &[u8]) -> Option<CountQuestion> {
    Some(CountQuestion {
        node: take_node(body)?,
        number: u64::from_be_bytes(take(body)?),
    })
}

fn take_node(body: &mut &[u8]) -> Option<NodeId> {
    take(body).map(|bytes| NodeId(u64::from_be_bytes(bytes)))
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Vec<Note> {
        let question = CountQuestion {
            node: NodeId(u64::MAX),
            number: 7,
        };
        let asked = |name: &str| Note::Asked {
            question,
            channel: ChannelName::parse(name).unwrap(),
        };
        vec![
            Note::Here(NodeId(0x0102_0304_0506_0708)),
            asked("a"),
            asked(&"z".repeat(255)),
            Note::Answered {
                question,
                node: NodeId(3),
                listeners: 4_000_000_000,
            },
            Note::Gone(NodeId(0)),
        ]
    }

    fn pack(notes: &[Note]) -> Vec<u8> {
        let mut out = Vec::new();
        for note in notes {
            write(&mut out, note);
        }
        out
    }

    #[test]
    fn a_pack_is_read_as_it_was_written() {
        assert_eq!(read(&pack(&notes())).collect::<Vec<_>>(), notes());
        assert_eq!(
            pack(&[Note::Here(NodeId(0x0102_0304_0506_0708))]),
            [1, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]
        );
    }

    #[test]
    fn a_prefix_gives_the_notes_that_are_whole() {
        let whole = pack(&notes());
        let ends: Vec<usize> = (0..=notes().len())
            .map(|n| pack(&notes()[..n]).len())
            .collect();
        for len in 0..whole.len() {
            let n = ends.iter().filter(|&&end| end <= len).count();
            let got: Vec<_> = read(&whole[..len]).collect();
            assert_eq!(got, notes()[..n.saturating_sub(1)], "{len} bytes");
        }
    }

    #[test]
    fn what_is_unknown_is_skipped() {
        let here = [1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9];
        let with = |before: &[u8]| [&[VERSION], before, &here].concat();
        for (before, what) in [
            (&[99, 0, 2, 5, 5][..], "a kind of a later release"),
            (&[99, 0, 0], "one without a body"),
            (&[1, 0, 3, 1, 2, 3], "a body that is too short"),
            (&[3, 0, 0], "no body"),
        ] {
            let got: Vec<_> = read(&with(before)).collect();
            assert_eq!(got, [Note::Here(NodeId(9))], "{what}");
        }
        let longer = [1, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0, 9, 77, 77];
        assert_eq!(
            read(&longer).collect::<Vec<_>>(),
            [Note::Here(NodeId(9))],
            "a field of a later release"
        );
        let mut other = pack(&notes());
        other[0] = 2;
        assert_eq!(read(&other).count(), 0, "another version");
    }

    #[test]
    fn a_channel_that_cannot_be_is_no_question() {
        let mut bytes = pack(&[notes().swap_remove(1)]);
        *bytes.last_mut().unwrap() = b'/';
        assert_eq!(read(&bytes).count(), 0);
    }
}
