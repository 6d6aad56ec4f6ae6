//! How the value of a setting is written: `25s`, `64KiB`, `127.0.0.1:8080`, `https://*.example.com`.
//!
//! The same text works as flag, in the environment and in the file, so there is one parser for each kind.

use std::fmt;
use std::net::SocketAddr;

use super::network::Network;
use crate::proto::channel_name;
use crate::proto::http_request;

/// Why a text is not the value that a setting needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueError {
    Malformed,
    UnitMissing,
    UnitUnknown,
    TooSmall,
    TooBig,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not understood",
            Self::UnitMissing => "the unit is missing",
            Self::UnitUnknown => "the unit is not known",
            Self::TooSmall => "too small",
            Self::TooBig => "too big",
        })
    }
}

/// Units and how many milliseconds they have, largest first.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units and how many bytes they have, largest first. `KB` is left out: it means two things.
const BYTE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads `500ms`, `25s`, `10m`, `2h` or `7d` as milliseconds. Only zero goes without a unit.
pub fn parse_duration_ms(text: &str) -> Result<u64, ValueError> {
    match split_unit(text)? {
        (0, "") => Ok(0),
        (_, "") => Err(ValueError::UnitMissing),
        (number, unit) => scale(number, unit, DURATION_UNITS),
    }
}

/// Reads `65536`, `64KiB`, `1MiB` or `2GiB` as bytes.
pub fn parse_bytes(text: &str) -> Result<u64, ValueError> {
    match split_unit(text)? {
        (number, "") => Ok(number),
        (number, unit) => scale(number, unit, BYTE_UNITS),
    }
}

/// Reads `1000000` or `1_000_000`.
pub fn parse_count(text: &str) -> Result<u64, ValueError> {
    match split_unit(text)? {
        (number, "") => Ok(number),
        _ => Err(ValueError::Malformed),
    }
}

pub fn parse_bool(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ValueError::Malformed),
    }
}

/// Names of hosts are not looked up: what is listened on must not depend on a name server.
pub fn parse_address(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| ValueError::Malformed)
}

/// Any text that says something.
pub fn parse_text(text: &str) -> Result<String, ValueError> {
    match text {
        "" => Err(ValueError::Malformed),
        text => Ok(text.to_owned()),
    }
}

/// Reads a URL. A user or a password in it would be in every listing of the settings.
pub fn parse_url(text: &str) -> Result<String, ValueError> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    let is_plain = |authority: &str| !authority.is_empty() && !authority.contains('@');
    let is_url = authority.is_some_and(is_plain) && text.bytes().all(|b| b.is_ascii_graphic());
    is_url.then(|| text.to_owned()).ok_or(ValueError::Malformed)
}

/// Reads a channel's name, `prefix*`, or `*`.
pub fn parse_channel_pattern(text: &str) -> Result<String, ValueError> {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_valid = (1..=channel_name::BYTES_MAX).contains(&text.len())
        && name.bytes().all(channel_name::is_allowed);
    is_valid
        .then(|| text.to_owned())
        .ok_or(ValueError::Malformed)
}

/// Fields of a request that are between this server and its client, or that a question to the backend has of its own.
const HEADERS_OF_ONE_HOP: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
];

/// Reads the name of a header field that may be passed on to the backend.
pub fn parse_header_name(text: &str) -> Result<String, ValueError> {
    let lowercase = text.to_ascii_lowercase();
    let is_passable =
        !HEADERS_OF_ONE_HOP.contains(&&*lowercase) && !lowercase.starts_with("sec-websocket-");
    let is_name = http_request::is_token(text.as_bytes()) && is_passable;
    is_name
        .then(|| text.to_owned())
        .ok_or(ValueError::Malformed)
}

/// Reads `0660` or `660` as the permissions of a file.
pub fn parse_mode(text: &str) -> Result<u32, ValueError> {
    let is_octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    match mode.ok_or(ValueError::Malformed)? {
        mode @ 0..=0o777 => Ok(mode),
        _ => Err(ValueError::TooBig),
    }
}

