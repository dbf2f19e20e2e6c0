/** The latency panel: newest value of each figure, the 95th percentile below, the median in the tooltip. */

import type { Figure, LatencyMeter } from "../latency";
import { make } from "./dom";

export interface FigureSources {
  latency: LatencyMeter;
  gaps: number;
  kind: "websocket" | "webrtc" | null;
}

interface Row {
  name: string;
  meaning: string;
  value(sources: FigureSources): Shown;
}

interface Shown {
  text: string;
  unit: string;
  /** In small type under the value. */
  below: string;
  /** For the tooltip; "" where there is none. */
  median: string;
}

const NONE: Shown = { text: "–", unit: "", below: "", median: "" };

const ROWS: Row[] = [
  {
    name: "TTFB",
    meaning: "Time to first byte: from the end of the second of audio that made the model speak to the first audio of its reply, on the server",
    value: ({ latency }) => time(latency.ttfb.figure()),
  },
  {
    name: "TTFA",
    meaning: "Time to first audio: from the last sound of your voice to the first sound of the reply, here",
    value: ({ latency }) => time(latency.ttfa.figure()),
  },
  {
    name: "Unit time",
    meaning: "From a complete second of audio to its finished unit, on the server",
    value: ({ latency }) => time(latency.unit.figure()),
  },
  {
    name: "RTF",
    meaning: "Real-time factor: unit time as a part of the unit's length",
    value: ({ latency }) => ratio(latency.rtf.figure()),
  },
  {
    name: "Barge-in",
    meaning: "From the first sound of your interruption to the last sound of the reply, here",
    value: ({ latency }) => time(latency.bargeIn.figure()),
  },
  {
    name: "Gaps",
    meaning: "Times the reply stuttered because audio came too late; below, units that missed their deadline",
    value: ({ latency, gaps, kind }) =>
      kind === null ? NONE : { text: String(gaps), unit: "", below: lateUnits(latency.missedDeadlines), median: "" },
  },
  {
    name: "Jitter",
    meaning: "Unevenness of the reply audio's arrival",
    value: ({ latency }) => time(latency.jitter.figure()),
  },
  {
    name: "Round trip",
    meaning: "A message to the server and back",
    value: ({ latency }) => time(latency.roundTrip.figure()),
  },
];

export class Figures {
  readonly #groups: HTMLElement[];

  constructor(list: HTMLElement) {
    this.#groups = ROWS.map(({ name, meaning }) => {
      const group = make("div", "", make("dt", "", name), make("dd", "", "–"));
      group.title = meaning;
      return group;
    });
    list.replaceChildren(...this.#groups);
  }

  show(sources: FigureSources): void {
    ROWS.forEach((row, i) => {
      const { text, unit, below, median } = row.value(sources);
      const group = this.#groups[i];
      if (!group) return;
      group.title = median === "" ? row.meaning : `${row.meaning}. Median ${median}`;
      group.lastElementChild?.replaceChildren(
        text,
        ...(unit === "" ? [] : [make("small", "", ` ${unit}`)]),
        make("span", "range", below === "" ? "\u00a0" : below),
      );
    });
  }
}

function lateUnits(count: number): string {
  return count === 0 ? "" : count === 1 ? "1 late unit" : `${count} late units`;
}

function time(figure: Figure | null): Shown {
  if (!figure) return NONE;
  const [text, unit] = milliseconds(figure.last);
  return { text, unit, below: `p95 ${milliseconds(figure.p95).join(" ")}`, median: milliseconds(figure.p50).join(" ") };
}

function ratio(figure: Figure | null): Shown {
  if (!figure) return NONE;
  return { text: figure.last.toFixed(2), unit: "", below: `p95 ${figure.p95.toFixed(2)}`, median: figure.p50.toFixed(2) };
}

function milliseconds(ms: number): [text: string, unit: string] {
  if (ms >= 1000) return [(ms / 1000).toFixed(2), "s"];
  return [ms >= 10 ? ms.toFixed(0) : ms.toFixed(1), "ms"];
}
