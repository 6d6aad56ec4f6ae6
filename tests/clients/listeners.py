"""Every way to listen behind one face: what came, in order, and the cursor to go on from.

Clients that others wrote do the protocol work: `httpx`, `httpx-sse` and `websockets` here, JavaScript's in `agent.py`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import threading
from typing import Any

import httpx
import httpx_sse
import websockets.exceptions
import websockets.sync.client

from pushring_test import Sent, expect, fail, wait_until

GAP_EVENT = "pushring.gap"

# A listener says `object` where it gets a channel, an id and data; raw forms are named after their transport.
OBJECT, RAW_SSE, RAW_WS = "object", "raw SSE", "raw WebSocket"


@dataclasses.dataclass(frozen=True)
class Message:
    """One message as a listener saw it; `channel` and `id` are None where its form doesn't carry them."""

    value: Any
    event: str | None = None
    channel: str | None = None
    id: str | None = None


@dataclasses.dataclass(frozen=True)
class Gap:
    """A notice of loss and how many messages had come before it."""

    channel: str | None
    position: str | None
    after: int


class Listener:
    """What came so far. Subclasses fill it from a thread; tests read it and wait."""

    form = OBJECT

    def __init__(self, channels: str) -> None:
        self.channels = channels.split(",")
        self.messages: list[Message] = []
        self.gaps: list[Gap] = []
        self.opened = 0
        self.broken: str | None = None
        self.cursor: str | None = None
        self.recovered: bool | None = None
        self.is_closing = False

    def wait_open(self, times: int = 1) -> None:
        wait_until(f"{self.name} opens ({times})", lambda: self.opened >= times or self._fail_if_ended())

    def wait_messages(self, count: int) -> None:
        wait_until(
            lambda: f"{self.name} gets {count} messages (has {len(self.messages)})",
            lambda: len(self.messages) >= count or self._fail_if_ended(),
        )

    def wait_broken(self) -> None:
        wait_until(f"{self.name} notices that its connection is gone", lambda: self.broken)

    def _fail_if_ended(self) -> bool:
        if self.broken:
            fail(f"{self.name} ended after {len(self.messages)} messages: {self.broken}")
        return False

    def close(self) -> None:
        """Asks for nothing more. A client that only waits may stay until its server ends."""
        self.is_closing = True

    @property
    def name(self) -> str:
        return type(self).__name__

    def on_object(self, item: dict[str, Any]) -> None:
        if "gap" in item:
            self.gaps.append(Gap(item["gap"]["channel"], item["gap"]["position"], len(self.messages)))
            return
        is_binary = "data_base64" in item
        expect("an object has data or data_base64", is_binary != ("data" in item), True)
        value = base64.b64decode(item["data_base64"], validate=True) if is_binary else item["data"]
        self.messages.append(Message(value, item.get("event"), item["channel"], item["id"]))

    def on_sse_event(self, event: str, cursor: str, data: str) -> None:
        if event == GAP_EVENT:
            gap = json.loads(data)
            self.gaps.append(Gap(gap["channel"], gap["position"], len(self.messages)))
        elif self.form == OBJECT:
            self.on_object(json.loads(data))
        else:
            self.messages.append(Message(data, None if event == "message" else event, None, cursor))
        self.cursor = cursor or self.cursor

    def on_ws_message(self, data: str | bytes) -> None:
        if self.form == RAW_WS:
            self.messages.append(Message(data))
            return
        if not isinstance(data, str):
            fail(f"{self.name}: format=json came as a binary frame")
        self.on_object(json.loads(data))
        self._advance()

    def _advance(self) -> None:
        """Over a WebSocket the cursor is put together from the position of each channel."""
        if self.cursor and self.messages:
            positions = dict(zip(self.channels, self.cursor.split(","), strict=True))
            last = self.messages[-1]
            positions[last.channel or ""] = last.id or ""
            self.cursor = ",".join(positions[channel] for channel in self.channels)


def wanted_value(sent: Sent, form: str) -> Any:
    """What a listener of `form` is to see of a payload."""
    if form == OBJECT:
        return sent.value
    if sent.kind != "binary":
        return sent.payload.decode()
    return sent.payload if form == RAW_WS else base64.b64encode(sent.payload).decode()


