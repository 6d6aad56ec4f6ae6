//! Asking about channels.

use std::io::Write;

use crate::api::listen::parse_number;
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
                "limit" => match parse_number(&value)? {
                    0 => return Err(Refusal::PARAMETER_INVALID),
                    limit => list.limit = limit.min(LIMIT_MAX),
                },
                _ => {}
            }
        }
        Ok(list)
    }
}

/// `{"channel":…,"position":…,"oldest":…,"messages":…,"subscribers":…,"bytes":…}`
pub fn write_info(out: &mut Vec<u8>, info: &ChannelInfo) {
    out.extend_from_slice(br#"{"channel":"#);
    json::write_string(out, info.name.as_str());
    let ChannelInfo {
        position,
        oldest,
        messages,
        bytes,
        subscribers,
        ..
    } = info;
    write!(
        out,
        r#","position":"{position}","oldest":"{oldest}","messages":{messages},"subscribers":{subscribers},"bytes":{bytes}}}"#
    )
    .expect("writing to a Vec");
}

/// `{"channels":[…],"next":"…"}`; `next` is the `after` of the following page, and absent on the last one. `pages`
/// are the shards' own pages, each in the order of names.
pub fn write_list(out: &mut Vec<u8>, pages: Vec<Vec<ChannelInfo>>, limit: usize) {
    let mut all: Vec<_> = pages.into_iter().flatten().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let has_more = all.len() > limit;
    all.truncate(limit);
    out.extend_from_slice(br#"{"channels":["#);
    for (index, info) in all.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_info(out, info);
    }
    out.push(b']');
    if has_more && let Some(last) = all.last() {
        out.extend_from_slice(br#","next":"#);
        json::write_string(out, last.name.as_str());
    }
    out.push(b'}');
}
