"""What a client publishes over its WebSocket comes back to it, where its namespace allows it."""

from __future__ import annotations

import json
from collections.abc import Callable

from agent import CROSS_ORIGIN, Agent, AgentListener
from listeners import OBJECT, RAW_WS, PythonWebSocket
from pushring_test import Scenarios, Server, expect, fresh_channel, publish, text, wait_until

MIB = 1 << 20

# Each tuple is one message in as many frames.
WHOLE_MESSAGES: list[tuple[str | bytes, ...]] = [
    ("hello",),
    (b"\x00\x01\xfe\xff",),
    ("",),
    (b"",),
    ("žluťoučký kůň 🐎 日本語",),
    *[("x" * size,) for size in (125, 126, 127, 65_535, 65_536)],
    *[(bytes(size),) for size in (125, 126, 127, 65_535, 65_536)],
    ("m" * MIB,),
    (bytes(range(256)) * (MIB // 256),),
]

FRAGMENTED_MESSAGES: list[tuple[str | bytes, ...]] = [
    ("in ", "three ", "frames"),
    ("", "", "after two empty ones"),
    (b"\x00", b"\x01", b"\x02" * 70_000),
    tuple("ž" * 100),
    tuple(b"y" * (MIB // 64) for _ in range(64)),
]

Open = Callable[[str, str, str], "PythonWebSocket | AgentListener"]


def clients(agent: Agent) -> list[tuple[str, Open, bool]]:
    """Each client, and whether it can send fragments."""
    return [
        ("websockets", lambda to, channel, form: PythonWebSocket(to, channel, form=form), True),
        ("npm ws", lambda to, channel, form: AgentListener(agent, "WebSocket", None, to, channel, form=form), True),
        (
            "Chromium",
            lambda to, channel, form: AgentListener(agent, "WebSocket", CROSS_ORIGIN, to, channel, form=form),
            False,
        ),
    ]


def echo(server: Server, open_client: Open, messages: list[tuple[str | bytes, ...]]) -> None:
    client = open_client(server.authority, fresh_channel("echo"), RAW_WS)
    client.wait_open()
    for pieces in messages:
        client.send(*pieces)
    client.wait_messages(len(messages))
    want = [type(pieces[0])().join(pieces) for pieces in messages]
    for index, (message, value) in enumerate(zip(client.messages, want, strict=True)):
        expect(f"echo {index + 1}", message.value, value)


def objects(server: Server, open_client: Open) -> None:
    """With `format=json` a frame names its channel, and an object comes back."""
    channels = [fresh_channel("echo"), fresh_channel("echo")]
    client = open_client(server.authority, ",".join(channels), OBJECT)
    client.wait_open()
    values = [{"n": 1, "list": [None, True, "ž"]}, "a string", 7, None]
    for value in values:
        for channel in channels:
            client.send(json.dumps({"channel": channel, "data": value}))
    client.wait_messages(len(values) * 2)
    for channel in channels:
        expect(f"echo of {channel}", [m.value for m in client.messages if m.channel == channel], values)


def others_hear_it(server: Server, open_client: Open) -> None:
    channel = fresh_channel("echo")
    client, other = (open_client(server.authority, channel, RAW_WS) for _ in range(2))
    for each in (client, other):
        each.wait_open()
    client.send("to everyone")
    publish(server, channel, text("from the backend"))
    for each in (client, other):
        each.wait_messages(2)
        expect("messages", sorted(m.value for m in each.messages), ["from the backend", "to everyone"])


def refused(server: Server, open_client: Open, namespace: str, payload: str, close_code: int) -> None:
    channel = fresh_channel(namespace)
    client = open_client(server.authority, channel, RAW_WS)
    client.wait_open()
    client.send(payload)
    wait_until("the connection is closed", lambda: client.close_code)
    expect("close code", client.close_code, close_code)
    expect("messages", client.messages, [])


def main() -> None:
    scenarios = Scenarios("echo")
    flags = ["--message-bytes-max", "2MiB", "--outbox-bytes-max", "16MiB"]
    flags += ["--namespace", "echo.client_publish=true", "--namespace", "echo.history_messages=0"]
    with Server(*flags) as server, Agent() as agent:
        for name, opened, can_fragment in clients(agent):
            scenarios.run(f"{name}: every size and kind", echo, server, opened, WHOLE_MESSAGES, server=server)
            if can_fragment:
                scenarios.run(f"{name}: fragments", echo, server, opened, FRAGMENTED_MESSAGES, server=server)
            scenarios.run(f"{name}: objects over two channels", objects, server, opened, server=server)
            scenarios.run(f"{name}: the others hear it", others_hear_it, server, opened, server=server)
            scenarios.run(f"{name}: not allowed is 1008", refused, server, opened, "", "hi", 1008, server=server)
            too_big = "x" * (2 * MIB + 1)
            scenarios.run(f"{name}: too big is 1009", refused, server, opened, "echo", too_big, 1009, server=server)
    scenarios.finish()


if __name__ == "__main__":
    main()
