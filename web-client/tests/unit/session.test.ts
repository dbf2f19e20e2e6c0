// The session: fall-back, queue, resume with nothing twice, barge-in order, play head reports, ends and their reasons.
import assert from "node:assert/strict";
import { test } from "node:test";
import { encodePcm } from "../../src/audio/pcm";
import type { VoiceSpan } from "../../src/audio/voice";
import { heard } from "../../src/captions";
import { HttpError } from "../../src/protocol/rest";
import { Session, type SessionOptions } from "../../src/session";
import { NoConnection } from "../../src/transport/transport";
import { FakeClock, FakePlayer, FakeTransport, settle, started } from "./fakes";

function open(outcomes: (Error | null)[] = [], changes: Partial<SessionOptions> = {}) {
  const clock = new FakeClock();
  const player = new FakePlayer();
  const transports: FakeTransport[] = [];
  const states: string[] = [];
  const remarks: string[] = [];
  const packets: (number | null)[] = [];
  let voice: VoiceSpan | null = null;
  const session = new Session(
    {
      kinds: ["websocket"],
      open: (kind) => {
        const transport = new FakeTransport(kind, player, outcomes[transports.length] ?? null);
        transports.push(transport);
        return transport;
      },
      request: { duologue: { units: true } },
      clock,
      audioNow: () => clock.now(),
      voice: () => voice,
      packets: (rate) => packets.push(rate),
      diagnose: async () => null,
      ...changes,
    },
    {
      state: (state) => states.push(state.name === "connecting" ? `connecting ${state.kind} ${state.note}`.trim() : state.name),
      captions: () => {},
      unit: () => {},
      stopped: () => {},
      remark: (text) => remarks.push(text),
    },
  );
  const problem = () => (session.state.name === "ended" ? (session.state.problem?.code ?? null) : "not ended");
  const last = () => transports.at(-1) as FakeTransport;
  return { session, clock, player, transports, states, remarks, packets, last, problem, speak: (span: VoiceSpan) => (voice = span) };
}

async function live(outcomes: (Error | null)[] = [], changes: Partial<SessionOptions> = {}) {
  const all = open(outcomes, changes);
  await all.session.start();
  all.last().says({ event_id: "evt_0", ...started() });
  return all;
}

const UNIT = {
  type: "duologue.unit",
  unit: 0,
  turn: 0,
  decision: "listen",
  text: "",
  end_of_turn: false,
  stale: false,
  ready_ms: 1000,
  unit_ms: 150,
  deadline_missed: false,
  stages: { mel_ms: 1, apm_ms: 1, vision_ms: 0, prefill_ms: 1, llm_ms: 1 },
  tokens: 3,
  kv_tokens: 90,
};

test("WebRTC first; what cannot connect is followed by WebSocket, and that is said", async () => {
  const { session, states, transports, last, packets } = open([new NoConnection("no path")], { kinds: ["webrtc", "websocket"] });
  await session.start();
  last().says(started());
  assert.deepEqual(states, ["connecting webrtc", "connecting websocket WebRTC could not connect", "live"]);
  assert.equal(transports[0]?.closed, true);
  assert.deepEqual(packets, [24_000]);
});

test("a refusal is not tried again another way", async () => {
  const { session, transports, problem } = open([new HttpError(429, "rate_limited", "slowly", 5)], { kinds: ["webrtc", "websocket"] });
  await session.start();
  assert.equal(transports.length, 1);
  assert.equal(problem(), "rate_limited");
});

test("without a place WebRTC is followed by a WebSocket, which waits in the queue", async () => {
  const full = new HttpError(503, "queue_full", "full", 5);
  const { session, states, last } = open([full], { kinds: ["webrtc", "websocket"] });
  await session.start();
  last().says({ type: "duologue.queued", position: 1, estimated_wait_s: 30, queue_length: 1 });
  assert.deepEqual(states, ["connecting webrtc", "connecting websocket", "queued"]);

  const only = open([full], { kinds: ["webrtc"] });
  await only.session.start();
  assert.equal(only.problem(), "full");
});

