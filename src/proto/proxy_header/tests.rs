//! The header whole, at every prefix, with anything behind it, mutated, and beside a naive reading of version 2.

use super::ProxyHeader::{Client, Own};
use super::ProxyHeaderError::{
    AddressesTruncated, CommandInvalid, FamilyInvalid, LineInvalid, Missing, TooLong,
    VersionInvalid,
};
use super::*;

/// The only place that calls the decoder on fixed bytes. A header says "not yet" at every prefix and does not look
/// behind its end; a refusal holds from some prefix on, whatever follows.
#[track_caller]
fn check(input: &[u8], want: Result<ProxyHeader, ProxyHeaderError>) {
    let shown = input.escape_ascii();
    let want = want.map(|header| Some((header, input.len())));
    assert_eq!(decode(input), want, "{shown}");
    for behind in ["G", "GET / HTTP/1.1\r\n\r\n", "\r\n", "PROXY UNKNOWN\r\n"] {
        let more = [input, behind.as_bytes()].concat();
        assert_eq!(decode(&more), want, "{shown} and {behind:?}");
    }
    let first_error = (0..input.len()).find(|&len| decode(&input[..len]).is_err());
    match want {
        Ok(_) => {
            for len in 0..input.len() {
                assert_eq!(decode(&input[..len]), Ok(None), "prefix of {len}: {shown}");
            }
        }
        Err(error) => {
            for len in first_error.unwrap_or(input.len())..=input.len() {
                assert_eq!(decode(&input[..len]), Err(error), "prefix of {len}");
            }
        }
    }
}

fn client(address: &str) -> Result<ProxyHeader, ProxyHeaderError> {
    Ok(Client(address.parse().unwrap()))
}

/// A header of version 2.
fn v2(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [
        V2_SIGNATURE,
        &[version_and_command, family],
        &length[..],
        block,
    ]
    .concat()
}

/// 192.0.2.1:56324 to 198.51.100.2:443.
const BLOCK4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0xDC, 0x04, 0x01, 0xBB];

fn block6() -> Vec<u8> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::1".parse().unwrap(), "::2".parse().unwrap());
    [
        &source.octets()[..],
        &destination.octets(),
        &[0xDC, 0x04, 0, 80],
    ]
    .concat()
}

#[test]
fn lines_of_version_1() {
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let unknown = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(
        unknown.len(),
        V1_BYTES_MAX,
        "the longest line that the text gives"
    );
    for (line, want) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
            client("192.0.2.1:56324"),
        ),
        (
            "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            client("0.0.0.0:0"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::2 56324 80\r\n",
            client("[2001:db8::1]:56324"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::2 5 80\r\n",
            client("[::ffff:192.0.2.1]:5"),
        ),
        (
            longest,
            client("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("PROXY UNKNOWN\r\n", Ok(Own)),
        ("PROXY UNKNOWN \r\n", Ok(Own)),
        ("PROXY UNKNOWN whatever it \t says\r\n", Ok(Own)),
        (unknown, Ok(Own)),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
            Err(LineInvalid),
        ),
        ("PROXY TCP4 192.0.2.1 198.51.100 1 2\r\n", Err(LineInvalid)),
        ("PROXY TCP4 2001:db8::1 ::2 1 2\r\n", Err(LineInvalid)),
        (
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            Err(LineInvalid),
        ),
        (
            "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
            Err(LineInvalid),
        ),
        ("PROXY UNKNOWNS\r\n", Err(LineInvalid)),
        ("PROXY \r\n", Err(LineInvalid)),
        ("PROXY UNKNOWN\n", Err(LineInvalid)),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n", Err(LineInvalid)),
    ] {
        check(line.as_bytes(), want);
    }
    check(b"PROXY UNKNOWN \xFF\r\n", Err(LineInvalid));
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX));
    check(endless.as_bytes(), Err(TooLong));
    check(&endless.as_bytes()[..V1_BYTES_MAX], Err(TooLong));
    assert_eq!(decode(&endless.as_bytes()[..V1_BYTES_MAX - 1]), Ok(None));
}

