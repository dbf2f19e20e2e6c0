/** `window.duologue.stats`: what browser tests read. Read-only; a fresh plain object each time. */

import type { Problem } from "./errors";
import type { Session } from "./session";

/** Levels of the last second, of 20 ms each. */
const KEPT = 50;

export class RollingLevel {
  #squares: number[] = [];

  push(rms: number): void {
    this.#squares.push(rms * rms);
    if (this.#squares.length > KEPT) this.#squares.shift();
  }

  /** Root mean square over what is kept. */
  get rms(): number {
    return Math.sqrt(this.#squares.reduce((sum, square) => sum + square, 0) / Math.max(1, this.#squares.length));
  }
}

export interface Sources {
  session: Session | null;
  heard: RollingLevel;
  muted: boolean;
  problem: Problem | null;
}

function stats({ session, heard, muted, problem }: Sources) {
  const player = session?.player?.status() ?? null;
  return {
    state: session?.state.name ?? "idle",
    transport: session?.kind ?? session?.info?.kind ?? null,
    session_id: session?.info?.id ?? null,
    recording_id: session?.info?.started?.recording_id ?? null,
    problem: problem?.code ?? null,
    muted,
    queue: session?.state.name === "queued" ? { ...session.state } : null,
    captions: structuredClone(session?.captions.items ?? []),
    units: { ...(session?.units ?? { listen: 0, speak: 0 }) },
    player,
    played_samples: player?.played_samples ?? 0,
    /** Of the reply as heard, over the last second, 0..1. */
    output_rms: heard.rms,
    gaps: (player?.gaps ?? 0) + (session?.networkGaps ?? 0),
    resumes: session?.resumes ?? 0,
    dropped_packets: session?.droppedPackets ?? 0,
    interruptions: structuredClone(session?.interruptions.list ?? []),
    unconfirmed_holds: session?.interruptions.unconfirmed ?? 0,
    latency_ms: {
      ttfb: [...(session?.latency.ttfb.values ?? [])],
      ttfa: [...(session?.latency.ttfa.values ?? [])],
      unit: [...(session?.latency.unit.values ?? [])],
      barge_in: [...(session?.latency.bargeIn.values ?? [])],
      round_trip: [...(session?.latency.roundTrip.values ?? [])],
    },
  };
}

export type Stats = ReturnType<typeof stats>;

declare global {
  interface Window {
    readonly duologue: { readonly stats: Stats };
  }
}

export function publishStats(sources: () => Sources): void {
  const hook = {
    get stats() {
      return stats(sources());
    },
  };
  Object.defineProperty(window, "duologue", { value: Object.freeze(hook) });
}
