/** A recording the user chose as the reply's voice: any file the browser can decode becomes a short mono wav. */

import { encodeBase64, toInt16 } from "./audio/pcm";
import { encodeWav } from "./audio/wav";
import { ProblemError, problem } from "./errors";

/** Rate of the wav sent: that of the speaker encoder and the prompt mel of Token2Wav is at most this. */
const RATE = 24_000;
/** Limits of the server (proto/LIVE.md, voice_reference). */
const SHORTEST_S = 0.5;
const LONGEST_S = 16.9;

export interface VoiceReference {
  name: string;
  seconds: number;
  /** The file was longer and only its beginning is used. */
  cut: boolean;
  /** Base64 of the wav. */
  wav: string;
}

/** Throws `ProblemError` when the file is no usable voice. */
export async function readVoice(file: File, maxBytes: number): Promise<VoiceReference> {
  const decoder = new OfflineAudioContext(1, 1, RATE);
  let audio: AudioBuffer;
  try {
    audio = await decoder.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new ProblemError(problem("bad_voice", `The browser cannot read ${file.name} as audio.`));
  }
  if (audio.duration < SHORTEST_S) throw new ProblemError(problem("bad_voice"));
  const samples = mono(audio).subarray(0, Math.floor(LONGEST_S * RATE));
  const wav = encodeWav(toInt16(samples), RATE);
  if (wav.length > maxBytes) {
    throw new ProblemError(problem("bad_voice", "The server takes only shorter recordings."));
  }
  return { name: file.name, seconds: samples.length / RATE, cut: audio.duration > LONGEST_S, wav: encodeBase64(wav) };
}

/** The mean of the channels. */
function mono(audio: AudioBuffer): Float32Array {
  const mixed = new Float32Array(audio.length);
  for (let c = 0; c < audio.numberOfChannels; c++) {
    audio.getChannelData(c).forEach((sample, i) => (mixed[i] = (mixed[i] as number) + sample / audio.numberOfChannels));
  }
  return mixed;
}
