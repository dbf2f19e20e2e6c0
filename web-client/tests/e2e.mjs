// The page in a real Chromium against the mock server: `npm run e2e`. What it asserts:
// - WebSocket: captions and audible audio arrive, the microphone's packets too, muted they are silence;
// - barge-in silences the reply; a cough only pauses; the play head is reported;
// - a pulled cable resumes the same session; a full server, a missing key and a blocked microphone are said in words;
// - WebRTC: audio both ways, events, flush, fall-back to WebSocket when there is none;
// - settings, voice file and recording;
// - keyboard; no outside host is asked; the replay page plays and seeks.
// How fast any of it is depends on the machine and is asserted nowhere; bench/barge_in.mjs measures.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startMock } from "./mock-server.mjs";
import { babble, wav } from "./mock/babble.mjs";
import { openBrowser, openPage } from "./mock/browser.mjs";
import { serveRtc } from "./mock/rtc-peer.mjs";

let browser;
before(async () => (browser = await openBrowser()));
after(() => browser.close());

const WEBSOCKET = "/?transport=websocket";

async function open(scenario = {}, at = WEBSOCKET, options = {}) {
  const mock = await startMock(scenario);
  const page = await openPage(browser, options);
  await page.goto(mock.url + at);
  const stats = () => page.evaluate(() => window.duologue.stats);
  const until = (check, what, ms = 30_000) =>
    page.waitForFunction(check, undefined, { timeout: ms, polling: 50 }).catch(async () => assert.fail(`${what}: ${JSON.stringify(await stats())}`));
  const done = async () => {
    await page.context().close();
    mock.close();
  };
  return { mock, page, stats, until, done };
}

/** Waits for the mock server or peer as `until` does for the page. */
async function arrives(check, what, ms = 30_000) {
  for (const patience = AbortSignal.timeout(ms); !(await check()); await sleep(50)) assert.ok(!patience.aborted, what);
}

test("websocket: words and sound arrive, and the user's sound leaves", async () => {
  const { mock, page, stats, until, done } = await open({ firstReplyUnit: 1, deaf: true });
  await page.click("#talk");
  await until(() => window.duologue.stats.state === "live", "live");
  await until(() => window.duologue.stats.output_rms > 0.02, "audible");
  const now = await stats();
  assert.equal(now.transport, "websocket");
  assert.match(now.captions.find(({ kind }) => kind === "model").pieces[0].text, /I hear you/);
  assert.ok(now.played_samples > 1000);
  const [session] = mock.state.sessions;
  await arrives(() => session.heardMs > 1500, "the user's sound");
  assert.equal(session.heardMs % 20, 0, "whole packets");
  assert.equal(session.start.session.audio.format.rate, 24000);
  for (const kind of ["duologue.playback", "duologue.ping"]) {
    await arrives(() => session.received.some(({ type }) => type === kind), kind);
  }
  await done();
});

test("mute sends silence, and packets go on", async () => {
  const { mock, page, until, done } = await open({ silent: true });
  await page.click("#talk");
  await until(() => window.duologue.stats.state === "live", "live");
  await page.keyboard.press("m");
  const [session] = mock.state.sessions;
  let [samples, loudest] = [0, 0];
  const hear = session.hear.bind(session);
  session.hear = (bytes) => {
    samples += bytes.length / 2;
    for (let i = 0; i + 1 < bytes.length; i += 2) loudest = Math.max(loudest, Math.abs(bytes.readInt16LE(i)));
    hear(bytes);
  };
  // What was said before the key takes a moment on its way. The fake microphone pauses for up to 9.1 s between two sentences.
  for (let tries = 0; tries < 10; tries++) {
    [samples, loudest] = [0, 0];
    await arrives(() => samples >= 10 * 24_000, "packets although muted");
    if (loudest === 0) break;
  }
  assert.equal(loudest, 0);
  await done();
});

test("barge-in: the server's word silences the reply", async () => {
  const { mock, page, stats, until, done } = await open({ firstReplyUnit: 0, deaf: true });
  await page.click("#talk");
  await until(() => window.duologue.stats.output_rms > 0.02, "audible");
  mock.state.sessions[0].interrupt("voice");
  await until(() => window.duologue.stats.interruptions[0]?.silent_at, "flushed");
  // The page notes a silence only when the word made it; that the fade takes 5 ms of samples, the unit tests assert.
  const { interruptions } = await stats();
  assert.deepEqual(interruptions.map(({ turn, cause }) => [turn, cause]), [[1, "voice"]]);
  await until(() => window.duologue.stats.output_rms < 0.001, "silent");
  assert.equal((await stats()).captions.find(({ kind }) => kind === "model").state, "interrupted");
  await done();
});

