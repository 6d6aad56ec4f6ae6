//! Bodies to decode and to refuse; each goes in whole, at every prefix, at every two-way split and byte by byte.

use super::*;

const BODY_BYTES_MAX: usize = 64;

#[test]
fn decodes_lengths() {
    for (framing, input, data) in [
        (BodyFraming::None, "", ""),
        (BodyFraming::Length(0), "", ""),
        (BodyFraming::Length(1), "a", "a"),
        (BodyFraming::Length(5), "a\r\n\0b", "a\r\n\0b"),
    ] {
        check(framing, input.as_bytes(), Ok(data.as_bytes()));
    }
}

#[test]
fn decodes_chunks() {
    for (input, data) in [
        ("0\r\n\r\n", ""),
        ("0000000000000000\r\n\r\n", ""),
        ("1\r\na\r\n0\r\n\r\n", "a"),
        ("3\r\na\r\n\r\n1\r\n\n\r\n0\r\n\r\n", "a\r\n\n"),
        (
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "01234567890123456789",
        ),
        ("0000000000000001\r\na\r\n0\r\n\r\n", "a"),
        ("1;a\r\na\r\n0;b=c\r\n\r\n", "a"),
        ("1;b='c' ; e\r\na\r\n0\t;a\r\n\r\n", "a"),
        ("1 \t; b = \"\" ;\tc\r\na\r\n0\r\n\r\n", "a"),
        (
            "1;b=\"c;\u{e4}\\\"\\\\\t\";d\r\na\r\n0;b=\"=\"\r\n\r\n",
            "a",
        ),
        ("1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", "a"),
        (
            "0\r\nX: \u{e4}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "",
        ),
    ] {
        check(BodyFraming::Chunked, input.as_bytes(), Ok(data.as_bytes()));
    }
    let longest = "x".repeat(BODY_BYTES_MAX);
    let input = format!("3f\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", &longest[1..]);
    check(
        BodyFraming::Chunked,
        input.as_bytes(),
        Ok(longest.as_bytes()),
    );
}

