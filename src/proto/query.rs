//! Paths and queries (RFC 3986 §2.1, WHATWG URL "application/x-www-form-urlencoded"): raw text → decoded values.
//!
//! Text is split before it is decoded, so that an encoded delimiter is data: `a%2Cb,c` is the two items `a,b` and `c`.

use std::borrow::Cow;

/// What is wrong with a path segment or a query parameter; all are answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryError {
    PercentInvalid,
    NotUtf8,
    NumberInvalid,
    SecondsInvalid,
}

/// Undoes percent-encoding. `+` is a space in a query and itself in a path.
pub fn decode_component(raw: &str, in_query: bool) -> Result<Cow<'_, str>, QueryError> {
    let is_encoded = |byte| byte == b'%' || (in_query && byte == b'+');
    let Some(plain_bytes) = raw.bytes().position(is_encoded) else {
        return Ok(Cow::Borrowed(raw));
    };
    let (plain, encoded) = raw.as_bytes().split_at(plain_bytes);
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(plain);
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => hex_digit(rest.next())? << 4 | hex_digit(rest.next())?,
            b'+' if in_query => b' ',
            _ => byte,
        });
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| QueryError::NotUtf8)
}

fn hex_digit(byte: Option<&u8>) -> Result<u8, QueryError> {
    let digit = byte.and_then(|&byte| (byte as char).to_digit(16));
    digit
        .map(|digit| digit as u8)
        .ok_or(QueryError::PercentInvalid)
}

/// The decoded parameters of a query, in order. A parameter without `=` has an empty value; empty ones are skipped.
pub fn pairs(
    query: &str,
) -> impl Iterator<Item = Result<(Cow<'_, str>, Cow<'_, str>), QueryError>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((
                decode_component(name, true)?,
                decode_component(value, true)?,
            ))
        })
}

/// The items of a comma-separated list, still encoded; at least one, and empty ones too.
pub fn split_list(raw: &str) -> impl Iterator<Item = &str> {
    raw.split(',')
}

/// The first segment of a path and the rest behind its slash, both still encoded: `/sse/a,b` is `sse` and `a,b`.
pub fn split_first_segment(path: &str) -> (&str, Option<&str>) {
    let path = path.strip_prefix('/').unwrap_or(path);
    match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    }
}

/// Decimal digits only: no sign, no space. What is too large for 64 bits is the largest that fits: all that is read
/// here is held to a limit anyhow.
pub fn parse_number(value: &str) -> Result<u64, QueryError> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QueryError::NumberInvalid);
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

