//! The two tables of requests: how a line is read.

use std::collections::BTreeSet;

/// The heads that the parser refuses; `src/proto/http_request/tests.rs` reads them too.
const HEADS: &str = include_str!("../../../src/proto/http_request/refused.txt");
const REQUESTS: &str = include_str!("requests.txt");

/// Publishes where nobody else does, so that it shows when it was carried out.
const SMUGGLED: &str =
    "POST /pub/smuggled HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 1\\r\\n\\r\\nx";

pub(super) struct Case {
    pub(super) name: String,
    pub(super) request: Vec<u8>,
    pub(super) answers: Vec<Answer>,
    pub(super) ending: Ending,
}

/// What comes after the wanted answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server closes.
    Close,
    /// The next request is answered.
    Keep,
    /// The server waits for more; when none comes, it closes without a word.
    Wait,
    /// The connection is a WebSocket.
    WebSocket,
}

pub(super) struct Answer {
    pub(super) status: u16,
    /// Of a refusal; empty for what is no refusal.
    pub(super) code: String,
    /// In the body.
    pub(super) text: String,
    /// The answer to HEAD: a length without a body.
    pub(super) head_only: bool,
    /// `100 Continue` may come first.
    pub(super) may_continue: bool,
    pub(super) says_close: bool,
}

impl Answer {
    /// The last answer on a connection of HTTP/1.1.
    pub(super) fn of(status: u16) -> Self {
        Self {
            status,
            code: String::new(),
            text: String::new(),
            head_only: false,
            may_continue: false,
            says_close: true,
        }
    }
}

/// Both tables. A refused head has a whole request behind it, which must not be answered.
pub(super) fn cases() -> Vec<Case> {
    let heads = lines(HEADS).map(|line| {
        let columns: Vec<_> = line.splitn(3, "  ").collect();
        let request = format!("{}{SMUGGLED}", columns[2]);
        let wanted = format!("{}; close", columns[0]);
        case(columns[2], &wanted, unescape(&request))
    });
    let requests: Vec<_> = lines(REQUESTS).collect();
    assert!(requests.len() >= 150, "the table is not read to its end");
    let requests = requests.into_iter().map(|line| {
        let column = |text: &'static str| {
            let (column, rest) = text.split_once("  ").expect(line);
            (column, rest.trim_start())
        };
        let (wanted, rest) = column(line);
        let (section, rest) = column(rest);
        let (name, request) = column(rest);
        assert!(is_section(section), "no section: {line}");
        case(name, wanted, unescape(&expand(request, name)))
    });
    let cases: Vec<_> = heads.chain(requests).collect();
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "each name once");
    cases
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// An RFC and a section of it, such as `9112-6.3`.
fn is_section(text: &str) -> bool {
    let section = text.split_once('-');
    section.is_some_and(|(rfc, section)| {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        rfc.len() == 4 && is_number(rfc) && section.split('.').all(is_number)
    })
}

fn case(name: &str, wanted: &str, request: Vec<u8>) -> Case {
    let (answers, ending) = wanted.split_once("; ").expect(wanted);
    let ending = match ending {
        "close" | "close unsaid" => Ending::Close,
        "keep" => Ending::Keep,
        "wait" => Ending::Wait,
        "websocket" => Ending::WebSocket,
        other => panic!("no such ending: {other}"),
    };
    let answers = answers.split(", ").filter(|it| *it != "nothing");
    let mut answers: Vec<_> = answers.map(answer).collect();
    if let Some(last) = answers.last_mut() {
        last.says_close = wanted.ends_with("; close");
    }
    Case {
        name: name.to_owned(),
        request,
        answers,
        ending,
    }
}

fn answer(text: &str) -> Answer {
    let (text, may_continue) = match text.strip_prefix("100? ") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (status, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut answer = Answer {
        may_continue,
        head_only: rest == "head",
        says_close: false,
        ..Answer::of(status.parse().expect(text))
    };
    match rest.strip_prefix('~') {
        Some(text) => answer.text = text.to_owned(),
        None if answer.head_only => {}
        None => answer.code = rest.to_owned(),
    }
    answer
}

/// The abbreviations of `requests.txt`.
fn expand(text: &str, name: &str) -> String {
    let mut text = text
        .replace("{SMUGGLED}", SMUGGLED)
        .replace(
            "{LAST}",
            "GET /poll/{NAME}?last=1 HTTP/1.1\\r\\nHost: a{END}",
        )
        .replace("{CHUNKED}", "{PUB}Transfer-Encoding: chunked{END}")
        .replace("{PUB}", "POST /pub/{NAME} HTTP/1.1\\r\\nHost: a\\r\\n")
        .replace("{PUB10}", "POST /pub/{NAME} HTTP/1.0\\r\\nHost: a\\r\\n")
        .replace("{OK}", "GET /healthz HTTP/1.1\\r\\nHost: a\\r\\n")
        .replace(
            "{WS}",
            "GET /ws/c HTTP/1.1\\r\\nHost: a\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\
             Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n",
        )
        .replace("{NAME}", name);
    // `{9*ab}` is `ab` nine times.
    let is_repeated =
        |(at, _): &(usize, &str)| text[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    if let Some((start, _)) = text.match_indices('{').find(is_repeated) {
        let end = start + text[start..].find('}').expect("an end of what is repeated");
        let (n, part) = text[start + 1..end].split_once('*').expect("9*ab");
        let repeated = part.repeat(n.parse().expect("how often"));
        text.replace_range(start..=end, &repeated);
    }
    text
}

/// `\r \n \t \\ \xNN` stand for bytes; `{GET}`, `{POST}`, `{10}` for the first lines of a request, `{END}` for the end
/// of a head.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let text = text
        .replace("{GET}", "GET / HTTP/1.1\\r\\nHost: a\\r\\n")
        .replace("{POST}", "POST / HTTP/1.1\\r\\nHost: a\\r\\n")
        .replace("{10}", "POST / HTTP/1.0\\r\\nHost: a\\r\\n")
        .replace("{END}", "\\r\\n\\r\\n");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let escape = rest[0];
        rest = &rest[1..];
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).unwrap()
            }
            other => other,
        });
    }
    bytes
}
