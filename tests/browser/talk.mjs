// A real Chromium with a wav as microphone holds a conversation with the real server: `make test` runs it after the
// program, the bundle and the web client are built. The weights are random, so what is asserted is that units, words and
// audible sound arrive and stop, not what is said.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import { openBrowser, openPage } from "../../web-client/tests/mock/browser.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const bundle = process.env.DUOLOGUE_BUNDLE ?? "out/bundles/golden-fp32";
/** Longer than anything takes on a slow machine. */
const PATIENCE_MS = 90_000;

let browser, server, address;

before(async () => {
  const args = ["serve", "--bundle", bundle, "--listen", "127.0.0.1:0", "--set", "log.level=error"];
  server = spawn("target/release/duologue", args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: server.stdout })) {
    const found = line.match(/^talk at (http:\S+)$/);
    if (found) {
      address = found[1].replace("127.0.0.1", "localhost");
      break;
    }
  }
  assert.ok(address, "the server prints its address");
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  server?.kill("SIGTERM");
});

async function open(transport) {
  const page = await openPage(browser);
  await page.goto(`${address}/?transport=${transport}`);
  const stats = () => page.evaluate(() => window.duologue.stats);
  const until = async (check, what) => {
    try {
      await page.waitForFunction(check, undefined, { timeout: PATIENCE_MS, polling: 50 });
    } catch {
      assert.fail(`${what}: ${JSON.stringify(await stats())}`);
    }
  };
  return { page, stats, until };
}

for (const transport of ["websocket", "webrtc"]) {
  test(`${transport}: a conversation is heard, seen and stopped`, { timeout: 4 * PATIENCE_MS }, async () => {
    const { page, stats, until } = await open(transport);
    await page.click("#talk");
    await until(() => window.duologue.stats.state === "live", "connects");
    assert.equal((await stats()).transport, transport);
    await until(() => window.duologue.stats.units.listen + window.duologue.stats.units.speak >= 2, "units come");
    await until(() => window.duologue.stats.captions.some(({ kind }) => kind === "model"), "captions come");
    await until(() => window.duologue.stats.output_rms > 0.002, "sound is heard in the page");
    const { latency_ms } = await stats();
    assert.ok(latency_ms.ttfb.length > 0 && latency_ms.ttfb.every((ms) => ms > 0), JSON.stringify(latency_ms));
    await page.click("#talk");
    await until(() => window.duologue.stats.state !== "live", "stops");
    const before = await (await fetch(`${address}/status`)).json();
    assert.equal(before.busy_workers, 0, "its slot is free at once");
    await page.context().close();
  });
}
