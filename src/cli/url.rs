//! Where a request goes: the server's base URL, channels and parameters, percent-encoded (RFC 3986 §2).

use std::fmt::Write as _;

/// The server that `pub` and `sub` talk to: `http://HOST[:PORT][/PREFIX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// `host:port`, as `Host` says it; the port is always there.
    pub authority: String,
    /// Empty, or `/prefix` without a slash at the end.
    prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    Tls,
    Scheme,
    Host,
    /// A query or fragment has no place in a base URL.
    Query,
}

impl std::fmt::Display for UrlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tls => "pub and sub do not speak TLS; give an address of the server that is without, http://HOST:PORT",
            Self::Scheme => "the scheme is not known; give http://HOST:PORT",
            Self::Host => "there is no host, or a wrong port; give http://HOST:PORT",
            Self::Query => "a base URL has no ? or #; give http://HOST:PORT",
        })
    }
}

impl ServerUrl {
    /// The scheme may be left out: `localhost:8080`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let rest = match text.split_once("://") {
            Some(("http" | "ws", rest)) => rest,
            Some(("https" | "wss", _)) => return Err(UrlError::Tls),
            Some(_) => return Err(UrlError::Scheme),
            None => text,
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of a bare `[::1]` are its own.
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "80"),
        };
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let host_ok =
            !host.is_empty() && (is_bracketed || !host.contains(':')) && !host.contains([' ', '@']);
        if !host_ok || port.parse::<u16>().is_err() {
            return Err(UrlError::Host);
        }
        Ok(Self {
            authority: format!("{host}:{port}"),
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    /// `http://localhost:8080/poll/a,b?since=now`
    pub fn http(&self, path: &str, channels: &[String], parameters: &[(&str, String)]) -> String {
        self.build("http", path, channels, parameters)
    }

    /// `ws://localhost:8080/ws/a,b?since=now`
    pub fn ws(&self, channels: &[String], parameters: &[(&str, String)]) -> String {
        self.build("ws", "ws", channels, parameters)
    }

    fn build(
        &self,
        scheme: &str,
        path: &str,
        channels: &[String],
        parameters: &[(&str, String)],
    ) -> String {
        let mut url = format!("{scheme}://{}{}/{path}/", self.authority, self.prefix);
        for (i, channel) in channels.iter().enumerate() {
            url.push_str(if i > 0 { "," } else { "" });
            push_encoded(&mut url, channel);
        }
        for (i, (name, value)) in parameters.iter().enumerate() {
            let _ = write!(url, "{}{name}=", if i > 0 { '&' } else { '?' });
            push_encoded(&mut url, value);
        }
        url
    }
}

/// Everything but the unreserved characters and the colon, which channels are full of and which means nothing in a
/// path's later segments or in a query.
fn push_encoded(url: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                url.push(char::from(byte))
            }
            _ => {
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_leave_things_out() {
        for (text, want) in [
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080/poll/a")),
            ("http://127.0.0.1:8080/", Ok("http://127.0.0.1:8080/poll/a")),
            ("http://example.com", Ok("http://example.com:80/poll/a")),
            ("http://[::1]", Ok("http://[::1]:80/poll/a")),
            ("[::1]:8080", Ok("http://[::1]:8080/poll/a")),
            (
                "localhost:8080/push/",
                Ok("http://localhost:8080/push/poll/a"),
            ),
            ("ws://localhost:1", Ok("http://localhost:1/poll/a")),
            ("https://example.com", Err(UrlError::Tls)),
            ("ftp://example.com", Err(UrlError::Scheme)),
            ("", Err(UrlError::Host)),
            ("http://", Err(UrlError::Host)),
            ("http://:80", Err(UrlError::Host)),
            ("http://::1:80", Err(UrlError::Host)),
            ("http://a:65536", Err(UrlError::Host)),
            ("http://a:b", Err(UrlError::Host)),
            ("http://a/?x=1", Err(UrlError::Query)),
        ] {
            let got =
                ServerUrl::parse(text).map(|server| server.http("poll", &["a".to_owned()], &[]));
            assert_eq!(got.as_deref().map_err(|e| *e), want, "{text}");
        }
    }

    #[test]
    fn channels_and_values_are_percent_encoded() {
        let server = ServerUrl::parse("h:1").unwrap();
        let channels = ["chat:1#a".to_owned(), "b@$~=".to_owned()];
        let parameters = [
            ("since", "k-1,l-2".to_owned()),
            ("event", "a b&c".to_owned()),
        ];
        let path = "/ws/chat:1%23a,b%40%24~%3D?since=k-1%2Cl-2&event=a%20b%26c";
        assert_eq!(server.ws(&channels, &parameters), format!("ws://h:1{path}"));
    }

    #[test]
    fn every_byte_is_either_itself_or_encoded() {
        for byte in 0..=u8::MAX {
            let text = char::from(byte).to_string();
            let mut url = String::new();
            push_encoded(&mut url, &text);
            let plain = byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
            assert_eq!(url == text, plain, "{byte:#x}");
            assert!(
                url.is_ascii() && (plain || url.len() == 3 * text.len()),
                "{byte:#x}: {url}"
            );
        }
    }
}