test("when nothing connects, HTTP is asked why", async () => {
  const { session, problem } = open([new NoConnection("closed (1006)")], {
    diagnose: async () => ({ code: "draining", title: "", text: "" }),
  });
  await session.start();
  assert.equal(problem(), "draining");
});

test("a connection that opens and then says nothing is given up, a queue is not", async () => {
  const silent = open();
  await silent.session.start();
  await silent.clock.pass(11_000);
  assert.equal(silent.problem(), "unreachable");

  const waiting = open();
  await waiting.session.start();
  for (let told = 0; told < 10; told += 1) {
    waiting.last().says({ type: "duologue.queued", position: 1, estimated_wait_s: 30, queue_length: 1 });
    await waiting.clock.pass(3_000);
  }
  assert.equal(waiting.session.state.name, "queued");
});

test("waits in the queue, then starts", async () => {
  const { session, states, last } = open();
  await session.start();
  last().says({ type: "duologue.queued", position: 2, estimated_wait_s: 30, queue_length: 4 });
  assert.deepEqual(session.state, { name: "queued", position: 2, waitS: 30, length: 4 });
  last().says(started());
  assert.deepEqual(states.slice(-2), ["queued", "live"]);
});

test("an error before the start ends it with its reason; later it is a remark", async () => {
  const early = open();
  await early.session.start();
  early.last().says({ type: "error", error: { type: "server_error", code: "queue_full", message: "no place" } });
  assert.equal(early.problem(), "full");

  const { last, session, remarks } = await live();
  last().says({ type: "error", error: { type: "invalid_request_error", code: "rate_limited", message: "too much" } });
  assert.equal(session.state.name, "live");
  assert.deepEqual(remarks, ["too much"]);
});

test("a lost connection resumes with token and last event, and nothing is handled twice", async () => {
  const { session, clock, last, transports, states, packets, player } = await live();
  last().says({ ...UNIT, event_id: "evt_1" });
  last().says({ ...UNIT, unit: 1, decision: "speak", event_id: "evt_2" });
  last().says({ type: "session.output_transcript.delta", event_id: "evt_2.1", delta: "Hello ", start_ms: 0, end_ms: 500 });
  last().handlers.lost("gone");
  assert.deepEqual([session.state.name, packets.at(-1)], ["reconnecting", null]);
  await clock.pass(10);
  assert.equal(transports.length, 2);
  assert.deepEqual(last().request?.duologue, { units: true, resume_token: "token", last_event_id: "evt_1" });
  last().says(started({ resumed: true }));
  last().says({ ...UNIT, unit: 1, decision: "speak", event_id: "evt_2" });
  last().says({ type: "session.output_transcript.delta", event_id: "evt_2.1", delta: "Hello ", start_ms: 0, end_ms: 500 });
  last().says({ type: "session.output_transcript.delta", event_id: "evt_3", delta: "again", start_ms: 500, end_ms: 900 });
  assert.deepEqual(session.captions.toText().split("\n"), ["Duologue: Hello again", "(The connection was lost for a moment.)"]);
  assert.deepEqual([session.resumes, session.units, states.at(-1)], [1, { listen: 1, speak: 1 }, "live"]);
  assert.equal(player.calls.filter((call) => call.startsWith("flush")).length, 0, "what was buffered plays on");
});

test("audio that came before the loss is not played twice", async () => {
  const { last, clock, player } = await live();
  const audio = (start: number) => ({
    type: "session.output_audio.delta",
    delta: encodePcm(new Int16Array(2400)),
    duologue: { turn: 1, start_ms: start },
  });
  last().says(audio(0));
  last().handlers.lost("gone");
  await clock.pass(10);
  last().says(started({ resumed: true }));
  last().says(audio(0));
  last().says(audio(50));
  last().says(audio(150));
  assert.deepEqual(player.calls, ["push 1 at 0 of 2400", "push 1 at 100 of 1200", "push 1 at 150 of 2400"]);
});

test("gives up when the server's window is over", async () => {
  const { last, clock, problem, transports } = await live(Array.from({ length: 40 }, (_, i) => (i === 0 ? null : new NoConnection("no"))));
  last().handlers.lost("gone");
  await clock.pass(29_000);
  assert.equal(problem(), "not ended");
  await clock.pass(10_000);
  assert.equal(problem(), "resume_expired");
  assert.ok(transports.length > 6 && transports.length < 20, `${transports.length} attempts`);
});

