//! The rules: what a client may be given next, and what is a finding.
//!
//! A client keeps its cursor and nothing else. Every message has to be the next one of its channel, unless a notice of
//! loss says otherwise; and a notice has to be true: what it covers must really have left the history.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::ledger::{Disagreement, Ledger, Numbers};
use super::payload::{Message, number_of};
use super::position::Position;

/// Findings that are shown with all there is to say about them.
const EXAMPLES_MAX: usize = 24;

/// Kinds of findings, in the order of the report. Each must be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    /// Messages skipped without a word.
    Lost,
    /// Messages that came again.
    Repeated,
    /// Messages that came after later ones.
    OutOfOrder,
    /// The epoch changed without a notice.
    EpochUntold,
    /// An epoch that no process accounts for.
    EpochTooMany,
    /// A notice of loss that covers a message that was still to be had.
    NeedlessGap,
    /// Bytes, kind, event name or channel are not those that were published at this position.
    WrongMessage,
    /// The server's cursor is not where its messages led.
    WrongCursor,
    /// Bytes that the protocol does not allow, or an answer that the request does not deserve.
    Malformed,
    /// A client did not come to the end in time.
    NeverArrived,
    /// Two positions of one epoch for one publish with a key.
    PublishedTwice,
    /// Messages of one publisher that stand in another order than they were sent.
    PublishedOutOfOrder,
    /// The server process failed.
    Server,
}

impl Finding {
    pub(super) const ALL: &[(Self, &str)] = &[
        (Self::Lost, "lost without a notice"),
        (Self::Repeated, "repeated"),
        (Self::OutOfOrder, "out of order"),
        (Self::EpochUntold, "epochs that changed without a notice"),
        (Self::EpochTooMany, "epochs that no restart explains"),
        (Self::NeedlessGap, "notices of loss without a loss"),
        (Self::WrongMessage, "wrong messages"),
        (Self::WrongCursor, "wrong cursors"),
        (Self::Malformed, "malformed or undeserved answers"),
        (Self::NeverArrived, "clients that did not come to the end"),
        (Self::PublishedTwice, "publishes that took two positions"),
        (
            Self::PublishedOutOfOrder,
            "publishes out of their publisher's order",
        ),
        (Self::Server, "failures of the server process"),
    ];
}

/// All findings of a run. Locked for findings only, so not at all in a good run.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<(BTreeMap<Finding, u64>, Vec<String>)>);

impl Findings {
    pub(super) fn add(&self, finding: Finding, count: u64, text: impl FnOnce() -> String) {
        let mut guard = self.0.lock().expect("no thread panicked");
        *guard.0.entry(finding).or_default() += count;
        // Not all examples for the first kind.
        let is_rare = guard.0[&finding] <= 6 * count;
        if guard.1.len() < EXAMPLES_MAX && is_rare {
            guard.1.push(format!("{finding:?}: {}", text()));
        }
    }

    pub(super) fn count(&self, finding: Finding) -> u64 {
        let guard = self.0.lock().expect("no thread panicked");
        guard.0.get(&finding).copied().unwrap_or(0)
    }

    pub(super) fn examples(&self) -> Vec<String> {
        self.0.lock().expect("no thread panicked").1.clone()
    }
}

/// What went as it should.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) deliveries: u64,
    /// Notices of loss within an epoch and over its end, and the messages that they cover.
    pub(super) gaps_of_history: u64,
    pub(super) gaps_of_restart: u64,
    pub(super) messages_told_lost: u64,
}

/// Who judges, and for whom.
pub(super) struct View<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) findings: &'a Findings,
    pub(super) counts: &'a mut Counts,
    pub(super) seed: u64,
    pub(super) who: Who,
    pub(super) channel: u16,
    pub(super) has: &'a mut Place,
}

/// For the text of a finding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) client: u32,
    pub(super) transport: &'static str,
}

/// Where a client is in one channel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// "I have everything up to here."
    pub(super) at: Option<Position>,
    /// The last hole, for telling late messages from repeated ones: below `at`, from the first offset of the pair to
    /// the second.
    hole: (u64, u64),
    /// The head of the stream told a loss, and the notice in the stream is still to come.
    pub(super) notice_is_due: bool,
}

impl Place {
    /// A hole is one of its epoch.
    fn go_to(&mut self, at: Position) {
        if self.at.is_some_and(|has| has.epoch != at.epoch) {
            self.hole = (0, 0);
        }
        self.at = Some(at);
    }
}

/// A message as it came; text and base64 are decoded.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) payload: &'a [u8],
    /// What the transport says about it; `None` where it says nothing.
    pub(super) event: Option<Option<&'a str>>,
    pub(super) form: Form,
}

