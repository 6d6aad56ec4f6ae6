// Holds the JavaScript clients: npm `ws` and `eventsource` in Node, and Chromium's own in pages of a headless browser.
// One JSON command per line comes in on standard input; one JSON line goes out for everything that a client sees.
//
// A command's `page` says where its client lives: absent in Node, "cross-origin" in a blank page of a server of our own
// (so that CORS applies), a URL in that page.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { makeClients } from "./clients.mjs";

const CHROMIUM_ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const require = createRequire(`${process.env.NODE_MODULES_PARENT}/`);
const { EventSource } = require("eventsource");
const { WebSocket } = require("ws");

function tell(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

let browser;
let blankServer;
const pages = new Map();
const inNode = makeClients({ EventSource, WebSocket, fetch }, tell);

async function launchBrowser() {
  const { chromium } = require("playwright-core");
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: CHROMIUM_ARGUMENTS,
  });
}

async function serveBlankPage() {
  const server = createServer((_request, response) => {
    response.writeHead(200, { "Content-Type": "text/html" });
    response.end("<!doctype html><title>blank</title>");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

async function openPage(name) {
  let url = name;
  if (name === "cross-origin") {
    blankServer ??= await serveBlankPage();
    url = `http://127.0.0.1:${blankServer.address().port}/`;
  }
  browser ??= await launchBrowser();
  const page = await browser.newPage();
  await page.exposeFunction("tell", tell);
  await page.goto(url);
  await page.evaluate(`globalThis.clients = (${makeClients})(globalThis, tell)`);
  return page;
}

async function run(command) {
  if (!command.page) {
    await inNode[command.do](command);
    return;
  }
  if (!pages.has(command.page)) pages.set(command.page, await openPage(command.page));
  await pages.get(command.page).evaluate((command) => clients[command.do](command), command);
}

// One at a time: a command may need the page that the one before it opens.
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    await run(command);
  } catch (error) {
    tell({ id: command.id, type: "broken", reason: String(error) });
  }
}
await browser?.close();
process.exit(0);
