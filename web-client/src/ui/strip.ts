/** The timeline strip: the reply's voice above, the user's below, units between; now is at the right edge. */

import { type Palette, palette, prefersReducedMotion, prepareCanvas } from "./dom";
import { BIN_MS, LevelTrack, barHeight } from "./levels";

/** What is shown, by width. */
const PX_PER_S = 40;
const KEEP_MS = 90_000;
/** Half of the room kept free for the units' lane. */
const LANE = 11;
/** With reduced motion the picture steps instead of gliding. */
const STEP_MS = 1000;

export interface StripUnit {
  /** Local time of the unit's audio. */
  start: number;
  end: number;
  speaks: boolean;
  stale: boolean;
  missed: boolean;
}

interface Mark {
  at: number;
  kind: "flush" | "hold";
}

export class Strip {
  readonly #canvas: HTMLCanvasElement;
  readonly #reply = new LevelTrack(KEEP_MS);
  readonly #user = new LevelTrack(KEEP_MS);
  #units: StripUnit[] = [];
  #marks: Mark[] = [];
  #running = false;
  #frozenAt = 0;
  #colours: Palette = palette();

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    this.#draw();
  }

  /** Colours changed. */
  retheme(): void {
    this.#colours = palette();
    this.#draw();
  }

  start(): void {
    this.#units = [];
    this.#marks = [];
    if (this.#running) return;
    this.#running = true;
    const frame = () => {
      if (!this.#running) return;
      this.#draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** Keeps the last picture. */
  stop(): void {
    this.#running = false;
    this.#frozenAt = performance.now();
    this.#draw();
  }

  replyLevel(rms: number, at: number): void {
    this.#reply.push(rms, at);
  }

  userLevel(rms: number, at: number): void {
    this.#user.push(rms, at);
  }

  unit(unit: StripUnit): void {
    this.#units.push(unit);
    if (this.#units.length > KEEP_MS / 500) this.#units.shift();
  }

  mark(kind: Mark["kind"]): void {
    this.#marks.push({ at: performance.now(), kind });
    if (this.#marks.length > 100) this.#marks.shift();
  }

  #draw(): void {
    const { ctx, width, height } = prepareCanvas(this.#canvas);
    if (width === 0) return;
    let now = this.#running ? performance.now() : this.#frozenAt;
    if (prefersReducedMotion()) now = Math.floor(now / STEP_MS) * STEP_MS;
    const x = (time: number) => width - ((now - time) * PX_PER_S) / 1000;
    const middle = height / 2;
    const since = now - (width * 1000) / PX_PER_S;

    this.#drawLane(ctx, width, middle);
    this.#drawBars(ctx, x, middle, now, since);
    for (const unit of this.#units) if (unit.end > since) this.#drawUnit(ctx, x(unit.start), x(unit.end), middle, unit);
    for (const { at, kind } of this.#marks) if (at > since) this.#drawMark(ctx, x(at), middle, kind);
  }

  #drawLane(ctx: CanvasRenderingContext2D, width: number, middle: number): void {
    ctx.fillStyle = this.#colours.rule;
    ctx.fillRect(0, middle - 0.5, width, 1);
  }

  #drawBars(ctx: CanvasRenderingContext2D, x: (time: number) => number, middle: number, now: number, since: number): void {
    const room = middle - LANE - 2;
    const bar = 2.5;
    for (let bin = Math.floor(since / BIN_MS); bin * BIN_MS <= now; bin++) {
      const left = x(bin * BIN_MS);
      const up = barHeight(this.#reply.at(bin)) * room;
      const down = barHeight(this.#user.at(bin)) * room;
      if (up > 0.5) {
        ctx.fillStyle = this.#colours.model;
        pill(ctx, left, middle - LANE - up, bar, up);
      }
      if (down > 0.5) {
        ctx.fillStyle = this.#colours.user;
        pill(ctx, left, middle + LANE, bar, down);
      }
    }
  }

  #drawUnit(ctx: CanvasRenderingContext2D, from: number, to: number, middle: number, unit: StripUnit): void {
    const gap = 2;
    const length = to - from - gap;
    if (unit.speaks) {
      ctx.fillStyle = unit.stale ? this.#colours.modelSoft : this.#colours.model;
      pill(ctx, from + gap / 2, middle - 4, length, 8);
    } else {
      ctx.fillStyle = this.#colours.faint;
      pill(ctx, from + gap / 2, middle - 1, length, 2);
    }
    if (unit.missed) {
      ctx.fillStyle = this.#colours.alert;
      pill(ctx, to - 6, middle - 9, 4, 4);
    }
  }

  /** Where the user's voice cut in. */
  #drawMark(ctx: CanvasRenderingContext2D, at: number, middle: number, kind: Mark["kind"]): void {
    ctx.fillStyle = this.#colours.user;
    const top = kind === "flush" ? 4 : middle - LANE - 10;
    pill(ctx, at - 0.75, top, 1.5, middle + LANE - top);
  }
}

function pill(ctx: CanvasRenderingContext2D, x: number, y: number, width: number, height: number): void {
  ctx.beginPath();
  ctx.roundRect(x, y, Math.max(width, 0), height, Math.min(width, height) / 2);
  ctx.fill();
}
