// The small rules: voice tracking, latency figures, reconnect waits, captions, settings, errors, wav files, levels.
import assert from "node:assert/strict";
import { test } from "node:test";
import { decibel, decodePcm, encodePcm, toFloat32, toInt16 } from "../../src/audio/pcm";
import { type VoiceSpan, VoiceTracker } from "../../src/audio/voice";
import { decodeWav, encodeWav, peaks } from "../../src/audio/wav";
import { Captions, heard } from "../../src/captions";
import { fromClose, fromServerCode, fromThrown } from "../../src/errors";
import { Interruptions } from "../../src/interruptions";
import { ArrivalJitter, LatencyMeter, Series } from "../../src/latency";
import { HttpError } from "../../src/protocol/rest";
import { Reconnect } from "../../src/reconnect";
import { SessionClock } from "../../src/session-clock";
import { DEFAULTS, fromAddress, kindsToTry, load, save } from "../../src/settings";
import { BIN_MS, LevelTrack, barHeight } from "../../src/ui/levels";

test("voice: starts at its first voiced frame, ends after a pause, a click is none", () => {
  const tracker = new VoiceTracker();
  let at = 0;
  const frames = (count: number, db: number) => {
    for (let i = 0; i < count; i++) tracker.push(db, (at += 20));
  };
  const latest = () => tracker.latest;
  frames(50, -70);
  frames(1, -20);
  frames(30, -70);
  assert.equal(latest(), null);
  const begin = at;
  frames(25, -25);
  assert.equal(tracker.speaking, true);
  assert.equal(latest()?.start, begin);
  frames(10, -70);
  assert.equal(tracker.speaking, true, "a short pause is part of it");
  frames(15, -70);
  assert.deepEqual([tracker.speaking, latest()?.end], [false, begin + 500]);
});

test("voice: steady noise becomes the floor", () => {
  const tracker = new VoiceTracker();
  for (let at = 0; at < 20_000; at += 20) tracker.push(-40, at);
  assert.equal(tracker.speaking, false);
});

test("percentiles by the nearest rank", () => {
  const series = new Series();
  assert.equal(series.figure(), null);
  for (let i = 1; i <= 100; i++) series.add(i);
  assert.deepEqual(series.figure(), { last: 100, p50: 50, p95: 95, count: 100 });
});

test("TTFA only for a reply to something new that the user finished saying", () => {
  const latency = new LatencyMeter();
  assert.equal(latency.pushAudible(5000, null), null);
  assert.equal(latency.pushAudible(5000, { start: 1000, end: 4200 }), 800);
  assert.equal(latency.pushAudible(9000, { start: 1000, end: 4200 }), null, "answered before");
  assert.equal(latency.pushAudible(9000, { start: 8000, end: 9100 }), null, "still speaking");
  assert.equal(latency.pushAudible(40_000, { start: 8000, end: 9100 }), null, "too long ago");
});

test("jitter is zero for even arrival and settles at the mean difference", () => {
  const even = new ArrivalJitter();
  for (let i = 0; i < 50; i++) even.push(0, i * 20, 500 + i * 20);
  assert.equal(even.ms, 0);
  const uneven = new ArrivalJitter();
  for (let i = 0; i < 400; i++) uneven.push(0, i * 20, i * 20 + (i % 2) * 10);
  assert.ok(Math.abs(uneven.ms - 10) < 0.1);
});

test("reconnect: at once, then with growing waits, never beyond the window", () => {
  const plan = new Reconnect(0, 30_000, () => 0);
  const waits: number[] = [];
  let now = 0;
  for (let wait = plan.next(now); wait !== null; wait = plan.next(now)) {
    waits.push(wait);
    now += wait + 200;
  }
  assert.deepEqual(waits.slice(0, 5), [0, 300, 700, 1500, 3000]);
  assert.ok(now <= 30_400 && waits.length > 8);
});

test("session clock: late messages do not move it", () => {
  const clock = new SessionClock();
  assert.equal(clock.toLocal(0), null);
  clock.observe(1000, 6050);
  clock.observe(2000, 7010);
  clock.observe(3000, 9000);
  assert.equal(clock.toLocal(1500), 6510);
});

test("captions: the split is at a word, and nothing is lost or doubled", () => {
  const captions = new Captions();
  captions.appendAt(0, "Good morning to you", 1000, 3000);
  captions.appendAt(0, " all.", 3000, 3500);
  const [turn] = captions.items;
  assert.ok(turn?.kind === "model");
  for (let played = 0; played <= 2600; played += 50) {
    captions.played(0, played);
    const parts = heard(turn);
    assert.equal(parts.heard + parts.rest, "Good morning to you all.");
  }
  assert.equal(heard(turn).rest, "");
  assert.equal(captions.played(0, 100), false, "the play head does not go back");
});

test("captions: what the server has settled after an interruption counts, in the text too", () => {
  const captions = new Captions();
  captions.append(0, "Good morning", 4);
  captions.append(0, " to you", 5);
  captions.speech(0, 4, 0, 1000);
  captions.speech(0, 5, 1000, 2000);
  captions.played(0, 2000);
  captions.truncate(0, new Map([[5, " to"]]));
  const [turn] = captions.items;
  assert.ok(turn?.kind === "model");
  assert.deepEqual(heard(turn), { heard: "Good morning to", rest: " you" });
  assert.equal(captions.toText(), "Duologue: Good morning to");
});

