//! Sources put together, and every mistake with its location and remedy.

use super::*;

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let file = "heartbeat = '1s'\nsse_retry = '1s'\nidle_timeout = '1s'\nnamespace.echo.history_messages = 1";
    let variables = [
        ("PUSHRING_SSE_RETRY", "2s"),
        ("PUSHRING_IDLE_TIMEOUT", "2s"),
        ("HOME", "/"),
    ];
    let flags = [
        ("idle_timeout", "3s"),
        ("namespace", "echo.client_publish=true"),
        ("namespace", ".history_age=1h"),
    ];
    let config = load(file, &variables, &flags).unwrap();
    let timing = &config.timing;
    assert_eq!(
        (
            timing.heartbeat_ms,
            timing.sse_retry_ms,
            timing.idle_timeout_ms
        ),
        (1_000, 2_000, 3_000)
    );
    let echo = config.namespace("echo");
    assert_eq!((echo.history_messages, echo.client_publish), (1, true));
    assert_eq!(config.namespace("").history_age_ms, 3_600_000);
}

#[test]
fn a_namespace_inherits_from_the_one_without_a_name() {
    let file = "[namespace.'']\nhistory_messages = 7\nhistory_age = '1m'\n\
        [namespace.echo]\nhistory_messages = 0\n[namespace.bare]\n";
    let config = load(file, &[], &[]).unwrap();
    assert_eq!(config.namespace("").history_messages, 7);
    assert_eq!(config.namespace("unlisted").history_messages, 7);
    assert_eq!(config.namespace("echo").history_messages, 0);
    assert_eq!(config.namespace("echo").history_age_ms, 60_000);
    assert_eq!(config.namespace("bare"), config.namespace(""));
}

#[test]
fn values_may_be_written_as_toml_has_them() {
    let file = "listen = ['127.0.0.1:0', '[::1]:0']\nmessage_bytes_max = 1_000\ninsecure = true\nthreads = '2'";
    let config = load(file, &[], &[]).unwrap();
    assert_eq!(config.listen.len(), 2);
    assert_eq!(
        (
            config.limits.message_bytes_max,
            config.insecure,
            config.threads
        ),
        (1_000, true, 2)
    );
}

#[test]
fn a_mistake_in_the_file_names_line_key_and_remedy() {
    for (file, want) in [
        (
            "\nheartbeat = 25",
            "f.toml:2: heartbeat = \"25\": the unit is missing; give a duration such as 500ms, 25s or 10m, from \
             100ms to 1h",
        ),
        (
            "heartbeat = '10ms'",
            "f.toml:1: heartbeat = \"10ms\": too small; give a duration such as 500ms, 25s or 10m, from 100ms to 1h",
        ),
        (
            "heartbeat = 2.5",
            "f.toml:1: heartbeat = \"2.5\": not understood; give a duration such as 500ms, 25s or 10m, from 100ms \
             to 1h",
        ),
        (
            "insecure = 1",
            "f.toml:1: insecure = \"1\": not understood; give true or false",
        ),
        (
            "threads = 0x10",
            "f.toml:1: threads = \"0x10\": not understood; give a whole number from 0 to 256",
        ),
        (
            "\n\nheartbeats = '1s'",
            "f.toml:3: heartbeats: no such setting; did you mean heartbeat?",
        ),
        ("zzz = 1", "f.toml:1: zzz: no such setting"),
        (
            "[namespaces.a]\nb = 1",
            "f.toml:1: namespaces: no such setting; did you mean namespace?",
        ),
        (
            "threads = {}",
            "f.toml:1: threads = \"table\": not understood; give a whole number from 0 to 256",
        ),
        (
            "[namespace.echo]\nclient_publis = true",
            "f.toml:2: namespace \"echo\" client_publis: a namespace has no such field; did you mean client_publish?",
        ),
        (
            "[namespace.echo]\nclient_publish = 3",
            "f.toml:2: namespace \"echo\" client_publish = \"3\": not understood; give true or false",
        ),
        // A value with a password in it is not repeated.
        (
            "[namespace.echo]\nauthorize_url = 'http://u:hush@host/'",
            "f.toml:2: namespace \"echo\" authorize_url: not understood; give a URL that begins with https:// or \
             http:// and has no password in it, or none",
        ),
        (
            "backplane = ''",
            "f.toml:1: backplane: not understood; give a text",
        ),
        (
            "[namespace.'a:b']",
            "f.toml:1: namespace \"a:b\" : \"a:b\" cannot be the first part of a channel's name; use letters, \
             digits and _ - . @ $ ~ = #",
        ),
        (
            "[namespace]\nclient_publish = true",
            "f.toml:2: namespace \"client_publish\": is no table; write [namespace.NAME], or [namespace.\"\"]",
        ),
        (
            "namespace = 1",
            "f.toml:1: namespace: write a table for each namespace: [namespace.NAME]",
        ),
        (
            "[namespace.a]\nthreads = 1",
            "f.toml:2: namespace \"a\" threads: threads is a setting of the server, not of a namespace; put it \
             above the first [namespace.…]",
        ),
    ] {
        check(file, &[], &[], &[want]);
    }
    let syntax = load("threads = 1\nthreads = = 2", &[], &[])
        .unwrap_err()
        .to_string();
    assert!(syntax.starts_with("f.toml:2: "), "{syntax}");
}

