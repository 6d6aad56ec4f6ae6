//! The body of a request (RFC 9112 §6, §7.1): bytes of the connection → bytes of the body.
//!
//! The decoder holds no body bytes: they go to the caller's buffer, which grows with what was received, never with what
//! was announced. It takes every byte it is given up to the body's end, so nothing has to be handed in twice.

#[cfg(test)]
mod tests;

use super::http_request::{BodyFraming, is_field_byte, is_token_byte};
use super::refused::Refused;

/// Where we are in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyDecoder {
    state: State,
    /// Body bytes so far; with chunks, including all of the current one.
    body_bytes: u64,
    /// Chunk extensions so far, over all chunks.
    extension_bytes: u64,
    /// The trailer section so far.
    trailer_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyProgress {
    /// Bytes taken from the front of the input: all of it unless the body ended.
    pub consumed: usize,
    pub done: bool,
}

/// What a client did to its body that no server can repair; after it the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyError {
    TooLarge,
    ChunkSizeInvalid,
    ChunkExtensionInvalid,
    ChunkExtensionTooLong,
    ChunkEndInvalid,
    TrailerInvalid,
    TrailerTooLarge,
}

/// One chunk's extension; nobody has a use for them (RFC 9112 §7.1.1: ignore the unrecognized, limit their length).
const CHUNK_EXTENSION_BYTES_MAX: u16 = 256;
/// All extensions of a body may have this many bytes more than its data.
const EXTENSION_EXCESS_BYTES_MAX: u64 = 4096;
const TRAILER_BYTES_MAX: u32 = 4096;
/// 64 bits; leading zeros count.
const CHUNK_SIZE_DIGITS_MAX: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// How many bytes are missing, never 0.
    Length(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
        bytes: u16,
        part: ExtensionPart,
    },
    ChunkSizeLf {
        size: u64,
    },
    /// How many bytes of the chunk are missing, never 0.
    ChunkData(u64),
    ChunkDataCr,
    ChunkDataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// Where we are in the extensions of a chunk; each begins with its semicolon (RFC 9112 §7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtensionPart {
    /// Whitespace between the size and the first semicolon.
    SizeEnd,
    NameStart,
    Name,
    NameEnd,
    ValueStart,
    Value,
    Quoted,
    /// Behind a backslash in a quoted value.
    Escaped,
    QuotedEnd,
    ValueEnd,
}

/// Whether a body is refused before its first byte: the caller answers 413 instead of `100 Continue`.
pub fn declared_too_large(framing: BodyFraming, body_bytes_max: usize) -> bool {
    matches!(framing, BodyFraming::Length(length) if length > body_bytes_max as u64)
}

