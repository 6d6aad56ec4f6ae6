//! Sessions against a client of the library, without a socket.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::session::{RecordBuffer, TlsSession, TlsSessionError};
use super::*;

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/certificates");

fn file(name: &str) -> Option<String> {
    Some(format!("{CERTIFICATES}/{name}"))
}

fn configs(certificate: &str, key: &str) -> Result<TlsConfigs, TlsConfigError> {
    TlsConfigs::load(&Config {
        tls_certificate: file(certificate),
        tls_key: file(key),
        ..Config::default()
    })
}

/// A client and a session, with nothing but their bytes between them.
struct Pair {
    client: ClientConnection,
    session: TlsSession,
    /// What the session has decrypted.
    plaintext: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let config = configs("one.pem", "one.key").unwrap().listen.unwrap();
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(file("ca.pem").unwrap()).unwrap();
        roots.add(ca).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            client: ClientConnection::new(Arc::new(client), name).unwrap(),
            session: TlsSession::new(config).unwrap(),
            plaintext: Vec::new(),
        }
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// The session takes `bytes` in pieces of `piece_bytes`, and the client what the session says to it.
    fn feed(&mut self, bytes: &[u8], piece_bytes: usize) {
        for piece in bytes.chunks(piece_bytes.max(1)) {
            self.session
                .receive(&mut piece.to_vec(), &mut self.plaintext)
                .unwrap();
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut said = Vec::new();
        let taken = self.session.flush(|bytes| {
            said.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!(taken.unwrap(), said.len());
        self.tell_client(&said);
    }

    fn tell_client(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets().unwrap();
        }
    }

    fn shake_hands(mut self) -> Self {
        while self.client.is_handshaking() || self.session.is_handshaking() {
            let bytes = self.client_bytes();
            self.feed(&bytes, bytes.len());
        }
        self
    }

    fn encrypted(&mut self, plaintext: &[u8]) -> Vec<u8> {
        use std::io::Write;
        self.client.writer().write_all(plaintext).unwrap();
        self.client_bytes()
    }
}

#[test]
fn a_handshake_may_be_split_anywhere() {
    let hello_bytes = Pair::new().client_bytes().len();
    for piece_bytes in (1..40).chain([hello_bytes / 2, hello_bytes - 1]) {
        let mut pair = Pair::new();
        while pair.client.is_handshaking() || pair.session.is_handshaking() {
            let bytes = pair.client_bytes();
            assert!(!bytes.is_empty(), "pieces of {piece_bytes}");
            pair.feed(&bytes, piece_bytes);
        }
        assert_eq!(pair.client.alpn_protocol(), None);
        let request = pair.encrypted(b"GET");
        pair.feed(&request, piece_bytes);
        assert_eq!(pair.plaintext, b"GET");
    }
}

#[test]
fn records_are_put_together_at_every_split() {
    let mut pair = Pair::new().shake_hands();
    let mut at = 0;
    loop {
        let whole = [pair.encrypted(b"one"), pair.encrypted(b"another")].concat();
        if at > whole.len() {
            break;
        }
        pair.plaintext.clear();
        let (front, back) = whole.split_at(at);
        pair.feed(front, front.len());
        pair.feed(back, back.len());
        assert_eq!(pair.plaintext, b"oneanother", "split at {at}");
        at += 1;
    }
    assert!(at > 50, "{at}");
}

#[test]
fn what_a_socket_does_not_take_follows_in_order() {
    use std::io::Read;
    let mut pair = Pair::new().shake_hands();
    let output: Vec<u8> = (0..100_000_u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    let mut buffer = RecordBuffer::default();
    let (mut taken, mut said, mut got) = (0, Vec::new(), Vec::new());
    let mut room = 1;
    while taken < output.len() || pair.session.has_unsent() {
        let rest = &output[taken..];
        let slices = rest.chunks(3_000);
        let mut left = room;
        let sent = pair.session.transmit(slices, &mut buffer, |bytes| {
            let n = left.min(bytes.len());
            left -= n;
            said.extend_from_slice(&bytes[..n]);
            Ok(n)
        });
        let sent = sent.unwrap();
        assert_eq!(sent.wire_bytes, room - left);
        assert_eq!(sent.is_full, pair.session.has_unsent());
        taken += sent.taken;
        room = (room * 3) % 50_021;
        pair.tell_client(&std::mem::take(&mut said));
        let mut chunk = vec![0; 1 << 20];
        while let Ok(n @ 1..) = pair.client.reader().read(&mut chunk) {
            got.extend_from_slice(&chunk[..n]);
        }
    }
    assert!(got == output);
}

#[test]
fn both_sides_say_that_they_are_done() {
    use std::io::Read;
    let mut pair = Pair::new().shake_hands();
    let last = pair.encrypted(b"last");
    pair.client.send_close_notify();
    let bytes = [last, pair.client_bytes()].concat();
    pair.feed(&bytes, 7);
    assert_eq!(pair.plaintext, b"last");
    assert!(pair.session.is_at_end());
    pair.session.close();
    pair.session.close();
    pair.flush();
    assert_eq!(pair.client.reader().read(&mut [0; 9]).unwrap(), 0);
}

#[test]
fn what_is_not_tls_fails() {
    for (bytes, is_http) in [(&b"GET / HTTP/1.1\r\n"[..], true), (b"\x80\x01", false)] {
        let mut pair = Pair::new();
        match pair.session.receive(&mut bytes.to_vec(), &mut Vec::new()) {
            Err(TlsSessionError::PlainText { is_http: found }) => assert_eq!(found, is_http),
            other => panic!("{other:?}"),
        }
        assert!(!pair.session.has_unsent());
    }
    let mut pair = Pair::new().shake_hands();
    let mut forged = pair.encrypted(b"x");
    *forged.last_mut().unwrap() ^= 1;
    let result = pair.session.receive(&mut forged, &mut Vec::new());
    assert!(matches!(result, Err(TlsSessionError::Tls(_))));
    assert!(pair.session.has_unsent(), "the alert");
}

#[test]
fn random_bytes_end_in_an_error_or_wait() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut pair = Pair::new();
        let mut bytes = pair.client_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        for piece in bytes.chunks(random.usize(1..bytes.len())) {
            let received = pair
                .session
                .receive(&mut piece.to_vec(), &mut pair.plaintext);
            if received.is_err() {
                break;
            }
        }
        assert!(pair.plaintext.is_empty(), "seed {seed}");
    }
}

#[test]
fn files_that_cannot_be_used_are_told_by_name() {
    for (certificate, key, needles) in [
        (
            "none.pem",
            "one.key",
            &["tls_certificate = ", "none.pem", "No such file"][..],
        ),
        (
            "one.pem",
            "none.key",
            &["tls_key = ", "none.key", "No such file"],
        ),
        (
            "one.key",
            "one.key",
            &["tls_certificate = ", "no certificate"],
        ),
        ("one.pem", "one.pem", &["tls_key = ", "no private key"]),
        (
            "one.pem",
            "two.key",
            &["tls_key = ", "two.key", "cannot be used"],
        ),
    ] {
        let error = configs(certificate, key).unwrap_err().to_string();
        for needle in needles {
            assert!(error.contains(needle), "no {needle:?} in: {error}");
        }
    }
    assert!(configs("one.pem", "one.key").unwrap().internal.is_none());
}
