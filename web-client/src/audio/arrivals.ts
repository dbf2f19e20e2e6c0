/** Puts reply audio into place as it arrives: turns, positions, and nothing twice after a resumed connection. Pure. */

export interface Placed {
  turn: number;
  startMs: number;
  samples: Int16Array;
}

export class Arrivals {
  #turn = Number.NEGATIVE_INFINITY;
  #endMs = 0;

  /**
   * `turn` and `startMs` as the server said, or null from a server that does not say (then all is one stream).
   * Returns null when all of it came before.
   */
  place(turn: number | null, startMs: number | null, samples: Int16Array, rate: number): Placed | null {
    const ofTurn = turn ?? Math.max(0, this.#turn);
    if (ofTurn < this.#turn) return null;
    if (ofTurn > this.#turn) {
      this.#turn = ofTurn;
      this.#endMs = 0;
    }
    const start = startMs ?? this.#endMs;
    const end = start + (samples.length * 1000) / rate;
    // The server states whole milliseconds; a shorter overlap than that is none.
    const overlap = this.#endMs - start;
    const skip = overlap > 1 ? Math.round((overlap * rate) / 1000) : 0;
    if (skip >= samples.length) return null;
    this.#endMs = end;
    return { turn: ofTurn, startMs: start + (skip * 1000) / rate, samples: samples.subarray(skip) };
  }
}
