"""Everything arrives in order, exactly once, and nothing else does, whichever way a client listens."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from agent import CROSS_ORIGIN, Agent, AgentListener, same_origin
from listeners import (
    OBJECT,
    PYTHON_LISTENERS,
    RAW_SSE,
    RAW_WS,
    HttpxSse,
    Listener,
    PythonWebSocket,
    ShortPoll,
    expect_messages,
    wanted_value,
)
from pushring_test import (
    EVERY_KIND,
    Publisher,
    Scenarios,
    Sent,
    Server,
    expect,
    fail,
    fresh_channel,
    publish,
    text,
    wait_until,
)

Open = Callable[[str, str], Listener]

EVENT = "created"


def every_way(agent: Agent, server: Server) -> list[tuple[str, Open]]:
    """Each client in each form it offers, as a function of server and channels."""
    ways: list[tuple[str, Open]] = [(kind.__name__, kind) for kind in PYTHON_LISTENERS]
    ways.append(("HttpxSse, raw", lambda to, channels: HttpxSse(to, channels, form=RAW_SSE)))
    ways.append(("PythonWebSocket, raw", lambda to, channels: PythonWebSocket(to, channels, form=RAW_WS)))
    places = [("npm", None), ("Chromium", CROSS_ORIGIN), ("Chromium same-origin", same_origin(server))]
    for place, page in places:
        for kind, raw in (("EventSource", RAW_SSE), ("WebSocket", RAW_WS)):
            for form in (OBJECT, raw):

                def opened(to: str, channels: str, kind: str = kind, page: str | None = page, form: str = form):
                    return AgentListener(agent, kind, page, to, channels, form=form, events=(EVENT,))

                ways.append((f"{place} {kind}, {form}", opened))
    return ways


def one_channel(server: Server, open_listener: Open) -> None:
    channel = fresh_channel()
    listener = open_listener(server.authority, channel)
    listener.wait_open()
    sent = [*EVERY_KIND, text("named", event=EVENT), text("the last one")]
    answers = publish(server, channel, *sent)
    listener.wait_messages(len(sent))
    expect_messages(listener, sent)
    if listener.form != RAW_WS:
        expect("event names", [m.event for m in listener.messages], [item.event for item in sent])
        expect("ids", [m.id for m in listener.messages], [answer["id"] for answer in answers])
    expect("gaps", listener.gaps, [])
    # A browser has six HTTP/1.1 connections to a host.
    listener.close()


def several_channels(server: Server, open_listener: Open) -> None:
    channels = [fresh_channel() for _ in range(3)]
    listener = open_listener(server.authority, ",".join(channels))
    listener.wait_open()
    sent = {channel: [text(f"{channel} {n}") for n in range(20)] for channel in channels}
    shared = text("to all of them")
    with Publisher(server) as publisher:
        for n in range(20):
            for channel in channels:
                publisher.publish(channel, sent[channel][n])
        publisher.publish(",".join(channels), shared)
    listener.wait_messages(3 * 20 + 3)
    for channel in channels:
        # A raw form doesn't name the channel; there, its messages do.
        got = [m.value for m in listener.messages if channel in (m.channel or m.value)]
        want = [wanted_value(item, listener.form) for item in sent[channel]]
        expect(f"messages of {channel}", [value for value in got if value != shared.value], want)
    expect("copies of the shared one", sum(m.value == shared.value for m in listener.messages), 3)
    expect("number of messages", len(listener.messages), 3 * 20 + 3)
    expect("gaps", listener.gaps, [])
    listener.close()


def default_formats(server: Server) -> None:
    """Without `format`, one channel comes raw and several come as objects."""
    one, other = fresh_channel(), fresh_channel()
    for kind in ("EventSource", "WebSocket"):
        with Agent() as agent:
            raw_form = RAW_SSE if kind == "EventSource" else RAW_WS
            raw, objects = (
                AgentListener(agent, kind, None, server.authority, channels, form=form, states_format=False)
                for channels, form in ((one, raw_form), (f"{one},{other}", OBJECT))
            )
            raw.wait_open()
            objects.wait_open()
            sent = [Sent("json", b'{"n":1}')]
            publish(server, one, *sent)
            for listener in (raw, objects):
                listener.wait_messages(1)
                expect_messages(listener, sent)


def silence_stays_silent(server: Server, agent: Agent) -> None:
    """Neither the start of a stream nor a keep-alive is a message to anyone."""
    channel = fresh_channel()
    listeners = [opened(server.authority, channel) for _, opened in every_way(agent, server)]
    for listener in listeners:
        listener.wait_open()
    pinged = next(item for item in listeners if isinstance(item, AgentListener) and item.kind == "WebSocket")
    with httpx.stream("GET", f"{server.url}/sse/{channel}", timeout=10) as stream:
        quiet = b""
        chunks = stream.iter_raw()
        while quiet.count(b"\n:") < 4:
            quiet += next(chunks)
        if b"\n\n" in quiet.replace(b"\r\n", b"\n"):
            fail(f"an empty line ends a block without data: {quiet!r}")
    wait_until("3 pings", lambda: pinged.pings >= 3 or pinged.broken)
    for listener in listeners:
        expect(f"{listener.name} saw messages", listener.messages, [])
        expect(f"{listener.name} saw gaps", listener.gaps, [])
        expect(f"{listener.name} was ended", listener.broken, None)
    sent = [text("the only one")]
    publish(server, channel, *sent)
    for listener in listeners:
        listener.wait_messages(1)
        expect_messages(listener, sent)


def a_stopped_poll_goes_on(server: Server) -> None:
    """Polls carry at most `limit` messages; the rest comes with the next cursor."""
    channel = fresh_channel()
    sent = [text(f"{n}") for n in range(50)]
    publish(server, channel, *sent)
    got: list[str] = []
    cursor = "earliest"
    for _ in range(8):
        answer = httpx.get(f"{server.url}/poll/{channel}", params={"since": cursor, "limit": 7})
        expect("status", answer.status_code, 200)
        cursor = answer.json()["cursor"]
        got += [item["data"] for item in answer.json()["messages"]]
    expect("messages", got, [item.value for item in sent])
    expect("then", httpx.get(f"{server.url}/poll/{channel}", params={"since": cursor}).status_code, 204)


def late_comers(server: Server) -> None:
    """`earliest` and `last=N` start in the history and go on live."""
    channel = fresh_channel()
    sent = [text(f"{n}") for n in range(20)]
    publish(server, channel, *sent[:10])
    for kind in PYTHON_LISTENERS:
        listener = kind(server.authority, channel, since="earliest")
        listener.wait_messages(10)
        expect_messages(listener, sent[:10])
        listener.close()
    answer = httpx.get(f"{server.url}/poll/{channel}", params={"last": 3})
    expect("last=3", [item["data"] for item in answer.json()["messages"]], ["7", "8", "9"])
    listener = ShortPoll(server.authority, channel, since="earliest")
    listener.wait_messages(10)
    publish(server, channel, *sent[10:])
    listener.wait_messages(20)
    expect_messages(listener, sent)


def main() -> None:
    scenarios = Scenarios("delivery")
    with Server() as server, Agent() as agent:
        for name, opened in every_way(agent, server):
            scenarios.run(f"{name}: every kind in order, once", one_channel, server, opened, server=server)
            scenarios.run(f"{name}: three channels", several_channels, server, opened, server=server)
        scenarios.run("default formats", default_formats, server, server=server)
        scenarios.run("poll with a limit", a_stopped_poll_goes_on, server, server=server)
        scenarios.run("earliest and last", late_comers, server, server=server)
    with Server("--heartbeat", "200ms") as server, Agent() as agent:
        scenarios.run("no empty message at start or keep-alive", silence_stays_silent, server, agent, server=server)
    scenarios.finish()


if __name__ == "__main__":
    main()
