//! What the driver tells other nodes, and hears from them.

use tokio::time::{Instant, timeout};

use super::link::Link;
use super::{Driver, FAREWELL_TIMEOUT, NOTES_BYTES_MAX, Sink};
use crate::backplane::broker::Broker;
use crate::backplane::note::{self, Note};
use crate::backplane::order::News;
use crate::backplane::roster::Counted;

impl<B: Broker, S: Sink> Driver<B, S> {
    pub(super) fn on_note(&mut self, note: Note, now: Instant) {
        let now_ms = self.now_ms(now);
        let me = self.settings.broker.node;
        match note {
            Note::Here(node) => self.roster.hear(node, now_ms),
            Note::Gone(node) => {
                let mut counted = Vec::new();
                self.roster.forget(node, &mut counted);
                self.tell_counted(&counted);
            }
            // Our own was asked of the home already.
            Note::Asked { question, .. } if question.node == me => {}
            Note::Asked { question, channel } => {
                self.roster.hear(question.node, now_ms);
                match self.registry.home(&channel) {
                    Some(home) => self.tell(home, News::CountWanted { question, channel }),
                    // Nobody can listen on a channel that no home has opened.
                    None => self.add_note(&Note::Answered {
                        question,
                        node: me,
                        listeners: 0,
                    }),
                }
            }
            Note::Answered {
                question,
                node,
                listeners,
            } => {
                self.roster.hear(node, now_ms);
                if question.node == me && node != me {
                    let counted = self.roster.answer(question.number, node, listeners);
                    self.tell_counted(counted.as_slice());
                }
            }
        }
    }

    /// For the next tell. While nobody can be told it is dropped, as what is too much.
    pub(super) fn add_note(&mut self, note: &Note) {
        if matches!(self.link, Link::Up(_)) && self.notes.len() < NOTES_BYTES_MAX {
            note::write(&mut self.notes, note);
        }
    }

    pub(super) fn tell_counted(&mut self, counted: &[Counted]) {
        for Counted { asker, count } in counted {
            self.stats.counts_incomplete_total += u64::from(!count.is_complete);
            let (ticket, count) = (asker.ticket, *count);
            self.tell(asker.shard, News::Counted { ticket, count });
        }
    }

    /// So that the others' counts need not wait for this node.
    pub(super) async fn say_farewell(self) {
        if let Link::Up(up) = &self.link {
            let mut notes = Vec::new();
            note::write(&mut notes, &Note::Gone(self.settings.broker.node));
            // Without it they notice a little later.
            let _ = timeout(FAREWELL_TIMEOUT, up.broker.tell(&notes)).await;
        }
    }
}
