//! From the bytes of one WebSocket connection to messages, pings, pongs and the close: fragments are joined,
//! text is checked, rules that span frames are kept (RFC 6455 §5.4, §5.5, §7.4, §8.1).
//!
//! A frame that lies wholly in the read buffer is handed out in place. Anything else is kept here, in a box
//! that exists only while a frame or a message is in the middle: an idle connection holds one null pointer.

use std::borrow::Cow;

use super::close_code;
use super::utf8::{Utf8Error, Utf8Validator};
use super::ws_frame::{self, CLIENT_HEADER_BYTES_MAX, FrameError, FrameHeader, Opcode};

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsEvent<'a> {
    /// A whole message. It is `Owned` if it came in pieces, and can be kept without a copy then.
    /// The payload of `Text` is UTF-8.
    Message {
        kind: MessageKind,
        payload: Cow<'a, [u8]>,
    },
    /// To be answered with a pong of the same payload.
    Ping(Cow<'a, [u8]>),
    Pong(Cow<'a, [u8]>),
    /// The last event: whatever follows is not to be fed. `code` is one that may stand on the wire.
    Close {
        code: Option<u16>,
        reason: Cow<'a, str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Text,
    Binary,
}

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct WsLimits {
    /// The payload of one message, all fragments together.
    pub message_bytes_max: usize,
    /// Empty fragments in a row inside one message. They cost work and bring nothing forward.
    pub empty_fragments_max: u32,
}

/// Why a connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsError {
    Frame(FrameError),
    /// A continuation frame without a message to continue.
    ContinuationUnexpected,
    /// A text or binary frame while a fragmented message is unfinished.
    ContinuationExpected,
    /// A close payload of one byte.
    CloseTruncated,
    /// A close code that must not stand on the wire (§7.4).
    CloseCodeInvalid,
    NotUtf8,
    EmptyFragments,
    MessageTooBig,
}

impl WsError {
    /// The code of the close frame that answers it (§7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::Frame(_)
            | Self::ContinuationUnexpected
            | Self::ContinuationExpected
            | Self::CloseTruncated
            | Self::CloseCodeInvalid => close_code::PROTOCOL_ERROR,
            Self::NotUtf8 => close_code::NOT_UTF8,
            Self::EmptyFragments => 1008,
            Self::MessageTooBig => close_code::TOO_BIG,
        }
    }

    /// What the close frame says to the client.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Frame(error) => error.reason(),
            Self::ContinuationUnexpected => "continuation frame without a message to continue",
            Self::ContinuationExpected => "finish the fragmented message before the next one",
            Self::CloseTruncated => "a close payload begins with a code of two bytes",
            Self::CloseCodeInvalid => "this close code must not be sent",
            Self::NotUtf8 => "text must be UTF-8, send binary frames for other data",
            Self::EmptyFragments => "too many empty fragments",
            Self::MessageTooBig => "message is too big",
        }
    }
}

impl From<FrameError> for WsError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<Utf8Error> for WsError {
    fn from(_: Utf8Error) -> Self {
        Self::NotUtf8
    }
}

/// A message that comes this far forward has earned as much time anew: a slow but honest upload gets through, a byte
/// now and then does not.
const PROGRESS_BYTES: usize = 64 * 1024;

/// The incoming side of one connection between two reads.
#[derive(Debug, Default)]
pub struct WsAssembler(Option<Box<Partial>>);

const _: () = assert!(size_of::<WsAssembler>() == size_of::<usize>());

/// Whatever is in the middle. At least one of the first three is in use.
#[derive(Debug, Default)]
struct Partial {
    header: PartialHeader,
    frame: Option<PartialFrame>,
    message: Option<PartialMessage>,
    progress: Option<Progress>,
}

/// When what is in the middle was begun, or had last come [`PROGRESS_BYTES`] forward.
#[derive(Clone, Copy, Debug)]
struct Progress {
    since_ms: u64,
    message_bytes: usize,
}

/// The first bytes of a frame whose header is not complete.
#[derive(Debug, Default)]
struct PartialHeader {
    bytes: [u8; CLIENT_HEADER_BYTES_MAX],
    len: u8,
}

/// A frame whose header is decoded and whose payload is not complete.
#[derive(Debug)]
struct PartialFrame {
    header: FrameHeader,
    received_bytes: u64,
    /// The payload so far of a control frame; that of a data frame is in the message.
    control_payload: Vec<u8>,
}

/// A message of which at least the first frame's header is decoded.
#[derive(Debug)]
struct PartialMessage {
    kind: MessageKind,
    /// Grows by what was received, never by what was announced.
    payload: Vec<u8>,
    /// Fed for `Text` only.
    utf8: Utf8Validator,
    /// Empty fragments since the last one with a payload.
    empty_fragments: u32,
}