/// How the payload was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Text,
    Binary,
    /// Of a raw text frame: JSON or text. Of a raw event: anything, already decoded.
    JsonOrText,
    Any,
}

impl View<'_> {
    fn find(&self, finding: Finding, count: u64, text: &dyn Fn() -> String) {
        self.findings.add(finding, count, || {
            let channel = &self.ledger.channels[usize::from(self.channel)].name;
            let has = self
                .has
                .at
                .map_or_else(|| "nothing".to_owned(), |at| at.to_string());
            let Who { client, transport } = self.who;
            format!(
                "client {client} ({transport}) on {channel} with {has}: {}",
                text()
            )
        });
    }

    /// The first word of where this client is.
    pub(super) fn start(&mut self, at: Position) {
        self.on_epoch(at);
        self.has.go_to(at);
    }

    /// A message at `at`.
    pub(super) fn on_message(&mut self, at: Position, delivery: &Delivery<'_>) {
        self.counts.deliveries += 1;
        if std::mem::take(&mut self.has.notice_is_due) {
            self.find(Finding::Malformed, 1, &|| {
                format!("{at} came before the notice of the loss that the head told")
            });
        }
        self.advance(at);
        self.compare(at, delivery);
    }

    fn advance(&mut self, at: Position) {
        let Some(has) = self.has.at else {
            return self.start(at);
        };
        let (from, to) = self.has.hole;
        if has.epoch != at.epoch {
            self.find(Finding::EpochUntold, 1, &|| format!("{at} came"));
            return self.start(at);
        }
        if at.offset > has.offset + 1 {
            self.pass_over(has.offset + 1, at.offset - 1, &|| format!("{at} came"));
        } else if (from..=to).contains(&at.offset) {
            return self.find(Finding::OutOfOrder, 1, &|| format!("{at} came late"));
        } else if at.offset <= has.offset {
            return self.find(Finding::Repeated, 1, &|| format!("{at} came again"));
        }
        self.has.at = Some(at);
    }

    /// Offsets of the client's epoch of which it hears nothing, not even that they are lost.
    fn pass_over(&mut self, from: u64, to: u64, text: &dyn Fn() -> String) {
        let Some(has) = self.has.at else { return };
        let Who { client, transport } = self.who;
        let who = || format!("client {client} ({transport}) with {has}: {}", text());
        if !self.ledger.leap(self.channel, has.epoch, (from, to), who) {
            self.find(Finding::Lost, to - from + 1, text);
        }
        self.has.hole = (from, to);
    }

    fn compare(&mut self, at: Position, delivery: &Delivery<'_>) {
        let Some(number) = number_of(delivery.payload) else {
            return self.find(Finding::WrongMessage, 1, &|| {
                format!("{at} has no number: {:?}", excerpt(delivery.payload))
            });
        };
        let want = Message::make(self.seed, number);
        if want.payload != delivery.payload || !delivery.form.fits(want.kind) {
            self.find(Finding::WrongMessage, 1, &|| {
                let (want, got) = (excerpt(&want.payload), excerpt(delivery.payload));
                format!("{at} is {got:?} as {:?} instead of {want:?}", delivery.form)
            });
        }
        if delivery.event.is_some_and(|event| event != want.event) {
            self.find(Finding::WrongMessage, 1, &|| {
                format!(
                    "{at} has the event {:?} instead of {:?}",
                    delivery.event, want.event
                )
            });
        }
        match self.ledger.tell(self.channel, at, number, false) {
            Ok(()) => {}
            Err(Disagreement::OtherNumber(other)) => self.find(Finding::WrongMessage, 1, &|| {
                format!("{at} is message {number:08x}, and to others it is {other:08x}")
            }),
            Err(Disagreement::TooFarAhead) => {
                self.find(Finding::Malformed, 1, &|| format!("{at} is not possible"))
            }
            Err(Disagreement::EpochTooMany) => self.on_epoch(at),
        }
    }

    /// The server says that everything up to `at` that the client has not is lost.
    pub(super) fn on_gap(&mut self, at: Position) {
        let was_due = std::mem::take(&mut self.has.notice_is_due);
        let Some(has) = self.has.at else {
            return self.start(at);
        };
        if at == has && was_due {
            return;
        }
        self.on_epoch(at);
        let channel = &self.ledger.channels[usize::from(self.channel)];
        if at.epoch != has.epoch {
            self.counts.gaps_of_restart += 1;
            self.counts.messages_told_lost += channel.told(has.epoch, has.offset + 1, u64::MAX);
            let covers_any = match self.ledger.numbers() {
                Numbers::Messages => at.offset > 0,
                // The first of a channel may have any number.
                Numbers::WithHoles => channel.told(at.epoch, 1, at.offset) > 0,
            };
            if covers_any && !channel.may_be_lost(at) {
                self.find(Finding::NeedlessGap, 1, &|| {
                    format!("a notice up to {at}, which is still to be had")
                });
            }
        } else if at.offset <= has.offset {
            self.find(Finding::NeedlessGap, 1, &|| {
                format!("a notice that leads to {at}")
            });
        } else {
            self.counts.gaps_of_history += 1;
            self.counts.messages_told_lost += channel.told(has.epoch, has.offset + 1, at.offset);
            if !channel.may_be_lost(at) {
                self.find(Finding::NeedlessGap, 1, &|| {
                    format!("a notice up to {at}, which is still to be had")
                });
            }
        }
        self.has.go_to(at);
    }

    /// Something is lost, of this channel or of another one; whether it is in front of `at`, the numbers say where they
    /// have no holes. `true` if it is.
    pub(super) fn on_loss_somewhere(&mut self, at: Position) -> bool {
        let Some(has) = self.has.at.filter(|has| *has != at) else {
            return false;
        };
        let channel = &self.ledger.channels[usize::from(self.channel)];
        let is_hole = self.ledger.numbers() == Numbers::WithHoles
            && has.epoch == at.epoch
            && channel.told(has.epoch, has.offset + 1, at.offset) == 0;
        if is_hole {
            self.on_cursor(at);
        } else {
            self.on_gap(at);
        }
        !is_hole
    }

    /// Where the server says that the client is, without having told a loss.
    pub(super) fn on_cursor(&mut self, at: Position) {
        match self.has.at {
            Some(has) if has == at => return,
            None => return self.start(at),
            Some(has) if has.epoch != at.epoch => {
                self.find(Finding::EpochUntold, 1, &|| format!("the cursor is {at}"))
            }
            Some(has) if at.offset > has.offset => {
                self.pass_over(has.offset + 1, at.offset, &|| format!("the cursor is {at}"));
            }
            Some(_) => self.find(Finding::WrongCursor, 1, &|| format!("the cursor is {at}")),
        }
        // What a client does: it goes on from where the server says it is.
        self.start(at);
    }

    fn on_epoch(&mut self, at: Position) {
        if self.ledger.on_epoch(self.channel, at.epoch).is_err() {
            self.find(Finding::EpochTooMany, 1, &|| {
                format!("{at} is of an epoch too many")
            });
        }
    }
}

