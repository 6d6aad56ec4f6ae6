//! Where a request carries its credentials: header fields, query, cookie.

use std::borrow::Cow;

use crate::proto::http_request::RequestHead;
use crate::proto::query::{self, QueryError};

/// What a request shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `Authorization: Bearer`: a token or an API key.
    Bearer(&'a str),
    ApiKey(&'a str),
    /// `?token=`
    Query(Cow<'a, str>),
    /// Browsers send it by themselves, whoever made them ask.
    Cookie(&'a str),
}

/// Why it is not even looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// `Authorization` with another scheme than `Bearer`.
    SchemeUnsupported,
    /// RFC 6750 §2: a client must not use more than one way.
    Repeated,
    Query(QueryError),
}

/// Finds the credential of a request. A cookie counts only where nothing else is shown: it may be there by accident.
pub fn find<'a>(
    head: &RequestHead<'a>,
    cookie_name: Option<&str>,
) -> Result<Option<Credential<'a>>, CredentialError> {
    let mut found = None;
    let mut add = |credential| match found.replace(credential) {
        None => Ok(()),
        Some(_) => Err(CredentialError::Repeated),
    };
    if let Some(value) = head.authorization {
        // RFC 9110 §11.1: the scheme is case-insensitive.
        let (scheme, text) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(CredentialError::SchemeUnsupported);
        }
        add(Credential::Bearer(text.trim_start_matches(' ')))?;
    }
    if let Some(value) = head.api_key {
        add(Credential::ApiKey(value))?;
    }
    for pair in query::pairs(head.query) {
        let (name, value) = pair.map_err(CredentialError::Query)?;
        if name == "token" {
            add(Credential::Query(value))?;
        }
    }
    if found.is_none()
        && let Some((fields, name)) = head.cookie.zip(cookie_name)
    {
        // RFC 6265 §5.4: of two cookies of one name the first has the longer path.
        let mut pairs = fields.split(';').filter_map(|pair| pair.split_once('='));
        found = pairs
            .find(|(own, _)| own.trim() == name)
            .map(|(_, value)| Credential::Cookie(value.trim().trim_matches('"')));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http_request::{HeadLimits, HeadProgress, decode_head};

    #[track_caller]
    fn check(query: &str, fields: &str, want: Result<Option<Credential<'_>>, CredentialError>) {
        let request = format!("GET /poll/a{query} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let limits = HeadLimits {
            head_bytes_max: 4096,
            target_bytes_max: 1024,
            headers_max: 16,
        };
        let decoded = decode_head(request.as_bytes(), &mut HeadProgress::default(), &limits);
        let (head, _) = decoded.unwrap().unwrap();
        assert_eq!(find(&head, Some("session")), want, "{query} {fields}");
        if let Ok(Some(Credential::Cookie(_))) = want {
            assert_eq!(find(&head, None), Ok(None), "{query} {fields}");
        }
    }

    #[test]
    fn a_credential_is_shown_in_one_way() {
        use Credential::{ApiKey, Bearer, Cookie, Query};
        check("", "", Ok(None));
        check("?since=now", "Cookie: a=b\r\n", Ok(None));
        check(
            "",
            "Authorization: Bearer a.b.c\r\n",
            Ok(Some(Bearer("a.b.c"))),
        );
        check(
            "",
            "authorization: bEARER  a.b.c\r\n",
            Ok(Some(Bearer("a.b.c"))),
        );
        check("", "Authorization: Bearer\r\n", Ok(Some(Bearer(""))));
        check("", "X-API-Key: secret\r\n", Ok(Some(ApiKey("secret"))));
        check(
            "?since=now&token=a%2eb.c",
            "",
            Ok(Some(Query("a.b.c".into()))),
        );
        check("?token", "", Ok(Some(Query("".into()))));
        check(
            "",
            "Cookie: x=y; session=a.b.c; z=\r\n",
            Ok(Some(Cookie("a.b.c"))),
        );
        check(
            "",
            "Cookie: session=\"a.b.c\"; session=d\r\n",
            Ok(Some(Cookie("a.b.c"))),
        );
        check("", "Cookie: xsession=a; session\r\n", Ok(None));
        check(
            "?token=q",
            "Cookie: session=c\r\n",
            Ok(Some(Query("q".into()))),
        );
        for fields in ["Authorization: Basic YTpi\r\n", "Authorization: a.b.c\r\n"] {
            check("", fields, Err(CredentialError::SchemeUnsupported));
        }
        check(
            "?token=a",
            "Authorization: Bearer a\r\n",
            Err(CredentialError::Repeated),
        );
        check("?token=a&token=a", "", Err(CredentialError::Repeated));
        check(
            "",
            "X-API-Key: a\r\nAuthorization: Bearer a\r\n",
            Err(CredentialError::Repeated),
        );
        check(
            "?token=%",
            "",
            Err(CredentialError::Query(QueryError::PercentInvalid)),
        );
    }
}
