//! Reads where channels stand, with as few round trips as it takes: what the stream's leader knows, the newest entry of
//! each subject many at a time, a first entry for those that have none, and the histories of those channels only that
//! have something behind their cursor.
//!
//! Direct gets are answered by any replica of the stream, which may be behind. Whatever it says counts only if it has
//! all that the leader had.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::backplane::broker::{BrokerError, Reading};
use crate::backplane::order::Standing;
use crate::hub::message::ChannelName;

use super::entry::{self, Content, Entry};
use super::stream::Stream;
use super::{Nats, REQUESTS_MAX, history};

/// Subjects in one request; the server takes 1024.
const SUBJECTS_PER_GET: usize = 512;

/// Gets of many messages under way at a time.
const GETS_MAX: usize = 8;

/// Bytes of messages in the answer to one get.
const GET_BYTES_MAX: usize = 4 << 20;

/// Messages in the answer to one get; the server gives 1000.
const GET_MESSAGES_MAX: usize = 1000;

/// JetStream: there is no such message.
pub(super) const MESSAGE_NOT_FOUND: u64 = 10037;

/// Before a replica that is behind is asked again.
const REPLICA_DELAY: Duration = Duration::from_millis(20);

/// Before a stream that seems to have lost messages is asked again: a leader that is about to be none may answer.
pub(super) const LEADER_DELAY: Duration = Duration::from_millis(300);

/// What a direct get has brought: subjects and their entries, in the order of the stream.
struct Got {
    entries: Vec<(String, Entry)>,
    /// More would have followed.
    pending: u64,
    /// The newest entry of the stream that the answering replica knew; not told if it found nothing.
    known: Option<u64>,
}

impl Nats {
    pub(super) async fn read_all(
        &self,
        readings: &[Reading],
    ) -> Result<Vec<Standing>, BrokerError> {
        let keeps = readings.iter().map(|reading| reading.keep);
        self.want(keeps).await?;
        let mut stream = self.stream().await?;
        if has_lost(readings, &stream) {
            sleep(LEADER_DELAY).await;
            stream = self.stream().await?;
            if has_lost(readings, &stream) {
                return Err(self.renew_epoch(&stream).await?);
            }
        }
        self.raise(&stream).await?;
        let subjects: Vec<_> = readings
            .iter()
            .map(|reading| self.subjects.message(&reading.channel))
            .collect();
        let mut newest: HashMap<String, Entry> = stream::iter(subjects.chunks(SUBJECTS_PER_GET))
            .map(|subjects| self.newest(subjects, &stream))
            .buffered(GETS_MAX)
            .try_fold(HashMap::new(), |mut all, some| async move {
                all.extend(some);
                Ok(all)
            })
            .await?;
        let is_ahead = |(reading, subject): (&Reading, &String)| {
            let newest = newest.get(subject).map(|newest| newest.sequence);
            newest.is_some() && history::cursor(reading, &stream) > newest
        };
        if readings.iter().zip(&subjects).any(is_ahead) {
            return Err(self.renew_epoch(&stream).await?);
        }
        let unknown: Vec<_> = readings
            .iter()
            .zip(&subjects)
            .filter(|(_, subject)| !newest.contains_key(*subject))
            .collect();
        if unknown.iter().any(|(reading, _)| reading.after.is_some()) {
            // What has gone since it was asked shows in what it says now.
            stream = self.stream().await?;
            let is_lost = |(reading, _): &(&Reading, _)| history::is_lost(reading, &[], &stream);
            if unknown.iter().any(is_lost) {
                return Err(self.renew_epoch(&stream).await?);
            }
        }
        let unknown = unknown
            .into_iter()
            .map(|(reading, subject)| (&**subject, history::beginning(reading, &stream)));
        let begun = self.begin(unknown.collect(), &stream).await?;
        newest.extend(begun);
        let (newest, stream) = (&newest, &stream);
        stream::iter(readings.iter().zip(&subjects))
            .map(|(reading, subject)| self.standing(reading, subject, &newest[subject], stream))
            .buffered(GETS_MAX)
            .try_collect()
            .await
    }

    /// Gives each of these subjects, which have no entry, the one that says where its channel stands.
    async fn begin(
        &self,
        unknown: Vec<(&str, Content)>,
        stream: &Stream,
    ) -> Result<Vec<(String, Entry)>, BrokerError> {
        let mut call = self.link.call();
        for (index, (subject, content)) in unknown.iter().enumerate() {
            let headers = match content {
                Content::Touched { head } => entry::touch_headers(*head, 0),
                _ => entry::begun_headers(),
            };
            let reply = Some(call.reply(index));
            self.link
                .send((*subject).to_owned(), reply, headers, b"")
                .await?;
        }
        let mut begun = Vec::new();
        let mut refused = Vec::new();
        for _ in &unknown {
            let (index, message) = call.answer().await?;
            let (subject, content) = &unknown[index];
            match self.acknowledged(&message)? {
                Ok(ack) => {
                    let entry = Entry {
                        sequence: ack.seq,
                        time_us: stream.now_ms * 1000,
                        is_cut: false,
                        content: content.clone(),
                    };
                    begun.push(((*subject).to_owned(), entry));
                }
                Err(refusal) => refused.push((*subject, refusal)),
            }
        }
        // Somebody was faster: another node, or a message.
        let found: Vec<_> = stream::iter(refused)
            .map(|(subject, refusal)| async move {
                let newest = self.newest_at_leader(subject).await?;
                let newest = newest.ok_or_else(|| refusal.into_error())?;
                Ok::<_, BrokerError>((subject.to_owned(), newest))
            })
            .buffered(REQUESTS_MAX)
            .try_collect()
            .await?;
        begun.extend(found);
        Ok(begun)
    }