impl Form {
    fn fits(self, kind: super::payload::Kind) -> bool {
        use super::payload::Kind;
        match self {
            Self::Json => kind == Kind::Json,
            Self::Text => kind == Kind::Text,
            Self::Binary => kind == Kind::Binary,
            Self::JsonOrText => kind != Kind::Binary,
            Self::Any => true,
        }
    }
}

fn excerpt(bytes: &[u8]) -> String {
    let front = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
    format!("{front}… ({} bytes)", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 3;

    /// What one client is given, and the findings that it makes. `kept` is the length of the history, the newest
    /// message is 9.
    #[track_caller]
    fn check(kept: u64, steps: &[&str], want: &[(Finding, u64)]) {
        let ledger = Ledger::new([("c".to_owned(), kept)].into_iter(), Numbers::Messages);
        check_by(&ledger, 1..=9, steps, want);
    }

    /// The same where only every tenth offset names a message.
    #[track_caller]
    fn check_with_holes(kept: u64, steps: &[&str], want: &[(Finding, u64)]) -> u64 {
        let ledger = Ledger::new([("c".to_owned(), kept)].into_iter(), Numbers::WithHoles);
        check_by(&ledger, (10..=90).step_by(10), steps, want);
        let leaps = ledger.leaps_over_messages();
        leaps.iter().map(|(messages, _)| messages).sum()
    }

    #[track_caller]
    fn check_by(
        ledger: &Ledger,
        offsets: impl Iterator<Item = u64>,
        steps: &[&str],
        want: &[(Finding, u64)],
    ) {
        (0..2).for_each(|_| ledger.expect_epoch());
        for offset in offsets {
            let at = Position::parse(&format!("aaaaaaaa-{offset}")).unwrap();
            ledger.tell(0, at, offset as u32, true).unwrap();
        }
        let (findings, mut counts) = (Findings::default(), Counts::default());
        let mut has = Place::default();
        for step in steps {
            let (what, at) = step.split_once(' ').unwrap();
            let (at, number) = at.split_once('=').unwrap_or((at, ""));
            let at = Position::parse(at).unwrap();
            let number = number.parse().unwrap_or(at.offset as u32);
            let message = Message::make(SEED, number);
            let delivery = Delivery {
                payload: &message.payload,
                event: Some(message.event),
                form: Form::Any,
            };
            let mut view = View {
                ledger,
                findings: &findings,
                counts: &mut counts,
                seed: SEED,
                who: Who {
                    client: 1,
                    transport: "test",
                },
                channel: 0,
                has: &mut has,
            };
            match what {
                "message" => view.on_message(at, &delivery),
                "gap" => view.on_gap(at),
                "cursor" => view.on_cursor(at),
                _ => panic!("{what}"),
            }
        }
        for &(finding, name) in Finding::ALL {
            let count = want.iter().find(|(want, _)| *want == finding);
            assert_eq!(
                findings.count(finding),
                count.map_or(0, |(_, count)| *count),
                "{steps:?}: {name}: {:#?}",
                findings.examples()
            );
        }
    }

    #[test]
    fn each_once_and_in_order_is_no_finding() {
        check(
            100,
            &[
                "cursor aaaaaaaa-0",
                "message aaaaaaaa-1",
                "message aaaaaaaa-2",
                "cursor aaaaaaaa-2",
            ],
            &[],
        );
    }

    #[test]
    fn losses_repeats_and_late_messages_are_told_apart() {
        let start = "cursor aaaaaaaa-1";
        check(100, &[start, "message aaaaaaaa-4"], &[(Finding::Lost, 2)]);
        check(
            100,
            &[start, "message aaaaaaaa-3", "message aaaaaaaa-2"],
            &[(Finding::Lost, 1), (Finding::OutOfOrder, 1)],
        );
        check(
            100,
            &[start, "message aaaaaaaa-2", "message aaaaaaaa-2"],
            &[(Finding::Repeated, 1)],
        );
        check(100, &[start, "cursor aaaaaaaa-3"], &[(Finding::Lost, 2)]);
        check(
            100,
            &["cursor aaaaaaaa-3", "cursor aaaaaaaa-1"],
            &[(Finding::WrongCursor, 1)],
        );
    }

    #[test]
    fn a_notice_has_to_be_true() {
        let start = "cursor aaaaaaaa-1";
        check(4, &[start, "gap aaaaaaaa-5", "message aaaaaaaa-6"], &[]);
        check(4, &[start, "gap aaaaaaaa-6"], &[(Finding::NeedlessGap, 1)]);
        check(4, &[start, "gap aaaaaaaa-1"], &[(Finding::NeedlessGap, 1)]);
        check(4, &[start, "gap bbbbbbbb-0", "message bbbbbbbb-1"], &[]);
        check(
            4,
            &[start, "message bbbbbbbb-1"],
            &[(Finding::EpochUntold, 1)],
        );
        check(
            4,
            &[start, "gap bbbbbbbb-0", "gap cccccccc-0"],
            &[(Finding::EpochTooMany, 1)],
        );
    }

    #[test]
    fn a_position_has_its_message_and_no_other() {
        check(
            100,
            &["cursor aaaaaaaa-1", "message aaaaaaaa-2=3"],
            &[(Finding::WrongMessage, 1)],
        );
    }

    #[test]
    fn over_a_hole_nothing_is_lost_and_over_a_message_it_is_found_in_the_end() {
        let start = "cursor aaaaaaaa-10";
        let next = "message aaaaaaaa-20";
        assert_eq!(check_with_holes(100, &[start, next], &[]), 0);
        let over_two = [start, "message aaaaaaaa-40"];
        assert_eq!(check_with_holes(100, &over_two, &[]), 2);
        let moved = [start, "cursor aaaaaaaa-19"];
        assert_eq!(check_with_holes(100, &moved, &[]), 0);
    }

    #[test]
    fn a_hole_is_one_of_its_epoch() {
        let steps = [
            "cursor aaaaaaaa-10",
            "message aaaaaaaa-90",
            "gap bbbbbbbb-10",
            "message bbbbbbbb-11",
            "message bbbbbbbb-12",
        ];
        check_with_holes(5, &steps, &[]);
    }

    #[test]
    fn a_notice_over_numbered_holes_has_to_cover_a_loss() {
        let start = "cursor aaaaaaaa-10";
        let lost = [start, "gap aaaaaaaa-40"];
        assert_eq!(check_with_holes(5, &lost, &[]), 0);
        check_with_holes(6, &lost, &[(Finding::NeedlessGap, 1)]);
        // Of the new epoch nobody has told, so nothing of it is covered.
        check_with_holes(100, &[start, "gap bbbbbbbb-2"], &[]);
    }
}