test("captions: voices with a breath between them are one", () => {
  const captions = new Captions();
  captions.userVoice(true, 0);
  captions.userVoice(false, 1000);
  captions.userVoice(true, 1500);
  captions.userVoice(false, 2500);
  captions.userVoice(true, 9000);
  assert.deepEqual(captions.items.map((item) => item.kind === "user" && [item.startMs, item.endMs]), [[0, 2500], [9000, null]]);
});

test("settings: kept, and damage becomes the default", () => {
  const kept = new Map<string, string>();
  const store = { getItem: (name: string) => kept.get(name) ?? null, setItem: (name: string, value: string) => kept.set(name, value) };
  assert.deepEqual(load(store), DEFAULTS);
  save(store, { ...DEFAULTS, voice: "anna", theme: "dark", record: true });
  assert.deepEqual(load(store), { ...DEFAULTS, voice: "anna", theme: "dark", record: true });
  for (const text of ["{", "null", "[]", '{"theme":"pink","record":"yes","voice":3,"transport":"carrier pigeon"}']) {
    kept.set("duologue.settings", text);
    assert.deepEqual(load(store), DEFAULTS);
  }
});

test("the address chooses the transport; only what the server offers is tried", () => {
  assert.equal(fromAddress(DEFAULTS, new URLSearchParams("transport=websocket&token=k")).transport, "websocket");
  assert.equal(fromAddress(DEFAULTS, new URLSearchParams("transport=x")).transport, "auto");
  assert.deepEqual(kindsToTry("auto", ["websocket", "webrtc"]), ["webrtc", "websocket"]);
  assert.deepEqual(kindsToTry("auto", ["websocket"]), ["websocket"]);
  assert.deepEqual(kindsToTry("webrtc", ["websocket"]), []);
});

test("every failure becomes words", () => {
  const named = (name: string) => Object.assign(new Error("x"), { name });
  assert.equal(fromThrown(named("NotAllowedError")).code, "microphone_denied");
  assert.equal(fromThrown(named("NotFoundError")).code, "no_microphone");
  assert.equal(fromThrown(new TypeError("Failed to fetch")).code, "unreachable");
  assert.equal(fromThrown(new HttpError(401, null, "", null)).code, "unauthorized");
  assert.equal(fromThrown(new HttpError(503, "queue_full", "", 3)).code, "full");
  assert.equal(fromThrown(new HttpError(503, "server_busy", "the server is draining", 3)).code, "draining");
  assert.equal(fromThrown("odd").code, "internal");
  assert.deepEqual(fromServerCode("invalid_value", "the voice is too short").text, "the voice is too short");
  assert.equal(fromClose("close_requested", undefined), null);
});

test("samples survive the wire; half a sample is refused", () => {
  const samples = Int16Array.from([0, 1, -1, 32767, -32768, 255, 256]);
  assert.deepEqual(decodePcm(encodePcm(samples)), samples);
  assert.deepEqual(toInt16(toFloat32(samples)), samples);
  assert.deepEqual([...toInt16(Float32Array.from([2, -2]))], [32767, -32768]);
  assert.throws(() => decodePcm("AAAA"), /3 bytes/);
  assert.ok(Math.abs(decibel(0.1) + 20) < 1e-9);
});

test("wav files: written, read, and refused with the reason", () => {
  const samples = Int16Array.from({ length: 480 }, (_, i) => i * 60);
  const wav = decodeWav(encodeWav(samples, 24_000));
  assert.deepEqual(wav, { rate: 24_000, channels: 1, samples });
  const tops = peaks(wav, 0, 10);
  assert.deepEqual([tops.length, Math.round((tops[1] as number) * 32768)], [2, 479 * 60]);
  assert.throws(() => decodeWav(new Uint8Array(60)), /not a wav/);
  const eight = encodeWav(samples, 24_000);
  eight[34] = 8;
  assert.throws(() => decodeWav(eight), /8 bits/);
  const cut = encodeWav(samples, 24_000).subarray(0, 244);
  assert.equal(decodeWav(cut).samples.length, 100);
});

test("level bins: the loudest of each, silence where nothing came", () => {
  const track = new LevelTrack(1000);
  track.push(0.1, 0);
  track.push(0.3, 50);
  track.push(0.2, 4 * BIN_MS);
  assert.deepEqual([0, 1, 4, 5, -9].map((bin) => Math.round(track.at(bin) * 10)), [3, 0, 2, 0, 0]);
  track.push(0.4, BIN_MS);
  assert.equal(Math.round(track.at(1) * 10), 4, "a message that comes late still finds its place");
  track.push(0.5, 1e6);
  assert.equal(track.at(4), 0);
  assert.deepEqual([barHeight(0), barHeight(1)], [0, 1]);
});

test("interruptions: an order that came before the page noticed the voice belongs to that voice, not to the one before", () => {
  const interruptions = new Interruptions();
  const [before, voice] = [{ start: 5000, end: 5700 }, { start: 6000, end: 6500 }];
  const [held, flushed] = [6060, 6500];
  const interrupted = (atHold: VoiceSpan | null, atFlush: VoiceSpan | null) => {
    interruptions.hold(held, atHold);
    interruptions.silent(held + 30, "hold");
    return interruptions.flush(flushed, 1, "voice", atFlush);
  };
  assert.equal(interrupted(before, voice), held + 30 - voice.start);
  const nextWord = { start: held + 100, end: flushed };
  assert.equal(interrupted({ ...voice, end: held }, nextWord), held + 30 - voice.start, "nor to the next word");
  const longAgo = { start: 0, end: 900 };
  assert.equal(interrupted(longAgo, longAgo), null, "a voice that the page did not notice has no figure");
  assert.equal(interrupted(null, null), null);
});
