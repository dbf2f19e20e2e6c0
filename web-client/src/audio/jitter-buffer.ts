/**
 * What plays and when: a queue of reply audio fenced by turns.
 *
 * Owns: the start delay that rides out uneven arrival, its adaptation, gap counting, the 5 ms fades, and the
 * barge-in fence (audio of a turn below the fence is never heard again). Pure: the audio thread calls `render`,
 * tests call it with a fake clock of samples. Must not know sockets or the audio API.
 */

export interface JitterBufferConfig {
  /** Rate of the samples pushed and rendered. */
  rate: number;
  /** Audio that must wait before a turn starts; also the lowest adapted delay. */
  startMs: number;
  /** The highest adapted delay. */
  maxMs: number;
  /** Length of a fade in or out. */
  fadeMs: number;
  /** More than this is never kept: what arrives beyond it is dropped and counted. */
  capacityMs: number;
}

export const DEFAULT_CONFIG: Omit<JitterBufferConfig, "rate"> = {
  startMs: 70,
  maxMs: 300,
  fadeMs: 5,
  capacityMs: 60_000,
};

/** What happened inside `render`, `flush` and `hold`; the caller stamps it with the time. */
export type BufferEvent =
  /** The first sample of a turn above the hearing threshold was rendered. */
  | { type: "audible"; turn: number }
  /** Playback went on after starving inside a turn. */
  | { type: "gap"; turn: number; ms: number }
  /** The last sample before silence was rendered. */
  | { type: "silent"; turn: number; cause: "end" | "flush" | "hold" | "starved" };

export interface BufferStatus {
  /** Turn at the play head, null before the first. */
  turn: number | null;
  /** How much of that turn was heard. */
  played_ms: number;
  buffered_ms: number;
  /** The adapted start delay. */
  target_ms: number;
  gaps: number;
  gap_ms: number;
  /** Audio dropped because the buffer was full. */
  overflow_ms: number;
  /** Samples rendered from replies since the start. */
  played_samples: number;
  playing: boolean;
  held: boolean;
}

interface Segment {
  turn: number;
  startMs: number;
  samples: Float32Array;
  offset: number;
}

/** -50 dBFS: quieter is not heard as speech. */
const AUDIBLE = 0.003;
/** Delay added by a gap, and taken back after a while without one. */
const GAP_STEP_MS = 25;
const RELAX_STEP_MS = 10;
const RELAX_AFTER_MS = 10_000;

export class JitterBuffer {
  readonly #config: JitterBufferConfig;
  #segments: Segment[] = [];
  #buffered = 0;
  #fence = Number.NEGATIVE_INFINITY;
  #done = Number.NEGATIVE_INFINITY;
  #held: number | null = null;
  #playing = false;
  /** Samples rendered since the queue began to fill. */
  #waited = 0;
  #turn: number | null = null;
  #playedMs = 0;
  #audibleTurn: number | null = null;
  #starvedTurn: number | null = null;
  #starved = 0;
  #targetMs: number;
  #calm = 0;
  #gaps = 0;
  #gapSamples = 0;
  #overflow = 0;
  #played = 0;
  #fadeIn = 0;
  #lastSample = 0;
  /** A fade-out being rendered, and what it leads to. */
  #tail: { samples: Float32Array; offset: number; turn: number; cause: "flush" | "hold" | "starved" | "end" } | null = null;
  #events: BufferEvent[] = [];

  constructor(config: JitterBufferConfig) {
    this.#config = config;
    this.#targetMs = config.startMs;
  }

