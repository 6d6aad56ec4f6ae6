//! Redis, or Valkey, as the broker: one server, one with Sentinel, or a cluster. Redis 7.0, Valkey 7.2 or later.
//!
//! Functions at the server (`library.lua`) do all that has to be one step: number a message, keep it,
//! announce it, remember its idempotency key. They know themselves when another server has numbered before them, so no
//! offset is given out twice by whomever they are called; a backend can publish without a node in between:
//!
//! ```text
//! redis-cli FCALL pushring_publish 1 'PREFIX:{CHANNEL}' PAYLOAD [KIND [EVENT [TTL_MS [STORE [KEY]]]]]
//! redis-cli FCALL pushring_publish 1 'pushring:{news}' '{"a":1}' json created 60000 1 order-17
//! ```
//!
//! `KIND` is `json`, `text` (without one) or `binary`; `EVENT` the event's name; `TTL_MS` how long the message is good
//! for; `STORE` `0` for those only who listen now; `KEY` what an `Idempotency-Key` is over HTTP. `''` leaves one out.
//! The answer is the position and the receivers, of which the server knows none. The functions are there as soon as one
//! node was connected; a channel is kept as the last node said that used it, or like 100 messages for 10 minutes.
//!
//! What is acknowledged can be lost if a replica is promoted that does not have it yet, and nobody can say whether it
//! is. So every channel begins a new epoch with whoever takes over from another server, and clients are told of a gap;
//! a master with replicas that restarts from an RDB file is as good as another one. After any other restart positions
//! jump, and only where somebody knows of a message that is lost the epoch changes.
//!
//! A user of its own needs `~PREFIX:* &PREFIX:* +fcall +function|list +function|load +info +time +get +getex +set +del
//! +pexpire +xadd +xtrim +xrevrange +publish +subscribe +unsubscribe`; in a cluster `+cluster|slots +spublish
//! +ssubscribe +sunsubscribe` for the last three; with Sentinel `+role`.
//!
//! Publish and subscribe knows no databases: nodes on one server that are not to hear each other need different
//! prefixes.

mod dialer;
mod events;
mod frame;
mod keys;
mod link;
mod runs;
mod servers;
mod url;

use futures_util::future::{join_all, try_join, try_join_all};
use redis::{Cmd, Pipeline, ServerError, Value, cmd};
use tokio::sync::mpsc;

use crate::backplane::broker::{Broker, BrokerError, Event, Publishing, Reading, Settings};
use crate::backplane::order::{Keep, NotPublished, Standing};
use crate::backplane::redis::dialer::Dialer;
use crate::backplane::redis::events::{ANNOUNCED_BYTES_MAX, Hearing, Names};
use crate::backplane::redis::keys::{Keys, SLOTS, slot};
use crate::backplane::redis::link::{Lane, Link, UNREADABLE};
use crate::backplane::redis::servers::masters;
use crate::backplane::redis::url::{RedisUrl, Servers};
use crate::backplane::refusals::Refusals;
use crate::hub::Published;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;

/// Channels that are listened to or looked at in one round trip: the answer is a few milliseconds of the server's time.
const CHANNELS_AT_ONCE: usize = 512;

/// Channels whose histories come in one round trip, which has to be over within `backplane_timeout`: mostly some
/// hundred KiB, at worst many MiB.
const HISTORIES_AT_ONCE: usize = 16;

/// Ten years, in milliseconds: what is longer would overflow the server's own sum of it and its clock.
const TIME_MS_MAX: u64 = 10 * 365 * 86_400_000;

/// What a reading is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Histories,
    Heads,
}

/// Connected to every master.
pub struct Redis {
    links: Vec<Link>,
    /// By slot, which link serves it.
    by_slot: Vec<u16>,
    names: Names,
    hearing: Hearing,
    verbs: &'static Verbs,
    refusals: Refusals,
}

/// The commands that announce and listen.
struct Verbs {
    announce: &'static str,
    listen: &'static str,
    unlisten: &'static str,
}

const PLAIN: Verbs = Verbs {
    announce: "PUBLISH",
    listen: "SUBSCRIBE",
    unlisten: "UNSUBSCRIBE",
};

/// In a cluster an announcement stays with the servers of its slot.
const SHARDED: Verbs = Verbs {
    announce: "SPUBLISH",
    listen: "SSUBSCRIBE",
    unlisten: "SUNSUBSCRIBE",
};

/// Whether the URL is one of Redis; what to write instead, if not.
pub fn check_url(url: &str) -> Result<(), String> {
    RedisUrl::parse(url)
        .map(drop)
        .map_err(|error| error.message().to_owned())
}

