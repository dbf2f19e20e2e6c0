/** Time and timers as a value, so that tests run on their own time. */

export interface Clock {
  /** In ms. */
  now(): number;
  /** Runs once, later; the result cancels it. */
  after(ms: number, run: () => void): () => void;
}

export const BROWSER_CLOCK: Clock = {
  now: () => performance.now(),
  after(ms, run) {
    const id = setTimeout(run, ms);
    return () => clearTimeout(id);
  },
};

/** Timers that end together. */
export class Timers {
  #running = new Set<() => void>();

  constructor(readonly clock: Clock) {}

  after(ms: number, run: () => void): void {
    const cancel = this.clock.after(ms, () => {
      this.#running.delete(cancel);
      run();
    });
    this.#running.add(cancel);
  }

  every(ms: number, run: () => void): void {
    this.after(ms, () => {
      this.every(ms, run);
      run();
    });
  }

  clear(): void {
    for (const cancel of this.#running) cancel();
    this.#running.clear();
  }
}
