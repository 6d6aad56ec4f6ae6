//! Whether a request may be done: what its namespace asks for, what the caller shows.
//!
//! | | anonymous | a token | an API key |
//! |---|---|---|---|
//! | listen | `subscribe` is `public` | and `authenticated`; and `token` if it lists the channel | as anonymous |
//! | publish | `publish` is `public` | and `authenticated`; and `token` if it lists the channel | its channels |
//! | a frame of a WebSocket | the same, with `client_publish` | the same; and whatever it lists | – |
//! | channels and who is on them, metrics | – | – | its channels |
//! | connections, users | – | – | if its channels are all |
//!
//! With a `connect_url` the backend says who an anonymous caller is, as a token would
//! ([`connect`](crate::api::connect)), but for what no token opens.
//! Where a namespace has an `authorize_url`, who may listen by this table is asked about there as well
//! ([`callback`]).
//!
//! Without any key, or `connect_url`, all is open but for what `internal` keeps apart; so is the internal entrance
//! without API keys.

use std::rc::Rc;
use std::sync::Arc;

use crate::api::callback;
use crate::api::connections::Inquiry;
use crate::api::credentials::Credentials;
use crate::api::listen::ListenRequest;
use crate::api::origin;
use crate::api::publish::PublishRequest;
use crate::api::refusal::Refusal;
use crate::api::{Request, Side};
use crate::auth::credential::{self, Credential, CredentialError};
use crate::auth::error::TokenError;
use crate::auth::grant::{Grant, Session};
use crate::auth::{Authenticator, Clock, Effort, Verified};
use crate::config::Config;
use crate::config::auth::Access;
use crate::hub::message::ChannelName;
use crate::metrics::Metrics;
use crate::proto::http_request::RequestHead;

/// What decides.
#[derive(Debug)]
pub struct Gate<'a> {
    pub config: &'a Config,
    pub side: Side,
    /// Who asks: the connection's index on its shard.
    pub connection: u32,
    pub clock: Clock,
    pub auth: &'a mut Authenticator,
    pub metrics: &'a mut Metrics,
}

/// What becomes of a request that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Allowed,
    /// Its token's key is not known yet: ask again when there are other keys.
    KeyMissing,
}

/// Who asks.
enum Caller {
    Anonymous,
    User(Session),
    /// With the API key of this number.
    Backend(usize),
}

/// What a namespace says to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// Nothing was shown, and something is needed.
    CredentialsMissing,
    /// What was shown is not enough.
    Denied,
}

