/** RIFF WAVE files with 16-bit PCM: writing (voice upload) and reading (replay). */

export interface Wav {
  rate: number;
  channels: number;
  /** Samples of all channels in turn. */
  samples: Int16Array;
}

const HEADER_BYTES = 44;

/** A mono 16-bit wav file. */
export function encodeWav(samples: Int16Array, rate: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + samples.length * 2);
  const view = new DataView(bytes.buffer);
  const text = (at: number, word: string) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, bytes.length - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, samples.length * 2, true);
  samples.forEach((sample, i) => view.setInt16(HEADER_BYTES + 2 * i, sample, true));
  return bytes;
}

/** Reads a 16-bit PCM wav. Throws with what is wrong when the file is something else. */
export function decodeWav(bytes: Uint8Array): Wav {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at: number) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (bytes.length < HEADER_BYTES || text(0) !== "RIFF" || text(8) !== "WAVE") throw new Error("not a wav file");
  let rate = 0;
  let count = 0;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    const body = at + 8;
    if (text(at) === "fmt " && body + 16 <= bytes.length) {
      const bits = view.getUint16(body + 14, true);
      if (bits !== 16) throw new Error(`a wav of ${bits} bits per sample; 16 are wanted`);
      count = view.getUint16(body + 2, true);
      rate = view.getUint32(body + 4, true);
    } else if (text(at) === "data") {
      if (count === 0 || rate === 0) throw new Error("a wav without a format before its data");
      // A file that was cut while being written states more than it holds.
      const frames = Math.floor(Math.min(size, bytes.length - body) / (2 * count));
      const samples = new Int16Array(frames * count);
      for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(body + 2 * i, true);
      return { rate, channels: count, samples };
    }
    at = body + size + (size % 2);
  }
  throw new Error("a wav without data");
}

/** Largest level (0..1) of one channel in each `binMs`, for drawing. */
export function peaks({ rate, channels, samples }: Wav, channel: number, binMs: number): Float32Array {
  const frames = samples.length / channels;
  const perBin = Math.max(1, Math.round((rate * binMs) / 1000));
  const out = new Float32Array(Math.ceil(frames / perBin));
  for (let frame = 0; frame < frames; frame++) {
    const bin = Math.floor(frame / perBin);
    const level = Math.abs(samples[frame * channels + channel] as number) / 32768;
    if (level > (out[bin] as number)) out[bin] = level;
  }
  return out;
}
