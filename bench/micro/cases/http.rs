//! What a request costs before and after it is carried out: head, query, the head of the answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::hint::black_box;

use pushring::proto::http_request::{
    BodyFraming, HeadLimits, HeadProgress, Method, RequestHead, Version, decode_head,
};
use pushring::proto::http_response::{ResponseBody, ResponseHead, write_head};
use pushring::proto::query;

use super::Group;
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "http",
    cases,
    agree,
};

pub(crate) const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 8192,
    target_bytes_max: 4096,
    headers_max: 64,
};

/// What a backend's HTTP client sends.
pub(crate) const PUBLISH: &str = "POST /pub/news HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n\
                           Content-Length: 128\r\n\r\n";

/// What a browser sends to open a WebSocket.
const UPGRADE: &str = "GET /ws/chat:42?since=k3Qz9aXb-1043 HTTP/1.1\r\nHost: push.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-WebSocket-Version: 13\r\n\
    Origin: https://push.example.com\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-origin\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n";

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn cases() -> Vec<Case> {
    let head_case = |name, input: &'static str| {
        Case::pair(
            name,
            move || {
                decode(black_box(input.as_bytes()))
                    .map(|(head, bytes)| (Essentials::from(&head), bytes))
            },
            move || decode_naive(black_box(input.as_bytes())),
        )
    };
    let mut out = Vec::new();
    let mut out_naive = String::new();
    vec![
        head_case("request head of a publish", PUBLISH),
        head_case("request head of a browser", UPGRADE),
        Case::pair(
            "request head in reads of 16 B",
            || {
                let mut progress = HeadProgress::default();
                in_reads(black_box(UPGRADE), |read| {
                    let head = decode_head(read, &mut progress, &LIMITS);
                    head.expect("the head is valid").map(|(_, bytes)| bytes)
                })
            },
            || {
                in_reads(black_box(UPGRADE), |read| {
                    decode_naive(read).map(|(_, bytes)| bytes)
                })
            },
        ),
        Case::pair(
            "query of two parameters",
            || pairs(black_box("since=k3Qz9aXb-1043&format=json")),
            || pairs_naive(black_box("since=k3Qz9aXb-1043&format=json")),
        ),
        Case::pair(
            "head of an answer",
            move || {
                out.clear();
                write_head(&mut out, &answer(black_box(201), black_box(71)));
                out.len()
            },
            move || {
                out_naive.clear();
                write_head_naive(&mut out_naive, &answer(black_box(201), black_box(71)));
                out_naive.len()
            },
        ),
    ]
}

/// The whole of `input` arrives in small reads, each handed in with all before it.
fn in_reads(input: &str, mut decode: impl FnMut(&[u8]) -> Option<usize>) -> Option<usize> {
    (0..=input.len() / 16).find_map(|n| decode(&input.as_bytes()[..input.len().min(16 * (n + 1))]))
}

pub(crate) fn decode(input: &[u8]) -> Option<(RequestHead<'_>, usize)> {
    decode_head(input, &mut HeadProgress::default(), &LIMITS).expect("the head is valid")
}

fn answer<'a>(status: u16, length: usize) -> ResponseHead<'a> {
    ResponseHead {
        status,
        version: Version::Http11,
        keep_alive: true,
        body: ResponseBody::Length(length),
        content_type: Some("application/json"),
        date: Some(DATE),
        extra: &[("Cache-Control", "no-store")],
    }
}

fn agree(random: &mut fastrand::Rng) {
    for _ in 0..1000 {
        let head = random_head(random);
        for input in [&head[..], &head[..random.usize(0..head.len())]] {
            let fast =
                decode(input.as_bytes()).map(|(head, bytes)| (Essentials::from(&head), bytes));
            assert_eq!(fast, decode_naive(input.as_bytes()), "{input:?}");
        }
        let query: String = (0..random.usize(0..12))
            .filter_map(|_| random.choice(["a", "=", "&", "+", "%20", "%C3%A4", "since", "1"]))
            .collect();
        assert_eq!(pairs(&query), pairs_naive(&query), "{query:?}");

        let (mut fast, mut naive) = (Vec::new(), String::new());
        let head = answer(
            random.choice([200, 201, 404, 503]).unwrap_or(200),
            random.usize(..),
        );
        write_head(&mut fast, &head);
        write_head_naive(&mut naive, &head);
        assert_eq!(str::from_utf8(&fast), Ok(&*naive));
    }
}

