"""Behind Debian's HAProxy in TCP mode: the PROXY protocol as a balancer speaks it, both versions, health checks too.

Standard library only; `haproxy` on the path.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pushring_test import DEADLINE_S, Scenarios, Server, expect, fail, listening_address, wait_until

CONFIGURATION = """\
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend clients
    bind fd@{descriptor}
    default_backend servers
backend servers
    option httpchk GET /readyz
    server one {address} {send} check check-send-proxy inter 100ms
"""

SENDS = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]


class ServerBehindProxy(Server):
    """Takes clients through HAProxy only; the backend comes to `internal`."""

    def _is_ready(self) -> bool:
        return self._internal() is not None

    def _internal(self) -> tuple[str, int] | None:
        return next((listening_address(line) for line in list(self.log) if "audience" in line and "all" in line), None)

    @property
    def backend(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*(self._internal() or fail("no internal address")), timeout=DEADLINE_S)

    def metric(self, begin: str) -> int:
        connection = self.backend
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"pushring_{begin}"))


@contextmanager
def haproxy(server: Server, send: str) -> Iterator[tuple[str, int]]:
    """Where clients connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(CONFIGURATION.format(descriptor=listener.fileno(), address=server.authority, send=send))
        file.flush()
        command = [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", file.name]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL)
        try:
            yield listener.getsockname()
        finally:
            process.kill()
            process.wait()


def ask(address: tuple[str, int], source: str, target: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(*address, timeout=DEADLINE_S, source_address=(source, 0))
    connection.request("GET", target)
    return connection, connection.getresponse()


def clients_keep_their_addresses(send: str) -> None:
    flags = ["--internal", "127.0.0.1:0", "--proxy-protocol", "--proxy-sources", "127.0.0.1"]
    with ServerBehindProxy(*flags, "--connections-per-address-max", "3") as server, haproxy(server, send) as address:
        wait_until("a health check", lambda: server.metric("requests_total") > 5)
        kept = []
        for source, want in [("127.0.0.2", 200)] * 3 + [("127.0.0.2", 429), ("127.0.0.3", 200)]:
            connection, response = ask(address, source, "/healthz")
            body = response.read()
            expect(f"status for {source}", response.status, want)
            if want == 429:
                expect("code", json.loads(body)["error"]["code"], "address_connections_full")
            kept.append(connection)
        for connection in kept:
            connection.close()

        stream, response = ask(address, "127.0.0.4", "/sse/news")
        expect("status of the stream", response.status, 200)
        backend = server.backend
        backend.request("POST", "/pub/news", b"hello")
        expect("status of the publish", backend.getresponse().status, 201)
        wait_until("the message", lambda: b"data: hello" in response.readline())
        stream.close()
        backend.close()
        expect("refused headers", server.metric('refusals_total{code="proxy_'), 0)


def without_a_header_nobody_gets_in() -> None:
    """A balancer that is not set up to send one: its clients read what is wrong."""
    flags = ["--internal", "127.0.0.1:0", "--proxy-protocol", "--proxy-sources", "127.0.0.1"]
    with ServerBehindProxy(*flags) as server, haproxy(server, "no-check") as address:
        connection, response = ask(address, "127.0.0.1", "/healthz")
        expect("status", response.status, 400)
        expect("code", json.loads(response.read())["error"]["code"], "proxy_header_invalid")
        connection.close()


def main() -> None:
    scenarios = Scenarios("proxy")
    for send in SENDS:
        scenarios.run(f"clients keep their addresses, {send}", clients_keep_their_addresses, send)
    scenarios.run("without a header nobody gets in", without_a_header_nobody_gets_in)
    scenarios.finish()


if __name__ == "__main__":
    main()