impl Broker for Redis {
    async fn connect(settings: &Settings) -> Result<(Self, mpsc::Receiver<Event>), BrokerError> {
        let wrong = |text: &str| BrokerError(text.into());
        let url = RedisUrl::parse(&settings.url).map_err(|error| wrong(error.message()))?;
        let keys = Keys::new(&settings.prefix).map_err(|error| wrong(error.message()))?;
        let ca = settings.ca_file.as_ref().map(|path| {
            std::fs::read(path)
                .map_err(|error| wrong(&format!("backplane_ca_file: {path}: {error}")))
        });
        let dialer = Dialer {
            tls: url.tls,
            credentials: url.credentials,
            ca: ca.transpose()?,
            timeout: settings.timeout,
        };
        let masters = masters(&dialer, &url.servers, &keys.notes()).await?;
        let canaries = masters.iter().enumerate().map(|(connection, master)| {
            keys.canary(settings.node, connection, |slot| master.serves(slot))
        });
        let names = Names {
            notes: keys.notes(),
            canaries: canaries.flatten().collect(),
            keys,
        };
        let mut by_slot = vec![0; usize::from(SLOTS)];
        for (connection, master) in masters.iter().enumerate() {
            for slot in master.slots.iter().cloned().flatten() {
                by_slot[usize::from(slot)] = connection as u16;
            }
        }
        let (mut ear, hearing, events) = events::ears(names.clone(), ANNOUNCED_BYTES_MAX);
        let connecting = masters
            .into_iter()
            .enumerate()
            .map(|(connection, master)| Link::connect(&dialer, master, ear(connection)));
        let broker = Self {
            links: try_join_all(connecting).await?,
            by_slot,
            names,
            hearing,
            verbs: match url.servers {
                Servers::Cluster(_) => &SHARDED,
                Servers::Single { .. } | Servers::Sentinel { .. } => &PLAIN,
            },
            refusals: Refusals::new(),
        };
        broker.listen_to_oneself().await?;
        Ok((broker, events))
    }

    fn connections(&self) -> usize {
        self.links.len()
    }

    async fn publish(
        &self,
        publishes: Vec<Publishing>,
    ) -> Result<Vec<Result<Published, NotPublished>>, BrokerError> {
        let runs = runs::runs(&publishes);
        let channels = runs.iter().map(|run| &publishes[run[0]].publish.channel);
        let bases: Vec<_> = channels
            .map(|channel| self.names.keys.base(channel))
            .collect();
        let command = |index: usize| runs::command(&bases[index], &runs[index], &publishes);
        // All at once: later calls must not come in between.
        let replies = self.call(Lane::Main, &bases, command, usize::MAX).await?;
        let mut results = vec![Err(NotPublished::Refused); publishes.len()];
        for ((reply, run), base) in replies.iter().zip(&runs).zip(&bases) {
            if let Value::ServerError(error) = reply {
                let error_text = self.link(base).error(error);
                if is_end(error) {
                    return Err(error_text);
                }
                self.refusals.log(error_text);
                continue;
            }
            let published = runs::published(reply, run, &publishes);
            let published = published.ok_or_else(|| self.unreadable(base))?;
            for (&index, published) in run.iter().zip(published) {
                results[index] = Ok(published);
            }
        }
        Ok(results)
    }

    async fn listen(&self, channels: &[ChannelName]) -> Result<(), BrokerError> {
        let bases = self.bases(channels);
        let command = |index: usize| one_argument(self.verbs.listen, &bases[index]);
        let replies = self.call(Lane::Main, &bases, command, CHANNELS_AT_ONCE);
        self.all_well(replies.await?, &bases)
    }

    async fn unlisten(&self, channels: &[ChannelName]) -> Result<(), BrokerError> {
        let bases = self.bases(channels);
        for base in &bases {
            self.link(base).expect_leaving(1);
        }
        let command = |index: usize| one_argument(self.verbs.unlisten, &bases[index]);
        let replies = self.call(Lane::Main, &bases, command, CHANNELS_AT_ONCE);
        self.all_well(replies.await?, &bases)
    }

    async fn read(&self, readings: &[Reading]) -> Result<Vec<Standing>, BrokerError> {
        let standings = self.look(readings, Wanted::Histories).await?;
        self.hearing.catch_up().await;
        Ok(standings)
    }

    async fn remind(&self, readings: &[Reading]) -> Result<(), BrokerError> {
        self.look(readings, Wanted::Heads).await.map(drop)
    }

    async fn delete(&self, channel: &ChannelName, _keep: Keep) -> Result<bool, BrokerError> {
        let base = self.names.keys.base(channel);
        let mut command = cmd("FCALL");
        command.arg("pushring_delete").arg(1).arg(&base);
        match self.link(&base).reply(Lane::Main, command).await? {
            Value::Int(deleted) => Ok(deleted != 0),
            _ => Err(self.unreadable(&base)),
        }
    }

