// The global names of an audio thread (https://webaudio.github.io/web-audio-api/#AudioWorkletGlobalScope).
// TypeScript's DOM library does not know them.

declare abstract class AudioWorkletProcessor {
  readonly port: MessagePort;
  constructor(options?: AudioWorkletNodeOptions);
  abstract process(inputs: Float32Array[][], outputs: Float32Array[][], parameters: Record<string, Float32Array>): boolean;
}

declare function registerProcessor(
  name: string,
  processor: new (options: AudioWorkletNodeOptions) => AudioWorkletProcessor,
): void;

/** Rate of the audio context. */
declare const sampleRate: number;
/** Time of the block being rendered, in seconds. */
declare const currentTime: number;
