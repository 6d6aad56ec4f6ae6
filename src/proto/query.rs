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
    FlagInvalid,
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

/// Decimal digits only: no sign, no space.
pub fn parse_number(value: &str) -> Result<u64, QueryError> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QueryError::NumberInvalid);
    }
    value.parse().map_err(|_| QueryError::NumberInvalid)
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
    let ms = seconds
        .checked_mul(1000)
        .and_then(|ms| ms.checked_add(fraction_ms));
    ms.ok_or(QueryError::SecondsInvalid)
}

/// `true` or `1`, `false` or `0`.
pub fn parse_flag(value: &str) -> Result<bool, QueryError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(QueryError::FlagInvalid),
    }
}

impl QueryError {
    pub fn status(self) -> u16 {
        400
    }

    /// For programs: snake case, never changes.
    pub fn code(self) -> &'static str {
        self.answer().0
    }

    /// For people: what to do.
    pub fn message(self) -> &'static str {
        self.answer().1
    }

    fn answer(self) -> (&'static str, &'static str) {
        match self {
            Self::PercentInvalid => (
                "percent_encoding_invalid",
                "Send two hexadecimal digits behind each percent sign.",
            ),
            Self::NotUtf8 => ("percent_encoding_not_utf8", "Percent-encode UTF-8."),
            Self::NumberInvalid => ("number_invalid", "Send numbers as decimal digits."),
            Self::SecondsInvalid => (
                "seconds_invalid",
                "Send durations as seconds such as 30 or 1.5.",
            ),
            Self::FlagInvalid => ("flag_invalid", "Send true or false."),
        }
    }
}
