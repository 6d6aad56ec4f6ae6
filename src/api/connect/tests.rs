//! Who is asked about, and what an answer makes of the request.

use serde_json::json;

use super::*;
use crate::api::access::{Admission, Gate};
use crate::api::callback::{Decision, Denial, Reply, ReplyError, listening, take_consultations};
use crate::api::credentials::Credentials;
use crate::api::{Request, Side, callback, parse};
use crate::auth::Clock;
use crate::auth::sample::{CHAT_KEY, MASTER_KEY, authenticator, configure, token};
use crate::config::Namespace;
use crate::config::auth::Access;
use crate::config::callback::WhenDown;
use crate::metrics::Metrics;
use crate::proto::http_request::{HeadLimits, HeadProgress, decode_head};

const CLOCK: Clock = Clock {
    now_ms: 0,
    unix_ms: 1_700_000_000_000,
};
const JSON: Option<&str> = Some("application/json");
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

const EMPTY: &str = "Content-Length: 0\r\n";

/// Keys that the server has beside `connect_url`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    None,
    OfApi,
    All,
}

/// `user:…` is for whoever is known, `list:…` for whom a list has it. All others are for everybody to listen to, and
/// nobody's to publish on.
fn config(keys: Keys) -> Config {
    let mut config = Config::default();
    config.auth.connect_url = Some("http://who/".to_owned());
    for (name, subscribe) in [("user", Access::Authenticated), ("list", Access::Token)] {
        let namespace = Namespace {
            subscribe,
            publish: subscribe,
            ..Namespace::default()
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    if keys != Keys::None {
        configure(&mut config, true);
    }
    if keys == Keys::OfApi {
        config.auth.token_keys.clear();
    }
    config
}

fn admit(config: &Config, line: &str, fields: &str) -> Result<Request, Refusal> {
    let text = format!("{line} HTTP/1.1\r\nHost: push\r\n{fields}\r\n");
    let limits = HeadLimits {
        head_bytes_max: 32_768,
        target_bytes_max: 16_384,
        headers_max: 64,
    };
    let decoded = decode_head(text.as_bytes(), &mut HeadProgress::default(), &limits);
    let (head, _) = decoded.unwrap().expect("a whole head");
    let mut request = parse(&head, config, Side::Both)?;
    let mut gate = Gate {
        config,
        side: Side::Both,
        connection: 0,
        clock: CLOCK,
        auth: &mut authenticator(config),
        metrics: &mut Metrics::default(),
    };
    let admission = gate.admit(&mut request, &head, false)?;
    assert_eq!(admission, Admission::Allowed);
    Ok(request)
}

/// `want`: it is asked who this is, or not, or it is refused.
#[track_caller]
fn check_asked(keys: Keys, line: &str, fields: &str, want: Result<bool, &str>) {
    let config = config(keys);
    let found = match admit(&config, line, fields) {
        Ok(mut request) => {
            let consultations = take_consultations(&mut request, &config).unwrap();
            assert!(consultations.iter().all(|it| it.about == About::Caller));
            Ok(!consultations.is_empty())
        }
        Err(refusal) => Err(refusal.code),
    };
    assert_eq!(found, want, "{keys:?} {line} {fields}");
}

#[test]
fn whoever_listens_without_a_token_is_asked_about() {
    use Keys::{All, None, OfApi};
    for keys in [None, OfApi, All] {
        for line in [
            "GET /poll/a",
            "GET /poll/a?wait=9",
            "HEAD /sse/user:1",
            "GET /sse",
        ] {
            check_asked(keys, line, "", Ok(true));
            check_asked(keys, line, "Cookie: session=7f3a\r\n", Ok(true));
        }
        check_asked(keys, "GET /ws/list:1", HANDSHAKE, Ok(true));
        check_asked(keys, "GET /ws", HANDSHAKE, Ok(true));
        check_asked(keys, "POST /pub/user:1,list:1", EMPTY, Ok(true));
        // Where only the backend may publish, it has a key to do so.
        for line in ["POST /pub/a", "POST /pub/user:1,a"] {
            check_asked(keys, line, EMPTY, Err("credentials_missing"));
        }
        // Nothing else is the backend's to judge.
        check_asked(keys, "GET /healthz", "", Ok(false));
        check_asked(keys, "GET /metrics", "", Err("credentials_missing"));
        check_asked(
            keys,
            "GET /sse/a",
            "X-API-Key: no\r\n",
            Err("api_key_unknown"),
        );
        let twice = "Authorization: Bearer a\r\nX-API-Key: b\r\n";
        check_asked(keys, "GET /sse/a", twice, Err("credentials_repeated"));
    }
    // What is shown is the backend's to judge where no key could.
    for keys in [None, OfApi] {
        for fields in [
            "Authorization: Bearer 7f3a\r\n",
            "Authorization: Basic YTpi\r\n",
        ] {
            check_asked(keys, "GET /sse/a", fields, Ok(true));
        }
        check_asked(keys, "GET /sse/a?token=a.b.c", "", Ok(true));
        check_asked(keys, "POST /pub/user:1?token=7f3a", EMPTY, Ok(true));
    }
    // Where one can, a bad token is no reason to ask, and a good one none either.
    let fields = "Authorization: Basic YTpi\r\n";
    check_asked(All, "GET /sse/a", fields, Err("credentials_unsupported"));
    check_asked(All, "GET /sse/a?token=a.b.c", "", Err("token_malformed"));
    let claims = json!({ "sub": "t", "exp": 1_700_000_060 });
    let target = format!("GET /sse/user:1?token={}", token("main", 1, &claims));
    check_asked(All, &target, "", Ok(false));
    check_asked(
        All,
        &target.replace("GET /sse", "POST /pub"),
        EMPTY,
        Ok(false),
    );
    // An API key is known here.
    for key in [MASTER_KEY, CHAT_KEY] {
        for keys in [OfApi, All] {
            let fields = format!("Authorization: Bearer {key}\r\n");
            check_asked(keys, "GET /sse/a", &fields, Ok(false));
            check_asked(keys, "GET /sse/user:1", &fields, Err("channel_denied"));
        }
    }
}

#[test]
fn the_question_says_where_to_and_shows_what_was_shown() {
    let config = config(Keys::None);
    for (line, fields, want) in [
        (
            "GET /sse/a,user:1",
            "",
            r#"{"channels":["a","user:1"],"transport":"sse"}"#,
        ),
        ("GET /poll", "", r#"{"channels":[],"transport":"poll"}"#),
    ] {
        let mut request = admit(&config, line, fields).unwrap();
        let consultations = take_consultations(&mut request, &config).unwrap();
        assert_eq!(&*consultations[0].url, "http://who/");
        assert_eq!(consultations[0].body(None), want);
    }
    let mut request = admit(&config, "GET /sse/a?token=7f3a", "Cookie: a=b\r\n").unwrap();
    let consultations = take_consultations(&mut request, &config).unwrap();
    let shown = [("Cookie", "a=b"), ("Authorization", "Bearer 7f3a")];
    assert!(*consultations[0].credentials == Credentials::of(&shown));
}

#[test]
fn an_answer_is_read_as_a_token_is() {
    let grant = |body: &str| match Reply::parse(About::Caller, 200, JSON, body.as_bytes()) {
        Ok(Reply::Allowed { grant, .. }) => Ok(grant),
        Ok(reply) => panic!("{reply:?}"),
        Err(error) => Err(error),
    };
    let patterns = |list: &[&str]| Patterns::new(list.iter().copied());
    let full = grant(
        r#"{"user":"u\u002d1","channels":["b","a"],"subscribe":["c:*"],"publish":["*"],"expires_in":9,"x":{}}"#,
    );
    let want = Grant {
        user: Some("u-1".into()),
        subscribe: patterns(&["c:*"]),
        publish: patterns(&["*"]),
        channels: parse_channels(["b", "a"]).unwrap(),
        ..Grant::default()
    };
    assert_eq!(full, Ok(want));
    let nobody = Grant::of_user(None);
    for body in [
        "{}",
        r#"{"user":null,"channels":null,"subscribe":[]}"#,
        " {}\n",
    ] {
        assert_eq!(grant(body), Ok(nobody.clone()), "{body}");
    }
    for body in [
        r#"{"channels":["a","a"]}"#,
        r#"{"channels":["a b"]}"#,
        r#"{"channels":[""]}"#,
        r#"{"channels":"a"}"#,
        r#"{"publish":[1]}"#,
        r#"{"user":"a","user":"b"}"#,
        r#"{"user":"a"}{}"#,
        "[]",
        "null",
    ] {
        assert_eq!(grant(body), Err(ReplyError::Malformed), "{body}");
    }
    // No body says nothing; a page to sign in on is no answer.
    let parse = |content_type, body: &str| {
        let reply = Reply::parse(About::Caller, 200, content_type, body.as_bytes());
        reply.map(|_| ())
    };
    assert_eq!(parse(None, ""), Ok(()));
    assert_eq!(parse(Some("text/html"), ""), Ok(()));
    for content_type in [None, Some("text/html")] {
        assert_eq!(parse(content_type, "{}"), Err(ReplyError::Malformed));
    }
}

/// What the backend says.
enum Word {
    Json(&'static str),
    Denied(Denial),
    Down,
    Busy,
}

impl Word {
    fn decide(&self) -> Decision {
        match self {
            Self::Json(body) => {
                let reply = Reply::parse(About::Caller, 200, JSON, body.as_bytes());
                reply.unwrap().decide(1000)
            }
            Self::Denied(denial) => Decision::Denied(*denial),
            Self::Down => Decision::Down,
            Self::Busy => Decision::Busy,
        }
    }
}

/// What comes of it: the user and the channels that are listened to, a first message that is due, or a refusal.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Listens(Option<&'static str>, &'static str),
    TokenDue,
    Refused(u16, &'static str),
}

#[track_caller]
fn check_concluded(config: &Config, line: &str, word: &Word, want: &Outcome) {
    let fields = if line.starts_with("GET /ws") {
        HANDSHAKE
    } else {
        ""
    };
    let mut request = admit(config, line, fields).unwrap();
    assert_eq!(take_consultations(&mut request, config).unwrap().len(), 1);
    let concluded = callback::conclude(&mut request, &[word.decide()], config);
    let asks_again =
        concluded.is_ok() && !take_consultations(&mut request, config).unwrap().is_empty();
    assert!(!asks_again, "{line}");
    let (_, listen) = listening(&mut request).unwrap();
    let user = listen.user().map(str::to_owned);
    let names: Vec<_> = listen
        .channels
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let names = names.join(",");
    match (want, concluded) {
        (Outcome::Listens(want, channels), Ok(())) => {
            assert_eq!((user.as_deref(), &*names), (*want, *channels), "{line}");
            assert!(!listen.token_due && !listen.caller_due, "{line}");
        }
        (Outcome::TokenDue, Ok(())) => assert!(listen.token_due, "{line}"),
        (Outcome::Refused(status, code), Err(refusal)) => {
            assert_eq!((refusal.status, refusal.code), (*status, *code), "{line}");
        }
        (want, concluded) => panic!("{line}: {concluded:?}, not {want:?}"),
    }
}

#[test]
fn the_rules_hold_for_whom_the_backend_names() {
    use Outcome::{Listens, Refused, TokenDue};
    use Word::{Busy, Denied, Down, Json};
    let user = r#"{"user":"u"}"#;
    let lists = r#"{"user":"u","subscribe":["list:*"],"channels":["list:1","a"]}"#;
    let guest = r#"{"channels":["list:1","user:1"],"subscribe":["user:2"]}"#;
    let missing = || Refused(401, "credentials_missing");
    let rows = [
        ("GET /sse/a", Json(user), Listens(Some("u"), "a")),
        ("GET /sse/user:1", Json(user), Listens(Some("u"), "user:1")),
        (
            "GET /poll/list:1",
            Json(user),
            Refused(403, "channel_denied"),
        ),
        (
            "GET /poll/list:7",
            Json(lists),
            Listens(Some("u"), "list:7"),
        ),
        ("GET /sse", Json(lists), Listens(Some("u"), "list:1,a")),
        ("GET /ws", Json(lists), Listens(Some("u"), "list:1,a")),
        ("GET /sse", Json(user), Refused(400, "channels_missing")),
        // Nobody is let in where nobody is enough, and to what is listed.
        ("GET /sse/a", Json("{}"), Listens(None, "a")),
        ("GET /sse/user:1", Json("{}"), missing()),
        ("GET /sse", Json("{}"), missing()),
        ("GET /sse", Json(guest), Listens(None, "list:1,user:1")),
        ("GET /sse/user:2,a", Json(guest), Listens(None, "user:2,a")),
        ("GET /sse/user:3", Json(guest), missing()),
        (
            "GET /sse/a",
            Denied(Denial::Unauthorized),
            Refused(401, "backend_denied"),
        ),
        (
            "GET /sse/a",
            Denied(Denial::Forbidden),
            Refused(403, "backend_denied"),
        ),
        ("GET /sse/a", Down, Refused(503, "backend_down")),
        ("GET /sse/a", Busy, Refused(503, "backend_busy")),
    ];
    for (line, word, want) in &rows {
        check_concluded(&config(Keys::None), line, word, want);
        check_concluded(&config(Keys::All), line, word, want);
    }
    // A first message can say more only where a key can judge it.
    for line in ["GET /ws/user:1", "GET /ws"] {
        check_concluded(&config(Keys::OfApi), line, &Json("{}"), &missing());
        check_concluded(&config(Keys::All), line, &Json("{}"), &TokenDue);
        let denied = Denied(Denial::Forbidden);
        check_concluded(
            &config(Keys::All),
            line,
            &denied,
            &Refused(403, "backend_denied"),
        );
    }
    // A backend that is down names nobody.
    let mut allowing = config(Keys::None);
    allowing.callback.when_down = WhenDown::Allow;
    for (line, word, want) in [
        ("GET /sse/a", Down, Listens(None, "a")),
        ("GET /sse/user:1", Down, Refused(503, "backend_down")),
        ("GET /sse", Down, Refused(503, "backend_down")),
        ("GET /sse/a", Busy, Refused(503, "backend_busy")),
    ] {
        check_concluded(&allowing, line, &word, &want);
    }
    let mut few = config(Keys::None);
    few.limits.channels_per_connection_max = 1;
    check_concluded(
        &few,
        "GET /sse",
        &Json(lists),
        &Refused(400, "channels_too_many"),
    );
}

#[test]
fn whom_the_backend_names_may_publish_as_with_a_token() {
    use Word::{Busy, Denied, Down, Json};
    let user = r#"{"user":"u"}"#;
    let guest = r#"{"publish":["list:1","user:2"]}"#;
    let mut allowing = config(Keys::None);
    allowing.callback.when_down = WhenDown::Allow;
    let public = Namespace {
        publish: Access::Public,
        ..Namespace::default()
    };
    allowing.namespaces.insert("public".to_owned(), public);
    let mut refusing = allowing.clone();
    refusing.callback.when_down = WhenDown::Refuse;
    let down = || Err((503, "backend_down"));
    for (config, channels, word, want) in [
        (&refusing, "user:1", Json(user), Ok(())),
        (
            &refusing,
            "user:1,list:1",
            Json(user),
            Err((403, "channel_denied")),
        ),
        (&refusing, "list:1,user:2", Json(guest), Ok(())),
        (
            &refusing,
            "user:1",
            Json(guest),
            Err((401, "credentials_missing")),
        ),
        (&refusing, "public:1", Json("{}"), Ok(())),
        (
            &refusing,
            "public:1",
            Denied(Denial::Forbidden),
            Err((403, "backend_denied")),
        ),
        (&refusing, "public:1", Down, down()),
        (&allowing, "public:1", Down, Ok(())),
        (&allowing, "public:1,user:1", Down, down()),
        (&allowing, "public:1", Busy, Err((503, "backend_busy"))),
    ] {
        let line = format!("POST /pub/{channels}");
        let mut request = admit(config, &line, EMPTY).unwrap();
        let asked = take_consultations(&mut request, config).unwrap();
        assert_eq!((asked.len(), asked[0].transport), (1, "publish"), "{line}");
        let concluded = callback::conclude(&mut request, &[word.decide()], config);
        let found = concluded.map_err(|refusal| (refusal.status, refusal.code));
        assert_eq!(found, want, "{line}");
        assert_eq!(
            take_consultations(&mut request, config).unwrap(),
            [],
            "once"
        );
    }
}

#[test]
fn whom_no_backend_can_be_asked_about_any_more_is_refused() {
    for line in ["GET /sse/a", "POST /pub/user:1"] {
        let config = config(Keys::None);
        let mut request = admit(&config, line, EMPTY).unwrap();
        let mut reloaded = config.clone();
        reloaded.auth.connect_url = None;
        let asked = take_consultations(&mut request, &reloaded);
        assert_eq!(asked.unwrap_err().code, "backend_down", "{line}");
    }
}

#[test]
fn an_answer_ends_when_it_says_so_whoever_it_is() {
    for (body, user, until_ms) in [
        (r#"{"user":"u","expires_in":5}"#, Some("u"), Some(6_000)),
        (r#"{"expires_in":5}"#, None, Some(6_000)),
        (r#"{"user":"u"}"#, Some("u"), None),
    ] {
        let config = config(Keys::None);
        let mut request = admit(&config, "GET /sse/a", "").unwrap();
        take_consultations(&mut request, &config).unwrap();
        let reply = Reply::parse(About::Caller, 200, JSON, body.as_bytes()).unwrap();
        callback::conclude(&mut request, &[reply.decide(1000)], &config).unwrap();
        let session = listening(&mut request).unwrap().1.session.clone().unwrap();
        assert_eq!(session.grant.user.as_deref(), user);
        assert_eq!(
            (session.ends_ms, session.reask_ms),
            (until_ms, until_ms),
            "{body}"
        );
    }
}

#[test]
fn the_channels_are_asked_about_behind_the_caller() {
    let mut config = config(Keys::None);
    let authorize_url = Some("http://channels/".to_owned());
    config.namespaces.get_mut("user").unwrap().authorize_url = authorize_url;
    let mut request = admit(&config, "GET /sse/user:1,a", "Cookie: a=b\r\n").unwrap();
    let first = take_consultations(&mut request, &config).unwrap();
    assert_eq!((&*first[0].url, first.len()), ("http://who/", 1));
    let body = br#"{"publish":["a"],"subscribe":["user:1"],"expires_in":9}"#;
    let reply = Reply::parse(About::Caller, 200, JSON, body).unwrap();
    callback::conclude(&mut request, &[reply.decide(0)], &config).unwrap();
    let second = take_consultations(&mut request, &config).unwrap();
    assert_eq!((&*second[0].url, second.len()), ("http://channels/", 1));
    assert_eq!(second[0].credentials, first[0].credentials);
    // Its word on who that is counts where the first had none, and takes nothing away.
    let permit = Permit::of(Some("u"), Some(20_000));
    callback::conclude(&mut request, &[Decision::Allowed(permit)], &config).unwrap();
    let (_, listen) = listening(&mut request).unwrap();
    assert_eq!(listen.user(), Some("u"));
    let session = listen.session.as_ref().unwrap();
    assert!(session.grant.publish.contains("a") && !session.grant.is_anonymous);
    assert_eq!(session.ends_ms, Some(9_000));
}
