// The server side of RFC 6455, as much as the mock needs: text frames of a browser, nothing else.
import { createHash } from "node:crypto";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** Answers an upgrade request. The result has `send(value)`, `close(code)` and the hooks `onmessage` and `onclose`. */
export function accept(request, socket) {
  const digest = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
  const protocol = request.headers["sec-websocket-protocol"]?.split(",")[0]?.trim();
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${digest}\r\n` +
      `${protocol ? `Sec-WebSocket-Protocol: ${protocol}\r\n` : ""}\r\n`,
  );
  const peer = {
    onmessage: () => {},
    onclose: () => {},
    open: true,
    send: (value) => peer.open && socket.write(frame(1, Buffer.from(JSON.stringify(value)))),
    close(code) {
      const payload = Buffer.alloc(2);
      payload.writeUInt16BE(code);
      socket.end(frame(8, payload));
    },
    /** As a cable that is pulled. */
    drop: () => socket.destroy(),
  };
  let pending = Buffer.alloc(0);
  let parts = []; // a browser sends a long message in fragments
  socket.on("data", (data) => {
    pending = Buffer.concat([pending, data]);
    for (let taken = take(pending); taken; taken = take(pending)) {
      pending = pending.subarray(taken.size);
      if (taken.opcode <= 1) parts.push(taken.payload);
      if (taken.opcode <= 1 && taken.final) peer.onmessage(JSON.parse(Buffer.concat(parts.splice(0)).toString()));
      if (taken.opcode === 8) socket.end(frame(8, taken.payload.subarray(0, 2)));
    }
  });
  const closed = () => {
    if (!peer.open) return;
    peer.open = false;
    peer.onclose();
  };
  socket.on("close", closed);
  socket.on("error", closed);
  return peer;
}

function frame(opcode, payload) {
  const head = payload.length < 126 ? Buffer.from([0x80 | opcode, payload.length]) : Buffer.alloc(payload.length < 65536 ? 4 : 10);
  if (head.length > 2) {
    head[0] = 0x80 | opcode;
    head[1] = head.length === 4 ? 126 : 127;
    if (head.length === 4) head.writeUInt16BE(payload.length, 2);
    else head.writeBigUInt64BE(BigInt(payload.length), 2);
  }
  return Buffer.concat([head, payload]);
}

function take(data) {
  if (data.length < 2) return null;
  let length = data[1] & 0x7f;
  let at = 2;
  if (length === 126) {
    if (data.length < 4) return null;
    length = data.readUInt16BE(2);
    at = 4;
  } else if (length === 127) {
    if (data.length < 10) return null;
    length = Number(data.readBigUInt64BE(2));
    at = 10;
  }
  const size = at + 4 + length; // a client's frames are masked
  if (data.length < size) return null;
  const mask = data.subarray(at, at + 4);
  const payload = Buffer.from(data.subarray(at + 4, size));
  for (let i = 0; i < length; i++) payload[i] ^= mask[i % 4];
  return { final: (data[0] & 0x80) !== 0, opcode: data[0] & 0x0f, payload, size };
}
