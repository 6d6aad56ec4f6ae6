//! How a message is published: numbered, then there for everybody. With a log the two are apart, and the message is a
//! draft in between: nobody sees it, and its position is taken back if the log does not take it.

use std::sync::Arc;

use crate::hub::message::{ChannelName, Message};
use crate::hub::{HomeRefusal, Hub, Publish, Published, ShardId};

/// A message with its position that is not published yet.
#[derive(Debug)]
pub struct Draft {
    pub message: Arc<Message>,
    /// It will be in the history.
    pub is_stored: bool,
    pub idempotency_key: Option<Box<str>>,
}

/// What becomes of a publish at first.
#[derive(Debug)]
pub enum Drafted {
    /// A message of the channel with this index.
    New(usize, Draft),
    /// A repeat under a known `Idempotency-Key`: the first result.
    Known(Published),
    /// A repeat of a draft. Whatever becomes of that, [`Hub::first_result`] knows then.
    Repeated(ChannelName, Box<str>),
}

impl Hub {
    /// Numbers and stores a message. The message and the shards that listen come back for the delivery; a repeat
    /// under a known `Idempotency-Key` gives the first result and nothing to deliver.
    pub fn publish(
        &mut self,
        publish: Publish,
        now_ms: u64,
        listening: &mut Vec<ShardId>,
    ) -> Result<(Published, Option<Arc<Message>>), HomeRefusal> {
        match self.draft(publish, now_ms)? {
            Drafted::New(index, draft) => {
                let message = draft.message.clone();
                let published = self.commit_at(index, draft, now_ms, listening);
                Ok((published, Some(message)))
            }
            Drafted::Known(first) => {
                listening.clear();
                Ok((first, None))
            }
            Drafted::Repeated(..) => unreachable!("a draft is published at once"),
        }
    }

    /// Numbers a message and makes sure that it can be published: no later limit refuses it.
    pub fn draft(&mut self, publish: Publish, now_ms: u64) -> Result<Drafted, HomeRefusal> {
        let name = publish.channel;
        if let Some(key) = &publish.idempotency_key {
            if let Some(first) = self.idempotency.result(&name, key, now_ms) {
                return Ok(Drafted::Known(first));
            }
            if self.idempotency.is_draft(&name, key) {
                return Ok(Drafted::Repeated(name, key.clone()));
            }
        }
        let index = self.channel_or_new(&name, now_ms)?;
        let channel = &mut self.channels[index];
        let age_ms = publish
            .ttl_ms
            .map_or(channel.namespace.history_age_ms, |ttl| {
                ttl.min(channel.namespace.history_age_ms)
            });
        let mut message = Message {
            channel: channel.name.clone(),
            position: channel.head(),
            previous: 0,
            kind: publish.kind,
            event: publish.event,
            payload: publish.payload,
            published_ms: now_ms,
            published_us: self.now_us.max(now_ms * 1000).max(self.newest_us + 1),
            expires_ms: now_ms.saturating_add(age_ms),
        };
        let is_stored = publish.store && channel.namespace.history_messages > 0 && age_ms > 0;
        let drafts_bytes = self.draft_bytes + message.bytes();
        if is_stored && !self.histories.has_room(channel, drafts_bytes) {
            return Err(HomeRefusal::HistoryFull);
        }
        message.position = channel.take_position(now_ms);
        message.previous = message.position.offset - 1;
        self.newest_us = message.published_us;
        self.draft_bytes += message.bytes();
        if let Some(key) = &publish.idempotency_key
            && self.changes.is_some()
        {
            self.idempotency.note_draft(&name, key);
        }
        let draft = Draft {
            message: Arc::new(message),
            is_stored,
            idempotency_key: publish.idempotency_key,
        };
        Ok(Drafted::New(index, draft))
    }

    /// Publishes a draft that the log has. `None`: its channel was deleted meanwhile, so there is nobody to deliver it
    /// to.
    pub fn commit(
        &mut self,
        draft: Draft,
        now_ms: u64,
        listening: &mut Vec<ShardId>,
    ) -> (Published, Option<Arc<Message>>) {
        let message = draft.message.clone();
        if let Some(index) = self.index_of(&message) {
            let published = self.commit_at(index, draft, now_ms, listening);
            return (published, Some(message));
        }
        listening.clear();
        self.draft_bytes -= message.bytes();
        let published = Published {
            position: message.position,
            receivers: 0,
        };
        self.remember(&draft, published, now_ms);
        (published, None)
    }

    /// Takes back a draft that the log does not have, and the positions after it: their drafts have to follow.
    pub fn withdraw(&mut self, draft: &Draft) {
        self.draft_bytes -= draft.message.bytes();
        if let Some(key) = &draft.idempotency_key {
            self.idempotency.forget_draft(&draft.message.channel, key);
        }
        if let Some(index) = self.index_of(&draft.message) {
            self.channels[index].give_back(draft.message.position.offset);
        }
    }

    /// The result that a repeat is waiting for; `None` if its draft was withdrawn, or if that is too long ago.
    pub fn first_result(
        &mut self,
        name: &ChannelName,
        key: &str,
        now_ms: u64,
    ) -> Option<Published> {
        self.idempotency.result(name, key, now_ms)
    }

    fn commit_at(
        &mut self,
        index: usize,
        draft: Draft,
        now_ms: u64,
        listening: &mut Vec<ShardId>,
    ) -> Published {
        let message = &draft.message;
        let channel = &mut self.channels[index];
        self.draft_bytes -= message.bytes();
        channel.publish_position(message.position.offset);
        if draft.is_stored {
            self.histories.change(channel, |channel, bytes_max| {
                channel.store_within(bytes_max, message.clone(), now_ms);
            });
        }
        listening.clear();
        listening.extend(channel.listening_shards());
        let published = Published {
            position: message.position,
            receivers: channel.listeners(),
        };
        self.remember(&draft, published, now_ms);
        published
    }

    fn remember(&mut self, draft: &Draft, published: Published, now_ms: u64) {
        if let Some(key) = &draft.idempotency_key {
            let name = &draft.message.channel;
            self.idempotency.forget_draft(name, key);
            self.idempotency.remember(name, key, published, now_ms);
        }
    }

    /// Where the channel of a draft is, if its epoch still goes on.
    fn index_of(&self, message: &Message) -> Option<usize> {
        let index = *self.by_name.get(&message.channel)? as usize;
        (self.channels[index].head().epoch == message.position.epoch).then_some(index)
    }
}