def expect_messages(listener: Listener, sent: list[Sent]) -> None:
    """Exactly these, once each, in order."""
    got = [message.value for message in listener.messages]
    want = [wanted_value(item, listener.form) for item in sent]
    for index, (got_value, want_value) in enumerate(itertools.zip_longest(got, want, fillvalue="(nothing)")):
        expect(f"{listener.name} ({listener.form}) message {index + 1} of {len(want)}", got_value, want_value)


class ShortPoll(Listener):
    """Asks again at once, with the cursor of the answer before."""

    wait_s = 0

    def __init__(self, server: str, channels: str, since: str = "now", form: str = OBJECT) -> None:
        super().__init__(channels)
        expect("polls carry objects", form, OBJECT)
        self.cursor = since
        self.url = f"http://{server}/poll/{channels}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            with httpx.Client(timeout=None) as client:
                # Where "now" is; a first long poll would hold the answer back.
                self._poll(client, 0)
                self.opened = 1
                while not self.is_closing:
                    self._poll(client, self.wait_s)
        except Exception as error:
            self.broken = repr(error)

    def _poll(self, client: httpx.Client, wait_s: int) -> None:
        answer = client.get(self.url, params={"since": self.cursor, "wait": wait_s})
        if answer.status_code == 204:
            expect("a 204 has no body", answer.content, b"")
        else:
            expect(f"status of a poll ({answer.text})", answer.status_code, 200)
            body = answer.json()
            expect("the cursor in head and body", answer.headers["Pushring-Cursor"], body["cursor"])
            if not body["recovered"]:
                self.gaps.append(Gap(None, None, len(self.messages)))
            for item in body["messages"]:
                self.on_object(item)
        expect("Cache-Control of a poll", answer.headers["Cache-Control"], "no-store")
        self.cursor = answer.headers["Pushring-Cursor"]


class LongPoll(ShortPoll):
    wait_s = 20


class HttpxSse(Listener):
    """httpx-sse; resumes by `Last-Event-ID`, as a browser does, with a URL that says otherwise."""

    def __init__(self, server: str, channels: str, since: str = "now", form: str = OBJECT) -> None:
        super().__init__(channels)
        self.form = form
        self.headers = {} if since in ("now", "earliest") else {"Last-Event-ID": since}
        self.cursor = since if self.headers else None
        kind = "json" if form == OBJECT else "raw"
        self.url = f"http://{server}/sse/{channels}?format={kind}&since={'earliest' if self.headers else since}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            with (
                httpx.Client(timeout=None) as client,
                httpx_sse.connect_sse(client, "GET", self.url, headers=self.headers) as source,
            ):
                expect("status of an event stream", source.response.status_code, 200)
                self.opened = 1
                for event in source.iter_sse():
                    self.on_sse_event(event.event, event.id, event.data)
            self.broken = "the stream ended"
        except Exception as error:
            self.broken = repr(error)


class PythonWebSocket(Listener):
    """The `websockets` package, which also sends."""

    def __init__(self, server: str, channels: str, since: str = "now", form: str = OBJECT) -> None:
        super().__init__(channels)
        self.form = form
        kind = "json" if form == OBJECT else "raw"
        self.connection = websockets.sync.client.connect(
            f"ws://{server}/ws/{channels}?format={kind}&since={since}", max_size=None
        )
        assert self.connection.response is not None
        headers = self.connection.response.headers
        self.recovered = headers.get("Pushring-Recovered") != "false"
        self.cursor = headers["Pushring-Cursor"] if since in ("now", "earliest") else since
        self.opened = 1
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            for data in self.connection:
                self.on_ws_message(data)
            self.broken = "closed"
        except Exception as error:
            self.broken = repr(error)

    def close(self) -> None:
        self.connection.close()

    @property
    def close_code(self) -> int | None:
        return self.connection.close_code

    def send(self, *pieces: str | bytes) -> None:
        """One message, in as many frames as there are pieces."""
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            self.connection.send(pieces[0] if len(pieces) == 1 else iter(pieces))


PYTHON_LISTENERS = [ShortPoll, LongPoll, HttpxSse, PythonWebSocket]