pub fn parse_network(text: &str) -> Result<Network, ValueError> {
    Network::parse(text).ok_or(ValueError::Malformed)
}

/// Reads `*`, `https://example.com[:port]` or `https://*.example.com[:port]`, in lower case as browsers send it.
pub fn parse_origin(text: &str) -> Result<String, ValueError> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://").ok_or(ValueError::Malformed)?;
    let host_and_port = authority.strip_prefix("*.").unwrap_or(authority);
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority_ok = host_and_port.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && host_and_port
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    if scheme_ok && authority_ok {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(ValueError::Malformed)
    }
}

/// `0660`
pub fn show_mode(mode: u32) -> String {
    format!("{mode:04o}")
}

/// The shortest exact form: `25s`, not `25000ms`.
pub fn show_duration_ms(ms: u64) -> String {
    if ms == 0 {
        "0s".to_owned()
    } else {
        show_in(ms, DURATION_UNITS)
    }
}

/// The shortest exact form: `64KiB`, not `65536`.
pub fn show_bytes(bytes: u64) -> String {
    match show_in(bytes, BYTE_UNITS) {
        shown if shown.ends_with("iB") => shown,
        _ => bytes.to_string(),
    }
}

fn show_in(n: u64, units: &[(&str, u64)]) -> String {
    let (unit, size) = units
        .iter()
        .find(|(_, size)| n != 0 && n.is_multiple_of(*size))
        .unwrap_or(&units[units.len() - 1]);
    format!("{}{unit}", n / size)
}

fn scale(number: u64, unit: &str, units: &[(&str, u64)]) -> Result<u64, ValueError> {
    let (_, size) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or(ValueError::UnitUnknown)?;
    number.checked_mul(*size).ok_or(ValueError::TooBig)
}

/// `"64 KiB"` → `(64, "KiB")`. Underscores between digits are for the reader, as in TOML.
fn split_unit(text: &str) -> Result<(u64, &str), ValueError> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('_') {
        return Err(ValueError::Malformed);
    }
    let unit = unit.trim_start();
    if unit.bytes().any(|b| !b.is_ascii_alphabetic()) {
        return Err(ValueError::Malformed);
    }
    // All digits: what does not parse does not fit.
    Ok((
        digits
            .replace('_', "")
            .parse()
            .map_err(|_| ValueError::TooBig)?,
        unit,
    ))
}

