"""A connection dies while messages are published; every transport goes on from the cursor of every other.

No message is lost and none comes twice; where the history no longer has it, that is said.
"""

from __future__ import annotations

import threading

import httpx

from agent import CROSS_ORIGIN, Agent, AgentListener
from listeners import OBJECT, PYTHON_LISTENERS, RAW_SSE, RAW_WS, HttpxSse, Listener, PythonWebSocket, ShortPoll
from pushring_test import Publisher, Scenarios, Sent, Server, expect, fail, fresh_channel, publish, text
from relay import Relay

MESSAGES = 120

# Cut once the first listener has this many: what it has not read by then is on its way and lost with the connection.
CUT_AFTER = 40


def numbered(channel: str, count: int) -> list[Sent]:
    """Messages that name themselves, of lengths from a few bytes to a few kilobytes."""
    return [text(f"{channel} {n} " + "·" * (n * n % 1500)) for n in range(count)]


class Publishing:
    """Publishes to all channels in turn: a first half, and the second as soon as it is let go on."""

    def __init__(self, server: Server, channels: list[str]) -> None:
        self.sent = {channel: numbered(channel, MESSAGES) for channel in channels}
        self.go_on = threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(server,), daemon=True)
        self.thread.start()

    def _run(self, server: Server) -> None:
        try:
            with Publisher(server) as publisher:
                for n in range(MESSAGES):
                    if n == MESSAGES // 2:
                        self.go_on.wait()
                    for channel, messages in self.sent.items():
                        publisher.publish(channel, messages[n])
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self.thread.join()
        if self.error:
            raise self.error


def expect_all_once(sent: dict[str, list[Sent]], *listeners: Listener) -> None:
    for channel, messages in sent.items():
        got = [m.value for listener in listeners for m in listener.messages if m.value.startswith(f"{channel} ")]
        want = [item.value for item in messages]
        if got != want:
            numbers = [int(value.split()[1]) for value in got]
            lost = sorted(set(range(len(want))) - set(numbers))
            repeated = sorted({n for n in numbers if numbers.count(n) > 1})
            fail(f"{channel}: lost {lost}, repeated {repeated}, got {len(got)} of {len(want)}: {numbers}")
    for listener in listeners:
        expect(f"gaps seen by {listener.name}", listener.gaps, [])


def resume(server: Server, first: type, second: type, n_channels: int) -> None:
    channels = [fresh_channel("resume") for _ in range(n_channels)]
    with Relay(server.host, server.port) as relay:
        before = first(relay.authority, ",".join(channels))
        before.wait_open()
        publishing = Publishing(server, channels)
        before.wait_messages(CUT_AFTER)
        publishing.go_on.set()
    # With the relay gone, nothing connects again behind the listener's back.
    before.wait_broken()
    after = second(server.authority, ",".join(channels), since=before.cursor)
    publishing.finish()
    after.wait_messages(MESSAGES * n_channels - len(before.messages))
    expect_all_once(publishing.sent, before, after)
    after.close()


def reconnect_by_itself(server: Server, agent: Agent, page: str | None, n_channels: int) -> None:
    """An `EventSource` keeps its cursor without a line of its page's code."""
    channels = [fresh_channel("resume") for _ in range(n_channels)]
    with Relay(server.host, server.port) as relay:
        form = RAW_SSE if n_channels == 1 else OBJECT
        listener = AgentListener(agent, "EventSource", page, relay.authority, ",".join(channels), form=form)
        listener.wait_open()
        publishing = Publishing(server, channels)
        listener.wait_messages(CUT_AFTER)
        publishing.go_on.set()
        relay.cut()
        listener.wait_open(times=2)
        publishing.finish()
        listener.wait_messages(MESSAGES * n_channels)
        expect_all_once(publishing.sent, listener)
        listener.close()


def overrun(server: Server) -> tuple[str, str, list[str], str]:
    """A channel of whose history the middle is gone: its name, a cursor from before, what is left, the epoch."""
    channel = fresh_channel("short")
    answers = publish(server, channel, *numbered(channel, 30))
    info = server.request("GET", f"/channels/{channel}").json()
    left = [item.value for item in numbered(channel, 30)[-info["messages"] :]]
    expect("the history holds what the namespace says", len(left), 5)
    cursor = answers[2]["id"]
    return channel, cursor, left, cursor.rpartition("-")[0]


def expect_told(listener: Listener, channel: str, left: list[str], sent_later: Sent) -> None:
    """Told first, then what is left, then what comes."""
    listener.wait_messages(len(left) + 1)
    expect("messages", [m.value for m in listener.messages], [*left, sent_later.value])
    expect("number of gap notices", len(listener.gaps), 1)
    gap = listener.gaps[0]
    expect("messages before the gap notice", gap.after, 0)
    if not isinstance(listener, ShortPoll):
        expect("channel of the gap notice", gap.channel, channel)
        offset = (gap.position or "").rpartition("-")[2]
        if not offset.isdigit():
            fail(f"the position of a gap notice is epoch-offset, got {gap.position!r}")


