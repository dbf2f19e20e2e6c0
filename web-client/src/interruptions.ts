/** Measures barge-in at the ear: from the user's first voiced sample to the last audible one of the reply. Pure. */

import type { VoiceSpan } from "./audio/voice";
import type { Interruption } from "./session-state";

/** Interruptions kept. */
const KEPT = 100;
/** A voice that ended longer ago than this, in ms, is not what an order answers. */
const RECENT_MS = 500;

export class Interruptions {
  readonly list: Interruption[] = [];
  /** Holds that the user's voice did not confirm: a cough, an "mm-hm". */
  unconfirmed = 0;
  #hold: { at: number; silentAt: number | null; voice: VoiceSpan | null } | null = null;

  /** `voice`: the latest one that the page itself noticed. */
  hold(at: number, voice: VoiceSpan | null): void {
    this.#hold ??= { at, silentAt: null, voice: voice && { ...voice } };
  }

  unhold(): void {
    if (this.#hold) this.unconfirmed += 1;
    this.#hold = null;
  }

  flush(at: number, turn: number, cause: Interruption["cause"], voice: VoiceSpan | null): number | null {
    const hold = this.#hold;
    this.#hold = null;
    const ordered = hold?.at ?? at;
    const entry: Interruption = {
      turn,
      cause,
      ordered_at: ordered,
      silent_at: hold?.silentAt ?? null,
      voice_at: cause === "voice" ? answered(ordered, [hold?.voice ?? null, voice]) : null,
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
 * Begin of the voice that the order answers. The server can be faster than this page's own measure, which then still knew
 * the voice before when the reply was held; when it is flushed, half a second later, the user may be at the next word.
 */
function answered(at: number, voices: (VoiceSpan | null)[]): number | null {
  const starts = voices.flatMap((voice) => (voice && voice.start <= at && voice.end >= at - RECENT_MS ? [voice.start] : []));
  return starts.length > 0 ? Math.max(...starts) : null;
}

function duration({ silent_at, voice_at }: Interruption): number | null {
  return silent_at === null || voice_at === null ? null : silent_at - voice_at;
}
