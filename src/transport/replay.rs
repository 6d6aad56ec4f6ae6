//! What channels had to say before somebody began to listen, brought into one order.

use std::sync::Arc;

use crate::api::question::Answer;
use crate::config::SlowReader;
use crate::hub::fanout::Subscription;
use crate::hub::message::{Message, fits_within};
use crate::hub::position::{Position, Since, cursor};
use crate::hub::replay::Replay;
use crate::transport::outbox::Waiting;
use crate::transport::{Context, slow_reader};

/// One channel's part, and its subscription if it is listened to from now on.
pub(super) type Part = (Replay, Option<Subscription>);

/// The parts of a request's channels, in its order.
pub(super) fn parts(answers: impl Iterator<Item = (Answer, Option<Subscription>)>) -> Vec<Part> {
    let part = |(answer, subscription)| match answer {
        Answer::Replay { replay, .. } => (replay, subscription),
        answer => unreachable!("no replay: {answer:?}"),
    };
    answers.map(part).collect()
}

/// Where a stream stands before its replay.
pub(super) fn starts(parts: &[Part]) -> Vec<(Subscription, Position)> {
    let start = |(replay, subscription): &Part| {
        (
            subscription.expect("a stream listens from the start"),
            replay.start,
        )
    };
    parts.iter().map(start).collect()
}

/// Queues what the channels had before the stream began, oldest first over all of them, with the notices of loss.
pub(super) fn queue(parts: &[Part], since: &[Since], context: &mut Context<'_>) {
    let mut items: Vec<(u64, Waiting)> = Vec::new();
    for (place, ((replay, subscription), since)) in parts.iter().zip(since).enumerate() {
        let place = place as u16;
        let gap = |position| {
            let name = context.fanout.name(subscription.expect("a stream listens"));
            Waiting::gap(place, name, position)
        };
        let mut gaps = replay.gaps(*since).into_iter().peekable();
        let slow_reader = replay.messages.first().map_or(SlowReader::Close, |first| {
            slow_reader::policy(&first.channel, context.config)
        });
        let mut when_us = 0;
        for (index, (message_us, message)) in timed(replay).enumerate() {
            when_us = message_us;
            while let Some((_, position)) = gaps.next_if(|(before, _)| *before == index) {
                items.push((when_us, gap(position)));
            }
            items.push((
                when_us,
                Waiting::Message {
                    place,
                    message: message.clone(),
                    slow_reader,
                },
            ));
        }
        items.extend(gaps.map(|(_, position)| (when_us, gap(position))));
        context.metrics.gaps_told_total += u64::from(replay.lost);
        context.metrics.delivered_messages_total += replay.messages.len() as u64;
    }
    // Stable: what one channel says stays in its order.
    items.sort_by_key(|(when_us, _)| *when_us);
    context
        .effects
        .replay
        .extend(items.into_iter().map(|(_, item)| item));
}

/// As much as one answer takes.
pub(super) struct Page<'a> {
    /// Oldest first over all channels.
    pub messages: Vec<&'a Message>,
    /// What the client has then.
    pub cursor: String,
    /// Something up to the cursor is lost.
    pub lost: bool,
}

/// The oldest of all that the channels have, at most `limit` messages and about `bytes_max`. What is left out comes
/// next time, and so does a loss behind what was taken.
pub(super) fn oldest<'a>(
    parts: &'a [Part],
    since: &[Since],
    limit: usize,
    bytes_max: usize,
) -> Page<'a> {
    let mut messages: Vec<(u64, &Message)> = parts
        .iter()
        .flat_map(|(replay, _)| timed(replay).map(|(when_us, message)| (when_us, &**message)))
        .collect();
    // Stable: what one channel says stays in its order.
    messages.sort_by_key(|(when_us, _)| *when_us);
    messages.truncate(limit);
    let mut messages: Vec<_> = messages.into_iter().map(|(_, message)| message).collect();
    let mut fits = fits_within(bytes_max);
    let fitting = messages.iter().take_while(|message| fits(message));
    messages.truncate(fitting.count());
    let mut positions = Vec::with_capacity(parts.len());
    let mut lost = false;
    for ((replay, _), since) in parts.iter().zip(since) {
        let of_channel = messages.iter().filter(|message| is_of(replay, message));
        let taken = of_channel.count();
        let is_whole = taken == replay.messages.len();
        positions.push(match taken {
            _ if is_whole => replay.end,
            0 => replay.start,
            _ => replay.messages[taken - 1].position,
        });
        // The start is behind a loss in front of the first message, whether or not that is taken.
        let is_passed = |(before, _): &(usize, Position)| is_whole || *before < taken.max(1);
        lost |= replay.lost && replay.gaps(*since).iter().any(is_passed);
    }
    Page {
        messages,
        cursor: cursor(positions),
        lost,
    }
}

