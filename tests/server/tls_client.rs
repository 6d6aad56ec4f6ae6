//! A client that speaks TLS, by the library in its buffered form.
#![allow(unreachable_pub, reason = "the modules beside this one use it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::harness::DEADLINE;

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub struct TlsClient {
    pub stream: TlsStream,
    /// Read and not yet looked at.
    buffer: Vec<u8>,
}

/// The path of a file of `tests/server/certificates`, which are valid until 2126.
pub fn certificate(name: &str) -> String {
    format!(
        "{}/tests/server/certificates/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// For connections that may resume each other.
pub fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(certificate("ca.pem")).unwrap();
    roots.add(ca).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A client's side of TLS that has not said anything yet.
pub fn client_connection(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
}

impl TlsClient {
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::over(tcp(address), config)
    }

    pub fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> Self {
        Self {
            stream: StreamOwned::new(client_connection(config), stream),
            buffer: Vec::new(),
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }

    /// Reads up to and with `needle`.
    #[track_caller]
    pub fn read_until(&mut self, needle: &str) -> String {
        loop {
            let found = memchr::memmem::find(&self.buffer, needle.as_bytes());
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + needle.len());
                let taken = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8(taken).unwrap();
            }
            let read = self.read_more();
            let so_far = String::from_utf8_lossy(&self.buffer);
            assert!(
                matches!(read, Ok(1..)),
                "{read:?} before {needle:?}, after {so_far:?}"
            );
        }
    }

    /// Reads up to the end, which the server has to announce.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.read_more()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let n = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    /// Says that nothing follows, and waits for the same of the server.
    #[track_caller]
    pub fn close(mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().unwrap();
        self.read_to_end().unwrap();
    }
}
