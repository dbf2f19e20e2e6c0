// A stand-in for `duologue serve` for looking at the page and for tests of the page alone: `npm run mock`.
//
// Serves dist/ and a scripted conversation over the WebSocket; WebRTC is answered with 501, so that the page falls back.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { recording } from "./mock/recording.mjs";
import { MockSession } from "./mock/session.mjs";
import { accept } from "./mock/websocket.mjs";

const DIST = fileURLToPath(new URL("../dist", import.meta.url));
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const POLICY = "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; img-src 'self' data:";

/** Starts on a free port. `scenario` may be changed while it runs; see the fields used below. */
export async function startMock(scenario = {}, port = 0) {
  const state = { scenario, sessions: [], peers: new Set() };
  const server = createServer((request, response) => void serve(state, request, response));
  server.on("upgrade", (request, socket) => upgrade(state, request, socket));
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  const close = () => {
    for (const peer of state.peers) peer.drop();
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://localhost:${server.address().port}`, state, close };
}

function config({ scenario }) {
  return {
    ice_servers: [],
    transports: ["webrtc", "websocket"],
    bundle: { name: "mini", precision: "int8", sha256: "5f1c0a9b3e7d24680c1f", random_weights: Boolean(scenario.random), typed: true },
    voices: ["default", "anna", "ben"],
    suggestions: ["What is seven plus three?", "Tell me a story.", "What is the capital of Norway?"],
    max_upload_bytes: 4194304,
    recording: { available: true, retention_days: 7 },
    auth_required: Boolean(scenario.key),
    unit_ms: 1000,
  };
}

async function serve(state, request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  const json = (status, value, headers = {}) =>
    response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
  if (pathname === "/v1/duologue/config") return json(200, config(state));
  if (pathname === "/readyz") return json(state.scenario.draining ? 503 : 200, {});
  if (pathname === "/v1/live/sessions" && request.method === "POST") return json(501, {});
  if (/^\/v1\/duologue\/recordings\/[^/]+\/timeline$/.test(pathname)) {
    if (pathname.includes("missing")) return json(404, { error: { type: "invalid_request_error", message: "no such recording" } });
    return json(200, recording().timeline);
  }
  if (/\/(audio|content)$/.test(pathname)) {
    return response.writeHead(200, { "Content-Type": "audio/wav" }).end(recording().audio);
  }
  const file = pathname === "/" ? "/index.html" : pathname.startsWith("/r/") ? "/replay.html" : pathname;
  try {
    const content = await readFile(path.join(DIST, path.normalize(file)));
    response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] ?? "text/plain", "Content-Security-Policy": POLICY });
    response.end(content);
  } catch {
    response.writeHead(404).end("not found");
  }
}

function upgrade(state, request, socket) {
  const { scenario } = state;
  const key = /duologue\.key\.([^,\s]+)/.exec(request.headers["sec-websocket-protocol"] ?? "")?.[1];
  if (scenario.refuse || (scenario.key && key !== scenario.key)) return socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
  const peer = accept(request, socket);
  state.peers.add(peer);
  socket.on("close", () => state.peers.delete(peer));
  peer.onmessage = (start) => {
    if (start.type !== "session.start") return;
    const token = start.session?.duologue?.resume_token;
    const known = state.sessions.find(({ id }) => id === token);
    if (token && !known) return refuse(peer, "resume_expired", "the session is gone");
    if (known) return known.attach(peer, start);
    if (scenario.full) return refuse(peer, "queue_full", "the queue is full");
    const session = new MockSession({ ...scenario, recording: start.session.duologue.record });
    session.start = start;
    state.sessions.push(session);
    if (!scenario.queue) return session.attach(peer, start);
    wait(peer, scenario.queue, () => session.attach(peer, start));
  };
}

function refuse(peer, code, message) {
  peer.send({ type: "error", event_id: "evt_0", error: { type: "server_error", code, message } });
  peer.close(1013);
}

/** Moves up one place every 3 s. */
function wait(peer, position, done) {
  if (!peer.open) return;
  if (position === 0) return done();
  peer.send({ type: "duologue.queued", position, estimated_wait_s: position * 21, queue_length: position + 2 });
  setTimeout(() => wait(peer, position - 1, done), 3000);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await startMock({}, 8377);
  console.log(`the page with a made-up server: ${url}`);
}
