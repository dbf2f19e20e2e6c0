/** Measures what passes through it, every 20 ms: the reply's level when WebRTC plays it. */

import { rms } from "../pcm";
import type { MeterMessage } from "./messages";

const FRAME_S = 0.02;
/** -50 dBFS, as in the jitter buffer. */
const AUDIBLE = 0.003;

class Meter extends AudioWorkletProcessor {
  #frame = new Float32Array(Math.round(sampleRate * FRAME_S));
  #at = 0;
  #first: number | null = null;
  #last: number | null = null;

  process(inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const input = inputs[0]?.[0];
    for (const channel of outputs[0] ?? []) if (input) channel.set(input);
    const length = input?.length ?? outputs[0]?.[0]?.length ?? 0;
    for (let i = 0; i < length; i++) {
      const sample = input?.[i] ?? 0;
      if (Math.abs(sample) > AUDIBLE) {
        const time = (currentTime + i / sampleRate) * 1000;
        this.#first ??= time;
        this.#last = time;
      }
      this.#frame[this.#at++] = sample;
      if (this.#at === this.#frame.length) this.#flushFrame();
    }
    return true;
  }

  #flushFrame(): void {
    const message: MeterMessage = {
      type: "level",
      rms: rms(this.#frame),
      time: currentTime * 1000,
      first: this.#first,
      last: this.#last,
    };
    this.port.postMessage(message);
    this.#at = 0;
    this.#first = null;
    this.#last = null;
  }
}

registerProcessor("duologue-meter", Meter);