#[cfg(test)]
mod tests {
    use super::ValueError::{Malformed, TooBig, UnitMissing, UnitUnknown};
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let rows: &[(&str, Result<u64, ValueError>)] = &[
            ("25s", Ok(25_000)),
            ("500ms", Ok(500)),
            ("10m", Ok(600_000)),
            ("2h", Ok(7_200_000)),
            ("7d", Ok(604_800_000)),
            ("10 s", Ok(10_000)),
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("25", Err(UnitMissing)),
            ("25S", Err(UnitUnknown)),
            ("25sec", Err(UnitUnknown)),
            ("1.5s", Err(Malformed)),
            ("-1s", Err(Malformed)),
            ("+1s", Err(Malformed)),
            ("", Err(Malformed)),
            ("s", Err(Malformed)),
            ("1m30s", Err(Malformed)),
            ("99999999999999999999s", Err(TooBig)),
            ("18446744073709551615d", Err(TooBig)),
        ];
        check(parse_duration_ms, rows);
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        let rows: &[(&str, Result<u64, ValueError>)] = &[
            ("65536", Ok(65_536)),
            ("65_536", Ok(65_536)),
            ("64KiB", Ok(65_536)),
            ("1 MiB", Ok(1 << 20)),
            ("1GiB", Ok(1 << 30)),
            ("12B", Ok(12)),
            ("64KB", Err(UnitUnknown)),
            ("64kib", Err(UnitUnknown)),
            ("64K", Err(UnitUnknown)),
            ("_1", Err(Malformed)),
            ("1_", Err(Malformed)),
            ("99999999TiB", Err(TooBig)),
        ];
        check(parse_bytes, rows);
        check(
            parse_count,
            &[
                ("1_000_000", Ok(1_000_000)),
                ("3s", Err(Malformed)),
                ("-3", Err(Malformed)),
            ],
        );
    }

    #[test]
    fn header_fields_that_are_a_hop_s_own_are_not_passed_on() {
        for good in [
            "Cookie",
            "X-Forwarded-For",
            "user-agent",
            "!#$%&'*+-.^_`|~0",
        ] {
            assert_eq!(parse_header_name(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "a b",
            "a:",
            "\u{e4}",
            "a\r\nb",
            "Host",
            "Content-length",
            "TRANSFER-ENCODING",
            "X-API-Key",
            "Sec-WebSocket-Key",
        ] {
            assert_eq!(parse_header_name(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn switches_addresses_and_origins() {
        check(
            parse_bool,
            &[
                ("true", Ok(true)),
                ("false", Ok(false)),
                ("yes", Err(Malformed)),
                ("", Err(Malformed)),
            ],
        );
        check(
            parse_mode,
            &[
                ("0660", Ok(0o660)),
                ("600", Ok(0o600)),
                ("0", Ok(0)),
                ("1777", Err(TooBig)),
                ("0o660", Err(Malformed)),
                ("+60", Err(Malformed)),
                ("668", Err(Malformed)),
                ("", Err(Malformed)),
            ],
        );
        assert_eq!(show_mode(0o660), "0660");
        for good in ["127.0.0.1:0", "[::1]:8080", "0.0.0.0:65535"] {
            assert_eq!(parse_address(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "localhost:80",
            ":8080",
            "127.0.0.1",
            "127.0.0.1:65536",
            "::1:80:",
        ] {
            assert_eq!(parse_address(bad), Err(Malformed), "{bad}");
        }
        for good in [
            "*",
            "https://example.com",
            "http://localhost:3000",
            "https://*.example.com",
            "http://[::1]:80",
        ] {
            assert_eq!(parse_origin(good).as_deref(), Ok(good));
        }
        assert_eq!(
            parse_origin("HTTPS://Example.com").as_deref(),
            Ok("https://example.com")
        );
        for bad in [
            "",
            "example.com",
            "https://",
            "https://a/",
            "https://*",
            "https://*.*.a",
            "://a",
            "h://a b",
            "**",
        ] {
            assert_eq!(parse_origin(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn urls() {
        for good in ["http://a", "https://a:8443/b/c?d=@e#f", "http://[::1]:80/"] {
            assert_eq!(parse_url(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "a/b",
            "ftp://a/",
            "https://",
            "http:///b",
            "http://u:p@a/",
            "http://a b/",
            "http://ä/",
        ] {
            assert_eq!(parse_url(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for (ms, shown) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (25_000, "25s"),
            (60_000, "1m"),
            (90_000, "90s"),
        ] {
            assert_eq!(show_duration_ms(ms), shown);
        }
        for (bytes, shown) in [
            (0, "0"),
            (1_000, "1000"),
            (1_024, "1KiB"),
            (1 << 20, "1MiB"),
            (3 << 30, "3GiB"),
        ] {
            assert_eq!(show_bytes(bytes), shown);
        }
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..10_000 {
            let n = random.u64(..) >> random.u32(0..64);
            assert_eq!(
                parse_duration_ms(&show_duration_ms(n)),
                Ok(n),
                "seed {seed}"
            );
            assert_eq!(parse_bytes(&show_bytes(n)), Ok(n), "seed {seed}");
        }
    }

    #[track_caller]
    fn check<T: PartialEq + fmt::Debug + Copy>(
        parse: fn(&str) -> Result<T, ValueError>,
        rows: &[(&str, Result<T, ValueError>)],
    ) {
        for &(text, want) in rows {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
