//! `pushring pub`: one message to one or several channels.

use std::io::{self, Read, Write};

use serde::Deserialize;

use super::http::{self, Refusal};
use super::url::ServerUrl;
use crate::config::auth::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishOptions {
    pub server: ServerUrl,
    pub token: Option<Secret>,
    pub channels: Vec<String>,
    pub payload: Payload,
    pub kind: Kind,
    pub event: Option<String>,
    pub ttl_seconds: Option<u64>,
    /// `false`: for live subscribers only.
    pub store: bool,
    pub idempotency_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Text(String),
    Stdin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Json,
    Binary,
}

/// Publishes and prints the answer. The error is for stderr.
pub fn run(options: &PublishOptions) -> Result<(), String> {
    let payload = match &options.payload {
        Payload::Text(text) => text.clone().into_bytes(),
        Payload::Stdin => {
            let mut bytes = Vec::new();
            io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|e| format!("stdin cannot be read: {e}"))?;
            without_line_end(bytes, options.kind)
        }
    };
    let content_type = content_type(options.kind, &payload)?;
    let request = http::agent()
        .post(request_url(options))
        .header("content-type", content_type);
    let mut request = http::with_token(request, options.token.as_ref());
    if let Some(key) = &options.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let unreachable = |e| format!("no answer from {}: {e}", options.server.authority);
    let mut response = request.send(&payload[..]).map_err(unreachable)?;
    let body = http::read_body(&mut response).map_err(unreachable)?;
    if !response.status().is_success() {
        return Err(Refusal::new(response.status().as_u16(), response.headers(), &body).message);
    }
    let shown = show_receipts(&body)?;
    match io::stdout().write_all(shown.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("stdout cannot be written: {e}"))
        }
        _ => Ok(()),
    }
}

fn request_url(options: &PublishOptions) -> String {
    let mut parameters = Vec::new();
    if let Some(event) = &options.event {
        parameters.push(("event", event.clone()));
    }
    if let Some(ttl) = options.ttl_seconds {
        parameters.push(("ttl", ttl.to_string()));
    }
    if !options.store {
        parameters.push(("store", "false".to_owned()));
    }
    options.server.http("pub", &options.channels, &parameters)
}

fn content_type(kind: Kind, payload: &[u8]) -> Result<&'static str, String> {
    match kind {
        Kind::Json => Ok("application/json"),
        Kind::Binary => Ok("application/octet-stream"),
        Kind::Text if std::str::from_utf8(payload).is_ok() => Ok("text/plain; charset=utf-8"),
        Kind::Text => Err("the payload is not UTF-8; give --binary to send it as it is".to_owned()),
    }
}

/// `echo hello | pushring pub news` means `hello`: one line end is the shell's. Binary is taken as it is.
fn without_line_end(mut payload: Vec<u8>, kind: Kind) -> Vec<u8> {
    if kind != Kind::Binary && payload.ends_with(b"\n") {
        payload.pop();
        if payload.ends_with(b"\r") {
            payload.pop();
        }
    }
    payload
}

/// What the server says about one channel.
#[derive(Deserialize)]
struct Receipt {
    channel: String,
    /// Absent where the message got no position.
    id: Option<String>,
    receivers: u64,
}

/// One line for each channel: `news k3Qz9aXb-1043 receivers=3`.
fn show_receipts(body: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        One(Receipt),
        Several(Vec<Receipt>),
    }
    let receipts = match serde_json::from_str(body) {
        Ok(Answer::One(receipt)) => vec![receipt],
        Ok(Answer::Several(receipts)) => receipts,
        Err(_) => {
            return Err("published, but the answer is not one of a pushring server".to_owned());
        }
    };
    let line = |r: Receipt| {
        format!(
            "{} {} receivers={}\n",
            r.channel,
            r.id.as_deref().unwrap_or("-"),
            r.receivers
        )
    };
    Ok(receipts.into_iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_parameters() {
        let mut options = PublishOptions {
            token: None,
            server: ServerUrl::parse("h:1").unwrap(),
            channels: vec!["a".to_owned(), "b:c".to_owned()],
            payload: Payload::Stdin,
            kind: Kind::Text,
            event: None,
            ttl_seconds: None,
            store: true,
            idempotency_key: None,
        };
        assert_eq!(request_url(&options), "http://h:1/pub/a,b:c");
        (options.event, options.ttl_seconds, options.store) =
            (Some("x y".to_owned()), Some(9), false);
        assert_eq!(
            request_url(&options),
            "http://h:1/pub/a,b:c?event=x%20y&ttl=9&store=false"
        );
    }

    #[test]
    fn the_line_end_of_the_shell_is_not_part_of_the_message() {
        for (input, kind, want) in [
            ("hello\n", Kind::Text, "hello"),
            ("hello\r\n", Kind::Json, "hello"),
            ("hello\n\n", Kind::Text, "hello\n"),
            ("hello\r", Kind::Text, "hello\r"),
            ("hello\n", Kind::Binary, "hello\n"),
            ("\n", Kind::Text, ""),
            ("", Kind::Text, ""),
        ] {
            assert_eq!(
                without_line_end(input.into(), kind),
                want.as_bytes(),
                "{input:?} {kind:?}"
            );
        }
    }

    #[test]
    fn text_must_be_utf8() {
        assert!(
            content_type(Kind::Text, b"\xff")
                .unwrap_err()
                .contains("--binary")
        );
        assert_eq!(
            content_type(Kind::Text, "é".as_bytes()),
            Ok("text/plain; charset=utf-8")
        );
        assert_eq!(
            content_type(Kind::Binary, b"\xff"),
            Ok("application/octet-stream")
        );
        assert_eq!(content_type(Kind::Json, b"{}"), Ok("application/json"));
    }

    #[test]
    fn receipts_are_a_line_each() {
        for (body, want) in [
            (
                r#"{"channel":"a","id":"k-1","receivers":3}"#,
                Some("a k-1 receivers=3\n"),
            ),
            (
                r#"{"channel":"a","receivers":0,"later":1}"#,
                Some("a - receivers=0\n"),
            ),
            (
                r#"[{"channel":"a","id":"k-1","receivers":3},{"channel":"b","id":"m-1","receivers":0}]"#,
                Some("a k-1 receivers=3\nb m-1 receivers=0\n"),
            ),
            ("<html>", None),
            ("{}", None),
        ] {
            assert_eq!(show_receipts(body).ok().as_deref(), want, "{body}");
        }
    }
}
