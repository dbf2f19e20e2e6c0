// The front end of OpenBMB/MiniCPM-o-Demo, unmodified, in a real Chromium against the real server. It runs when DUOLOGUE_DEMO
// names a checkout of the demo; nothing of the demo is part of this repository. One slot, so that a second page must queue.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { after, before, describe, test } from "node:test";
import { openBrowser } from "../../web-client/tests/mock/browser.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const checkout = process.env.DUOLOGUE_DEMO;
const bundle = process.env.DUOLOGUE_BUNDLE ?? "out/bundles/golden-fp32";
/** Longer than anything takes on a slow machine. */
const PATIENCE_MS = 90_000;

const skip = checkout ? false : "DUOLOGUE_DEMO names no checkout of OpenBMB/MiniCPM-o-Demo";

describe("the demo's own front end", { skip }, () => {
  let browser, server, address;

  before(async () => {
    const args = ["serve", "--bundle", bundle, "--listen", "127.0.0.1:0", "--demo-static", `${checkout}/static`];
    args.push("--set", "log.level=error", "--set", "slots=1");
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

  /** The page for audio, with a list of all that went wrong in it. */
  async function open() {
    const context = await browser.newContext({ locale: "en-US", acceptDownloads: true });
    const page = await context.newPage();
    const trouble = [];
    page.on("pageerror", (error) => trouble.push(error.message));
    page.on("dialog", (dialog) => (trouble.push(dialog.message()), dialog.accept()));
    page.on("requestfailed", (request) => trouble.push(`${request.url()}: ${request.failure()?.errorText}`));
    page.on("response", (answer) => answer.ok() || trouble.push(`${answer.status()} ${answer.url()}`));
    await page.goto(`${address}/audio_duplex`, { waitUntil: "networkidle" });
    const log = () => page.locator("#chatLog").innerText();
    /** Waits for a line in the page's log of the conversation, `times` times. */
    const says = async (words, times = 1) => {
      const enough = ([words, times]) => document.querySelector("#chatLog").innerText.split(words).length > times;
      try {
        await page.waitForFunction(enough, [words, times], { timeout: PATIENCE_MS, polling: 50 });
      } catch {
        assert.fail(`no "${words}" in ${await log()}`);
      }
    };
    return { page, trouble, says, log };
  }

  test("a conversation with its buttons, and a second page in the queue", { timeout: 6 * PATIENCE_MS }, async () => {
    const { page, trouble, says, log } = await open();
    await page.click("#btnStart");
    await says("Prepared (");
    await says("Session active");
    await says("AI:");
    await page.click("#btnForceListen");
    await says("Force Listen ON");
    await page.click("#btnForceListen");
    await says("Force Listen OFF");
    await page.click("#btnPause");
    await says("Session paused");

    const second = await open();
    await second.page.click("#btnStart");
    await second.says("1/1");

    const spoken = (await log()).split("AI:").length;
    await page.click("#btnPause");
    await says("Session resumed");
    await says("AI:", spoken);
    const [download] = await Promise.all([
      page.waitForEvent("download", { timeout: PATIENCE_MS }),
      page.click("#btnStop").then(() => page.click("#btnDownloadRec", { timeout: PATIENCE_MS })),
    ]);
    const recording = await readFile(await download.path());
    assert.equal(recording.toString("latin1", 0, 4), "RIFF");
    assert.ok(recording.some((byte, index) => index > 44 && byte !== 0), "the recording is not silent");

    await second.says("Session active");
    await second.says("AI:");
    await second.page.click("#btnStop");
    assert.deepEqual([...trouble, ...second.trouble], []);
  });
});