/// RFC 9112 §7.1 unless another section is named.
#[test]
fn refuses_what_another_server_could_read_differently() {
    for (input, error) in [
        ("\r\n", BodyError::ChunkSizeInvalid),
        ("\n", BodyError::ChunkSizeInvalid),
        (";a\r\n", BodyError::ChunkSizeInvalid),
        (" 1\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("1 \r\na\r\n", BodyError::ChunkSizeInvalid),
        ("1 a\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("1 =a\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("1\t\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("+1\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("-1\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("0x1\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("1_0\r\n", BodyError::ChunkSizeInvalid),
        ("1,1\r\na\r\n", BodyError::ChunkSizeInvalid),
        ("g\r\n", BodyError::ChunkSizeInvalid),
        ("1\na\r\n0\r\n\r\n", BodyError::ChunkSizeInvalid),
        ("1\r\r\na", BodyError::ChunkSizeInvalid),
        ("1\ra\r\n", BodyError::ChunkSizeInvalid),
        ("00000000000000000\r\n\r\n", BodyError::ChunkSizeInvalid),
        ("00000000000000001\r\na\r\n", BodyError::ChunkSizeInvalid),
        // §7.1.1
        ("1;a\nb\r\n", BodyError::ChunkExtensionInvalid),
        ("1;\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1; \r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a;\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;=b\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;\"a\"\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=b=c\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a b\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=b c\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=b \r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=\"b\"c\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=\"b\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=\"\\\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a=\"\n\"\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a\0\r\na\r\n", BodyError::ChunkExtensionInvalid),
        ("1;a\u{e4}\r\na\r\n", BodyError::ChunkExtensionInvalid),
        (
            "1;a=\"\r\n\"\r\na\r\n0\r\n\r\n",
            BodyError::ChunkExtensionInvalid,
        ),
        ("1\r\nab\r\n", BodyError::ChunkEndInvalid),
        ("1\r\na\n0\r\n\r\n", BodyError::ChunkEndInvalid),
        ("1\r\na\r0\r\n\r\n", BodyError::ChunkEndInvalid),
        ("1\r\na0\r\n\r\n", BodyError::ChunkEndInvalid),
        ("1\r\na\r\n\r\n", BodyError::ChunkSizeInvalid),
        // §7.1.2
        ("0\r\n\n", BodyError::TrailerInvalid),
        ("0\r\n\rX", BodyError::TrailerInvalid),
        ("0\r\nX\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\nX : y\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\n: y\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\nX: y\n\r\n", BodyError::TrailerInvalid),
        ("0\r\nX: y\r\n z\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\nX: \0\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\nX: y\rZ\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\n X: y\r\n\r\n", BodyError::TrailerInvalid),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", BodyError::TrailerInvalid),
        // RFC 9110 §15.5.14
        ("41\r\n", BodyError::TooLarge),
        ("1\r\na\r\n40", BodyError::TooLarge),
        ("ffffffffffffffff\r\n", BodyError::TooLarge),
        ("fffffffffffffffff\r\n", BodyError::TooLarge),
        ("10000000000000001\r\n", BodyError::TooLarge),
    ] {
        check(BodyFraming::Chunked, input.as_bytes(), Err(error));
    }
    let input = format!("40\r\n{}", "x".repeat(BODY_BYTES_MAX + 1));
    check(
        BodyFraming::Chunked,
        input.as_bytes(),
        Err(BodyError::ChunkEndInvalid),
    );
    check(BodyFraming::Length(65), b"", Err(BodyError::TooLarge));
    check(
        BodyFraming::Length(u64::MAX),
        b"a",
        Err(BodyError::TooLarge),
    );
    assert!(declared_too_large(BodyFraming::Length(65), BODY_BYTES_MAX));
    assert!(!declared_too_large(BodyFraming::Length(64), BODY_BYTES_MAX));
    assert!(!declared_too_large(BodyFraming::Chunked, 0));
}

#[test]
fn overhead_is_bounded() {
    let with_extension = |n: usize| format!("0;{}\r\n\r\n", "x".repeat(n - 1));
    check(
        BodyFraming::Chunked,
        with_extension(256).as_bytes(),
        Ok(b""),
    );
    let too_long = Err(BodyError::ChunkExtensionTooLong);
    check(
        BodyFraming::Chunked,
        with_extension(257).as_bytes(),
        too_long,
    );
    let input = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(22);
    check(BodyFraming::Chunked, input.as_bytes(), too_long);
    let input = format!("0\r\n{}", "X: y\r\n".repeat(1000));
    check(
        BodyFraming::Chunked,
        input.as_bytes(),
        Err(BodyError::TrailerTooLarge),
    );
}

#[test]
fn every_byte_value_in_every_place() {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_value = |byte: u8| !byte.is_ascii_control() || byte == b'\t';
    type Place<'a> = (&'a str, &'a str, &'a dyn Fn(u8) -> bool);
    let places: [Place<'_>; 11] = [
        ("1\r\n", "\r\n0\r\n\r\n", &|_| true),
        ("1;a", "b\r\nx\r\n0\r\n\r\n", &|byte| {
            is_tchar(byte) || byte == b'=' || byte == b';'
        }),
        ("1;a=\"", "b\"\r\nx\r\n0\r\n\r\n", &|byte| {
            is_value(byte) && byte != b'"'
        }),
        ("1;a=\"\\", "b\"\r\nx\r\n0\r\n\r\n", &is_value),
        ("1", "\nx\r\n0\r\n\r\n", &|byte| byte == b'\r'),
        ("1\r", "x\r\n0\r\n\r\n", &|byte| byte == b'\n'),
        ("1\r\nx", "\n0\r\n\r\n", &|byte| byte == b'\r'),
        ("1\r\nx\r", "0\r\n\r\n", &|byte| byte == b'\n'),
        ("0\r\n", "Y: z\r\n\r\n", &is_tchar),
        ("0\r\nX", "Y: z\r\n\r\n", &|byte| {
            is_tchar(byte) || byte == b':'
        }),
        ("0\r\nX: y", "z\r\n\r\n", &is_value),
    ];
    let is_decoded = |before: &str, byte: u8, after: &str| {
        let input = [before.as_bytes(), &[byte], after.as_bytes()].concat();
        decode_in_parts(BodyFraming::Chunked, &[&input])
            .0
            .is_ok_and(|progress| progress.done)
    };
    for byte in 0..=255u8 {
        for (before, after, is_accepted) in places {
            assert_eq!(
                is_decoded(before, byte, after),
                is_accepted(byte),
                "{before:?} {byte:#x} {after:?}"
            );
        }
        let data = "x".repeat((byte as char).to_digit(16).unwrap_or(0) as usize);
        let after = format!("\r\n{data}\r\n0\r\n\r\n");
        assert_eq!(
            is_decoded("", byte, &after),
            byte.is_ascii_hexdigit(),
            "{byte:#x} as a size"
        );
        assert_eq!(
            is_decoded("0", byte, &after),
            byte.is_ascii_hexdigit(),
            "{byte:#x} in a size"
        );
    }
}

#[test]
fn no_mutation_panics_or_outgrows_its_input() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let seeds = [
        "3\r\nabc\r\n0\r\n\r\n",
        "1;a=b\r\nx\r\n1\r\ny\r\n0\r\nX: y\r\n\r\n",
        "a\r\n0123456789\r\n0\r\n\r\n",
    ];
    for _ in 0..20_000 {
        let mut input = seeds[random.usize(..seeds.len())].as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..input.len());
            match random.u8(..3) {
                0 => input[at] = random.u8(..),
                1 => input.insert(at, b"\r\n;0f: "[random.usize(..7)]),
                _ => drop(input.remove(at)),
            }
        }
        let (whole, data) = decode_in_parts(BodyFraming::Chunked, &[&input]);
        assert!(data.len() <= input.len() && data.len() <= BODY_BYTES_MAX);
        let split = random.usize(..=input.len());
        assert_eq!(
            decode_in_parts(BodyFraming::Chunked, &[&input[..split], &input[split..]]),
            (whole, data)
        );
    }
}

