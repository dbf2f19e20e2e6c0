/** What a session can be, as the page shows it. */

import type { Problem } from "./errors";
import type { StartedExtension } from "./protocol/server";
import type { TransportKind } from "./transport/transport";

export type SessionState =
  | { name: "connecting"; kind: TransportKind; note: string }
  | { name: "queued"; position: number; waitS: number; length: number }
  | { name: "live" }
  | { name: "reconnecting"; attempt: number }
  | { name: "ended"; problem: Problem | null };

/** What is known once the session has started. */
export interface SessionInfo {
  id: string;
  kind: TransportKind;
  /** Missing with a server that is not ours. */
  started: StartedExtension | null;
}

/** One time the reply was stopped, on the audio clock in ms. */
export interface Interruption {
  turn: number;
  cause: "voice" | "client" | "model";
  /** When the order to stop arrived: the hold before it, if there was one. */
  ordered_at: number;
  /** Last audible sample; null while it fades, and when nothing was playing. */
  silent_at: number | null;
  /** The user's first voiced sample; null unless a voice was the cause. */
  voice_at: number | null;
}
