/** Shows the conversation. Rebuilds only entries that changed, and stays at the newest unless the user scrolled up. */

import { type CaptionItem, type Captions, heard } from "../captions";
import { make, setText } from "./dom";

/** A bar of this many pixels per second of speaking, up to a limit. */
const PX_PER_S = 22;
const LONGEST_PX = 220;
/** Counts as "at the end" within this many pixels. */
const NEAR_END_PX = 80;

export class CaptionsView {
  readonly #scroller: HTMLElement;
  readonly #list: HTMLElement;
  #shown = new Map<CaptionItem, { element: HTMLElement; signature: string }>();

  constructor(scroller: HTMLElement, list: HTMLElement) {
    this.#scroller = scroller;
    this.#list = list;
  }

  /** `now` is the clock of the user's voice entries. */
  show(captions: Captions, now: number): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const follow = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    const latest = captions.items.findLast((item) => item.kind === "model");
    const kept = new Map<CaptionItem, { element: HTMLElement; signature: string }>();
    for (const item of captions.items) {
      const signature = JSON.stringify(item) + String(item === latest) + (isOpen(item) ? Math.floor(now / 100) : "");
      const before = this.#shown.get(item);
      const element = before?.element ?? make("div", "");
      if (before?.signature !== signature) fill(element, item, item === latest, now);
      if (!before) this.#list.append(element);
      kept.set(item, { element, signature });
    }
    for (const [item, { element }] of this.#shown) if (!kept.has(item)) element.remove();
    this.#shown = kept;
    if (follow) this.toEnd();
  }

  toEnd(): void {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

function isOpen(item: CaptionItem): boolean {
  return item.kind === "user" && item.endMs === null;
}

function fill(element: HTMLElement, item: CaptionItem, latest: boolean, now: number): void {
  if (item.kind === "note") {
    element.className = "note";
    setText(element, item.text);
    return;
  }
  if (item.kind === "user") {
    element.className = "said";
    if (item.text !== "") return element.replaceChildren(make("p", "", item.text));
    const seconds = Math.max(0, (item.endMs ?? now) - item.startMs) / 1000;
    const bar = make("i", "");
    bar.style.width = `${Math.min(LONGEST_PX, 6 + seconds * PX_PER_S)}px`;
    return element.replaceChildren(make("span", "", `You, ${seconds.toFixed(1)} s`), bar);
  }
  const parts = heard(item);
  element.className = `turn ${item.state}${latest ? " latest" : ""}`;
  const complete = item.state === "done" && !latest;
  const rest = complete ? "" : parts.rest;
  const cut = item.state === "interrupted" && rest.trim() !== "";
  element.replaceChildren(
    make("span", "", complete ? parts.heard + parts.rest : parts.heard),
    ...(cut ? [make("i", "cut")] : []),
    make("span", "rest", cut ? rest.trimStart() : rest),
  );
}
