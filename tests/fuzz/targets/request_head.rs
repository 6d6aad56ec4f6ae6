//! Heads of requests: every cut gives the same result, what is accepted keeps to the limits, reads as the most literal
//! reading does, and comes back the same when it is written again.

use pushring::proto::http_request::{
    BodyFraming, HeadError, HeadLimits, HeadProgress, Method, RequestHead, Version, decode_head,
};

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 512,
    target_bytes_max: 128,
    headers_max: 12,
};
/// For what is written again, which may be longer.
const ROOMY: HeadLimits = HeadLimits {
    head_bytes_max: 4096,
    target_bytes_max: 1024,
    headers_max: 40,
};

type Decoded<'a> = Result<Option<(RequestHead<'a>, usize)>, HeadError>;

fn decode<'a>(input: &'a [u8], progress: &mut HeadProgress) -> Decoded<'a> {
    decode_head(input, progress, &LIMITS)
}

pub(crate) fn check(input: &[u8]) {
    let whole = decode(input, &mut HeadProgress::default());
    for at in super::cuts(input) {
        let mut progress = HeadProgress::default();
        match decode(&input[..at], &mut progress) {
            Ok(None) => assert_eq!(decode(input, &mut progress), whole, "cut at {at}"),
            decided => assert_eq!(decided, whole, "decided at {at}"),
        }
    }
    let mut progress = HeadProgress::default();
    let decided = (0..=input.len())
        .map(|len| decode(&input[..len], &mut progress))
        .find(|decoded| *decoded != Ok(None));
    assert_eq!(decided.unwrap_or(Ok(None)), whole, "byte by byte");

    let Ok(Some((head, head_bytes))) = whole else {
        return;
    };
    assert!(head_bytes <= LIMITS.head_bytes_max);
    assert!(head.path.len() + head.query.len() <= LIMITS.target_bytes_max);
    assert!(head.path.starts_with('/') || (head.path == "*" && head.method == Method::Options));
    assert!(head.host.is_some() || head.version == Version::Http10);
    literal_reading(&input[..head_bytes], &head);
    if let Some(text) = write(&head) {
        let again = decode_head(text.as_bytes(), &mut HeadProgress::default(), &ROOMY);
        let again = again.expect("a head").expect("a whole head");
        let lines = again.0.lines;
        let want = RequestHead { lines, ..head };
        assert_eq!(again, (want, text.len()), "{text:?}");
    }
}

/// The naive twin: lines, names up to the colon, values without the whitespace around them.
fn literal_reading(bytes: &[u8], head: &RequestHead<'_>) {
    let text: String = bytes.iter().map(|&byte| byte as char).collect();
    let text = text.trim_start_matches("\r\n");
    let lines: Vec<&str> = text
        .strip_suffix("\r\n\r\n")
        .expect("an end")
        .split("\r\n")
        .collect();
    let is_clean = |line: &&str| !line.is_empty() && !line.contains(['\r', '\n', '\0']);
    assert!(lines.iter().all(is_clean), "a line end in a line");
    assert_eq!(
        lines[0].split(' ').count(),
        3,
        "one space between method, target and version"
    );
    assert!(lines.len() - 1 <= LIMITS.headers_max);

    let mut framing = BodyFraming::None;
    let (mut hosts, mut options) = (Vec::new(), Vec::new());
    for line in &lines[1..] {
        let (name, value) = line.split_once(':').expect("a colon");
        let value = value.trim_matches([' ', '\t']);
        let found = match name.to_ascii_lowercase().as_str() {
            "content-length" => BodyFraming::Length(value.parse().expect("digits")),
            "transfer-encoding" => {
                assert!(value.eq_ignore_ascii_case("chunked"), "{value:?}");
                BodyFraming::Chunked
            }
            "host" => {
                hosts.push(value);
                continue;
            }
            "connection" => {
                options.extend(
                    value
                        .split(',')
                        .map(|option| option.trim_matches([' ', '\t'])),
                );
                continue;
            }
            _ => continue,
        };
        assert_eq!(framing, BodyFraming::None, "two framings");
        framing = found;
    }
    assert_eq!(head.body, framing);
    assert_eq!(hosts, head.host.into_iter().collect::<Vec<_>>());
    assert!((head.lines.values("HOST")).eq(hosts.iter().map(|host| host.as_bytes())));
    let has = |name: &str| {
        options
            .iter()
            .any(|option| option.eq_ignore_ascii_case(name))
    };
    let keep_alive = !has("close") && (head.version == Version::Http11 || has("keep-alive"));
    assert_eq!(head.keep_alive, keep_alive);
    assert!(head.upgrade.is_none() || has("upgrade"));
}

/// A request with this head, as a plain client writes it.
fn write(head: &RequestHead<'_>) -> Option<String> {
    let method = match head.method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Patch => "PATCH",
        Method::Other => return None,
    };
    let version = match head.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    };
    let mark = if head.query.is_empty() { "" } else { "?" };
    let mut text = format!("{method} {}{mark}{} {version}\r\n", head.path, head.query);
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            text += &format!("{name}: {value}\r\n");
        }
    };
    field("Host", head.host);
    let connection = match (head.version, head.keep_alive) {
        (Version::Http11, false) => Some("close"),
        (Version::Http10, true) => Some("keep-alive"),
        _ => None,
    };
    field("Connection", connection);
    match head.body {
        BodyFraming::None => {}
        BodyFraming::Length(length) => field("Content-Length", Some(&length.to_string())),
        BodyFraming::Chunked => field("Transfer-Encoding", Some("chunked")),
    }
    field("Expect", head.expect_continue.then_some("100-continue"));
    field("Origin", head.origin);
    field("Content-Type", head.content_type);
    field("Authorization", head.authorization);
    field("Cookie", head.cookie);
    field("Last-Event-ID", head.last_event_id);
    field("Idempotency-Key", head.idempotency_key);
    if let Some(upgrade) = head.upgrade {
        field("Connection", Some("Upgrade"));
        field("Upgrade", Some("websocket"));
        field("Sec-WebSocket-Key", upgrade.key);
        field("Sec-WebSocket-Version", upgrade.version);
    }
    Some(text + "\r\n")
}
