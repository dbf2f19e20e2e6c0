// The jitter buffer: start delay, gaps, the barge-in fence, hold and unhold, fades, play head, capacity.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type BufferEvent, DEFAULT_CONFIG, JitterBuffer } from "../../src/audio/jitter-buffer";

const RATE = 1000; // one sample per ms keeps the numbers readable

function buffer(changes: Partial<typeof DEFAULT_CONFIG> = {}): JitterBuffer {
  return new JitterBuffer({ ...DEFAULT_CONFIG, ...changes, rate: RATE });
}

function tone(ms: number): Float32Array {
  return new Float32Array(ms).fill(0.5);
}

function render(from: JitterBuffer, ms: number): Float32Array {
  const out = new Float32Array(ms);
  from.render(out);
  return out;
}

function names(events: BufferEvent[]): string[] {
  return events.map((event) => (event.type === "silent" ? `silent ${event.cause}` : event.type));
}

test("waits for the start delay, then plays without a break", () => {
  const b = buffer();
  b.push(0, 0, tone(40));
  assert.ok(render(b, 20).every((sample) => sample === 0));
  b.push(0, 40, tone(40));
  const out = render(b, 30);
  assert.ok(out.subarray(5).every((sample) => sample === 0.5));
  assert.deepEqual(names(b.takeEvents()), ["audible"]);
});

test("a short turn starts when it is complete, or after waiting as long as the delay", () => {
  const complete = buffer();
  complete.push(0, 0, tone(30));
  complete.done(0);
  assert.ok(render(complete, 10).some((sample) => sample > 0.4));

  const waiting = buffer();
  waiting.push(0, 0, tone(30));
  render(waiting, 70);
  assert.ok(render(waiting, 10).some((sample) => sample > 0.4));
});

test("the end of a turn is no gap; starving inside one is, and raises the delay", () => {
  const b = buffer();
  b.push(0, 0, tone(100));
  render(b, 150);
  assert.equal(b.status().gaps, 0, "not known yet whether more comes");
  b.push(0, 100, tone(100));
  render(b, 50);
  assert.equal(b.status().gaps, 1);
  assert.ok(b.status().gap_ms >= 45, `${b.status().gap_ms}`);
  assert.ok(b.status().target_ms > DEFAULT_CONFIG.startMs);
  b.done(0);
  render(b, 100);
  b.push(1, 0, tone(100));
  render(b, 100);
  assert.equal(b.status().gaps, 1);
});

test("the raised delay comes back after a calm while, and never exceeds its limit", () => {
  const b = buffer({ maxMs: 120 });
  for (let i = 0; i < 10; i++) {
    b.push(0, i * 130, tone(130));
    render(b, 200);
  }
  assert.equal(b.status().target_ms, 120);
  for (let i = 0; i < 700; i++) {
    b.push(0, 2000 + i * 100, tone(100));
    render(b, 100);
  }
  assert.equal(b.status().target_ms, DEFAULT_CONFIG.startMs);
});

test("a flush fades within 5 ms and nothing of the old turn is heard again", () => {
  const b = buffer();
  b.push(3, 0, tone(500));
  render(b, 100);
  b.takeEvents();
  b.flush(4);
  const out = render(b, 20);
  assert.ok((out[0] as number) > 0 && (out[0] as number) < 0.5);
  assert.ok(out.subarray(5).every((sample) => sample === 0));
  assert.deepEqual(names(b.takeEvents()), ["silent flush"]);
  assert.equal(b.push(3, 500, tone(100)), false);
  assert.ok(render(b, 200).every((sample) => sample === 0));
  assert.equal(b.status().buffered_ms, 0);
  assert.ok(b.status().played_ms <= 106);
});

test("a flush leaves newer turns, which play at once behind the fade", () => {
  const b = buffer();
  b.push(0, 0, tone(200));
  render(b, 50);
  b.push(1, 0, tone(200));
  b.flush(1);
  const out = render(b, 100);
  assert.ok(out[8] === 0 || (out[8] as number) > 0);
  assert.ok(out.subarray(20).every((sample) => sample === 0.5));
  assert.equal(b.status().turn, 1);
});

test("hold stops at once and keeps everything; unhold goes on there", () => {
  const b = buffer();
  b.push(0, 0, tone(500));
  render(b, 100);
  b.hold(0);
  const out = render(b, 300);
  assert.ok(out.subarray(5).every((sample) => sample === 0));
  const kept = b.status();
  assert.ok(kept.held && kept.buffered_ms >= 390);
  b.unhold();
  assert.ok(render(b, 20).some((sample) => sample > 0.4));
  assert.equal(b.status().gaps, 0);
  assert.equal(b.status().played_ms, kept.played_ms + 20);
});

test("a flush ends a hold; a hold of a flushed turn is none", () => {
  const b = buffer();
  b.push(0, 0, tone(500));
  render(b, 100);
  b.hold(0);
  render(b, 10);
  b.flush(1);
  assert.equal(b.status().held, false);
  b.hold(0);
  assert.equal(b.status().held, false);
  b.push(1, 0, tone(200));
  assert.ok(render(b, 100).some((sample) => sample > 0.4));
});

test("the play head is where the server said the audio is", () => {
  const b = buffer();
  b.push(2, 1000, tone(100));
  render(b, 60);
  assert.deepEqual([b.status().turn, b.status().played_ms, b.status().buffered_ms], [2, 1060, 40]);
});

test("no click where sound ends: neighbouring samples never differ by more than a fade step", () => {
  const b = buffer();
  b.push(0, 0, tone(100));
  const parts = [render(b, 40)];
  b.hold(0);
  parts.push(render(b, 30));
  b.unhold();
  parts.push(render(b, 100));
  const all = parts.flatMap((part) => [...part]);
  all.slice(1).forEach((sample, i) => assert.ok(Math.abs(sample - (all[i] as number)) <= 0.1 + 1e-6, `at ${i}`));
});

test("more than the capacity is dropped and counted", () => {
  const b = buffer({ capacityMs: 150 });
  b.push(0, 0, tone(100));
  b.push(0, 100, tone(100));
  assert.equal(b.status().buffered_ms, 100);
  assert.equal(b.status().overflow_ms, 100);
});

test("whatever order of calls: rendered plus buffered never exceeds what was pushed, and no sample is louder", () => {
  let state = 12345;
  const random = (limit: number) => (state = (state * 48271) % 2147483647) % limit;
  const b = buffer();
  let pushed = 0;
  let turn = 0;
  for (let i = 0; i < 20_000; i++) {
    switch (random(8)) {
      case 0:
      case 1: {
        const length = 1 + random(120);
        if (b.push(turn, 0, tone(length))) pushed += length;
        break;
      }
      case 2:
        if (random(6) === 0) b.flush(++turn);
        break;
      case 3:
        b.hold(turn);
        break;
      case 4:
        b.unhold();
        break;
      case 5:
        if (random(4) === 0) b.done(turn++);
        break;
      default: {
        const out = render(b, 1 + random(60));
        assert.ok(out.every((sample) => sample >= 0 && sample <= 0.5));
      }
    }
    const { played_samples, buffered_ms } = b.status();
    assert.ok(played_samples + buffered_ms <= pushed && buffered_ms >= 0);
  }
  assert.ok(b.status().played_samples > 10_000);
});
