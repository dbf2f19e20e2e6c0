/** What travels between the page and its audio threads. Times are ms of the audio context's clock. */

import type { BufferEvent, BufferStatus } from "../jitter-buffer";

/** capture.worklet -> page. */
export type CaptureMessage =
  /** Samples of the wire rate; never sent while packets are off. */
  | { type: "packet"; samples: Int16Array }
  /** Level of the last 20 ms, measured before muting. */
  | { type: "level"; rms: number; time: number };

/** page -> capture.worklet. */
export type CaptureCommand = { type: "packets"; rate: number | null } | { type: "mute"; muted: boolean };

/** page -> playback.worklet. */
export type PlaybackCommand =
  | { type: "push"; turn: number; start_ms: number; rate: number; samples: Float32Array }
  | { type: "done" | "flush" | "hold"; turn: number }
  | { type: "unhold" };

/** playback.worklet -> page. */
export type PlaybackMessage =
  | { type: "event"; event: BufferEvent; time: number }
  | { type: "level"; rms: number; time: number; status: BufferStatus };

/** meter.worklet -> page. */
export interface MeterMessage {
  type: "level";
  rms: number;
  time: number;
  /** Time of the first and the last sample above the hearing threshold within these 20 ms, if any. */
  first: number | null;
  last: number | null;
}
