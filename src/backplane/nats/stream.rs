//! The stream: what it is made with, what becomes of its limits, and what its state says. JSON as the server's
//! interface has it.
//!
//! One stream serves all channels, so its limits are the largest that any namespace of any node wants. They only ever
//! grow: a node that wants less applies its own limits when it reads.

use serde_json::{Map, Value, json};

use crate::backplane::order::Keep;
use crate::hub::position::Epoch;

use super::entry::time_us;
use super::subject::Subjects;

/// Metadata: so many entries of a subject have been kept at all times.
const ALWAYS_KEPT: &str = "pushring-always-kept";

/// NATS counts nanoseconds in an `i64`; nobody keeps messages for a hundred years.
const AGE_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

/// NATS takes no shorter one.
const WINDOW_MS_MIN: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one subject.
    pub entries: u64,
    pub age_ms: u64,
    /// A repeat of a message's name within this is found.
    pub window_ms: u64,
}

impl Limits {
    /// Of a new stream, before anybody wants more.
    pub const INITIAL: Self = Self {
        entries: 102,
        age_ms: 30 * 60 * 1000,
        window_ms: 5 * 60 * 1000,
    };

    /// What a namespace wants. Beside its history: the message that a cursor names, and a touch. An entry is kept for
    /// longer than it is given out, since a cursor is honoured only while what it names is there.
    pub fn of(keep: Keep) -> Self {
        let window_ms = keep.idempotency_window_ms.clamp(WINDOW_MS_MIN, AGE_MS_MAX);
        let idle_ms = keep.idle_timeout_ms.saturating_mul(2);
        Self {
            entries: keep.history_messages as u64 + 2,
            age_ms: keep
                .history_age_ms
                .saturating_add(idle_ms)
                .clamp(window_ms, AGE_MS_MAX),
            window_ms,
        }
    }

    pub fn max(self, other: Self) -> Self {
        Self {
            entries: self.entries.max(other.entries),
            age_ms: self.age_ms.max(other.age_ms),
            window_ms: self.window_ms.max(other.window_ms),
        }
    }

    pub fn covers(self, other: Self) -> bool {
        self.max(other) == self
    }

    fn write(self, config: &mut Map<String, Value>) {
        config.insert("max_msgs_per_subject".into(), self.entries.into());
        config.insert("max_age".into(), (self.age_ms * 1_000_000).into());
        config.insert(
            "duplicate_window".into(),
            (self.window_ms * 1_000_000).into(),
        );
    }

    fn read(config: &Map<String, Value>) -> Self {
        let number = |name| config.get(name).and_then(Value::as_i64).unwrap_or(0);
        // No limit is written as 0 or -1.
        let limit = |name| u64::try_from(number(name)).ok().filter(|it| *it > 0);
        Self {
            entries: limit("max_msgs_per_subject").unwrap_or(u64::MAX),
            age_ms: limit("max_age").map_or(u64::MAX, |nanos| nanos / 1_000_000),
            window_ms: number("duplicate_window").max(0) as u64 / 1_000_000,
        }
    }
}

/// The stream as it was when its leader was asked.
#[derive(Clone, Debug)]
pub struct Stream {
    config: Map<String, Value>,
    pub epoch: Epoch,
    pub limits: Limits,
    /// No entry of a subject went for their number while there were fewer.
    pub always_kept: u64,
    pub replicas: u64,
    /// The oldest entry's number; one more than the newest's if there is none.
    pub first: u64,
    pub last: u64,
    pub now_ms: u64,
}

/// The configuration of a stream that is not there yet.
pub fn new_config(subjects: &Subjects, epoch: Epoch, limits: Limits, replicas: u64) -> Value {
    let mut config = json!({
        "name": subjects.stream(),
        "description": "Messages of pushring, and where each channel stands",
        "subjects": subjects.kept(),
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": replicas,
        // Reads are answered without a consumer.
        "allow_direct": true,
        // A deletion replaces what was there at one stroke.
        "allow_rollup_hdrs": true,
        // What is behind an entry that is there is there, too: nothing goes out of the middle.
        "deny_delete": true,
        "allow_msg_ttl": false,
        "republish": {
            "src": subjects.republish_source(),
            "dest": subjects.republish_destination(epoch),
        },
        "metadata": { ALWAYS_KEPT: limits.entries.to_string() },
    });
    if let Some(config) = config.as_object_mut() {
        limits.write(config);
    }
    config
}