test("a cough pauses; the reply goes on where it was", async () => {
  const { mock, page, stats, until, done } = await open({ firstReplyUnit: 0, deaf: true });
  await page.click("#talk");
  await until(() => window.duologue.stats.output_rms > 0.02, "audible");
  mock.state.sessions[0].hold();
  await until(() => window.duologue.stats.player.held, "held");
  const { played_ms } = (await stats()).player;
  await page.waitForTimeout(300);
  assert.equal((await stats()).player.played_ms, played_ms);
  mock.state.sessions[0].unhold();
  await until(() => !window.duologue.stats.player.held && window.duologue.stats.player.playing, "goes on");
  assert.equal((await stats()).unconfirmed_holds, 1);
  assert.equal((await stats()).interruptions.length, 0);
  await done();
});

test("a pulled cable: the same session goes on, nothing said twice", async () => {
  const { mock, page, stats, until, done } = await open({ firstReplyUnit: 0, deaf: true });
  await page.click("#talk");
  await until(() => window.duologue.stats.units.speak >= 2, "speaks");
  for (const peer of mock.state.peers) peer.drop();
  await until(() => window.duologue.stats.resumes === 1, "resumed");
  await until(() => window.duologue.stats.units.speak >= 4, "goes on");
  assert.equal(mock.state.sessions.length, 1);
  const text = (await stats()).captions
    .filter(({ kind }) => kind === "model")
    .map(({ pieces }) => pieces.map(({ text }) => text).join(""))
    .join("");
  assert.equal(text.match(/I hear you/g).length, 1);
  await done();
});

test("what goes wrong is said in words", async () => {
  const cases = [
    [{ full: true }, "full", "All places are taken"],
    [{ key: "secret" }, "unauthorized", "An access key is needed"],
    [{ refuse: true, draining: true }, "draining", "The server is about to restart"],
  ];
  for (const [scenario, code, title] of cases) {
    const { page, stats, until, done } = await open(scenario);
    await page.click("#talk");
    await until(() => window.duologue.stats.problem, code);
    assert.equal((await stats()).problem, code);
    assert.equal(await page.textContent("#problem-title"), title);
    await done();
  }
});

test("a key from the address is used and does not stay there", async () => {
  const { page, until, done } = await open({ key: "ek_secret" }, `${WEBSOCKET}&token=ek_secret`);
  assert.ok(!page.url().includes("ek_secret"));
  await page.click("#talk");
  await until(() => window.duologue.stats.state === "live", "live");
  await done();
});

test("a blocked microphone is said in words", async () => {
  const { page, until, stats, done } = await open();
  await page.evaluate(() => {
    navigator.mediaDevices.getUserMedia = async () => {
      throw new DOMException("no", "NotAllowedError");
    };
  });
  await page.click("#talk");
  await until(() => window.duologue.stats.problem, "problem");
  assert.equal((await stats()).problem, "microphone_denied");
  await done();
});

test("a page without https says so before anyone presses anything", async () => {
  const mock = await startMock();
  const page = await openPage(browser);
  await page.addInitScript(() => Object.defineProperty(window, "isSecureContext", { value: false }));
  await page.goto(mock.url);
  assert.match(await page.textContent("#problem-text"), /https/);
  await page.context().close();
  mock.close();
});

test("settings reach the server: instructions, voice from a file, who interrupts, consent; the recording can be had", async () => {
  const { mock, page, until, done } = await open({ silent: true }, WEBSOCKET);
  await page.keyboard.press("s");
  await page.fill("#instructions", "Speak like a pilot.");
  await page.selectOption("#barge-in", "model");
  await page.check("#record");
  await page.setInputFiles("#voice-file", { name: "me.wav", mimeType: "audio/wav", buffer: wav([babble(20, 16000, 120)], 16000) });
  await page.waitForFunction(() => /its first 16.9 s/.test(document.querySelector("#voice-hint").textContent));
  assert.ok((await page.locator("#microphone option").count()) >= 1);
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => !document.querySelector("dialog").open);
  await page.keyboard.press("Space");
  await until(() => window.duologue.stats.state === "live", "live");
  assert.ok(await page.isVisible("#recording-badge"));
  const { session } = mock.state.sessions[0].start;
  assert.equal(session.instructions, "Speak like a pilot.");
  assert.deepEqual(session.duologue.barge_in, { mode: "model" });
  assert.equal(session.duologue.record, true);
  const voice = Buffer.from(session.duologue.voice_reference, "base64");
  assert.equal(voice.readUInt32LE(24), 24000);
  assert.ok(Math.abs((voice.length - 44) / 2 / 24000 - 16.9) < 0.01);
  await page.keyboard.press("Space");
  await until(() => window.duologue.stats.state === "ended", "ended");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save-recording")]);
  assert.match(download.suggestedFilename(), /\.wav$/);
  assert.equal(await page.getAttribute("#open-replay", "href"), "/r/rec_demo");
  await done();
});

