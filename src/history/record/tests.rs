//! Records whole, at every prefix, behind each other, and damaged.

use super::*;

fn position(offset: u64) -> Position {
    Position {
        epoch: Epoch::from_random(7),
        offset,
    }
}

fn message<'a>() -> MessageFact<'a> {
    MessageFact {
        name: "chat:42",
        position: position(1042),
        kind: PayloadKind::Json,
        event: None,
        payload: Some(b"{\"a\":1}"),
        published_ms: 1_700_000_000_000,
        published_us: 1_700_000_000_000_001,
        expires_ms: u64::MAX,
        idempotency_key: None,
    }
}

/// Every kind of entry, and every part that one can have or lack.
fn entries() -> Vec<Entry<'static>> {
    static LONG: [u8; 255] = [b'a'; 255];
    let long = std::str::from_utf8(&LONG).unwrap();
    let clock = Clock {
        history_ms: 1,
        wall_ms: u64::MAX,
    };
    let fact = |fact| Entry::Fact(Fact::Message(fact));
    vec![
        Entry::Begin {
            boot: [9; 16],
            is_synced: true,
            clock,
        },
        Entry::Clock(clock),
        Entry::End(clock),
        Entry::Fact(Fact::Channel {
            name: "news",
            head: position(0),
        }),
        Entry::Fact(Fact::Forgotten {
            name: long,
            epoch: Epoch::from_random(8),
        }),
        Entry::Fact(Fact::Result {
            name: long,
            key: "key",
            published: Published {
                position: position(u64::MAX),
                receivers: 3,
            },
            end_ms: 5,
        }),
        fact(message()),
        fact(MessageFact {
            kind: PayloadKind::Text,
            payload: None,
            ..message()
        }),
        fact(MessageFact {
            name: long,
            kind: PayloadKind::Binary,
            event: Some("created"),
            payload: Some(b""),
            idempotency_key: Some("one two"),
            ..message()
        }),
        fact(MessageFact {
            payload: Some(&[0; 70_000]),
            idempotency_key: Some(""),
            ..message()
        }),
    ]
}

fn bytes_of(entry: &Entry<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, entry);
    bytes
}

#[test]
fn a_record_reads_back_whole_and_not_before() {
    for entry in entries() {
        let mut bytes = bytes_of(&entry);
        let length = bytes.len();
        assert_eq!(read(&bytes), Ok(Some((entry, length))));
        let prefixes = (0..length).filter(|len| length < 1000 || len % 997 < 3);
        for len in prefixes {
            assert_eq!(read(&bytes[..len]), Ok(None), "{len} of {entry:?}");
        }
        bytes.extend_from_slice(&[0xFF; 40]);
        assert_eq!(read(&bytes), Ok(Some((entry, length))));
    }
}

#[test]
fn records_follow_each_other() {
    let mut bytes = Vec::new();
    for entry in entries() {
        write(&mut bytes, &entry);
    }
    let mut rest = &bytes[..];
    for entry in entries() {
        let (got, length) = read(rest).unwrap().unwrap();
        assert_eq!(got, entry);
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
}

/// A length that is not what was written must not look like a record that is not whole: the one is damage, the other
/// the end of a killed process.
#[test]
fn a_changed_bit_is_seen() {
    for entry in entries() {
        let bytes = bytes_of(&entry);
        let bits = (0..8 * bytes.len()).filter(|bit| bytes.len() < 1000 || bit % 9973 < 100);
        for bit in bits {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let got = read(&changed);
            let want = match bit / 8 < RECORD_HEAD_BYTES {
                true => RecordError::Head,
                false => RecordError::Body,
            };
            assert_eq!(got, Err(want), "bit {bit} of {entry:?}");
        }
    }
}

#[test]
fn zeros_are_no_record() {
    assert_eq!(read(&[0; 64]), Err(RecordError::Head));
}

/// Bodies with a right checksum and any contents.
#[test]
fn no_body_makes_it_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let entries = entries();
    for _ in 0..20_000 {
        let mut bytes = bytes_of(&entries[rng.usize(..9)]);
        let body = RECORD_HEAD_BYTES..bytes.len();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(body.clone());
            bytes[at] = rng.u8(..);
        }
        bytes.truncate(rng.usize(body));
        let body_bytes = bytes.len() - RECORD_HEAD_BYTES;
        bytes[..4].copy_from_slice(&(body_bytes as u32).to_le_bytes());
        let checksum = crc32fast::hash(&bytes[RECORD_HEAD_BYTES..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        let head_checksum = crc32fast::hash(&bytes[..8]);
        bytes[8..12].copy_from_slice(&head_checksum.to_le_bytes());
        match read(&bytes) {
            Ok(Some((entry, length))) => {
                assert_eq!(length, bytes.len());
                assert_eq!(bytes_of(&entry), bytes, "one spelling, seed {seed}");
            }
            got => assert_eq!(got, Err(RecordError::Meaning), "seed {seed}"),
        }
    }
}
