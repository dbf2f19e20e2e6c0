/** Keeps a phone's screen on during a conversation: a dark screen closes the microphone. */

/** Until `wanted` is false; browsers give the lock back whenever the page is hidden, so it is asked for again then. */
export async function keepAwake(wanted: () => boolean): Promise<void> {
  if (!("wakeLock" in navigator) || !wanted() || document.visibilityState !== "visible") return;
  try {
    const lock = await navigator.wakeLock.request("screen");
    const check = setInterval(() => !wanted() && void lock.release(), 1000);
    lock.addEventListener("release", () => {
      clearInterval(check);
      if (wanted()) document.addEventListener("visibilitychange", () => void keepAwake(wanted), { once: true });
    });
  } catch {
    // A phone that saves its battery refuses; the conversation goes on as long as the screen stays on by itself.
  }
}
