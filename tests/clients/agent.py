"""JavaScript's listeners: npm `eventsource` and npm `ws` in Node, and Chromium's own, all inside `agent.mjs`."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import threading
from typing import Any

from listeners import GAP_EVENT, OBJECT, Listener
from pushring_test import Server, wait_until

# A page of another port than the server's, so that CORS applies.
CROSS_ORIGIN = "cross-origin"


def same_origin(server: Server) -> str:
    """A page that the server itself serves."""
    return f"{server.url}/healthz"


class Agent:
    """The Node process with the JavaScript clients in it."""

    def __init__(self) -> None:
        agent = pathlib.Path(__file__).with_name("agent.mjs")
        self.process = subprocess.Popen(
            ["node", str(agent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        self.ids = itertools.count(1)
        self.clients: dict[int, Any] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def tell(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def fetch(self, page: str | None, url: str, init: dict[str, Any] | None = None) -> dict[str, Any]:
        """A browser's `fetch` (or Node's), with the head that its script may read."""
        id = next(self.ids)
        answers: list[dict[str, Any]] = []
        self.clients[id] = answers.append
        self.tell({"do": "fetch", "id": id, "page": page, "url": url, "init": init or {}})
        return wait_until(f"fetch {url} answers", lambda: answers and answers[0])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.clients[event["id"]](event)


class AgentListener(Listener):
    """A client inside the agent: in Node (`page` None) or in a browser's page."""

    def __init__(
        self,
        agent: Agent,
        kind: str,
        page: str | None,
        server: str,
        channels: str,
        since: str = "now",
        form: str = OBJECT,
        events: tuple[str, ...] = (),
        states_format: bool = True,
    ) -> None:
        super().__init__(channels)
        self.agent, self.kind, self.page, self.form = agent, kind, page, form
        self.id = next(agent.ids)
        self.pings = 0
        self.close_code: int | None = None
        self.errors = 0
        agent.clients[self.id] = self._on_event
        path, scheme = ("sse", "http") if kind == "EventSource" else ("ws", "ws")
        query = f"since={since}"
        if states_format:
            query += f"&format={'json' if form == OBJECT else 'raw'}"
        agent.tell(
            {
                "do": "open",
                "id": self.id,
                "kind": kind,
                "page": page,
                "url": f"{scheme}://{server}/{path}/{channels}?{query}",
                "events": ["message", GAP_EVENT, *events],
            }
        )

    @property
    def name(self) -> str:
        where = "Chromium's" if self.page else "npm's"
        return f"{where} {self.kind}"

    def _on_event(self, event: dict[str, Any]) -> None:
        try:
            self._on_told(event)
        except Exception as error:  # the agent's reader serves the other clients too
            self.broken = repr(error)

    def _on_told(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "open":
                self.opened += 1
            case "message" if self.kind == "EventSource":
                self.on_sse_event(event["event"], event["cursor"], event["data"])
            case "message":
                is_binary = "data_base64" in event
                self.on_ws_message(base64.b64decode(event["data_base64"]) if is_binary else event["data"])
            case "head":
                self.recovered = event["headers"].get("pushring-recovered") != "false"
            case "ping":
                self.pings += 1
            case "error":
                self.errors += 1
                if event.get("closed"):
                    self.broken = "the EventSource gave up"
            case "close":
                self.close_code = event["code"]
                self.broken = f"closed with {event['code']} {event['reason']}"
            case "broken":
                self.broken = event["reason"]

    def send(self, *pieces: str | bytes) -> None:
        encoded = [
            {"text": piece} if isinstance(piece, str) else {"base64": base64.b64encode(piece).decode()}
            for piece in pieces
        ]
        self.agent.tell({"do": "send", "id": self.id, "page": self.page, "pieces": encoded})

    def close(self) -> None:
        self.agent.tell({"do": "close", "id": self.id, "page": self.page})
