// A scripted session of the server: listens, answers in whole sentences, can be interrupted, survives a dropped line.
import { babble } from "./babble.mjs";

const RATE = 24000;
const UNIT_MS = 1000;
const PIECE_MS = 100;
const LEAD_MS = 200;
/** Energy of a packet that counts as voice, and how long it takes to hold and to interrupt. */
const VOICE_RMS = 0.02;
const HOLD_MS = 100;
const INTERRUPT_MS = 450;
const RELEASE_MS = 200;

export const REPLIES = [
  "I hear you. Go on, I am listening while I speak, so just cut in whenever you like.",
  "That is a good question. Most people start with a walk along the river in the morning, before it gets warm, and then have breakfast at the market, where you can try almost everything for very little.",
  "Yes, and it is worth the detour.",
  "Take the early train. The seats on the left side look out over the lake for the better part of an hour, and you will want to see that.",
];

/** Made once: synthesis would hold up the clock. */
const VOICE = babble(60, RATE, 165, 7);

const BUNDLE = { name: "mini", precision: "int8", sha256: "5f1c0a9b3e7d24680c1f", random_weights: false, typed: true };

export class MockSession {
  constructor(options) {
    this.options = { firstReplyUnit: 2, listenUnits: 2, ...options };
    this.id = `sess_${Math.random().toString(36).slice(2, 10)}`;
    this.peer = null;
    this.events = 0;
    this.log = [];
    this.received = [];
    this.turn = 0;
    this.unit = 0;
    this.speaking = null;
    this.listened = 0;
    this.voiceMs = 0;
    this.quietMs = 0;
    this.held = false;
    this.forceListen = false;
  }

  /** A connection for this session, new or resumed. */
  attach(peer, start) {
    const resumed = this.peer !== null;
    this.peer = peer;
    peer.onmessage = (message) => this.message(message);
    peer.onclose = () => (this.peer === peer ? this.stopClock() : undefined);
    if (!resumed) this.emit({ type: "session.started", session: this.describe(false) });
    else {
      peer.send({ type: "session.started", session: this.describe(true) });
      const last = Number(/\d+/.exec(start.session.duologue.last_event_id ?? "evt_-1")?.[0] ?? -1);
      for (const event of this.log) if (Number(event.event_id.slice(4)) > last) peer.send(event);
    }
    this.startedAt ??= performance.now();
    this.unitClock = setInterval(() => this.nextUnit(), UNIT_MS);
    this.audioClock = setInterval(() => this.pace(), 20);
  }

  describe(resumed) {
    return {
      id: this.id,
      expires_at: 1790000000,
      model: "mini",
      status: "active",
      audio: { format: { type: "audio/pcm", rate: RATE } },
      duologue: {
        resume_token: this.id,
        resume_window_s: 30,
        resumed,
        unit_ms: UNIT_MS,
        input_rate: 16000,
        output_rate: RATE,
        bundle: BUNDLE,
        recording_id: this.options.recording ? "rec_demo" : null,
        voices: ["default"],
        limits: { max_session_s: 600, idle_s: 60 },
      },
    };
  }

  clock() {
    return Math.round(performance.now() - this.startedAt);
  }

  emit(event) {
    const full = { ...event, event_id: `evt_${this.events++}` };
    this.log.push(full);
    this.peer?.send(full);
  }

  message(message) {
    if (message.type !== "session.input_audio.append") this.received.push(message);
    switch (message.type) {
      case "session.input_audio.append":
        return this.hear(Buffer.from(message.audio, "base64"));
      case "duologue.ping":
        return this.peer.send({ type: "duologue.pong", id: message.id, t: message.t });
      case "duologue.interrupt":
        return this.interrupt("client");
      case "duologue.force_listen":
        this.forceListen = true;
        return;
      case "session.close":
        this.emit({ type: "session.closed", reason: "close_requested", session: this.describe(false), usage: { seconds: 1 } });
        this.stopClock();
        return this.peer.close(1000);
    }
  }

  hear(bytes) {
    let sum = 0;
    for (let i = 0; i + 1 < bytes.length; i += 2) sum += (bytes.readInt16LE(i) / 32768) ** 2;
    const ms = (bytes.length / 2 / RATE) * 1000;
    this.heardMs = (this.heardMs ?? 0) + ms;
    if (this.options.deaf) return;
    const voiced = Math.sqrt(sum / (bytes.length / 2)) > VOICE_RMS;
    this.voiceMs = voiced ? this.voiceMs + ms : this.voiceMs;
    this.quietMs = voiced ? 0 : this.quietMs + ms;
    if (this.quietMs > RELEASE_MS) {
      this.voiceMs = 0;
      if (this.held) this.unhold();
    }
    if (!this.speaking) return;
    if (!this.held && this.voiceMs > HOLD_MS) this.hold();
    if (this.held && this.voiceMs > INTERRUPT_MS) this.interrupt("voice");
  }

