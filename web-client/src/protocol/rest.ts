/** HTTP beside the session: configuration, WebRTC set-up, recordings. */

import { readServerEvent, bundleInfo, type ServerEvent } from "./server";
import { type Infer, anything, boolean, list, number, object, oneOf, optional, string, nullable } from "./schema";

const serverConfig = object({
  ice_servers: list(object({ urls: list(string), username: optional(string), credential: optional(string) })),
  transports: list(oneOf("webrtc", "websocket")),
  bundle: bundleInfo,
  voices: list(string),
  suggestions: list(string),
  max_upload_bytes: number,
  recording: object({ available: boolean, retention_days: number }),
  auth_required: boolean,
  unit_ms: number,
});
/** `GET /v1/duologue/config`. */
export type ServerConfig = Infer<typeof serverConfig>;

const created = object({ session: object({ id: string }), transport: object({ sdp: string }) });
export type Created = Infer<typeof created>;

const timeline = object({
  id: string,
  started_at: number,
  duration_ms: number,
  sample_rate: number,
  unit_ms: number,
  bundle: bundleInfo,
  events: list(object({ at_ms: number, event: anything })),
});
/** `GET /v1/duologue/recordings/{id}/timeline`, without the events this client does not know. */
export type RecordingTimeline = Omit<Infer<typeof timeline>, "events"> & {
  events: { at_ms: number; event: ServerEvent }[];
};

const failure = object({
  error: object({ code: optional(nullable(string)), message: string }),
});

/** An HTTP answer that is a refusal, with OpenAI's error object when there was one. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
    message: string,
    readonly retryAfterS: number | null,
  ) {
    super(message);
    this.name = "HttpError";
  }
}

export function readConfig(value: unknown): ServerConfig {
  return serverConfig(value, "config");
}

export function readCreated(value: unknown): Created {
  return created(value, "answer");
}

export function readTimeline(value: unknown): RecordingTimeline {
  const read = timeline(value, "timeline");
  const events = read.events.flatMap(({ at_ms, event }) => {
    const known = readServerEvent(event);
    return known ? [{ at_ms, event: known }] : [];
  });
  return { ...read, events };
}

/** Fetches with the access key, if any. Throws `HttpError` for every answer that is not a success. */
export async function request(path: string, key: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key !== "") headers.set("Authorization", `Bearer ${key}`);
  const response = await fetch(path, { ...init, headers });
  if (response.ok) return response;
  const retry = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const { code, message } = await refusal(response);
  throw new HttpError(response.status, code, message, Number.isFinite(retry) ? retry : null);
}

/** Sends a JSON body. */
export function post(path: string, key: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return request(path, key, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
}

async function refusal(response: Response): Promise<{ code: string | null; message: string }> {
  const text = await response.text();
  try {
    const { error } = failure(JSON.parse(text), "answer");
    return { code: error.code ?? null, message: error.message };
  } catch {
    // A proxy in between answers in its own words.
    return { code: null, message: `the server answered ${response.status}` };
  }
}
