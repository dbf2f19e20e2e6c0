// Barge-in as the user hears it, in a real Chromium: from the first voiced sample of the microphone to the last audible
// sample of the reply. The server is the real one with its voice detector; the model behind it is a script that goes on
// speaking whatever is said to it. A bench and no test: it asserts nothing about time.
//
//   node bench/barge_in.mjs [--count 40] [--transport websocket|webrtc] [--json FILE]
//
// Zero points: a sample counts when it reaches the page's audio thread (a microphone's own delay comes on top) and when it
// leaves it plus the output latency that the browser reports. The eight recordings of tests/audio/interruption take turns,
// each after four seconds in which the reply begins anew. Needs target/release/scripted_server (cargo test builds it),
// web-client/dist (make web) and out/vad (make vad).
import { writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { spokenMicrophone, startScripted } from "../tests/browser/scripted-server.mjs";
import { openBrowser, openPage } from "../web-client/tests/mock/browser.mjs";

const WORDS = ["be_quiet", "excuse_me", "hold_on", "no_no_no", "no_tell_me", "stop_stop", "wait_a_second", "what_about"];
const QUIET_S = 4;
/** A round of quiet and voice takes less; a machine that is slower than this measures nothing. */
const ROUND_MS = 20_000;

const { values: options } = parseArgs({
  options: { count: { type: "string", default: "40" }, transport: { type: "string" }, json: { type: "string" } },
});
const count = Number(options.count);

async function measure(transport) {
  const server = await startScripted(["s", "--vad", "out/vad/silero_vad.onnx"]);
  const voice = await spokenMicrophone({ quietS: QUIET_S, words: WORDS.map((name) => `${name}.wav`) });
  const browser = await openBrowser({ voice });
  const page = await openPage(browser);
  await page.goto(`${server.address}/?transport=${transport}`);
  await page.click("#talk");
  const rows = new Map();
  const deadline = Date.now() + count * ROUND_MS;
  while (rows.size < count && Date.now() < deadline) {
    await page.waitForTimeout(500);
    const { interruptions, state } = await page.evaluate(() => window.duologue.stats);
    for (const row of interruptions) if (row.silent_at !== null && row.voice_at !== null) rows.set(row.turn, row);
    if (state === "ended") break;
  }
  const { unconfirmed_holds: unconfirmed } = await page.evaluate(() => window.duologue.stats);
  await browser.close();
  server.stop();
  return { transport, unconfirmed, rows: [...rows.values()].slice(0, count) };
}

/** Sorted, with the value below which a share of them lies. */
function quantiles(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]?.toFixed(0);
  return { p50: at(0.5), p95: at(0.95), max: at(1) };
}

const results = [];
for (const transport of options.transport ? [options.transport] : ["websocket", "webrtc"]) {
  const result = await measure(transport);
  results.push(result);
  const figures = {
    "voice to silence, ms": quantiles(result.rows.map(({ voice_at, silent_at }) => silent_at - voice_at)),
    "  of it voice to order": quantiles(result.rows.map(({ voice_at, ordered_at }) => ordered_at - voice_at)),
    "  of it order to silence": quantiles(result.rows.map(({ ordered_at, silent_at }) => silent_at - ordered_at)),
  };
  console.log(`${transport}: ${result.rows.length} interruptions, ${result.unconfirmed} holds that came to nothing; ${cpus()[0].model}`);
  console.table(figures);
}
if (options.json) await writeFile(options.json, JSON.stringify(results, null, 1));
