// A broadcast server on the `ws` library, as its README shows one: GET /ws/CHANNEL listens, POST /pub/CHANNEL publishes.
// Usage: node ws_broadcast.cjs PORT HEARTBEAT_SECONDS
'use strict';
const { createServer } = require('node:http');
const { WebSocketServer } = require('ws');

const [port, heartbeatSeconds] = process.argv.slice(2).map(Number);
const channels = new Map();

const server = createServer((request, response) => {
  const channel = request.url.match(/^\/pub\/(.+)$/)?.[1];
  if (request.method !== 'POST' || !channel) {
    response.writeHead(404).end();
    return;
  }
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    // One buffer for all, so that the text is not encoded for each.
    const payload = Buffer.concat(parts);
    const subscribers = channels.get(channel) ?? [];
    for (const subscriber of subscribers) subscriber.send(payload, { binary: false });
    response.writeHead(202, { 'Content-Length': 0 }).end();
  });
});
server.keepAliveTimeout = 75_000;
server.maxRequestsPerSocket = 0;

const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on('connection', (socket, request) => {
  const channel = request.url.replace(/^\/ws\//, '');
  if (!channels.has(channel)) channels.set(channel, new Set());
  const subscribers = channels.get(channel).add(socket);
  socket.isAlive = true;
  socket.on('pong', () => (socket.isAlive = true));
  socket.on('error', () => {});
  socket.on('close', () => subscribers.delete(socket));
});
// "How to detect and close broken connections?" of the README.
setInterval(() => {
  for (const socket of sockets.clients) {
    if (!socket.isAlive) socket.terminate();
    socket.isAlive = false;
    socket.ping();
  }
}, heartbeatSeconds * 1000);

server.listen({ host: '127.0.0.1', port, backlog: 65535 });
