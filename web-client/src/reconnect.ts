/** When to try again after a lost connection: pure, the caller owns the timer. */

/** Waits before the attempts; the last one repeats. */
const WAITS_MS = [0, 300, 700, 1500, 3000];
/** Each wait is stretched by up to this part, so that many clients of a restarted server do not come at once. */
const SPREAD = 0.3;

export class Reconnect {
  readonly #deadline: number;
  readonly #random: () => number;
  #attempts = 0;

  /** `windowMs` is how long the server keeps the session after the loss at `lostAt`. */
  constructor(lostAt: number, windowMs: number, random: () => number = Math.random) {
    this.#deadline = lostAt + windowMs;
    this.#random = random;
  }

  /** Wait before the next attempt in ms, or null when the server has given the session up. The last attempt is at the end. */
  next(now: number): number | null {
    const wait = WAITS_MS[Math.min(this.#attempts, WAITS_MS.length - 1)] as number;
    this.#attempts += 1;
    const stretched = wait * (1 + SPREAD * this.#random());
    return now >= this.#deadline ? null : Math.min(stretched, this.#deadline - now);
  }

  get attempts(): number {
    return this.#attempts;
  }
}