impl BodyDecoder {
    pub fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::ChunkSize { size: 0, digits: 0 },
        };
        Self {
            state,
            body_bytes: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Appends to `out` what `input` has of the body.
    ///
    /// More than `body_bytes_max` is refused as soon as it is announced. After an error `out` may hold a part.
    pub fn decode(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        body_bytes_max: usize,
    ) -> Result<BodyProgress, BodyError> {
        self.advance(input, body_bytes_max as u64, |data| {
            out.extend_from_slice(data)
        })
    }

    /// Reads over a body that nobody wants, up to `drain_bytes_max` of it.
    pub fn discard(
        &mut self,
        input: &[u8],
        drain_bytes_max: usize,
    ) -> Result<BodyProgress, BodyError> {
        self.advance(input, drain_bytes_max as u64, |_| {})
    }

    fn advance(
        &mut self,
        input: &[u8],
        body_bytes_max: u64,
        mut on_data: impl FnMut(&[u8]),
    ) -> Result<BodyProgress, BodyError> {
        if matches!(self.state, State::Length(missing) if missing > body_bytes_max.saturating_sub(self.body_bytes))
        {
            return Err(BodyError::TooLarge);
        }
        let mut rest = input;
        while let Some((&byte, behind)) = rest.split_first() {
            match self.state {
                State::Done => break,
                State::Length(missing) | State::ChunkData(missing) => {
                    let n = missing.min(rest.len() as u64) as usize;
                    on_data(&rest[..n]);
                    rest = &rest[n..];
                    self.on_data_taken(n as u64);
                }
                _ => {
                    rest = behind;
                    self.state = self.on_framing_byte(byte, body_bytes_max)?;
                }
            }
        }
        Ok(BodyProgress {
            consumed: input.len() - rest.len(),
            done: self.is_done(),
        })
    }

    fn on_data_taken(&mut self, n: u64) {
        self.state = match self.state {
            State::Length(missing) => {
                self.body_bytes += n;
                if missing == n {
                    State::Done
                } else {
                    State::Length(missing - n)
                }
            }
            State::ChunkData(missing) if missing == n => State::ChunkDataCr,
            State::ChunkData(missing) => State::ChunkData(missing - n),
            other => other,
        };
    }

    /// RFC 9112 §7.1, one byte at a time; CR LF is the only line end.
    fn on_framing_byte(&mut self, byte: u8, body_bytes_max: u64) -> Result<State, BodyError> {
        Ok(match (self.state, byte) {
            (State::ChunkSize { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == CHUNK_SIZE_DIGITS_MAX {
                    return Err(BodyError::ChunkSizeInvalid);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                // 16 digits fill 64 bits exactly.
                let size = size << 4 | digit;
                if size > body_bytes_max.saturating_sub(self.body_bytes) {
                    return Err(BodyError::TooLarge);
                }
                State::ChunkSize {
                    size,
                    digits: digits + 1,
                }
            }
            (State::ChunkSize { size, digits: 1.. }, b'\r') => State::ChunkSizeLf { size },
            (State::ChunkSize { size, digits: 1.. }, b';' | b' ' | b'\t') => {
                State::ChunkExtension {
                    size,
                    bytes: 1,
                    part: match byte {
                        b';' => ExtensionPart::NameStart,
                        _ => ExtensionPart::SizeEnd,
                    },
                }
            }
            (State::ChunkSize { .. }, _) => return Err(BodyError::ChunkSizeInvalid),

            (State::ChunkExtension { size, part, .. }, b'\r') if part.may_be_last() => {
                State::ChunkSizeLf { size }
            }
            (State::ChunkExtension { size, bytes, part }, _) => {
                let part = part.after(byte)?;
                self.extension_bytes += 1;
                if bytes == CHUNK_EXTENSION_BYTES_MAX
                    || self.extension_bytes > self.body_bytes + EXTENSION_EXCESS_BYTES_MAX
                {
                    return Err(BodyError::ChunkExtensionTooLong);
                }
                State::ChunkExtension {
                    size,
                    bytes: bytes + 1,
                    part,
                }
            }

            (State::ChunkSizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::ChunkSizeLf { size }, b'\n') => {
                self.body_bytes += size;
                State::ChunkData(size)
            }
            (State::ChunkSizeLf { .. }, _) => return Err(BodyError::ChunkSizeInvalid),

            (State::ChunkDataCr, b'\r') => State::ChunkDataLf,
            (State::ChunkDataLf, b'\n') => State::ChunkSize { size: 0, digits: 0 },
            (State::ChunkDataCr | State::ChunkDataLf, _) => return Err(BodyError::ChunkEndInvalid),

            (State::TrailerStart, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            _ => self.on_trailer_byte(byte)?,
        })
    }

    /// RFC 9112 §7.1.2: trailer fields have the form of header fields; all are dropped (RFC 9110 §6.5.1).
    fn on_trailer_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(BodyError::TrailerTooLarge);
        }
        Ok(match (self.state, byte) {
            (State::TrailerStart | State::TrailerName, byte) if is_token_byte(byte) => {
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, byte) if is_field_byte(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            _ => return Err(BodyError::TrailerInvalid),
        })
    }
}

impl ExtensionPart {
    /// Whether the line may end here.
    fn may_be_last(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::QuotedEnd)
    }

    /// RFC 9112 §7.1.1, RFC 9110 §5.6.4. No part of it may hold a line end, quoted or not: where a line ends does not
    /// depend on whether its reader knows quotes.
    fn after(self, byte: u8) -> Result<Self, BodyError> {
        Ok(match (self, byte) {
            (Self::Quoted, b'"') => Self::QuotedEnd,
            (Self::Quoted, b'\\') => Self::Escaped,
            (Self::Quoted | Self::Escaped, _) if is_field_byte(byte) => Self::Quoted,
            (Self::NameStart | Self::Name, _) if is_token_byte(byte) => Self::Name,
            (Self::ValueStart | Self::Value, _) if is_token_byte(byte) => Self::Value,
            (Self::ValueStart, b'"') => Self::Quoted,
            (Self::Name | Self::NameEnd, b'=') => Self::ValueStart,
            (
                Self::SizeEnd
                | Self::Name
                | Self::NameEnd
                | Self::Value
                | Self::QuotedEnd
                | Self::ValueEnd,
                b';',
            ) => Self::NameStart,
            // RFC 9110 §5.6.3: "bad" whitespace has to be taken around the delimiters, and nowhere else.
            (Self::SizeEnd | Self::NameStart | Self::ValueStart, b' ' | b'\t') => self,
            (Self::Name | Self::NameEnd, b' ' | b'\t') => Self::NameEnd,
            (Self::Value | Self::QuotedEnd | Self::ValueEnd, b' ' | b'\t') => Self::ValueEnd,
            (Self::SizeEnd, _) => return Err(BodyError::ChunkSizeInvalid),
            _ => return Err(BodyError::ChunkExtensionInvalid),
        })
    }
}

impl From<BodyError> for Refused {
    fn from(error: BodyError) -> Self {
        let (status, code, message) = match error {
            BodyError::TooLarge => (413, "body_too_large", "Send a smaller body."),
            BodyError::ChunkSizeInvalid => (
                400,
                "chunk_size_invalid",
                "Send each chunk size as at most 16 hexadecimal digits and CR LF.",
            ),
            BodyError::ChunkExtensionInvalid => (
                400,
                "chunk_extension_invalid",
                "Send chunk extensions as names, each with a token or a quoted string as its value, or none.",
            ),
            BodyError::ChunkExtensionTooLong => {
                (400, "chunk_extension_too_long", "Send no chunk extensions.")
            }
            BodyError::ChunkEndInvalid => (
                400,
                "chunk_end_invalid",
                "Send exactly the announced bytes of a chunk and CR LF.",
            ),
            BodyError::TrailerInvalid => (
                400,
                "trailer_invalid",
                "Send trailers as lines of name, colon and value, or none.",
            ),
            BodyError::TrailerTooLarge => (431, "trailer_too_large", "Send no trailers."),
        };
        Self::new(status, code, message)
    }
}