def gap_is_told(server: Server, kind: type) -> None:
    channel, cursor, left, _ = overrun(server)
    listener = kind(server.authority, channel, since=cursor)
    listener.wait_messages(len(left))
    later = text(f"{channel} later")
    publish(server, channel, later)
    expect_told(listener, channel, left, later)
    if isinstance(listener, PythonWebSocket):
        expect("the 101 says recovered", listener.recovered, False)
    listener.close()


def gap_is_told_in_the_head(server: Server) -> None:
    """A raw WebSocket has no room for a notice: its 101 says it."""
    channel, cursor, left, epoch = overrun(server)
    listener = PythonWebSocket(server.authority, channel, since=cursor, form=RAW_WS)
    expect("recovered after an overrun", listener.recovered, False)
    listener.wait_messages(len(left))
    expect("messages", [m.value for m in listener.messages], left)
    whole = PythonWebSocket(server.authority, channel, since=f"{epoch}-25", form=RAW_WS)
    expect("recovered from what the history still has", whole.recovered, True)
    whole.wait_messages(len(left))
    expect("messages", [m.value for m in whole.messages], left)


def other_epoch_is_a_gap(server: Server, kind: type) -> None:
    channel, _, left, epoch = overrun(server)
    other = "A" * len(epoch) if epoch != "A" * len(epoch) else "B" * len(epoch)
    listener = kind(server.authority, channel, since=f"{other}-28")
    listener.wait_messages(len(left))
    later = text(f"{channel} later")
    publish(server, channel, later)
    expect_told(listener, channel, left, later)
    listener.close()


def nothing_lost_is_no_gap(server: Server, kind: type) -> None:
    """The edge: the oldest message that is left is the very next one."""
    channel, _, left, epoch = overrun(server)
    listener = kind(server.authority, channel, since=f"{epoch}-25")
    listener.wait_messages(len(left))
    expect("messages", [m.value for m in listener.messages], left)
    expect("gaps", listener.gaps, [])
    listener.close()


def bad_cursor_is_refused(server: Server) -> None:
    channel = fresh_channel()
    publish(server, channel, text("one"))
    for transport in ("poll", "sse"):
        for cursor in ("nonsense!", "-", "abc-", "abcdefgh-1,abcdefgh-2", "abcdefgh-99999999999999999999999"):
            answer = httpx.get(f"{server.url}/{transport}/{channel}", params={"since": cursor})
            expect(f"status of {transport} since={cursor}", answer.status_code, 400)


def browser_is_told(server: Server, agent: Agent, page: str | None, kind: str) -> None:
    channel, cursor, left, _ = overrun(server)
    listener = AgentListener(agent, kind, page, server.authority, channel, since=cursor)
    listener.wait_messages(len(left))
    later = text(f"{channel} later")
    publish(server, channel, later)
    expect_told(listener, channel, left, later)
    listener.close()


def main() -> None:
    scenarios = Scenarios("resume")
    flags = ["--namespace", "resume.history_messages=1000", "--namespace", "short.history_messages=5"]
    with Server(*flags) as server, Agent() as agent:
        for first in PYTHON_LISTENERS:
            for second in PYTHON_LISTENERS:
                for n in (1, 3):
                    name = f"{first.__name__} → {second.__name__}, {n} channel(s)"
                    scenarios.run(name, resume, server, first, second, n, server=server)
        for place, page in (("npm's", None), ("Chromium's", CROSS_ORIGIN)):
            for n in (1, 3):
                name = f"{place} EventSource reconnects, {n} channel(s)"
                scenarios.run(name, reconnect_by_itself, server, agent, page, n, server=server)
            for kind in ("EventSource", "WebSocket"):
                name = f"{place} {kind} is told of a gap"
                scenarios.run(name, browser_is_told, server, agent, page, kind, server=server)
        for listener in (ShortPoll, HttpxSse, PythonWebSocket):
            name = listener.__name__
            scenarios.run(f"{name}: history overrun", gap_is_told, server, listener, server=server)
            scenarios.run(f"{name}: another epoch", other_epoch_is_a_gap, server, listener, server=server)
            scenarios.run(f"{name}: nothing lost", nothing_lost_is_no_gap, server, listener, server=server)
        scenarios.run("raw WebSocket: history overrun", gap_is_told_in_the_head, server, server=server)
        scenarios.run("a cursor that can't be parsed", bad_cursor_is_refused, server, server=server)
    scenarios.finish()


if __name__ == "__main__":
    main()
