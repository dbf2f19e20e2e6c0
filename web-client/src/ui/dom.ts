/** The page's elements by id, and small ways to make and change them. */

/** The element with this id; the page is broken without it. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page has no #${id}`);
  return element;
}

/** A new element with a class and content. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.append(...children);
  return element;
}

/** Sets text only when it changes, which keeps screen readers quiet. */
export function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Offers bytes or text as a file. */
export function offerFile(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // The download has begun by then; the address holds the memory until it is revoked.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function prefersReducedMotion(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Colours of the theme for canvases. */
export interface Palette {
  model: string;
  modelSoft: string;
  user: string;
  userSoft: string;
  rule: string;
  faint: string;
  soft: string;
  ink: string;
  alert: string;
}

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  return {
    model: colour("--model"),
    modelSoft: colour("--model-soft"),
    user: colour("--user"),
    userSoft: colour("--user-soft"),
    rule: colour("--rule"),
    faint: colour("--ink-faint"),
    soft: colour("--ink-soft"),
    ink: colour("--ink"),
    alert: colour("--alert"),
  };
}

/** Makes a canvas as sharp as the screen; returns its drawing context in CSS pixels. */
export function prepareCanvas(canvas: HTMLCanvasElement): { ctx: CanvasRenderingContext2D; width: number; height: number } {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const ctx = canvas.getContext("2d");
  if (!ctx) throw new Error("this browser draws no canvas");
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return { ctx, width, height };
}