test("a voice file that is none is refused in words", async () => {
  const { page, done } = await open();
  await page.keyboard.press("s");
  await page.setInputFiles("#voice-file", { name: "x.wav", mimeType: "audio/wav", buffer: Buffer.from("no sound") });
  await page.waitForFunction(() => /cannot read x.wav/.test(document.querySelector("#voice-hint").textContent));
  await page.setInputFiles("#voice-file", { name: "short.wav", mimeType: "audio/wav", buffer: wav([babble(0.3, 16000, 120)], 16000) });
  await page.waitForFunction(() => /half a second/.test(document.querySelector("#voice-hint").textContent));
  await done();
});

test("webrtc: sound and events both ways; a flush silences", async () => {
  const { mock, page, stats, until, done } = await open({}, "/?transport=webrtc");
  const peer = await serveRtc(page.context(), mock.url);
  await page.click("#talk");
  await peer.ready();
  const session = { id: "sess_rtc", duologue: startedExtension() };
  await peer.says({ type: "session.started", event_id: "evt_0", session });
  await until(() => window.duologue.stats.state === "live", "live");
  await peer.says({ type: "duologue.turn", event_id: "evt_1", turn: 0, state: "begin" });
  await peer.tone(true);
  await until(() => window.duologue.stats.output_rms > 0.1, "audible");
  assert.ok((await peer.heard()) >= 0);
  await peer.says({ type: "duologue.hold", event_id: "evt_1.1", turn: 0 });
  await until(() => window.duologue.stats.output_rms < 0.001, "held");
  await peer.says({ type: "duologue.unhold", event_id: "evt_1.2", turn: 0 });
  await until(() => window.duologue.stats.output_rms > 0.1, "goes on");
  await peer.says({ type: "duologue.flush", event_id: "evt_2", turn: 1, cause: "client" });
  await until(() => window.duologue.stats.output_rms < 0.001, "silent although the tone goes on");
  await until(() => window.duologue.stats.interruptions[0]?.silent_at, "flush measured");
  await peer.says({ type: "duologue.turn", event_id: "evt_3", turn: 1, state: "begin" });
  await until(() => window.duologue.stats.output_rms > 0.1, "the next turn is heard");
  await arrives(async () => (await peer.received()).some(({ type }) => type === "duologue.ping"), "a ping");
  let loudest = 0;
  for (let i = 0; i < 60 && loudest < 0.01; i++) {
    loudest = Math.max(loudest, await peer.heard());
    await page.waitForTimeout(200);
  }
  assert.ok(loudest > 0.01, `the microphone reached the peer with ${loudest}`);
  assert.equal((await stats()).state, "live");
  await done();
});

test("webrtc that is not there falls back to the websocket and says so", async () => {
  const { page, stats, until, done } = await open({ silent: true }, "/");
  await page.click("#talk");
  await until(() => window.duologue.stats.state === "live", "live");
  assert.equal((await stats()).transport, "websocket");
  assert.match(await page.textContent("#status-detail"), /WebSocket \(fall-back\)/);
  assert.match(await page.textContent("#remark"), /WebRTC could not connect/);
  await done();
});

test("queue, then talk; the space key leaves", async () => {
  const { page, stats, until, done } = await open({ queue: 1, silent: true });
  await page.keyboard.press("Space");
  await until(() => window.duologue.stats.queue?.position === 1, "queued");
  assert.equal(await page.textContent("#queue-title"), "You are next");
  await until(() => window.duologue.stats.state === "live", "live");
  await page.keyboard.press("Space");
  await until(() => window.duologue.stats.state === "ended", "ended");
  assert.equal((await stats()).problem, null);
  await done();
});

test("replay: plays, seeks, and a missing recording is said in words", async () => {
  const { page, mock, done } = await open({}, "/r/rec_demo");
  await page.waitForSelector("body[data-state='ready']");
  await page.click("#play");
  await page.waitForFunction(() => /^0:0[1-9]/.test(document.querySelector("#time").textContent));
  await page.click(".entry:nth-child(1) >> nth=3");
  await page.waitForFunction(() => /^0:1[3-9]/.test(document.querySelector("#time").textContent));
  await page.keyboard.press("Home");
  await page.waitForFunction(() => /^0:00/.test(document.querySelector("#time").textContent));
  await page.goto(`${mock.url}/r/missing`);
  await page.waitForSelector("body[data-state='failed']");
  assert.equal(await page.textContent("#problem-title"), "This recording is not here");
  await done();
});

function startedExtension() {
  return {
    resume_token: "token",
    resume_window_s: 30,
    resumed: false,
    unit_ms: 1000,
    input_rate: 16000,
    output_rate: 24000,
    bundle: { name: "mini", precision: "int8", sha256: "00", random_weights: false, typed: true },
    recording_id: null,
    voices: [],
    limits: { max_session_s: 600, idle_s: 60 },
  };
}
