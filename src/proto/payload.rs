//! What a message's payload is, and how that is decided from a `Content-Type`.

use super::json;

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

impl PayloadError {
    pub fn status(self) -> u16 {
        match self {
            Self::JsonInvalid | Self::TextNotUtf8 => 400,
            Self::CharsetUnsupported => 415,
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::JsonInvalid => "payload_json_invalid",
            Self::TextNotUtf8 => "payload_text_invalid",
            Self::CharsetUnsupported => "payload_charset_unsupported",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::JsonInvalid => {
                "The Content-Type says JSON: send one valid JSON value in UTF-8, nested 120 levels at most."
            }
            Self::TextNotUtf8 => {
                "The Content-Type says text: send UTF-8, or application/octet-stream for other bytes."
            }
            Self::CharsetUnsupported => "Send text in UTF-8, or as application/octet-stream.",
        }
    }
}

impl PayloadKind {
    /// Decides the kind by the `Content-Type`, and without one (or with one that says nothing about the bytes)
    /// by the bytes themselves.
    pub fn from_content_type(
        content_type: Option<&str>,
        payload: &[u8],
    ) -> Result<Self, PayloadError> {
        let (media_type, parameters) = match content_type {
            Some(value) => value.split_once(';').unwrap_or((value, "")),
            None => ("", ""),
        };
        let media_type = media_type.trim_ascii().to_ascii_lowercase();
        let subtype = media_type.strip_prefix("application/");
        if subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json")) {
            return if json::is_valid(payload) {
                Ok(Self::Json)
            } else {
                Err(PayloadError::JsonInvalid)
            };
        }
        if media_type == "application/octet-stream" {
            return Ok(Self::Binary);
        }
        let is_utf8 = str::from_utf8(payload).is_ok();
        if media_type.starts_with("text/") {
            if !charset(parameters).is_none_or(charset_is_utf8) {
                return Err(PayloadError::CharsetUnsupported);
            }
            return if is_utf8 {
                Ok(Self::Text)
            } else {
                Err(PayloadError::TextNotUtf8)
            };
        }
        Ok(if is_utf8 { Self::Text } else { Self::Binary })
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
    fn check(content_type: &str, payload: &[u8], expected: Result<PayloadKind, PayloadError>) {
        let decided = PayloadKind::from_content_type(Some(content_type), payload);
        assert_eq!(decided, expected, "{content_type:?} {payload:?}");
    }

    const LATIN_1: &[u8] = b"gr\xFC\xDFe";

    #[test]
    fn json_has_to_be_json() {
        for content_type in [
            "application/json",
            " Application/JSON ; charset=utf-8",
            "application/json;",
            "application/problem+json",
            "application/vnd.a+JSON",
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
            "image/svg+json",
            "text",
        ] {
            check(content_type, b"{}", Ok(PayloadKind::Text));
            check(content_type, LATIN_1, Ok(PayloadKind::Binary));
        }
        assert_eq!(
            PayloadKind::from_content_type(None, b""),
            Ok(PayloadKind::Text)
        );
        assert_eq!(
            PayloadKind::from_content_type(None, b"{}"),
            Ok(PayloadKind::Text)
        );
        assert_eq!(
            PayloadKind::from_content_type(None, LATIN_1),
            Ok(PayloadKind::Binary)
        );
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
            assert_eq!(error.status(), status);
            assert!(error.code().starts_with("payload_"));
            assert!(error.message().to_lowercase().contains("send"));
        }
        let json_message = PayloadError::JsonInvalid.message();
        assert!(json_message.contains(&json::DEPTH_MAX.to_string()));
    }
}
