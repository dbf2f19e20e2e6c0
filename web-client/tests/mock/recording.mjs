// A recording to replay: timeline and stereo wav of one made-up conversation.
import { babble, wav } from "./babble.mjs";

const RATE = 24000;
const UNIT_MS = 1000;
const UNITS = 34;

/** [start, end] in s of the user's voice, and [start, text, heard to] of the replies. */
const USER = [[1.2, 3.7], [13.1, 15.4], [23.6, 24.1], [27.2, 28.9]];
const REPLY = [
  { at: 5.2, end: 9.4, text: "I hear you. Go on, I am listening while I speak, so just cut in whenever you like." },
  {
    at: 10.2,
    end: 13.5,
    text: "Most people start with a walk along the river in the morning, before it gets warm, and then have breakfast at the market.",
    interrupted: true,
  },
  { at: 17.3, end: 26.3, text: "Take the early train. The seats on the left side look out over the lake for the better part of an hour, and you will want to see that." },
  { at: 30.4, end: 32.7, text: "Yes, and it is worth the detour." },
];

export function recording(id = "rec_demo") {
  const left = new Int16Array((UNITS * UNIT_MS * RATE) / 1000);
  const right = new Int16Array(left.length);
  USER.forEach(([from, to], i) => left.set(babble(to - from, RATE, 115, 31 + i), from * RATE));
  REPLY.forEach(({ at, end }, i) => right.set(babble(end - at, RATE, 165, 77 + i), at * RATE));
  return { timeline: timeline(id), audio: wav([left, right], RATE) };
}

function timeline(id) {
  const events = [];
  const add = (at, event) => events.push({ at_ms: Math.round(at * 1000), event });
  for (let unit = 0; unit < UNITS; unit++) {
    const ready = (unit + 1) * UNIT_MS;
    const turn = REPLY.findIndex(({ at, end }) => ready / 1000 > at - 0.5 && ready / 1000 < end - 0.3);
    add(ready / 1000 + 0.15, {
      type: "duologue.unit",
      unit,
      turn: Math.max(0, turn),
      decision: turn < 0 ? "listen" : "speak",
      text: "",
      end_of_turn: false,
      stale: false,
      ready_ms: ready,
      unit_ms: 150,
      deadline_missed: unit === 20,
      stages: { mel_ms: 2, apm_ms: 20, vision_ms: 0, prefill_ms: 30, llm_ms: 90 },
      tokens: 8,
      kv_tokens: 100 + unit * 12,
    });
  }
  for (const [from, to] of USER) {
    add(from, { type: "duologue.voice", speaking: true, at_ms: from * 1000 });
    add(to, { type: "duologue.voice", speaking: false, at_ms: to * 1000 });
  }
  REPLY.forEach(({ at, end, text, interrupted }, turn) => {
    add(at, { type: "duologue.turn", turn, state: "begin" });
    const words = text.match(/\S+\s*/g);
    const seconds = interrupted ? words.length * 0.33 : end - at;
    for (let i = 0; i < words.length; i += 3) {
      const from = at + (seconds * i) / words.length;
      const to = at + (seconds * Math.min(words.length, i + 3)) / words.length;
      add(Math.min(from, end), {
        type: "session.output_transcript.delta",
        delta: words.slice(i, i + 3).join(""),
        start_ms: Math.round(from * 1000),
        end_ms: Math.round(to * 1000),
        duologue: { turn },
      });
    }
    if (interrupted) add(end, { type: "duologue.flush", turn: turn + 1, cause: "voice" });
    add(end + 0.01, { type: "duologue.turn", turn, state: interrupted ? "interrupted" : "done" });
  });
  events.sort((a, b) => a.at_ms - b.at_ms);
  return {
    id,
    started_at: 1795238400,
    duration_ms: UNITS * UNIT_MS,
    sample_rate: RATE,
    unit_ms: UNIT_MS,
    bundle: { name: "mini", precision: "int8", sha256: "5f1c0a9b3e7d24680c1f", random_weights: false, typed: true },
    events,
  };
}