#[test]
fn headers_of_version_2() {
    let with_extensions = [BLOCK4, &[0x03, 0, 4, 1, 2, 3, 4, 0xEE, 0, 1, 7]].concat();
    let unix = [b'/'; 216];
    for (header, want) in [
        (v2(0x21, 0x11, BLOCK4), client("192.0.2.1:56324")),
        (v2(0x21, 0x11, &with_extensions), client("192.0.2.1:56324")),
        (v2(0x21, 0x21, &block6()), client("[2001:db8::1]:56324")),
        (v2(0x20, 0x00, &[]), Ok(Own)),
        (v2(0x20, 0x11, BLOCK4), Ok(Own)),
        (v2(0x20, 0xFF, b"anything"), Ok(Own)),
        (v2(0x21, 0x00, &[]), Ok(Own)),
        (v2(0x21, 0x00, BLOCK4), Ok(Own)),
        (v2(0x21, 0x12, BLOCK4), Ok(Own)),
        (v2(0x21, 0x22, &block6()), Ok(Own)),
        (v2(0x21, 0x31, &unix), Ok(Own)),
        (v2(0x21, 0x32, &unix), Ok(Own)),
        (v2(0x21, 0x11, &BLOCK4[..11]), Err(AddressesTruncated)),
        (v2(0x21, 0x11, &[]), Err(AddressesTruncated)),
        (v2(0x21, 0x21, &block6()[..35]), Err(AddressesTruncated)),
        (v2(0x21, 0x21, BLOCK4), Err(AddressesTruncated)),
        (v2(0x21, 0x41, BLOCK4), Err(FamilyInvalid)),
        (v2(0x21, 0x13, BLOCK4), Err(FamilyInvalid)),
        (v2(0x22, 0x11, BLOCK4), Err(CommandInvalid)),
        (v2(0x11, 0x11, BLOCK4), Err(VersionInvalid)),
        (v2(0x31, 0x11, BLOCK4), Err(VersionInvalid)),
    ] {
        check(&header, want);
    }
    let longest = vec![0; HEADER_BYTES_MAX - V2_FIXED_BYTES];
    check(&v2(0x20, 0, &longest), Ok(Own));
    let too_long = vec![0; longest.len() + 1];
    check(&v2(0x20, 0, &too_long), Err(TooLong));
    check(&v2(0x21, 0x11, &[0; 0xFFFF]), Err(TooLong));
}

#[test]
fn what_begins_otherwise_is_no_header() {
    for input in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PROXIED",
        b"PROXY\tTCP4",
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b" PROXY UNKNOWN\r\n",
        b"\r\nPROXY UNKNOWN\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\0",
    ] {
        check(input, Err(Missing));
    }
    assert_eq!(decode(b""), Ok(None));
}

/// Every value of the two bytes that decide, beside the sentences of the text.
#[test]
fn every_version_command_and_family() {
    for version_and_command in 0..=255 {
        for family in 0..=255 {
            let want = match (version_and_command, family) {
                (0x20, _) => Ok(Own),
                (0x21, 0x11 | 0x21) => Ok(Client(
                    if family == 0x11 {
                        "192.0.2.1:56324"
                    } else {
                        "[2001:db8::1]:56324"
                    }
                    .parse()
                    .unwrap(),
                )),
                (0x21, 0x00..=0x02 | 0x10..=0x12 | 0x20..=0x22 | 0x30..=0x32) => Ok(Own),
                (0x21, _) => Err(FamilyInvalid),
                (0x22..=0x2F, _) => Err(CommandInvalid),
                _ => Err(VersionInvalid),
            };
            let block = if family == 0x11 {
                BLOCK4.to_vec()
            } else {
                block6()
            };
            let header = v2(version_and_command, family, &block);
            assert_eq!(
                decode(&header),
                want.map(|it| Some((it, header.len()))),
                "{version_and_command:#x} {family:#x}"
            );
        }
    }
}

/// Whatever comes: a decision is never taken back by further bytes, and consumes no more than there is.
#[test]
fn mutated_headers_are_decided_once() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let whole = [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::2 56324 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x11, BLOCK4),
        v2(0x21, 0x21, &block6()),
        v2(0x20, 0, &[0; 30]),
    ];
    for round in 0..20_000 {
        let mut input = rng.choice(&whole).unwrap().clone();
        for _ in 0..rng.usize(0..4) {
            let at = rng.usize(0..input.len());
            match rng.u32(0..4) {
                0 => input[at] = rng.u8(..),
                1 => input.insert(at, *rng.choice(b" \r\n0:.").unwrap()),
                2 if input.len() > 1 => drop(input.remove(at)),
                _ => input[at] ^= 1 << rng.u32(0..8),
            }
        }
        input.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        let mut decided = None;
        for len in 0..=input.len() {
            let result = decode(&input[..len]);
            let context = || format!("seed {seed} round {round} prefix {len}");
            if let Some(decided) = decided {
                assert_eq!(result, decided, "{}", context());
            } else if result != Ok(None) {
                if let Ok(Some((_, taken))) = result {
                    assert_eq!(taken, len, "{}", context());
                }
                decided = Some(result);
            }
        }
    }
}
