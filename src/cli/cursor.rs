//! What a subscriber already has, per channel, so that it can go on where it was on any transport.

/// Where a subscription starts when there is no cursor yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Now,
    Earliest,
    /// A cursor from an earlier run, as the server gave it.
    Cursor(String),
    /// The last so many messages.
    Last(u64),
}

impl Start {
    pub fn parse(text: &str) -> Self {
        match text {
            "now" => Self::Now,
            "earliest" => Self::Earliest,
            cursor => Self::Cursor(cursor.to_owned()),
        }
    }

    /// As a query parameter.
    pub fn parameter(&self) -> (&'static str, String) {
        match self {
            Self::Now => ("since", "now".to_owned()),
            Self::Earliest => ("since", "earliest".to_owned()),
            Self::Cursor(cursor) => ("since", cursor.clone()),
            Self::Last(n) => ("last", n.to_string()),
        }
    }
}

/// The last position of each channel, in the order of the request.
///
/// Until every channel's position is known there is no cursor, and a reconnect starts where the first connection
/// did; [`CursorTracker::observe`] then tells repeats from news.
#[derive(Debug)]
pub struct CursorTracker {
    channels: Vec<Tracked>,
}

#[derive(Debug)]
struct Tracked {
    name: String,
    position: Option<String>,
}

impl CursorTracker {
    pub fn new(channels: &[String]) -> Self {
        let tracked = |name: &String| Tracked {
            name: name.clone(),
            position: None,
        };
        Self {
            channels: channels.iter().map(tracked).collect(),
        }
    }

    /// Notes a message, or the last one that is lost. `false` if it was seen before: same epoch, and an offset that is
    /// not above the last one.
    pub fn observe(&mut self, channel: &str, id: &str) -> bool {
        let Some(tracked) = self.channels.iter_mut().find(|c| c.name == channel) else {
            return true;
        };
        // An id that is no position is shown and not remembered: it could not be resumed from.
        let Some((epoch, offset)) = split_position(id) else {
            return true;
        };
        let known = tracked.position.as_deref().and_then(split_position);
        if known.is_some_and(|(known_epoch, known_offset)| {
            epoch == known_epoch && offset <= known_offset
        }) {
            return false;
        }
        tracked.position = Some(id.to_owned());
        true
    }

    /// Takes over a cursor that the server gave for everything sent so far. One that does not fit is left alone.
    pub fn replace(&mut self, cursor: &str) {
        if cursor.split(',').count() == self.channels.len()
            && cursor.split(',').all(|p| split_position(p).is_some())
        {
            for (tracked, position) in self.channels.iter_mut().zip(cursor.split(',')) {
                tracked.position = Some(position.to_owned());
            }
        }
    }

    /// `None` as long as some channel's position is not known.
    pub fn cursor(&self) -> Option<String> {
        let positions: Option<Vec<&str>> = self
            .channels
            .iter()
            .map(|c| c.position.as_deref())
            .collect();
        Some(positions?.join(","))
    }
}

/// `k3Qz9aXb-1042` → epoch and offset.
fn split_position(id: &str) -> Option<(&str, u64)> {
    let (epoch, offset) = id.rsplit_once('-')?;
    Some((epoch, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_follows_the_messages() {
        // (channel, id, is it news, cursor afterwards)
        check(
            &["a"],
            &[
                ("a", "k-1", true, Some("k-1")),
                ("a", "k-2", true, Some("k-2")),
            ],
        );
        check(
            &["a", "b"],
            &[
                ("b", "m-7", true, None),
                ("a", "k-2", true, Some("k-2,m-7")),
            ],
        );
    }

    #[test]
    fn a_repeat_is_told_from_news() {
        check(
            &["a"],
            &[
                ("a", "k-5", true, Some("k-5")),
                ("a", "k-5", false, Some("k-5")),
                ("a", "k-4", false, Some("k-5")),
            ],
        );
    }

    #[test]
    fn another_epoch_is_news_even_with_a_lower_offset() {
        check(
            &["a"],
            &[
                ("a", "k-5", true, Some("k-5")),
                ("a", "m-1", true, Some("m-1")),
            ],
        );
    }

    #[test]
    fn what_is_no_position_or_no_channel_of_ours_is_shown_and_not_remembered() {
        check(
            &["a"],
            &[
                ("a", "", true, None),
                ("a", "k", true, None),
                ("a", "k-x", true, None),
                ("b", "k-1", true, None),
            ],
        );
    }

    #[test]
    fn the_cursor_of_the_server_is_taken_over_where_it_fits() {
        let mut tracker = CursorTracker::new(&["a".to_owned(), "b".to_owned()]);
        for (cursor, want) in [
            ("", None),
            ("k-1", None),
            ("k-1,m", None),
            ("k-1,m-2", Some("k-1,m-2")),
            ("k-1,m-2,n-3", Some("k-1,m-2")),
            ("n-0,n-0", Some("n-0,n-0")),
        ] {
            tracker.replace(cursor);
            assert_eq!(tracker.cursor().as_deref(), want, "{cursor:?}");
        }
    }

    #[test]
    fn a_start_is_a_query_parameter() {
        for (text, want) in [
            ("now", "now"),
            ("earliest", "earliest"),
            ("k-1,m-2", "k-1,m-2"),
        ] {
            assert_eq!(Start::parse(text).parameter(), ("since", want.to_owned()));
        }
        assert_eq!(Start::Last(5).parameter(), ("last", "5".to_owned()));
    }

    #[track_caller]
    fn check(channels: &[&str], steps: &[(&str, &str, bool, Option<&str>)]) {
        let mut tracker =
            CursorTracker::new(&channels.iter().map(|c| c.to_string()).collect::<Vec<_>>());
        for &(channel, id, is_news, cursor) in steps {
            assert_eq!(tracker.observe(channel, id), is_news, "{channel} {id}");
            assert_eq!(tracker.cursor().as_deref(), cursor, "after {channel} {id}");
        }
    }
}