test("a connection on which nothing comes any more counts as lost", async () => {
  const { session, clock, last } = await live();
  await clock.pass(8_000);
  assert.equal(session.state.name, "live");
  assert.ok(last().sent.some(({ type }) => type === "duologue.ping"));
  await clock.pass(3_000);
  assert.notEqual(session.state.name, "live");
});

test("hold, then flush: the player is told at once, barge-in is measured from the voice to silence", async () => {
  const { session, last, player, clock, speak } = await live();
  last().says({ type: "duologue.turn", turn: 0, state: "begin" });
  player.now = { ...player.now, turn: 0, played_ms: 700, buffered_ms: 120, playing: true };
  await clock.pass(1_000);
  speak({ start: clock.now(), end: clock.now() });
  const voiceAt = clock.now();
  await clock.pass(100);
  last().says({ type: "duologue.hold", turn: 0 });
  player.handlers.event({ type: "silent", turn: 0, at: clock.now() + 15, cause: "hold" });
  await clock.pass(350);
  last().says({ type: "duologue.flush", turn: 1, cause: "voice" });
  assert.deepEqual(player.calls, ["begin 0", "hold 0", "flush 1"]);
  assert.deepEqual(session.latency.bargeIn.values, [115]);
  assert.equal(session.interruptions.list[0]?.silent_at, voiceAt + 115);
  const reports = last().sent.filter(({ type }) => type === "duologue.playback");
  assert.deepEqual(reports.at(-1), { type: "duologue.playback", turn: 0, played_ms: 700, buffered_ms: 120 });
  assert.ok(reports.length >= 4 + 2, "every 250 ms, at the silence and at the flush");
});

test("a cough: held, let go, counted as no interruption", async () => {
  const { session, last, player } = await live();
  last().says({ type: "duologue.hold", turn: 0 });
  last().says({ type: "duologue.unhold", turn: 0 });
  assert.deepEqual(player.calls, ["hold 0", "unhold"]);
  assert.deepEqual([session.interruptions.list.length, session.interruptions.unconfirmed], [0, 1]);
});

test("an interrupted turn keeps what was heard apart from what was not", async () => {
  const { session, last, player, clock } = await live();
  last().says({ type: "duologue.turn", turn: 0, state: "begin" });
  last().says({ type: "session.output_transcript.delta", delta: "one two ", start_ms: 5000, end_ms: 6000, duologue: { turn: 0 } });
  last().says({ type: "session.output_transcript.delta", delta: "three", start_ms: 6000, end_ms: 7000, duologue: { turn: 0 } });
  player.now = { ...player.now, turn: 0, played_ms: 1000 };
  await clock.pass(300);
  last().says({ type: "duologue.flush", turn: 1, cause: "client" });
  const [turn] = session.captions.items;
  assert.ok(turn?.kind === "model");
  assert.deepEqual([turn.state, turn.playedMs], ["interrupted", 1000]);
});

test("words become heard where their speech is, not where their unit was", async () => {
  const { session, last, player, clock } = await live();
  const speech = (unit: number, start: number, ms: number) => ({
    type: "duologue.speech",
    turn: 0,
    unit,
    start_ms: start,
    samples: ms * 24,
    codes: 25,
    stages: { tts_ms: 1, flow_ms: 1, hift_ms: 1 },
    first: unit === 1,
    ttfb_ms: unit === 1 ? 300 : null,
  });
  for (const unit of [1, 2]) {
    last().says({ ...UNIT, unit, decision: "speak" });
    const times = { start_ms: unit * 1000, end_ms: unit * 1000 + 1000 };
    last().says({ type: "session.output_transcript.delta", delta: `w${unit} `, ...times, duologue: { turn: 0 } });
  }
  last().says(speech(1, 0, 900));
  last().says(speech(1, 900, 500));
  const [turn] = session.captions.items;
  assert.ok(turn?.kind === "model");
  player.now = { ...player.now, turn: 0, played_ms: 1400 };
  await clock.pass(100);
  assert.deepEqual(heard(turn), { heard: "w1 ", rest: "w2 " });
  last().says(speech(2, 1400, 600));
  last().says({ type: "duologue.turn", turn: 0, state: "done" });
  player.handlers.event({ type: "silent", turn: 0, at: clock.now(), cause: "end" });
  assert.deepEqual(heard(turn), { heard: "w1 w2 ", rest: "" });
});

