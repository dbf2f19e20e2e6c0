/** Measures barge-in at the ear: from the user's first voiced sample to the last audible one of the reply. Pure. */

import type { Interruption } from "./session-state";

/** Interruptions kept. */
const KEPT = 100;

export class Interruptions {
  readonly list: Interruption[] = [];
  /** Holds that the user's voice did not confirm: a cough, an "mm-hm". */
  unconfirmed = 0;
  #hold: { at: number; silentAt: number | null; voiceAt: number | null } | null = null;

  hold(at: number, voiceAt: number | null): void {
    this.#hold ??= { at, silentAt: null, voiceAt };
  }

  unhold(): void {
    if (this.#hold) this.unconfirmed += 1;
    this.#hold = null;
  }

  flush(at: number, turn: number, cause: Interruption["cause"], voiceAt: number | null): number | null {
    const hold = this.#hold;
    this.#hold = null;
    const ordered = hold?.at ?? at;
    const entry: Interruption = {
      turn,
      cause,
      ordered_at: ordered,
      silent_at: hold?.silentAt ?? null,
      voice_at: cause === "voice" ? latestBefore(ordered, [hold?.voiceAt ?? null, voiceAt]) : null,
    };
    this.list.push(entry);
    if (this.list.length > KEPT) this.list.shift();
    return duration(entry);
  }

  /** The reply became silent because it was told to. Returns the barge-in time when that is now known. */
  silent(at: number, cause: "flush" | "hold"): number | null {
    if (cause === "hold") {
      if (this.#hold) this.#hold.silentAt = at;
      return null;
    }
    const last = this.list.at(-1);
    if (!last || last.silent_at !== null) return null;
    last.silent_at = at;
    return duration(last);
  }
}

/**
 * The voice that the order answers. The server can be faster than this page's own measure, which then still knew the voice
 * before when the reply was held; when it is flushed, half a second later, the user may already be at the next word.
 */
function latestBefore(at: number, times: (number | null)[]): number | null {
  const before = times.filter((time) => time !== null && time <= at) as number[];
  return before.length > 0 ? Math.max(...before) : null;
}

function duration({ silent_at, voice_at }: Interruption): number | null {
  return silent_at === null || voice_at === null ? null : silent_at - voice_at;
}
