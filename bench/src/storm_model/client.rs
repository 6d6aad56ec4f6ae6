//! How long a client waits before it comes back: each of the documented clients, from what it has seen alone.

use clap::ValueEnum;
use fastrand::Rng;

/// The setting `sse_retry`; event streams and a drain's 3001 jitter it by a half.
const RETRY_MS: u64 = 3_000;

/// Who comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// `pushring.js`, over a WebSocket.
    Page,
    /// `pushring sub`.
    Command,
    /// A browser's own EventSource.
    EventSource,
}

/// What a client has seen of its connection, or of its attempt at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection that worked is gone.
    Lost,
    /// So it is, by a drain: it names a delay, or is an event stream's last `retry`.
    Drained,
    /// 503, with so many seconds of `Retry-After`.
    Refused { retry_after_s: u64 },
    /// Closed without a word, or nothing came within [`Kind::patience_ms`].
    Unanswered,
}

/// What one client remembers. A million of them are in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Client {
    failures: u8,
    /// How a page goes about it.
    step: Step,
    /// An event stream's `retry`.
    retry_ms: u16,
}

/// What a page tries next. After a failure it asks by a poll first, which tells it why; the poll's connection stays
/// open, and once two WebSockets have failed beside it, the page takes it for an event stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    WebSocket,
    Poll,
    /// The poll was answered.
    BesidePoll,
    AgainBesidePoll,
}

/// What a client does about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It tries so many milliseconds later.
    Wait(u64),
    /// It needs no newcomer's place.
    Back,
    Never,
}

impl Kind {
    /// How long a page, the command or a browser waits for an answer to its attempt.
    pub(super) fn patience_ms(self) -> u64 {
        match self {
            Self::Page => 5_000,
            Self::Command => 10_000,
            // What Linux does with a SYN that nobody answers; browsers add no limit of their own below it.
            Self::EventSource => 127_000,
        }
    }
}

impl Client {
    /// With a connection that works.
    pub(super) fn connected(kind: Kind, rng: &mut Rng) -> Self {
        let retry_ms = match kind {
            Kind::EventSource => jittered_retry_ms(rng) as u16,
            _ => 0,
        };
        Self {
            retry_ms,
            ..Self::default()
        }
    }

    pub(super) fn on_end(&mut self, kind: Kind, end: End, rng: &mut Rng) -> After {
        match kind {
            Kind::Page => self.page_after(end, rng),
            Kind::Command => After::Wait(self.command_waits(end, rng)),
            Kind::EventSource => match end {
                // WHATWG HTML, "Server-sent events": whatever has another status than 200 is final.
                End::Refused { .. } => After::Never,
                End::Drained => After::Wait(jittered_retry_ms(rng)),
                End::Lost | End::Unanswered => After::Wait(u64::from(self.retry_ms)),
            },
        }
    }

    /// It was let in. `false`: that was its poll, and the attempt itself follows at once.
    pub(super) fn on_admitted(&mut self) -> bool {
        let was_poll = self.step == Step::Poll;
        if was_poll {
            self.step = Step::BesidePoll;
        }
        !was_poll
    }

    fn page_after(&mut self, end: End, rng: &mut Rng) -> After {
        const MIN_MS: u64 = 1_000;
        const MAX_MS: u64 = 30_000;
        let step = self.step;
        if matches!(end, End::Refused { .. } | End::Unanswered) {
            self.failures = self.failures.saturating_add(1);
            self.step = match step {
                Step::WebSocket | Step::Poll => Step::Poll,
                Step::BesidePoll => Step::AgainBesidePoll,
                Step::AgainBesidePoll => return After::Back,
            };
        }
        After::Wait(match end {
            End::Drained => jittered_retry_ms(rng).max(MIN_MS),
            // A browser shows a page the answer to its poll, and not that to a handshake.
            End::Refused { retry_after_s } if step == Step::Poll => retry_after_s * 1_000,
            _ => {
                let ceiling_ms = (MIN_MS << (self.failures + 1).min(16)).min(MAX_MS);
                MIN_MS + rng.u64(0..=ceiling_ms - MIN_MS)
            }
        })
    }

    fn command_waits(&mut self, end: End, rng: &mut Rng) -> u64 {
        let random = rng.f64();
        let ceiling_ms = (500_u64 << self.failures.min(16)).min(30_000);
        let backoff_ms = ceiling_ms as f64 * (0.5 + random / 2.0);
        let is_first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        let hint_ms = match end {
            End::Drained => jittered_retry_ms(rng),
            End::Refused { retry_after_s } => retry_after_s * 1_000,
            End::Lost | End::Unanswered => return backoff_ms as u64,
        };
        let hint_ms = hint_ms as f64 * (1.0 + random / 4.0);
        match is_first {
            true => hint_ms as u64,
            false => hint_ms.max(backoff_ms) as u64,
        }
    }
}

