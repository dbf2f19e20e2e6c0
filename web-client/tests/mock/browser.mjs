// Debian's Chromium with a wav as microphone, driven by playwright-core.
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";
import { babble, wav } from "./babble.mjs";

const MICROPHONE_RATE = 48000;

/** Two sentences in 20 s, over and over: the first alone, the second into whatever is being said then. */
function microphone() {
  const samples = new Int16Array(20 * MICROPHONE_RATE);
  samples.set(babble(1.6, MICROPHONE_RATE, 115, 5), 0.3 * MICROPHONE_RATE);
  samples.set(babble(1.8, MICROPHONE_RATE, 115, 9), 11 * MICROPHONE_RATE);
  return wav([samples], MICROPHONE_RATE);
}

/** `voice` is the wav that the microphone plays over and over. */
export async function openBrowser({ fake = true, voice = microphone() } = {}) {
  const folder = await mkdtemp(path.join(tmpdir(), "duologue-web-"));
  const file = path.join(folder, "microphone.wav");
  await writeFile(file, voice);
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-features=WebRtcHideLocalIpsWithMdns",
      "--autoplay-policy=no-user-gesture-required",
      ...(fake
        ? ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", `--use-file-for-fake-audio-capture=${file}`]
        : []),
    ],
  });
}

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };

/** A page that fails loudly: what it logs as an error is printed, outside hosts are refused. */
export async function openPage(browser, { viewport = DESKTOP, dark = false, reduced = false, settings = {} } = {}) {
  const context = await browser.newContext({
    viewport,
    deviceScaleFactor: viewport === PHONE ? 2 : 1,
    colorScheme: dark ? "dark" : "light",
    reducedMotion: reduced ? "reduce" : "no-preference",
    hasTouch: viewport === PHONE,
    isMobile: viewport === PHONE,
  });
  await context.addInitScript((value) => localStorage.setItem("duologue.settings", JSON.stringify(value)), settings);
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && console.log(`page: ${message.text()}`));
  page.on("pageerror", (error) => console.log(`page error: ${error.stack}`));
  page.on("request", (request) => {
    const { hostname, protocol } = new URL(request.url());
    if (protocol !== "blob:" && hostname !== "localhost") console.log(`page asked an outside host: ${request.url()}`);
  });
  return page;
}
