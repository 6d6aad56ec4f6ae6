//! Which web pages may use the server: the `Origin` of a request against the configured list.

/// What an answer says to the browser about the page that asked (Fetch, "CORS protocol").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// No `Origin`, or the server's own: nothing to say.
    #[default]
    Silent,
    /// `Access-Control-Allow-Origin: *`
    AnyOrigin,
    /// The origin itself, with `Vary: Origin`.
    Origin(Box<str>),
    /// The same, where a cookie may bring the token.
    OriginWithCookies(Box<str>),
}

/// Decides on `origin`, the value of the request's `Origin` field, by the setting `allowed_origins` (entries as
/// `*`, `https://example.com`, `https://*.example.com`). A page of the server's own host is always allowed. `None`:
/// denied.
pub fn decide(
    origin: Option<&str>,
    host: Option<&str>,
    allowed_origins: &[String],
) -> Option<Cors> {
    let Some(origin) = origin else {
        return Some(Cors::Silent);
    };
    if is_listed(origin, allowed_origins) {
        return Some(Cors::Origin(origin.into()));
    }
    if allowed_origins.iter().any(|allowed| allowed == "*") {
        return Some(Cors::AnyOrigin);
    }
    is_own(origin, host).then_some(Cors::Silent)
}

/// Whether the page is one that the operator knows: the server's own, or listed by name. `*` names nobody.
pub fn is_known(origin: Option<&str>, host: Option<&str>, allowed_origins: &[String]) -> bool {
    origin.is_none_or(|origin| is_own(origin, host) || is_listed(origin, allowed_origins))
}

fn is_listed(origin: &str, allowed_origins: &[String]) -> bool {
    let mut named = allowed_origins.iter().filter(|allowed| *allowed != "*");
    named.any(|allowed| matches(allowed, origin))
}

/// A proxy may name the port where a browser leaves it out.
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let bare = |name: &str| {
        name.strip_suffix(default_port)
            .unwrap_or(name)
            .to_ascii_lowercase()
    };
    bare(authority) == bare(host)
}

/// `https://*.example.com` stands for any name below `example.com`, not for `example.com` itself.
fn matches(allowed: &str, origin: &str) -> bool {
    let Some((scheme, domain)) = allowed.split_once('*') else {
        return allowed.eq_ignore_ascii_case(origin);
    };
    let Some(tail_from) = origin.len().checked_sub(domain.len()) else {
        return false;
    };
    let (Some(head), Some(tail), Some(label)) = (
        origin.get(..scheme.len()),
        origin.get(tail_from..),
        origin.get(scheme.len()..tail_from),
    ) else {
        return false;
    };
    head.eq_ignore_ascii_case(scheme)
        && tail.eq_ignore_ascii_case(domain)
        && !label.is_empty()
        && !label.starts_with('.')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], origin: Option<&str>, want: Option<Cors>) {
        let allowed: Vec<_> = allowed.iter().map(|&entry| entry.to_owned()).collect();
        assert_eq!(
            decide(origin, Some("push.example.com:8080"), &allowed),
            want,
            "{origin:?} by {allowed:?}"
        );
    }

    #[test]
    fn a_star_knows_nobody() {
        let allowed = ["*", "https://a.net", "https://*.b.net"].map(str::to_owned);
        for (origin, want) in [
            (None, true),
            (Some("http://push.example.com"), true),
            (Some("https://PUSH.example.com"), true),
            (Some("https://a.net"), true),
            (Some("https://x.b.net"), true),
            (Some("http://push.example.com:81"), false),
            (Some("https://c.net"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            assert_eq!(
                is_known(origin, Some("push.example.com"), &allowed),
                want,
                "{origin:?}"
            );
        }
        let named = decide(Some("https://a.net"), None, &allowed);
        assert_eq!(named, Some(Cors::Origin("https://a.net".into())));
    }

    #[test]
    fn a_host_may_name_the_port_that_a_browser_leaves_out() {
        for (origin, host, want) in [
            ("https://a.net", "a.net:443", true),
            ("http://a.net", "a.net:80", true),
            ("https://a.net:443", "a.net:443", true),
            ("https://a.net", "a.net:80", false),
            ("http://a.net", "a.net:443", false),
            ("http://a.net", "a.net:8080", false),
            ("http://a.net:8080", "a.net:8080", true),
            ("https://a.net:444", "a.net:443", false),
            ("app://a.net", "a.net", true),
        ] {
            let found = decide(Some(origin), Some(host), &[]).is_some();
            assert_eq!(found, want, "{origin} at {host}");
        }
    }

    #[test]
    fn the_list_decides() {
        let echo = |origin: &str| Some(Cors::Origin(origin.into()));
        check(&[], None, Some(Cors::Silent));
        check(&["*"], Some("https://anything.net"), Some(Cors::AnyOrigin));
        check(&["*"], Some("null"), Some(Cors::AnyOrigin));
        check(&[], Some("https://anything.net"), None);
        check(&[], Some("null"), None);
        check(
            &[],
            Some("http://push.example.com:8080"),
            Some(Cors::Silent),
        );
        check(&[], Some("http://push.example.com"), None);
        check(
            &["https://a.net"],
            Some("https://a.net"),
            echo("https://a.net"),
        );
        check(
            &["https://a.net"],
            Some("HTTPS://A.net"),
            echo("HTTPS://A.net"),
        );
        check(&["https://a.net"], Some("http://a.net"), None);
        check(&["https://a.net"], Some("https://a.net.evil.org"), None);
        check(
            &["https://*.a.net"],
            Some("https://x.a.net"),
            echo("https://x.a.net"),
        );
        check(
            &["https://*.a.net"],
            Some("https://x.y.a.net"),
            echo("https://x.y.a.net"),
        );
        check(&["https://*.a.net"], Some("https://a.net"), None);
        check(&["https://*.a.net"], Some("https://.a.net"), None);
        check(&["https://*.a.net"], Some("https://evil.org/.a.net"), None);
        check(&["https://*.a.net"], Some("https://a.ne"), None);
        check(
            &["https://*.a.net:8443"],
            Some("https://x.a.net:8443"),
            echo("https://x.a.net:8443"),
        );
    }
}
