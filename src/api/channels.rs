//! Asking about channels.

use serde::Serialize;

use crate::api::listen::parse_limit;
use crate::api::refusal::Refusal;
use crate::hub::ChannelInfo;
use crate::proto::{json, query};

/// Channels of one page when the request does not say.
const LIMIT_DEFAULT: usize = 100;
/// Channels of one page at most.
const LIMIT_MAX: usize = 1000;

/// One page of channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelList {
    pub prefix: Box<str>,
    /// The last name of the page before.
    pub after: Option<Box<str>>,
    pub limit: usize,
}

impl ChannelList {
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut list = Self {
            prefix: "".into(),
            after: None,
            limit: LIMIT_DEFAULT,
        };
        for pair in query::pairs(query) {
            let (key, value) = pair?;
            match &*key {
                "prefix" => list.prefix = value.into(),
                "after" => list.after = Some(value.into()),
                "limit" => list.limit = parse_limit(&value, LIMIT_MAX)?,
                _ => {}
            }
        }
        Ok(list)
    }
}

/// One channel, as the answer shows it.
#[derive(Serialize)]
struct Info<'a> {
    channel: &'a str,
    position: String,
    oldest: String,
    messages: usize,
    subscribers: u32,
    bytes: usize,
}

/// `next` is the `after` of the following page, and absent on the last one.
#[derive(Serialize)]
struct List<'a> {
    channels: Vec<Info<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

impl<'a> From<&'a ChannelInfo> for Info<'a> {
    fn from(info: &'a ChannelInfo) -> Self {
        Self {
            channel: info.name.as_str(),
            position: info.position.to_string(),
            oldest: info.oldest.to_string(),
            messages: info.messages,
            subscribers: info.subscribers,
            bytes: info.bytes,
        }
    }
}

/// `{"channel":…,"position":…,"oldest":…,"messages":…,"subscribers":…,"bytes":…}`
pub fn write_info(out: &mut Vec<u8>, info: &ChannelInfo) {
    json::write(out, &Info::from(info));
}

/// `{"channels":[…],"next":"…"}`. `pages` are the shards' own pages, each in the order of names.
pub fn write_list(out: &mut Vec<u8>, pages: Vec<Vec<ChannelInfo>>, limit: usize) {
    let mut all: Vec<_> = pages.into_iter().flatten().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let has_more = all.len() > limit;
    all.truncate(limit);
    let last = all.last().filter(|_| has_more);
    let list = List {
        channels: all.iter().map(Info::from).collect(),
        next: last.map(|info| info.name.as_str()),
    };
    json::write(out, &list);
}