impl WsAssembler {
    /// Takes bytes of at most one frame from the front of `input`, unmasking them in place. Returns how many
    /// it took, at least one unless `input` is empty, and the event if they complete one. To be called until
    /// `input` is used up; nothing has to be kept for the next read. After an error or a close the assembler
    /// is of no further use.
    pub fn feed<'a>(
        &mut self,
        input: &'a mut [u8],
        limits: &WsLimits,
    ) -> Result<(usize, Option<WsEvent<'a>>), WsError> {
        let (mut frame, header_bytes) =
            match self.0.as_mut().and_then(|partial| partial.frame.take()) {
                Some(frame) => (frame, 0),
                None => match self.take_header(input)? {
                    (Some(header), taken) => (self.begin_frame(header, limits)?, taken),
                    (None, taken) => return Ok((taken, None)),
                },
            };

        let missing_bytes = frame.header.payload_bytes - frame.received_bytes;
        let payload = &mut input[header_bytes..];
        let piece_bytes =
            usize::try_from(missing_bytes).map_or(payload.len(), |bytes| bytes.min(payload.len()));
        let piece = &mut payload[..piece_bytes];
        ws_frame::unmask(piece, frame.header.mask, frame.received_bytes);
        frame.received_bytes += piece_bytes as u64;

        let event = if frame.header.opcode.is_control() {
            frame.take_control(piece)?
        } else {
            self.take_data(&frame, piece, limits)?
        };
        if !frame.is_complete() {
            self.0.get_or_insert_default().frame = Some(frame);
        }
        if self.0.as_ref().is_some_and(|partial| partial.is_idle()) {
            self.0 = None;
        }
        Ok((header_bytes + piece_bytes, event))
    }

    /// Notes the time, for [`partial_since_ms`](Self::partial_since_ms). To be called after [`feed`](Self::feed).
    pub fn note_time(&mut self, now_ms: u64) {
        let Some(partial) = &mut self.0 else {
            return;
        };
        let message = partial.message.as_ref();
        let message_bytes = message.map_or(0, |message| message.payload.len());
        let has_progressed = |progress: Progress| {
            message_bytes >= progress.message_bytes.saturating_add(PROGRESS_BYTES)
        };
        if partial.progress.is_none_or(has_progressed) {
            partial.progress = Some(Progress {
                since_ms: now_ms,
                message_bytes,
            });
        }
    }

    /// The peer was not read until now: what is held is not late for that.
    pub fn restart_time(&mut self, now_ms: u64) {
        if let Some(partial) = &mut self.0
            && let Some(progress) = &mut partial.progress
        {
            progress.since_ms = now_ms;
        }
    }

    /// Since when something incomplete is held that does not come forward.
    pub fn partial_since_ms(&self) -> Option<u64> {
        let progress = self.0.as_ref()?.progress?;
        Some(progress.since_ms)
    }

    /// Takes bytes from the front of `input` until they are a header, together with those of earlier reads.
    fn take_header(&mut self, input: &[u8]) -> Result<(Option<FrameHeader>, usize), WsError> {
        let held = self
            .0
            .as_ref()
            .map_or(0, |partial| usize::from(partial.header.len));
        if held == 0
            && let Some((header, taken)) = ws_frame::decode_header(input)?
        {
            return Ok((Some(header), taken));
        }
        if input.is_empty() {
            return Ok((None, 0));
        }
        let partial = &mut self.0.get_or_insert_default().header;
        let room = &mut partial.bytes[held..];
        let copied = room.len().min(input.len());
        room[..copied].copy_from_slice(&input[..copied]);
        match ws_frame::decode_header(&partial.bytes[..held + copied])? {
            Some((header, header_bytes)) => {
                partial.len = 0;
                Ok((Some(header), header_bytes - held))
            }
            None => {
                partial.len += copied as u8;
                Ok((None, copied))
            }
        }
    }

    /// Refuses a frame that has no place here or no room, before any of its payload is taken.
    fn begin_frame(&self, header: FrameHeader, limits: &WsLimits) -> Result<PartialFrame, WsError> {
        let message = self.0.as_ref().and_then(|partial| partial.message.as_ref());
        if !header.opcode.is_control() {
            let held_bytes = match (header.opcode == Opcode::Continuation, message) {
                (true, Some(message)) => message.payload.len(),
                (false, None) => 0,
                (true, None) => return Err(WsError::ContinuationUnexpected),
                (false, Some(_)) => return Err(WsError::ContinuationExpected),
            };
            if header.payload_bytes > limits.message_bytes_max.saturating_sub(held_bytes) as u64 {
                return Err(WsError::MessageTooBig);
            }
        }
        Ok(PartialFrame {
            header,
            received_bytes: 0,
            control_payload: Vec::new(),
        })
    }

    /// Takes the next piece of a data frame; `frame` counts it already.
    fn take_data<'a>(
        &mut self,
        frame: &PartialFrame,
        piece: &'a [u8],
        limits: &WsLimits,
    ) -> Result<Option<WsEvent<'a>>, WsError> {
        if piece.is_empty() && !frame.is_complete() {
            // Nothing to hold yet, so that a payload that follows in one piece can be handed out in place.
            return Ok(None);
        }
        let FrameHeader { fin, opcode, .. } = frame.header;
        let kind = if opcode == Opcode::Text {
            MessageKind::Text
        } else {
            MessageKind::Binary
        };
        if fin && opcode != Opcode::Continuation && frame.lies_in(piece) {
            if kind == MessageKind::Text && str::from_utf8(piece).is_err() {
                return Err(WsError::NotUtf8);
            }
            return Ok(Some(WsEvent::Message {
                kind,
                payload: Cow::Borrowed(piece),
            }));
        }

        // `begin_frame` has seen to it that a continuation finds its message here.
        let slot = &mut self.0.get_or_insert_default().message;
        let message = slot.get_or_insert_with(|| PartialMessage::new(kind));
        message.append(piece)?;
        if !fin && frame.header.payload_bytes == 0 {
            message.empty_fragments += 1;
            if message.empty_fragments > limits.empty_fragments_max {
                return Err(WsError::EmptyFragments);
            }
        }
        if !(fin && frame.is_complete()) {
            return Ok(None);
        }
        message.utf8.finish()?;
        Ok(slot.take().map(|message| WsEvent::Message {
            kind: message.kind,
            payload: Cow::Owned(message.payload),
        }))
    }
}

