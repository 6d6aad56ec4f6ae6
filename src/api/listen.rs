//! The listening side of a request: which channels, from where on, in which format.

use std::sync::Arc;

use crate::api::access::{self, Verdict};
use crate::api::callback::Permit;
use crate::api::credentials::Credentials;
use crate::api::refusal::Refusal;
use crate::auth::grant::{Grant, Session};
use crate::config::Config;
use crate::hub::batch::Format;
use crate::hub::message::ChannelName;
use crate::hub::position::{Since, parse_cursor};
use crate::proto::query;

/// Who wants to listen to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenRequest {
    /// In the request's order, each once. Empty as long as they are a token's to say.
    pub channels: Vec<(ChannelName, Since)>,
    pub format: Format,
    /// Where to start on the channels of the token, or of the backend's answer.
    pub start_of_token: Option<Box<Start>>,
    /// With whose token.
    pub session: Option<Session>,
    /// A WebSocket's first message has to bring the token.
    pub token_due: bool,
    /// Who this is, the backend has yet to be asked.
    pub caller_due: bool,
    /// To be shown to the backend, which has yet to be asked.
    pub credentials: Option<Arc<Credentials>>,
}

/// Where to start, as the request says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    since: Option<Box<str>>,
    last: Option<usize>,
}

impl ListenRequest {
    /// `channels` is the last part of the path, still percent-encoded; `None`: those of the token. `last_event_id` is
    /// the header field, on the route where it counts.
    pub fn parse(
        channels: Option<&str>,
        query: &str,
        last_event_id: Option<&str>,
        config: &Config,
    ) -> Result<Self, Refusal> {
        let names = channels
            .map(|raw| parse_channels(raw, config))
            .transpose()?;
        let mut since = None;
        let mut last = None;
        let mut format = None;
        for pair in query::pairs(query) {
            let (key, value) = pair?;
            match &*key {
                "since" => since = Some(value),
                "last" => last = Some(parse_number(&value)?),
                "format" => {
                    format = Some(match &*value {
                        "raw" => Format::Raw,
                        "json" => Format::Json,
                        _ => return Err(Refusal::PARAMETER_INVALID),
                    });
                }
                _ => {}
            }
        }
        // A reconnecting browser repeats the old URL; where it really is it says in the header field.
        let since = match last_event_id.filter(|id| !id.is_empty()) {
            Some(id) => Some(id.into()),
            None => since.map(Into::into),
        };
        let start = Start { since, last };
        // How many channels a token names, its bearer need not know.
        let default = match &names {
            Some(names) if names.len() == 1 => Format::Raw,
            _ => Format::Json,
        };
        let (channels, start_of_token) = match names {
            Some(names) => (start.on(names)?, None),
            None => (Vec::new(), Some(Box::new(start))),
        };
        Ok(Self {
            channels,
            format: format.unwrap_or(default),
            start_of_token,
            session: None,
            token_due: false,
            caller_due: false,
            credentials: None,
        })
    }

    /// The user of the token.
    pub fn user(&self) -> Option<&str> {
        self.session.as_ref()?.grant.user.as_deref()
    }

    /// Listens as the backend allows it. Who has a token is whom that names; another is whom the backend names.
    pub fn allow(&mut self, permit: &Permit) {
        let Permit { grant, until_ms } = permit;
        match &mut self.session {
            None if grant.is_anonymous && until_ms.is_none() => {}
            None => self.session = Some(Session::unlimited(grant.clone())),
            // Another backend was asked before; what it lists, and its end, hold on.
            Some(session) if session.grant.is_anonymous && !grant.is_anonymous => {
                session.grant = Arc::new(Grant {
                    user: grant.user.clone(),
                    is_anonymous: false,
                    ..(*session.grant).clone()
                });
            }
            Some(_) => {}
        }
        if let (Some(session), Some(until_ms)) = (&mut self.session, until_ms) {
            session.limit(*until_ms);
        }
    }

    /// Listens with the token of `session`, or with what counts as much: on the channels that it names,
    /// unless the request named its own.
    pub fn join(&mut self, session: Session, config: &Config) -> Result<&mut Session, Refusal> {
        if let Some(start) = self.start_of_token.take() {
            let names = &session.grant.channels;
            if names.is_empty() {
                return Err(Refusal::CHANNELS_MISSING);
            }
            if names.len() > config.limits.channels_per_connection_max {
                return Err(Refusal::CHANNELS_TOO_MANY);
            }
            self.channels = start.on(names.to_vec())?;
        }
        if access::may_listen(config, self, Some(&session.grant)) != Verdict::Allowed {
            return Err(Refusal::CHANNEL_DENIED);
        }
        self.token_due = false;
        Ok(self.session.insert(session))
    }
}

impl Start {
    /// The same for all of `names`, or a cursor that has a position for each.
    fn on(&self, names: Vec<ChannelName>) -> Result<Vec<(ChannelName, Since)>, Refusal> {
        let starts = match self.since.as_deref() {
            Some("earliest") => vec![Since::Earliest; names.len()],
            Some("now") => vec![Since::Now; names.len()],
            Some(cursor) => parse_cursor(cursor, names.len())
                .ok_or(Refusal::CURSOR_INVALID)?
                .into_iter()
                .map(Since::After)
                .collect(),
            None => vec![self.last.map_or(Since::Now, Since::Last); names.len()],
        };
        Ok(names.into_iter().zip(starts).collect())
    }
}

/// What only a poll asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollParameters {
    /// 0: answer at once.
    pub wait_ms: u64,
    /// Messages of the answer.
    pub limit: usize,
}

impl PollParameters {
    pub fn parse(query: &str, config: &Config) -> Result<Self, Refusal> {
        let mut parameters = Self {
            wait_ms: 0,
            limit: config.limits.poll_limit_default,
        };
        for pair in query::pairs(query) {
            let (key, value) = pair?;
            match &*key {
                "wait" => {
                    let wait_ms = query::parse_seconds_ms(&value)?;
                    parameters.wait_ms = wait_ms.min(config.timing.poll_wait_max_ms);
                }
                "limit" => parameters.limit = parse_limit(&value, config.limits.poll_limit_max)?,
                _ => {}
            }
        }
        Ok(parameters)
    }
}

/// One channel, percent-encoded.
pub fn parse_channel(raw: &str) -> Result<ChannelName, Refusal> {
    ChannelName::parse(&query::decode_component(raw, false)?).ok_or(Refusal::CHANNEL_NAME_INVALID)
}

/// Channels joined by `,`, each percent-encoded, none twice.
pub fn parse_channels(raw: &str, config: &Config) -> Result<Vec<ChannelName>, Refusal> {
    let mut names: Vec<ChannelName> = Vec::new();
    for part in query::split_list(raw) {
        if names.len() == config.limits.channels_per_connection_max {
            return Err(Refusal::CHANNELS_TOO_MANY);
        }
        let name = parse_channel(part)?;
        if names.contains(&name) {
            return Err(Refusal::CHANNEL_REPEATED);
        }
        names.push(name);
    }
    Ok(names)
}

/// How many of something are wanted: one at least, and `max` at most whatever is asked for.
pub fn parse_limit(value: &str, max: usize) -> Result<usize, Refusal> {
    match parse_number(value)? {
        0 => Err(Refusal::PARAMETER_INVALID),
        limit => Ok(limit.min(max)),
    }
}

/// A count in a query; larger than anything here can be is as good as the largest.
pub fn parse_number(value: &str) -> Result<usize, Refusal> {
    let number = query::parse_number(value)?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}
