/** Entry of the replay page (`/r/{id}`): hears and reads a recorded conversation again. */

import { decodeWav, peaks } from "./audio/wav";
import { fromThrown } from "./errors";
import { HttpError, type RecordingTimeline, readTimeline, request } from "./protocol/rest";
import { type Replay, type ReplayTurn, type ReplayVoice, readReplay, timeText } from "./replay/model";
import { ReplaySound } from "./replay/sound";
import { PEAK_MS, ReplayView } from "./replay/view";
import { browserStore, load } from "./settings";
import { byId, make, offerFile, setText } from "./ui/dom";
import { listenToKeys } from "./ui/keyboard";
import { applyTheme, onSystemTheme } from "./ui/theme";

const STEP_MS = 5000;
const ZOOM = 2;

class ReplayPage {
  readonly #replay: Replay;
  readonly #sound: ReplaySound;
  readonly #view: ReplayView;
  readonly #canvas = byId("wave", HTMLCanvasElement);
  readonly #rows: { element: HTMLElement; item: ReplayTurn | ReplayVoice }[];

  constructor(timeline: RecordingTimeline, audio: Blob, bytes: Uint8Array) {
    const wav = decodeWav(bytes);
    this.#replay = readReplay(timeline);
    this.#sound = new ReplaySound(audio);
    this.#view = new ReplayView(this.#canvas, this.#replay, {
      user: peaks(wav, 0, PEAK_MS),
      model: peaks(wav, Math.min(1, wav.channels - 1), PEAK_MS),
    });
    this.#rows = this.#transcript();
    this.#describe(timeline);
    this.#bind(audio, timeline.id);
    this.#show();
  }

  #describe({ started_at, bundle }: RecordingTimeline): void {
    const date = new Date(started_at * 1000);
    const when = date.toLocaleString(undefined, { dateStyle: "long", timeStyle: "short" });
    setText(byId("title", HTMLElement), when);
    const { units, turns, durationMs, flushes } = this.#replay;
    const spoken = units.filter(({ speaks }) => speaks).length;
    const facts = [
      timeText(durationMs),
      turns.length === 1 ? "1 reply" : `${turns.length} replies`,
      `${spoken} of ${units.length} units spoken`,
      ...(flushes.length > 0 ? [`interrupted ${flushes.length === 1 ? "once" : `${flushes.length} times`}`] : []),
      `${bundle.name}, ${bundle.precision}${bundle.random_weights ? ", random weights" : ""}`,
    ];
    setText(byId("facts", HTMLElement), facts.join("  ·  "));
  }

  #transcript(): { element: HTMLElement; item: ReplayTurn | ReplayVoice }[] {
    const items = [...this.#replay.turns, ...this.#replay.voices].sort((a, b) => a.startMs - b.startMs);
    const rows = items.map((item) => {
      const length = `${((item.endMs - item.startMs) / 1000).toFixed(1)} s`;
      const text = item.kind === "model" ? make("span", "", item.text.trim()) : make("span", "", `You spoke, ${length}`);
      const button = make("button", `entry ${item.kind}`, make("time", "", timeText(item.startMs)), text);
      button.type = "button";
      if (item.kind === "model" && item.interrupted) text.append(make("i", "cut"), make("small", "", " interrupted"));
      button.addEventListener("click", () => this.#seek(item.startMs));
      return { element: button, item };
    });
    byId("transcript", HTMLElement).replaceChildren(...rows.map(({ element }) => make("li", "", element)));
    return rows;
  }

  #bind(audio: Blob, id: string): void {
    const { element } = this.#sound;
    for (const name of ["play", "pause", "seeked", "ended"]) element.addEventListener(name, () => this.#show());
    element.addEventListener("play", () => this.#run());
    const click = (name: string, run: () => void) => byId(name, HTMLButtonElement).addEventListener("click", run);
    const toggle = () => void this.#sound.toggle();
    click("play", toggle);
    click("zoom-in", () => this.#zoom(ZOOM));
    click("zoom-out", () => this.#zoom(1 / ZOOM));
    click("download", () => offerFile(`duologue-${id}.wav`, audio));
    for (const [name, channel] of [["hear-user", 0], ["hear-model", 1]] as const) {
      const box = byId(name, HTMLInputElement);
      box.addEventListener("change", () => this.#sound.voice(channel, box.checked));
    }
    listenToKeys({
      Space: toggle,
      k: toggle,
      arrowleft: () => this.#seek(this.#sound.ms - STEP_MS),
      arrowright: () => this.#seek(this.#sound.ms + STEP_MS),
      home: () => this.#seek(0),
      end: () => this.#seek(this.#replay.durationMs),
      "+": () => this.#zoom(ZOOM),
      "-": () => this.#zoom(1 / ZOOM),
    });
    this.#canvas.addEventListener("pointerdown", (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      this.#seek(this.#view.timeAt(event.offsetX));
    });
    this.#canvas.addEventListener("pointermove", (event) => {
      if (this.#canvas.hasPointerCapture(event.pointerId)) this.#seek(this.#view.timeAt(event.offsetX));
    });
    this.#canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    onSystemTheme(() => this.#view.retheme());
  }

  #wheel(event: WheelEvent): void {
    const { window } = this.#view;
    if (event.ctrlKey) window.zoom(Math.exp(-event.deltaY / 200), this.#view.timeAt(event.offsetX));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      window.moveTo(window.startMs + (event.deltaX / this.#canvas.clientWidth) * window.spanMs);
    } else return;
    event.preventDefault();
    this.#show();
  }

  #zoom(factor: number): void {
    this.#view.window.zoom(factor, this.#sound.ms);
    this.#show();
  }

  #seek(ms: number): void {
    this.#sound.ms = Math.max(0, Math.min(this.#replay.durationMs, ms));
    this.#view.window.follow(this.#sound.ms);
    this.#show();
  }

  #run(): void {
    if (!this.#sound.playing) return;
    this.#view.window.follow(this.#sound.ms);
    this.#show();
    requestAnimationFrame(() => this.#run());
  }

  #show(): void {
    const { ms, playing } = this.#sound;
    this.#view.draw(ms);
    document.body.classList.toggle("playing", playing);
    byId("play", HTMLButtonElement).setAttribute("aria-label", playing ? "Pause" : "Play");
    setText(byId("time", HTMLElement), `${timeText(ms)} / ${timeText(this.#replay.durationMs)}`);
    this.#canvas.setAttribute("aria-valuemax", String(Math.round(this.#replay.durationMs / 1000)));
    this.#canvas.setAttribute("aria-valuenow", String(Math.round(ms / 1000)));
    this.#canvas.setAttribute("aria-valuetext", timeText(ms));
    for (const { element, item } of this.#rows) {
      element.classList.toggle("current", ms >= item.startMs && ms < item.endMs);
    }
  }
}

async function open(): Promise<void> {
  const settings = load(browserStore());
  applyTheme(settings.theme);
  const id = decodeURIComponent(location.pathname.split("/").filter(Boolean).at(-1) ?? "");
  const base = `/v1/duologue/recordings/${encodeURIComponent(id)}`;
  try {
    const [timeline, audio] = await Promise.all([
      request(`${base}/timeline`, settings.key).then((answer) => answer.json()),
      request(`${base}/audio`, settings.key).then((answer) => answer.blob()),
    ]);
    new ReplayPage(readTimeline(timeline), audio, new Uint8Array(await audio.arrayBuffer()));
    document.body.dataset.state = "ready";
  } catch (error) {
    const gone = error instanceof HttpError && error.status === 404;
    const { title, text } = fromThrown(error);
    setText(byId("problem-title", HTMLElement), gone ? "This recording is not here" : title);
    setText(
      byId("problem-text", HTMLElement),
      gone ? "Recordings are removed after some days. Check the address, too." : text,
    );
    document.body.dataset.state = "failed";
  }
}

void open();
