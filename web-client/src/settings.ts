/** What the user chose, kept in the browser. Reading never fails: what is damaged or unknown becomes the default. */

import type { TransportKind } from "./transport/transport";

export interface Settings {
  instructions: string;
  /** "" is the server's default voice. */
  voice: string;
  bargeIn: "vad" | "model";
  /** "" is as the model is set up. */
  window: "" | "off" | "basic" | "context";
  /** Consent to a recording on the server. */
  record: boolean;
  microphone: string;
  speaker: string;
  echoCancellation: boolean;
  noiseSuppression: boolean;
  autoGainControl: boolean;
  transport: "auto" | TransportKind;
  key: string;
  theme: "system" | "light" | "dark";
  figures: boolean;
}

export const DEFAULTS: Settings = {
  instructions: "",
  voice: "",
  bargeIn: "vad",
  window: "",
  record: false,
  microphone: "",
  speaker: "",
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  transport: "auto",
  key: "",
  theme: "system",
  figures: false,
};

const CHOICES: { [K in keyof Settings]?: readonly Settings[K][] } = {
  bargeIn: ["vad", "model"],
  window: ["", "off", "basic", "context"],
  transport: ["auto", "webrtc", "websocket"],
  theme: ["system", "light", "dark"],
};

/** The part of `Storage` that is needed; a browser may refuse to give one. */
export interface Store {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
}

const NAME = "duologue.settings";

export function load(store: Store): Settings {
  let kept: Record<string, unknown> = {};
  try {
    const value: unknown = JSON.parse(store.getItem(NAME) ?? "{}");
    if (typeof value === "object" && value !== null) kept = value as Record<string, unknown>;
  } catch {
    // Written by something else: start over.
  }
  const settings = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS) as (keyof Settings)[]) take(settings, name, kept[name]);
  return settings;
}

export function save(store: Store, settings: Settings): void {
  store.setItem(NAME, JSON.stringify(settings));
}

function take<K extends keyof Settings>(settings: Settings, name: K, value: unknown): void {
  const choices = CHOICES[name];
  if (typeof value !== typeof DEFAULTS[name] || (choices && !choices.includes(value as Settings[K]))) return;
  settings[name] = value as Settings[K];
}

/** The browser's storage, or one that forgets where the browser allows none. */
export function browserStore(): Store {
  try {
    localStorage.getItem(NAME);
    return localStorage;
  } catch {
    const kept = new Map<string, string>();
    return { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
  }
}

/** Choices in the page's address win: `?transport=websocket|webrtc` and `?token=`. */
export function fromAddress(settings: Settings, query: URLSearchParams): Settings {
  const result = { ...settings };
  take(result, "transport", query.get("transport") ?? undefined);
  take(result, "key", query.get("token") ?? undefined);
  return result;
}

/** Kinds of transport to try, in order, of those the server offers. */
export function kindsToTry(choice: Settings["transport"], offered: readonly TransportKind[]): TransportKind[] {
  const wanted: TransportKind[] = choice === "auto" ? ["webrtc", "websocket"] : [choice];
  return wanted.filter((kind) => offered.includes(kind));
}
