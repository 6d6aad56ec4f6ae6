//! The header of the PROXY protocol: every cut gives the same result, and what is read can be written again.

use std::net::SocketAddr;

use pushring::proto::proxy_header::{HEADER_BYTES_MAX, ProxyHeader, decode};

pub(crate) fn check(input: &[u8]) {
    let whole = decode(input);
    for cut in super::cuts(input) {
        let part = decode(&input[..cut]);
        assert!(matches!(part, Ok(None)) || part == whole, "cut at {cut}");
    }
    let Ok(Some((header, bytes))) = whole else {
        return;
    };
    assert!(bytes <= input.len().min(HEADER_BYTES_MAX));
    assert_eq!(decode(&input[..bytes]), whole, "what follows has no say");
    assert_eq!(decode(&input[..bytes - 1]), Ok(None), "all of it is needed");
    if let ProxyHeader::Client(client) = header {
        for written in [version_1(client), version_2(client)] {
            assert_eq!(decode(&written), Ok(Some((header, written.len()))));
        }
    }
}

fn version_1(client: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (client.ip(), client.port());
    format!("PROXY {family} {ip} {ip} {port} {port}\r\n").into_bytes()
}

fn version_2(client: SocketAddr) -> Vec<u8> {
    let (family, address) = match client {
        SocketAddr::V4(client) => (0x11, client.ip().octets().to_vec()),
        SocketAddr::V6(client) => (0x21, client.ip().octets().to_vec()),
    };
    let port = client.port().to_be_bytes();
    let rest = [&address[..], &address, &port, &port].concat();
    let head = [0x21, family, 0, rest.len() as u8];
    [b"\r\n\r\n\0\r\nQUIT\n", &head[..], &rest].concat()
}