/// The messages with their times among those of other channels. A broker whose clock was set back does not change the
/// order of its own.
fn timed(replay: &Replay) -> impl Iterator<Item = (u64, &Arc<Message>)> {
    replay
        .messages
        .iter()
        .scan(0, |when_us: &mut u64, message| {
            *when_us = message.published_us.max(*when_us);
            Some((*when_us, message))
        })
}

fn is_of(replay: &Replay, message: &Message) -> bool {
    replay
        .messages
        .first()
        .is_some_and(|first| first.channel == message.channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::message::ChannelName;
    use crate::hub::position::Epoch;
    use crate::proto::payload::PayloadKind;

    fn at(offset: u64) -> Position {
        Position {
            epoch: Epoch::from_random(1),
            offset,
        }
    }

    /// What `channel` has for whoever has everything up to `start`: messages by their offset, with the one before them
    /// and the time of each.
    fn part(channel: &str, start: u64, lost: bool, messages: &[(u64, u64, u64)]) -> Part {
        let message = |&(offset, previous, published_us)| {
            Arc::new(Message {
                channel: ChannelName::parse(channel).unwrap(),
                position: at(offset),
                previous,
                kind: PayloadKind::Text,
                event: None,
                payload: (*b"hi").into(),
                published_ms: 0,
                published_us,
                expires_ms: u64::MAX,
            })
        };
        let messages: Vec<_> = messages.iter().map(message).collect();
        let end = messages
            .last()
            .map_or_else(|| at(start), |last| last.position);
        let replay = Replay {
            start: at(start),
            end,
            lost,
            messages,
        };
        (replay, None)
    }

    #[track_caller]
    fn check(parts: &[Part], since: &[Since], limit: usize, want: (&[u64], &[u64], bool)) {
        let page = oldest(parts, since, limit, usize::MAX);
        let (offsets, ends, lost) = want;
        let taken: Vec<_> = (page.messages.iter())
            .map(|message| message.position.offset)
            .collect();
        let want_cursor = cursor(ends.iter().map(|&offset| at(offset)));
        let found = (&*taken, page.cursor, page.lost);
        assert_eq!(found, (offsets, want_cursor, lost), "limit {limit}");
    }

    #[test]
    fn a_clock_that_was_set_back_changes_no_order() {
        let parts = [part("a", 0, false, &[(1, 0, 20), (2, 1, 10), (3, 2, 30)])];
        for limit in 1..=3 {
            let want = (&[1, 2, 3][..limit], &[limit as u64][..], false);
            check(&parts, &[Since::Earliest], limit, want);
        }
    }

    #[test]
    fn a_loss_is_told_by_the_answer_that_reaches_it() {
        let since = [Since::After(at(0)), Since::After(at(0))];
        let hole = [
            part("a", 0, true, &[(1, 0, 10), (3, 2, 40)]),
            part("b", 0, false, &[(1, 0, 20), (2, 1, 30)]),
        ];
        check(&hole, &since, 1, (&[1], &[1, 0], false));
        check(&hole, &since, 3, (&[1, 1, 2], &[1, 2], false));
        check(&hole, &since, 4, (&[1, 1, 2, 3], &[3, 2], true));
        // In front of the first message it is behind the client as soon as its cursor is.
        let front = [
            part("a", 4, true, &[(5, 4, 40)]),
            part("b", 0, false, &[(1, 0, 20)]),
        ];
        check(&front, &since, 1, (&[1], &[4, 1], true));
        let nothing_left = [part("a", 4, true, &[]), part("b", 0, false, &[(1, 0, 20)])];
        check(&nothing_left, &since, 1, (&[1], &[4, 1], true));
    }
}