impl Gate<'_> {
    /// Lets `request` through, and notes in it with which token, and what the backend is to be shown. `may_wait`: it
    /// can be asked again.
    pub fn admit(
        &mut self,
        request: &mut Request,
        head: &RequestHead<'_>,
        may_wait: bool,
    ) -> Result<Admission, Refusal> {
        let admission = self.admit_by_rules(request, head, may_wait)?;
        if let Some((_, listen)) = callback::listening(request)
            && self.config.asks_backend()
        {
            let credentials = Credentials::collect(head, self.config, self.auth);
            listen.credentials = Some(Arc::new(credentials));
        }
        Ok(admission)
    }

    fn admit_by_rules(
        &mut self,
        request: &mut Request,
        head: &RequestHead<'_>,
        may_wait: bool,
    ) -> Result<Admission, Refusal> {
        match request {
            Request::Health | Request::Readiness | Request::Page(_) | Request::Preflight { .. } => {
                return Ok(Admission::Allowed);
            }
            // Nobody can be told from anybody: what comes along may be meant for a proxy in front.
            _ if !self.config.auth.has_keys() => return self.admit_open(request),
            _ => {}
        }
        let asks_who = self.may_ask_who(request);
        let caller = match asks_who && !self.config.auth.verifies_tokens() {
            true => self.caller_by_api_key(head)?,
            false => match self.caller(head, may_wait)? {
                Some(caller) => caller,
                None => return Ok(Admission::KeyMissing),
            },
        };
        if asks_who && matches!(caller, Caller::Anonymous) {
            if let Request::Publish(publish) = request {
                let credentials = Credentials::collect(head, self.config, self.auth);
                publish.caller_due = Some(Arc::new(credentials));
            } else if let Some((_, listen)) = callback::listening(request) {
                listen.caller_due = true;
            }
            return Ok(Admission::Allowed);
        }
        match request {
            Request::Poll { listen, .. } | Request::EventStream(listen) => {
                match self.admit_listener(listen, caller)? {
                    Verdict::CredentialsMissing => Err(Refusal::CREDENTIALS_MISSING),
                    _ => Ok(Admission::Allowed),
                }
            }
            Request::WebSocket { listen, .. } => {
                listen.token_due =
                    self.admit_listener(listen, caller)? == Verdict::CredentialsMissing;
                Ok(Admission::Allowed)
            }
            Request::Publish(publish) => self.admit_publisher(publish, &caller),
            _ => self.admit_backend(request, &caller),
        }
    }

    /// Verifies a token, and counts it.
    pub fn verify(&mut self, token: &str, may_wait: bool) -> Result<Verified, TokenError> {
        let (effort, result) = self.auth.verify(token, may_wait, self.clock);
        match effort {
            Effort::Cached => self.metrics.token_cache_hits_total += 1,
            Effort::Verified => self.metrics.token_verifications_total += 1,
        }
        result
    }

    /// Lets somebody with a token listen, as one more connection of the user.
    pub fn join(&mut self, listen: &mut ListenRequest, session: Session) -> Result<(), Refusal> {
        let session = listen.join(session, self.config)?;
        self.claim(session)
    }

    /// Makes the connection one of the user's, if the token names one and there are not too many.
    pub fn claim(&mut self, session: &mut Session) -> Result<(), Refusal> {
        let Some(user) = &session.grant.user else {
            return Ok(());
        };
        let count_max = self.config.limits.connections_per_user_max;
        let seat = self.auth.users.claim(user, self.connection, count_max);
        let seat = seat.ok_or(Refusal::USER_CONNECTIONS_FULL)?;
        session.seat = Some(Rc::new(seat));
        Ok(())
    }

    fn admit_open(&self, request: &Request) -> Result<Admission, Refusal> {
        let publish = match request {
            Request::Publish(publish) => publish,
            // Namespaces that want tokens without a key for them, which no configuration that is checked has. Nobody
            // gets in.
            Request::Poll { listen, .. }
            | Request::EventStream(listen)
            | Request::WebSocket { listen, .. }
                if may_listen(self.config, listen, None) != Verdict::Allowed =>
            {
                return Err(Refusal::CREDENTIALS_MISSING);
            }
            _ => return Ok(Admission::Allowed),
        };
        let is_public = |channel| namespace_publish(self.config, channel) == Access::Public;
        if self.side == Side::Public && !publish.channels.iter().all(is_public) {
            return Err(Refusal::INTERNAL_ONLY);
        }
        Ok(Admission::Allowed)
    }

    /// `None`: the key of the token is not known yet.
    fn caller(
        &mut self,
        head: &RequestHead<'_>,
        may_wait: bool,
    ) -> Result<Option<Caller>, Refusal> {
        let cookie = self.config.auth.token_cookie.as_deref();
        let allowed = &self.config.allowed_origins;
        let token = match credential::find(head, cookie)? {
            None => return Ok(Some(Caller::Anonymous)),
            Some(Credential::ApiKey(secret)) => {
                let found = self.auth.find_api_key(secret).map(Caller::Backend);
                return found.map(Some).ok_or(Refusal::API_KEY_UNKNOWN);
            }
            Some(Credential::Bearer(text)) => {
                if let Some(key) = self.auth.find_api_key(text) {
                    return Ok(Some(Caller::Backend(key)));
                }
                // A token has dots; something without one was meant as a key.
                if !text.contains('.') && !self.config.auth.api_keys.is_empty() {
                    return Err(Refusal::API_KEY_UNKNOWN);
                }
                text.into()
            }
            Some(Credential::Query(text)) => text,
            // The browser adds it to whatever any page asks for, so the page has to be one that is known.
            Some(Credential::Cookie(_)) if !origin::is_known(head.origin, head.host, allowed) => {
                return Err(Refusal::ORIGIN_DENIED);
            }
            Some(Credential::Cookie(text)) => text.into(),
        };
        match self.verify(&token, may_wait)? {
            Verified::Session(session) => Ok(Some(Caller::User(session))),
            Verified::KeyMissing => Ok(None),
        }
    }

    /// Whether the backend says who sends `request`, if that shows no token. It is nobody's to publish where only the
    /// backend itself may.
    fn may_ask_who(&self, request: &mut Request) -> bool {
        let is_internal = |channel| namespace_publish(self.config, channel) == Access::Internal;
        let is_for_users = match request {
            Request::Publish(publish) => {
                !self.is_open_to_backend() && !publish.channels.iter().any(is_internal)
            }
            request => callback::listening(request).is_some(),
        };
        is_for_users && self.config.auth.connect_url.is_some()
    }

    /// Where the backend judges whatever else is shown.
    fn caller_by_api_key(&self, head: &RequestHead<'_>) -> Result<Caller, Refusal> {
        match credential::find(head, None) {
            Ok(Some(Credential::ApiKey(secret))) => {
                let found = self.auth.find_api_key(secret).map(Caller::Backend);
                found.ok_or(Refusal::API_KEY_UNKNOWN)
            }
            Ok(Some(Credential::Bearer(text))) => {
                let found = self.auth.find_api_key(text).map(Caller::Backend);
                Ok(found.unwrap_or(Caller::Anonymous))
            }
            Ok(_) | Err(CredentialError::SchemeUnsupported) => Ok(Caller::Anonymous),
            Err(error) => Err(error.into()),
        }
    }

    fn admit_listener(
        &mut self,
        listen: &mut ListenRequest,
        caller: Caller,
    ) -> Result<Verdict, Refusal> {
        let session = match caller {
            Caller::User(session) => Some(session),
            // A good key for something else.
            Caller::Backend(_) => {
                let is_public = may_listen(self.config, listen, None) == Verdict::Allowed;
                return if is_public {
                    Ok(Verdict::Allowed)
                } else {
                    Err(Refusal::CHANNEL_DENIED)
                };
            }
            Caller::Anonymous => None,
        };
        let Some(session) = session else {
            return Ok(may_listen(self.config, listen, None));
        };
        self.join(listen, session)?;
        Ok(Verdict::Allowed)
    }

    fn admit_publisher(
        &self,
        publish: &PublishRequest,
        caller: &Caller,
    ) -> Result<Admission, Refusal> {
        let channels = &publish.channels;
        let grant = match caller {
            _ if self.is_open_to_backend() => return Ok(Admission::Allowed),
            Caller::Backend(key) => return self.check_key(*key, channels),
            Caller::User(session) => Some(&*session.grant),
            Caller::Anonymous => None,
        };
        for channel in channels {
            match may_publish(self.config, channel, grant) {
                Verdict::Allowed => {}
                Verdict::Denied => return Err(Refusal::CHANNEL_DENIED),
                Verdict::CredentialsMissing => return Err(self.backend_needed(channel)),
            }
        }
        Ok(Admission::Allowed)
    }

    /// What to say where nothing was shown to publish on `channel`.
    fn backend_needed(&self, channel: &ChannelName) -> Refusal {
        let is_elsewhere = self.side == Side::Public && self.config.auth.api_keys.is_empty();
        if is_elsewhere && namespace_publish(self.config, channel) == Access::Internal {
            return Refusal::INTERNAL_ONLY;
        }
        Refusal::CREDENTIALS_MISSING
    }

    /// What is the backend's alone.
    fn admit_backend(&self, request: &Request, caller: &Caller) -> Result<Admission, Refusal> {
        let key = match caller {
            _ if self.is_open_to_backend() => return Ok(Admission::Allowed),
            Caller::Backend(key) => *key,
            Caller::User(_) => return Err(Refusal::API_KEY_REQUIRED),
            Caller::Anonymous => return Err(Refusal::CREDENTIALS_MISSING),
        };
        match request {
            Request::ChannelInfo(channel)
            | Request::ChannelDelete(channel)
            | Request::Inquiry(Inquiry::Subscribers { channel, .. }) => {
                self.check_key(key, std::slice::from_ref(channel))
            }
            // A connection may listen to anything.
            Request::Inquiry(_) if !self.auth.api_key(key).contains_all_of("") => {
                Err(Refusal::API_KEY_LIMITED)
            }
            Request::ChannelList(list) if !self.auth.api_key(key).contains_all_of(&list.prefix) => {
                Err(Refusal::CHANNEL_DENIED)
            }
            _ => Ok(Admission::Allowed),
        }
    }

    fn check_key(&self, key: usize, channels: &[ChannelName]) -> Result<Admission, Refusal> {
        let own = self.auth.api_key(key);
        if channels
            .iter()
            .all(|channel| own.contains(channel.as_str()))
        {
            Ok(Admission::Allowed)
        } else {
            Err(Refusal::CHANNEL_DENIED)
        }
    }

    /// An address of its own, and no key to ask for.
    fn is_open_to_backend(&self) -> bool {
        self.side.is_backend() && self.config.auth.api_keys.is_empty()
    }
}

