//! Publishes as calls of functions of `library.lua`: what has come together on one channel goes as one call, a *run*,
//! which costs the server a third of a call for each message.

use std::collections::HashMap;

use redis::{Cmd, Value, cmd};

use crate::backplane::broker::Publishing;
use crate::backplane::redis::{frame, keep_text, parse_position, time_ms};
use crate::hub::Published;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;

/// Publishes that one call takes, by their indices: in their order, on one channel, and alike in everything but their
/// payloads. One under an idempotency key is on its own.
pub(super) type Run = Vec<usize>;

/// All publishes; those of one channel in their order.
pub(super) fn runs(publishes: &[Publishing]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut newest: HashMap<&ChannelName, usize> = HashMap::new();
    for (index, publishing) in publishes.iter().enumerate() {
        let channel = &publishing.publish.channel;
        match newest.get(channel) {
            Some(&run) if is_alike(&publishes[runs[run][0]], publishing) => runs[run].push(index),
            _ => {
                newest.insert(channel, runs.len());
                runs.push(vec![index]);
            }
        }
    }
    runs
}

fn is_alike(one: &Publishing, other: &Publishing) -> bool {
    let about = |publishing: &Publishing| {
        let publish = &publishing.publish;
        (publish.kind, publish.ttl_ms, publish.store, publishing.keep)
    };
    let has_key = |publishing: &Publishing| publishing.publish.idempotency_key.is_some();
    !has_key(one)
        && !has_key(other)
        && about(one) == about(other)
        && one.publish.event == other.publish.event
}

/// The call for a run on the channel of `base`.
pub(super) fn command(base: &str, run: &Run, publishes: &[Publishing]) -> Cmd {
    let Publishing {
        publish,
        keep,
        receivers,
    } = &publishes[run[0]];
    let kind = frame::kind_name(publish.kind);
    let event = publish.event.as_deref().unwrap_or("");
    let ttl = publish.ttl_ms.map(|ttl| time_ms(ttl).to_string());
    let ttl = ttl.as_deref().unwrap_or("");
    let store = u8::from(publish.store);
    let mut command = cmd("FCALL");
    let Some(key) = &publish.idempotency_key else {
        command.arg("pushring_publish_run").arg(1).arg(base);
        command.arg(kind).arg(event).arg(ttl).arg(store);
        command.arg(keep_text(keep));
        for &index in run {
            command.arg(&*publishes[index].publish.payload);
        }
        return command;
    };
    command.arg("pushring_publish").arg(1).arg(base);
    command.arg(&*publish.payload);
    command.arg(kind).arg(event).arg(ttl).arg(store);
    command.arg(&**key).arg(receivers);
    command.arg(time_ms(keep.idempotency_window_ms).max(1));
    command.arg(keep_text(keep));
    command
}

/// What the reply to a run says of each of its publishes, in their order.
pub(super) fn published(
    reply: &Value,
    run: &Run,
    publishes: &[Publishing],
) -> Option<Vec<Published>> {
    if let Value::Array(parts) = reply {
        let [position, Value::Int(receivers)] = &parts[..] else {
            return None;
        };
        let position = parse_position(position)?;
        let receivers = u32::try_from(*receivers).ok()?;
        return Some(vec![Published {
            position,
            receivers,
        }]);
    }
    let first = parse_position(reply)?;
    let published = |(offset, &index): (u64, &usize)| Published {
        position: Position { offset, ..first },
        receivers: publishes[index].receivers,
    };
    Some((first.offset..).zip(run).map(published).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::order::Keep;
    use crate::hub::Publish;
    use crate::proto::payload::PayloadKind;

    /// A word is a channel's letter and what is particular about the publish; a run is written by its indices.
    fn check(words: &str, want: &str) {
        let publishes: Vec<_> = words.split(' ').map(publishing).collect();
        let texts = runs(&publishes).into_iter().map(|run| {
            let indices: Vec<_> = run.iter().map(usize::to_string).collect();
            indices.join("+")
        });
        assert_eq!(texts.collect::<Vec<_>>().join(" "), want, "{words}");
    }

    fn publishing(word: &str) -> Publishing {
        let (channel, particular) = word.split_at(1);
        let is = |name: &str| particular == name;
        Publishing {
            publish: Publish {
                channel: ChannelName::parse(channel).unwrap(),
                kind: if is("json") {
                    PayloadKind::Json
                } else {
                    PayloadKind::Text
                },
                event: is("event").then(|| "event".into()),
                payload: word.as_bytes().into(),
                ttl_ms: is("ttl").then_some(1),
                store: !is("live"),
                idempotency_key: is("key").then(|| "key".into()),
            },
            keep: Keep {
                history_messages: if is("keep") { 2 } else { 1 },
                history_age_ms: 1,
                idle_timeout_ms: 1,
                idempotency_window_ms: 1,
            },
            receivers: 0,
        }
    }

    #[test]
    fn what_is_alike_goes_together_and_a_channel_keeps_its_order() {
        check("a", "0");
        check("a a a", "0+1+2");
        check("a b a b c", "0+2 1+3 4");
        for other in ["json", "event", "ttl", "live", "keep"] {
            check(&format!("a a{other} b a{other} a b"), "0 1+3 2+5 4");
        }
        // Either could be a repeat of the other.
        check("a akey akey a a", "0 1 2 3+4");
    }

    #[test]
    fn a_reply_says_the_position_of_each() {
        let mut publishes: Vec<_> = ["a", "b", "a", "akey"].map(publishing).into();
        publishes[2].receivers = 7;
        let bulk = |text: &str| Value::BulkString(text.into());
        let with_receivers = |n| Value::Array(vec![bulk("k3Qz9aXb-41"), Value::Int(n)]);
        let check = |reply: Value, run: &[usize], want: Option<&str>| {
            let published = published(&reply, &run.to_vec(), &publishes);
            let texts = published.map(|all| {
                let text = |it: &Published| format!("{}/{}", it.position, it.receivers);
                all.iter().map(text).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(texts.as_deref(), want, "{reply:?}");
        };
        check(bulk("k3Qz9aXb-41"), &[0], Some("k3Qz9aXb-41/0"));
        check(
            bulk("k3Qz9aXb-41"),
            &[0, 2],
            Some("k3Qz9aXb-41/0 k3Qz9aXb-42/7"),
        );
        check(with_receivers(3), &[3], Some("k3Qz9aXb-41/3"));
        for wrong in [bulk("k3Qz9aXb"), bulk(""), with_receivers(-1), Value::Nil] {
            check(wrong, &[3], None);
        }
    }
}
