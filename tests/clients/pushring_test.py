"""What every client test shares: a server of its own, publishing, waiting for a condition, and the tally.

Standard library only, so that a program which needs nothing else can use it.
"""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

# Long enough for a loaded machine: a deadline says that something never came, not that it was slow.
DEADLINE_S = 30.0

ADDRESS = re.compile(r"((?:\d{1,3}\.){3}\d{1,3}|\[[0-9a-fA-F:]+\]):(\d+)")
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Failure(Exception):
    """A scenario that did not hold; the text says what was wanted and what came."""


def fail(text: str) -> NoReturn:
    raise Failure(text)


def expect(what: str, got: Any, want: Any) -> None:
    if got != want:
        fail(f"{what}: got {shortened(got)}, want {shortened(want)}")


def shortened(value: Any, characters_max: int = 600) -> str:
    text = repr(value)
    return text if len(text) <= characters_max else f"{text[:characters_max]}… ({len(text)} characters)"


def wait_until(what: str | Callable[[], str], condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Asks again and again until `condition` gives something true; its value is returned.

    A callable `what` tells how things stand when the time is over.
    """
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > end:
            fail(f"not within {deadline_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.005)
    return value


def listening_address(log_line: str) -> tuple[str, int] | None:
    """The address in the log line by which the server says where it listens; None for any other line."""
    line = ANSI_COLOUR.sub("", log_line)
    if "listening" not in line:
        return None
    address = ADDRESS.search(line, line.index("listening")) or ADDRESS.search(line)
    return (address[1], int(address[2])) if address else None


class Server:
    """One server process. `restart` brings it back on the port it had."""

    def __init__(self, *flags: str, threads: int = 2) -> None:
        self.flags = ["--threads", str(threads), *flags]
        self.host, self.port = "127.0.0.1", 0
        self.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.authority}"

    def start(self) -> None:
        command = [program(), "--listen", self.authority, *self.flags]
        self.log: deque[str] = deque(maxlen=200)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._keep_log, args=(self.process, self.log), daemon=True).start()
        try:
            self.host, self.port = wait_until("the server says where it listens", self._address)
            wait_until("the server is ready", self._is_ready)
        except Failure as failure:
            self.stop(signal.SIGKILL)
            fail("\n".join([str(failure), *self.log]))

    def stop(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            fail(f"the server still ran {DEADLINE_S:.0f} s after {how.name}")

    def restart(self, how: signal.Signals) -> None:
        self.stop(how)
        self.start()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            head = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, head, response.read())
        finally:
            connection.close()

    def subscribers(self, channel: str) -> int:
        answer = self.request("GET", f"/channels/{channel}")
        return answer.json()["subscribers"] if answer.status == 200 else 0

    def _keep_log(self, process: subprocess.Popen[str], log: deque[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line.rstrip())
        log.append(f"(the process ended with {process.wait()})")

    def _address(self) -> tuple[str, int] | None:
        if self.process.poll() is not None:
            fail(f"the server ended before it listened, with {self.process.returncode}; flags: {self.flags}")
        return next(filter(None, map(listening_address, list(self.log))), None)

    def _is_ready(self) -> bool:
        try:
            return self.request("GET", "/readyz").status == 200
        except OSError:
            return False


def program() -> str:
    """The server under test: `PUSHRING_BIN`, set by the scripts that build it."""
    return os.environ.get("PUSHRING_BIN") or "target/release/pushring"


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclasses.dataclass(frozen=True)
class Sent:
    """A payload as its publisher gave it."""

    kind: str
    payload: bytes
    event: str | None = None

    @property
    def value(self) -> Any:
        """What a listener is to see: parsed JSON, a string, or bytes."""
        if self.kind == "json":
            return json.loads(self.payload)
        return self.payload.decode() if self.kind == "text" else self.payload


CONTENT_TYPE = {"json": "application/json", "text": "text/plain", "binary": "application/octet-stream"}


def text(payload: str, event: str | None = None) -> Sent:
    return Sent("text", payload.encode(), event)


class Publisher:
    """One keep-alive connection to `/pub`."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=DEADLINE_S)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def publish(self, channels: str, sent: Sent, query: str = "") -> Any:
        if sent.event:
            query = f"event={sent.event}&{query}".rstrip("&")
        target = f"/pub/{channels}" + (f"?{query}" if query else "")
        self.connection.request("POST", target, sent.payload, {"Content-Type": CONTENT_TYPE[sent.kind]})
        response = self.connection.getresponse()
        body = response.read()
        if response.status not in (201, 202):
            fail(f"publish to {channels}: {response.status} {shortened(body)}")
        return json.loads(body)


def publish(server: Server, channels: str, *messages: Sent) -> list[Any]:
    """Publishes in order and gives the answers back."""
    with Publisher(server) as publisher:
        return [publisher.publish(channels, sent) for sent in messages]


# Every kind, every line end, every length of UTF-8 sequence, and each size class of a WebSocket frame's length.
EVERY_KIND = [
    Sent("json", b'{"a":1,"b":[true,null,"x\\ny"]}'),
    Sent("json", '"žluťoučký kůň 🐎"'.encode()),
    Sent("json", b"0"),
    text("one line"),
    text(""),
    text("three\nlines\nof text"),
    text("ends with a line end\n"),
    text("an empty line\n\nin between"),
    text(" starts with a blank"),
    text("data: looks like a field\nid: 7\n: and a comment"),
    text('"quoted" \\ and </script> and \u2028 and 日本語 𝄞'),
    text("ž" * 63),
    text("x" * 126),
    text("y" * 40_000),
    Sent("binary", bytes(range(256))),
    Sent("binary", b"\xff\xfe\x00\r\n\r\n"),
    Sent("binary", bytes(40_000)),
]

_counter = itertools.count(1)


def fresh_channel(namespace: str = "") -> str:
    """A channel that nobody used before."""
    name = f"c{os.getpid()}.{next(_counter)}"
    return f"{namespace}:{name}" if namespace else name


class Scenarios:
    """Runs scenarios one after another, prints one line each, and ends the process with the verdict."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.passed = self.failed = 0

    def run(self, name: str, scenario: Callable[..., None], *arguments: Any, server: Server | None = None) -> None:
        began = time.monotonic()
        try:
            scenario(*arguments)
        except Exception as error:  # whatever went wrong is this scenario's failure; the next one runs
            self.failed += 1
            reason = str(error) if isinstance(error, Failure) else traceback.format_exc()
            print(f"FAIL {self.client}: {name}: {reason}", flush=True)
            for line in list(server.log)[-15:] if server else []:
                print(f"     server: {line}", flush=True)
        else:
            self.passed += 1
            print(f"ok   {self.client}: {name} ({time.monotonic() - began:.1f} s)", flush=True)

    def finish(self) -> NoReturn:
        if self.passed + self.failed == 0:
            print(f"FAIL {self.client}: ran no scenario", flush=True)
            self.failed = 1
        print(f"{self.client}: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)
