/** What this client says: `proto/LIVE.md`. */

/** The `session` object of `session.start` and of `POST /v1/live/sessions`. */
export interface SessionRequest {
  model?: string;
  instructions?: string;
  audio?: { format?: { type: "audio/pcm"; rate: number }; output?: { voice?: string } };
  duologue: {
    resume_token?: string;
    last_event_id?: string;
    voice_reference?: string;
    sampling?: { preset?: "reference" | "focused"; temperature?: number; listen_prob_scale?: number; greedy?: boolean };
    window?: "off" | "basic" | "context";
    barge_in?: { mode: "vad" | "model" };
    record?: boolean;
    units: true;
  };
}

export type ClientEvent =
  | { type: "session.start"; session: SessionRequest }
  | { type: "session.input_audio.append"; audio: string }
  | { type: "session.close" }
  | { type: "duologue.force_listen" }
  | { type: "duologue.interrupt" }
  | { type: "duologue.input_text.append"; text: string }
  | { type: "duologue.playback"; turn: number; played_ms: number; buffered_ms: number }
  | { type: "duologue.ping"; id: string; t: number };
