//! Answers to HTTP requests.

use crate::api::origin::Cors;
use crate::api::refusal::{Extra, Refusal};
use crate::close_reason::CloseReason;
use crate::hub::batch::SharedBytes;
use crate::proto::http_request::Version;
use crate::proto::http_response::{self, ResponseBody, ResponseHead};
use crate::transport::{Context, Next};

/// Seconds of `Retry-After`: drawn from here, so that those who were turned away together come back spread out.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u32> = 1..=5;

pub const JSON: Option<&str> = Some("application/json");

/// Header fields of one answer beside the framing.
const FIELDS_MAX: usize = 8;

/// What an answer needs to know of its request.
#[derive(Clone, Debug)]
pub struct Meta {
    pub version: Version,
    pub keep_alive: bool,
    /// HEAD: the head of the answer that GET would get.
    pub head_only: bool,
    pub cors: Cors,
}

impl Meta {
    /// For answers to what could not be understood.
    pub const UNKNOWN: Self = Self {
        version: Version::Http11,
        keep_alive: false,
        head_only: false,
        cors: Cors::Silent,
    };
}

/// The body of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Nothing,
    Own(&'a [u8]),
    Shared(&'a SharedBytes),
}

/// Names and values of header fields, without an allocation.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    fields: [(&'a str, &'a str); FIELDS_MAX],
    len: usize,
}

impl<'a> Fields<'a> {
    /// Starts with what the browser has to be told of its page's origin.
    pub fn new(cors: &'a Cors) -> Self {
        let mut fields = Self {
            fields: [("", ""); FIELDS_MAX],
            len: 0,
        };
        match cors {
            Cors::Silent => return fields,
            Cors::AnyOrigin => fields.push("Access-Control-Allow-Origin", "*"),
            Cors::Origin(origin) | Cors::OriginWithCookies(origin) => {
                fields.push("Access-Control-Allow-Origin", origin);
                fields.push("Vary", "Origin");
            }
        }
        if let Cors::OriginWithCookies(_) = cors {
            fields.push("Access-Control-Allow-Credentials", "true");
        }
        fields.push(
            "Access-Control-Expose-Headers",
            "Pushring-Cursor, Pushring-Recovered, Retry-After",
        );
        fields
    }

    pub fn push(&mut self, name: &'a str, value: &'a str) {
        self.fields[self.len] = (name, value);
        self.len += 1;
    }

    pub fn as_slice(&self) -> &[(&'a str, &'a str)] {
        &self.fields[..self.len]
    }
}

/// Answers, and says whether the connection is kept.
pub fn respond(
    context: &mut Context<'_>,
    meta: &Meta,
    status: u16,
    content_type: Option<&str>,
    fields: &Fields<'_>,
    body: Body<'_>,
) -> Next {
    let keep_alive = meta.keep_alive && !context.is_draining;
    let bytes = match body {
        Body::Nothing => 0,
        Body::Own(bytes) => bytes.len(),
        Body::Shared(bytes) => bytes.len(),
    };
    let head = ResponseHead {
        status,
        version: meta.version,
        keep_alive,
        body: ResponseBody::Length(bytes),
        content_type,
        date: Some(context.date),
        extra: fields.as_slice(),
    };
    let out = &mut context.effects.out;
    out.write(|own| http_response::write_head(own, &head));
    match body {
        _ if meta.head_only => {}
        Body::Nothing => {}
        Body::Own(bytes) => out.push(bytes),
        Body::Shared(bytes) => out.share(bytes),
    }
    after(keep_alive)
}

/// Refuses, counts it, and says whether the connection is kept.
pub fn refuse(context: &mut Context<'_>, meta: &Meta, refusal: &Refusal) -> Next {
    context.metrics.on_refusal(refusal.code, refusal.status);
    let seconds = retry_after_seconds(context.rng);
    let mut fields = Fields::new(&meta.cors);
    // RFC 9111 §4.2.2: a cache may keep a 404 or a 405 that does not say so.
    fields.push("Cache-Control", "no-store");
    match refusal.extra {
        Extra::Nothing => {}
        Extra::Allow(methods) => fields.push("Allow", methods),
        Extra::Authenticate(challenge) => fields.push("WWW-Authenticate", challenge),
        Extra::WebSocketVersion => {
            fields.push("Sec-WebSocket-Version", "13");
            fields.push("Upgrade", "websocket");
            // RFC 9110 §7.8: or an intermediary passes Upgrade on as if it were meant for the other side.
            fields.push("Connection", "Upgrade");
        }
        Extra::RetryAfter => fields.push("Retry-After", &seconds),
    }
    let body = http_response::error_body(refusal.code, refusal.message);
    let body = Body::Own(body.as_bytes());
    match respond(context, meta, refusal.status, JSON, &fields, body) {
        Next::End(_) => Next::End(CloseReason::Refused),
        next => next,
    }
}

/// A refusal with `Retry-After` to somebody whose request is not read; the connection does not outlive it.
pub fn write_unread_refusal(out: &mut Vec<u8>, refusal: &Refusal, rng: &mut fastrand::Rng) {
    let body = http_response::error_body(refusal.code, refusal.message);
    let head = ResponseHead {
        status: refusal.status,
        version: Version::Http11,
        keep_alive: false,
        body: ResponseBody::Length(body.len()),
        content_type: JSON,
        date: None,
        extra: &[
            ("Cache-Control", "no-store"),
            ("Retry-After", &retry_after_seconds(rng)),
        ],
    };
    http_response::write_head(out, &head);
    out.extend_from_slice(body.as_bytes());
}

/// The value of `Retry-After`: jittered, so that those who are turned away together do not come back together.
pub fn retry_after_seconds(rng: &mut fastrand::Rng) -> String {
    rng.u32(RETRY_AFTER_SECONDS).to_string()
}

fn after(keep_alive: bool) -> Next {
    if keep_alive {
        Next::Stay
    } else {
        Next::End(CloseReason::Answered)
    }
}
