/** Shows the state of the conversation on the page: which section, which words, which buttons. */

import type { Problem } from "../errors";
import type { TransportKind } from "../transport/transport";
import { byId, make, setText } from "./dom";

export type PageState = "idle" | "connecting" | "queued" | "live" | "reconnecting";

export const KIND_NAMES: Record<TransportKind, string> = { websocket: "WebSocket", webrtc: "WebRTC" };
const REMARK_MS = 6000;

export class Page {
  readonly #sections = ["welcome", "queue", "problem", "conversation"].map((id) => byId(id, HTMLElement));
  readonly #status = byId("status-text", HTMLElement);
  readonly #detail = byId("status-detail", HTMLElement);
  readonly #remark = byId("remark", HTMLElement);
  readonly #talk = byId("talk", HTMLButtonElement);
  #remarkTimer: ReturnType<typeof setTimeout> | undefined;

  /** The state's word, and more in softer ink. */
  status(state: PageState, text: string, detail = ""): void {
    document.body.dataset.state = state;
    setText(this.#status, text);
    setText(this.#detail, detail);
    setText(byId("talk-label", HTMLElement), TALK_LABELS[state]);
    this.#talk.title = state === "idle" ? "Talk (Space)" : "Stop (Space)";
    for (const id of ["mute", "interrupt", "force-listen"]) {
      byId(id, HTMLButtonElement).disabled = state !== "live" && !(id === "mute" && state !== "idle");
    }
  }

  detail(text: string): void {
    setText(this.#detail, text);
  }

  welcome(): void {
    this.#only("welcome");
  }

  /** Questions that the model can answer. */
  suggestions(questions: string[]): void {
    const list = byId("suggestions", HTMLElement);
    list.hidden = questions.length === 0;
    list.replaceChildren(...questions.map((question) => make("li", "", `“${question}”`)));
  }

  conversation(): void {
    this.#only("conversation");
    byId("after", HTMLElement).hidden = true;
  }

  queue(position: number, waitS: number): void {
    this.#only("queue");
    setText(byId("queue-position", HTMLElement), String(position));
    setText(byId("queue-title", HTMLElement), position === 1 ? "You are next" : "Your place in line");
    setText(byId("queue-text", HTMLElement), `${waitWords(waitS)} It starts by itself; just stay on this page.`);
  }

  problem({ code, title, text }: Problem): void {
    this.#only("problem");
    setText(byId("problem-title", HTMLElement), title);
    setText(byId("problem-text", HTMLElement), text);
    byId("problem-settings", HTMLButtonElement).hidden = !["unauthorized", "microphone_busy", "no_microphone"].includes(code);
  }

  /** The conversation is over and stays to be read; a `problem` says why it ended early. */
  after(summary: string, problem: Problem | null, recordingId: string | null): void {
    byId("after", HTMLElement).hidden = false;
    setText(byId("after-text", HTMLElement), problem ? `${problem.title}. ${problem.text}` : summary);
    byId("after", HTMLElement).classList.toggle("failed", problem !== null);
    byId("save-recording", HTMLButtonElement).hidden = recordingId === null;
    const replay = byId("open-replay", HTMLAnchorElement);
    replay.hidden = recordingId === null;
    if (recordingId !== null) replay.href = `/r/${encodeURIComponent(recordingId)}`;
  }

  /** A message that goes away by itself. */
  remark(text: string): void {
    setText(this.#remark, text);
    this.#remark.hidden = false;
    clearTimeout(this.#remarkTimer);
    this.#remarkTimer = setTimeout(() => (this.#remark.hidden = true), REMARK_MS);
  }

  /** The field for typed questions, where the model reads them. */
  typing(possible: boolean): void {
    byId("type", HTMLFormElement).hidden = !possible;
  }

  focusTyping(): void {
    byId("typed", HTMLInputElement).focus();
  }

  onTyped(send: (text: string) => void): void {
    const field = byId("typed", HTMLInputElement);
    byId("type", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text !== "") send(text);
      field.value = "";
    });
  }

  muted(muted: boolean): void {
    byId("mute", HTMLButtonElement).setAttribute("aria-pressed", String(muted));
  }

  recording(on: boolean): void {
    byId("recording-badge", HTMLElement).hidden = !on;
  }

  figures(shown: boolean): void {
    byId("figures", HTMLElement).hidden = !shown;
    byId("show-figures", HTMLButtonElement).setAttribute("aria-pressed", String(shown));
  }

  #only(id: string): void {
    for (const section of this.#sections) section.hidden = section.id !== id;
  }
}

const TALK_LABELS: Record<PageState, string> = {
  idle: "Talk",
  connecting: "Cancel",
  queued: "Leave",
  live: "Stop",
  reconnecting: "Stop",
};

/** "WebRTC · 1:02". */
export function liveDetail(kind: TransportKind, fellBack: boolean, elapsedMs: number): string {
  const seconds = Math.floor(elapsedMs / 1000);
  const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  return `${KIND_NAMES[kind]}${fellBack ? " (fall-back)" : ""} · ${time}`;
}

export function waitWords(seconds: number): string {
  if (seconds < 10) return "Only a few seconds.";
  if (seconds < 90) return `About ${Math.round(seconds / 10) * 10} seconds.`;
  return `About ${Math.round(seconds / 60)} minutes.`;
}