    async fn standing(
        &self,
        reading: &Reading,
        subject: &str,
        newest: &Entry,
        stream: &Stream,
    ) -> Result<Standing, BrokerError> {
        if history::needs_touch(reading, newest, stream) {
            let headers = entry::touch_headers(newest.head(), newest.sequence);
            // Refused if another node was faster, or a message; the next reading sees to it.
            self.link
                .send(subject.to_owned(), None, headers, b"")
                .await?;
        }
        if let Some(standing) = history::standing_at_once(reading, newest, stream) {
            return Ok(standing);
        }
        let from = history::cursor(reading, stream).unwrap_or(1).max(1);
        // A stream without replicas has nobody who could be behind.
        let needed = match stream.replicas {
            0 | 1 => 0,
            _ => newest.sequence,
        };
        let mut entries = self.entries(subject, from, needed).await?;
        if history::is_lost(reading, &entries, stream) {
            // What has gone since it was asked shows in what it says now.
            let stream = self.stream().await?;
            if history::is_lost(reading, &entries, &stream) {
                return Err(self.renew_epoch(&stream).await?);
            }
        }
        if entries.is_empty() {
            // Its newest entry has just gone for its age.
            let begun = self.begin(vec![(subject, Content::Begun)], stream).await?;
            entries.extend(begun.into_iter().map(|(_, entry)| entry));
        }
        Ok(history::standing(reading, &entries, stream))
    }