/// Whether the channels of `listen` let somebody with this grant listen.
pub fn may_listen(config: &Config, listen: &ListenRequest, grant: Option<&Grant>) -> Verdict {
    if listen.start_of_token.is_some() && grant.is_none() {
        return Verdict::CredentialsMissing;
    }
    let verdicts = listen
        .channels
        .iter()
        .map(|(channel, _)| may_subscribe(config, channel, grant));
    verdicts
        .into_iter()
        .find(|verdict| *verdict != Verdict::Allowed)
        .unwrap_or(Verdict::Allowed)
}

pub fn may_subscribe(config: &Config, channel: &ChannelName, grant: Option<&Grant>) -> Verdict {
    let access = config.namespace(channel.namespace()).subscribe;
    verdict(access, grant, |grant| grant.lists_for_subscribe(channel))
}

/// Whether somebody with this grant may publish on `channel` by a request.
pub fn may_publish(config: &Config, channel: &ChannelName, grant: Option<&Grant>) -> Verdict {
    let access = namespace_publish(config, channel);
    verdict(access, grant, |grant| grant.lists_for_publish(channel))
}

/// Whether a frame of a WebSocket may be a publish on `channel`. `client_publish` opens a channel to those who listen
/// on it, unless `publish` asks for a token; `internal` there speaks of `POST /pub`.
pub fn may_publish_frame(config: &Config, channel: &ChannelName, grant: Option<&Grant>) -> bool {
    let namespace = config.namespace(channel.namespace());
    if grant.is_some_and(|grant| grant.lists_for_publish(channel)) {
        return true;
    }
    let asks_for_token = [Access::Authenticated, Access::Token].contains(&namespace.publish);
    namespace.client_publish
        && (!asks_for_token || verdict(namespace.publish, grant, |_| false) == Verdict::Allowed)
}

/// Whether somebody may publish on the public listener beside an internal one.
pub fn publishes_in_public(config: &Config) -> bool {
    let mut namespaces = config.namespaces.values();
    config.auth.has_keys() || namespaces.any(|namespace| namespace.publish == Access::Public)
}

fn namespace_publish(config: &Config, channel: &ChannelName) -> Access {
    config.namespace(channel.namespace()).publish
}

fn verdict(access: Access, grant: Option<&Grant>, lists: impl Fn(&Grant) -> bool) -> Verdict {
    let is_known = grant.is_some_and(|grant| !grant.is_anonymous);
    match (access, grant) {
        (Access::Public, _) => Verdict::Allowed,
        (Access::Authenticated, _) if is_known => Verdict::Allowed,
        (Access::Authenticated | Access::Token, Some(grant)) if lists(grant) => Verdict::Allowed,
        _ if is_known => Verdict::Denied,
        _ => Verdict::CredentialsMissing,
    }
}

#[cfg(test)]
mod tests;