impl Stream {
    /// What the server says about the stream. Errors name what to do.
    pub fn parse(answer: &Value, subjects: &Subjects) -> Result<Self, String> {
        let text = |path: &str| answer.pointer(path).and_then(Value::as_str);
        let number = |path: &str| answer.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let is_set = |path: &str| answer.pointer(path).and_then(Value::as_bool) == Some(true);
        let config = answer.pointer("/config").and_then(Value::as_object);
        let epoch = text("/config/republish/dest").and_then(|it| subjects.epoch_of(it));
        let (Some(config), Some(epoch), true) = (config, epoch, is_set("/config/allow_direct"))
        else {
            return Err(format!(
                "the stream {} at NATS is not as this program makes it: delete it there, or set another \
                 backplane_prefix",
                subjects.stream()
            ));
        };
        let limits = Limits::read(config);
        let always_kept = config
            .get("metadata")
            .and_then(|metadata| metadata.get(ALWAYS_KEPT)?.as_str()?.parse().ok())
            .unwrap_or(0);
        let last = number("/state/last_seq");
        Ok(Self {
            config: config.clone(),
            epoch,
            limits,
            always_kept: limits.entries.min(always_kept),
            replicas: number("/config/num_replicas"),
            // A stream that never held anything says 0.
            first: number("/state/first_seq").max(1),
            last,
            now_ms: text("/ts")
                .and_then(time_us)
                .map_or(0, |now_us| now_us / 1000),
        })
    }

    /// The configuration with larger limits; whatever else an operator has set stays.
    pub fn raised(&self, limits: Limits) -> Value {
        let mut config = self.config.clone();
        self.limits.max(limits).write(&mut config);
        config.into()
    }

    /// The configuration under another epoch.
    pub fn renewed(&self, subjects: &Subjects, epoch: Epoch) -> Value {
        let mut config = self.config.clone();
        let destination = subjects.republish_destination(epoch);
        config.insert(
            "republish".into(),
            json!({ "src": subjects.republish_source(), "dest": destination }),
        );
        config.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep {
        history_messages: 1000,
        history_age_ms: 1000,
        idle_timeout_ms: 500,
        idempotency_window_ms: 300_000,
    };

    fn answer(config: Value) -> Value {
        let state = json!({ "first_seq": 3, "last_seq": 9 });
        json!({ "config": config, "state": state, "ts": "1970-01-01T00:00:01.5Z" })
    }

    #[test]
    fn a_stream_is_read_as_it_was_made() {
        let (subjects, epoch) = (Subjects::new("a.b"), Epoch::from_random(7));
        let config = new_config(&subjects, epoch, Limits::INITIAL, 3);
        let stream = Stream::parse(&answer(config.clone()), &subjects).unwrap();
        assert_eq!(
            (stream.epoch, stream.limits, stream.replicas),
            (epoch, Limits::INITIAL, 3)
        );
        assert_eq!((stream.first, stream.last, stream.now_ms), (3, 9, 1500));
        assert_eq!(stream.always_kept, 102);
        assert_eq!(stream.raised(Limits::INITIAL), config);
    }

    #[test]
    fn limits_grow_and_an_operators_settings_stay() {
        let (subjects, epoch) = (Subjects::new("p"), Epoch::from_random(7));
        let mut config = new_config(&subjects, epoch, Limits::INITIAL, 1);
        config["max_bytes"] = 4096.into();
        let stream = Stream::parse(&answer(config), &subjects).unwrap();
        let wanted = Limits::of(KEEP);
        assert_eq!((wanted.entries, wanted.age_ms), (1002, 300_000));
        assert!(!stream.limits.covers(wanted));
        let raised = Stream::parse(&answer(stream.raised(wanted)), &subjects).unwrap();
        assert!(raised.limits.covers(wanted) && raised.limits.covers(Limits::INITIAL));
        // Entries may have gone while fewer were kept.
        assert_eq!(raised.always_kept, 102);
        assert_eq!(raised.config["max_bytes"], 4096);
        let other = Epoch::from_random(8);
        let renewed = Stream::parse(&answer(raised.renewed(&subjects, other)), &subjects).unwrap();
        assert_eq!((renewed.epoch, renewed.limits), (other, raised.limits));
    }

    #[test]
    fn no_limit_covers_every_limit() {
        let (subjects, epoch) = (Subjects::new("p"), Epoch::from_random(7));
        let mut config = new_config(&subjects, epoch, Limits::INITIAL, 1);
        config["max_msgs_per_subject"] = (-1).into();
        config["max_age"] = 0.into();
        let stream = Stream::parse(&answer(config), &subjects).unwrap();
        assert!(stream.limits.covers(Limits {
            window_ms: 0,
            ..Limits::of(KEEP)
        }));
    }

    #[test]
    fn somebody_elses_stream_is_refused() {
        let subjects = Subjects::new("p");
        for config in [
            json!({ "name": "p", "allow_direct": true }),
            new_config(
                &Subjects::new("q"),
                Epoch::from_random(7),
                Limits::INITIAL,
                1,
            ),
        ] {
            let error = Stream::parse(&answer(config), &subjects).unwrap_err();
            assert!(error.contains("backplane_prefix"), "{error}");
        }
    }
}
