//! One record of a log: bytes ↔ [`Entry`].
//!
//! ```text
//! length of the body  u32   little-endian, as all numbers here
//! its checksum        u32   CRC-32 of the body
//! checksum of these   u32   CRC-32 of the eight bytes before: a length that can be trusted tells an end from damage
//! body                      a byte for the kind of the entry, then its fields
//! ```

use crate::hub::Published;
use crate::hub::durable::{Fact, MessageFact};
use crate::hub::position::{Epoch, Position};
use crate::proto::payload::PayloadKind;

/// What a file begins with: a name and the version of the format.
pub const FILE_HEAD: [u8; 12] = *b"pushring\x01\0\0\0";
/// Bytes in front of a body.
pub const RECORD_HEAD_BYTES: usize = 12;
/// Longer than the longest message with everything that belongs to it.
const BODY_BYTES_MAX: usize = 65 << 20;

/// What identifies one run of the machine's kernel. What a process of it has written, a later one of it finds,
/// whatever the disk did.
pub type BootId = [u8; 16];

/// Where the kernel does not say: no run is the same as this one.
pub const UNKNOWN_BOOT: BootId = [0; 16];

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The first of each file. `is_synced`: nothing is answered before it is on the disk.
    Begin {
        boot: BootId,
        is_synced: bool,
        clock: Clock,
    },
    /// The wall clock was set.
    Clock(Clock),
    Fact(Fact<'a>),
    /// The last of a log that was closed in order.
    End(Clock),
}

/// The clock of the histories beside the wall clock. The former never jumps, and never runs back from one process to
/// the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    pub history_ms: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The head is not what was written.
    Head,
    /// The body is not what was written.
    Body,
    /// It was written so, but not by this version.
    Meaning,
}

const BEGIN: u8 = 1;
const CLOCK: u8 = 2;
const END: u8 = 3;
const CHANNEL: u8 = 4;
const MESSAGE: u8 = 5;
const FORGOTTEN: u8 = 6;
const RESULT: u8 = 7;

const IS_STORED: u8 = 1 << 2;
const HAS_EVENT: u8 = 1 << 3;
const HAS_KEY: u8 = 1 << 4;

/// Appends the record of `entry`.
pub fn write(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    match entry {
        Entry::Begin {
            boot,
            is_synced,
            clock,
        } => {
            out.push(BEGIN);
            out.extend_from_slice(boot);
            out.push(u8::from(*is_synced));
            write_clock(out, *clock);
        }
        Entry::Clock(clock) => {
            out.push(CLOCK);
            write_clock(out, *clock);
        }
        Entry::End(clock) => {
            out.push(END);
            write_clock(out, *clock);
        }
        Entry::Fact(fact) => write_fact(out, fact),
    }
    let body = &out[start + RECORD_HEAD_BYTES..];
    let length = (body.len() as u32).to_le_bytes();
    let checksum = crc32fast::hash(body).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&checksum);
    let head_checksum = crc32fast::hash(&out[start..start + 8]).to_le_bytes();
    out[start + 8..start + 12].copy_from_slice(&head_checksum);
}

