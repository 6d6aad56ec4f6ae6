//! One connection's TLS, between the bytes of its socket and those of its transport. At rest it holds no buffer: it
//! works on what the caller has just read, and keeps only the beginning of a record and what the socket did not take.

use std::sync::Arc;

use rustix::io::Errno;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{HandshakeKind, ServerConfig};

/// Plaintext of one record at most (RFC 8446 §5.1). What a socket does not take of one waits encrypted, so this
/// bounds that, too.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What encryption adds to a record, with room for a key update before it.
const OVERHEAD_BYTES_MAX: usize = 1024;
/// The first byte of every handshake (RFC 8446 §5.1).
const HANDSHAKE_TYPE: u8 = 22;

pub struct TlsSession {
    tls: UnbufferedServerConnection,
    /// The begin of a record, or of a message of the handshake.
    incomplete: Vec<u8>,
    /// Encrypted; the socket has not taken it yet.
    unsent: Vec<u8>,
    has_input: bool,
    is_at_end: bool,
    has_said_goodbye: bool,
}

/// Why a session cannot go on.
#[derive(Debug)]
pub enum TlsSessionError {
    /// The peer does not speak TLS, but perhaps HTTP.
    PlainText {
        is_http: bool,
    },
    Tls(rustls::Error),
}

/// What one write has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Bytes of the output that need no further care.
    pub taken: usize,
    /// Bytes that went into the socket.
    pub wire_bytes: usize,
    /// The socket takes no more at the moment.
    pub is_full: bool,
}

/// Storage of one record on its way out. One serves all sessions of a shard.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}

impl TlsSession {
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            incomplete: Vec::new(),
            unsent: Vec::new(),
            has_input: false,
            is_at_end: false,
            has_said_goodbye: false,
        })
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the handshake went on from an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn has_input(&self) -> bool {
        self.has_input
    }

    /// The peer has said that nothing follows (`close_notify`).
    pub fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes bytes of the socket, and appends to `plaintext` what is in the records that they complete. What TLS itself
    /// has to say to it is unsent afterwards; on an error, that is the alert.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<(), TlsSessionError> {
        if let (false, Some(&first)) = (self.has_input, bytes.first()) {
            self.has_input = true;
            if first != HANDSHAKE_TYPE {
                let is_http = first.is_ascii_uppercase();
                return Err(TlsSessionError::PlainText { is_http });
            }
        }
        if self.incomplete.is_empty() {
            let used = self.process(bytes, plaintext)?;
            self.incomplete = bytes[used..].to_vec();
        } else {
            let mut joined = std::mem::take(&mut self.incomplete);
            joined.extend_from_slice(bytes);
            let used = self.process(&mut joined, plaintext)?;
            joined.drain(..used);
            joined.shrink_to_fit();
            self.incomplete = joined;
        }
        Ok(())
    }

    /// Goes through `input` as far as it is complete, and says how far that is.
    fn process(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<usize, TlsSessionError> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.tls.process_tls_records(&mut input[used..]);
            let mut is_done = false;
            match state.map_err(TlsSessionError::Tls) {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(TlsSessionError::Tls)?;
                        used += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.unsent),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_at_end = true,
                // Early data is never offered, so this is all that can come.
                Ok(_) => is_done = true,
                Err(error) => {
                    used += discard;
                    self.take_alert(&mut input[used..]);
                    // A session that has failed says nothing else.
                    self.has_said_goodbye = true;
                    return Err(error);
                }
            }
            used += discard;
            if is_done {
                return Ok(used);
            }
        }
    }

    /// What the peer is told of a failure is ready once it has failed.
    fn take_alert(&mut self, input: &mut [u8]) {
        while self.tls.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) =
                self.tls.process_tls_records(input).state
        {
            encode(data, &mut self.unsent);
        }
    }

    /// Sends what the socket did not take before. Says how much of it went.
    pub fn flush(
        &mut self,
        mut send: impl FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if self.unsent.is_empty() {
            return Ok(0);
        }
        let sent = send(&self.unsent)?;
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..sent);
        }
        Ok(sent)
    }

    /// Encrypts and sends, record by record, until the socket is full. What it did not take of the last record is
    /// unsent, and counts as taken.
    pub fn transmit<'a>(
        &mut self,
        mut slices: impl Iterator<Item = &'a [u8]>,
        buffer: &mut RecordBuffer,
        mut send: impl FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<Sent, Errno> {
        let mut sent = Sent {
            wire_bytes: self.flush(&mut send)?,
            ..Sent::default()
        };
        let mut slice: &[u8] = &[];
        while self.unsent.is_empty() {
            let RecordBuffer {
                plaintext,
                ciphertext,
            } = buffer;
            plaintext.clear();
            while plaintext.len() < RECORD_BYTES_MAX {
                if slice.is_empty() {
                    let Some(next) = slices.next() else { break };
                    slice = next;
                }
                let n = slice.len().min(RECORD_BYTES_MAX - plaintext.len());
                plaintext.extend_from_slice(&slice[..n]);
                slice = &slice[n..];
            }
            if plaintext.is_empty() {
                return Ok(sent);
            }
            ciphertext.clear();
            self.encrypt(plaintext, ciphertext)?;
            sent.taken += plaintext.len();
            let n = send(ciphertext)?;
            sent.wire_bytes += n;
            self.unsent.extend_from_slice(&ciphertext[n..]);
        }
        sent.is_full = true;
        Ok(sent)
    }

    fn encrypt(&mut self, plaintext: &[u8], ciphertext: &mut Vec<u8>) -> Result<(), Errno> {
        let written = self.write(ciphertext, plaintext.len(), |traffic, room| {
            traffic.encrypt(plaintext, room).ok()
        });
        // Keys that are used up, or a session that has failed: neither takes another byte.
        if written { Ok(()) } else { Err(Errno::PROTO) }
    }

    /// Says that nothing follows, once. It is unsent afterwards.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.has_said_goodbye, true) && !self.is_handshaking() {
            let mut unsent = std::mem::take(&mut self.unsent);
            self.write(&mut unsent, 0, |traffic, room| {
                traffic.queue_close_notify(room).ok()
            });
            self.unsent = unsent;
        }
    }

    /// Appends to `out` what TLS has to say, and behind it what `write` makes of room for `bytes` of plaintext; `false`
    /// if that cannot be.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        bytes: usize,
        write: impl FnOnce(&mut WriteTraffic<'_>, &mut [u8]) -> Option<usize>,
    ) -> bool {
        loop {
            // Not an empty buffer: the deframer may have noted places in what is incomplete.
            let UnbufferedStatus { state, .. } = self.tls.process_tls_records(&mut self.incomplete);
            match state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_at_end = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let before = out.len();
                    out.resize(before + bytes + OVERHEAD_BYTES_MAX, 0);
                    let written = write(&mut traffic, &mut out[before..]);
                    out.truncate(before + written.unwrap_or(0));
                    return written.is_some();
                }
                _ => return false,
            }
        }
    }
}

type WriteTraffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let before = out.len();
    // Asked with no room, it says how much it needs.
    while let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut out[before..]) {
        out.resize(before + needed.required_size, 0);
    }
}
