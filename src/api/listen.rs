//! The listening side of a request: which channels, from where on, in which format.

use crate::api::refusal::Refusal;
use crate::config::Config;
use crate::hub::batch::Format;
use crate::hub::message::ChannelName;
use crate::hub::position::{Since, parse_cursor};
use crate::proto::http_request::RequestHead;
use crate::proto::query;

/// Who wants to listen to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenRequest {
    /// In the request's order, each once.
    pub channels: Vec<(ChannelName, Since)>,
    pub format: Format,
}

impl ListenRequest {
    /// `channels` is the last part of the path, still percent-encoded.
    pub fn parse(channels: &str, head: &RequestHead<'_>, config: &Config) -> Result<Self, Refusal> {
        let names = parse_channels(channels, config)?;
        let mut since = None;
        let mut last = None;
        let mut format = None;
        for pair in query::pairs(head.query) {
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
        let is_stream = head.path.starts_with("/sse/");
        let since = match head.last_event_id.filter(|id| is_stream && !id.is_empty()) {
            Some(id) => Some(id.into()),
            None => since,
        };
        let starts = match since.as_deref() {
            Some("earliest") => vec![Since::Earliest; names.len()],
            Some("now") => vec![Since::Now; names.len()],
            Some(cursor) => parse_cursor(cursor, names.len())
                .ok_or(Refusal::CURSOR_INVALID)?
                .into_iter()
                .map(Since::After)
                .collect(),
            None => vec![last.map_or(Since::Now, Since::Last); names.len()],
        };
        let default = if names.len() == 1 {
            Format::Raw
        } else {
            Format::Json
        };
        Ok(Self {
            channels: names.into_iter().zip(starts).collect(),
            format: format.unwrap_or(default),
        })
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
                    let wait_ms =
                        query::parse_seconds_ms(&value).map_err(|_| Refusal::PARAMETER_INVALID)?;
                    parameters.wait_ms = wait_ms.min(config.timing.poll_wait_max_ms);
                }
                "limit" => match parse_number(&value)? {
                    0 => return Err(Refusal::PARAMETER_INVALID),
                    limit => parameters.limit = limit.min(config.limits.poll_limit_max),
                },
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

/// A count in a query; larger than anything here can be is as good as the largest.
pub fn parse_number(value: &str) -> Result<usize, Refusal> {
    let number = query::parse_number(value).map_err(|_| Refusal::PARAMETER_INVALID)?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}
