"""The server ends in mid-stream and comes back on its port: each client is told of the loss and goes on."""

from __future__ import annotations

import signal

from agent import CROSS_ORIGIN, Agent, AgentListener
from listeners import OBJECT, PYTHON_LISTENERS, RAW_SSE, ShortPoll
from pushring_test import Scenarios, Server, expect, fresh_channel, publish, text, wait_until

BEFORE = [text(f"before {n}") for n in range(10)]
AFTER = [text(f"after {n}") for n in range(10)]


def event_source_comes_back(agent: Agent, page: str | None, form: str, how: signal.Signals) -> None:
    channel = fresh_channel()
    with Server() as server:
        listener = AgentListener(agent, "EventSource", page, server.authority, channel, form=form)
        listener.wait_open()
        publish(server, channel, *BEFORE)
        listener.wait_messages(len(BEFORE))
        server.restart(how)
        listener.wait_open(times=2)
        publish(server, channel, *AFTER)
        listener.wait_messages(len(BEFORE) + len(AFTER))
        expect("messages", [m.value for m in listener.messages], [item.value for item in BEFORE + AFTER])
        # The channel's history ended with the process: that is said before anything new.
        expect("channels with a gap notice", [gap.channel for gap in listener.gaps], [channel])
        expect("messages before the gap notice", listener.gaps[0].after, len(BEFORE))
        listener.close()


def cursor_of_a_lost_epoch(kind: type, how: signal.Signals) -> None:
    """Clients that reconnect by their own code hand in the old cursor."""
    channel = fresh_channel()
    with Server() as server:
        before = kind(server.authority, channel)
        before.wait_open()
        publish(server, channel, *BEFORE)
        before.wait_messages(len(BEFORE))
        server.restart(how)
        # Polls may go over to the new process without a broken connection in between.
        wait_until("the restart is noticed", lambda: before.broken or before.gaps)
        publish(server, channel, *AFTER)
        had = [] if before.broken else BEFORE
        after = kind(server.authority, channel, since=before.cursor) if before.broken else before
        after.wait_messages(len(had) + len(AFTER))
        expect("messages", [m.value for m in after.messages], [item.value for item in had + AFTER])
        wait_until("a gap notice", lambda: after.gaps)
        expect("messages before each gap notice", [gap.after for gap in after.gaps], [len(had)])
        if not issubclass(kind, ShortPoll):
            expect("channel of the gap notice", after.gaps[0].channel, channel)


def told_while_it_is_quiet(agent: Agent) -> None:
    """The first message after a restart may be a long time coming; the loss is told then at the latest."""
    channel = fresh_channel()
    with Server() as server:
        listener = AgentListener(agent, "EventSource", None, server.authority, channel, form=OBJECT)
        listener.wait_open()
        publish(server, channel, *BEFORE[:1])
        listener.wait_messages(1)
        for n in (2, 3):
            server.restart(signal.SIGKILL)
            listener.wait_open(times=n)
        publish(server, channel, *AFTER)
        listener.wait_messages(1 + len(AFTER))
        values = [m.value for m in listener.messages]
        expect("messages", values, [item.value for item in BEFORE[:1] + AFTER])
        expect("told", {gap.channel for gap in listener.gaps}, {channel})
        listener.close()


def clean_end(agent: Agent, how: signal.Signals) -> None:
    """SIGTERM says goodbye to a WebSocket with a code that means: come back."""
    channel = fresh_channel()
    with Server() as server:
        listener = AgentListener(agent, "WebSocket", None, server.authority, channel)
        listener.wait_open()
        server.stop(how)
        expect("exit status", server.process.returncode, 0)
        wait_until("the WebSocket is closed", lambda: listener.close_code)
        expect("close code", listener.close_code, 3001)


def main() -> None:
    scenarios = Scenarios("restart")
    with Agent() as agent:
        for how in (signal.SIGKILL, signal.SIGTERM):
            for place, page in (("npm's", None), ("Chromium's", CROSS_ORIGIN)):
                for form in (RAW_SSE, OBJECT):
                    name = f"{how.name}: {place} EventSource, {form}"
                    scenarios.run(name, event_source_comes_back, agent, page, form, how)
            for kind in PYTHON_LISTENERS:
                scenarios.run(f"{how.name}: {kind.__name__}", cursor_of_a_lost_epoch, kind, how)
        scenarios.run("two restarts before the next message", told_while_it_is_quiet, agent)
        scenarios.run("SIGTERM closes a WebSocket with 3001", clean_end, agent, signal.SIGTERM)
    scenarios.finish()


if __name__ == "__main__":
    main()
