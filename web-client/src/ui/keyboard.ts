/** Keys of the page. Where a key means something to the focused element (typing, a button's space), it stays with it. */

export type KeyActions = Record<string, () => void>;

export function listenToKeys(actions: KeyActions): void {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (document.querySelector("dialog[open]")) return;
    const target = event.target instanceof HTMLElement ? event.target : null;
    if (target?.closest("input, textarea, select")) return;
    const name = event.key === " " ? "Space" : event.key.toLowerCase();
    if (name === "Space" && target?.closest("button, a")) return;
    const action = actions[name];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
