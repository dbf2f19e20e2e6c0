// The replay page's reading of a timeline, and its time axis.
import assert from "node:assert/strict";
import { test } from "node:test";
import { readTimeline } from "../../src/protocol/rest";
import { Window, readReplay, tickMs, timeText } from "../../src/replay/model";
import { recording } from "../mock/recording.mjs";

const replay = readReplay(readTimeline(recording("rec_1").timeline));

test("turns have their words, their ends and what cut them", () => {
  assert.equal(replay.turns.length, 4);
  assert.deepEqual(replay.turns.map(({ interrupted }) => interrupted), [false, true, false, false]);
  assert.match(replay.turns[0]?.text ?? "", /^I hear you\..*like\.$/);
  assert.deepEqual([replay.turns[1]?.startMs, replay.turns[1]?.endMs], [10_200, 13_500]);
  assert.deepEqual(replay.flushes, [13_500]);
});

test("units follow each other on the axis, voices are spans", () => {
  assert.equal(replay.units.length, 34);
  replay.units.forEach(({ startMs, endMs }, i) => assert.deepEqual([startMs, endMs], [i * 1000, (i + 1) * 1000]));
  assert.deepEqual(replay.voices[0], { kind: "user", startMs: 1200, endMs: 3700 });
});

test("the window stays inside, zooms around a moment and follows the play head", () => {
  const window = new Window(100_000);
  window.zoom(4, 50_000);
  assert.deepEqual([window.startMs, window.spanMs], [37_500, 25_000]);
  window.moveTo(-5);
  assert.equal(window.startMs, 0);
  window.follow(30_000);
  assert.equal(window.startMs, 28_000);
  window.follow(99_999);
  assert.equal(window.startMs, 75_000);
  window.zoom(0.001, 0);
  assert.deepEqual([window.startMs, window.spanMs], [0, 100_000]);
});

test("times and ticks", () => {
  assert.deepEqual([timeText(61_999), timeText(0), timeText(5250, true)], ["1:01", "0:00", "0:05.2"]);
  assert.deepEqual([tickMs(30, 64), tickMs(1000, 64)], [2000, 120_000]);
});