    /// The subject's entries from `from` on, at least up to `needed` if there is any so late.
    async fn entries(
        &self,
        subject: &str,
        from: u64,
        needed: u64,
    ) -> Result<Vec<Entry>, BrokerError> {
        let began = Instant::now();
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let next = entries.last().map_or(from, |last| last.sequence + 1);
            let got = self
                .get(json!({
                    "seq": next,
                    "next_by_subj": subject,
                    "batch": GET_MESSAGES_MAX,
                    "max_bytes": GET_BYTES_MAX,
                }))
                .await?;
            entries.extend(got.entries.into_iter().map(|(_, entry)| entry));
            let is_behind = entries.last().map_or(0, |last| last.sequence) < needed;
            match (got.pending, is_behind) {
                (0, false) => return Ok(entries),
                (0, true) if began.elapsed() > self.link.timeout() => {
                    return Err(BrokerError(
                        "the replicas of the stream at NATS do not follow its leader within backplane_timeout".into(),
                    ));
                }
                (0, true) => sleep(REPLICA_DELAY).await,
                _ => {}
            }
        }
    }

    /// The newest entries of those of the subjects that have any.
    async fn newest(
        &self,
        subjects: &[String],
        stream: &Stream,
    ) -> Result<Vec<(String, Entry)>, BrokerError> {
        let mut found = Vec::new();
        let mut request = json!({
            "multi_last": subjects,
            "batch": GET_MESSAGES_MAX,
            "max_bytes": GET_BYTES_MAX,
        });
        loop {
            let got = self.get(request.clone()).await?;
            let is_behind = got
                .known
                .map_or(stream.replicas > 1, |known| known < stream.last);
            if is_behind {
                return self.newest_of_leader(subjects).await;
            }
            found.extend(got.entries);
            let (Some((_, last)), Some(known), 1..) = (found.last(), got.known, got.pending) else {
                return Ok(found);
            };
            request["seq"] = (last.sequence + 1).into();
            request["up_to_seq"] = known.into();
        }
    }

    async fn newest_of_leader(
        &self,
        subjects: &[String],
    ) -> Result<Vec<(String, Entry)>, BrokerError> {
        let newest: Vec<_> = stream::iter(subjects)
            .map(|subject| async move {
                let newest = self.newest_at_leader(subject).await?;
                Ok::<_, BrokerError>(newest.map(|newest| (subject.clone(), newest)))
            })
            .buffered(REQUESTS_MAX)
            .try_collect()
            .await?;
        Ok(newest.into_iter().flatten().collect())
    }

    /// The subject's newest entry, as the stream's leader has it.
    pub(super) async fn newest_at_leader(
        &self,
        subject: &str,
    ) -> Result<Option<Entry>, BrokerError> {
        let request = json!({ "last_by_subj": subject });
        match self
            .link
            .ask("STREAM.MSG.GET", &self.stream, &request)
            .await?
        {
            Ok(answer) => decode_stored(&answer).map(Some).ok_or_else(unreadable),
            Err(refusal) if refusal.code == MESSAGE_NOT_FOUND => Ok(None),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    /// What the message at `offset` says about its receivers, if it is still there.
    pub(super) async fn first_receivers(
        &self,
        channel: &ChannelName,
        offset: u64,
    ) -> Result<Option<u32>, BrokerError> {
        let subject = self.subjects.message(channel);
        let request = json!({ "seq": offset });
        match self
            .link
            .ask("STREAM.MSG.GET", &self.stream, &request)
            .await?
        {
            Ok(answer) if answer.pointer("/message/subject") == Some(&Value::from(subject)) => {
                Ok(stored_headers(&answer).as_ref().and_then(entry::receivers))
            }
            Ok(_) => Ok(None),
            Err(refusal) if refusal.code == MESSAGE_NOT_FOUND => Ok(None),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    /// A direct get of several messages (ADR-31): they come one by one, and then an answer without message.
    async fn get(&self, request: Value) -> Result<Got, BrokerError> {
        let subject = format!("$JS.API.DIRECT.GET.{}", self.stream);
        let mut call = self.link.call();
        let request = request.to_string();
        self.link
            .send(
                subject,
                Some(call.reply(0)),
                HeaderMap::new(),
                request.as_bytes(),
            )
            .await?;
        let mut entries = Vec::new();
        loop {
            let (_, message) = call.answer().await?;
            let headers = message.headers.unwrap_or_default();
            let number = |name| entry::server_number(&headers, name);
            match message.status.map(|status| status.as_u16()) {
                None => {
                    let subject = headers.get_last("Nats-Subject");
                    let entry = Entry::decode(&headers, &message.payload);
                    let (Some(subject), Some(entry)) = (subject, entry) else {
                        return Err(unreadable());
                    };
                    entries.push((subject.as_str().to_owned(), entry));
                }
                Some(204) => {
                    return Ok(Got {
                        entries,
                        pending: number("Nats-Num-Pending").unwrap_or(0),
                        known: number("Nats-UpTo-Sequence"),
                    });
                }
                // No results.
                Some(404) => {
                    return Ok(Got {
                        entries,
                        pending: 0,
                        known: None,
                    });
                }
                Some(status) => {
                    let why = message.description.unwrap_or_default();
                    return Err(BrokerError(format!(
                        "JetStream refuses a direct get: {status} {why}"
                    )));
                }
            }
        }
    }
}

/// Somebody has a message that the stream has not given a number to.
fn has_lost(readings: &[Reading], stream: &Stream) -> bool {
    let cursors = readings
        .iter()
        .filter_map(|reading| history::cursor(reading, stream));
    cursors.max() > Some(stream.last)
}

fn unreadable() -> BrokerError {
    BrokerError("NATS gives out a message without its number or time".into())
}

/// The entry in an answer to `STREAM.MSG.GET`.
fn decode_stored(answer: &Value) -> Option<Entry> {
    let field = |name| answer.get("message")?.get(name);
    let payload = match field("data") {
        Some(data) => STANDARD.decode(data.as_str()?).ok()?,
        None => Vec::new(),
    };
    let time_us = entry::time_us(field("time")?.as_str()?)?;
    let headers = stored_headers(answer)?;
    Some(Entry::new(
        &headers,
        &payload,
        field("seq")?.as_u64()?,
        time_us,
    ))
}

/// `NATS/1.0`, a line for each header, an empty line; in base64, and not there if there are none.
fn stored_headers(answer: &Value) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(block) = answer.pointer("/message/hdrs") {
        let block = STANDARD.decode(block.as_str()?).ok()?;
        for line in str::from_utf8(&block).ok()?.split("\r\n") {
            if let Some((name, value)) = line.split_once(':') {
                headers.append(name, value.trim());
            }
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_message_is_read_with_and_without_headers() {
        let answer = json!({ "message": {
            "seq": 2, "time": "1970-01-01T00:00:01Z", "data": "Mg==",
            "hdrs": STANDARD.encode("NATS/1.0\r\nPushring-Mark: ended\r\nPushring-Receivers:7\r\n\r\n"),
        }});
        let entry = decode_stored(&answer).unwrap();
        assert_eq!(
            (entry.sequence, entry.time_us, entry.content),
            (2, 1_000_000, Content::Ended)
        );
        assert_eq!(entry::receivers(&stored_headers(&answer).unwrap()), Some(7));
        let bare = json!({ "message": { "seq": 2, "time": "1970-01-01T00:00:01Z" } });
        let Content::Message(body) = decode_stored(&bare).unwrap().content else {
            panic!("no message");
        };
        assert_eq!(&*body.payload, b"");
        for broken in [
            json!({}),
            json!({ "message": { "seq": 2 } }),
            json!({ "message": { "seq": 2, "time": "1970-01-01T00:00:01Z", "data": "?" } }),
            json!({ "message": { "seq": 2, "time": "1970-01-01T00:00:01Z", "hdrs": "?" } }),
        ] {
            assert_eq!(decode_stored(&broken), None, "{broken}");
        }
    }
}
