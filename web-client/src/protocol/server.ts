/** Events of the server on the WebSocket and the data channel: `proto/LIVE.md`, read as `proto/src/live/server.rs` writes them. */

import { type Infer, WireError, anything, boolean, list, nullable, number, object, oneOf, optional, string } from "./schema";

export const bundleInfo = object({ name: string, precision: string, sha256: string, random_weights: boolean, typed: boolean });

const started = object({
  resume_token: string,
  resume_window_s: number,
  resumed: boolean,
  unit_ms: number,
  input_rate: number,
  output_rate: number,
  bundle: bundleInfo,
  recording_id: nullable(string),
  voices: list(string),
  limits: object({ max_session_s: number, idle_s: number }),
  forced_schedule: optional(object({ listen: number, speak: number, tokens: number, codes: number })),
});
export type StartedExtension = Infer<typeof started>;

const session = object({
  id: string,
  audio: optional(object({ format: optional(object({ type: string, rate: number })) })),
  duologue: optional(started),
});

const turnOf = optional(object({ turn: number, start_ms: optional(number) }));
const stages = object({ mel_ms: number, apm_ms: number, vision_ms: number, prefill_ms: number, llm_ms: number });
const transcript = { delta: string, start_ms: number, end_ms: number, duologue: turnOf };
const ids = { event_id: optional(string) };

const EVENTS = {
  "session.started": object({ ...ids, session }),
  "session.closed": object({ ...ids, reason: string, duologue: optional(object({ detail: string })) }),
  "session.usage.updated": object({
    ...ids,
    usage: object({ seconds: number }),
    context_window: optional(object({ usage_ratio: number })),
  }),
  "session.output_audio.delta": object({ ...ids, delta: string, duologue: turnOf }),
  "session.output_transcript.delta": object({ ...ids, ...transcript }),
  "session.input_transcript.delta": object({ ...ids, ...transcript }),
  error: object({
    ...ids,
    error: object({ type: string, code: optional(nullable(string)), message: string, param: optional(nullable(string)) }),
  }),
  info: object({ ...ids, code: string, message: string }),
  "duologue.queued": object({ ...ids, position: number, estimated_wait_s: number, queue_length: number }),
  "duologue.unit": object({
    ...ids,
    unit: number,
    turn: number,
    decision: oneOf("listen", "speak"),
    text: string,
    end_of_turn: boolean,
    stale: boolean,
    ready_ms: number,
    unit_ms: number,
    deadline_missed: boolean,
    stages,
    tokens: number,
    kv_tokens: number,
  }),
  "duologue.speech": object({
    ...ids,
    turn: number,
    unit: number,
    start_ms: number,
    samples: number,
    codes: number,
    stages: object({ tts_ms: number, flow_ms: number, hift_ms: number }),
    first: boolean,
    ttfb_ms: nullable(number),
  }),
  "duologue.turn": object({ ...ids, turn: number, state: oneOf("begin", "done", "interrupted") }),
  "duologue.flush": object({ ...ids, turn: number, cause: oneOf("voice", "client", "model") }),
  "duologue.truncated": object({
    ...ids,
    turn: number,
    audio_end_ms: number,
    units: list(object({ unit: number, text: string })),
  }),
  "duologue.hold": object({ ...ids, turn: number }),
  "duologue.unhold": object({ ...ids, turn: number }),
  "duologue.voice": object({ ...ids, speaking: boolean, at_ms: number }),
  "duologue.paused": object({ ...ids, timeout_s: number }),
  "duologue.resumed": object({ ...ids }),
  "duologue.dropped": object({ ...ids, what: oneOf("unit", "frame", "text"), count: number }),
  "duologue.draining": object({ ...ids, seconds: number }),
  "duologue.pong": object({ ...ids, id: anything, t: number }),
} as const;

type Table = typeof EVENTS;
type EventName = keyof Table;

/** The event of one name, e.g. `ServerEventOf<"duologue.unit">`. */
export type ServerEventOf<K extends EventName> = { type: K } & Infer<Table[K]>;
/** Any event this client handles. */
export type ServerEvent = { [K in EventName]: ServerEventOf<K> }[EventName];

/** Reads an event that is parsed JSON already. Returns null for a name this client does not know. Throws `WireError`. */
export function readServerEvent(value: unknown): ServerEvent | null {
  const { type } = object({ type: string })(value, "");
  if (!Object.hasOwn(EVENTS, type)) return null;
  return { type, ...EVENTS[type as EventName](value, "") } as ServerEvent;
}

/** Reads one message of the server. Returns null for an event this client does not know. Throws `WireError`. */
export function parseServerEvent(text: string): ServerEvent | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new WireError("message", `not JSON (${String(cause)})`);
  }
  return readServerEvent(value);
}

/** Place of an event in its session. */
export interface EventNumber {
  number: number;
  /** One thing that happens may take several messages: "evt_17", "evt_17.1", ... */
  part: number;
}

/** Reads an `event_id` of our server; null for other forms. */
export function eventNumber(id: string | undefined): EventNumber | null {
  const digits = id === undefined ? null : /^evt_(\d+)(?:\.(\d+))?$/.exec(id);
  return digits ? { number: Number(digits[1]), part: Number(digits[2] ?? 0) } : null;
}

export function isAfter(one: EventNumber, other: EventNumber): boolean {
  return one.number > other.number || (one.number === other.number && one.part > other.part);
}
