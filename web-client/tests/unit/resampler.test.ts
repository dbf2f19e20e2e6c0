// The resampler: counts, pass band, stop band, alignment, and that pieces of any size give the same samples.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Resampler } from "../../src/audio/resampler";
import { rms } from "../../src/audio/pcm";

function sine(hz: number, rate: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin((2 * Math.PI * hz * i) / rate));
}

function whole(from: number, to: number, input: Float32Array): Float32Array {
  const resampler = new Resampler(from, to);
  const head = resampler.process(input);
  const tail = resampler.flush();
  const out = new Float32Array(head.length + tail.length);
  out.set(head);
  out.set(tail, head.length);
  return out;
}

const RATES = [
  [48000, 24000],
  [44100, 24000],
  [48000, 16000],
  [44100, 16000],
  [16000, 24000],
  [24000, 48000],
  [24000, 44100],
  [96000, 24000],
  [24000, 24000],
] as const;

for (const [from, to] of RATES) {
  test(`${from} to ${to}: as many samples as time has passed`, () => {
    for (const count of [1, 128, 4410, 9999]) {
      const out = whole(from, to, new Float32Array(count));
      assert.equal(out.length, Math.ceil((count * to) / from));
    }
  });

  test(`${from} to ${to}: a tone of the pass band keeps its place and height`, () => {
    const hz = 1000;
    const out = whole(from, to, sine(hz, from, from / 2));
    const want = sine(hz, to, out.length);
    const inner = out.subarray(200, out.length - 200).map((sample, i) => sample - (want[i + 200] as number));
    assert.ok(rms(inner) < 1e-3, `error ${rms(inner)}`);
  });

  test(`${from} to ${to}: any split gives the same samples`, () => {
    const input = sine(700, from, 5000);
    const want = whole(from, to, input);
    const resampler = new Resampler(from, to);
    const got: number[] = [];
    for (let at = 0, step = 1; at < input.length; at += step, step = (step * 7 + 3) % 211) {
      got.push(...resampler.process(input.subarray(at, at + Math.max(step, 1))));
      if (step === 0) step = 1;
    }
    got.push(...resampler.flush());
    assert.equal(got.length, want.length);
    got.forEach((sample, i) => assert.ok(Math.abs(sample - (want[i] as number)) < 1e-6));
  });
}

test("what the lower rate cannot hold is removed, by more than 60 dB", () => {
  for (const [from, to, hz] of [
    [48000, 24000, 14000],
    [48000, 16000, 10000],
    [44100, 16000, 12000],
  ] as const) {
    const out = whole(from, to, sine(hz, from, from / 2));
    assert.ok(rms(out.subarray(500, out.length - 500)) < 1e-3, `${hz} Hz left ${rms(out)}`);
  }
});

test("rates that are none are refused", () => {
  assert.throws(() => new Resampler(0, 24000), /sample rates/);
  assert.throws(() => new Resampler(44100.5, 24000), /sample rates/);
});
