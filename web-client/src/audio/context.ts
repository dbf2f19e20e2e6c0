/** The page's one audio context and where it is heard. */

import { ProblemError, problem } from "../errors";

interface SinkContext extends AudioContext {
  setSinkId?(id: string): Promise<void>;
}

/**
 * Owns the audio context. Its sound goes to the default speaker, or to a chosen one: by the context itself where the
 * browser can (Chromium), else through an audio element (Firefox).
 */
export class AudioOutput {
  readonly context: SinkContext;
  /** Connect here what shall be heard. */
  readonly destination: GainNode;
  #element: HTMLAudioElement | null = null;

  private constructor(context: SinkContext) {
    this.context = context;
    this.destination = context.createGain();
    this.destination.connect(context.destination);
  }

  /** Must run inside a user's gesture: phones start audio only then. */
  static async open(): Promise<AudioOutput> {
    if (typeof AudioContext === "undefined" || typeof AudioWorkletNode === "undefined") {
      throw new ProblemError(problem(window.isSecureContext ? "unsupported_browser" : "insecure_context"));
    }
    const context = new AudioContext({ latencyHint: "interactive" });
    const output = new AudioOutput(context);
    await context.resume();
    await Promise.all(
      ["capture", "playback", "meter"].map((name) => context.audioWorklet.addModule(`/assets/${name}.worklet.js`)),
    );
    return output;
  }

  /** Whether a speaker can be chosen at all. */
  static canChoose(): boolean {
    return "setSinkId" in AudioContext.prototype || "setSinkId" in HTMLMediaElement.prototype;
  }

  /** Plays on the speaker of this device id; "" is the default one. */
  async choose(deviceId: string): Promise<void> {
    if (this.context.setSinkId) return this.context.setSinkId(deviceId);
    if (deviceId === "" && !this.#element) return;
    if (!this.#element) {
      const stream = this.context.createMediaStreamDestination();
      this.destination.disconnect();
      this.destination.connect(stream);
      this.#element = new Audio();
      this.#element.srcObject = stream.stream;
      await this.#element.play();
    }
    await this.#element.setSinkId(deviceId);
  }

  /** Time between a sample leaving the page and being heard, in ms. */
  get latencyMs(): number {
    return (this.context.outputLatency || this.context.baseLatency || 0) * 1000;
  }

  /** The audio clock, in ms. */
  get now(): number {
    return this.context.currentTime * 1000;
  }

  /** A moment of the audio clock on the page's clock (`performance.now`), however late the message about it came. */
  toPage(time: number): number {
    return performance.now() - (this.now - time);
  }

  async close(): Promise<void> {
    this.#element?.pause();
    await this.context.close();
  }
}