fn random_head(random: &mut fastrand::Rng) -> String {
    let method = random.choice(["GET", "POST", "DELETE"]).unwrap_or_default();
    let query = random
        .choice(["", "?since=now", "?a=b?c"])
        .unwrap_or_default();
    let mut head = format!(
        "{method} /pub/{}{query} HTTP/1.1\r\n",
        random.alphanumeric()
    );
    let mut fields = vec!["Host: example.com".to_owned()];
    for field in [
        "Content-Type: text/plain",
        "Content-Length: 17",
        "Idempotency-Key: k1",
        "Connection: close",
        "X-Other: a: b",
        "Accept:*/*",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
    ] {
        if random.bool() {
            fields.push(field.to_owned());
        }
    }
    random.shuffle(&mut fields);
    for field in fields {
        let field = if random.bool() {
            field
        } else {
            field.replace("Con", "cON")
        };
        head += &field;
        head += "\r\n";
    }
    head + "\r\n"
}

/// What of a head the twins have to agree on.
#[derive(Debug, PartialEq, Eq)]
struct Essentials<'a> {
    method: Method,
    path: &'a str,
    query: &'a str,
    body: BodyFraming,
    keep_alive: bool,
    host: Option<&'a str>,
    content_type: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    websocket_key: Option<&'a str>,
}

impl<'a> From<&RequestHead<'a>> for Essentials<'a> {
    fn from(head: &RequestHead<'a>) -> Self {
        Self {
            method: head.method,
            path: head.path,
            query: head.query,
            body: head.body,
            keep_alive: head.keep_alive,
            host: head.host,
            content_type: head.content_type,
            idempotency_key: head.idempotency_key,
            websocket_key: head.upgrade.and_then(|upgrade| upgrade.key),
        }
    }
}

/// Trusts its peer: splits the text, puts the fields into a map. Whatever is wrong with a head passes.
fn decode_naive(input: &[u8]) -> Option<(Essentials<'_>, usize)> {
    let text = str::from_utf8(input).ok()?;
    let end = text.find("\r\n\r\n")?;
    let mut lines = text[..end].split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut fields: HashMap<String, Vec<&str>> = HashMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        fields
            .entry(name.to_lowercase())
            .or_default()
            .push(value.trim());
    }
    let field = |name| fields.get(name).and_then(|values| values.first().copied());
    let options = fields
        .get("connection")
        .map_or(String::new(), |values| values.join(",").to_lowercase());
    let has_option = |wanted| options.split(',').any(|option| option.trim() == wanted);
    let is_upgrade = field("upgrade") == Some("websocket") && has_option("upgrade");
    let essentials = Essentials {
        method: match method {
            "GET" => Method::Get,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            _ => Method::Other,
        },
        path,
        query,
        body: match (field("transfer-encoding"), field("content-length")) {
            (Some(_), _) => BodyFraming::Chunked,
            (None, Some(length)) => BodyFraming::Length(length.parse().ok()?),
            (None, None) => BodyFraming::None,
        },
        keep_alive: !has_option("close"),
        host: field("host"),
        content_type: field("content-type"),
        idempotency_key: field("idempotency-key"),
        websocket_key: field("sec-websocket-key").filter(|_| is_upgrade),
    };
    Some((essentials, end + 4))
}

type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

fn pairs(query: &str) -> Pairs<'_> {
    query::pairs(query)
        .collect::<Result<_, _>>()
        .expect("the query is valid")
}

/// Decodes one character at a time, whether or not anything is encoded.
fn pairs_naive(query: &str) -> Pairs<'_> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).expect("two digits")
                }
                b'+' => b' ',
                _ => byte,
            });
        }
        Cow::Owned(String::from_utf8(bytes).expect("UTF-8"))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn write_head_naive(out: &mut String, head: &ResponseHead<'_>) {
    let reason = match head.status {
        200 => "OK",
        201 => "Created",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let date = String::from_utf8_lossy(head.date.unwrap_or_default());
    let content_type = head.content_type.unwrap_or_default();
    write!(out, "HTTP/1.1 {} {reason}\r\nDate: {date}\r\n", head.status)
        .expect("a string takes all");
    write!(out, "Content-Type: {content_type}\r\n").expect("a string takes all");
    for (name, value) in head.extra {
        write!(out, "{name}: {value}\r\n").expect("a string takes all");
    }
    if let ResponseBody::Length(length) = head.body {
        write!(out, "Content-Length: {length}\r\n\r\n").expect("a string takes all");
    }
}
