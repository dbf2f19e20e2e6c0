/**
 * The player for WebRTC: the browser's own jitter buffer plays; this can only open and close the sound.
 *
 * After a flush it stays closed until a turn that may be heard begins; the server has stopped sending by then, so
 * what is cut off is what still travelled.
 */

import type { AudioOutput } from "./context";
import { NO_HANDLERS, type Player, type PlayerStatus } from "./player";
import type { MeterMessage } from "./worklets/messages";

/** Closing and opening take this long, against clicks. */
const FADE_S = 0.005;
/** A turn that was silent this long is over for the ear. */
const QUIET_MS = 150;

export class StreamPlayer implements Player {
  handlers = NO_HANDLERS;
  readonly #output: AudioOutput;
  readonly #gate: GainNode;
  readonly #meter: AudioWorkletNode;
  readonly #element = new Audio();
  #source: MediaStreamAudioSourceNode | null = null;
  #turn: number | null = null;
  #fence = Number.NEGATIVE_INFINITY;
  #held = false;
  #done = true;
  #audible = false;
  /** The turn whose first sound was told. */
  #announced: number | null = null;
  #closedBy: "flush" | "hold" | null = null;
  #lastSound = 0;
  #turnSamples = 0;
  #playedSamples = 0;

  constructor(output: AudioOutput) {
    this.#output = output;
    this.#gate = output.context.createGain();
    this.#meter = new AudioWorkletNode(output.context, "duologue-meter", { outputChannelCount: [1] });
    this.#gate.connect(this.#meter).connect(output.destination);
    this.#meter.port.onmessage = ({ data }: MessageEvent<MeterMessage>) => this.#level(data);
    this.#element.muted = true; // heard through the gate; the element only makes the browser decode the stream
  }

  /** Plays the server's track. */
  attach(stream: MediaStream): void {
    this.#source?.disconnect();
    this.#source = this.#output.context.createMediaStreamSource(stream);
    this.#source.connect(this.#gate);
    this.#element.srcObject = stream;
    void this.#element.play();
  }

  begin(turn: number): void {
    if (turn < this.#fence || turn === this.#turn) return;
    this.#turn = turn;
    this.#turnSamples = 0;
    this.#done = false;
    this.#audible = false;
    this.#held = false;
    this.#closedBy = null;
    this.#open();
  }

  /** Audio comes as a track. */
  push(): void {}

  done(turn: number): void {
    if (turn === this.#turn) this.#done = true;
  }

  flush(turn: number): void {
    this.#fence = Math.max(this.#fence, turn);
    if (this.#turn === null || this.#turn >= this.#fence) return;
    this.#done = true;
    this.#close("flush");
  }

  hold(turn: number): void {
    if (turn < this.#fence || this.#held) return;
    this.#held = true;
    this.#close("hold");
  }

  unhold(): void {
    if (!this.#held) return;
    this.#held = false;
    if (this.#turn === null || this.#turn < this.#fence) return;
    this.#closedBy = null;
    this.#open();
  }

  status(): PlayerStatus {
    return {
      turn: this.#turn,
      played_ms: (this.#turnSamples * 1000) / this.#output.context.sampleRate,
      buffered_ms: 0,
      gaps: 0,
      played_samples: this.#playedSamples,
      playing: this.#audible,
    };
  }

  close(): void {
    this.#meter.port.onmessage = null;
    this.#source?.disconnect();
    this.#meter.disconnect();
    this.#element.srcObject = null;
  }

  #open(): void {
    const now = this.#output.context.currentTime;
    this.#gate.gain.cancelScheduledValues(now);
    this.#gate.gain.setTargetAtTime(1, now, FADE_S / 3);
  }

  #close(cause: "flush" | "hold"): void {
    const now = this.#output.context.currentTime;
    this.#gate.gain.cancelScheduledValues(now);
    this.#gate.gain.setValueAtTime(this.#gate.gain.value, now);
    this.#gate.gain.linearRampToValueAtTime(0, now + FADE_S);
    this.#closedBy = cause;
  }

  /** 20 ms of what is heard: finds where a turn becomes audible and where it ends. */
  #level({ rms, time, first, last }: MeterMessage): void {
    this.handlers.level(rms, this.#output.toPage(time));
    const turn = this.#turn;
    if (turn === null) return;
    const latency = this.#output.latencyMs;
    if (first !== null && last !== null) {
      this.#lastSound = last;
      this.#audible = true;
      if (this.#announced !== turn) {
        this.#announced = turn;
        this.handlers.event({ type: "audible", turn, at: first + latency });
      }
    }
    if (this.#audible) {
      const samples = Math.round(0.02 * this.#output.context.sampleRate);
      this.#turnSamples += samples;
      this.#playedSamples += samples;
    }
    const closed = this.#closedBy !== null && first === null;
    if (this.#audible && (closed || (this.#done && time - this.#lastSound > QUIET_MS))) {
      this.#audible = false;
      this.handlers.event({ type: "silent", turn, at: this.#lastSound + latency, cause: this.#closedBy ?? "end" });
    }
  }
}
