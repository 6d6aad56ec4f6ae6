//! One setting: its name, where its value lives, how it is read and shown.
//!
//! Flag, environment variable, file key, `--help`, the block printed at start and the README's table all come from it.
//! Which settings a reload cannot change is listed in [`reload`](super::reload).

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::address::ListenAddress;
use super::auth::Secret;
use super::network::Network;
use super::value::{self, ValueError};

/// One setting of a `T`: the whole [`Config`](super::Config), or one [`Namespace`](super::Namespace).
pub struct Setting<T: 'static> {
    /// As in the file: `message_bytes_max`.
    pub name: &'static str,
    pub group: Group,
    pub kind: Kind<T>,
    /// One or two sentences: what it bounds, and what happens at the bound.
    pub help: &'static str,
}

/// The order of settings in every listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Network,
    Authentication,
    Callback,
    Requests,
    Delivery,
    Channels,
    HistoryLog,
    Backplane,
    Shards,
    Shutdown,
    Logs,
    Namespace,
    TokenKey,
    ApiKey,
}

/// What a value is, where it lives, and from where to where it may go.
pub enum Kind<T: 'static> {
    Duration(Field<T, u64>, RangeInclusive<u64>),
    Bytes(Field<T, usize>, RangeInclusive<usize>),
    Count(Field<T, usize>, RangeInclusive<usize>),
    Bool(Field<T, bool>),
    /// One of a few words, by index.
    Choice {
        words: &'static [&'static str],
        get: fn(&T) -> usize,
        set: fn(&mut T, usize),
    },
    Addresses(Field<T, Vec<SocketAddr>>),
    /// An address, a unix socket, or `none`.
    OptionalAddress(Field<T, Option<ListenAddress>>),
    /// Permissions of a file, in octal digits.
    Mode(Field<T, u32>),
    Origins(Field<T, Vec<String>>),
    /// Any text, or `none`.
    OptionalText(Field<T, Option<String>>),
    /// An `http://` or `https://` URL, or `none`.
    OptionalUrl(Field<T, Option<String>>),
    /// A text that is not shown.
    Secret(Field<T, Option<Secret>>),
    /// Names of channels, and beginnings of such with a `*`.
    Channels(Field<T, Vec<String>>),
    /// Names of header fields, or `none`.
    HeaderNames(Field<T, Vec<String>>),
    /// Networks, or `none`.
    Networks(Field<T, Vec<Network>>),
}

/// Stands in every listing where a secret would.
pub const HIDDEN: &str = "(not shown)";

/// A place inside a `T`.
pub struct Field<T: 'static, V: 'static> {
    pub get: fn(&T) -> &V,
    pub get_mut: fn(&mut T) -> &mut V,
}

impl<T, V> Field<T, V> {
    fn set(&self, target: &mut T, value: V) {
        *(self.get_mut)(target) = value;
    }
}

impl<T> Setting<T> {
    /// Reads `text` into the setting's place. `target` is unchanged on error.
    pub fn apply(&self, target: &mut T, text: &str) -> Result<(), ValueError> {
        let text = text.trim();
        match &self.kind {
            Kind::Duration(field, range) => {
                field.set(target, within(value::parse_duration_ms(text)?, range)?)
            }
            Kind::Bytes(field, range) => {
                field.set(target, within(to_usize(value::parse_bytes(text)?)?, range)?)
            }
            Kind::Count(field, range) => {
                field.set(target, within(to_usize(value::parse_count(text)?)?, range)?)
            }
            Kind::Bool(field) => field.set(target, value::parse_bool(text)?),
            Kind::Choice { words, set, .. } => {
                set(
                    target,
                    words
                        .iter()
                        .position(|word| *word == text)
                        .ok_or(ValueError::Malformed)?,
                );
            }
            Kind::Addresses(field) => field.set(target, parse_list(text, value::parse_address)?),
            Kind::OptionalAddress(field) if text == "none" => field.set(target, None),
            Kind::OptionalAddress(field) => field.set(target, Some(text.parse()?)),
            Kind::Mode(field) => field.set(target, value::parse_mode(text)?),
            Kind::Origins(field) => field.set(target, parse_list(text, value::parse_origin)?),
            Kind::OptionalText(field) if text == "none" => field.set(target, None),
            Kind::OptionalText(field) => field.set(target, Some(value::parse_text(text)?)),
            Kind::OptionalUrl(field) if text == "none" => field.set(target, None),
            Kind::OptionalUrl(field) => field.set(target, Some(value::parse_url(text)?)),
            Kind::Secret(field) if text == "none" => field.set(target, None),
            Kind::Secret(field) => {
                field.set(target, Some(Secret(value::parse_text(text)?)));
            }
            Kind::Channels(field) => {
                field.set(target, parse_list(text, value::parse_channel_pattern)?)
            }
            Kind::HeaderNames(field) if text == "none" => field.set(target, Vec::new()),
            Kind::HeaderNames(field) => {
                field.set(target, parse_list(text, value::parse_header_name)?)
            }
            Kind::Networks(field) if text == "none" => field.set(target, Vec::new()),
            Kind::Networks(field) => field.set(target, parse_list(text, value::parse_network)?),
        }
        Ok(())
    }

