"""The whole of HTTP by curl: what a person at a terminal and a backend's script do."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pushring_test import (
    DEADLINE_S,
    Answer,
    Scenarios,
    Server,
    expect,
    fail,
    fresh_channel,
    publish,
    text,
    wait_until,
)

CERTIFICATES = Path(__file__).resolve().parent.parent / "server/certificates"
CURL = ["curl", "--silent", "--show-error", "--max-time", str(int(DEADLINE_S)), "--noproxy", "*"]


def curl(url: str, *arguments: str, body: bytes | None = None) -> Answer:
    with tempfile.NamedTemporaryFile() as head:
        command = [*CURL, "--dump-header", head.name, *arguments, url]
        if body is not None:
            command += ["--data-binary", "@-"]
        run = subprocess.run(command, input=body, capture_output=True, timeout=2 * DEADLINE_S, check=False)
        expect(f"exit status of {' '.join(command[len(CURL) :])} ({run.stderr.decode()})", run.returncode, 0)
        return Answer(*parse_head(head.read().decode()), run.stdout)


def parse_head(heads: str) -> tuple[int, dict[str, str]]:
    """The last head: a 100 Continue may stand before it."""
    lines = heads.strip().split("\r\n\r\n")[-1].split("\r\n")
    fields = (line.split(":", 1) for line in lines[1:])
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, value in fields}


def post(server: Server, channels: str, body: bytes, *arguments: str, query: str = "") -> Answer:
    return curl(f"{server.url}/pub/{channels}{query}", *arguments, body=body)


@contextmanager
def streaming(url: str, *arguments: str) -> Iterator[IO[bytes]]:
    """A curl that goes on reading; its output as a stream."""
    process = subprocess.Popen([*CURL, "--no-buffer", *arguments, url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def expect_refusal(answer: Answer, status: int) -> None:
    expect(f"status ({answer.body!r})", answer.status, status)
    expect("Content-Type of a refusal", answer.headers.get("content-type", "").split(";")[0], "application/json")
    error = answer.json()["error"]
    if not re.fullmatch(r"[a-z0-9_]+", error["code"]) or not error["message"]:
        fail(f"a refusal has a code and says what to do, got {error}")


def publishing(server: Server) -> None:
    channel = fresh_channel()
    stored = post(server, channel, b"{}", "--header", "Content-Type: application/json")
    expect("status with nobody there", stored.status, 202)
    expect("receivers", stored.json()["receivers"], 0)
    expect("channel", stored.json()["channel"], channel)
    expect("first offset", stored.json()["id"].rpartition("-")[2], "1")
    with streaming(f"{server.url}/sse/{channel}") as lines:
        lines.readline()
        live = post(server, channel, b"live")
        expect("status with one there", live.status, 201)
        expect("receivers", live.json()["receivers"], 1)
    other = fresh_channel()
    several = post(server, f"{channel},{other}", b"to both")
    expect("channels in order", [item["channel"] for item in several.json()], [channel, other])
    expect("offsets", [item["id"].rpartition("-")[2] for item in several.json()], ["3", "1"])
    escaped = curl(f"{server.url}/poll/{channel.replace('.', '%2E')}?last=1")
    expect("percent-encoded name", escaped.json()["messages"][0]["data"], "to both")


def kinds(server: Server) -> None:
    """The kind comes from the content type, or from the bytes."""
    channel = fresh_channel()
    json_type, form_type = "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded"
    for body, header in (
        (b' {"a" : [1, 2.50] } ', json_type),
        (b"plain", "Content-Type: text/plain"),
        ("<b>ž</b>".encode(), "Content-Type: text/html; charset=utf-8"),
        (b"\x00\x01", "Content-Type: application/octet-stream"),
        (b"a=b", form_type),
        (b"\xff", "Content-Type:"),
        (b"no type", "Content-Type:"),
    ):
        expect("status", post(server, channel, body, "--header", header).status, 202)
    answer = curl(f"{server.url}/poll/{channel}?since=earliest")
    got = [item.get("data", item.get("data_base64")) for item in answer.json()["messages"]]
    expect("data", got, [{"a": [1, 2.5]}, "plain", "<b>ž</b>", "AAE=", "a=b", "/w==", "no type"])
    if b"2.50" not in answer.body:
        fail(f"JSON is embedded as it is, got {answer.body!r}")
    expect_refusal(post(server, channel, b"{", "--header", json_type), 400)
    expect_refusal(post(server, channel, b"\xff", "--header", "Content-Type: text/plain"), 400)


def short_poll(server: Server) -> None:
    channel = fresh_channel()
    now = curl(f"{server.url}/poll/{channel}")
    expect("status", now.status, 204)
    cursor = now.headers["pushring-cursor"]
    post(server, channel, b"one", query="?event=created")
    answer = curl(f"{server.url}/poll/{channel}?since={cursor}")
    expect("status", answer.status, 200)
    expect("Content-Type", answer.headers["content-type"].split(";")[0], "application/json")
    expect("Cache-Control", answer.headers["cache-control"], "no-store")
    body = answer.json()
    expect("recovered", body["recovered"], True)
    expect("cursor in head and body", answer.headers["pushring-cursor"], body["cursor"])
    want = {"channel": channel, "id": body["cursor"], "event": "created", "data": "one"}
    expect("messages", body["messages"], [want])


def long_poll(server: Server) -> None:
    channel = fresh_channel()
    cursor = curl(f"{server.url}/poll/{channel}").headers["pushring-cursor"]
    with streaming(f"{server.url}/poll/{channel}?since={cursor}&wait=30") as output:
        wait_until("the long poll waits", lambda: server.subscribers(channel) == 1)
        expect("status", post(server, channel, b"awaited").status, 201)
        body = json.loads(output.read())
        expect("messages", [item["data"] for item in body["messages"]], ["awaited"])
    late = curl(f"{server.url}/poll/{channel}?since={body['cursor']}&wait=1")
    expect("status when the time is over", late.status, 204)
    expect("cursor when the time is over", late.headers["pushring-cursor"], body["cursor"])


def event_stream(server: Server, *arguments: str) -> None:
    """The exact lines: head, comment and retry at once, then blocks."""
    channel = fresh_channel()
    with streaming(f"{server.url}/sse/{channel}", "--include", *arguments) as output:
        head = b"".join(iter(output.readline, b"\r\n")).decode()
        status, headers = parse_head(head)
        expect("status", status, 200)
        expect("Content-Type", headers["content-type"].split(";")[0], "text/event-stream")
        expect("Cache-Control", headers["cache-control"], "no-store")
        expect("X-Accel-Buffering", headers["x-accel-buffering"], "no")
        comment, retry = output.readline(), output.readline()
        if not comment.startswith(b":") or not re.fullmatch(rb"retry: ?\d+\n", retry):
            fail(f"a stream begins with a comment and retry, got {comment!r} and {retry!r}")
        answers = publish(server, channel, text("one"), text("two\nthree\r\nfour\rfive", event="lines"))
        blocks = [b"".join(iter(output.readline, b"\n")).decode() for _ in answers]
        lines = ["data: two", "data: three", "data: four", "data: five"]
        expect("first block", blocks[0].splitlines(), [f"id: {answers[0]['id']}", "data: one"])
        expect("second block", blocks[1].splitlines(), [f"id: {answers[1]['id']}", "event: lines", *lines])
    coding = None if "--http1.0" in arguments else "chunked"
    expect("Transfer-Encoding", headers.get("transfer-encoding"), coding)
    wait_until("the stream's end is noticed", lambda: server.subscribers(channel) == 0)


def idempotency(server: Server) -> None:
    channel, other = fresh_channel(), fresh_channel()
    key = ["--header", "Idempotency-Key: order-17"]
    first, repeat = (post(server, channel, body, *key) for body in (b"one", b"another body"))
    expect("the repeat's answer", repeat.json(), first.json())
    expect("another channel", post(server, other, b"elsewhere", *key).json()["id"].rpartition("-")[2], "1")
    post(server, channel, b"two", "--header", "Idempotency-Key: order-18")
    messages = curl(f"{server.url}/poll/{channel}?since=earliest").json()["messages"]
    expect("messages", [item["data"] for item in messages], ["one", "two"])
    expect_refusal(post(server, channel, b"x", "--header", f"Idempotency-Key: {'k' * 65}"), 400)


def not_stored(server: Server) -> None:
    channel = fresh_channel()
    with streaming(f"{server.url}/sse/{channel}") as output:
        output.readline()
        expect("status", post(server, channel, b"now or never", query="?store=false").status, 201)
        wait_until("it comes live", lambda: b"now or never" in output.readline())
    post(server, channel, b"kept")
    messages = curl(f"{server.url}/poll/{channel}?since=earliest").json()["messages"]
    expect("messages", [item["data"] for item in messages], ["kept"])


def channels(server: Server) -> None:
    prefix = fresh_channel("room")
    names = [f"{prefix}.{n}" for n in range(5)]
    expect_refusal(curl(f"{server.url}/channels/{names[0]}"), 404)
    for name in names:
        post(server, name, b"one")
    post(server, names[0], b"two")
    info = curl(f"{server.url}/channels/{names[0]}").json()
    expect("channel", info["channel"], names[0])
    expect("messages", info["messages"], 2)
    expect("subscribers", info["subscribers"], 0)
    offsets = [info[field].rpartition("-")[2] for field in ("oldest", "position")]
    expect("offsets", offsets, ["1", "2"])
    for page in ("", "&limit=2"):
        answer = curl(f"{server.url}/channels?prefix={prefix}{page}")
        expect(f"status of a list ({page})", answer.status, 200)
        for name in names[:2]:
            if name not in answer.body.decode():
                fail(f"{name} is not in {answer.body!r}")
    with streaming(f"{server.url}/sse/{names[0]}") as output:
        output.readline()
        deleted = curl(f"{server.url}/channels/{names[0]}", "--request", "DELETE")
        expect("DELETE succeeds", deleted.status in (200, 204), True)
        output.read()
    gone = curl(f"{server.url}/poll/{names[0]}?since={info['oldest']}&wait=0")
    if gone.status == 200:
        expect("recovered after DELETE", gone.json()["recovered"], False)


def other_methods(server: Server) -> None:
    channel = fresh_channel()
    for path in ("/healthz", "/readyz", f"/poll/{channel}"):
        head, get = curl(server.url + path, "--head"), curl(server.url + path)
        expect(f"HEAD {path}", head.status, get.status)
        expect(f"type of HEAD {path}", head.headers.get("content-type"), get.headers.get("content-type"))
    for path, method, allowed in (
        (f"/poll/{channel}", "PUT", "GET"),
        (f"/sse/{channel}", "POST", "GET"),
        (f"/pub/{channel}", "GET", "POST"),
        ("/healthz", "DELETE", "GET"),
    ):
        answer = curl(server.url + path, "--request", method)
        expect_refusal(answer, 405)
        allow = [item.strip() for item in answer.headers["allow"].split(",")]
        expect(f"Allow of {path} ({allow})", allowed in allow, True)
    expect_refusal(curl(f"{server.url}/nowhere"), 404)
    upgrade = curl(f"{server.url}/ws/{channel}")
    expect_refusal(upgrade, 426)
    expect("Sec-WebSocket-Version", upgrade.headers["sec-websocket-version"], "13")


def preflight(server: Server) -> None:
    answer = curl(
        f"{server.url}/poll/{fresh_channel()}",
        *("--request", "OPTIONS", "--header", "Origin: https://example.org"),
        *("--header", "Access-Control-Request-Method: GET"),
        *("--header", "Access-Control-Request-Headers: last-event-id"),
    )
    expect("a preflight's status", answer.status in (200, 204), True)
    origin = answer.headers.get("access-control-allow-origin")
    expect(f"allowed origin {origin}", origin in ("*", "https://example.org"), True)
    if "last-event-id" not in answer.headers.get("access-control-allow-headers", "").lower():
        fail(f"Last-Event-ID is not allowed: {answer.headers}")


def refusals(server: Server) -> None:
    channel = fresh_channel()
    for path, status in (
        ("/poll/no%20blanks", 400),
        (f"/poll/{'x' * 256}", 400),
        (f"/poll/{','.join(f'c{n}' for n in range(65))}", 400),
        (f"/poll/{channel}?since=nonsense!", 400),
        (f"/poll/{channel}?limit=many", 400),
        (f"/poll/{channel}?wait=-1", 400),
        (f"/poll/{channel}?{'x' * 100_000}", 414),
    ):
        expect_refusal(curl(server.url + path), status)
    expect_refusal(post(server, channel, b"x" * 70_000), 413)
    huge = curl(f"{server.url}/poll/{channel}", "--header", f"X-Huge: {'x' * 100_000}")
    expect_refusal(huge, 431)


def transfers(server: Server) -> None:
    """A body that is announced, one in chunks, and clients of HTTP/1.0."""
    channel = fresh_channel()
    for arguments in (
        ["--header", "Expect: 100-continue"],
        ["--header", "Transfer-Encoding: chunked"],
        ["--http1.0"],
    ):
        expect(f"publish with {arguments}", post(server, channel, b"z" * 30_000, *arguments).status, 202)
    answer = curl(f"{server.url}/poll/{channel}?since=earliest", "--http1.0")
    expect("messages", [len(item["data"]) for item in answer.json()["messages"]], [30_000] * 3)


def keep_alive(server: Server) -> None:
    """curl uses its connection again for every URL of one command."""
    urls = [argument for _ in range(5) for argument in ("--output", "/dev/null", f"{server.url}/healthz")]
    command = [*CURL, "--write-out", "%{http_code} %{num_connects}\n", *urls]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    expect("answers and new connections", output.splitlines(), ["200 1", *["200 0"] * 4])


def measurements(server: Server) -> None:
    answer = curl(f"{server.url}/metrics")
    expect("status", answer.status, 200)
    expect("Content-Type", answer.headers["content-type"].split(";")[0], "text/plain")
    if not re.search(rb"^pushring_\w+(\{[^}]*\})? [\d.e+]+$", answer.body, re.MULTILINE):
        fail(f"no sample in {answer.body[:300]!r}")


def over_tls() -> None:
    """On the internal listener, so that the other one can say when the server is ready."""
    files = ("--internal-tls-certificate", f"{CERTIFICATES}/one.pem", "--internal-tls-key", f"{CERTIFICATES}/one.key")
    with Server("--internal", "127.0.0.1:0", *files) as server:
        found = [re.search(r'address=([\d.]+:\d+) audience="?all', line) for line in server.log]
        address = next(match[1] for match in found if match)
        for version in ("1.2", "1.3"):
            tls = ("--cacert", f"{CERTIFICATES}/ca.pem", f"--tlsv{version}", "--tls-max", version)
            channel = fresh_channel()
            payload = b"x" * 50_000
            answer = curl(f"https://{address}/pub/{channel}", *tls, body=payload)
            expect(f"publish over TLS {version}", answer.status in (201, 202), True)
            answer = curl(f"https://{address}/poll/{channel}?since=earliest", *tls)
            expect("what comes back", json.loads(answer.body)["messages"][0]["data"], payload.decode())
        answer = curl(f"http://{address}/healthz")
        expect("plain HTTP", (answer.status, json.loads(answer.body)["error"]["code"]), (400, "tls_required"))


def main() -> None:
    scenarios = Scenarios("curl")
    with Server() as server:
        for name, scenario, *arguments in (
            ("publish: 202, 201, several channels", publishing),
            ("publish: kinds", kinds),
            ("short poll", short_poll),
            ("long poll", long_poll),
            ("event stream", event_stream),
            ("event stream over HTTP/1.0", event_stream, "--http1.0"),
            ("Idempotency-Key", idempotency),
            ("store=false", not_stored),
            ("channels: show, list, delete", channels),
            ("HEAD, 404, 405, 426", other_methods),
            ("CORS preflight", preflight),
            ("refusals say why", refusals),
            ("bodies: expect, chunked, HTTP/1.0", transfers),
            ("keep-alive", keep_alive),
            ("metrics", measurements),
        ):
            scenarios.run(name, scenario, server, *arguments, server=server)
    scenarios.run("TLS 1.2 and 1.3", over_tls)
    scenarios.finish()


if __name__ == "__main__":
    main()
