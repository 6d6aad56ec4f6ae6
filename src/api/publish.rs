//! A publish by HTTP: the head says where to and how, the body is the payload.

use std::sync::Arc;

use crate::api::credentials::Credentials;
use crate::api::listen::parse_channels;
use crate::api::refusal::Refusal;
use crate::config::Config;
use crate::hub::message::ChannelName;
use crate::hub::{Publish, Published, Scope};
use crate::proto::http_request::RequestHead;
use crate::proto::payload::{MediaType, PayloadKind};
use crate::proto::sse_event::event_name_is_free;
use crate::proto::{decimal, json, query};

/// Bytes of an `Idempotency-Key`.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 64;

/// A publish that waits for its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    pub channels: Vec<ChannelName>,
    media_type: MediaType,
    event: Option<Box<str>>,
    ttl_ms: Option<u64>,
    store: bool,
    idempotency_key: Option<Box<str>>,
    /// The receivers of all nodes are wanted.
    pub counts_cluster: bool,
    /// What the backend is to be shown, which has yet to be asked who this is.
    pub caller_due: Option<Arc<Credentials>>,
}

impl PublishRequest {
    /// `channels` is the last part of the path, still percent-encoded.
    pub fn parse(channels: &str, head: &RequestHead<'_>, config: &Config) -> Result<Self, Refusal> {
        let mut request = Self {
            channels: parse_channels(channels, config)?,
            media_type: MediaType::parse(head.content_type)?,
            event: None,
            ttl_ms: None,
            store: true,
            idempotency_key: None,
            counts_cluster: false,
            caller_due: None,
        };
        if let Some(key) = head.idempotency_key {
            if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) {
                return Err(Refusal::IDEMPOTENCY_KEY_INVALID);
            }
            request.idempotency_key = Some(key.into());
        }
        for pair in query::pairs(head.query) {
            let (key, value) = pair?;
            match (&*key, &*value) {
                ("event", name) if event_name_is_free(name) => request.event = Some(name.into()),
                ("event", _) => return Err(Refusal::EVENT_NAME_INVALID),
                ("ttl", seconds) => {
                    request.ttl_ms = Some(query::parse_seconds_ms(seconds)?);
                }
                ("store", "true") => request.store = true,
                ("store", "false") => request.store = false,
                ("count", "node") => request.counts_cluster = false,
                ("count", "cluster") => request.counts_cluster = true,
                ("count", _) => return Err(Refusal::PARAMETER_INVALID),
                ("store", _) => return Err(Refusal::PARAMETER_INVALID),
                _ => {}
            }
        }
        Ok(request)
    }

    /// The publishes that `body` makes of it, one for each channel in order; all share the payload.
    pub fn complete(&self, body: &[u8]) -> Result<impl Iterator<Item = Publish>, Refusal> {
        let kind = PayloadKind::of(body, self.media_type)?;
        let payload: Arc<[u8]> = body.into();
        Ok(self.channels.iter().map(move |channel| Publish {
            channel: channel.clone(),
            kind,
            event: self.event.clone(),
            payload: payload.clone(),
            ttl_ms: self.ttl_ms,
            store: self.store,
            idempotency_key: self.idempotency_key.clone(),
        }))
    }
}

/// What one channel made of a publish.
pub type PublishResult = (ChannelName, Result<(Published, Scope), Refusal>);

/// The status and body that answer a publish: an object for one channel, an array in order for several. 2xx only if
/// every channel took it; otherwise the first refusal's status, and the body tells which ones did.
pub fn answer(results: &[PublishResult], out: &mut Vec<u8>) -> u16 {
    if results.len() > 1 {
        out.push(b'[');
    }
    for (index, (channel, result)) in results.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"channel":"#);
        json::write_string(out, channel.as_str());
        match result {
            Ok((published, scope)) => {
                let Published {
                    position,
                    receivers,
                } = published;
                out.extend_from_slice(br#","id":""#);
                out.extend_from_slice(position.text().as_str().as_bytes());
                out.extend_from_slice(br#"","receivers":"#);
                decimal::push(out, u64::from(*receivers));
                write_scope(out, *scope);
                out.push(b'}');
            }
            Err(refusal) => {
                out.extend_from_slice(br#","error":{"code":"#);
                json::write_string(out, refusal.code);
                out.extend_from_slice(br#","message":"#);
                json::write_string(out, refusal.message);
                out.extend_from_slice(b"}}");
            }
        }
    }
    if results.len() > 1 {
        out.push(b']');
    }
    let refused = results.iter().find_map(|(_, result)| result.err());
    let received = results
        .iter()
        .any(|(_, result)| result.is_ok_and(|(published, _)| published.receivers > 0));
    match refused {
        Some(refusal) => refusal.status,
        None if received => 201,
        None => 202,
    }
}

/// Whose the receivers are, where there may be other nodes.
fn write_scope(out: &mut Vec<u8>, scope: Scope) {
    match scope {
        Scope::Alone => {}
        Scope::Node => out.extend_from_slice(br#","scope":"node""#),
        Scope::Local => out.extend_from_slice(br#","scope":"node","degraded":"local""#),
        Scope::Cluster { nodes, is_complete } => {
            out.extend_from_slice(br#","scope":"cluster","nodes":"#);
            decimal::push(out, u64::from(nodes));
            if !is_complete {
                out.extend_from_slice(br#","complete":false"#);
            }
        }
    }
}
