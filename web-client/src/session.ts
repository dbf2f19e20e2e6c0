/**
 * One conversation: what the server's events mean for the player, the captions, the figures and the page.
 *
 * Knows neither the DOM nor the kind of its transport; time comes from the clock it is given.
 */

import { Arrivals } from "./audio/arrivals";
import { decodePcm } from "./audio/pcm";
import type { Player, PlayerEvent } from "./audio/player";
import type { VoiceSpan } from "./audio/voice";
import { Captions } from "./captions";
import { Timers } from "./clock";
import { Connection, type ConnectionOptions } from "./connection";
import { type Problem, fromClose, fromServerCode } from "./errors";
import { Interruptions } from "./interruptions";
import { ArrivalJitter, LatencyMeter } from "./latency";
import type { ServerEvent, ServerEventOf } from "./protocol/server";
import { SessionClock } from "./session-clock";
import type { SessionInfo, SessionState } from "./session-state";
import type { Transport, TransportKind } from "./transport/transport";

export interface SessionOptions extends ConnectionOptions {
  /** The audio clock, in ms, and the user's latest voice on it. */
  audioNow(): number;
  voice(): VoiceSpan | null;
  /** Packets of this rate from the microphone; null stops them. */
  packets(rate: number | null): void;
}

export interface SessionListener {
  state(state: SessionState): void;
  captions(): void;
  unit(unit: ServerEventOf<"duologue.unit">): void;
  /** The reply was stopped or paused: shown as a mark. */
  stopped(kind: "flush" | "hold"): void;
  /** A message for a moment, e.g. that the server is about to restart. */
  remark(text: string): void;
}

/** How often the play head is reported (proto/LIVE.md, duologue.playback), and followed by the captions. */
const PLAYBACK_MS = 250;
const CAPTION_MS = 80;
const NETWORK_MS = 2000;
const DEFAULT_CHUNK_MS = 1000;
const DEFAULT_RATE = 24_000;
/** Remarks about what the server could not take in time. */
const LOST = {
  unit: "Some of what you said was lost on the way.",
  frame: "A picture was lost on the way.",
  text: "A typed question was lost on the way.",
};

export class Session {
  readonly captions = new Captions();
  readonly latency = new LatencyMeter();
  readonly serverClock = new SessionClock();
  readonly interruptions = new Interruptions();
  state: SessionState;
  info: SessionInfo | null = null;
  units = { listen: 0, speak: 0 };
  resumes = 0;
  /** Packets lost on the way up because the connection did not keep up. */
  droppedPackets = 0;
  /** Gaps the browser reports for WebRTC; the player counts its own. */
  networkGaps = 0;

  readonly #options: SessionOptions;
  readonly #listener: SessionListener;
  readonly #connection: Connection;
  readonly #timers: Timers;
  readonly #jitter = new ArrivalJitter();
  readonly #arrivals = new Arrivals();
  #wireRate = DEFAULT_RATE;
  #serverHears = false;
  /** The unit that spoke last: its words come next. */
  #speakingUnit: { unit: number; turn: number } | null = null;

