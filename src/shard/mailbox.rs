//! What a shard is told by other shards, and by the threads beside them. One box per shard, not per connection; what
//! one shard posts to another arrives in the order of posting, which is what makes a subscription gapless.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::api::question::{Answer, Question};
use crate::auth::api_key::ApiKeys;
use crate::auth::key::TokenKey;
use crate::backplane::order;
use crate::config::Config;
use crate::disk::writer::Report;
use crate::hub::ShardId;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::Position;
use crate::shard::connection::ConnectionKey;
use crate::tls::TlsConfigs;

/// Who asked, and for which question of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub shard: ShardId,
    pub connection: ConnectionKey,
    pub slot: u16,
}

impl Asker {
    /// What brings the answer.
    pub fn mail(self, answer: Answer) -> Mail {
        let Self {
            connection, slot, ..
        } = self;
        Mail::Answer {
            connection,
            slot,
            answer,
        }
    }
}

/// One thing that a shard is told. Without another word it is from a shard.
#[derive(Debug)]
pub enum Mail {
    /// To a channel's home.
    Ask { asker: Asker, question: Question },
    Answer {
        connection: ConnectionKey,
        slot: u16,
        answer: Answer,
    },
    /// From a channel's home, to a shard with listeners.
    Publication(Arc<Message>),
    /// To a channel's home: a listener on shard `from` is gone.
    Unlisten { from: ShardId, channel: ChannelName },
    /// From a channel's home: its messages up to there are lost to those who listen.
    Gap(ChannelName, Position),
    /// From a channel's home: it was deleted, its listeners are to be ended.
    EndListeners(ChannelName),
    /// From the thread that reads the issuer's keys: which there are now, and whether that was read just now.
    Keys {
        issued: Arc<[TokenKey]>,
        read: KeysRead,
    },
    /// From the main thread: another configuration is in force. What else is read anew with it, such as keys or
    /// certificates, comes to the shards in the same way: as a whole, shared and never changed.
    Reload {
        config: Arc<Config>,
        tls: TlsConfigs,
        token_keys: Arc<[TokenKey]>,
        api_keys: Arc<ApiKeys>,
    },
    /// From the main thread, to the shard that counts it.
    ReloadFailed,
    /// From the main thread.
    Stage(Stage),
    /// From the shard that ended the last connection of all: nobody asks anything any more.
    Over,
    /// From a thread that writes or syncs the shard's history log.
    HistoryLog(Report),
    /// From the thread of the broker.
    Backplane(order::News),
}

/// Who wants another look at the issuer's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysWanted {
    /// One that has met a key which is not known.
    Shard(ShardId),
    /// The operator, with everything else.
    Reload,
}

/// How a look at the issuer's keys went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysRead {
    Done,
    Failed,
    /// There was a look a moment ago.
    TooSoon,
}

/// What the main thread tells every shard on the way to the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Tell load balancers to look elsewhere.
    NotReady,
    /// End all connections over the drain period.
    Drain,
    /// End what is left.
    Cut,
}

/// The box of one shard.
#[derive(Debug)]
pub struct Mailbox {
    mails: Mutex<Vec<Mail>>,
    /// Mails in the box, for whoever has to know whether the shard keeps up.
    n_mails: AtomicUsize,
    /// Bytes of messages that the shard has yet to send to its listeners.
    backlog_bytes: AtomicUsize,
    /// Signalled for new mail, and by the shard's ring for completions. Made before the threads part their
    /// descriptor tables and never closed, so that its number means the same file in every table.
    wake: OwnedFd,
}

impl Mailbox {
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            mails: Mutex::new(Vec::new()),
            n_mails: AtomicUsize::new(0),
            backlog_bytes: AtomicUsize::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    /// Puts `mails` into the box, and leaves them empty.
    pub fn post_all(&self, mails: &mut Vec<Mail>) {
        let was_empty = {
            let mut queue = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
            let was_empty = queue.is_empty();
            queue.append(mails);
            self.n_mails.store(queue.len(), Ordering::Relaxed);
            was_empty
        };
        // Whoever made a box not empty wakes its shard; it takes everything at once.
        if was_empty {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    pub fn post(&self, mail: Mail) {
        self.post_all(&mut vec![mail]);
    }

    /// Takes everything out of the box into `mails`, which must be empty.
    pub fn take(&self, mails: &mut Vec<Mail>) {
        debug_assert!(mails.is_empty());
        if self.is_empty() {
            return;
        }
        let mut queue = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *queue, mails);
        self.n_mails.store(0, Ordering::Relaxed);
    }

    pub fn is_empty(&self) -> bool {
        self.n_mails.load(Ordering::Relaxed) == 0
    }

    /// Says how far the shard is behind with its sends.
    pub fn report_backlog(&self, bytes: usize) {
        self.backlog_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The shard is behind: no publish that would go there is taken.
    pub fn is_congested(&self, mails_max: usize, backlog_bytes_max: usize) -> bool {
        self.n_mails.load(Ordering::Relaxed) > mails_max
            || self.backlog_bytes.load(Ordering::Relaxed) > backlog_bytes_max
    }

    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// One shard's way to all boxes: gathers a turn's mails, so that each box is locked and woken once.
#[derive(Debug)]
pub struct Post {
    boxes: Arc<[Mailbox]>,
    outgoing: Vec<Vec<Mail>>,
}

impl Post {
    pub fn new(boxes: Arc<[Mailbox]>) -> Self {
        let outgoing = boxes.iter().map(|_| Vec::new()).collect();
        Self { boxes, outgoing }
    }

    pub fn send(&mut self, to: ShardId, mail: Mail) {
        self.outgoing[usize::from(to.0)].push(mail);
    }

    /// Posts what was gathered.
    pub fn flush(&mut self) {
        for (mailbox, mails) in self.boxes.iter().zip(&mut self.outgoing) {
            if !mails.is_empty() {
                mailbox.post_all(mails);
            }
        }
    }

    pub fn mailbox(&self, shard: ShardId) -> &Mailbox {
        &self.boxes[usize::from(shard.0)]
    }

    pub fn n_shards(&self) -> usize {
        self.boxes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_arrives_once_and_in_order() {
        let boxes: Arc<[Mailbox]> = (0..2).map(|_| Mailbox::new().unwrap()).collect();
        let mut post = Post::new(boxes.clone());
        let channel = |n: usize| ChannelName::parse(&format!("c{n}")).unwrap();
        for n in 0..5 {
            post.send(ShardId(1), Mail::EndListeners(channel(n)));
            if n == 2 {
                post.flush();
            }
        }
        post.flush();
        let mut mails = Vec::new();
        boxes[1].take(&mut mails);
        let names: Vec<_> = mails
            .drain(..)
            .map(|mail| match mail {
                Mail::EndListeners(name) => name,
                mail => panic!("{mail:?}"),
            })
            .collect();
        assert_eq!(names, (0..5).map(channel).collect::<Vec<_>>());
        assert!(boxes[0].is_empty() && boxes[1].is_empty());
        let mut count = [0; 8];
        rustix::io::read(boxes[1].wake(), &mut count).unwrap();
        assert_eq!(
            u64::from_ne_bytes(count),
            1,
            "one wake for a box that was not empty"
        );
    }
}
