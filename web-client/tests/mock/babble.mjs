// Sound that looks and is paced like speech: voiced syllables with pauses between words. Not meant to be understood.

/** 16-bit samples of `seconds` at `rate`; `pitch` in Hz. The same arguments give the same samples. */
export function babble(seconds, rate, pitch, seed = 1) {
  const out = new Int16Array(Math.round(seconds * rate));
  let state = seed;
  const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
  let phase = 0;
  for (let at = 0; at < out.length; ) {
    const length = Math.round((0.11 + 0.16 * random()) * rate);
    const loud = 0.1 + 0.2 * random();
    const formants = [300 + 500 * random(), 900 + 1300 * random()];
    const tone = pitch * (0.9 + 0.25 * random());
    for (let i = 0; i < length && at + i < out.length; i++) {
      phase += tone / rate;
      let sample = 0;
      for (let h = 1; h < 24; h++) {
        const hz = h * tone;
        const gain = formants.reduce((sum, f) => sum + Math.exp(-(((hz - f) / 160) ** 2)), 0.02);
        sample += (gain * Math.sin(2 * Math.PI * h * phase)) / 2;
      }
      out[at + i] = 32767 * Math.max(-1, Math.min(1, loud * sample * Math.sin((Math.PI * i) / length) ** 0.6));
    }
    at += length + Math.round((random() < 0.25 ? 0.05 + 0.12 * random() : 0.01) * rate);
  }
  return out;
}

/** A 16-bit wav of any number of channels. */
export function wav(channels, rate) {
  const frames = Math.max(...channels.map((channel) => channel.length));
  const data = Buffer.alloc(44 + frames * 2 * channels.length);
  data.write("RIFF", 0);
  data.writeUInt32LE(data.length - 8, 4);
  data.write("WAVEfmt ", 8);
  data.writeUInt32LE(16, 16);
  data.writeUInt16LE(1, 20);
  data.writeUInt16LE(channels.length, 22);
  data.writeUInt32LE(rate, 24);
  data.writeUInt32LE(rate * 2 * channels.length, 28);
  data.writeUInt16LE(2 * channels.length, 32);
  data.writeUInt16LE(16, 34);
  data.write("data", 36);
  data.writeUInt32LE(data.length - 44, 40);
  channels.forEach((channel, c) => {
    channel.forEach((sample, i) => data.writeInt16LE(sample, 44 + 2 * (i * channels.length + c)));
  });
  return data;
}