    async fn canary(&self, number: u64) -> Result<(), BrokerError> {
        let number = number.to_string();
        let canaries = self.links.iter().zip(&self.names.canaries);
        let sent = canaries.map(|(link, name)| {
            let canary = self.announce(name, number.as_bytes());
            try_join(link.reply(Lane::Main, canary), link.ping(Lane::Histories))
        });
        join_all(sent)
            .await
            .into_iter()
            .try_for_each(|sent| sent.map(drop))
    }

    /// All servers of a cluster are taken to have one time.
    async fn now_ms(&self) -> Result<u64, BrokerError> {
        self.links[0].now_ms().await
    }

    async fn tell(&self, note: &[u8]) -> Result<(), BrokerError> {
        let name = &self.names.notes;
        let command = self.announce(name, note);
        self.link(name).reply(Lane::Main, command).await.map(drop)
    }
}

impl Redis {
    /// To the canary of each connection, and to the notes.
    async fn listen_to_oneself(&self) -> Result<(), BrokerError> {
        for (link, canary) in self.links.iter().zip(&self.names.canaries) {
            let command = one_argument(self.verbs.listen, canary);
            link.reply(Lane::Main, command).await?;
        }
        let notes = &self.names.notes;
        let command = one_argument(self.verbs.listen, notes);
        self.link(notes).reply(Lane::Main, command).await.map(drop)
    }

    /// Where each channel stands, without its messages if only the heads are wanted.
    async fn look(
        &self,
        readings: &[Reading],
        wanted: Wanted,
    ) -> Result<Vec<Standing>, BrokerError> {
        let (lane, at_once) = match wanted {
            Wanted::Histories => (Lane::Histories, HISTORIES_AT_ONCE),
            Wanted::Heads => (Lane::Main, CHANNELS_AT_ONCE),
        };
        let bases: Vec<_> = readings
            .iter()
            .map(|reading| self.names.keys.base(&reading.channel))
            .collect();
        let mut standings = self.unchanged(readings, &bases).await?;
        let is_open = |index: &usize| standings[*index].is_none();
        let open: Vec<_> = (0..readings.len()).filter(is_open).collect();
        let open_bases: Vec<_> = open.iter().map(|&index| bases[index].clone()).collect();
        let command = |at: usize| read_command(&open_bases[at], &readings[open[at]], wanted);
        let replies = self.call(lane, &open_bases, command, at_once);
        for ((reply, &index), base) in replies.await?.into_iter().zip(&open).zip(&open_bases) {
            let standing = match reply {
                Value::ServerError(error) => return Err(self.link(base).error(&error)),
                reply => standing(&readings[index].channel, reply),
            };
            standings[index] = Some(standing.ok_or_else(|| self.unreadable(base))?);
        }
        Ok(standings.into_iter().flatten().collect())
    }

    /// The standings of those whose head is what the reading names, by a look at it alone: most are, whenever all
    /// channels are compared, and the function would take ten times as long.
    async fn unchanged(
        &self,
        readings: &[Reading],
        bases: &[String],
    ) -> Result<Vec<Option<Standing>>, BrokerError> {
        let mut standings: Vec<_> = readings.iter().map(|_| None).collect();
        let named: Vec<_> = (0..readings.len())
            .filter(|&index| readings[index].after.is_some())
            .collect();
        let named_bases: Vec<_> = named.iter().map(|&index| bases[index].clone()).collect();
        let command = |at: usize| head_command(&named_bases[at], &readings[named[at]].keep);
        let replies = self.call(Lane::Main, &named_bases, command, CHANNELS_AT_ONCE);
        for (reply, &index) in replies.await?.into_iter().zip(&named) {
            let heir = self.link(&bases[index]).heir.as_deref();
            let head = readings[index].after;
            standings[index] = head
                .filter(|head| is_head(&reply, *head, heir))
                .map(|head| Standing {
                    head,
                    is_used: head.offset > 0,
                    messages: Vec::new(),
                });
        }
        Ok(standings)
    }

    fn bases(&self, channels: &[ChannelName]) -> Vec<String> {
        let keys = &self.names.keys;
        channels.iter().map(|channel| keys.base(channel)).collect()
    }

    /// The connection to whoever serves the key or channel.
    fn link(&self, name: &str) -> &Link {
        &self.links[self.link_index(name)]
    }

    fn link_index(&self, name: &str) -> usize {
        usize::from(self.by_slot[usize::from(slot(name.as_bytes()))])
    }

