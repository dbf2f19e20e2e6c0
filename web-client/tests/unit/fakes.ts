/** A clock, a player and a transport of the tests: nothing waits, everything is written down. */

import { NO_HANDLERS, type Player, type PlayerStatus } from "../../src/audio/player";
import type { Clock } from "../../src/clock";
import type { ClientEvent, SessionRequest } from "../../src/protocol/client";
import { readServerEvent } from "../../src/protocol/server";
import type { Transport, TransportHandlers, TransportKind } from "../../src/transport/transport";

export class FakeClock implements Clock {
  #now = 1000;
  #timers: { at: number; run: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.#now + ms, run };
    this.#timers.push(timer);
    return () => (this.#timers = this.#timers.filter((other) => other !== timer));
  }

  /** Lets time pass; what becomes due runs in order, with everything it awaits. */
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await settle();
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.#now = Math.max(this.#now, next.at);
      next.run();
    }
    this.#now = end;
    await settle();
  }
}

/** Lets promises that can go on do so. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

export class FakePlayer implements Player {
  handlers = NO_HANDLERS;
  calls: string[] = [];
  now: PlayerStatus = { turn: null, played_ms: 0, buffered_ms: 0, gaps: 0, played_samples: 0, playing: false };

  begin(turn: number): void {
    this.calls.push(`begin ${turn}`);
  }
  push(turn: number, startMs: number, _rate: number, samples: Int16Array): void {
    this.calls.push(`push ${turn} at ${startMs} of ${samples.length}`);
  }
  done(turn: number): void {
    this.calls.push(`done ${turn}`);
  }
  flush(turn: number): void {
    this.calls.push(`flush ${turn}`);
  }
  hold(turn: number): void {
    this.calls.push(`hold ${turn}`);
  }
  unhold(): void {
    this.calls.push("unhold");
  }
  status(): PlayerStatus {
    return this.now;
  }
  close(): void {}
}

export class FakeTransport implements Transport {
  handlers: TransportHandlers = { event: () => {}, lost: () => {} };
  readonly packetRate: number | null;
  sent: ClientEvent[] = [];
  request: SessionRequest | null = null;
  closed = false;

  constructor(
    readonly kind: TransportKind,
    readonly player: FakePlayer,
    /** What connecting comes to. */
    readonly outcome: Error | null = null,
  ) {
    this.packetRate = kind === "websocket" ? 24_000 : null;
  }

  async connect(request: SessionRequest): Promise<void> {
    this.request = request;
    if (this.outcome) throw this.outcome;
  }
  send(event: ClientEvent): boolean {
    this.sent.push(event);
    return true;
  }
  sendAudio(): boolean {
    return true;
  }
  async useTrack(): Promise<void> {}
  async figures() {
    return { jitterMs: null, gaps: null, roundTripMs: null };
  }
  close(): void {
    this.closed = true;
  }

  /** The server says something. */
  says(value: Record<string, unknown>): void {
    const event = readServerEvent(value);
    if (!event) throw new Error(`the page does not know ${String(value.type)}`);
    this.handlers.event(event);
  }
}

export function started(changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    type: "session.started",
    session: {
      id: "sess_1",
      audio: { format: { type: "audio/pcm", rate: 24_000 } },
      duologue: {
        resume_token: "token",
        resume_window_s: 30,
        resumed: false,
        unit_ms: 1000,
        input_rate: 16_000,
        output_rate: 24_000,
        bundle: { name: "mini", precision: "int8", sha256: "00", random_weights: false, typed: true },
        recording_id: null,
        voices: [],
        suggestions: [],
        limits: { max_session_s: 600, idle_s: 60 },
        ...changes,
      },
    },
  };
}