fn write_fact(out: &mut Vec<u8>, fact: &Fact<'_>) {
    match fact {
        Fact::Channel { name, head } => {
            out.push(CHANNEL);
            write_position(out, *head);
            out.extend_from_slice(name.as_bytes());
        }
        Fact::Message(message) => write_message(out, message),
        Fact::Forgotten { name, epoch } => {
            out.push(FORGOTTEN);
            out.extend_from_slice(epoch.as_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        Fact::Result {
            name,
            key,
            published,
            end_ms,
        } => {
            out.push(RESULT);
            write_position(out, published.position);
            out.extend_from_slice(&published.receivers.to_le_bytes());
            out.extend_from_slice(&end_ms.to_le_bytes());
            write_short(out, name);
            out.extend_from_slice(key.as_bytes());
        }
    }
}

fn write_message(out: &mut Vec<u8>, message: &MessageFact<'_>) {
    let kind = match message.kind {
        PayloadKind::Json => 0,
        PayloadKind::Text => 1,
        PayloadKind::Binary => 2,
    };
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.push(MESSAGE);
    out.push(
        kind | flag(message.payload.is_some(), IS_STORED)
            | flag(message.event.is_some(), HAS_EVENT)
            | flag(message.idempotency_key.is_some(), HAS_KEY),
    );
    write_position(out, message.position);
    out.extend_from_slice(&message.published_ms.to_le_bytes());
    out.extend_from_slice(&message.published_us.to_le_bytes());
    out.extend_from_slice(&message.expires_ms.to_le_bytes());
    write_short(out, message.name);
    for text in [message.event, message.idempotency_key]
        .into_iter()
        .flatten()
    {
        write_short(out, text);
    }
    out.extend_from_slice(message.payload.unwrap_or_default());
}

fn write_clock(out: &mut Vec<u8>, clock: Clock) {
    out.extend_from_slice(&clock.history_ms.to_le_bytes());
    out.extend_from_slice(&clock.wall_ms.to_le_bytes());
}

fn write_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(position.epoch.as_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
}

/// Names, events and keys all have 255 bytes at most.
fn write_short(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= 255);
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Reads the record at the beginning of `input`, and says how many bytes it has; `None` when there are not enough yet.
pub fn read(input: &[u8]) -> Result<Option<(Entry<'_>, usize)>, RecordError> {
    let Some((head, rest)) = input.split_first_chunk::<RECORD_HEAD_BYTES>() else {
        return Ok(None);
    };
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = number(0) as usize;
    if crc32fast::hash(&head[..8]) != number(8) || length > BODY_BYTES_MAX {
        return Err(RecordError::Head);
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    if crc32fast::hash(body) != number(4) {
        return Err(RecordError::Body);
    }
    let entry = Fields(body).entry().ok_or(RecordError::Meaning)?;
    Ok(Some((entry, RECORD_HEAD_BYTES + length)))
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn entry(mut self) -> Option<Entry<'a>> {
        let entry = match self.byte()? {
            BEGIN => Entry::Begin {
                boot: self.array()?,
                is_synced: self.flag()?,
                clock: self.clock()?,
            },
            CLOCK => Entry::Clock(self.clock()?),
            END => Entry::End(self.clock()?),
            CHANNEL => Entry::Fact(Fact::Channel {
                head: self.position()?,
                name: self.rest_text()?,
            }),
            MESSAGE => Entry::Fact(Fact::Message(self.message()?)),
            FORGOTTEN => Entry::Fact(Fact::Forgotten {
                epoch: Epoch::from_bytes(self.array()?)?,
                name: self.rest_text()?,
            }),
            RESULT => {
                let position = self.position()?;
                let receivers = u32::from_le_bytes(self.array()?);
                Entry::Fact(Fact::Result {
                    published: Published {
                        position,
                        receivers,
                    },
                    end_ms: self.number()?,
                    name: self.short()?,
                    key: self.rest_text()?,
                })
            }
            _ => return None,
        };
        self.0.is_empty().then_some(entry)
    }

    fn message(&mut self) -> Option<MessageFact<'a>> {
        let flags = self.byte()?;
        let kind = match flags & 3 {
            0 => PayloadKind::Json,
            1 => PayloadKind::Text,
            2 => PayloadKind::Binary,
            _ => return None,
        };
        if flags >= HAS_KEY << 1 {
            return None;
        }
        let has = |flag: u8| flags & flag != 0;
        let mut message = MessageFact {
            kind,
            position: self.position()?,
            published_ms: self.number()?,
            published_us: self.number()?,
            expires_ms: self.number()?,
            name: self.short()?,
            event: None,
            idempotency_key: None,
            payload: None,
        };
        if has(HAS_EVENT) {
            message.event = Some(self.short()?);
        }
        if has(HAS_KEY) {
            message.idempotency_key = Some(self.short()?);
        }
        if has(IS_STORED) {
            message.payload = Some(std::mem::take(&mut self.0));
        }
        Some(message)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn clock(&mut self) -> Option<Clock> {
        Some(Clock {
            history_ms: self.number()?,
            wall_ms: self.number()?,
        })
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position {
            epoch: Epoch::from_bytes(self.array()?)?,
            offset: self.number()?,
        })
    }

    fn short(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn rest_text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(std::mem::take(&mut self.0)).ok()
    }
}

#[cfg(test)]
mod tests;
