"""A broadcast server on the `websockets` library, as its documentation shows one ("Broadcasting messages").

GET /ws/CHANNEL on PORT listens, POST /pub/CHANNEL on PUBLISH_PORT publishes: the library itself takes no POST.
Usage: python websockets_broadcast.py PORT PUBLISH_PORT HEARTBEAT_SECONDS
"""

import asyncio
import logging
import sys
from collections import defaultdict

from websockets.asyncio.server import broadcast, serve

BACKLOG = 65535
channels = defaultdict(set)


async def listen(websocket):
    subscribers = channels[websocket.request.path.removeprefix("/ws/")]
    subscribers.add(websocket)
    try:
        await websocket.wait_closed()
    finally:
        subscribers.discard(websocket)


async def publish(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            payload = (await reader.readexactly(length)).decode()
            broadcast(channels[path.removeprefix("/pub/")], payload)
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port, publish_port, heartbeat_s):
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    await asyncio.start_server(publish, "127.0.0.1", publish_port)
    # Without compression, as the documentation advises for memory.
    options = {"compression": None, "ping_interval": heartbeat_s, "backlog": BACKLOG, "open_timeout": 60}
    async with serve(listen, "127.0.0.1", port, **options) as server:
        await server.serve_forever()


asyncio.run(main(*map(int, sys.argv[1:])))
