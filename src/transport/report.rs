//! Answers that end with themselves: what a publish gave, what channels and counters say, pages, health.

use crate::api::Page;
use crate::api::channels;
use crate::api::findings;
use crate::api::publish::{self, PublishResult};
use crate::api::question::Answer;
use crate::api::refusal::Refusal;
use crate::hub::message::ChannelName;
use crate::metrics;
use crate::transport::exchange::Purpose;
use crate::transport::response::{Body, Fields, JSON, Meta, refuse, respond, retry_after_seconds};
use crate::transport::{Context, Next};

pub(super) fn published(
    context: &mut Context<'_>,
    meta: &Meta,
    channels: Vec<ChannelName>,
    answers: impl Iterator<Item = Answer>,
) -> Next {
    let result = |(channel, answer)| match answer {
        Answer::Published(result) => (channel, result.map_err(Refusal::from)),
        answer => unreachable!("not published: {answer:?}"),
    };
    let n_channels = channels.len();
    let mut results = channels.into_iter().zip(answers).map(result);
    // One is the rule, and needs no list.
    let (one, several): ([PublishResult; 1], Vec<PublishResult>);
    let results = if n_channels == 1 {
        one = [results.next().expect("an answer for each channel")];
        &one[..]
    } else {
        several = results.collect();
        &several[..]
    };
    if let [(_, Err(refusal))] = results {
        return refuse(context, meta, refusal);
    }
    for refusal in results.iter().filter_map(|(_, result)| result.err()) {
        context.metrics.on_refusal(refusal.code, refusal.status);
    }
    let mut body = Vec::with_capacity(64 + 64 * results.len());
    let status = publish::answer(results, &mut body);
    let seconds = (status == 503).then(|| retry_after_seconds(context.rng));
    let mut fields = Fields::new(&meta.cors);
    if let Some(seconds) = &seconds {
        fields.push("Retry-After", seconds);
    }
    respond(context, meta, status, JSON, &fields, Body::Own(&body))
}

pub(super) fn report(
    context: &mut Context<'_>,
    meta: &Meta,
    purpose: &Purpose,
    answers: impl Iterator<Item = Answer>,
) -> Next {
    let mut body = Vec::new();
    let mut content_type = JSON;
    let mut pages = Vec::new();
    let mut shards = Vec::new();
    let mut findings = Vec::new();
    let mut status = 200;
    for answer in answers {
        match answer {
            Answer::Info(Some(info)) => channels::write_info(&mut body, &info),
            Answer::Info(None) | Answer::Deleted(Ok(false)) => {
                return refuse(context, meta, &Refusal::CHANNEL_UNKNOWN);
            }
            Answer::Deleted(Ok(true)) => status = 204,
            Answer::Deleted(Err(refusal)) => return refuse(context, meta, &refusal.into()),
            Answer::List(page) => pages.push(page),
            Answer::Finding(finding) => findings.push(finding),
            Answer::Metrics(metrics) => shards.push(*metrics),
            answer => unreachable!("no report: {answer:?}"),
        }
    }
    match purpose {
        Purpose::ChannelList { limit } => channels::write_list(&mut body, pages, *limit),
        Purpose::Inquiry { limit } => {
            if let Err(refusal) = findings::write_findings(&mut body, findings, *limit) {
                return refuse(context, meta, &refusal);
            }
        }
        Purpose::Metrics => {
            let mut text = String::new();
            metrics::write_exposition(&mut text, &shards);
            content_type = Some("text/plain; version=0.0.4; charset=utf-8");
            body = text.into_bytes();
        }
        _ => {}
    }
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-store");
    let body = if body.is_empty() {
        Body::Nothing
    } else {
        Body::Own(&body)
    };
    respond(
        context,
        meta,
        status,
        content_type.filter(|_| status == 200),
        &fields,
        body,
    )
}

pub(super) fn text(context: &mut Context<'_>, meta: &Meta, status: u16, text: &str) -> Next {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-store");
    respond(
        context,
        meta,
        status,
        Some("text/plain; charset=utf-8"),
        &fields,
        Body::Own(text.as_bytes()),
    )
}

pub(super) fn page(context: &mut Context<'_>, meta: &Meta, page: Page) -> Next {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-cache");
    fields.push("X-Content-Type-Options", "nosniff");
    respond(
        context,
        meta,
        200,
        Some(page.content_type),
        &fields,
        Body::Own(page.content.as_bytes()),
    )
}

/// Fetch standard, "CORS-preflight fetch": the star stands for what a page's libraries add to every request, but not
/// for `Authorization`, and for nothing in a request with cookies.
const ALLOWED_HEADERS: &str =
    "*, Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Cache-Control, X-API-Key";

pub(super) fn preflight(context: &mut Context<'_>, meta: &Meta, allow: &'static str) -> Next {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Allow", allow);
    fields.push("Access-Control-Allow-Methods", allow);
    fields.push("Access-Control-Allow-Headers", ALLOWED_HEADERS);
    fields.push("Access-Control-Max-Age", "3600");
    respond(context, meta, 204, None, &fields, Body::Nothing)
}
