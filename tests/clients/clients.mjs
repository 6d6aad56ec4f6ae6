// JavaScript's two listening clients behind one set of commands. `makeClients` uses nothing outside itself, so that
// its text runs in a browser's page as it does in Node: `world` has the constructors, `tell` takes what they see.

export function makeClients(world, tell) {
  const clients = new Map();

  function toBase64(buffer) {
    let binary = "";
    for (const byte of new Uint8Array(buffer)) binary += String.fromCharCode(byte);
    return btoa(binary);
  }

  function fromBase64(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  function openEventSource({ id, url, events }) {
    const source = new world.EventSource(url);
    source.onopen = () => tell({ id, type: "open" });
    source.onerror = () => tell({ id, type: "error", closed: source.readyState === 2 });
    for (const event of events) {
      source.addEventListener(event, (message) =>
        tell({ id, type: "message", event, cursor: message.lastEventId, data: message.data }),
      );
    }
    clients.set(id, source);
  }

  function openWebSocket({ id, url }) {
    const socket = new world.WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => tell({ id, type: "open" });
    socket.onclose = ({ code, reason }) => tell({ id, type: "close", code, reason });
    socket.onerror = () => tell({ id, type: "error" });
    socket.onmessage = ({ data }) =>
      tell(
        typeof data === "string"
          ? { id, type: "message", data }
          : { id, type: "message", data_base64: toBase64(data) },
      );
    // Browsers show neither pings nor the answer's head; the npm client does.
    socket.on?.("ping", () => tell({ id, type: "ping" }));
    socket.on?.("upgrade", (response) => tell({ id, type: "head", headers: response.headers }));
    clients.set(id, socket);
  }

  return {
    open(command) {
      (command.kind === "EventSource" ? openEventSource : openWebSocket)(command);
    },

    // Several pieces are one message in several frames, which only the npm client can send.
    send({ id, pieces }) {
      const socket = clients.get(id);
      const payloads = pieces.map((piece) => ("text" in piece ? piece.text : fromBase64(piece.base64)));
      if (payloads.length === 1) {
        socket.send(payloads[0]);
        return;
      }
      payloads.forEach((payload, index) => socket.send(payload, { fin: index === payloads.length - 1 }));
    },

    close({ id }) {
      clients.get(id).close();
      clients.delete(id);
    },

    async fetch({ id, url, init }) {
      try {
        const response = await world.fetch(url, init);
        const headers = Object.fromEntries(response.headers);
        tell({ id, type: "answer", status: response.status, headers, body: await response.text() });
      } catch (error) {
        tell({ id, type: "answer", error: String(error) });
      }
    },
  };
}
