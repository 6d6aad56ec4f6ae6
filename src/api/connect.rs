//! The backend's word on who somebody is that shows no token (`connect_url`): an answer worth a token, to listen and to
//! publish.
//!
//! Asked before the rules of the namespaces, which then hold for whom it names, and before anything is asked about the
//! channels ([`callback`](crate::api::callback)).

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use crate::api::access::{self, Verdict};
use crate::api::callback::{About, Consultation, Permit};
use crate::api::credentials::Credentials;
use crate::api::listen::ListenRequest;
use crate::api::publish::PublishRequest;
use crate::api::refusal::Refusal;
use crate::auth::grant::{Grant, Session, parse_channels};
use crate::auth::pattern::Patterns;
use crate::config::Config;
use crate::hub::message::ChannelName;

/// What an answer lists, as the claims of a token do. A list that is `null` is empty.
#[derive(Default, Deserialize)]
struct Lists<'a> {
    #[serde(borrow)]
    subscribe: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    publish: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    channels: Option<Vec<Cow<'a, str>>>,
}

/// Adds what the answer `body`, a JSON object, lists to `grant`; `None` if it lists what no token could.
pub fn add_lists(grant: Grant, body: &[u8]) -> Option<Grant> {
    let lists: Lists<'_> = serde_json::from_slice(body).ok()?;
    let patterns = |list: Option<Vec<Cow<'_, str>>>| {
        Patterns::new(list.unwrap_or_default().iter().map(|it| &**it))
    };
    let channels = lists.channels.unwrap_or_default();
    Some(Grant {
        subscribe: patterns(lists.subscribe),
        publish: patterns(lists.publish),
        channels: parse_channels(channels.iter().map(|name| &**name))?,
        ..grant
    })
}

/// What the backend is asked for `listen`, whose caller is due.
pub fn of_listener(
    listen: &ListenRequest,
    transport: &'static str,
    config: &Config,
) -> Result<Consultation, Refusal> {
    let credentials = listen.credentials.clone().unwrap_or_default();
    let channels = listen.channels.iter().map(|(channel, _)| channel);
    consultation(credentials, channels, transport, config)
}

/// What it is asked for `publish`; nothing where no caller is due, and nothing a second time.
pub fn of_publisher(
    publish: &mut PublishRequest,
    config: &Config,
) -> Result<Option<Consultation>, Refusal> {
    let due = publish.caller_due.take();
    due.map(|credentials| consultation(credentials, &publish.channels, "publish", config))
        .transpose()
}

fn consultation<'a>(
    credentials: Arc<Credentials>,
    channels: impl IntoIterator<Item = &'a ChannelName>,
    transport: &'static str,
    config: &Config,
) -> Result<Consultation, Refusal> {
    // A reload may have taken it away since the head was read. Nobody was asked, so nobody is let in.
    let url = config.auth.connect_url.as_deref();
    Ok(Consultation {
        about: About::Caller,
        url: url.ok_or(Refusal::BACKEND_DOWN)?.into(),
        credentials,
        channels: channels.into_iter().cloned().collect(),
        transport,
        user: None,
    })
}

/// Lets `listen` go on as whom the backend has named, or as nobody where that is enough. `None`: the backend is down,
/// and callers are let in nevertheless. `may_bring_token`: a first message may still say who it is.
pub fn admit_listener(
    listen: &mut ListenRequest,
    permit: Option<&Permit>,
    may_bring_token: bool,
    config: &Config,
) -> Result<(), Refusal> {
    listen.caller_due = false;
    let nobody = || Arc::new(Grant::of_user(None));
    let grant = permit.map_or_else(nobody, |permit| permit.grant.clone());
    let until_ms = permit.and_then(|permit| permit.until_ms);
    if grant.is_anonymous && needs_user(listen, &grant, config) {
        listen.token_due = may_bring_token && config.auth.verifies_tokens();
        return match permit {
            _ if listen.token_due => Ok(()),
            Some(_) => Err(Refusal::CREDENTIALS_MISSING),
            // Somebody may be known, once the backend is back.
            None => Err(Refusal::BACKEND_DOWN),
        };
    }
    if grant.is_empty() && until_ms.is_none() {
        return Ok(());
    }
    let session = listen.join(Session::unlimited(grant), config)?;
    if let Some(until_ms) = until_ms {
        session.limit(until_ms);
    }
    Ok(())
}

/// Lets whom the backend has named publish where a token would.
pub fn admit_publisher(
    publish: &PublishRequest,
    permit: Option<&Permit>,
    config: &Config,
) -> Result<(), Refusal> {
    let grant = permit.map(|permit| &*permit.grant);
    for channel in &publish.channels {
        match (access::may_publish(config, channel, grant), permit) {
            (Verdict::Allowed, _) => {}
            (_, None) => return Err(Refusal::BACKEND_DOWN),
            (Verdict::CredentialsMissing, _) => return Err(Refusal::CREDENTIALS_MISSING),
            (Verdict::Denied, _) => return Err(Refusal::CHANNEL_DENIED),
        }
    }
    Ok(())
}

/// Whether `listen` wants what is not for an anonymous caller with this grant.
fn needs_user(listen: &ListenRequest, grant: &Grant, config: &Config) -> bool {
    let names_no_channel = listen.start_of_token.is_some() && grant.channels.is_empty();
    names_no_channel || access::may_listen(config, listen, Some(grant)) != Verdict::Allowed
}

#[cfg(test)]
mod tests;
