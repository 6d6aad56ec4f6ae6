"""The backend that Pushpin asks about each WebSocket (WebSocket-over-HTTP): it subscribes the connection and forgets it.

Usage: python3 grip_backend.py PORT HEARTBEAT_SECONDS
"""

import asyncio
import json
import sys


def event(name, content):
    return b"%s %X\r\n%s\r\n" % (name, len(content), content)


async def answer(reader, writer, heartbeat_s):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            channel = head.split(b" ", 2)[1].decode().removeprefix("/sub/")
            # A plain GET, such as the one that asks whether all is up, has no body.
            _, _, length = head.lower().partition(b"content-length:")
            body = await reader.readexactly(int(length.split(b"\r\n", 1)[0] or 0))
            events = b""
            if body.startswith(b"OPEN\r\n"):
                controls = (
                    {"type": "subscribe", "channel": channel},
                    {"type": "keep-alive", "timeout": heartbeat_s},
                )
                events = b"OPEN\r\n" + b"".join(event(b"TEXT", b"c:" + json.dumps(one).encode()) for one in controls)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n"
                b'Sec-WebSocket-Extensions: grip; message-prefix=""\r\nContent-Length: %d\r\n\r\n%s' % (len(events), events)
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port, heartbeat_s):
    server = await asyncio.start_server(lambda *pair: answer(*pair, heartbeat_s), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


asyncio.run(main(*map(int, sys.argv[1:])))
