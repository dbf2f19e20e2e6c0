/** A level meter: rises at once, falls calmly. */

import { barHeight } from "./levels";

/** Fall per second, as a part of the whole meter. */
const FALL_PER_S = 1.6;
/** How often screen readers' value changes. */
const ARIA_MS = 1000;

export class Meter {
  readonly #element: HTMLElement;
  readonly #bar: HTMLElement;
  #shown = 0;
  #at = 0;
  #announced = 0;

  constructor(element: HTMLElement) {
    this.#element = element;
    this.#bar = element.querySelector("i") ?? element;
  }

  /** Level (rms, 0..1). */
  level(rms: number): void {
    const now = performance.now();
    const fall = (FALL_PER_S * (now - this.#at)) / 1000;
    this.#at = now;
    this.#shown = Math.max(barHeight(rms), this.#shown - fall, 0);
    this.#bar.style.transform = `scaleX(${this.#shown.toFixed(3)})`;
    if (now - this.#announced < ARIA_MS) return;
    this.#announced = now;
    const db = Math.round(Math.max(-60, 20 * Math.log10(Math.max(rms, 1e-6))));
    this.#element.setAttribute("aria-valuenow", String(db));
    this.#element.setAttribute("aria-valuetext", `${db} dB`);
  }

  clear(): void {
    this.#shown = 0;
    this.#bar.style.transform = "scaleX(0)";
  }
}