impl Partial {
    fn is_idle(&self) -> bool {
        self.header.len == 0 && self.frame.is_none() && self.message.is_none()
    }
}

impl PartialFrame {
    fn is_complete(&self) -> bool {
        self.received_bytes == self.header.payload_bytes
    }

    /// `piece` is the whole payload, so nothing of it is anywhere else.
    fn lies_in(&self, piece: &[u8]) -> bool {
        piece.len() as u64 == self.header.payload_bytes
    }

    /// Takes the next piece of a control frame; `received_bytes` counts it already.
    fn take_control<'a>(&mut self, piece: &'a [u8]) -> Result<Option<WsEvent<'a>>, WsError> {
        let payload = if self.lies_in(piece) {
            Cow::Borrowed(piece)
        } else {
            self.control_payload.extend_from_slice(piece);
            if !self.is_complete() {
                return Ok(None);
            }
            Cow::Owned(std::mem::take(&mut self.control_payload))
        };
        match self.header.opcode {
            Opcode::Ping => Ok(Some(WsEvent::Ping(payload))),
            Opcode::Pong => Ok(Some(WsEvent::Pong(payload))),
            _ => decode_close(payload).map(Some),
        }
    }
}

impl PartialMessage {
    fn new(kind: MessageKind) -> Self {
        Self {
            kind,
            payload: Vec::new(),
            utf8: Utf8Validator::default(),
            empty_fragments: 0,
        }
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), Utf8Error> {
        if piece.is_empty() {
            return Ok(());
        }
        if self.kind == MessageKind::Text {
            self.utf8.feed(piece)?;
        }
        self.payload.extend_from_slice(piece);
        self.empty_fragments = 0;
        Ok(())
    }
}

/// The payload of a close frame: nothing, or a code and a reason (§5.5.1).
fn decode_close(payload: Cow<'_, [u8]>) -> Result<WsEvent<'_>, WsError> {
    if payload.is_empty() {
        return Ok(WsEvent::Close {
            code: None,
            reason: Cow::Borrowed(""),
        });
    }
    let Some(&code) = payload.first_chunk::<2>() else {
        return Err(WsError::CloseTruncated);
    };
    let code = u16::from_be_bytes(code);
    if !close_code_is_valid(code) {
        return Err(WsError::CloseCodeInvalid);
    }
    let reason = match payload {
        Cow::Borrowed(payload) => str::from_utf8(&payload[2..]).ok().map(Cow::Borrowed),
        Cow::Owned(mut payload) => String::from_utf8(payload.split_off(2)).ok().map(Cow::Owned),
    };
    let reason = reason.ok_or(WsError::NotUtf8)?;
    Ok(WsEvent::Close {
        code: Some(code),
        reason,
    })
}

/// Codes that may stand in a close frame: those of the protocol and its registry without the three that only
/// describe a local event (1005, 1006, 1015), those of libraries and of applications (§7.4).
pub fn close_code_is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests;
