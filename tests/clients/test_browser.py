"""What only a browser does: a page's script reaches the server under the rules of CORS."""

from __future__ import annotations

import json
from typing import Any

from agent import CROSS_ORIGIN, Agent, same_origin
from pushring_test import Scenarios, Server, expect, fresh_channel, publish, text


def fetch(agent: Agent, page: str, url: str, **init: Any) -> dict[str, Any]:
    answer = agent.fetch(page, url, init)
    expect(f"fetch {url} in a page of {page}: error", answer.get("error"), None)
    return answer


def script_polls(server: Server, agent: Agent, page: str) -> None:
    """The cursor is in the head only, as long as there is nothing: the script has to see it."""
    channel = fresh_channel()
    publish(server, channel, text("one"))
    url = f"{server.url}/poll/{channel}"
    now = fetch(agent, page, url)
    expect("status", now["status"], 204)
    cursor = now["headers"].get("pushring-cursor", "(hidden from the script)")
    publish(server, channel, text("two"))
    answer = fetch(agent, page, f"{url}?since={cursor}")
    expect("status", answer["status"], 200)
    expect("messages", [item["data"] for item in json.loads(answer["body"])["messages"]], ["two"])


def script_publishes(server: Server, agent: Agent, page: str) -> None:
    """A content type and a header that are not on the safe list: the browser asks by OPTIONS first."""
    channel = fresh_channel()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k1"}
    answers = [
        fetch(agent, page, f"{server.url}/pub/{channel}", method="POST", headers=headers, body='{"n":1}')
        for _ in range(2)
    ]
    expect("status", answers[0]["status"], 202)
    expect("the repeat's answer", answers[1]["body"], answers[0]["body"])
    seen = fetch(agent, page, f"{server.url}/poll/{channel}?since=earliest")
    expect("messages", [item["data"] for item in json.loads(seen["body"])["messages"]], [{"n": 1}])


def script_reads_refusals(server: Server, agent: Agent, page: str) -> None:
    """Without CORS on an error the script learns nothing but "failed"."""
    for path, status in (("/nowhere", 404), ("/poll/a?since=nonsense!", 400)):
        answer = fetch(agent, page, f"{server.url}{path}")
        expect(f"status of {path}", answer["status"], status)
        expect(f"a code for {path}", bool(json.loads(answer["body"])["error"]["code"]), True)


def script_sends_last_event_id(server: Server, agent: Agent, page: str) -> None:
    """Clients built on fetch resume an event stream by a header of their own making."""
    channel = fresh_channel()
    answer = publish(server, channel, text("one"))[0]
    headers = {"Last-Event-ID": answer["id"]}
    expect("status", fetch(agent, page, f"{server.url}/poll/{channel}", headers=headers)["status"], 204)


def main() -> None:
    scenarios = Scenarios("browser")
    with Server() as server, Agent() as agent:
        for place, page in (("another origin", CROSS_ORIGIN), ("the same origin", same_origin(server))):
            for what, scenario in (
                ("polls", script_polls),
                ("publishes", script_publishes),
                ("reads refusals", script_reads_refusals),
                ("sends Last-Event-ID", script_sends_last_event_id),
            ):
                scenarios.run(f"a script of {place} {what}", scenario, server, agent, page, server=server)
    scenarios.finish()


if __name__ == "__main__":
    main()
