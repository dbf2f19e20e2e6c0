/** Conversions between the samples of audio threads (float, -1..1) and those of the wire (s16le, base64). */

/** Float samples to 16-bit, rounded and clipped. */
export function toInt16(samples: Float32Array): Int16Array {
  const out = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    out[i] = Math.max(-32768, Math.min(32767, Math.round((samples[i] as number) * 32768)));
  }
  return out;
}

/** 16-bit samples to float. */
export function toFloat32(samples: Int16Array): Float32Array {
  const out = new Float32Array(samples.length);
  for (let i = 0; i < samples.length; i++) out[i] = (samples[i] as number) / 32768;
  return out;
}

/** 16-bit samples as base64 of little-endian bytes. */
export function encodePcm(samples: Int16Array): string {
  const bytes = new Uint8Array(samples.length * 2);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < samples.length; i++) view.setInt16(2 * i, samples[i] as number, true);
  return encodeBase64(bytes);
}

/** Base64 of little-endian bytes to 16-bit samples. Throws on an odd byte count and on text that is not base64. */
export function decodePcm(text: string): Int16Array {
  const binary = atob(text);
  if (binary.length % 2 !== 0) throw new RangeError(`${binary.length} bytes are no whole number of 16-bit samples`);
  const out = new Int16Array(binary.length / 2);
  for (let i = 0; i < out.length; i++) {
    out[i] = binary.charCodeAt(2 * i) | (binary.charCodeAt(2 * i + 1) << 8);
  }
  return out;
}

/** Bytes as base64. */
export function encodeBase64(bytes: Uint8Array): string {
  const step = 0x8000; // fromCharCode takes its input as arguments, of which there is a limit
  let binary = "";
  for (let i = 0; i < bytes.length; i += step) binary += String.fromCharCode(...bytes.subarray(i, i + step));
  return btoa(binary);
}

/** Root mean square of some samples; 0 for none. */
export function rms(samples: Float32Array): number {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return samples.length === 0 ? 0 : Math.sqrt(sum / samples.length);
}

/** Level in dB relative to full scale, never below -100. */
export function decibel(level: number): number {
  return Math.max(-100, 20 * Math.log10(Math.max(level, 1e-9)));
}