/// Whole, at every prefix, at every two-way split, byte by byte, with a next request behind it, and unkept.
#[track_caller]
fn check(framing: BodyFraming, input: &[u8], want: Result<&[u8], BodyError>) {
    let (whole, data) = decode_in_parts(framing, &[input]);
    match want {
        Ok(want) => {
            assert_eq!(
                whole,
                Ok(BodyProgress {
                    consumed: input.len(),
                    done: true
                })
            );
            assert_eq!(data, want);
            for len in 0..input.len() {
                let progress = decode_in_parts(framing, &[&input[..len]]).0;
                assert_eq!(
                    progress,
                    Ok(BodyProgress {
                        consumed: len,
                        done: false
                    }),
                    "prefix of {len}"
                );
            }
            let pipelined = [input, b"GET / HTTP/1.1"].concat();
            assert_eq!(
                decode_in_parts(framing, &[&pipelined]),
                (whole, data.clone())
            );
        }
        Err(error) => assert_eq!(whole, Err(error), "{}", input.escape_ascii()),
    }
    for split in 0..=input.len() {
        let parts = [&input[..split], &input[split..]];
        assert_eq!(
            decode_in_parts(framing, &parts),
            (whole, data.clone()),
            "split at {split}"
        );
    }
    // A read may also bring nothing.
    let bytes: Vec<&[u8]> = [&input[..0]].into_iter().chain(input.chunks(1)).collect();
    assert_eq!(
        decode_in_parts(framing, &bytes),
        (whole, data),
        "byte by byte"
    );
    assert_eq!(
        BodyDecoder::new(framing).discard(input, BODY_BYTES_MAX),
        whole,
        "discarded"
    );
}

fn decode_in_parts(
    framing: BodyFraming,
    parts: &[&[u8]],
) -> (Result<BodyProgress, BodyError>, Vec<u8>) {
    let mut decoder = BodyDecoder::new(framing);
    let mut data = Vec::new();
    let mut total = BodyProgress {
        consumed: 0,
        done: decoder.is_done(),
    };
    for part in parts {
        match decoder.decode(part, &mut data, BODY_BYTES_MAX) {
            Ok(progress) => {
                total.consumed += progress.consumed;
                total.done = progress.done;
            }
            Err(error) => return (Err(error), data),
        }
    }
    (Ok(total), data)
}
