// Screenshots of every state, desktop and phone, light and dark: `npm run shots [folder] [name filter]`.
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { startMock } from "./mock-server.mjs";
import { DESKTOP, PHONE, openBrowser, openPage } from "./mock/browser.mjs";

const [folder = "shots", filter = ""] = process.argv.slice(2);
await mkdir(folder, { recursive: true });

/** name: what the server does, what the person does, and the settings. */
const SCENES = {
  idle: {},
  random: { scenario: { random: true } },
  talking: { settings: { figures: true }, act: (page) => talk(page, 18_500) },
  quiet: { act: (page) => talk(page, 9_500) },
  ended: {
    settings: { record: true },
    act: async (page) => {
      await talk(page, 15_000);
      await page.click("#talk");
      await page.waitForTimeout(400);
    },
  },
  queue: { scenario: { queue: 3 }, act: (page) => talk(page, 800) },
  full: { scenario: { full: true }, act: (page) => talk(page, 800) },
  key: { scenario: { key: "secret" }, act: (page) => talk(page, 500) },
  settings: {
    settings: { instructions: "You are a patient guide who knows the lakes." },
    act: async (page) => {
      await page.click("#open-settings");
      await page.waitForTimeout(400);
    },
  },
  reconnecting: {
    act: async (page, mock) => {
      await talk(page, 8_000);
      for (const peer of mock.state.peers) peer.drop();
      mock.state.scenario.refuse = true;
      await page.waitForTimeout(900);
    },
  },
  replay: {
    path: "/r/rec_demo",
    act: async (page) => {
      await page.waitForSelector("body[data-state='ready']");
      await page.click("#play");
      await page.waitForTimeout(7000);
    },
  },
};

async function talk(page, ms) {
  await page.click("#talk");
  await page.waitForTimeout(ms);
}

const LOOKS = [
  ["desktop-light", { viewport: DESKTOP }],
  ["desktop-dark", { viewport: DESKTOP, dark: true }],
  ["phone-light", { viewport: PHONE }],
  ["phone-dark", { viewport: PHONE, dark: true }],
];

const browser = await openBrowser();
for (const [name, { scenario = {}, settings = {}, act = async () => {}, path: at = "/?transport=websocket" }] of Object.entries(SCENES)) {
  const looks = LOOKS.filter(([look]) => `${name}-${look}`.includes(filter));
  await Promise.all(
    looks.map(async ([look, options]) => {
      const mock = await startMock({ ...scenario });
      const page = await openPage(browser, { ...options, settings });
      await page.goto(mock.url + at);
      await page.waitForTimeout(300);
      await act(page, mock);
      await page.screenshot({ path: path.join(folder, `${name}-${look}.png`) });
      await page.context().close();
      mock.close();
    }),
  );
}
await browser.close();