#[test]
fn a_mistake_in_environment_or_flags_names_them() {
    let none = "";
    check(
        none,
        &[("PUSHRING_HEARTBEET", "1s")],
        &[],
        &["PUSHRING_HEARTBEET: no such setting; did you mean PUSHRING_HEARTBEAT?"],
    );
    check(
        none,
        &[("PUSHRING_THREADS", "many")],
        &[],
        &["PUSHRING_THREADS = \"many\": not understood; give a whole number from 0 to 256"],
    );
    check(
        none,
        &[],
        &[("message_bytes_max", "65MiB")],
        &[
            "--message-bytes-max = \"65MiB\": too big; give a size such as 65536, 64KiB or 1MiB, from 1 to 64MiB",
        ],
    );
    check(
        none,
        &[("PUSHRING_NAMESPACE", "a")],
        &[("namespace", "a.zz=c")],
        &[
            "PUSHRING_NAMESPACE = \"a\": not understood; give NAME.FIELD=VALUE such as echo.client_publish=true",
            "--namespace a.zz: a namespace has no such field",
        ],
    );
}

#[test]
fn what_is_not_a_setting_is_left_alone() {
    let variables = [
        ("PUSHRING_CONFIG", "x"),
        ("PUSHRING_SERVER", "x"),
        ("PUSHRING_PORT", "tcp://10.0.0.1:8080"),
        ("PUSHRING_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PUSHRING_SERVICE_HOST", "10.0.0.1"),
        ("PUSHRING_INTERNAL", ""),
    ];
    assert_eq!(load("", &variables, &[]), Ok(Config::default()));
    let names = "PUSHRING_NAMESPACE";
    let config = load(
        "",
        &[(names, "a.history_messages=1,b.c=d.client_publish=true")],
        &[],
    )
    .unwrap();
    assert_eq!(
        (
            config.namespace("a").history_messages,
            config.namespace("b.c=d").client_publish
        ),
        (1, true)
    );
}

#[test]
fn contradictions_are_told_together() {
    check(
        "poll_limit_max = 9\nhead_bytes_max = '1KiB'",
        &[],
        &[],
        &[
            "poll_limit_max (9) is below poll_limit_default (100): raise it, or lower poll_limit_default",
            "head_bytes_max (1KiB) is below target_bytes_max (8KiB): raise it, or lower target_bytes_max, which \
             is a part of the head",
        ],
    );
}

fn load(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, ConfigErrors> {
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    };
    Config::load(
        Some(ConfigFile {
            path: "f.toml",
            text: file,
        }),
        owned(variables),
        owned(flags),
    )
}

#[track_caller]
fn check(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)], want: &[&str]) {
    assert_eq!(
        load(file, variables, flags).unwrap_err().to_string(),
        want.join("\n")
    );
}

#[test]
fn keys_are_tables_or_assignments() {
    let text = r#"
        jwks = "https://example.com/keys"
        [token_key."2026.1"]
        algorithm = "ES256"
        public_key_file = "/etc/key.pem"
        [token_key.old]
        secret = "a=b.c"
        [api_key.backend]
        secret_file = "/run/secrets/api"
        channels = ["news", "chat:*"]
    "#;
    let variables = [
        (
            "PUSHRING_TOKEN_KEY",
            "2026.1.algorithm=ES384,new.secret=x=y.z",
        ),
        ("PUSHRING_TOKEN", "t"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = [("api_key".to_owned(), "backend.channels=*".to_owned())];
    let config = Config::load(Some(ConfigFile { path: "f", text }), variables, flags).unwrap();
    let auth = &config.auth;
    assert_eq!(auth.jwks.as_deref(), Some("https://example.com/keys"));
    let secret = |name: &str| {
        auth.token_keys[name]
            .secret
            .as_ref()
            .map(|secret| &*secret.0)
    };
    assert_eq!(
        (secret("old"), secret("new")),
        (Some("a=b.c"), Some("x=y.z"))
    );
    assert_eq!(auth.token_keys["2026.1"].algorithm.word(), "ES384");
    assert_eq!(
        auth.token_keys["2026.1"].public_key_file.as_deref(),
        Some("/etc/key.pem")
    );
    assert_eq!(auth.api_keys["backend"].channels, ["*"]);
    // What is shown has none of the secrets.
    let shown = format!("{config:?} {} {:?}", config.to_toml(), config.summary());
    assert!(
        !shown.contains("a=b.c") && !shown.contains("x=y.z"),
        "{shown}"
    );
    assert!(
        shown.contains("algorithm=ES384") && shown.contains("[token_key.\"2026.1\"]"),
        "{shown}"
    );
}

#[test]
fn a_mistake_with_a_key_is_told_without_its_text() {
    for (text, want) in [
        (
            "[token_key.a]\nsecrets = \"hush\"",
            "f:2: token_key \"a\" secrets: a key has no such field; did you mean secret?",
        ),
        (
            "[token_key.a]\nalgorithm = \"hush\"",
            "f:2: token_key \"a\" algorithm: not understood; give one of HS256, ",
        ),
        (
            "[token_key.a]\nsecret = \"\"",
            "f:2: token_key \"a\" secret: not understood; give a text",
        ),
        (
            "[token_key.\"\"]\n",
            "f:1: token_key \"\": a key needs a name",
        ),
        (
            "token_key = \"hush\"",
            "f:1: token_key: write a table for each key: [token_key.NAME]",
        ),
        (
            "[api_key]\nsecret = \"hush\"",
            "f:2: api_key \"secret\": is no table; write [api_key.NAME]",
        ),
        (
            "[api_key.a]\nchannels = [\"hush hush\"]",
            "f:2: api_key \"a\" channels: not understood; give names",
        ),
    ] {
        let error = Config::load(Some(ConfigFile { path: "f", text }), [], [])
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(want), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
    let flags = [("token_key".to_owned(), "main.secret=x,hush".to_owned())];
    let error = Config::load(None, [], flags).unwrap_err().to_string();
    assert!(
        error.starts_with("--token-key: not understood; give NAME.FIELD=VALUE")
            && !error.contains("hush"),
        "{error}"
    );
}
