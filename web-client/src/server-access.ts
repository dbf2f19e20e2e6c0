/** What this page knows of its server over HTTP: configuration, why a connection was refused, recordings. */

import { ProblemError, type Problem, fromThrown, problem } from "./errors";
import type { SessionRequest } from "./protocol/client";
import { HttpError, type ServerConfig, readConfig, request } from "./protocol/rest";
import type { Settings } from "./settings";

export class ServerAccess {
  /** Null until `load` succeeded. */
  config: ServerConfig | null = null;
  readonly #settings: Settings;
  #problem = problem("unreachable");

  /** The key is taken from `settings` at each request. */
  constructor(settings: Settings) {
    this.#settings = settings;
  }

  async load(): Promise<ServerConfig | null> {
    try {
      const answer = await request("/v1/duologue/config", this.#settings.key);
      this.config = readConfig(await answer.json());
    } catch (error) {
      console.warn("the server's configuration could not be read", error);
      this.config = null;
      this.#problem = fromThrown(error);
    }
    return this.config;
  }

  /** The loaded configuration, when a session may be tried with it. Throws `ProblemError`. */
  usable(): ServerConfig {
    if (!this.config) throw new ProblemError(this.#problem);
    if (this.config.auth_required && this.#settings.key === "") throw new ProblemError(problem("unauthorized"));
    return this.config;
  }

  get iceServers(): RTCIceServer[] {
    return (this.config?.ice_servers ?? []).map(({ urls, username, credential }) => ({
      urls,
      ...(username === undefined ? {} : { username }),
      ...(credential === undefined ? {} : { credential }),
    }));
  }

  /** Why a WebSocket was refused, which the browser does not say, as far as HTTP tells. */
  async diagnose(): Promise<Problem> {
    try {
      await request("/v1/duologue/config", this.#settings.key);
      await request("/readyz", "");
    } catch (error) {
      if (error instanceof HttpError && error.status === 503) return problem("draining");
      return fromThrown(error);
    }
    if (this.config?.auth_required) return problem("unauthorized", "The server did not accept the key in the settings.");
    return problem("unreachable", "The server answers, but the connection was refused. A proxy in between may block WebSockets.");
  }

  /** The stereo recording of a session. Throws `HttpError`. */
  async recording(sessionId: string): Promise<Blob> {
    const answer = await request(`/v1/live/sessions/${encodeURIComponent(sessionId)}/content`, this.#settings.key);
    return answer.blob();
  }
}

/** The session the settings ask for; `voice` is base64 of a wav, null for a voice of the server. */
export function sessionRequest(settings: Settings, voice: string | null, config: ServerConfig): SessionRequest {
  const { instructions, bargeIn, window, record } = settings;
  return {
    model: config.bundle.name,
    ...(instructions.trim() === "" ? {} : { instructions }),
    ...(settings.voice === "" || voice !== null ? {} : { audio: { output: { voice: settings.voice } } }),
    duologue: {
      units: true,
      barge_in: { mode: bargeIn },
      ...(window === "" ? {} : { window }),
      ...(voice === null ? {} : { voice_reference: voice }),
      ...(record && config.recording.available ? { record: true } : {}),
    },
  };
}
