/** Latency figures of a session: the newest value, median and 95th percentile of each (definitions in the project's README). */

import type { VoiceSpan } from "./audio/voice";

/** Values kept per figure. */
const KEPT = 300;
/** A reply later than this after the user's voice answers something else. */
const LONGEST_TTFA_MS = 15_000;

export interface Figure {
  last: number;
  p50: number;
  p95: number;
  count: number;
}

/** The newest values of one figure. */
export class Series {
  #values: number[] = [];
  #count = 0;

  add(value: number): void {
    this.#values.push(value);
    this.#count += 1;
    if (this.#values.length > KEPT) this.#values.shift();
  }

  get values(): readonly number[] {
    return this.#values;
  }

  /** Null before the first value. Percentiles by the nearest rank. */
  figure(): Figure | null {
    const last = this.#values.at(-1);
    if (last === undefined) return null;
    const sorted = [...this.#values].sort((a, b) => a - b);
    const rank = (p: number) => sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)] as number;
    return { last, p50: rank(0.5), p95: rank(0.95), count: this.#count };
  }
}

/**
 * Unevenness of arrival: RFC 3550 section 6.4.1's interarrival jitter, over pieces that the server sends at the
 * pace of their own media time.
 */
export class ArrivalJitter {
  #previous: { turn: number; media: number; arrival: number } | null = null;
  #jitter = 0;

  /** `mediaMs` is the piece's place in its turn, `arrivalMs` the local clock. */
  push(turn: number, mediaMs: number, arrivalMs: number): number {
    const previous = this.#previous;
    this.#previous = { turn, media: mediaMs, arrival: arrivalMs };
    if (previous?.turn === turn) {
      const difference = Math.abs(arrivalMs - previous.arrival - (mediaMs - previous.media));
      this.#jitter += (difference - this.#jitter) / 16;
    }
    return this.#jitter;
  }

  get ms(): number {
    return this.#jitter;
  }
}

/** Everything the latency panel shows. */
export class LatencyMeter {
  readonly ttfb = new Series();
  readonly ttfa = new Series();
  readonly unit = new Series();
  readonly rtf = new Series();
  readonly jitter = new Series();
  readonly roundTrip = new Series();
  /** User's first voiced sample to the moment the reply was silent. */
  readonly bargeIn = new Series();
  missedDeadlines = 0;
  #answered = Number.NEGATIVE_INFINITY;

  pushUnit(unitMs: number, chunkMs: number, missed: boolean): void {
    this.unit.add(unitMs);
    this.rtf.add(unitMs / chunkMs);
    if (missed) this.missedDeadlines += 1;
  }

  /** The first sample of a reply became audible at `at`; `voice` is the user's latest voice. Returns the TTFA it gives. */
  pushAudible(at: number, voice: VoiceSpan | null): number | null {
    // A reply to nothing new, one that began while the user went on speaking, or one much later has no TTFA.
    if (!voice || voice.end <= this.#answered || voice.end >= at || at - voice.end > LONGEST_TTFA_MS) return null;
    this.#answered = voice.end;
    this.ttfa.add(at - voice.end);
    return at - voice.end;
  }
}
