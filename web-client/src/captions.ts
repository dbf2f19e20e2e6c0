/** The conversation in words: what the model says, turn by turn, and how much of it was heard. */

export interface CaptionPiece {
  text: string;
  /** Unit that says it; null with a server that does not tell. */
  unit: number | null;
  /** Place within the turn's audio; null until its speech was made. */
  startMs: number | null;
  endMs: number | null;
  /** What was heard of it, once the server has settled that for an interrupted turn. */
  heard: string | null;
}

export interface CaptionTurn {
  kind: "model";
  turn: number;
  pieces: CaptionPiece[];
  state: "speaking" | "done" | "interrupted";
  /** How far the play head came; text after it was not heard. */
  playedMs: number;
}

export interface CaptionVoice {
  kind: "user";
  startMs: number;
  /** Null while the user speaks. */
  endMs: number | null;
  /** Empty with a model that does not write down what it hears. */
  text: string;
}

/** A remark between turns, such as a resumed connection. */
export interface CaptionNote {
  kind: "note";
  text: string;
}

export type CaptionItem = CaptionTurn | CaptionVoice | CaptionNote;

/** Entries kept on the page. */
const KEPT = 400;
/** Voices closer together than this are one. */
const SAME_VOICE_MS = 1200;

export class Captions {
  readonly items: CaptionItem[] = [];
  /** Session clock of each turn's first text. */
  #origin = new Map<number, number>();
  /** Place of each spoken unit in its turn's audio; speech may be made before its unit is finished. */
  #spans = new Map<number, { startMs: number; endMs: number }>();

  /** Text of a unit; its place in the turn comes with `speech`. */
  append(turn: number, text: string, unit: number): void {
    const { startMs = null, endMs = null } = this.#spans.get(unit) ?? {};
    this.#turnOrNew(turn).pieces.push({ text, unit, startMs, endMs, heard: null });
  }

  /** Text with its place on the session's clock, from a server that says no more. */
  appendAt(turn: number, text: string, startMs: number, endMs: number): void {
    const origin = this.#origin.get(turn) ?? startMs;
    this.#origin.set(turn, origin);
    this.#turnOrNew(turn).pieces.push({ text, unit: null, startMs: startMs - origin, endMs: endMs - origin, heard: null });
  }

  /** A unit's words take this place in the turn's audio; its speech may come in several pieces. */
  speech(turn: number, unit: number, startMs: number, endMs: number): void {
    const known = this.#spans.get(unit);
    const span = { startMs: known?.startMs ?? startMs, endMs: Math.max(known?.endMs ?? 0, endMs) };
    this.#spans.set(unit, span);
    for (const piece of this.#turn(turn)?.pieces ?? []) if (piece.unit === unit) Object.assign(piece, span);
  }

  begin(turn: number): void {
    this.#turnOrNew(turn);
  }

  end(turn: number, state: "done" | "interrupted"): void {
    const entry = this.#turn(turn);
    if (entry) entry.state = state;
  }

  /** Every turn below `turn` that still spoke was interrupted. */
  flush(turn: number): void {
    for (const item of this.items) {
      if (item.kind === "model" && item.turn < turn && item.state === "speaking") item.state = "interrupted";
    }
  }

  /** An interrupted turn was heard so far: of the units in `cut` only that text, the others to their end. */
  truncate(turn: number, cut: Map<number, string>): void {
    for (const piece of this.#turn(turn)?.pieces ?? []) piece.heard = cut.get(piece.unit ?? -1) ?? piece.text;
  }

  played(turn: number, playedMs: number): boolean {
    const entry = this.#turn(turn);
    if (!entry || playedMs <= entry.playedMs) return false;
    entry.playedMs = playedMs;
    return true;
  }

  userVoice(speaking: boolean, atMs: number): void {
    const open = this.items.findLast((item) => item.kind === "user");
    if (!speaking) {
      if (open?.endMs === null) open.endMs = Math.max(open.startMs, atMs);
      return;
    }
    const last = this.items.at(-1);
    if (last?.kind === "user" && last.text === "" && last.endMs !== null && atMs - last.endMs < SAME_VOICE_MS) {
      last.endMs = null;
      return;
    }
    if (open?.endMs !== null) this.#add({ kind: "user", startMs: atMs, endMs: null, text: "" });
  }

  userText(text: string, startMs: number, endMs: number): void {
    const last = this.items.findLast((item) => item.kind === "user");
    if (last) last.text += text;
    else this.#add({ kind: "user", startMs, endMs, text });
  }

  /** What the user typed at this time. */
  typed(text: string, atMs: number): void {
    this.#add({ kind: "user", startMs: atMs, endMs: atMs, text });
  }

  note(text: string): void {
    this.#add({ kind: "note", text });
  }

  /** The conversation as plain text. */
  toText(): string {
    return this.items
      .map((item) => {
        if (item.kind === "model") return `Duologue: ${item.pieces.map(({ text, heard }) => heard ?? text).join("")}`;
        if (item.kind === "user") return `You: ${item.text || `(spoke ${seconds(item)})`}`;
        return `(${item.text})`;
      })
      .join("\n");
  }

  #turn(turn: number): CaptionTurn | undefined {
    return this.items.findLast((item): item is CaptionTurn => item.kind === "model" && item.turn === turn);
  }

  #turnOrNew(turn: number): CaptionTurn {
    const known = this.#turn(turn);
    if (known) return known;
    const entry: CaptionTurn = { kind: "model", turn, pieces: [], state: "speaking", playedMs: 0 };
    this.#add(entry);
    return entry;
  }

  #add(item: CaptionItem): void {
    this.items.push(item);
    if (this.items.length > KEPT) this.items.shift();
  }
}

/** Splits a turn's text at the play head; a piece half played is split at the nearest word. */
export function heard(turn: CaptionTurn): { heard: string; rest: string } {
  let said = "";
  let rest = "";
  for (const { text, startMs, endMs, heard } of turn.pieces) {
    if (heard !== null) {
      said += heard;
      rest += text.slice(heard.length);
    } else if (startMs === null || endMs === null || startMs >= turn.playedMs) rest += text;
    else if (endMs <= turn.playedMs) said += text;
    else {
      const part = Math.round(((turn.playedMs - startMs) / (endMs - startMs)) * text.length);
      const word = text.indexOf(" ", part);
      const cut = word < 0 ? part : word;
      said += text.slice(0, cut);
      rest += text.slice(cut);
    }
  }
  return { heard: said, rest };
}

function seconds({ startMs, endMs }: CaptionVoice): string {
  return endMs === null ? "…" : `${((endMs - startMs) / 1000).toFixed(1)} s`;
}
