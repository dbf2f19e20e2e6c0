/** A recorded conversation as the replay page shows it: pure, from the server's timeline. */

import type { RecordingTimeline } from "../protocol/rest";

export interface ReplayUnit {
  startMs: number;
  endMs: number;
  speaks: boolean;
  stale: boolean;
  missed: boolean;
  unitMs: number;
}

export interface ReplayTurn {
  kind: "model";
  startMs: number;
  endMs: number;
  text: string;
  interrupted: boolean;
}

export interface ReplayVoice {
  kind: "user";
  startMs: number;
  endMs: number;
}

export interface Replay {
  durationMs: number;
  units: ReplayUnit[];
  turns: ReplayTurn[];
  voices: ReplayVoice[];
  /** Where the user cut in. */
  flushes: number[];
}

export function readReplay(timeline: RecordingTimeline): Replay {
  const { duration_ms: durationMs, unit_ms: unitMs } = timeline;
  const replay: Replay = { durationMs, units: [], turns: [], voices: [], flushes: [] };
  const turns = new Map<number, ReplayTurn>();
  const turnAt = (turn: number, at: number): ReplayTurn => {
    const known = turns.get(turn);
    if (known) return known;
    const fresh: ReplayTurn = { kind: "model", startMs: at, endMs: durationMs, text: "", interrupted: false };
    turns.set(turn, fresh);
    replay.turns.push(fresh);
    return fresh;
  };
  let voice: ReplayVoice | null = null;
  for (const { at_ms: at, event } of timeline.events) {
    switch (event.type) {
      case "duologue.unit":
        replay.units.push({
          startMs: event.ready_ms - unitMs,
          endMs: event.ready_ms,
          speaks: event.decision === "speak",
          stale: event.stale,
          missed: event.deadline_missed,
          unitMs: event.unit_ms,
        });
        break;
      case "duologue.turn": {
        const turn = turnAt(event.turn, at);
        if (event.state !== "begin") turn.endMs = Math.min(turn.endMs, at);
        if (event.state === "interrupted") turn.interrupted = true;
        break;
      }
      case "session.output_transcript.delta":
        turnAt(event.duologue?.turn ?? 0, at).text += event.delta;
        break;
      case "duologue.flush":
        replay.flushes.push(at);
        for (const [number, turn] of turns) if (number < event.turn) turn.endMs = Math.min(turn.endMs, at);
        break;
      case "duologue.voice":
        if (event.speaking && !voice) {
          voice = { kind: "user", startMs: event.at_ms, endMs: durationMs };
          replay.voices.push(voice);
        } else if (!event.speaking && voice) {
          voice.endMs = Math.max(voice.startMs, event.at_ms);
          voice = null;
        }
        break;
    }
  }
  replay.turns = replay.turns.filter(({ text }) => text.trim() !== "");
  return replay;
}

/** "1:02.5", for a person. */
export function timeText(ms: number, tenths = false): string {
  const total = Math.max(0, ms) / 1000;
  const minutes = Math.floor(total / 60);
  const seconds = tenths ? (Math.floor((total % 60) * 10) / 10).toFixed(1) : String(Math.floor(total % 60));
  return `${minutes}:${seconds.padStart(tenths ? 4 : 2, "0")}`;
}

/** Part of the time axis that is shown. */
export class Window {
  constructor(
    readonly durationMs: number,
    public startMs = 0,
    public spanMs = durationMs,
  ) {}

  /** Narrower (`factor` > 1) or wider around a moment. */
  zoom(factor: number, aroundMs: number): void {
    const share = (aroundMs - this.startMs) / this.spanMs;
    this.spanMs = Math.min(this.durationMs, Math.max(3000, this.spanMs / factor));
    this.moveTo(aroundMs - share * this.spanMs);
  }

  moveTo(startMs: number): void {
    this.startMs = Math.max(0, Math.min(this.durationMs - this.spanMs, startMs));
  }

  /** Turns the page when the play head leaves it. */
  follow(atMs: number): void {
    if (atMs < this.startMs || atMs > this.startMs + this.spanMs) this.moveTo(atMs - 0.08 * this.spanMs);
  }
}

/** Distance between labels of the axis: a round number of seconds that leaves them room. */
export function tickMs(msPerPx: number, roomPx: number): number {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
  return (steps.find((step) => (step * 1000) / msPerPx >= roomPx) ?? 1800) * 1000;
}
