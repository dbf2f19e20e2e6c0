/** Both voices, captions and units of a recording on one time axis. */

import { type Palette, palette, prepareCanvas } from "../ui/dom";
import { barHeight } from "../ui/levels";
import { type Replay, type ReplayUnit, Window, tickMs, timeText } from "./model";

/** Resolution of the peaks. */
export const PEAK_MS = 20;

const CAPTION_H = 30;
const AXIS_H = 24;
const LANE = 14;
const BAR_PX = 4;

export interface Voices {
  user: Float32Array;
  model: Float32Array;
}

export class ReplayView {
  readonly window: Window;
  readonly #canvas: HTMLCanvasElement;
  readonly #replay: Replay;
  readonly #voices: Voices;
  #colours: Palette = palette();
  #headMs = 0;

  constructor(canvas: HTMLCanvasElement, replay: Replay, voices: Voices) {
    this.#canvas = canvas;
    this.#replay = replay;
    this.#voices = voices;
    this.window = new Window(replay.durationMs);
    new ResizeObserver(() => this.draw(this.#headMs)).observe(canvas);
  }

  retheme(): void {
    this.#colours = palette();
    this.draw(this.#headMs);
  }

  /** Time at a place of the canvas. */
  timeAt(offsetX: number): number {
    const { startMs, spanMs, durationMs } = this.window;
    return Math.max(0, Math.min(durationMs, startMs + (offsetX / this.#canvas.clientWidth) * spanMs));
  }

  draw(headMs: number): void {
    this.#headMs = headMs;
    const { ctx, width, height } = prepareCanvas(this.#canvas);
    if (width === 0) return;
    const { startMs, spanMs } = this.window;
    const x = (ms: number) => ((ms - startMs) / spanMs) * width;
    const middle = CAPTION_H + (height - CAPTION_H - AXIS_H) / 2;
    const room = middle - CAPTION_H - LANE;

    this.#axis(ctx, x, width, height);
    this.#bars(ctx, x, width, middle, room);
    for (const unit of this.#replay.units) this.#unit(ctx, x(unit.startMs), x(unit.endMs), middle, unit);
    this.#captions(ctx, x, width);
    ctx.fillStyle = this.#colours.user;
    for (const at of this.#replay.flushes) ctx.fillRect(x(at) - 0.75, CAPTION_H, 1.5, middle + LANE - CAPTION_H);
    ctx.fillStyle = this.#colours.ink;
    ctx.fillRect(x(headMs) - 0.75, CAPTION_H - 6, 1.5, height - AXIS_H - CAPTION_H + 6);
  }

  #axis(ctx: CanvasRenderingContext2D, x: (ms: number) => number, width: number, height: number): void {
    const step = tickMs(this.window.spanMs / width, 64);
    ctx.font = font(12);
    ctx.textBaseline = "alphabetic";
    const first = Math.ceil(this.window.startMs / step) * step;
    for (let at = first; at <= this.window.startMs + this.window.spanMs; at += step) {
      ctx.fillStyle = this.#colours.rule;
      ctx.fillRect(x(at), CAPTION_H, 1, height - AXIS_H - CAPTION_H);
      ctx.fillStyle = this.#colours.soft;
      const text = timeText(at);
      const left = Math.min(x(at), width - ctx.measureText(text).width);
      ctx.fillText(text, left, height - 5);
    }
  }

  #bars(ctx: CanvasRenderingContext2D, x: (ms: number) => number, width: number, middle: number, room: number): void {
    const msPerBar = (this.window.spanMs / width) * BAR_PX;
    const first = Math.floor(this.window.startMs / msPerBar);
    for (let n = first; x(n * msPerBar) < width; n++) {
      const left = x(n * msPerBar);
      const played = n * msPerBar < this.#headMs;
      const up = barHeight(0.7 * loudest(this.#voices.model, n * msPerBar, msPerBar)) * room;
      const down = barHeight(0.7 * loudest(this.#voices.user, n * msPerBar, msPerBar)) * room;
      ctx.globalAlpha = played ? 1 : 0.5;
      if (up > 0.5) pill(ctx, this.#colours.model, left, middle - LANE - up, 2.5, up);
      if (down > 0.5) pill(ctx, this.#colours.user, left, middle + LANE, 2.5, down);
    }
    ctx.globalAlpha = 1;
  }

  #unit(ctx: CanvasRenderingContext2D, from: number, to: number, middle: number, unit: ReplayUnit): void {
    const gap = to - from > 8 ? 2 : 0.5;
    if (unit.speaks) {
      const colour = unit.stale ? this.#colours.modelSoft : this.#colours.model;
      pill(ctx, colour, from + gap / 2, middle - 4, to - from - gap, 8);
    } else {
      pill(ctx, this.#colours.faint, from + gap / 2, middle - 1, to - from - gap, 2);
    }
    if (unit.missed) pill(ctx, this.#colours.alert, to - 6, middle - 10, 4, 4);
  }

  /** Each reply's words over its sound, as far as there is room before the next one. */
  #captions(ctx: CanvasRenderingContext2D, x: (ms: number) => number, width: number): void {
    ctx.font = font(13);
    ctx.textBaseline = "middle";
    this.#replay.turns.forEach((turn, i) => {
      const next = this.#replay.turns[i + 1];
      const left = Math.max(0, x(turn.startMs));
      const right = Math.min(width, next ? x(next.startMs) : width) - 12;
      if (right - left < 24 || x(turn.endMs) < 0) return;
      const current = this.#headMs >= turn.startMs && this.#headMs < turn.endMs;
      ctx.fillStyle = current ? this.#colours.ink : this.#colours.soft;
      ctx.fillText(shorten(ctx, turn.text.trim(), right - left), left, CAPTION_H / 2 - 2);
    });
  }
}

function loudest(peaks: Float32Array, fromMs: number, lengthMs: number): number {
  const first = Math.floor(fromMs / PEAK_MS);
  const last = Math.max(first + 1, Math.floor((fromMs + lengthMs) / PEAK_MS));
  let level = 0;
  for (let i = first; i < last; i++) level = Math.max(level, peaks[i] ?? 0);
  return level;
}

/** The longest beginning, in whole words where possible, that fits. */
function shorten(ctx: CanvasRenderingContext2D, text: string, room: number): string {
  if (ctx.measureText(text).width <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const half = Math.ceil((low + high) / 2);
    if (ctx.measureText(`${text.slice(0, half)}…`).width <= room) low = half;
    else high = half - 1;
  }
  return `${text.slice(0, low).trimEnd()}…`;
}

function font(px: number): string {
  return `${px}px ${getComputedStyle(document.body).fontFamily}`;
}

function pill(ctx: CanvasRenderingContext2D, colour: string, x: number, y: number, width: number, height: number): void {
  ctx.fillStyle = colour;
  ctx.beginPath();
  ctx.roundRect(x, y, Math.max(width, 0.5), height, Math.max(0, Math.min(width, height) / 2));
  ctx.fill();
}
