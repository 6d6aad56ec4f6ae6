//! What a client's frame costs before its message is known: header, mask, UTF-8.

use std::hint::black_box;

use pushring::proto::utf8::Utf8Validator;
use pushring::proto::ws_frame::{FrameError, FrameHeader, Opcode, decode_header, unmask};

use super::Group;
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "websocket",
    cases,
    agree,
};

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn cases() -> Vec<Case> {
    let header_case = |name, header: &'static [u8]| {
        Case::pair(
            name,
            move || decode_header(black_box(header)),
            move || decode_header_naive(black_box(header)),
        )
    };
    vec![
        header_case("frame header, 7-bit length", b"\x81\x85\x37\xFA\x21\x3D"),
        header_case(
            "frame header, 16-bit length",
            b"\x82\xFE\x04\x00\x37\xFA\x21\x3D",
        ),
        header_case(
            "frame header, 64-bit length",
            b"\x82\xFF\0\0\0\0\x00\x01\x00\x00\x37\xFA\x21\x3D",
        ),
        unmask_case("unmask 6 B", 6),
        unmask_case("unmask 128 B", 128),
        unmask_case("unmask 4 KiB", 4096),
        utf8_case("UTF-8, 128 B of ASCII", "{\"a\": 12}", 128, 128),
        utf8_case("UTF-8, 4 KiB of ASCII", "{\"a\": 12}", 4096, 4096),
        utf8_case("UTF-8, 4 KiB of many scripts", "größe 名前 😀 ", 4096, 4096),
        utf8_case(
            "UTF-8, the same in reads of 100 B",
            "größe 名前 😀 ",
            4096,
            100,
        ),
    ]
}

fn unmask_case(name: &'static str, payload_bytes: usize) -> Case {
    let mut fast = vec![0; payload_bytes];
    let mut naive = fast.clone();
    Case::pair(
        name,
        move || {
            unmask(black_box(&mut fast), black_box(MASK), 0);
            fast[payload_bytes - 1]
        },
        move || {
            unmask_naive(black_box(&mut naive), black_box(MASK), 0);
            naive[payload_bytes - 1]
        },
    )
}

fn utf8_case(name: &'static str, text: &str, text_bytes: usize, read_bytes: usize) -> Case {
    let mut text = text.repeat(text_bytes.div_ceil(text.len()));
    while text.len() > text_bytes {
        text.pop();
    }
    let copy = text.clone();
    let fast = move || {
        let mut validator = Utf8Validator::default();
        let mut pieces = black_box(text.as_bytes()).chunks(read_bytes);
        pieces.all(|piece| validator.feed(piece).is_ok()) && validator.finish().is_ok()
    };
    let naive = move || {
        let mut validator = Utf8Naive::default();
        let mut pieces = black_box(copy.as_bytes()).chunks(read_bytes);
        pieces.all(|piece| piece.iter().all(|&byte| validator.feed(byte))) && validator.missing == 0
    };
    Case::pair(name, fast, naive)
}

fn agree(random: &mut fastrand::Rng) {
    for _ in 0..2000 {
        agree_on_header(random);
        agree_on_mask(random);
        agree_on_text(random);
    }
}

fn agree_on_header(random: &mut fastrand::Rng) {
    let mut input: Vec<u8> = (0..random.usize(0..16)).map(|_| random.u8(..)).collect();
    if let Some(first) = input.first_mut() {
        *first = random
            .choice([*first, 0x81, 0x02, 0x89])
            .unwrap_or_default();
    }
    if let Some(second) = input.get_mut(1) {
        *second = random
            .choice([*second, 0x80 | 5, 0x80 | 126, 0x80 | 127])
            .unwrap_or_default();
    }
    for byte in input.iter_mut().skip(2).take(random.usize(0..8)) {
        *byte = 0;
    }
    for end in 0..=input.len() {
        let prefix = &input[..end];
        assert_eq!(
            decode_header(prefix),
            decode_header_naive(prefix),
            "{prefix:02X?}"
        );
    }
}

fn agree_on_mask(random: &mut fastrand::Rng) {
    let mut fast: Vec<u8> = (0..random.usize(0..80)).map(|_| random.u8(..)).collect();
    let mut naive = fast.clone();
    let (mask, offset) = (random.u32(..).to_ne_bytes(), random.u64(..=u64::MAX >> 1));
    unmask(&mut fast, mask, offset);
    unmask_naive(&mut naive, mask, offset);
    assert_eq!(fast, naive, "mask {mask:?} at {offset}");
}