  /** Queues audio of a turn; `startMs` is its place within the turn. False when the turn was flushed before. */
  push(turn: number, startMs: number, samples: Float32Array): boolean {
    if (turn < this.#fence) return false;
    if (this.#buffered + samples.length > this.#samples(this.#config.capacityMs)) {
      this.#overflow += samples.length;
      return true;
    }
    this.#segments.push({ turn, startMs, samples, offset: 0 });
    this.#buffered += samples.length;
    return true;
  }

  /** The turn's audio is complete: an empty queue is its end, not a gap. */
  done(turn: number): void {
    this.#done = Math.max(this.#done, turn);
    if (this.#starvedTurn !== null && this.#starvedTurn <= turn) this.#starvedTurn = null;
  }

  /** Drops everything of turns below `turn`, now and later; what is being heard fades out. */
  flush(turn: number): void {
    this.#fence = Math.max(this.#fence, turn);
    const head = this.#segments[0];
    if (this.#playing && head && head.turn < this.#fence) this.#fadeOut("flush");
    this.#segments = this.#segments.filter((segment) => segment.turn >= this.#fence);
    this.#buffered = this.#segments.reduce((sum, segment) => sum + segment.samples.length - segment.offset, 0);
    if (this.#held !== null && this.#held < this.#fence) this.#held = null;
    if (this.#starvedTurn !== null && this.#starvedTurn < this.#fence) this.#starvedTurn = null;
  }

  /** Pauses at once and keeps the queue. */
  hold(turn: number): void {
    if (turn < this.#fence || this.#held !== null) return;
    this.#held = turn;
    if (this.#playing) this.#fadeOut("hold");
  }

  /** Goes on where `hold` stopped. */
  unhold(): void {
    this.#held = null;
  }

  /** Fills `out` (mono) with what is to be heard next. */
  render(out: Float32Array): void {
    out.fill(0);
    let at = this.#renderTail(out);
    while (at < out.length) {
      if (this.#held !== null) return;
      if (!this.#playing && !this.#mayStart(out.length - at)) return;
      const head = this.#segments[0];
      if (!head) {
        this.#starve();
        at += this.#renderTail(out.subarray(at));
        continue;
      }
      at += this.#renderSegment(head, out.subarray(at));
    }
  }

  /** What happened since the last call. */
  takeEvents(): BufferEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  status(): BufferStatus {
    return {
      turn: this.#turn,
      played_ms: this.#playedMs,
      buffered_ms: this.#ms(this.#buffered),
      target_ms: this.#targetMs,
      gaps: this.#gaps,
      gap_ms: this.#ms(this.#gapSamples),
      overflow_ms: this.#ms(this.#overflow),
      played_samples: this.#played,
      playing: this.#playing,
      held: this.#held !== null,
    };
  }

  /** Decides whether enough waits; counts the waiting. */
  #mayStart(samples: number): boolean {
    const head = this.#segments[0];
    if (!head) {
      this.#starved += this.#starvedTurn === null ? 0 : samples;
      return false;
    }
    const target = this.#samples(this.#targetMs);
    const complete = head.turn <= this.#done;
    if (this.#buffered < target && this.#waited < target && !complete) {
      this.#waited += samples;
      this.#starved += this.#starvedTurn === null ? 0 : samples;
      return false;
    }
    if (this.#starvedTurn === head.turn) {
      this.#gaps += 1;
      this.#gapSamples += this.#starved;
      this.#targetMs = Math.min(this.#config.maxMs, this.#targetMs + GAP_STEP_MS);
      this.#calm = 0;
      this.#events.push({ type: "gap", turn: head.turn, ms: this.#ms(this.#starved) });
    }
    this.#starvedTurn = null;
    this.#waited = 0;
    this.#playing = true;
    this.#fadeIn = this.#samples(this.#config.fadeMs);
    return true;
  }

  #renderSegment(head: Segment, out: Float32Array): number {
    const count = Math.min(out.length, head.samples.length - head.offset);
    const fade = this.#samples(this.#config.fadeMs);
    for (let i = 0; i < count; i++) {
      let sample = head.samples[head.offset + i] as number;
      if (this.#fadeIn > 0) sample *= 1 - this.#fadeIn-- / fade;
      out[i] = sample;
      if (this.#audibleTurn !== head.turn && Math.abs(sample) > AUDIBLE) {
        this.#audibleTurn = head.turn;
        this.#events.push({ type: "audible", turn: head.turn });
      }
    }
    this.#lastSample = out[count - 1] ?? this.#lastSample;
    this.#advance(head, count);
    return count;
  }

  #advance(head: Segment, count: number): void {
    head.offset += count;
    this.#buffered -= count;
    this.#played += count;
    this.#turn = head.turn;
    this.#playedMs = head.startMs + this.#ms(head.offset);
    this.#calm += count;
    if (this.#calm > this.#samples(RELAX_AFTER_MS)) {
      this.#calm = 0;
      this.#targetMs = Math.max(this.#config.startMs, this.#targetMs - RELAX_STEP_MS);
    }
    if (head.offset >= head.samples.length) this.#segments.shift();
  }

  /** The queue ran empty while playing: the end of a turn, or a gap if the turn goes on later. */
  #starve(): void {
    const turn = this.#turn ?? 0;
    const ended = turn <= this.#done;
    this.#playing = false;
    this.#waited = 0;
    this.#starved = 0;
    this.#starvedTurn = ended ? null : turn;
    const samples = new Float32Array(this.#samples(this.#config.fadeMs)).fill(this.#lastSample);
    this.#setTail(samples, turn, ended ? "end" : "starved");
  }

  /** Takes the next few milliseconds out of the queue as a fade to silence. */
  #fadeOut(cause: "flush" | "hold"): void {
    const samples = new Float32Array(this.#samples(this.#config.fadeMs));
    let at = 0;
    let turn = this.#turn ?? 0;
    while (at < samples.length) {
      const head = this.#segments[0];
      if (!head || (cause === "flush" && head.turn >= this.#fence)) break;
      const part = head.samples.subarray(head.offset, head.offset + samples.length - at);
      samples.set(part, at);
      at += part.length;
      turn = head.turn;
      this.#lastSample = part[part.length - 1] ?? this.#lastSample;
      this.#advance(head, part.length);
    }
    samples.fill(this.#lastSample, at);
    this.#playing = false;
    // What a hold kept may go on at once; a turn after a flush fills up like any other.
    this.#waited = cause === "hold" ? this.#samples(this.#targetMs) : 0;
    this.#setTail(samples, turn, cause);
  }

  #setTail(samples: Float32Array, turn: number, cause: "flush" | "hold" | "starved" | "end"): void {
    samples.forEach((sample, i) => (samples[i] = sample * (1 - (i + 1) / samples.length)));
    this.#tail = { samples, offset: 0, turn, cause };
  }

  #renderTail(out: Float32Array): number {
    const tail = this.#tail;
    if (!tail) return 0;
    const part = tail.samples.subarray(tail.offset, tail.offset + out.length);
    out.set(part);
    tail.offset += part.length;
    if (tail.offset >= tail.samples.length) {
      this.#tail = null;
      this.#events.push({ type: "silent", turn: tail.turn, cause: tail.cause });
    }
    return part.length;
  }

  #samples(ms: number): number {
    return Math.round((ms * this.#config.rate) / 1000);
  }

  #ms(samples: number): number {
    return (samples * 1000) / this.#config.rate;
  }
}
