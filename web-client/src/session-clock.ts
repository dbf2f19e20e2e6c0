/** Places the server's session clock on the local one: pure. */

/**
 * Learns the offset from messages that say when something was on the session's clock. A message is never early,
 * only late by the network and the server, so the smallest offset seen is the best.
 */
export class SessionClock {
  #offset = Number.POSITIVE_INFINITY;

  /** Something known at `sessionMs` arrived at `localMs`. */
  observe(sessionMs: number, localMs: number): void {
    this.#offset = Math.min(this.#offset, localMs - sessionMs);
  }

  /** Local time of a moment on the session's clock; null before the first observation. */
  toLocal(sessionMs: number): number | null {
    return Number.isFinite(this.#offset) ? sessionMs + this.#offset : null;
  }
}
