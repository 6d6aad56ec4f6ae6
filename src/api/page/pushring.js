/**
 * Listens to the channels of a pushring server: one cursor over WebSocket, Server-Sent Events and long polling.
 *
 *     import { Pushring } from 'https://push.example.com/pushring.js';
 *     const pushring = new Pushring('https://push.example.com', {
 *       channels: ['news', 'chat:42'],
 *       token: () => session.token,                       // or a string; asked for each request, so keep it fresh
 *       credentials: 'include',                           // to send this server's cookies from another origin's page
 *       onmessage: ({ channel, id, event, data }) => …,   // `data_base64` instead of `data` for a binary payload
 *       ongap: ({ channel, position }) => …,              // what was published up to `position` is lost: reload it
 *       onstate: (state, { transport, error, retryMs }) => …, // 'connecting', 'open', 'waiting', 'closed'
 *     });
 *     pushring.close();
 *
 * Every message comes once and in the order of its channel, whatever happens to the connection in between, or `ongap`
 * tells of the loss. To go on after a reload of the page, keep `pushring.cursor` and give it as `since`.
 *
 * How it connects. The first request is a short poll: it tells where "now" is, so that a connection that breaks
 * before its first message loses nothing. After a connection that came to nothing the next try begins with a short
 * poll as well: if that fails, the server or the network is away; if it works, the transport is to blame, and after
 * the second time the next one takes over from the same cursor.
 *
 * Server-Sent Events are read with `fetch`: `EventSource` drops named events that nobody asked for by name, and hides
 * status, `Retry-After` and the first bytes, by which a proxy that holds the stream back is found out.
 */

/** A transport that has not opened by then is left for the next one; one that stays open for that long is proven. */
export const TRIAL_MS = 5_000;
const BACKOFF_MIN_MS = 1_000;
const BACKOFF_MAX_MS = 30_000;
/** However long a server says to stay away. */
const RETRY_MAX_MS = 600_000;
/** Below the 60 s after which many proxies cut a silent request. */
const POLL_WAIT_S = 45;
/** For an answer to arrive after the server's own waiting time is over. */
const POLL_SLACK_MS = 20_000;
const TRANSPORTS = ['websocket', 'eventsource', 'longpoll'];

/** Up to where each channel has been received: positions `epoch-offset`, in the request's order. */
export class Cursor {
  #positions;

  constructor(channels) {
    this.#positions = new Map(channels.map((channel) => [channel, undefined]));
  }