/// Seconds with an optional decimal fraction, such as `1.5`, as milliseconds.
///
/// Rounds up, since 0 has a meaning of its own (no wait, no time to live).
pub fn parse_seconds_ms(value: &str) -> Result<u64, QueryError> {
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let seconds = parse_number(seconds).map_err(|_| QueryError::SecondsInvalid)?;
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QueryError::SecondsInvalid);
    }
    let digit = |index| {
        u64::from(
            fraction
                .as_bytes()
                .get(index)
                .map_or(0, |digit| digit - b'0'),
        )
    };
    let has_more = fraction.bytes().skip(3).any(|digit| digit != b'0');
    let fraction_ms = digit(0) * 100 + digit(1) * 10 + digit(2) + u64::from(has_more);
    Ok(seconds.saturating_mul(1000).saturating_add(fraction_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_components() {
        for (raw, in_path, in_query) in [
            ("", Ok(""), Ok("")),
            ("news", Ok("news"), Ok("news")),
            ("a+b", Ok("a+b"), Ok("a b")),
            ("a%2Bb", Ok("a+b"), Ok("a+b")),
            ("a%20b%2c%2F%25", Ok("a b,/%"), Ok("a b,/%")),
            ("%c3%A4\u{e4}", Ok("\u{e4}\u{e4}"), Ok("\u{e4}\u{e4}")),
            ("%00", Ok("\0"), Ok("\0")),
            ("%2541", Ok("%41"), Ok("%41")),
            (
                "%",
                Err(QueryError::PercentInvalid),
                Err(QueryError::PercentInvalid),
            ),
            (
                "a%4",
                Err(QueryError::PercentInvalid),
                Err(QueryError::PercentInvalid),
            ),
            (
                "%4g",
                Err(QueryError::PercentInvalid),
                Err(QueryError::PercentInvalid),
            ),
            (
                "%+4",
                Err(QueryError::PercentInvalid),
                Err(QueryError::PercentInvalid),
            ),
            (
                "%u0041",
                Err(QueryError::PercentInvalid),
                Err(QueryError::PercentInvalid),
            ),
            (
                "%4\u{e4}",
                Err(QueryError::PercentInvalid),
                Err(QueryError::PercentInvalid),
            ),
            ("%ff", Err(QueryError::NotUtf8), Err(QueryError::NotUtf8)),
            ("%c3", Err(QueryError::NotUtf8), Err(QueryError::NotUtf8)),
            ("%c0%80", Err(QueryError::NotUtf8), Err(QueryError::NotUtf8)),
            (
                "%ed%a0%80",
                Err(QueryError::NotUtf8),
                Err(QueryError::NotUtf8),
            ),
        ] {
            assert_eq!(
                decode_component(raw, false).as_deref(),
                in_path.as_ref().copied(),
                "{raw} in a path"
            );
            assert_eq!(
                decode_component(raw, true).as_deref(),
                in_query.as_ref().copied(),
                "{raw} in a query"
            );
        }
        assert!(matches!(
            decode_component("a+b", false),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn every_byte_value_comes_back() {
        for byte in 0..=255u8 {
            for raw in [format!("a%{byte:02x}b"), format!("a%{byte:02X}b")] {
                let want = str::from_utf8(&[b'a', byte, b'b'])
                    .map(str::to_owned)
                    .map_err(|_| QueryError::NotUtf8);
                assert_eq!(
                    decode_component(&raw, true).map(Cow::into_owned),
                    want,
                    "{raw}"
                );
            }
            let is_hex = byte.is_ascii_hexdigit();
            let raw = format!("%4{}", byte as char);
            assert_eq!(decode_component(&raw, false).is_ok(), is_hex, "{raw:?}");
            let raw = format!("%{}1", byte as char);
            let want = (byte as char).to_digit(16).map(|digit| digit < 8);
            assert_eq!(
                decode_component(&raw, false).is_ok(),
                want == Some(true),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn splits_queries_before_decoding() {
        for (query, want) in [
            ("", &[][..]),
            ("&&", &[]),
            ("a=b", &[("a", "b")]),
            ("a", &[("a", "")]),
            ("=b", &[("", "b")]),
            ("a=b=c&&d=", &[("a", "b=c"), ("d", "")]),
            ("a%3Db=c%26d&e+f=g+h", &[("a=b", "c&d"), ("e f", "g h")]),
            ("a=1&a=2", &[("a", "1"), ("a", "2")]),
        ] {
            let found: Result<Vec<_>, _> = pairs(query).collect();
            let found = found.unwrap_or_else(|error| panic!("{query}: {error:?}"));
            let found: Vec<_> = found
                .iter()
                .map(|(name, value)| (name.as_ref(), value.as_ref()))
                .collect();
            assert_eq!(found, want, "{query}");
        }
        assert_eq!(
            pairs("a=b&c=%").collect::<Vec<_>>()[1],
            Err(QueryError::PercentInvalid)
        );
        assert_eq!(pairs("%ff=a").next(), Some(Err(QueryError::NotUtf8)));
    }

    #[test]
    fn an_encoded_comma_is_no_separator() {
        let (route, channels) = split_first_segment("/sse/a%2Cb,c");
        assert_eq!(route, "sse");
        let channels: Vec<_> = split_list(channels.unwrap_or_default())
            .map(|item| decode_component(item, false))
            .collect();
        assert_eq!(channels, [Ok("a,b".into()), Ok("c".into())]);
        assert_eq!(split_list("").collect::<Vec<_>>(), [""]);
        assert_eq!(split_list("a,,b,").collect::<Vec<_>>(), ["a", "", "b", ""]);
        for (path, want) in [
            ("/", ("", None)),
            ("/healthz", ("healthz", None)),
            ("/pub/", ("pub", Some(""))),
            ("/a/b/c", ("a", Some("b/c"))),
            ("//a", ("", Some("a"))),
            ("*", ("*", None)),
        ] {
            assert_eq!(split_first_segment(path), want, "{path}");
        }
    }

    #[test]
    fn parses_values_without_guessing() {
        for (value, want) in [
            ("0", Ok(0)),
            ("007", Ok(7)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Ok(u64::MAX)),
            ("999999999999999999999999", Ok(u64::MAX)),
            ("", Err(QueryError::NumberInvalid)),
            ("+1", Err(QueryError::NumberInvalid)),
            ("-1", Err(QueryError::NumberInvalid)),
            (" 1", Err(QueryError::NumberInvalid)),
            ("1.0", Err(QueryError::NumberInvalid)),
            ("1e3", Err(QueryError::NumberInvalid)),
            ("\u{661}", Err(QueryError::NumberInvalid)),
        ] {
            assert_eq!(parse_number(value), want, "{value}");
        }
        for (value, ms) in [
            ("0", 0),
            ("0.0", 0),
            ("30", 30_000),
            ("1.5", 1_500),
            ("1.05", 1_050),
            ("0.001", 1),
            ("0.0001", 1),
            ("1.9999", 2_000),
            ("2.000000000000", 2_000),
            ("18446744073709551.615", u64::MAX),
            ("18446744073709551.616", u64::MAX),
            ("18446744073709552", u64::MAX),
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(parse_seconds_ms(value), Ok(ms), "{value}");
        }
        for value in [
            "", ".", "1.", ".5", "-1", "+1", "1.-5", "1.+5", "1.5.0", "1,5", " 1", "1 ", "1e3",
            "0x1", "NaN", "nan", "inf", "-inf", "infinity", "1s",
        ] {
            assert_eq!(
                parse_seconds_ms(value),
                Err(QueryError::SecondsInvalid),
                "{value}"
            );
        }
    }
}
