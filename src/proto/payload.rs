//! What a message's payload is, and how that is decided from a `Content-Type`.

use super::json;
use super::refused::Refused;

/// The kind of a payload decides its wire form in every transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Valid JSON; embedded as it is.
    Json,
    /// Valid UTF-8; becomes a JSON string.
    Text,
    /// Anything else; base64 where the transport is text.
    Binary,
}

/// Why a payload does not fit its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    JsonInvalid,
    TextNotUtf8,
    /// `text/*` in a charset other than UTF-8 or its subset US-ASCII.
    CharsetUnsupported,
}

impl From<PayloadError> for Refused {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::JsonInvalid => Self::new(
                400,
                "payload_json_invalid",
                "The Content-Type says JSON: send one valid JSON value in UTF-8, nested 120 levels at most.",
            ),
            PayloadError::TextNotUtf8 => Self::new(
                400,
                "payload_text_invalid",
                "The Content-Type says text: send UTF-8, or application/octet-stream for other bytes.",
            ),
            PayloadError::CharsetUnsupported => Self::new(
                415,
                "payload_charset_unsupported",
                "Send text in UTF-8, or as application/octet-stream.",
            ),
        }
    }
}

/// What a `Content-Type` says about the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`.
    Json,
    /// `text/*` in UTF-8.
    Text,
    /// `application/octet-stream`
    Octets,
    /// Nothing.
    Other,
}

impl MediaType {
    /// `content_type` is the field's value; `None` where there is no such field.
    pub fn parse(content_type: Option<&str>) -> Result<Self, PayloadError> {
        let Some(value) = content_type else {
            return Ok(Self::Other);
        };
        let (name, parameters) = value.split_once(';').unwrap_or((value, ""));
        let (top, subtype) = name.trim_ascii().split_once('/').unwrap_or((name, ""));
        if top.eq_ignore_ascii_case("text") && name.contains('/') {
            return match charset(parameters).is_none_or(charset_is_utf8) {
                true => Ok(Self::Text),
                false => Err(PayloadError::CharsetUnsupported),
            };
        }
        Ok(if !top.eq_ignore_ascii_case("application") {
            Self::Other
        } else if subtype.eq_ignore_ascii_case("json") {
            Self::Json
        } else if subtype.eq_ignore_ascii_case("octet-stream") {
            Self::Octets
        } else {
            Self::Other
        })
    }
}

impl PayloadKind {
    /// Holds the bytes to what is said about them; where nothing is, they decide by themselves.
    pub fn of(payload: &[u8], media_type: MediaType) -> Result<Self, PayloadError> {
        let is_utf8 = || str::from_utf8(payload).is_ok();
        match media_type {
            MediaType::Json if json::is_valid(payload) => Ok(Self::Json),
            MediaType::Json => Err(PayloadError::JsonInvalid),
            MediaType::Octets => Ok(Self::Binary),
            MediaType::Text | MediaType::Other if is_utf8() => Ok(Self::Text),
            MediaType::Text => Err(PayloadError::TextNotUtf8),
            MediaType::Other => Ok(Self::Binary),
        }
    }
}

fn charset_is_utf8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"]
        .iter()
        .any(|name| charset.eq_ignore_ascii_case(name))
}

/// The value of the first `charset` among `; name=value` parameters, which may be quoted (RFC 9110 §5.6.6).
fn charset(parameters: &str) -> Option<&str> {
    let mut is_quoted = false;
    let between = move |character| {
        is_quoted ^= character == '"';
        character == ';' && !is_quoted
    };
    parameters.split(between).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim_ascii()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim_ascii().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<'a>(
        content_type: impl Into<Option<&'a str>>,
        payload: &[u8],
        expected: Result<PayloadKind, PayloadError>,
    ) {
        let content_type = content_type.into();
        let decided = MediaType::parse(content_type).and_then(|it| PayloadKind::of(payload, it));
        assert_eq!(decided, expected, "{content_type:?} {payload:?}");
    }

    const LATIN_1: &[u8] = b"gr\xFC\xDFe";

    #[test]
    fn json_has_to_be_json() {
        for content_type in [
            "application/json",
            " Application/JSON ; charset=utf-8",
            "application/json;",
            "application/json; charset=latin1",
        ] {
            check(content_type, b"{\"a\":1}", Ok(PayloadKind::Json));
            check(content_type, b"{", Err(PayloadError::JsonInvalid));
            check(content_type, b"", Err(PayloadError::JsonInvalid));
            check(content_type, b"\"\xFF\"", Err(PayloadError::JsonInvalid));
        }
    }

    #[test]
    fn text_has_to_be_utf8() {
        for content_type in [
            "text/plain",
            "TEXT/html",
            "text/plain; charset=UTF-8",
            "text/plain;Charset = \"utf-8\" ; format=flowed",
            "text/plain; charset=utf8",
            "text/plain; charset=US-ASCII",
            "text/plain; x=\";charset=latin1\"",
            "text/plain; charset=utf-8; charset=latin1",
            "text/plain;;",
        ] {
            check(content_type, "größe".as_bytes(), Ok(PayloadKind::Text));
            check(content_type, b"", Ok(PayloadKind::Text));
            check(content_type, LATIN_1, Err(PayloadError::TextNotUtf8));
        }
        for content_type in [
            "text/plain; charset=iso-8859-1",
            "text/plain; a=b; charset=\"windows-1252\"",
            "text/plain; charset=",
            "text/plain; charset=utf-16",
        ] {
            check(content_type, b"a", Err(PayloadError::CharsetUnsupported));
        }
    }

    #[test]
    fn anything_else_is_decided_by_its_bytes() {
        for content_type in [
            "",
            ";",
            "application/x-www-form-urlencoded",
            "application/xml",
            "application/jsonp",
            "json",
            "application/problem+json",
            "text",
            "application/a+json+b",
        ] {
            check(content_type, b"{}", Ok(PayloadKind::Text));
            check(content_type, LATIN_1, Ok(PayloadKind::Binary));
        }
        check(None, b"", Ok(PayloadKind::Text));
        check(None, b"{}", Ok(PayloadKind::Text));
        check(None, LATIN_1, Ok(PayloadKind::Binary));
    }

    #[test]
    fn octets_are_binary_whatever_they_are() {
        for content_type in ["application/octet-stream", "APPLICATION/Octet-Stream; x=y"] {
            check(content_type, b"text", Ok(PayloadKind::Binary));
            check(content_type, LATIN_1, Ok(PayloadKind::Binary));
        }
    }

    #[test]
    fn refusals_say_what_to_send() {
        for (error, status) in [
            (PayloadError::JsonInvalid, 400),
            (PayloadError::TextNotUtf8, 400),
            (PayloadError::CharsetUnsupported, 415),
        ] {
            let refused = Refused::from(error);
            assert_eq!(refused.status, status);
            assert!(refused.code.starts_with("payload_"));
            assert!(refused.message.to_lowercase().contains("send"));
        }
        let of_json = Refused::from(PayloadError::JsonInvalid);
        assert!(of_json.message.contains(&json::DEPTH_MAX.to_string()));
    }
}