  /** Takes over `text`, one position for each channel; `false` if it is not that. */
  set(text) {
    const positions = (text ?? '').split(',');
    if (positions.length !== this.#positions.size || !positions.every((one) => /^[^-]+-\d+$/.test(one))) return false;
    [...this.#positions.keys()].forEach((channel, index) => this.#positions.set(channel, positions[index]));
    return true;
  }

  /** Moves `channel` on to `position`; `false` if that is not news. In another epoch everything is. */
  advance(channel, position) {
    const [epoch, offset] = position.split('-');
    const [ownEpoch, ownOffset] = this.#positions.get(channel)?.split('-') ?? [];
    if (epoch === ownEpoch && Number(offset) <= Number(ownOffset)) return false;
    this.#positions.set(channel, position);
    return true;
  }

  /** What is lost if `position` comes next on `channel`: the gap in front of it, if there is one. */
  gapBefore(channel, position) {
    const own = this.#positions.get(channel);
    const before = shift(position, -1);
    return own === undefined || own === before ? [] : [{ channel, position: before }];
  }

  /** What is lost if nothing comes before `text`: a gap on each channel whose position is another one there. */
  gapsUpTo(text) {
    const positions = text.split(',');
    return [...this.#positions]
      .map(([channel, own], index) => ({ channel, own, position: positions[index] }))
      .filter(({ own, position }) => own !== undefined && own !== position)
      .map(({ channel, position }) => ({ channel, position }));
  }

  /** `undefined` until every channel has a position. */
  toString() {
    const positions = [...this.#positions.values()];
    return positions.includes(undefined) ? undefined : positions.join(',');
  }
}

function shift(position, count) {
  const [epoch, offset] = position.split('-');
  return `${epoch}-${Number(offset) + count}`;
}

/** Decodes text/event-stream as pushring writes it: lines end in LF; comments and ids are of no interest. */
export class EventStreamDecoder {
  /** What the server asks to wait before the next connection. */
  retryMs;
  #rest = '';
  #event = '';
  #data = [];

  /** The events that `text` completes. */
  feed(text) {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop();
    return lines.flatMap((line) => this.#line(line) ?? []);
  }

  #line(line) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === 'event') this.#event = value;
    else if (field === 'data') this.#data.push(value);
    else if (field === 'retry' && /^\d+$/.test(value)) this.retryMs = Number(value);
    if (line !== '') return undefined;
    const event = this.#data.length > 0 ? { event: this.#event, data: this.#data.join('\n') } : undefined;
    this.#event = '';
    this.#data = [];
    return event;
  }
}

/** Doubles with each failure up to a cap; the jitter keeps clients that failed together from coming back together. */
export function backoffMs(failures, random = Math.random) {
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** (failures + 1));
  return BACKOFF_MIN_MS + Math.round(random() * (ceiling - BACKOFF_MIN_MS));
}

/** Why an attempt, or a request, ended. `code` is the server's word for a refusal or the WebSocket close code. */
export class Ended extends Error {
  constructor(message, { status, code, retryMs, isFinal = false, isPlanned = false, isSilent = false } = {}) {
    super(message);
    Object.assign(this, { name: 'PushringError', status, code, retryMs, isFinal, isPlanned, isSilent });
  }
}

async function refusal(response) {
  const { error = {} } = (await response.json().catch(() => null)) ?? {};
  const { status } = response;
  return new Ended(error.message ?? `the server answered ${status}`, {
    status,
    code: error.code,
    retryMs: Number(response.headers.get('Retry-After')) * 1000 || undefined,
    isFinal: status >= 400 && status < 500 && status !== 408 && status !== 429,
  });
}

function closed(code, reason) {
  const [, delay] = /reconnect after (\d+) ms/.exec(reason) ?? [];
  return new Ended(reason || 'the WebSocket closed', {
    code,
    retryMs: code === 3001 && delay ? Number(delay) : undefined,
    isFinal: code >= 3500 && code < 4000,
    isPlanned: code === 3001,
  });
}

export class Pushring {
  #base; #channels; #token; #credentials; #start; #cursor; #transports; #transport; #handlers; #attempt; #wake;
  #state = 'connecting';
  /** Attempts in a row that came to nothing; of these, the ones for which the transport is to blame. */
  #failures = 0;
  #transportFailures = 0;
  #leave = () => {
    this.#attempt?.abort(new Ended('left for a new connection', { isPlanned: true, retryMs: 0 }));
    this.#wake?.();
  };

  /** `since` is 'now', 'earliest' or a cursor; `last: n` starts with the newest n messages instead. */
  constructor(baseUrl, { channels, token, credentials, since = 'now', last, transports, ...handlers }) {
    this.#base = new URL(String(baseUrl).replace(/\/*$/, '/'), globalThis.location?.href);
    this.#channels = channels;
    this.#token = typeof token === 'function' ? token : () => token;
    // As `fetch` has it. A WebSocket takes the cookies along by itself.
    this.#credentials = credentials ?? 'same-origin';
    this.#cursor = new Cursor(channels);
    this.#start = last === undefined ? { since } : { last };
    if (!['now', 'earliest'].includes(since) && !this.#cursor.set(since)) throw new RangeError('since: no cursor');
    this.#handlers = handlers;
    this.switchTo(transports);
    // A network that comes back is another one: what was open on the old one is dead, and need not know it yet.
    globalThis.addEventListener?.('online', this.#leave);
    // Not before the caller has the object that its handlers may want to use.
    queueMicrotask(() => this.#run());
  }

  /** Everything up to here has been handed over; `undefined` until that is known. */
  get cursor() { return this.#cursor.toString(); }
  get state() { return this.#state; }
  get transport() { return this.#transport; }

  /** Goes on by `transports`, in this order of preference, from the same cursor. */
  switchTo(transports = TRANSPORTS) {
    if (!transports.length || transports.some((one) => !TRANSPORTS.includes(one))) throw new RangeError('transports');
    this.#transports = transports;
    this.#transport = transports[0];
    this.#transportFailures = 0;
    this.#leave();
  }

  close() { this.#end(); }

  /**
   * Publishes by POST /pub, where this page may: a string as text, bytes as binary, anything else as JSON; `type` is
   * for another Content-Type. Resolves to `{channel, id, receivers}`; rejects with `status`, `code` and what to do.
   */
  async publish(channel, data, { event, type } = {}) {
    const isBinary = data instanceof ArrayBuffer || ArrayBuffer.isView(data);
    const body = isBinary || typeof data === 'string' ? data : JSON.stringify(data);
    const usual = isBinary ? 'application/octet-stream' : typeof data === 'string' ? 'text/plain' : 'application/json';
    const headers = this.#headers({ 'Content-Type': type ?? usual });
    const response = await this.#fetch(this.#url('pub', { event }, [channel]), { method: 'POST', headers, body });
    if (!response.ok) throw await refusal(response);
    return response.json();
  }

  #fetch(url, options) {
    return fetch(url, { credentials: this.#credentials, ...options });
  }

  async #run() {
    let mustPoll = true;
    let movedBecause;
    while (this.#state !== 'closed') {
      const attempt = new AbortController();
      this.#attempt = Object.assign(attempt, { isNetworkGood: false, openedAtMs: undefined, hasDelivered: false });
      this.#tell('connecting', { error: movedBecause });
      let end;
      try {
        if (mustPoll || this.cursor === undefined) {
          await this.#poll(attempt, 0);
          attempt.isNetworkGood = true;
        }
        await this.#listen(attempt);
      } catch (error) {
        const reason = attempt.signal.aborted ? attempt.signal.reason : error;
        end = reason instanceof Ended ? reason : new Ended(String(reason?.message ?? reason));
      }
      attempt.abort(end);
      if (this.#state === 'closed') return;
      if (end.isFinal) return this.#end(end);
      // Whoever opens and dies at once is no better than one that does not open.
      const isProven = attempt.hasDelivered || Date.now() - attempt.openedAtMs >= TRIAL_MS;
      mustPoll = !isProven && !end.isPlanned;
      this.#failures = mustPoll ? this.#failures + 1 : 0;
      if (isProven) this.#transportFailures = 0;
      movedBecause = mustPoll && attempt.isNetworkGood && this.#fallBack(end) ? end : undefined;
      if (!movedBecause && end.retryMs !== 0) await this.#pause(end);
    }
  }

  /** Blames the transport; `true` if another one is next that was not tried in this round. */
  #fallBack(end) {
    this.#transportFailures += 1;
    if (this.#transportFailures < 2 && !end.isSilent) return false;
    const next = (this.#transports.indexOf(this.#transport) + 1) % this.#transports.length;
    this.#transport = this.#transports[next];
    this.#transportFailures = 0;
    return next !== 0;
  }

  async #listen(attempt) {
    if (this.#transport === 'longpoll') return this.#longpoll(attempt);
    const startedAtMs = Date.now();
    const onTrialEnd = () => {
      if (attempt.openedAtMs !== undefined || attempt.signal.aborted) return;
      // A page that slept wakes up to its timers first: what has arrived meanwhile gets the chance to be seen.
      if (Date.now() - startedAtMs > 2 * TRIAL_MS && !attempt.hasSlept) {
        attempt.hasSlept = true;
        setTimeout(onTrialEnd, TRIAL_MS);
      } else attempt.abort(new Ended(`no sign of life by ${this.#transport}`, { isSilent: true }));
    };
    setTimeout(onTrialEnd, TRIAL_MS);
    return this.#transport === 'websocket' ? this.#websocket(attempt) : this.#eventsource(attempt);
  }

  #websocket(attempt) {
    return new Promise((_, reject) => {
      // A browser lets no page set a header field of a WebSocket.
      const url = this.#listenUrl('ws', { token: this.#token() ?? undefined });
      const socket = new WebSocket(url.replace(/^http/, 'ws'));
      socket.onopen = () => this.#opened(attempt);
      socket.onclose = ({ code, reason }) => reject(closed(code, reason));
      socket.onmessage = ({ data }) => {
        try {
          this.#take(attempt, JSON.parse(data));
        } catch (error) {
          reject(error);
        }
      };
      attempt.signal.addEventListener('abort', () => {
        reject(attempt.signal.reason);
        socket.close();
      });
    });
  }

  async #eventsource(attempt) {
    const headers = this.#headers({ Accept: 'text/event-stream' });
    const response = await this.#fetch(this.#listenUrl('sse'), { signal: attempt.signal, headers, cache: 'no-store' });
    // Not final, since something in between may have refused what the server would not: the next poll decides.
    if (!response.ok) throw Object.assign(await refusal(response), { isFinal: false });
    if (!/^text\/event-stream/.test(response.headers.get('Content-Type'))) throw new Ended('not an event stream');
    const reader = response.body.getReader();
    const utf8 = new TextDecoder();
    const decoder = new EventStreamDecoder();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Ended('the event stream ended', { retryMs: decoder.retryMs });
      this.#opened(attempt);
      for (const { event, data } of decoder.feed(utf8.decode(value, { stream: true }))) {
        this.#take(attempt, event === 'pushring.gap' ? { gap: JSON.parse(data) } : JSON.parse(data));
      }
    }
  }

  async #longpoll(attempt) {
    for (let waitS = 0; ; waitS = POLL_WAIT_S) {
      const askedAtMs = Date.now();
      const isEmpty = await this.#poll(attempt, waitS);
      this.#opened(attempt);
      // A server that shuts down answers early; asking again at once would make it a busy loop.
      if (waitS > 0 && isEmpty && Date.now() - askedAtMs < BACKOFF_MIN_MS) {
        throw new Ended('the server did not wait', { isPlanned: true });
      }
    }
  }

  /** One poll; `true` if it brought nothing. */
  async #poll(attempt, waitS) {
    const timer = setTimeout(() => attempt.abort(new Ended('no answer to a poll')), waitS * 1000 + POLL_SLACK_MS);
    try {
      const url = this.#listenUrl('poll', { wait: waitS });
      const response = await this.#fetch(url, { signal: attempt.signal, headers: this.#headers(), cache: 'no-store' });
      if (!response.ok) throw await refusal(response);
      const isEmpty = response.status === 204;
      if (isEmpty) this.#cursor.set(response.headers.get('Pushring-Cursor'));
      else this.#takePoll(attempt, await response.json());
      attempt.signal.throwIfAborted();
      return isEmpty;
    } finally {
      clearTimeout(timer);
    }
  }

  #takePoll(attempt, { cursor, recovered, messages }) {
    let isUntold = recovered === false;
    const tell = (gaps) => {
      for (const gap of gaps) this.#take(attempt, { gap });
      isUntold &&= gaps.length === 0;
    };
    for (const message of messages) {
      if (recovered === false) tell(this.#cursor.gapBefore(message.channel, message.id));
      this.#take(attempt, message);
    }
    if (recovered === false) tell(this.#cursor.gapsUpTo(cursor));
    // Lost before there was a position to compare with: it cannot be said on which channel.
    if (isUntold) this.#call('ongap', { channel: undefined, position: cursor });
    if (!attempt.signal.aborted) this.#cursor.set(cursor);
  }

  /** A message or a gap notice, each as a WebSocket would bring it. */
  #take(attempt, object) {
    // A handler may have closed or switched: the rest comes again by the next connection, or not at all.
    if (attempt.signal.aborted) return;
    if (attempt.openedAtMs !== undefined) attempt.hasDelivered = true;
    if (object.gap) {
      this.#cursor.advance(object.gap.channel, object.gap.position);
      this.#call('ongap', object.gap);
    } else if (this.#cursor.advance(object.channel, object.id)) this.#call('onmessage', object);
  }

  #opened(attempt) {
    if (attempt.openedAtMs !== undefined || attempt.signal.aborted) return;
    attempt.openedAtMs = Date.now();
    this.#tell('open');
  }

  #pause(error) {
    const wishMs = error.retryMs ?? backoffMs(this.#failures);
    const retryMs = Math.min(Math.max(wishMs, BACKOFF_MIN_MS), RETRY_MAX_MS);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, retryMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#tell('waiting', { error, retryMs });
    });
  }

  #end(error) {
    if (this.#state === 'closed') return;
    globalThis.removeEventListener?.('online', this.#leave);
    this.#tell('closed', { error });
    this.#leave();
  }

  #tell(state, detail = {}) {
    this.#state = state;
    this.#call('onstate', state, { transport: this.#transport, ...detail });
  }

  /** What a handler throws is its page's concern, and no reason to reconnect. */
  #call(handler, ...values) {
    try {
      this.#handlers[handler]?.(...values);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }

  #headers(headers = {}) {
    const token = this.#token();
    return token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
  }

  #listenUrl(path, parameters) {
    const start = this.cursor === undefined ? this.#start : { since: this.cursor };
    return this.#url(path, { ...start, format: 'json', ...parameters });
  }

  #url(path, parameters, channels = this.#channels) {
    const url = new URL(`${path}/${channels.map(encodeURIComponent).join(',')}`, this.#base);
    for (const [name, value] of Object.entries(parameters)) if (value !== undefined) url.searchParams.set(name, value);
    return url.href;
  }
}

globalThis.Pushring = Pushring;
