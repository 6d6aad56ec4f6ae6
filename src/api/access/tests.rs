//! Who may do what, as tables: the request, what it shows, what comes of it.

use serde_json::json;

use super::*;
use crate::api::parse;
use crate::auth::sample::{CHAT_KEY, MASTER_KEY, authenticator, configure, token};
use crate::config::Namespace;
use crate::proto::http_request::{HeadLimits, HeadProgress, decode_head};

const CLOCK: Clock = Clock {
    now_ms: 0,
    unix_ms: 1_700_000_000_000,
};

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Namespaces that are called as what they let do: `users` wants any token, `chat` one that lists the channel, in
/// `open` everybody publishes, in `ours` nobody but the backend.
fn config() -> Config {
    let mut config = Config::default();
    for (name, access) in [
        ("open", Access::Public),
        ("users", Access::Authenticated),
        ("chat", Access::Token),
        ("ours", Access::Internal),
    ] {
        let namespace = Namespace {
            subscribe: access.min(Access::Token),
            publish: access,
            client_publish: true,
            ..Namespace::default()
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    config
}

fn with_keys(with_api_keys: bool) -> Config {
    let mut config = config();
    configure(&mut config, with_api_keys);
    config
}

fn claims() -> serde_json::Value {
    json!({
        "sub": "u", "exp": 1_700_000_060, "subscribe": ["chat:1", "ours:1"], "publish": ["chat:2", "ours:2"],
        "channels": ["chat:3", "news"],
    })
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The credentials of a user; of nobody.
fn user() -> String {
    bearer(&token("main", 1, &claims()))
}

const NOBODY: &str = "";

fn outcome(config: &Config, side: Side, request: &str, fields: &str) -> String {
    let fields = match request {
        _ if request.starts_with("POST") => format!("{fields}Content-Length: 1\r\n"),
        _ if request.contains("/ws") => format!("{fields}{HANDSHAKE}"),
        _ => fields.to_owned(),
    };
    let text = format!("{request} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let limits = HeadLimits {
        head_bytes_max: 32_768,
        target_bytes_max: 16_384,
        headers_max: 64,
    };
    let decoded = decode_head(text.as_bytes(), &mut HeadProgress::default(), &limits);
    let (head, _) = decoded.unwrap().expect("a whole head");
    let mut gate = Gate {
        config,
        side,
        connection: 0,
        clock: CLOCK,
        auth: &mut authenticator(config),
        metrics: &mut Metrics::default(),
    };
    let admitted = parse(&head, config, side).and_then(|mut request| {
        let admission = gate.admit(&mut request, &head, true)?;
        Ok((request, admission))
    });
    match admitted {
        Ok((_, Admission::KeyMissing)) => "waits".to_owned(),
        Ok((Request::WebSocket { listen, .. }, _)) if listen.token_due => "token due".to_owned(),
        Ok((
            Request::Poll { listen, .. }
            | Request::EventStream(listen)
            | Request::WebSocket { listen, .. },
            _,
        )) => {
            let names: Vec<_> = listen
                .channels
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            let as_user = if listen.session.is_some() {
                " as user"
            } else {
                ""
            };
            format!("{}{as_user}", names.join(","))
        }
        Ok(_) => "allowed".to_owned(),
        Err(refusal) => format!("{} {}", refusal.status, refusal.code),
    }
}

#[track_caller]
fn check(config: &Config, side: Side, request: &str, fields: &str, want: &str) {
    let found = outcome(config, side, request, fields);
    assert_eq!(found, want, "{request}\n{fields}");
}

#[test]
fn a_namespace_says_who_listens() {
    let config = with_keys(true);
    let user = user();
    let key = bearer(MASTER_KEY);
    for (channels, anonymous, with_token, with_key) in [
        ("news", "news", "news as user", "news"),
        ("open:1", "open:1", "open:1 as user", "open:1"),
        ("users:1", "401", "users:1 as user", "403"),
        ("chat:1", "401", "chat:1 as user", "403"),
        ("chat:2", "401", "403", "403"),
        ("chat:3", "401", "chat:3 as user", "403"),
        ("ours:1", "401", "ours:1 as user", "403"),
        ("ours:2", "401", "403", "403"),
        ("news,chat:1", "401", "news,chat:1 as user", "403"),
        ("chat:1,chat:2", "401", "403", "403"),
    ] {
        for path in ["/poll/", "/sse/", "/ws/"] {
            let request = format!("GET {path}{channels}");
            let coded = |short: &'static str| match short {
                "401" if path == "/ws/" => "token due",
                "401" => "401 credentials_missing",
                "403" => "403 channel_denied",
                other => other,
            };
            for (fields, want) in [(NOBODY, anonymous), (&user, with_token), (&key, with_key)] {
                check(&config, Side::Public, &request, fields, coded(want));
            }
        }
    }
}

#[test]
fn the_channels_of_the_token_are_joined_where_the_path_names_none() {
    let config = with_keys(false);
    for path in ["/poll", "/sse", "/ws"] {
        check(
            &config,
            Side::Public,
            &format!("GET {path}"),
            &user(),
            "chat:3,news as user",
        );
        check(
            &config,
            Side::Public,
            &format!("GET {path}?last=5"),
            &user(),
            "chat:3,news as user",
        );
        let none = bearer(&token("main", 1, &json!({ "exp": 1_700_000_060 })));
        check(
            &config,
            Side::Public,
            &format!("GET {path}"),
            &none,
            "400 channels_missing",
        );
        let request = format!("GET {path}?since=k3Qz9aXb-1");
        check(
            &config,
            Side::Public,
            &request,
            &user(),
            "400 cursor_invalid",
        );
        check(
            &Config::default(),
            Side::Both,
            &format!("GET {path}"),
            "",
            "404 path_unknown",
        );
    }
    let many: Vec<_> = (0..65).map(|n| format!("c{n}")).collect();
    let many = bearer(&token(
        "main",
        1,
        &json!({ "exp": 1_700_000_060, "channels": many }),
    ));
    check(
        &config,
        Side::Public,
        "GET /poll",
        &many,
        "400 channels_too_many",
    );
    check(
        &config,
        Side::Public,
        "GET /poll",
        NOBODY,
        "401 credentials_missing",
    );
    check(&config, Side::Public, "GET /ws", NOBODY, "token due");
}

#[test]
fn a_namespace_says_who_publishes() {
    let user = user();
    let (master, chat) = (bearer(MASTER_KEY), format!("X-API-Key: {CHAT_KEY}\r\n"));
    for (channels, anonymous, with_token, with_chat_key) in [
        ("open:1", "allowed", "allowed", "403 channel_denied"),
        (
            "users:1",
            "401 credentials_missing",
            "allowed",
            "403 channel_denied",
        ),
        (
            "chat:1",
            "401 credentials_missing",
            "403 channel_denied",
            "allowed",
        ),
        ("chat:2", "401 credentials_missing", "allowed", "allowed"),
        (
            "ours:2",
            "401 credentials_missing",
            "403 channel_denied",
            "403 channel_denied",
        ),
        (
            "news",
            "401 credentials_missing",
            "403 channel_denied",
            "allowed",
        ),
        (
            "open:1,news",
            "401 credentials_missing",
            "403 channel_denied",
            "403 channel_denied",
        ),
        (
            "chat:1,news",
            "401 credentials_missing",
            "403 channel_denied",
            "allowed",
        ),
    ] {
        let request = format!("POST /pub/{channels}");
        for side in [Side::Public, Side::Internal] {
            let mut config = with_keys(true);
            config.internal = Some("127.0.0.1:1".parse().unwrap());
            check(&config, side, &request, NOBODY, anonymous);
            check(&config, side, &request, &user, with_token);
            check(&config, side, &request, &chat, with_chat_key);
            check(&config, side, &request, &master, "allowed");
        }
    }
}

#[test]
fn an_internal_address_without_api_keys_is_open() {
    let mut config = with_keys(false);
    let requests = [
        "POST /pub/news",
        "GET /channels",
        "DELETE /channels/a",
        "GET /metrics",
    ];
    for request in requests {
        // One address for all: strangers are not the backend.
        check(
            &config,
            Side::Both,
            request,
            NOBODY,
            "401 credentials_missing",
        );
    }
    config.internal = Some("127.0.0.1:1".parse().unwrap());
    for request in requests {
        check(&config, Side::Internal, request, NOBODY, "allowed");
        check(&config, Side::Internal, request, &user(), "allowed");
        check(
            &config,
            Side::Internal,
            request,
            &bearer("a.b.c"),
            "401 token_malformed",
        );
        check(&config, Side::Public, request, NOBODY, "404 path_internal");
    }
    check(&config, Side::Public, "POST /pub/open:1", NOBODY, "allowed");
    check(
        &config,
        Side::Public,
        "POST /pub/users:1",
        NOBODY,
        "401 credentials_missing",
    );
}

#[test]
fn an_api_key_is_good_for_its_channels() {
    let config = with_keys(true);
    let (master, chat) = (bearer(MASTER_KEY), bearer(CHAT_KEY));
    for (request, with_chat) in [
        ("GET /channels/chat:1", "allowed"),
        ("DELETE /channels/news", "allowed"),
        ("GET /channels/news2", "403 channel_denied"),
        ("GET /channels", "403 channel_denied"),
        ("GET /channels?prefix=news", "403 channel_denied"),
        ("GET /channels?prefix=chat:", "allowed"),
        ("GET /channels?prefix=chat:4", "allowed"),
        ("GET /metrics", "allowed"),
    ] {
        check(&config, Side::Both, request, &master, "allowed");
        check(&config, Side::Both, request, &chat, with_chat);
        check(
            &config,
            Side::Both,
            request,
            NOBODY,
            "401 credentials_missing",
        );
        check(
            &config,
            Side::Both,
            request,
            &user(),
            "403 api_key_required",
        );
    }
}

#[test]
fn a_bad_credential_is_never_nobody() {
    let config = with_keys(true);
    let expired = token("main", 1, &json!({ "exp": 1_700_000_000 - 60 }));
    let forged = token("main", 2, &claims());
    let unknown = token("other", 2, &claims());
    for (query, fields, want) in [
        ("", bearer(&expired), "401 token_expired"),
        ("", bearer(&forged), "401 bad_signature"),
        ("", bearer(&unknown), "401 unknown_key"),
        ("", bearer("a.b.c"), "401 token_malformed"),
        ("", bearer("nonsense"), "401 api_key_unknown"),
        ("", bearer(""), "401 api_key_unknown"),
        ("", bearer(&"a.".repeat(5000)), "401 token_too_long"),
        ("", "X-API-Key: wrong\r\n".to_owned(), "401 api_key_unknown"),
        (
            "",
            "Authorization: Basic YTpi\r\n".to_owned(),
            "401 credentials_unsupported",
        ),
        ("?token=", String::new(), "401 token_malformed"),
        ("?token=a.b.c", String::new(), "401 token_malformed"),
        (
            &format!("?token={expired}"),
            String::new(),
            "401 token_expired",
        ),
        (
            &format!("?token={MASTER_KEY}"),
            String::new(),
            "401 token_malformed",
        ),
        ("?token=a", bearer(MASTER_KEY), "400 credentials_repeated"),
    ] {
        for path in [
            "GET /poll/open:1",
            "GET /sse/open:1",
            "GET /ws/open:1",
            "POST /pub/open:1",
            "GET /metrics",
        ] {
            check(
                &config,
                Side::Both,
                &format!("{path}{query}"),
                &fields,
                want,
            );
        }
        // What asks for nothing does not look at what is shown.
        for path in [
            "GET /healthz",
            "GET /readyz",
            "GET /pushring.js",
            "OPTIONS /poll/chat:1",
        ] {
            check(
                &config,
                Side::Public,
                &format!("{path}{query}"),
                &fields,
                "allowed",
            );
        }
        // Without keys nobody is told from anybody.
        let open = Config::default();
        check(
            &open,
            Side::Both,
            &format!("POST /pub/a{query}"),
            &fields,
            "allowed",
        );
    }
}

#[test]
fn a_cookie_counts_for_known_pages_only() {
    let mut config = with_keys(false);
    config.auth.token_cookie = Some("session".to_owned());
    let cookie = format!("Cookie: a=b; session={}\r\n", token("main", 1, &claims()));
    let from = |origin: &str| format!("{cookie}Origin: {origin}\r\n");
    let request = "GET /poll/chat:1";
    check(&config, Side::Public, request, &cookie, "chat:1 as user");
    check(
        &config,
        Side::Public,
        request,
        &from("https://elsewhere.net"),
        "403 origin_denied",
    );
    check(
        &config,
        Side::Public,
        request,
        &from("null"),
        "403 origin_denied",
    );
    check(
        &config,
        Side::Public,
        request,
        &from("http://a"),
        "chat:1 as user",
    );
    config.allowed_origins = vec!["https://app.example.com".to_owned()];
    check(
        &config,
        Side::Public,
        request,
        &from("https://app.example.com"),
        "chat:1 as user",
    );
    check(
        &config,
        Side::Public,
        request,
        &from("http://a"),
        "chat:1 as user",
    );
    config.auth.token_cookie = None;
    check(
        &config,
        Side::Public,
        request,
        &cookie,
        "401 credentials_missing",
    );
}

#[test]
fn a_token_whose_key_may_be_with_the_issuer_waits() {
    let mut config = with_keys(false);
    config.auth.jwks = Some("keys.json".to_owned());
    let unknown = bearer(&token("other", 2, &claims()));
    check(&config, Side::Public, "GET /poll/chat:1", &unknown, "waits");
    check(&config, Side::Public, "POST /pub/chat:1", &unknown, "waits");
    check(&config, Side::Public, "GET /healthz", &unknown, "allowed");
}

#[test]
fn a_frame_is_a_publish_where_the_namespace_or_the_token_says_so() {
    let grant = Grant {
        publish: crate::auth::pattern::Patterns::new(["chat:2", "ours:2"]),
        ..Grant::default()
    };
    let mut closed = with_keys(false);
    for namespace in closed.namespaces.values_mut() {
        namespace.client_publish = false;
    }
    for (channel, anonymous, with_token, without_client_publish) in [
        ("open:1", true, true, false),
        ("users:1", false, true, false),
        ("chat:1", false, false, false),
        ("chat:2", false, true, true),
        ("ours:1", true, true, false),
        ("ours:2", true, true, true),
        ("news", false, false, false),
    ] {
        let name = ChannelName::parse(channel).unwrap();
        let config = with_keys(false);
        assert_eq!(
            may_publish_frame(&config, &name, None),
            anonymous,
            "{channel}"
        );
        assert_eq!(
            may_publish_frame(&config, &name, Some(&grant)),
            with_token,
            "{channel}"
        );
        assert_eq!(
            may_publish_frame(&closed, &name, Some(&grant)),
            without_client_publish,
            "{channel}"
        );
    }
    // Without keys the one switch decides, but where tokens are asked for.
    let ours = ChannelName::parse("ours:1").unwrap();
    assert!(may_publish_frame(&config(), &ours, None));
    assert!(!may_publish_frame(&Config::default(), &ours, None));
    let chat = ChannelName::parse("chat:1").unwrap();
    assert!(!may_publish_frame(&config(), &chat, None));
    let without_keys = config();
    let denied = "401 credentials_missing";
    for request in ["GET /poll/chat:1", "GET /sse/users:1", "GET /ws/chat:1"] {
        check(&without_keys, Side::Both, request, NOBODY, denied);
    }
}