fn agree_on_text(random: &mut fastrand::Rng) {
    let text: String = (0..random.usize(0..20)).map(|_| random.char(..)).collect();
    let mut text = text.into_bytes();
    if random.bool() && !text.is_empty() {
        let at = random.usize(0..text.len());
        text[at] = random.u8(..);
    }
    let mut fast = Utf8Validator::default();
    let mut naive = Utf8Naive::default();
    for &byte in &text {
        let is_possible = naive.feed(byte);
        assert_eq!(fast.feed(&[byte]).is_ok(), is_possible, "{text:02X?}");
        if !is_possible {
            return;
        }
    }
    assert_eq!(fast.finish().is_ok(), naive.missing == 0, "{text:02X?}");
}

/// RFC 6455 §5.2 in the order of the bytes, each taken alone.
fn decode_header_naive(input: &[u8]) -> Result<Option<(FrameHeader, usize)>, FrameError> {
    let mut bytes = input.iter().copied();
    let Some(first) = bytes.next() else {
        return Ok(None);
    };
    if [0x40, 0x20, 0x10].iter().any(|bit| first & bit != 0) {
        return Err(FrameError::ReservedBit);
    }
    let opcodes = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ];
    let opcode = opcodes
        .into_iter()
        .find(|&opcode| opcode as u8 == first % 16);
    let opcode = opcode.ok_or(FrameError::ReservedOpcode)?;
    let (fin, is_control) = (first >= 0x80, opcode as u8 >= 8);
    if is_control && !fin {
        return Err(FrameError::ControlFragmented);
    }
    let Some(second) = bytes.next() else {
        return Ok(None);
    };
    if second < 0x80 {
        return Err(FrameError::Unmasked);
    }
    let mut payload_bytes = u64::from(second - 0x80);
    if is_control && payload_bytes > 125 {
        return Err(FrameError::ControlTooLong);
    }
    let (length_bytes, least) = match payload_bytes {
        126 => (2, 126),
        127 => (8, 1 << 16),
        _ => (0, 0),
    };
    if length_bytes > 0 {
        payload_bytes = 0;
    }
    for place in 0..length_bytes {
        let Some(byte) = bytes.next() else {
            return Ok(None);
        };
        if length_bytes == 8 && place == 0 && byte >= 0x80 {
            return Err(FrameError::LengthTopBit);
        }
        payload_bytes = payload_bytes * 256 + u64::from(byte);
    }
    if payload_bytes < least {
        return Err(FrameError::LengthNotMinimal);
    }
    let mut mask = [0; 4];
    for mask_byte in &mut mask {
        let Some(byte) = bytes.next() else {
            return Ok(None);
        };
        *mask_byte = byte;
    }
    let header = FrameHeader {
        fin,
        opcode,
        payload_bytes,
        mask,
    };
    Ok(Some((header, 2 + length_bytes + 4)))
}

/// RFC 6455 §5.3 to the letter.
fn unmask_naive(payload: &mut [u8], mask: [u8; 4], offset_in_frame: u64) {
    for (byte, offset) in payload.iter_mut().zip(offset_in_frame..) {
        *byte ^= mask[(offset % 4) as usize];
    }
}

/// Table 3-7 of the Unicode Standard, one byte at a time.
struct Utf8Naive {
    /// Bytes until the character is complete.
    missing: u8,
    /// What the next of them may be.
    lowest: u8,
    highest: u8,
}

impl Default for Utf8Naive {
    fn default() -> Self {
        Self {
            missing: 0,
            lowest: 0x80,
            highest: 0xBF,
        }
    }
}

impl Utf8Naive {
    /// Whether the text may go on with `byte`.
    fn feed(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            let is_possible = (self.lowest..=self.highest).contains(&byte);
            (self.lowest, self.highest) = (0x80, 0xBF);
            self.missing -= 1;
            return is_possible;
        }
        (self.missing, self.lowest, self.highest) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xE1..=0xEC | 0xEE..=0xEF => (2, 0x80, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return false,
        };
        true
    }
}