  hold() {
    this.held = true;
    this.emit({ type: "duologue.hold", turn: this.turn });
  }

  unhold() {
    this.held = false;
    this.emit({ type: "duologue.unhold", turn: this.turn });
  }

  interrupt(cause) {
    if (!this.speaking) return;
    this.speaking = null;
    this.held = false;
    this.listened = 0;
    this.turn += 1;
    this.emit({ type: "duologue.flush", turn: this.turn, cause });
    this.emit({ type: "duologue.turn", turn: this.turn - 1, state: "interrupted" });
  }

  nextUnit() {
    const speaks = !this.forceListen && this.decide();
    this.forceListen = false;
    const reply = this.speaking;
    const words = speaks ? reply.words.splice(0, 4).join(" ") + " " : "";
    const ends = speaks && reply.words.length === 0;
    const unitMs = 120 + 90 * Math.abs(Math.sin(this.unit * 2.3)) + (this.unit === 13 ? 900 : 0);
    this.emit({
      type: "duologue.unit",
      unit: this.unit,
      turn: this.turn,
      decision: speaks ? "speak" : "listen",
      text: words,
      end_of_turn: ends,
      stale: false,
      ready_ms: this.clock(),
      unit_ms: unitMs,
      deadline_missed: unitMs > UNIT_MS,
      stages: { mel_ms: 2, apm_ms: 20, vision_ms: 0, prefill_ms: 30, llm_ms: unitMs - 60 },
      tokens: 8,
      kv_tokens: 100 + 12 * this.unit,
    });
    this.unit += 1;
    if (!speaks) this.listened += 1;
    else this.say(words, ends);
  }

  decide() {
    if (this.speaking) return true;
    const wait = this.turn === 0 ? this.options.firstReplyUnit : this.options.listenUnits;
    if (this.listened < wait || this.options.silent) return false;
    const text = REPLIES[this.turn % REPLIES.length];
    this.speaking = { words: text.split(" "), madeMs: 0, sentMs: 0, audio: [], since: performance.now(), complete: false };
    this.emit({ type: "duologue.turn", turn: this.turn, state: "begin" });
    return true;
  }

  say(words, ends) {
    const reply = this.speaking;
    const seconds = Math.max(1.1, 0.065 * words.length);
    const start = reply.madeMs;
    const first = start === 0;
    const from = ((this.unit * 7) % 50) * RATE;
    reply.audio.push(VOICE.subarray(from, from + Math.round(seconds * RATE)));
    reply.madeMs += seconds * 1000;
    reply.complete = ends;
    const at = this.clock();
    reply.origin ??= at;
    this.emit({
      type: "duologue.speech",
      turn: this.turn,
      unit: this.unit - 1,
      start_ms: start,
      samples: Math.round(seconds * RATE),
      codes: Math.round(seconds * 25),
      stages: { tts_ms: 90, flow_ms: 60, hift_ms: 25 },
      first,
      ttfb_ms: first ? 310 + 40 * Math.sin(this.turn) : null,
    });
    this.emit({
      type: "session.output_transcript.delta",
      delta: words,
      start_ms: Math.round(reply.origin + start),
      end_ms: Math.round(reply.origin + reply.madeMs),
      duologue: { turn: this.turn },
    });
  }

  /** Sends audio at real-time pace with a small lead. */
  pace() {
    const reply = this.speaking;
    if (!reply || this.held) return;
    if (reply.sentMs === 0) reply.since = performance.now();
    while (reply.sentMs < reply.madeMs && reply.sentMs < performance.now() - reply.since + LEAD_MS) {
      const length = Math.min(PIECE_MS, reply.madeMs - reply.sentMs);
      const piece = this.takeAudio(Math.round((length * RATE) / 1000));
      this.emit({
        type: "session.output_audio.delta",
        delta: piece.toString("base64"),
        duologue: { turn: this.turn, start_ms: Math.round(reply.sentMs) },
      });
      reply.sentMs += length;
    }
    if (reply.complete && reply.sentMs >= reply.madeMs) {
      this.emit({ type: "duologue.turn", turn: this.turn, state: "done" });
      this.speaking = null;
      this.listened = 0;
      this.turn += 1;
    }
  }

  takeAudio(samples) {
    const { audio } = this.speaking;
    const out = new Int16Array(samples);
    for (let at = 0; at < samples && audio.length > 0; ) {
      const part = audio[0].subarray(0, samples - at);
      out.set(part, at);
      at += part.length;
      if (part.length === audio[0].length) audio.shift();
      else audio[0] = audio[0].subarray(part.length);
    }
    return Buffer.from(out.buffer);
  }

  stopClock() {
    clearInterval(this.unitClock);
    clearInterval(this.audioClock);
  }
}