fn jittered_retry_ms(rng: &mut Rng) -> u64 {
    rng.u64(RETRY_MS / 2..=RETRY_MS + RETRY_MS / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: End = End::Refused { retry_after_s: 4 };

    /// Each wait has to be within its bounds, and over many lots close to both of them.
    #[track_caller]
    fn check(kind: Kind, ends: &[End], want: &[Option<(u64, u64)>]) {
        let mut rng = Rng::with_seed(7);
        let mut seen = vec![(u64::MAX, 0); ends.len()];
        for _ in 0..2_000 {
            let mut client = Client::connected(kind, &mut rng);
            for (index, &end) in ends.iter().enumerate() {
                let After::Wait(wait_ms) = client.on_end(kind, end, &mut rng) else {
                    assert_eq!(want[index], None, "{end:?} at {index}");
                    continue;
                };
                let (least, most) = want[index].expect("it waits");
                assert!((least..=most).contains(&wait_ms), "{wait_ms} at {index}");
                seen[index] = (seen[index].0.min(wait_ms), seen[index].1.max(wait_ms));
            }
        }
        for ((least, most), want) in seen.iter().zip(want) {
            let Some((want_least, want_most)) = want else {
                continue;
            };
            let slack = (want_most - want_least) / 10;
            assert!(*least <= want_least + slack && *most >= want_most - slack);
        }
    }

    #[test]
    fn a_page_doubles_and_asks_by_a_poll() {
        use End::{Drained, Lost, Unanswered};
        let first = Some((1_000, 2_000));
        check(Kind::Page, &[Lost], &[first]);
        check(Kind::Page, &[Drained], &[Some((1_500, 4_500))]);
        check(
            Kind::Page,
            &[Lost, Unanswered, Unanswered, Unanswered, Unanswered],
            &[
                first,
                Some((1_000, 4_000)),
                Some((1_000, 8_000)),
                Some((1_000, 16_000)),
                Some((1_000, 30_000)),
            ],
        );
        // The first refusal is hidden, the second one answers a poll.
        check(
            Kind::Page,
            &[Lost, REFUSED, REFUSED],
            &[first, Some((1_000, 4_000)), Some((4_000, 4_000))],
        );
    }

    #[test]
    fn the_command_keeps_a_hint_and_doubles() {
        use End::{Drained, Lost, Unanswered};
        check(
            Kind::Command,
            &[Lost, Unanswered, Unanswered],
            &[Some((250, 500)), Some((500, 1_000)), Some((1_000, 2_000))],
        );
        check(Kind::Command, &[Drained], &[Some((1_500, 5_625))]);
        check(
            Kind::Command,
            &[Lost, REFUSED],
            &[Some((250, 500)), Some((4_000, 5_000))],
        );
    }

    #[test]
    fn the_command_is_the_one_that_ships() {
        use pushring::cli::reconnect::ReconnectDelay;
        let mut rng = Rng::with_seed(11);
        let mut client = Client::default();
        let mut shipped = ReconnectDelay::default();
        for end in [
            End::Lost,
            REFUSED,
            End::Unanswered,
            REFUSED,
            End::Unanswered,
        ] {
            let random = rng.clone().f64();
            let hint = match end {
                End::Refused { retry_after_s } => Some(retry_after_s),
                _ => None,
            };
            let want = shipped.next(hint.map(std::time::Duration::from_secs), random);
            let got = client.on_end(Kind::Command, end, &mut rng);
            assert_eq!(got, After::Wait(want.as_millis() as u64), "{end:?}");
        }
    }

    #[test]
    fn the_page_is_the_one_that_ships() {
        let script = include_str!("../../../src/api/page/pushring.js");
        for line in [
            "const BACKOFF_MIN_MS = 1_000;",
            "const BACKOFF_MAX_MS = 30_000;",
            "export const TRIAL_MS = 5_000;",
            "const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** (failures + 1));",
        ] {
            assert!(script.contains(line), "pushring.js has no line {line}");
        }
    }

    #[test]
    fn an_event_source_waits_its_retry_and_takes_a_refusal_as_final() {
        let retry = Some((1_500, 4_500));
        check(
            Kind::EventSource,
            &[End::Lost, End::Unanswered, End::Drained, REFUSED],
            &[retry, retry, retry, None],
        );
    }

    #[test]
    fn a_page_whose_poll_was_answered_falls_back_to_its_connection() {
        let mut rng = Rng::with_seed(1);
        let mut client = Client::default();
        client.on_end(Kind::Page, End::Lost, &mut rng);
        client.on_end(Kind::Page, REFUSED, &mut rng);
        assert!(!client.on_admitted());
        let after = client.on_end(Kind::Page, REFUSED, &mut rng);
        assert!(matches!(after, After::Wait(_)));
        assert_eq!(client.on_end(Kind::Page, REFUSED, &mut rng), After::Back);
    }

    #[test]
    fn only_a_page_that_failed_needs_two_admissions() {
        let mut rng = Rng::with_seed(1);
        for kind in [Kind::Page, Kind::Command, Kind::EventSource] {
            let mut client = Client::connected(kind, &mut rng);
            client.on_end(kind, End::Lost, &mut rng);
            assert!(client.on_admitted());
            client.on_end(kind, End::Unanswered, &mut rng);
            assert_eq!(client.on_admitted(), kind != Kind::Page);
            assert!(client.on_admitted());
        }
    }
}
