//! What the backend is asked about which request, and what its answers make of it.

use serde_json::json;

use super::*;
use crate::api::access::{Admission, Gate};
use crate::api::{Side, parse};
use crate::auth::Clock;
use crate::auth::sample::{MASTER_KEY, authenticator, configure, token};
use crate::config::Namespace;
use crate::metrics::Metrics;
use crate::proto::http_request::{HeadLimits, HeadProgress, decode_head};

const CLOCK: Clock = Clock {
    now_ms: 0,
    unix_ms: 1_700_000_000_000,
};

/// `a:…` and `b:…` have one backend, `c:…` another, and all others none.
fn config() -> Config {
    let mut config = Config::default();
    for (name, url) in [
        ("a", "http://one/"),
        ("b", "http://one/"),
        ("c", "http://two/"),
    ] {
        let namespace = Namespace {
            authorize_url: Some(url.to_owned()),
            ..Namespace::default()
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    config
}

/// The request `GET target` once it is let in by the rules.
fn admitted(config: &Config, target: &str, fields: &str) -> Request {
    let text = format!("GET {target} HTTP/1.1\r\nHost: push\r\n{fields}\r\n");
    let limits = HeadLimits {
        head_bytes_max: 32_768,
        target_bytes_max: 16_384,
        headers_max: 64,
    };
    let decoded = decode_head(text.as_bytes(), &mut HeadProgress::default(), &limits);
    let (head, _) = decoded.unwrap().expect("a whole head");
    let mut request = parse(&head, config, Side::Both).unwrap();
    let mut gate = Gate {
        config,
        side: Side::Both,
        connection: 0,
        clock: CLOCK,
        auth: &mut authenticator(config),
        metrics: &mut Metrics::default(),
    };
    assert_eq!(
        gate.admit(&mut request, &head, false),
        Ok(Admission::Allowed)
    );
    request
}

fn credentials(config: &Config, target: &str, fields: &str) -> Credentials {
    let mut request = admitted(config, target, fields);
    let consultations = take_consultations(&mut request, config).unwrap();
    (*consultations[0].credentials).clone()
}

#[test]
fn each_backend_is_asked_once_about_its_channels() {
    let config = config();
    for (target, want) in [
        ("/poll/news", &[][..]),
        ("/poll/a:1", &[("http://one/", "a:1")]),
        ("/sse/a:1,news,a:2,b:1", &[("http://one/", "a:1,a:2,b:1")]),
        (
            "/poll/c:1,a:1",
            &[("http://two/", "c:1"), ("http://one/", "a:1")],
        ),
    ] {
        let mut request = admitted(&config, target, "");
        let consultations = take_consultations(&mut request, &config).unwrap();
        let found: Vec<_> = consultations
            .iter()
            .map(|consultation| {
                let names: Vec<_> = consultation.channels.iter().map(|it| it.as_str()).collect();
                (&*consultation.url, names.join(","))
            })
            .collect();
        let found: Vec<_> = found
            .iter()
            .map(|(url, names)| (*url, names.as_str()))
            .collect();
        assert_eq!(found, want, "{target}");
        assert_eq!(
            take_consultations(&mut request, &config).unwrap(),
            [],
            "once: {target}"
        );
    }
    let mut request = admitted(&Config::default(), "/poll/a:1", "");
    assert_eq!(
        take_consultations(&mut request, &Config::default()).unwrap(),
        []
    );
}

#[test]
fn the_question_says_what_and_who() {
    let mut config = config();
    let mut request = admitted(&config, "/sse/a:1,b:2", "");
    let consultation = &take_consultations(&mut request, &config).unwrap()[0];
    let address = "192.0.2.7".parse().unwrap();
    assert_eq!(
        consultation.body(Some(address)),
        r#"{"channels":["a:1","b:2"],"transport":"sse","address":"192.0.2.7"}"#
    );
    configure(&mut config, false);
    let claims = json!({ "sub": "u\"", "exp": 1_700_000_060 });
    let fields = format!("Authorization: Bearer {}\r\n", token("main", 1, &claims));
    let mut request = admitted(&config, "/poll/a:1", &fields);
    let consultation = &take_consultations(&mut request, &config).unwrap()[0];
    assert_eq!(
        consultation.body(None),
        r#"{"channels":["a:1"],"transport":"poll","user":"u\""}"#
    );
}

#[test]
fn what_the_request_shows_is_passed_on() {
    let mut config = config();
    let shown = Credentials::of;
    // (target, fields, what is shown)
    for (target, fields, want) in [
        ("/poll/a:1", "", &[][..]),
        (
            "/poll/a:1",
            "Cookie: s=1; t=2\r\nauthorization: Basic YTpi\r\nUser-Agent: x\r\n",
            &[("Authorization", "Basic YTpi"), ("Cookie", "s=1; t=2")],
        ),
        (
            "/poll/a:1?token=opaque",
            "",
            &[("Authorization", "Bearer opaque")],
        ),
        // What cannot stand in a field is left out.
        ("/poll/a:1?token=a%0d%0ab", "", &[]),
        ("/poll/a:1?token=%c3%a4", "", &[]),
        // The server's own page, and one that nobody named: its cookie is the browser's idea.
        (
            "/poll/a:1",
            "Origin: http://push\r\nCookie: s=1\r\n",
            &[("Cookie", "s=1"), ("Origin", "http://push")],
        ),
        (
            "/poll/a:1",
            "Origin: https://evil\r\nCookie: s=1\r\n",
            &[("Origin", "https://evil")],
        ),
    ] {
        let found = credentials(&config, target, fields);
        assert!(found == shown(want), "{target} {fields}");
    }
    // An API key is for this server alone.
    configure(&mut config, true);
    for fields in ["Authorization: Bearer ", "X-API-Key: "] {
        let found = credentials(&config, "/poll/a:1", &format!("{fields}{MASTER_KEY}\r\n"));
        assert!(found == shown(&[]), "{fields}");
    }
    let debug = format!("{:?}", shown(&[("Authorization", "secret")]));
    assert!(!debug.contains("secret"), "{debug}");
}

#[test]
fn the_operator_says_which_fields_are_passed_on() {
    let mut config = config();
    config.callback.headers = ["x-forwarded-for", "COOKIE"].map(str::to_owned).into();
    let fields = "Authorization: Basic YTpi\r\nX-Forwarded-For: 10.0.0.1\r\nCookie: a=\u{e4}\r\n\
                  X-FORWARDED-FOR: 10.0.0.2 , 10.0.0.3\r\n";
    let want = [
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2 , 10.0.0.3"),
        ("COOKIE", "a=\u{e4}"),
    ];
    assert!(credentials(&config, "/poll/a:1", fields) == Credentials::of(&want));
    // A token goes where Authorization goes.
    let found = credentials(&config, "/poll/a:1?token=opaque", "");
    assert!(found == Credentials::default());
    let origin = "Origin: https://evil\r\nCookie: s=1\r\n";
    assert!(credentials(&config, "/poll/a:1", origin) == Credentials::default());
    config.callback.headers = Vec::new();
    assert!(credentials(&config, "/poll/a:1", fields) == Credentials::default());
}

#[test]
fn an_answer_is_read_for_what_it_says() {
    let json = Some("Application/JSON; charset=utf-8");
    let allowed = |user: Option<&str>, expires_in_ms: Option<u64>| {
        Ok(Reply::Allowed {
            grant: Grant::of_user(user),
            expires_in_ms,
        })
    };
    for (status, content_type, body, want) in [
        (204, None, "", allowed(None, None)),
        (200, None, "ok", allowed(None, None)),
        (200, Some("text/html"), "{", allowed(None, None)),
        (200, json, "{}", allowed(None, None)),
        (
            200,
            json,
            r#"{"user":"u","expires_in":1.5,"x":1}"#,
            allowed(Some("u"), Some(1500)),
        ),
        (200, json, r#"{"user":null}"#, allowed(None, None)),
        (200, json, r#"{"expires_in":0}"#, allowed(None, Some(0))),
        (200, json, r#"{"user":7}"#, Err(ReplyError::Malformed)),
        (
            200,
            json,
            r#"{"expires_in":-1}"#,
            Err(ReplyError::Malformed),
        ),
        (200, json, "{", Err(ReplyError::Malformed)),
        (200, json, "[]", Err(ReplyError::Malformed)),
        (200, json, r#"["u",1]"#, Err(ReplyError::Malformed)),
        // Lists are for whom the backend is asked about.
        (200, json, r#"{"channels":7}"#, allowed(None, None)),
        (401, json, "{", Ok(Reply::Denied(Denial::Unauthorized))),
        (403, None, "", Ok(Reply::Denied(Denial::Forbidden))),
        (302, None, "", Err(ReplyError::Status(302))),
        (404, None, "", Err(ReplyError::Status(404))),
        (500, json, "{}", Err(ReplyError::Status(500))),
    ] {
        let found = Reply::parse(About::Channels, status, content_type, body.as_bytes());
        assert_eq!(found, want, "{status} {body}");
    }
}

#[test]
fn an_answer_says_how_long_it_is_good() {
    for (field, want) in [
        (None, 7),
        (Some("private"), 7),
        (Some("max-age=5"), 5_000),
        (Some("private, Max-Age = \"60\""), 60_000),
        (Some("max-age=0"), 0),
        (Some("max-age=-1"), 0),
        (Some("max-age=60, no-store"), 0),
        (Some("no-cache"), 0),
        (Some("max-age=99999999999999999999"), 0),
        (Some("max-age=9999999"), CACHE_TTL_MAX_MS),
    ] {
        assert_eq!(cache_ttl_ms(field, 7), want, "{field:?}");
    }
}

#[test]
fn a_denial_counts_for_more_than_a_backend_that_is_down() {
    use Decision::{Busy, Denied, Down};
    let allowed = Decision::Allowed(Permit::of(None, None));
    let forbidden = Denied(Denial::Forbidden);
    for (decisions, refuse, allow) in [
        (&[allowed.clone()][..], None, None),
        (
            &[Down, forbidden.clone()],
            Some((403, "backend_denied")),
            Some((403, "backend_denied")),
        ),
        (
            &[forbidden, Denied(Denial::Unauthorized)],
            Some((401, "backend_denied")),
            Some((401, "backend_denied")),
        ),
        (&[allowed, Down], Some((503, "backend_down")), None),
        (
            &[Busy],
            Some((503, "backend_busy")),
            Some((503, "backend_busy")),
        ),
    ] {
        for (when_down, want) in [(WhenDown::Refuse, refuse), (WhenDown::Allow, allow)] {
            let mut config = config();
            config.callback.when_down = when_down;
            let mut request = admitted(&config, "/poll/a:1", "");
            let found = conclude(&mut request, decisions, &config);
            let found = found.err().map(|refusal| (refusal.status, refusal.code));
            assert_eq!(found, want, "{decisions:?} {when_down:?}");
        }
    }
}

#[test]
fn the_backend_names_whom_no_token_names() {
    let mut config = config();
    configure(&mut config, false);
    let claims = json!({ "sub": "t", "exp": 1_700_000_060 });
    let with_token = format!("Authorization: Bearer {}\r\n", token("main", 1, &claims));
    // (fields, the backend's user, its end; who it is then, and until when)
    for (fields, user, until_ms, want) in [
        ("", None, None, None),
        ("", Some("b"), None, Some((Some("b"), None))),
        ("", None, Some(9), Some((None, Some(9)))),
        (
            &*with_token,
            Some("b"),
            None,
            Some((Some("t"), Some(65_000))),
        ),
        (&*with_token, None, Some(9), Some((Some("t"), Some(9)))),
        (
            &*with_token,
            None,
            Some(90_000),
            Some((Some("t"), Some(65_000))),
        ),
    ] {
        let mut request = admitted(&config, "/sse/a:1", fields);
        let permit = Permit::of(user, until_ms);
        conclude(&mut request, &[Decision::Allowed(permit)], &config).unwrap();
        let (_, listen) = listening(&mut request).unwrap();
        let found = listen.session.as_ref().map(|session| {
            assert_eq!(session.reask_ms, until_ms);
            let user = session.grant.user.as_deref();
            assert_eq!(session.grant.is_anonymous, user.is_none());
            (user, session.expires_ms)
        });
        assert_eq!(found, want, "{user:?} {until_ms:?}");
    }
}

#[test]
fn of_several_backends_the_first_that_names_somebody_says_who_it_is() {
    let config = config();
    let permit = |user: Option<&str>, until_ms| Decision::Allowed(Permit::of(user, until_ms));
    let (nobody, one) = (permit(None, Some(9)), permit(Some("b"), None));
    for (decisions, want) in [
        ([nobody.clone(), one.clone()], (Some("b"), Some(9))),
        ([one.clone(), nobody.clone()], (Some("b"), Some(9))),
        ([nobody.clone(), permit(None, Some(7))], (None, Some(7))),
        ([one, permit(Some("c"), None)], (Some("b"), None)),
    ] {
        let mut request = admitted(&config, "/sse/a:1", "");
        conclude(&mut request, &decisions, &config).unwrap();
        let (_, listen) = listening(&mut request).unwrap();
        let session = listen.session.as_ref().unwrap();
        assert_eq!(session.grant.is_anonymous, want.0.is_none());
        assert_eq!((listen.user(), session.expires_ms), want, "{decisions:?}");
    }
}