    /// The value as [`Setting::apply`] reads it.
    pub fn show(&self, target: &T) -> String {
        match &self.kind {
            Kind::Duration(field, _) => value::show_duration_ms(*(field.get)(target)),
            Kind::Bytes(field, _) => value::show_bytes(*(field.get)(target) as u64),
            Kind::Count(field, _) => (field.get)(target).to_string(),
            Kind::Bool(field) => (field.get)(target).to_string(),
            Kind::Choice { words, get, .. } => words[get(target)].to_owned(),
            Kind::Addresses(field) => show_list((field.get)(target)),
            Kind::OptionalAddress(field) => {
                let address = (field.get)(target).as_ref();
                address.map_or_else(|| "none".to_owned(), ToString::to_string)
            }
            Kind::Mode(field) => value::show_mode(*(field.get)(target)),
            Kind::Origins(field) | Kind::Channels(field) => show_list((field.get)(target)),
            Kind::HeaderNames(field) if (field.get)(target).is_empty() => "none".to_owned(),
            Kind::HeaderNames(field) => show_list((field.get)(target)),
            Kind::OptionalText(field) | Kind::OptionalUrl(field) => (field.get)(target)
                .clone()
                .unwrap_or_else(|| "none".to_owned()),
            Kind::Secret(field) => match (field.get)(target) {
                Some(_) => HIDDEN.to_owned(),
                None => "none".to_owned(),
            },
            Kind::Networks(field) if (field.get)(target).is_empty() => "none".to_owned(),
            Kind::Networks(field) => show_list((field.get)(target)),
        }
    }

    /// Both have the same value.
    pub fn is_same(&self, one: &T, other: &T) -> bool {
        match &self.kind {
            Kind::Secret(field) => (field.get)(one) == (field.get)(other),
            _ => self.show(one) == self.show(other),
        }
    }

    /// Gives `to` the value that `from` has.
    pub fn copy(&self, from: &T, to: &mut T) {
        if let Kind::Secret(field) = &self.kind {
            return field.set(to, (field.get)(from).clone());
        }
        let copied = self.apply(to, &self.show(from));
        debug_assert_eq!(copied, Ok(()), "what is shown reads back");
    }

