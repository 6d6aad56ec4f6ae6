//! What channels had to say before somebody began to listen, brought into one order.

use std::sync::Arc;

use crate::api::question::Answer;
use crate::config::SlowReader;
use crate::hub::fanout::Subscription;
use crate::hub::message::Message;
use crate::hub::position::{Position, Since, write_cursor};
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
        let channel = place as u16;
        let gap = |position| {
            let name = context.fanout.name(subscription.expect("a stream listens"));
            Waiting::gap(channel, name, position)
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
                    channel,
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

/// The oldest of all that the channels have, at most `limit` messages and about `bytes_max`, and the cursor behind
/// them: what is left out comes next time.
pub(super) fn oldest(parts: &[Part], limit: usize, bytes_max: usize) -> (Vec<&Message>, String) {
    let mut messages: Vec<(u64, &Message)> = parts
        .iter()
        .flat_map(|(replay, _)| timed(replay).map(|(when_us, message)| (when_us, &**message)))
        .collect();
    // Stable: what one channel says stays in its order.
    messages.sort_by_key(|(when_us, _)| *when_us);
    messages.truncate(limit);
    let mut messages: Vec<_> = messages.into_iter().map(|(_, message)| message).collect();
    let mut bytes = 0;
    let fitting = messages.iter().take_while(|message| {
        // The first one always fits, or a poller would never get on.
        let fits = bytes == 0 || bytes + message.bytes() <= bytes_max;
        bytes += message.bytes();
        fits
    });
    messages.truncate(fitting.count());
    let position = |(replay, _): &Part| {
        let taken = messages
            .iter()
            .filter(|message| is_of(replay, message))
            .count();
        match taken {
            _ if taken == replay.messages.len() => replay.end,
            0 => replay.start,
            _ => replay.messages[taken - 1].position,
        }
    };
    let mut cursor = String::new();
    write_cursor(&mut cursor, parts.iter().map(position));
    (messages, cursor)
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

    #[test]
    fn a_clock_that_was_set_back_changes_no_order() {
        let at = |offset| Position {
            epoch: Epoch::from_random(1),
            offset,
        };
        let message = |(offset, published_us)| {
            Arc::new(Message {
                channel: ChannelName::parse("a").unwrap(),
                position: at(offset),
                previous: offset - 1,
                kind: PayloadKind::Text,
                event: None,
                payload: (*b"hi").into(),
                published_ms: 0,
                published_us,
                expires_ms: u64::MAX,
            })
        };
        let replay = Replay {
            start: at(0),
            end: at(3),
            lost: false,
            messages: [(1, 20), (2, 10), (3, 30)].map(message).into(),
        };
        let parts = [(replay, None)];
        for limit in 1..=3 {
            let (messages, cursor) = oldest(&parts, limit, usize::MAX);
            let offsets: Vec<_> = messages.iter().map(|one| one.position.offset).collect();
            assert_eq!(offsets, [1, 2, 3][..limit]);
            assert_eq!(cursor, at(limit as u64).to_string());
        }
    }
}