  constructor(options: SessionOptions, listener: SessionListener) {
    this.#options = options;
    this.#listener = listener;
    this.#timers = new Timers(options.clock);
    this.state = { name: "connecting", kind: options.kinds[0] ?? "websocket", note: "" };
    this.#connection = new Connection(options, {
      connecting: (kind, note) => this.#set({ name: "connecting", kind, note }),
      opened: (transport) => (transport.player.handlers.event = (event) => this.#player(event)),
      event: (event) => this.#event(event),
      retrying: (attempt) => {
        this.#pauseFlow();
        this.#set({ name: "reconnecting", attempt });
      },
      failed: (reason) => this.#end(reason),
    });
  }

  get ended(): boolean {
    return this.state.name === "ended";
  }

  get kind(): TransportKind | null {
    return this.#transport?.kind ?? null;
  }

  get player(): Player | null {
    return this.#transport?.player ?? null;
  }

  /** Connects; the outcome arrives as states. */
  start(): Promise<void> {
    return this.#connection.start();
  }

  /** The user's goodbye. */
  stop(): void {
    this.#end(null);
  }

  forceListen(): void {
    this.#connection.send({ type: "duologue.force_listen" });
  }

  interrupt(): void {
    this.#connection.send({ type: "duologue.interrupt" });
  }

  /** A typed question; it stops the reply. */
  type(text: string): void {
    this.#connection.send({ type: "duologue.input_text.append", text });
    this.captions.typed(text, this.#options.clock.now());
    this.#listener.captions();
  }

  useTrack(track: MediaStreamTrack): Promise<void> {
    return this.#transport?.useTrack(track) ?? Promise.resolve();
  }

  sendAudio(samples: Int16Array): void {
    if (this.state.name === "live" && this.#transport?.sendAudio(samples) === false) this.droppedPackets += 1;
  }

  /** The user began or stopped speaking, as this page hears it; the server's detector knows better where there is one. */
  userVoice(speaking: boolean): void {
    if (this.state.name === "live" && !this.#serverHears) this.#userVoice(speaking, this.#options.clock.now());
  }

  get #transport(): Transport | null {
    return this.#connection.transport;
  }

  #event(event: ServerEvent): void {
    switch (event.type) {
      case "session.started":
        return this.#started(event);
      case "session.closed":
        return this.#end(fromClose(event.reason, event.duologue?.detail));
      case "session.output_audio.delta":
        return this.#audio(event);
      case "session.output_transcript.delta":
        return this.#words(event);
      case "session.input_transcript.delta":
        this.captions.userText(event.delta, event.start_ms, event.end_ms);
        return this.#listener.captions();
      case "error":
        return this.#error(event);
      case "duologue.queued": {
        const { position, estimated_wait_s: waitS, queue_length: length } = event;
        return this.#set({ name: "queued", position, waitS, length });
      }
      case "duologue.unit":
        return this.#unit(event);
      case "duologue.speech":
        return this.#speech(event);
      case "duologue.turn":
        return this.#turn(event);
      case "duologue.flush":
        return this.#flush(event);
      case "duologue.truncated":
        this.captions.truncate(event.turn, new Map(event.units.map(({ unit, text }) => [unit, text])));
        return this.#listener.captions();
      case "duologue.hold":
        this.player?.hold(event.turn);
        this.interruptions.hold(this.#options.audioNow(), this.#options.voice());
        return this.#listener.stopped("hold");
      case "duologue.unhold":
        this.interruptions.unhold();
        return this.player?.unhold();
      case "duologue.pong":
        return this.latency.roundTrip.add(this.#options.clock.now() - event.t);
      case "duologue.draining":
        return this.#listener.remark(`The server restarts; this conversation ends in ${Math.round(event.seconds)} s.`);
      case "duologue.dropped":
        return this.#listener.remark(LOST[event.what]);
      case "duologue.voice":
        this.#serverHears = true;
        return this.#userVoice(event.speaking, this.serverClock.toLocal(event.at_ms) ?? this.#options.clock.now());
      case "duologue.paused":
      case "duologue.resumed":
      case "session.usage.updated":
      case "info":
        return;
    }
  }

  #started({ session }: ServerEventOf<"session.started">): void {
    const transport = this.#transport;
    if (!transport) return;
    const started = session.duologue ?? null;
    this.info = { id: session.id, kind: transport.kind, started };
    this.#wireRate = session.audio?.format?.rate ?? DEFAULT_RATE;
    if (this.#connection.established(started)) {
      this.resumes += 1;
      this.captions.note("The connection was lost for a moment.");
    }
    if (transport.packetRate !== null) this.#options.packets(this.#wireRate);
    this.#timers.clear();
    this.#timers.every(CAPTION_MS, () => this.#followPlayHead());
    this.#timers.every(NETWORK_MS, () => void this.#network(transport));
    // A server that is not ours does not know the play head.
    if (started) this.#timers.every(PLAYBACK_MS, () => this.player?.status().playing && this.#reportPlayback());
    this.#set({ name: "live" });
  }

  #audio(event: ServerEventOf<"session.output_audio.delta">): void {
    const { turn = null, start_ms = null } = event.duologue ?? {};
    const placed = this.#arrivals.place(turn, start_ms, decodePcm(event.delta), this.#wireRate);
    if (!placed) return;
    this.latency.jitter.add(this.#jitter.push(placed.turn, placed.startMs, this.#options.clock.now()));
    this.player?.push(placed.turn, placed.startMs, this.#wireRate, placed.samples);
  }

  #unit(event: ServerEventOf<"duologue.unit">): void {
    const chunk = this.info?.started?.unit_ms ?? DEFAULT_CHUNK_MS;
    this.units[event.decision] += 1;
    if (event.decision === "speak") this.#speakingUnit = { unit: event.unit, turn: event.turn };
    this.latency.pushUnit(event.unit_ms, chunk, event.deadline_missed);
    this.serverClock.observe(event.ready_ms + event.unit_ms, this.#options.clock.now());
    this.#listener.unit(event);
  }

  #words(event: ServerEventOf<"session.output_transcript.delta">): void {
    const turn = event.duologue?.turn ?? 0;
    if (this.#speakingUnit?.turn === turn) this.captions.append(turn, event.delta, this.#speakingUnit.unit);
    else this.captions.appendAt(turn, event.delta, event.start_ms, event.end_ms);
    this.#listener.captions();
  }

  #speech({ turn, unit, start_ms, samples, ttfb_ms }: ServerEventOf<"duologue.speech">): void {
    const rate = this.info?.started?.output_rate ?? DEFAULT_RATE;
    this.captions.speech(turn, unit, start_ms, start_ms + (samples * 1000) / rate);
    if (ttfb_ms !== null) this.latency.ttfb.add(ttfb_ms);
  }

  #userVoice(speaking: boolean, at: number): void {
    this.captions.userVoice(speaking, at);
    this.#listener.captions();
  }

  #turn({ turn, state }: ServerEventOf<"duologue.turn">): void {
    if (state === "begin") {
      this.player?.begin(turn);
      this.captions.begin(turn);
    } else {
      this.player?.done(turn);
      this.captions.end(turn, state);
    }
    this.#listener.captions();
  }

  #flush({ turn, cause }: ServerEventOf<"duologue.flush">): void {
    this.player?.flush(turn);
    this.#bargeIn(this.interruptions.flush(this.#options.audioNow(), turn, cause, this.#options.voice()));
    this.captions.flush(turn);
    this.#listener.stopped("flush");
    this.#listener.captions();
    // At once, because the server cuts the model's history at the play head; again when the last sample has faded.
    if (this.info?.started) this.#reportPlayback();
  }

  #error({ error }: ServerEventOf<"error">): void {
    if (this.state.name === "live") return this.#listener.remark(error.message);
    this.#end(fromServerCode(error.code, error.message));
  }

  #player(event: PlayerEvent): void {
    if (event.type === "audible") this.latency.pushAudible(event.at, this.#options.voice());
    // What is said to its end was heard to its end, whatever the rounding of its pieces.
    if (event.type === "silent" && event.cause === "end" && this.captions.played(event.turn, Number.MAX_SAFE_INTEGER)) {
      this.#listener.captions();
    }
    if (event.type === "silent" && (event.cause === "flush" || event.cause === "hold")) {
      this.#bargeIn(this.interruptions.silent(event.at, event.cause));
      if (this.info?.started) this.#reportPlayback();
    }
  }

  #bargeIn(ms: number | null): void {
    if (ms !== null && ms >= 0) this.latency.bargeIn.add(ms);
  }

  #reportPlayback(): void {
    const status = this.player?.status();
    if (this.state.name !== "live" || !status || status.turn === null) return;
    const { turn, played_ms, buffered_ms } = status;
    this.#connection.send({ type: "duologue.playback", turn, played_ms, buffered_ms });
  }

  #followPlayHead(): void {
    const status = this.player?.status();
    if (!status || status.turn === null) return;
    if (this.captions.played(status.turn, status.played_ms)) this.#listener.captions();
  }

  async #network(transport: Transport): Promise<void> {
    const { jitterMs, gaps } = await transport.figures();
    if (jitterMs !== null) this.latency.jitter.add(jitterMs);
    if (gaps !== null) this.networkGaps = gaps;
  }

  #pauseFlow(): void {
    this.#timers.clear();
    this.#options.packets(null);
  }

  #end(reason: Problem | null): void {
    if (this.ended) return;
    this.#pauseFlow();
    const player = this.player;
    this.#connection.close(reason === null && this.state.name === "live");
    player?.flush(Number.POSITIVE_INFINITY);
    this.#set({ name: "ended", problem: reason });
  }

  #set(state: SessionState): void {
    this.state = state;
    this.#listener.state(state);
  }
}
