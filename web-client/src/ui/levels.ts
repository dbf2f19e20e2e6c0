/** Levels over time, in bins of 100 ms, for the timeline strip: pure. */

export const BIN_MS = 100;

export class LevelTrack {
  readonly #bins: Float32Array;
  /** Number of the newest bin since time 0; -1 before the first level. */
  #newest = -1;

  constructor(keepMs: number) {
    this.#bins = new Float32Array(Math.ceil(keepMs / BIN_MS));
  }

  /** Level (rms, 0..1) at a time in ms. */
  push(rms: number, at: number): void {
    const bin = Math.floor(at / BIN_MS);
    if (this.#newest < 0) this.#newest = bin;
    if (bin <= this.#newest - this.#bins.length) return;
    // Bins nobody filled are silence; after a pause longer than the track all of them are.
    for (let i = Math.max(this.#newest + 1, bin - this.#bins.length + 1); i <= bin; i++) this.#bins[this.#index(i)] = 0;
    this.#newest = Math.max(this.#newest, bin);
    const index = this.#index(bin);
    this.#bins[index] = Math.max(this.#bins[index] as number, rms);
  }

  /** Level of bin number `bin` (its time is `bin * BIN_MS`); 0 outside of what is kept. */
  at(bin: number): number {
    if (bin > this.#newest || bin <= this.#newest - this.#bins.length || this.#newest < 0) return 0;
    return this.#bins[this.#index(bin)] as number;
  }

  #index(bin: number): number {
    return ((bin % this.#bins.length) + this.#bins.length) % this.#bins.length;
  }
}

/** Height of a bar, 0..1, for a level: -54 dBFS and less is nothing, -6 dBFS is full. */
export function barHeight(rms: number): number {
  const db = 20 * Math.log10(Math.max(rms, 1e-6));
  return Math.max(0, Math.min(1, (db + 54) / 48)) ** 1.4;
}
