// A pushring server in the page's own process: stands behind the globals `fetch` and `WebSocket`.

const json = (status, body, headers = {}) =>
  new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json', ...headers } });

export class FakeServer {
  /** Every request as `path?query`, in order. */
  requests = [];
  /** What came as `Authorization` with each of them; a WebSocket has none. */
  credentials = [];
  /** `credentials` of each fetch. */
  cookies = [];
  connections = new Set();
  /** By path segment (`poll`, `sse`, `ws`, `pub`): what happens instead. A function, or undefined to work. */
  faults = {};
  #channels = new Map();

  constructor() {
    globalThis.fetch = (url, options = {}) => this.#fetch(new URL(url), options);
    const server = this;
    globalThis.WebSocket = class {
      constructor(url) {
        queueMicrotask(() => server.#accept(new URL(url), this));
      }
      close() {
        server.connections.delete(this.connection);
      }
    };
  }

  channel(name) {
    if (!this.#channels.has(name)) this.#channels.set(name, { name, epoch: 'epoch001', head: 0, messages: [] });
    return this.#channels.get(name);
  }

  publish(name, data) {
    const channel = this.channel(name);
    channel.head += 1;
    const message = { channel: name, id: `${channel.epoch}-${channel.head}`, event: 'made', data };
    channel.messages.push(message);
    for (const connection of [...this.connections]) connection.deliver(message);
    return message.id;
  }

  /** The history of `name` up to now is lost. */
  lose(name, epoch = this.channel(name).epoch) {
    const channel = this.channel(name);
    if (epoch !== channel.epoch) channel.head = 0;
    Object.assign(channel, { epoch, messages: [] });
  }

  /** Cuts all that is open. */
  cut(code = 1006, reason = '') {
    for (const connection of [...this.connections]) connection.end(code, reason);
    this.connections.clear();
  }

  /** What a listener on `url` is told first, messages and gaps in order; `cursor`: where that leaves it. */
  #replay(url) {
    const since = url.searchParams.get('since');
    const names = url.pathname.split('/')[2].split(',').map(decodeURIComponent);
    const objects = [];
    const positions = names.map((name, index) => {
      const { epoch, head, messages } = this.channel(name);
      const here = (offset) => `${epoch}-${offset}`;
      const start = { now: here(head), earliest: here(head - messages.length) }[since] ?? since.split(',')[index];
      const isSameEpoch = start.startsWith(`${epoch}-`);
      const has = isSameEpoch ? Number(start.split('-')[1]) : 0;
      const missed = messages.filter(({ id }) => Number(id.split('-')[1]) > has);
      if (!isSameEpoch || head - missed.length > has) {
        objects.push({ gap: { channel: name, position: here(head - missed.length) } });
      }
      objects.push(...missed);
      return here(head);
    });
    return { names, objects, cursor: positions.join(',') };
  }

  #accept(url, socket) {
    this.requests.push(url.pathname + url.search);
    const fault = this.faults.ws?.(socket);
    if (fault === 'hang') return;
    if (fault) return void socket.onclose?.({ code: 1006, reason: '' });
    const { names, objects } = this.#replay(url);
    const send = (object) => socket.onmessage?.({ data: JSON.stringify(object) });
    socket.connection = {
      deliver: (message) => names.includes(message.channel) && send(message),
      end: (code, reason) => socket.onclose?.({ code, reason }),
    };
    this.connections.add(socket.connection);
    socket.onopen?.();
    objects.forEach(send);
  }

  async #fetch(url, { signal, method = 'GET', headers, body, credentials }) {
    const kind = url.pathname.split('/')[1];
    this.requests.push(url.pathname + url.search);
    this.credentials.push(headers?.Authorization);
    this.cookies.push(credentials);
    await null;
    signal?.throwIfAborted();
    const fault = this.faults[kind]?.();
    if (fault === 'hang') {
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    }
    if (fault instanceof Response) return fault;
    if (fault) throw new TypeError('fetch failed');
    if (kind === 'pub') {
      const id = this.publish(url.pathname.split('/')[2], body);
      return json(201, { id, method, type: headers['Content-Type'] });
    }
    return kind === 'sse' ? this.#stream(url, signal) : this.#poll(url, signal);
  }

  #stream(url, signal) {
    const { names, objects } = this.#replay(url);
    const utf8 = new TextEncoder();
    let connection;
    const body = new ReadableStream({
      start: (controller) => {
        const write = (text) => controller.enqueue(utf8.encode(text));
        const send = (object) => write(object.gap
          ? `id: x\nevent: pushring.gap\ndata: ${JSON.stringify(object.gap)}\n\n`
          : `id: x\nevent: ${object.event}\ndata: ${JSON.stringify(object)}\n\n`);
        connection = {
          deliver: (message) => names.includes(message.channel) && send(message),
          end: () => controller.close(),
        };
        write(':\nretry: 2000\n');
        objects.forEach(send);
        signal.addEventListener('abort', () => this.connections.delete(connection) && controller.error(signal.reason));
      },
    });
    this.connections.add(connection);
    return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } });
  }

  #poll(url, signal) {
    const answer = () => {
      const { objects, cursor } = this.#replay(url);
      if (objects.length === 0) return new Response(null, { status: 204, headers: { 'Pushring-Cursor': cursor } });
      const messages = objects.filter((object) => !object.gap);
      return json(200, { cursor, recovered: messages.length === objects.length, messages });
    };
    const now = answer();
    const waitMs = Number(url.searchParams.get('wait')) * 1000;
    if (now.status === 200 || waitMs === 0) return now;
    return new Promise((resolve, reject) => {
      const end = (settle) => {
        clearTimeout(timer);
        this.connections.delete(connection);
        settle();
      };
      const connection = {
        deliver: () => this.#replay(url).objects.length && end(() => resolve(answer())),
        end: () => end(() => reject(new TypeError('fetch failed'))),
      };
      const timer = setTimeout(() => end(() => resolve(answer())), waitMs);
      signal.addEventListener('abort', () => end(() => reject(signal.reason)));
      this.connections.add(connection);
    });
  }
}
