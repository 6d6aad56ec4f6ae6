// The client script against a server and a clock of its own: node --test tests/console/

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { Cursor, EventStreamDecoder, Pushring, backoffMs } from '../../src/api/page/pushring.js';
import { FakeServer } from './fake_server.mjs';

const TRANSPORTS = ['websocket', 'eventsource', 'longpoll'];
let server;
let client;
/** What the client handed over: data of messages, gaps as `gap channel position`, in order. */
let seen;
let states;

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  mock.method(Math, 'random', () => 0.5);
  server = new FakeServer();
  seen = [];
  states = [];
});

afterEach(() => {
  client?.close();
  mock.timers.reset();
  mock.restoreAll();
});

/** Lets whatever is due happen. */
const settle = async () => {
  for (let turn = 0; turn < 30; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

async function pass(ms) {
  await settle();
  for (let at = 0; at < ms; at += 500) {
    mock.timers.tick(500);
    await settle();
  }
}

async function connect(options = {}) {
  client = new Pushring('http://push.test', {
    channels: ['a'],
    onmessage: ({ data }) => seen.push(data),
    ongap: ({ channel, position }) => seen.push(`gap ${channel} ${position}`),
    onstate: (state, detail) => states.push({ state, ...detail }),
    ...options,
  });
  await settle();
}

const paths = () => server.requests.map((request) => request.split('/')[1]);
const refusal = (status, headers) => () =>
  new Response('{"error":{"code":"some_code","message":"Do this."}}', { status, headers });

test('a cursor has one position for each channel, in order', () => {
  const cursor = new Cursor(['a', 'b']);
  assert.equal(cursor.toString(), undefined);
  for (const text of [null, '', 'e-1', 'e-1,e-2,e-3', 'e-1,', 'e-1,e-x', 'e1,e2']) {
    assert.equal(cursor.set(text), false, text);
  }
  assert.equal(cursor.advance('b', 'e-7'), true);
  assert.equal(cursor.toString(), undefined);
  assert.equal(cursor.advance('a', 'f-9'), true);
  assert.equal(cursor.toString(), 'f-9,e-7');
  for (const [position, isNews] of [['e-7', false], ['e-6', false], ['e-8', true], ['e-10', true], ['e-9', false]]) {
    assert.equal(cursor.advance('b', position), isNews, position);
  }
  assert.equal(cursor.advance('b', 'other-1'), true, 'in another epoch everything is news');
  assert.equal(cursor.toString(), 'f-9,other-1');
});

test('a cursor tells what is lost in front of a message, and up to another cursor', () => {
  const cursor = new Cursor(['a', 'b']);
  assert.deepEqual(cursor.gapBefore('a', 'e-5'), []);
  cursor.set('e-4,e-9');
  assert.deepEqual(cursor.gapBefore('a', 'e-5'), []);
  assert.deepEqual(cursor.gapBefore('a', 'e-8'), [{ channel: 'a', position: 'e-7' }]);
  assert.deepEqual(cursor.gapBefore('a', 'f-1'), [{ channel: 'a', position: 'f-0' }]);
  assert.deepEqual(cursor.gapsUpTo('e-4,e-9'), []);
  assert.deepEqual(cursor.gapsUpTo('e-4,f-2'), [{ channel: 'b', position: 'f-2' }]);
});

test('an event stream decodes the same at every split', () => {
  const text = ':\nretry: 2100\nid: e-1\nevent: made\ndata: {"a":\ndata: 1}\n\n:\n:\nid: e-2\ndata:é\n\n'
    + 'event: no data\n\ndata: cut';
  const want = [{ event: 'made', data: '{"a":\n1}' }, { event: '', data: 'é' }];
  for (let split = 0; split <= text.length; split += 1) {
    const decoder = new EventStreamDecoder();
    assert.deepEqual([...decoder.feed(text.slice(0, split)), ...decoder.feed(text.slice(split))], want, `at ${split}`);
    assert.equal(decoder.retryMs, 2100);
  }
  const decoder = new EventStreamDecoder();
  assert.deepEqual([...text].flatMap((character) => decoder.feed(character)), want);
});

test('the back-off doubles up to its cap, and is never below a second', () => {
  for (const [failures, most] of [[0, 2_000], [1, 4_000], [2, 8_000], [3, 16_000], [4, 30_000], [5_000, 30_000]]) {
    assert.equal(backoffMs(failures, () => 0), 1_000);
    assert.equal(backoffMs(failures, () => 1), most);
  }
});

for (const transport of TRANSPORTS) {
  const transports = [transport];

  test(`${transport}: messages arrive in order, none twice, from where a lost connection ended`, async () => {
    server.publish('a', 'before');
    await connect({ transports });
    assert.equal(client.state, 'open');
    assert.equal(client.cursor, 'epoch001-1');
    server.cut();
    server.publish('a', 'while away');
    await pass(4_000);
    server.publish('a', 'live');
    await settle();
    for (const { deliver } of server.connections) deliver({ channel: 'a', id: 'epoch001-2', data: 'repeated' });
    await settle();
    assert.deepEqual(seen, ['while away', 'live']);
    assert.equal(client.cursor, 'epoch001-3');
  });

  test(`${transport}: a loss is told, with the channel and the position`, async () => {
    await connect({ transports, channels: ['a', 'b'], since: 'epoch001-0,epoch001-0' });
    server.publish('a', 1);
    await settle();
    server.cut();
    server.publish('a', 'lost');
    server.lose('a');
    server.publish('a', 3);
    server.lose('b', 'epoch002');
    await pass(4_000);
    assert.deepEqual(seen, [1, 'gap a epoch001-2', 3, 'gap b epoch002-0']);
    assert.equal(client.cursor, 'epoch001-3,epoch002-0');
  });

  test(`${transport}: a handler that closes gets nothing more`, async () => {
    await connect({ transports, onmessage: ({ data }) => (seen.push(data), client.close()) });
    server.cut();
    for (const data of [1, 2, 3]) server.publish('a', data);
    await pass(8_000);
    assert.deepEqual(seen, [1]);
    assert.equal(client.cursor, 'epoch001-1');
    assert.equal(client.state, 'closed');
    assert.equal(server.connections.size, 0);
  });
}

test('the first request tells where now is', async () => {
  let failures = 1;
  server.faults.ws = () => failures-- > 0 && (server.publish('a', 'early'), 'refused');
  await connect();
  await pass(4_000);
  assert.equal(server.requests[0], '/poll/a?since=now&format=json&wait=0');
  assert.equal(server.requests[1], '/ws/a?since=epoch001-0&format=json');
  assert.deepEqual(seen, ['early']);
});

test('earliest on several channels has a cursor for all of them at once', async () => {
  server.publish('a', 1);
  await connect({ channels: ['a', 'b:c'], since: 'earliest' });
  assert.equal(server.requests[0], '/poll/a,b%3Ac?since=earliest&format=json&wait=0');
  assert.equal(client.cursor, 'epoch001-1,epoch001-0');
  assert.deepEqual(seen, [1]);
});

test('a silent transport is left for the next one after five seconds', async () => {
  server.faults.ws = server.faults.sse = () => 'hang';
  await connect();
  await pass(5_000);
  assert.equal(client.transport, 'eventsource');
  assert.match(states.find(({ transport }) => transport === 'eventsource').error.message, /no sign of life/);
  await pass(5_000);
  assert.equal(client.transport, 'longpoll');
  assert.deepEqual(paths(), ['poll', 'ws', 'poll', 'sse', 'poll', 'poll', 'poll']);
  server.publish('a', 1);
  await settle();
  assert.deepEqual(seen, [1]);
});

test('a transport that fails twice is left, and the round begins anew', async () => {
  server.faults.ws = server.faults.sse = () => 'refused';
  await connect({ transports: ['websocket', 'eventsource'] });
  await pass(60_000);
  const tried = paths().filter((path) => path !== 'poll');
  assert.deepEqual(tried.slice(0, 6), ['ws', 'ws', 'sse', 'sse', 'ws', 'ws']);
  assert.ok(tried.length < 20, `${tried.length} tries in a minute`);
});

test('a transport that opens and dies at once is left, too', async () => {
  await connect();
  server.cut();
  await pass(4_500);
  server.cut();
  await pass(500);
  assert.equal(client.transport, 'eventsource');
});

test('no transport is blamed while the server is away', async () => {
  await connect();
  await pass(6_000);
  server.faults.ws = server.faults.poll = () => 'refused';
  server.cut();
  await pass(120_000);
  assert.ok(server.requests.length < 15, `${server.requests.length} requests in two minutes`);
  server.faults = {};
  await pass(30_000);
  assert.equal(client.state, 'open');
  assert.equal(client.transport, 'websocket');
});

test('a shutdown is followed by a return after the delay that it names', async () => {
  await connect();
  server.cut(3001, 'shutdown, reconnect after 7300 ms');
  await settle();
  assert.equal(states.at(-1).state, 'waiting');
  assert.equal(states.at(-1).retryMs, 7_300);
  await pass(7_000);
  assert.equal(client.state, 'waiting');
  await pass(500);
  assert.equal(client.state, 'open');
  assert.deepEqual(paths(), ['poll', 'ws', 'ws']);
});

test('the server says for how long to stay away', async () => {
  for (const [header, retryMs] of [['9', 9_000], ['0', undefined], ['99999999', 600_000]]) {
    server.faults.poll = refusal(503, { 'Retry-After': header });
    await connect();
    assert.equal(states.at(-1).state, 'waiting', header);
    assert.ok(retryMs ? states.at(-1).retryMs === retryMs : states.at(-1).retryMs >= 1_000, header);
    client.close();
  }
});

test('what will not change by trying again is final', async () => {
  const statuses = { 400: 'closed', 401: 'closed', 403: 'closed', 408: 'waiting', 429: 'waiting', 500: 'waiting' };
  for (const [status, state] of Object.entries(statuses)) {
    server.faults.poll = refusal(Number(status));
    await connect();
    assert.equal(client.state, state, status);
    assert.equal(states.at(-1).error.code, 'some_code');
    assert.equal(states.at(-1).error.message, 'Do this.');
    client.close();
  }
  server.faults = {};
  const codes = { 1000: 'waiting', 3008: 'waiting', 3500: 'closed', 3503: 'closed', 4000: 'waiting' };
  for (const [code, state] of Object.entries(codes)) {
    await connect();
    server.cut(Number(code));
    await settle();
    assert.equal(client.state, state, code);
    client.close();
  }
});

test('a refusal by something in front of one transport is not final', async () => {
  server.faults.ws = () => 'refused';
  server.faults.sse = refusal(403);
  await connect();
  await pass(20_000);
  assert.equal(client.transport, 'longpoll');
  assert.equal(client.state, 'open');
});

test('a server that answers long polls at once is not asked in a busy loop', async () => {
  await connect({ transports: ['longpoll'] });
  server.faults.poll = () => new Response(null, { status: 204, headers: { 'Pushring-Cursor': 'epoch001-0' } });
  server.publish('a', 1);
  await pass(30_000);
  assert.ok(server.requests.length < 70, `${server.requests.length} requests in half a minute`);
});

test('a switch in mid-stream goes on from the same cursor', async () => {
  await connect();
  const want = [];
  for (const transport of ['longpoll', 'eventsource', 'websocket']) {
    want.push(`before ${transport}`, `while switching to ${transport}`);
    server.publish('a', want.at(-2));
    await settle();
    client.switchTo([transport]);
    server.publish('a', want.at(-1));
    await settle();
    assert.equal(client.state, 'open');
    assert.equal(server.connections.size, 1);
  }
  assert.deepEqual(seen, want);
  assert.throws(() => client.switchTo(['pigeon']), RangeError);
});

test('a publish has the type of its data, and a refusal says what to do', async () => {
  await connect();
  const type = async (...values) => (await client.publish('a', ...values)).type;
  assert.equal(await type('text'), 'text/plain');
  assert.equal(await type({ a: 1 }), 'application/json');
  assert.equal(await type(new Uint8Array(3)), 'application/octet-stream');
  assert.equal(await type('{"a":1}', { type: 'application/json', event: 'x y' }), 'application/json');
  assert.equal(server.requests.at(-1), '/pub/a?event=x+y');
  server.faults.pub = refusal(404);
  await assert.rejects(client.publish('a', 1), { status: 404, code: 'some_code', message: 'Do this.' });
});

test('a token goes with every request, as it is at that moment', async () => {
  let n = 0;
  const tokens = { string: 'a.b.c', function: () => `t.o.${(n += 1)}` };
  for (const token of Object.values(tokens)) {
    await connect({ token, transports: ['websocket'] });
    client.switchTo(['eventsource']);
    await settle();
    client.switchTo(['longpoll']);
    await settle();
    await client.publish('a', 'text');
    client.close();
  }
  const query = server.requests.filter((url) => url.startsWith('/ws')).map((url) => /token=(.*)/.exec(url)[1]);
  assert.deepEqual(query, ['a.b.c', 't.o.2']);
  const fields = server.credentials.filter((field) => field.startsWith('Bearer t.o.'));
  assert.deepEqual(new Set(fields).size, fields.length);
  assert.ok(server.credentials.every((field) => /^Bearer (a\.b\.c|t\.o\.\d+)$/.test(field)), server.credentials);
  assert.ok(server.requests.every((url) => url.startsWith('/ws') || !url.includes('token')), server.requests);
});

test('cookies go to another origin where the page says so', async () => {
  for (const credentials of [undefined, 'include']) {
    await settle();
    server.cookies = [];
    await connect({ credentials, transports: ['eventsource'] });
    client.switchTo(['longpoll']);
    await settle();
    await client.publish('a', 'text');
    client.close();
    assert.ok(server.cookies.length >= 4, server.cookies);
    assert.deepEqual([...new Set(server.cookies)], [credentials ?? 'same-origin']);
  }
});

test('what cannot be is refused at once', () => {
  const wrong = [{ since: 'yesterday' }, { since: 'e-1,e-2' }, { transports: [] }, { transports: ['pigeon'] }];
  for (const options of wrong) {
    assert.throws(() => new Pushring('http://push.test', { channels: ['a'], ...options }), RangeError);
  }
});

test('whatever breaks, every message is seen once and in order', async (t) => {
  const seed = Number(process.env.SEED ?? crypto.getRandomValues(new Uint32Array(1))[0]);
  t.diagnostic(`SEED=${seed}`);
  let state = seed;
  mock.method(Math, 'random', () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state / 2 ** 32;
  });
  const below = (n) => Math.floor(Math.random() * n);
  await connect({ channels: ['a', 'b'], onmessage: ({ channel, data }) => seen.push(`${channel}${data}`) });
  const sent = { a: 0, b: 0 };
  for (let step = 0; step < 300; step += 1) {
    const channel = 'ab'[below(2)];
    const fault = [undefined, () => 'refused', () => 'hang'][below(3)];
    const act = [
      () => server.publish(channel, (sent[channel] += 1)),
      () => server.cut(),
      () => server.cut(3001, 'shutdown, reconnect after 1500 ms'),
      () => client.switchTo(TRANSPORTS.slice(below(3))),
      () => (server.faults[['ws', 'sse', 'poll'][below(3)]] = fault),
      () => pass(500 * below(8)),
      () => settle(),
    ];
    await act[below(act.length)]();
  }
  server.faults = {};
  await pass(120_000);
  for (const channel of 'ab') {
    const want = Array.from({ length: sent[channel] }, (_, index) => `${channel}${index + 1}`);
    assert.deepEqual(seen.filter((one) => one.startsWith(channel)), want, `SEED=${seed}`);
  }
});