    /// Sends a command for each name to whoever serves it, `at_once` of them in one round trip; the replies in the
    /// order of the names. What was announced before a reply is heard before the return.
    async fn call(
        &self,
        lane: Lane,
        names: &[String],
        command: impl Fn(usize) -> Cmd,
        at_once: usize,
    ) -> Result<Vec<Value>, BrokerError> {
        let mut of_link = vec![Vec::new(); self.links.len()];
        for (index, name) in names.iter().enumerate() {
            of_link[self.link_index(name)].push(index);
        }
        let command = &command;
        let calls = self
            .links
            .iter()
            .zip(&of_link)
            .map(|(link, indices)| async move {
                let mut replies = Vec::with_capacity(indices.len());
                for indices in indices.chunks(at_once) {
                    let mut commands = Pipeline::with_capacity(indices.len());
                    for &index in indices {
                        commands.add_command(command(index));
                    }
                    replies.extend(link.replies(lane, &commands).await?);
                }
                if lane != Lane::Main && !indices.is_empty() {
                    link.ping(Lane::Main).await?;
                }
                Ok::<_, BrokerError>(replies)
            });
        let of_link_replies = try_join_all(calls).await?;
        let mut replies = vec![Value::Nil; names.len()];
        let indices = of_link.into_iter().flatten();
        for (index, reply) in indices.zip(of_link_replies.into_iter().flatten()) {
            replies[index] = reply;
        }
        Ok(replies)
    }

    fn all_well(&self, replies: Vec<Value>, names: &[String]) -> Result<(), BrokerError> {
        for (reply, name) in replies.iter().zip(names) {
            if let Value::ServerError(error) = reply {
                return Err(self.link(name).error(error));
            }
        }
        Ok(())
    }

    fn announce(&self, name: &str, said: &[u8]) -> Cmd {
        let mut command = one_argument(self.verbs.announce, name);
        command.arg(said);
        command
    }

    fn unreadable(&self, name: &str) -> BrokerError {
        dialer::at(&self.link(name).master.address, UNREADABLE)
    }
}

fn one_argument(verb: &str, name: &str) -> Cmd {
    let mut command = cmd(verb);
    command.arg(name);
    command
}

fn read_command(base: &str, reading: &Reading, wanted: Wanted) -> Cmd {
    let after = reading.after.map(|position| position.text());
    let mut command = cmd("FCALL");
    command.arg("pushring_read").arg(1).arg(base);
    command.arg(after.as_ref().map_or("", |after| after.as_str()));
    command.arg(keep_text(&reading.keep));
    command.arg(u8::from(wanted == Wanted::Heads));
    command
}

/// Where the channel stands, which is kept for as long as the function would keep it.
fn head_command(base: &str, keep: &Keep) -> Cmd {
    let lifetime_ms = keep.history_age_ms.max(keep.idle_timeout_ms);
    let mut command = cmd("GETEX");
    command.arg(format!("{base}:meta"));
    command.arg("PX").arg(time_ms(lifetime_ms).max(1));
    command
}

/// Whether the channel stands there, and nothing behind it can be lost; `library.lua` says what it writes.
fn is_head(meta: &Value, head: Position, heir: Option<&str>) -> bool {
    let Value::BulkString(text) = meta else {
        return false;
    };
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    let stands_there = text.starts_with(&format!("{} {} ", head.epoch, head.offset));
    let numbered_by = text.split(' ').nth(3);
    stands_there && heir.is_none_or(|heir| numbered_by == Some(heir))
}

/// As `library.lua` keeps it with the channel.
fn keep_text(keep: &Keep) -> String {
    let messages = keep.history_messages.min(u32::MAX as usize);
    format!(
        "{messages} {} {}",
        time_ms(keep.history_age_ms),
        time_ms(keep.idle_timeout_ms)
    )
}

/// A time that the server can add to its clock.
fn time_ms(ms: u64) -> u64 {
    ms.min(TIME_MS_MAX)
}

/// Whether the server is no longer the one that this connection is for; any other error is of its command alone. So is
/// `ASK`, which a slot answers from the moment that it begins to move, up to thousands of them one after another.
fn is_end(error: &ServerError) -> bool {
    let is_gone = matches!(
        error.code(),
        "READONLY" | "MOVED" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN"
    );
    // Whoever connects anew loads it again.
    is_gone || error.details() == Some("Function not found")
}

fn standing(channel: &ChannelName, reply: Value) -> Option<Standing> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let [position, Value::Array(frames)] = &parts[..] else {
        return None;
    };
    let head = parse_position(position)?;
    let messages = frames.iter().filter_map(|frame| match frame {
        Value::BulkString(bytes) => frame::message(channel, bytes),
        _ => None,
    });
    let messages = messages.filter(|arrival| arrival.message.position.epoch == head.epoch);
    Some(Standing {
        head,
        is_used: head.offset > 0,
        messages: messages.collect(),
    })
}

fn parse_position(value: &Value) -> Option<Position> {
    match value {
        Value::BulkString(text) => Position::parse(str::from_utf8(text).ok()?),
        _ => None,
    }
}
