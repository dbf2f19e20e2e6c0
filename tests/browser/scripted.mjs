// The page in a real Chromium against the real server, whose model follows a script (tests/src/bin/scripted_server.rs).
// What it asserts:
// - a spoken interruption in the microphone silences the reply, and page and server agree on which words were heard;
// - a page that finds no place waits for one;
// - after a pulled cable the same session goes on: every word once, all of the sound played;
// - a conversation recorded with consent plays on the replay page.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { openBrowser, openPage } from "../../web-client/tests/mock/browser.mjs";
import { spokenMicrophone, startScripted } from "./scripted-server.mjs";

/** Longer than anything takes on a slow machine. */
const PATIENCE_MS = 90_000;

/** The page of a scripted server; `through` may put something between the two. */
async function open(script, { transport = "websocket", settings = {}, voice, args = [], through = (address) => address } = {}) {
  const server = await startScripted([script, ...args]);
  const browser = await openBrowser({ voice });
  const page = await openPage(browser, { settings });
  const address = await through(server.address);
  await page.goto(`${address}/?transport=${transport}`);
  const stats = () => page.evaluate(() => window.duologue.stats);
  const until = (check, what) =>
    page
      .waitForFunction(check, undefined, { timeout: PATIENCE_MS, polling: 50 })
      .catch(async () => assert.fail(`${what}: ${JSON.stringify(await stats())}`));
  const done = async () => {
    await browser.close();
    server.stop();
  };
  return { page, address, stats, until, done };
}

for (const transport of ["websocket", "webrtc"]) {
  test(`${transport}: an interruption silences the reply, and the rest was never said`, { timeout: 4 * PATIENCE_MS }, async () => {
    const voice = await spokenMicrophone({ quietS: 6, words: ["excuse_me.wav"] });
    const { page, stats, until, done } = await open("s", { transport, voice, args: ["--vad", "out/vad/silero_vad.onnx"] });
    await page.click("#talk");
    await until(() => window.duologue.stats.output_rms > 0.05, "audible");
    await until(() => window.duologue.stats.interruptions.some(({ silent_at }) => silent_at !== null), "interrupted");
    const [{ cause, turn }] = (await stats()).interruptions;
    assert.equal(cause, "voice");
    await page.waitForFunction(
      (turn) => window.duologue.stats.captions.some((item) => item.turn === turn && item.pieces.some(({ heard }) => heard !== null)),
      turn,
      { timeout: PATIENCE_MS, polling: 50 },
    );
    const caption = (await stats()).captions.find((item) => item.turn === turn);
    assert.equal(caption.state, "interrupted");
    const said = caption.pieces.map(({ text }) => text).join("");
    const heard = caption.pieces.map(({ heard }) => heard).join("");
    assert.ok(said.startsWith(heard) && heard.length > 0, `"${heard}" of "${said}"`);
    // Each word lasts a second; the word being said may count or not, and the play head lags a little.
    const words = heard.trim().split(" ").length;
    assert.ok(Math.abs(words - caption.playedMs / 1000) <= 1, `${words} words in ${caption.playedMs} ms`);
    await until(() => window.duologue.stats.captions.filter(({ kind }) => kind === "model").length > 1, "it speaks again");
    await done();
  });
}

/** A TCP line to `address` that can be cut. */
async function line(address) {
  const { port } = new URL(address);
  const sockets = new Set();
  const keep = (socket) => sockets.add(socket) && socket.on("close", () => sockets.delete(socket)).on("error", () => socket.destroy());
  const relay = net.createServer((near) => {
    const far = net.connect(port, "127.0.0.1");
    keep(near).pipe(keep(far)).pipe(near);
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
  });
  await new Promise((ready) => relay.listen(0, "127.0.0.1", ready));
  relay.unref();
  return { address: `http://localhost:${relay.address().port}`, cut: () => sockets.forEach((socket) => socket.destroy()) };
}

test("a pulled cable: the same session goes on, nothing is lost and nothing comes twice", { timeout: 4 * PATIENCE_MS }, async () => {
  let cable;
  const through = async (address) => (cable = await line(address)).address;
  // Five seconds of speech, each with its own word. Nobody interrupts: there is no detector.
  const { page, stats, until, done } = await open("lssssel", { through });
  await page.click("#talk");
  await until(() => window.duologue.stats.player?.played_ms > 1200, "speaks");
  const { session_id } = await stats();
  cable.cut();
  await until(() => window.duologue.stats.resumes === 1, "resumed");
  await until(() => window.duologue.stats.captions.some(({ state }) => state === "done"), "said to the end");
  await until(() => !window.duologue.stats.player.playing, "played to the end");
  const after = await stats();
  assert.equal(after.session_id, session_id);
  const replies = after.captions.filter(({ kind }) => kind === "model");
  assert.deepEqual(replies.map(({ pieces }) => pieces.map(({ text }) => text).join("")), [" two three four five six"]);
  assert.equal(after.player.turn, 0);
  assert.ok(Math.abs(after.player.played_ms - 5000) < 5, `${after.player.played_ms} ms were played of 5000`);
  await done();
});

test("when all places are taken a page waits for one, and then talks", { timeout: 4 * PATIENCE_MS }, async () => {
  const server = await startScripted(["l"]);
  const browser = await openBrowser();
  const pages = await Promise.all([0, 1, 2].map(() => openPage(browser)));
  const until = (page, check) => page.waitForFunction(check, undefined, { timeout: PATIENCE_MS, polling: 50 });
  const places = 2;
  for (const [index, page] of pages.entries()) {
    await page.goto(server.address);
    await page.click("#talk");
    if (index < places) await until(page, () => window.duologue.stats.state === "live");
  }
  await until(pages[2], () => window.duologue.stats.queue?.position === 1);
  await pages[0].click("#talk");
  await until(pages[2], () => window.duologue.stats.state === "live");
  await browser.close();
  server.stop();
});

test("a recording made with consent plays on its page", { timeout: 4 * PATIENCE_MS }, async () => {
  const folder = await mkdtemp(path.join(tmpdir(), "duologue-recordings-"));
  const { page, address, stats, until, done } = await open("lsel", { settings: { record: true }, args: ["--recordings", folder] });
  await page.click("#talk");
  await until(() => window.duologue.stats.captions.some(({ state }) => state === "done"), "a reply");
  const { recording_id: id } = await stats();
  assert.ok(id, "the session is recorded");
  await page.click("#talk");
  await until(() => window.duologue.stats.state === "ended", "ended");
  // Its files are complete a moment after the session.
  for (let tries = 0; (await fetch(`${address}/v1/duologue/recordings/${id}/timeline`)).status === 404; tries++) {
    assert.ok(tries < 200, "the recording appears");
    await page.waitForTimeout(50);
  }
  await page.goto(`${address}/r/${id}`);
  await page.waitForSelector("body[data-state='ready']", { timeout: PATIENCE_MS });
  assert.match(await page.textContent("body"), /two three/);
  await page.click("#play");
  await page.waitForFunction(() => /^0:0[2-9]/.test(document.querySelector("#time").textContent), undefined, { timeout: PATIENCE_MS });
  await rm(folder, { recursive: true });
  await done();
});
