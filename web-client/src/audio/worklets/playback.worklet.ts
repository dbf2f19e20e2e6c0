/** The reply's audio thread: resamples what arrives to the context's rate and plays it through the jitter buffer. */

import { DEFAULT_CONFIG, JitterBuffer } from "../jitter-buffer";
import { rms } from "../pcm";
import { Resampler } from "../resampler";
import type { PlaybackCommand, PlaybackMessage } from "./messages";

/** Level and status are reported this often. */
const REPORT_S = 0.02;

class Playback extends AudioWorkletProcessor {
  readonly #buffer = new JitterBuffer({ ...DEFAULT_CONFIG, rate: sampleRate });
  #resampler: Resampler | null = null;
  #turn: number | null = null;
  /** Where the turn's next resampled piece belongs. */
  #endMs = 0;
  #report = new Float32Array(Math.round(sampleRate * REPORT_S));
  #reportAt = 0;

  constructor(options: AudioWorkletNodeOptions) {
    super(options);
    this.port.onmessage = ({ data }: MessageEvent<PlaybackCommand>) => this.#command(data);
  }

  #command(command: PlaybackCommand): void {
    switch (command.type) {
      case "push":
        return this.#push(command.turn, command.start_ms, command.rate, command.samples);
      case "done":
        if (command.turn === this.#turn && this.#resampler) {
          this.#buffer.push(command.turn, this.#endMs, this.#resampler.flush());
          this.#turn = null;
        }
        return this.#buffer.done(command.turn);
      case "flush":
        return this.#buffer.flush(command.turn);
      case "hold":
        return this.#buffer.hold(command.turn);
      case "unhold":
        return this.#buffer.unhold();
    }
  }

  #push(turn: number, startMs: number, rate: number, samples: Float32Array): void {
    if (this.#resampler?.inputRate !== rate) this.#resampler = new Resampler(rate, sampleRate);
    if (turn !== this.#turn) {
      this.#resampler.reset();
      this.#turn = turn;
    }
    const ready = this.#resampler.process(samples);
    this.#endMs = startMs + (samples.length * 1000) / rate;
    if (ready.length > 0) this.#buffer.push(turn, this.#endMs - (ready.length * 1000) / sampleRate, ready);
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const [left, ...others] = outputs[0] ?? [];
    if (!left) return true;
    this.#buffer.render(left);
    for (const channel of others) channel.set(left);
    const time = currentTime * 1000;
    for (const event of this.#buffer.takeEvents()) this.#send({ type: "event", event, time });
    for (const sample of left) {
      this.#report[this.#reportAt++] = sample;
      if (this.#reportAt === this.#report.length) {
        this.#reportAt = 0;
        this.#send({ type: "level", rms: rms(this.#report), time, status: this.#buffer.status() });
      }
    }
    return true;
  }

  #send(message: PlaybackMessage): void {
    this.port.postMessage(message);
  }
}

registerProcessor("duologue-playback", Playback);
