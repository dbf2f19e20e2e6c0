/**
 * Tells from microphone levels when the user last spoke. Used for the latency figures and the picture only;
 * what stops the model is decided by the server's voice detector.
 */

/** A frame counts as voiced this far above the noise floor. */
const MARGIN_DB = 12;
/** Nothing below this is a voice, however quiet the room. */
const QUIETEST_DB = -52;
/** How fast the noise floor may climb; it falls at once. */
const FLOOR_RISE_DB_PER_S = 3;
/** Voiced time in a row that starts a voice, and unvoiced time that ends it. */
const START_MS = 40;
const END_MS = 400;

export interface VoiceSpan {
  /** First and last voiced moment, in ms of the audio clock. */
  start: number;
  end: number;
}

export class VoiceTracker {
  #floor = -60;
  #last = Number.NEGATIVE_INFINITY;
  #candidate: number | null = null;
  #span: VoiceSpan | null = null;
  #previous: VoiceSpan | null = null;

  /** Takes the level of the frame that ended at `now` (ms). Returns true when speaking started or ended. */
  push(levelDb: number, now: number): boolean {
    const passed = Number.isFinite(this.#last) ? Math.max(0, now - this.#last) : 0;
    this.#last = now;
    this.#floor = Math.max(-90, Math.min(levelDb, this.#floor + (FLOOR_RISE_DB_PER_S * passed) / 1000));
    const voiced = levelDb > QUIETEST_DB && levelDb > this.#floor + MARGIN_DB;
    if (!voiced) {
      this.#candidate = null;
      if (this.#span && now - this.#span.end >= END_MS) {
        this.#previous = this.#span;
        this.#span = null;
        return true;
      }
      return false;
    }
    this.#candidate ??= now - passed;
    if (this.#span) {
      this.#span.end = now;
      return false;
    }
    if (now - this.#candidate < START_MS) return false;
    this.#span = { start: this.#candidate, end: now };
    return true;
  }

  get speaking(): boolean {
    return this.#span !== null;
  }

  /** The voice going on, else the one before; null when there was none. */
  get latest(): VoiceSpan | null {
    return this.#span ?? this.#previous;
  }
}
