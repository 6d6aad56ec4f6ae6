//! What a step leaves for later, and what goes out of it when the socket takes bytes again.

use super::Outbox;
use crate::metrics::Metrics;
use crate::transport::outgoing::Outgoing;
use crate::transport::{Effects, Transport};

impl Outbox {
    /// Takes over what a step wants to be sent. `taken` is `None` while something waits already. Otherwise the step's
    /// `out` was offered to the socket, which is full after so many bytes of it. Says whether messages gave way.
    pub fn take_effects(
        &mut self,
        effects: &mut Effects,
        taken: Option<usize>,
        bytes_max: usize,
        metrics: &mut Metrics,
    ) -> bool {
        if let Some(taken) = taken {
            self.put_back(effects.out.take_rest(taken), taken > 0);
        }
        let mut has_dropped = false;
        for waiting in effects.behind.drain(..) {
            has_dropped |= self.push_live(waiting, bytes_max, metrics);
        }
        self.push_all(&mut effects.out);
        for waiting in effects.replay.drain(..) {
            self.push_replay(waiting);
        }
        if let Some(pong) = effects.pong.take() {
            self.set_pong(pong.into());
        }
        has_dropped
    }

    /// Moves one write's worth into `out`, in the form of `transport`; none if nothing waits any more.
    pub fn fill(&mut self, out: &mut Outgoing, transport: &mut Transport) {
        while let Some(waiting) = self.take_front(out.bytes()) {
            transport.encode(waiting, out);
        }
    }

    /// The socket has taken `taken` bytes of `out`, in `wire_bytes` of its own; the rest waits for the next write.
    pub fn on_write(&mut self, out: &mut Outgoing, taken: usize, wire_bytes: usize, now_ms: u64) {
        self.on_taken(wire_bytes, now_ms);
        if !out.is_empty() {
            self.put_back(out.take_rest(taken), taken > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::outbox::tests::bytes;

    /// Everything that a step can want to be sent, behind what waits already, or after the socket has taken some of it.
    fn check(waiting: &str, taken: Option<usize>, want: &str) {
        let mut outbox = Outbox::new(0);
        let mut effects = Effects::default();
        if !waiting.is_empty() {
            outbox.push(bytes(waiting));
            effects.behind.push(bytes("behind "));
        }
        effects.out.push(b"out ");
        effects.replay.push(bytes("replay "));
        effects.pong = Some(b"pong ".to_vec());
        outbox.take_effects(&mut effects, taken, usize::MAX, &mut Metrics::default());
        assert!(!effects.has_output());

        let mut written = Vec::new();
        let mut out = Outgoing::default();
        loop {
            outbox.fill(&mut out, &mut Transport::new(0));
            let Some(&byte) = out.slices().flatten().next() else {
                break;
            };
            written.push(byte);
            outbox.on_write(&mut out, 1, 1, 0);
        }
        assert_eq!(
            String::from_utf8_lossy(&written),
            want,
            "{waiting:?} {taken:?}"
        );
    }

    #[test]
    fn what_a_step_wants_sent_goes_out_in_one_order() {
        for (waiting, taken, want) in [
            ("waiting ", None, "pong waiting behind out replay "),
            ("", None, "pong out replay "),
            ("", Some(0), "pong out replay "),
            ("", Some(1), "ut pong replay "),
            ("", Some(4), "pong replay "),
        ] {
            check(waiting, taken, want);
        }
    }
}
