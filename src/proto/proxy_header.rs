//! The PROXY protocol's header, versions 1 and 2: what a load balancer says, ahead of everything else, about the
//! connection that it forwards ("The PROXY protocol", HAProxy, 2020; section numbers are of that text).
//!
//! Extensions (TLVs, §2.2) are passed over unread, the checksum among them: TCP has one of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// §2.1: the longest line of version 1, with its CR LF.
const V1_BYTES_MAX: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";

/// §2.2: 12 bytes that no other protocol begins with.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// Bytes of a header at most. The length field of version 2 could say 64 KiB; addresses and the extensions that
/// balancers send (names, a TLS certificate's subject) take a few hundred.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The client whose connection is forwarded.
    Client(SocketAddr),
    /// The proxy speaks for itself (a health check), or for something that is not TCP over IP: the address is that
    /// of the connection.
    Own,
}

/// Why the beginning of a connection is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// It begins like something else.
    Missing,
    TooLong,
    /// A line of version 1 that is not one.
    LineInvalid,
    VersionInvalid,
    CommandInvalid,
    FamilyInvalid,
    /// Too short for the addresses of its family.
    AddressesTruncated,
}

impl ProxyHeaderError {
    /// For the operator's log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no PROXY header",
            Self::TooLong => "a PROXY header that is too long",
            Self::LineInvalid => "a malformed PROXY line of version 1",
            Self::VersionInvalid => "a binary PROXY header that is not of version 2",
            Self::CommandInvalid => "a PROXY header with an unknown command",
            Self::FamilyInvalid => "a PROXY header with an unknown address family",
            Self::AddressesTruncated => "a PROXY header that is too short for its addresses",
        }
    }
}

/// Reads the header at the front of `input`.
///
/// `Ok(None)` means "not enough bytes yet"; otherwise the header and how many bytes it took.
pub fn decode(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let begins_like = |signature: &[u8]| {
        let common = input.len().min(signature.len());
        input[..common] == signature[..common]
    };
    if begins_like(V1_SIGNATURE) {
        decode_v1(input)
    } else if begins_like(V2_SIGNATURE) {
        decode_v2(input)
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

/// §2.1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` and CR LF.
fn decode_v1(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let window = &input[..input.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return match window.len() {
            V1_BYTES_MAX => Err(ProxyHeaderError::TooLong),
            _ => Ok(None),
        };
    };
    let line = window[..end]
        .strip_suffix(b"\r")
        .and_then(|line| line.strip_prefix(V1_SIGNATURE))
        .and_then(|line| str::from_utf8(line).ok());
    let header = line
        .and_then(read_v1)
        .ok_or(ProxyHeaderError::LineInvalid)?;
    Ok(Some((header, end + 1)))
}

/// What stands between `PROXY` and the line end.
fn read_v1(line: &str) -> Option<ProxyHeader> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // §2.1: whatever else the line says is to be ignored.
        return Some(ProxyHeader::Own);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let ports = (words.next()?, words.next()?);
    let address = |word: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _) = (address(source)?, address(destination)?);
    let (port, _) = (read_port(ports.0)?, read_port(ports.1)?);
    words
        .next()
        .is_none()
        .then_some(ProxyHeader::Client(SocketAddr::new(source, port)))
}

/// §2.1: without leading zeros.
fn read_port(word: &str) -> Option<u16> {
    let is_decimal = word.bytes().all(|byte| byte.is_ascii_digit());
    let has_leading_zero = word.len() > 1 && word.starts_with('0');
    word.parse()
        .ok()
        .filter(|_| is_decimal && !has_leading_zero)
}

/// §2.2: signature, version and command, family and protocol, length, addresses, extensions.
fn decode_v2(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let Some((fixed, rest)) = input.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., version_and_command, family, length_high, length_low] = *fixed;
    if version_and_command >> 4 != 2 {
        return Err(ProxyHeaderError::VersionInvalid);
    }
    let is_local = match version_and_command & 0x0F {
        0 => true,
        1 => false,
        _ => return Err(ProxyHeaderError::CommandInvalid),
    };
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let header_bytes = V2_FIXED_BYTES + length;
    if header_bytes > HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(block) = rest.get(..length) else {
        return Ok(None);
    };
    let header = if is_local {
        // The family is to be ignored.
        ProxyHeader::Own
    } else {
        read_v2(family, block)?
    };
    Ok(Some((header, header_bytes)))
}

/// The source, where `family` is TCP over IP. Unix sockets, datagrams and the unspecified say nothing about a TCP
/// client; what the text does not define must be rejected.
fn read_v2(family: u8, block: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    let source: Option<(IpAddr, [u8; 2])> = match family {
        // Source, destination, source port, destination port.
        TCP4 => block.first_chunk::<12>().map(|block| {
            let [a, b, c, d, _, _, _, _, port @ .., _, _] = *block;
            (Ipv4Addr::new(a, b, c, d).into(), port)
        }),
        TCP6 => block.first_chunk::<36>().map(|block| {
            let (source, rest) = block.split_first_chunk::<16>().expect("16 of 36 bytes");
            (Ipv6Addr::from(*source).into(), [rest[16], rest[17]])
        }),
        _ if family >> 4 <= 3 && family & 0x0F <= 2 => return Ok(ProxyHeader::Own),
        _ => return Err(ProxyHeaderError::FamilyInvalid),
    };
    let (address, port) = source.ok_or(ProxyHeaderError::AddressesTruncated)?;
    Ok(ProxyHeader::Client(SocketAddr::new(
        address,
        u16::from_be_bytes(port),
    )))
}

#[cfg(test)]
mod tests;