    /// A value that was refused is not to be repeated: it may be a secret, or have one in it.
    pub fn may_hold_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret(_) | Kind::OptionalUrl(_))
    }

    /// What to write instead of a value that was refused.
    pub fn expected(&self) -> String {
        match &self.kind {
            Kind::Duration(..) => format!("a duration such as 500ms, 25s or 10m, {}", self.range()),
            Kind::Bytes(..) => format!("a size such as 65536, 64KiB or 1MiB, {}", self.range()),
            Kind::Count(..) => format!("a whole number {}", self.range()),
            Kind::Bool(_) => "true or false".to_owned(),
            Kind::Choice { words, .. } => format!("one of {}", words.join(", ")),
            Kind::Addresses(_) => {
                "addresses with ports such as 127.0.0.1:8080, joined by commas".to_owned()
            }
            Kind::OptionalAddress(_) => {
                "an address with a port such as 127.0.0.1:8081, a unix socket such as unix:/run/pushring.sock, or none"
                    .to_owned()
            }
            Kind::Mode(_) => "the mode of a file such as 0660, in octal digits".to_owned(),
            Kind::Origins(_) => {
                "*, or origins such as https://*.example.com, joined by commas".to_owned()
            }
            Kind::OptionalText(_) => "a text, or none".to_owned(),
            Kind::OptionalUrl(_) => {
                "a URL that begins with https:// or http:// and has no password in it, or none".to_owned()
            }
            Kind::Secret(_) => "a text".to_owned(),
            Kind::Channels(_) => "names of channels, prefix* or *, joined by commas".to_owned(),
            Kind::HeaderNames(_) => {
                "names of header fields such as User-Agent, none that belongs to the connection or its body, joined by \
                 commas; or none"
                    .to_owned()
            }
            Kind::Networks(_) => {
                "networks such as 10.0.0.0/8 or 192.0.2.7, with no bits set behind the prefix, joined by commas; or none"
                    .to_owned()
            }
        }
    }

    /// `from 100ms to 1h`, or the words to choose from; empty where the kind says it all.
    pub fn range(&self) -> String {
        let from_to = |low: String, high: String| format!("from {low} to {high}");
        match &self.kind {
            Kind::Duration(_, r) => from_to(
                value::show_duration_ms(*r.start()),
                value::show_duration_ms(*r.end()),
            ),
            Kind::Bytes(_, r) => from_to(
                value::show_bytes(*r.start() as u64),
                value::show_bytes(*r.end() as u64),
            ),
            Kind::Count(_, r) => from_to(r.start().to_string(), r.end().to_string()),
            Kind::Bool(_) => "true, false".to_owned(),
            Kind::Choice { words, .. } => words.join(", "),
            Kind::Addresses(_)
            | Kind::OptionalAddress(_)
            | Kind::Mode(_)
            | Kind::Origins(_)
            | Kind::OptionalText(_)
            | Kind::OptionalUrl(_)
            | Kind::Secret(_)
            | Kind::Channels(_)
            | Kind::HeaderNames(_)
            | Kind::Networks(_) => String::new(),
        }
    }

    /// `MESSAGE_BYTES_MAX` would say nothing new; `SIZE` does.
    pub fn placeholder(&self) -> &'static str {
        match &self.kind {
            Kind::Duration(..) => "DURATION",
            Kind::Bytes(..) => "SIZE",
            Kind::Count(..) => "N",
            Kind::Bool(_) => "BOOL",
            Kind::Choice { .. } => "WORD",
            Kind::Addresses(_) | Kind::OptionalAddress(_) => "ADDR",
            Kind::Mode(_) => "MODE",
            Kind::Origins(_) => "ORIGIN",
            Kind::OptionalText(_) | Kind::Secret(_) => "TEXT",
            Kind::OptionalUrl(_) => "URL",
            Kind::Channels(_) => "CHANNEL",
            Kind::HeaderNames(_) => "FIELD",
            Kind::Networks(_) => "NETWORK",
        }
    }

    /// Whether the value is several joined by commas, so that a flag may be repeated.
    pub fn is_list(&self) -> bool {
        matches!(
            self.kind,
            Kind::Addresses(_)
                | Kind::Origins(_)
                | Kind::Networks(_)
                | Kind::Channels(_)
                | Kind::HeaderNames(_)
        )
    }

    /// `--message-bytes-max`, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

impl Group {
    pub const ALL: &[Self] = &[
        Self::Network,
        Self::Authentication,
        Self::Callback,
        Self::Requests,
        Self::Delivery,
        Self::Channels,
        Self::HistoryLog,
        Self::Backplane,
        Self::Shards,
        Self::Shutdown,
        Self::Logs,
        Self::Namespace,
        Self::TokenKey,
        Self::ApiKey,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Network => "Network",
            Self::Authentication => "Authentication",
            Self::Callback => "Callback",
            Self::Requests => "Requests",
            Self::Delivery => "Delivery",
            Self::Channels => "Channels",
            Self::HistoryLog => "Durable history",
            Self::Backplane => "Several nodes",
            Self::Shards => "Shards",
            Self::Shutdown => "Shutdown",
            Self::Logs => "Logs",
            Self::Namespace => "Namespace",
            Self::TokenKey => "Token key",
            Self::ApiKey => "API key",
        }
    }
}

fn within<N: PartialOrd>(n: N, range: &RangeInclusive<N>) -> Result<N, ValueError> {
    match n {
        n if n < *range.start() => Err(ValueError::TooSmall),
        n if n > *range.end() => Err(ValueError::TooBig),
        n => Ok(n),
    }
}

fn to_usize(n: u64) -> Result<usize, ValueError> {
    usize::try_from(n).map_err(|_| ValueError::TooBig)
}

/// Never empty: "nothing" is said by leaving the setting out.
fn parse_list<V>(
    text: &str,
    parse: fn(&str) -> Result<V, ValueError>,
) -> Result<Vec<V>, ValueError> {
    text.split(',').map(|item| parse(item.trim())).collect()
}

fn show_list<V: ToString>(items: &[V]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