test("speech made before its unit is finished finds its words", async () => {
  const { session, last } = await live();
  last().says({ ...UNIT, unit: 4, decision: "speak" });
  session.captions.speech(0, 5, 1000, 1800);
  last().says({ ...UNIT, unit: 5, decision: "speak" });
  last().says({ type: "session.output_transcript.delta", delta: "hi", start_ms: 1, end_ms: 2, duologue: { turn: 0 } });
  const [turn] = session.captions.items;
  assert.ok(turn?.kind === "model");
  assert.deepEqual(turn.pieces, [{ text: "hi", unit: 5, startMs: 1000, endMs: 1800, heard: null }]);
});

test("the server's voice detector replaces this page's ear", async () => {
  const { session, last } = await live();
  session.userVoice(true);
  last().says({ type: "duologue.voice", speaking: true, at_ms: 100 });
  session.userVoice(false);
  const [voice] = session.captions.items;
  assert.ok(voice?.kind === "user" && voice.endMs === null && session.captions.items.length === 1);
  last().says({ type: "duologue.voice", speaking: false, at_ms: 900 });
  assert.notEqual(voice.endMs, null);
});

test("figures of units and speech", async () => {
  const { session, last } = await live();
  last().says({ ...UNIT, unit_ms: 250 });
  last().says({ ...UNIT, unit: 1, unit_ms: 1250, deadline_missed: true, decision: "speak" });
  last().says({
    type: "duologue.speech",
    turn: 0,
    unit: 1,
    start_ms: 0,
    samples: 2400,
    codes: 25,
    stages: { tts_ms: 1, flow_ms: 1, hift_ms: 1 },
    first: true,
    ttfb_ms: 310,
  });
  assert.deepEqual([...session.latency.rtf.values], [0.25, 1.25]);
  assert.deepEqual([...session.latency.ttfb.values], [310]);
  assert.deepEqual([session.latency.missedDeadlines, session.units], [1, { listen: 1, speak: 1 }]);
});

test("stop says goodbye, silences at once, and closes after a moment", async () => {
  const { session, last, player, clock, problem } = await live();
  const transport = last();
  session.stop();
  assert.equal(problem(), null);
  assert.deepEqual(transport.sent.at(-1), { type: "session.close" });
  assert.equal(player.calls.at(-1), "flush Infinity");
  assert.equal(transport.closed, false);
  await clock.pass(2_000);
  assert.equal(transport.closed, true);
});

const ENDS: [string, string | undefined, string | null][] = [
  ["close_requested", undefined, null],
  ["close_requested", "server draining", "draining"],
  ["expired", "maximum duration reached", "max_duration"],
  ["expired", "idle", "idle"],
  ["connection_lost", "slow client", "slow_client"],
  ["connection_lost", "the engine has stopped", "internal"],
];

for (const [reason, detail, code] of ENDS) {
  test(`closed by the server: ${reason}, ${String(detail)}`, async () => {
    const { last, problem } = await live();
    last().says({ type: "session.closed", reason, ...(detail ? { duologue: { detail } } : {}) });
    assert.equal(problem(), code);
  });
}

test("a server that speaks only OpenAI's Live API works, too", async () => {
  const { session, last, player, clock } = open();
  await session.start();
  last().says({ type: "session.started", session: { id: "s" } });
  last().says({ type: "session.output_audio.delta", delta: encodePcm(new Int16Array(240)) });
  last().says({ type: "session.output_audio.delta", delta: encodePcm(new Int16Array(240)) });
  await clock.pass(20_000);
  assert.equal(session.state.name, "live");
  assert.deepEqual(player.calls, ["push 0 at 0 of 240", "push 0 at 10 of 240"]);
  assert.deepEqual(last().sent, []);
  last().handlers.lost("gone");
  await settle();
  assert.equal(session.ended, true);
});
