/**
 * The microphone's audio thread: level of every 20 ms, and, for the WebSocket, 20 ms packets of 16-bit samples
 * at the wire's rate. Muted packets are silence, so that the server's clock goes on.
 */

import { rms, toInt16 } from "../pcm";
import { Resampler } from "../resampler";
import type { CaptureCommand, CaptureMessage } from "./messages";

const FRAME_S = 0.02;

class Capture extends AudioWorkletProcessor {
  #resampler: Resampler | null = null;
  #muted = false;
  #level = new Float32Array(Math.round(sampleRate * FRAME_S));
  #levelAt = 0;
  #packet = new Float32Array(0);
  #packetAt = 0;

  constructor(options: AudioWorkletNodeOptions) {
    super(options);
    this.port.onmessage = ({ data }: MessageEvent<CaptureCommand>) => {
      if (data.type === "mute") {
        this.#muted = data.muted;
        return;
      }
      this.#resampler = data.rate === null ? null : new Resampler(sampleRate, data.rate);
      this.#packet = new Float32Array(Math.round((data.rate ?? 0) * FRAME_S));
      this.#packetAt = 0;
    };
  }

  process(inputs: Float32Array[][]): boolean {
    const input = inputs[0]?.[0];
    if (!input) return true; // no microphone connected at the moment
    this.#measure(input);
    if (this.#resampler) this.#fill(this.#resampler.process(this.#muted ? new Float32Array(input.length) : input));
    return true;
  }

  #measure(input: Float32Array): void {
    for (const sample of input) {
      this.#level[this.#levelAt++] = sample;
      if (this.#levelAt === this.#level.length) {
        this.#levelAt = 0;
        this.#send({ type: "level", rms: this.#muted ? 0 : rms(this.#level), time: currentTime * 1000 });
      }
    }
  }

  #fill(samples: Float32Array): void {
    for (const sample of samples) {
      this.#packet[this.#packetAt++] = sample;
      if (this.#packetAt === this.#packet.length) {
        this.#packetAt = 0;
        const packet = toInt16(this.#packet);
        this.#send({ type: "packet", samples: packet }, [packet.buffer]);
      }
    }
  }

  #send(message: CaptureMessage, transfer: Transferable[] = []): void {
    this.port.postMessage(message, transfer);
  }
}

registerProcessor("duologue-capture", Capture);
