/** The talking page: user's wishes in, one conversation at a time, everything shown. */

import { BROWSER_CLOCK } from "./clock";
import { Engine, microphoneOf } from "./engine";
import { type Problem, fromThrown, problem } from "./errors";
import { RollingLevel, publishStats } from "./hook";
import type { ServerConfig } from "./protocol/rest";
import type { ServerEventOf } from "./protocol/server";
import { ServerAccess, sessionRequest } from "./server-access";
import { Session } from "./session";
import type { SessionState } from "./session-state";
import { type Settings, type Store, kindsToTry, save } from "./settings";
import { CaptionsView } from "./ui/captions-view";
import { byId, offerFile } from "./ui/dom";
import { Figures } from "./ui/figures";
import { listenToKeys } from "./ui/keyboard";
import { Meter } from "./ui/meter";
import { KIND_NAMES, Page, liveDetail } from "./ui/page";
import { SettingsSheet } from "./ui/settings-sheet";
import { Strip } from "./ui/strip";
import { keepAwake } from "./ui/wake";
import { applyTheme, onSystemTheme } from "./ui/theme";

const TICK_MS = 100;
/** Figures change calmly. */
const FIGURES_EVERY = 5;

export class App {
  readonly #settings: Settings;
  readonly #store: Store;
  readonly #server: ServerAccess;
  readonly #page = new Page();
  readonly #sheet: SettingsSheet;
  readonly #strip = new Strip(byId("strip", HTMLCanvasElement));
  readonly #captions = new CaptionsView(byId("conversation", HTMLElement), byId("captions", HTMLElement));
  readonly #figures = new Figures(byId("figures", HTMLElement));
  readonly #replyMeter = new Meter(byId("meter-model", HTMLElement));
  readonly #userMeter = new Meter(byId("meter-user", HTMLElement));
  readonly #heard = new RollingLevel();
  #engine: Engine | null = null;
  #session: Session | null = null;
  /** Counts attempts, so that one that was cancelled while it opened notices. */
  #attempt = 0;
  #opening = false;
  #muted = false;
  #fellBack = false;
  #liveSince = 0;
  #ticks = 0;
  #problem: Problem | null = null;

  constructor(settings: Settings, store: Store) {
    this.#settings = settings;
    this.#store = store;
    this.#server = new ServerAccess(settings);
    this.#sheet = new SettingsSheet(settings, (name) => void this.#settingChanged(name));
    this.#bind();
    applyTheme(settings.theme);
    this.#strip.retheme();
    onSystemTheme(() => this.#strip.retheme());
    this.#page.figures(settings.figures);
    this.#page.status("idle", "Ready");
    setInterval(() => this.#tick(), TICK_MS);
    publishStats(() => ({ session: this.#session, heard: this.#heard, muted: this.#muted, problem: this.#problem }));
    if (!window.isSecureContext) this.#fail(problem("insecure_context"));
    void this.#showServer();
  }

  async toggle(): Promise<void> {
    if (this.#opening || (this.#session && !this.#session.ended)) return this.#stop();
    const attempt = ++this.#attempt;
    this.#opening = true;
    this.#fellBack = false;
    this.#problem = null;
    this.#muted = false;
    this.#page.muted(false);
    this.#page.status("connecting", "Opening the microphone");
    try {
      // Before the microphone is asked for, which nobody likes to allow in vain.
      if (!this.#server.config) await this.#showServer();
      const config = this.#server.usable();
      const engine = await Engine.open(this.#settings);
      if (attempt !== this.#attempt) return engine.close();
      this.#engine = engine;
      await this.#converse(engine, config);
    } catch (error) {
      if (attempt === this.#attempt) this.#fail(fromThrown(error));
    } finally {
      if (attempt === this.#attempt) this.#opening = false;
    }
  }

  #stop(): void {
    this.#attempt += 1;
    this.#opening = false;
    if (this.#session && !this.#session.ended) return this.#session.stop();
    this.#quiet();
    this.#page.status("idle", "Ready");
  }

  async #converse(engine: Engine, config: ServerConfig): Promise<void> {
    void this.#sheet.refreshDevices();
    const session = new Session(
      {
        kinds: kindsToTry(this.#settings.transport, config.transports),
        open: (kind) => engine.transport(kind, this.#settings.key, this.#server.iceServers),
        request: sessionRequest(this.#settings, this.#sheet.voice?.wav ?? null, config),
        clock: BROWSER_CLOCK,
        audioNow: () => engine.output.now,
        voice: () => engine.capture.voice.latest,
        packets: (rate) => engine.capture.sendPackets(rate),
        diagnose: () => this.#server.diagnose(),
      },
      {
        state: (state) => this.#state(state),
        captions: () => this.#captions.show(session.captions, performance.now()),
        unit: (unit) => this.#unit(unit),
        stopped: (kind) => this.#strip.mark(kind),
        remark: (text) => this.#page.remark(text),
      },
    );
    this.#session = session;
    void keepAwake(() => this.#session === session && !session.ended);
    this.#connect(engine, session);
    this.#strip.start();
    this.#captions.show(session.captions, performance.now());
    await session.start();
  }

  /** The engine's levels and packets to where they belong. */
  #connect(engine: Engine, session: Session): void {
    engine.capture.muted = this.#muted;
    engine.capture.onLevel = (rms, at) => {
      this.#userMeter.level(rms);
      this.#strip.userLevel(rms, at);
    };
    engine.onReplyLevel = (rms, at) => {
      this.#heard.push(rms);
      this.#replyMeter.level(rms);
      this.#strip.replyLevel(rms, at);
    };
    engine.capture.onPacket = (samples) => session.sendAudio(samples);
    engine.capture.onVoice = (speaking) => session.userVoice(speaking);
    engine.capture.onLost = () => void this.#microphoneLost();
    engine.output.context.onstatechange = () => this.#soundState(engine);
  }

  #state(state: SessionState): void {
    const session = this.#session;
    switch (state.name) {
      case "connecting":
        this.#fellBack = state.note !== "";
        return this.#page.status("connecting", state.note === "" ? "Connecting" : `${state.note}, trying ${KIND_NAMES[state.kind]}`);
      case "queued":
        this.#page.queue(state.position, state.waitS);
        return this.#page.status("queued", "Waiting for a place");
      case "live":
        if (session?.resumes === 0) this.#liveSince = performance.now();
        if (this.#fellBack && session?.resumes === 0) this.#page.remark("WebRTC could not connect, so this goes over WebSocket.");
        this.#page.conversation();
        this.#page.typing(session?.info?.started?.bundle.typed === true);
        this.#page.recording(Boolean(session?.info?.started?.recording_id));
        return this.#showLive();
      case "reconnecting":
        return this.#page.status("reconnecting", "Connection lost, picking it up");
      case "ended":
        return this.#ended(state.problem);
    }
  }

  #showLive(): void {
    const kind = this.#session?.kind;
    if (!kind) return;
    const detail = liveDetail(kind, this.#fellBack, performance.now() - this.#liveSince);
    this.#page.status("live", this.#muted ? "Muted" : "Live", detail);
  }

  #ended(reason: Problem | null): void {
    this.#quiet();
    this.#problem = reason;
    const info = this.#session?.info;
    if (!info) {
      this.#page.status("idle", "Ready");
      return reason ? this.#page.problem(reason) : this.#page.welcome();
    }
    const turns = this.#session?.captions.items.filter((item) => item.kind === "model").length ?? 0;
    const minutes = liveDetail(info.kind, false, performance.now() - this.#liveSince).split(" · ")[1] ?? "";
    this.#page.status("idle", "Ended", minutes);
    this.#page.after(`${turns === 1 ? "1 reply" : `${turns} replies`} in ${minutes}`, reason, info.started?.recording_id ?? null);
    this.#captions.toEnd();
  }

  #fail(reason: Problem): void {
    this.#quiet();
    this.#problem = reason;
    this.#page.status("idle", "Ready");
    this.#page.problem(reason);
  }

  /** Microphone and sound off. */
  #quiet(): void {
    this.#engine?.close();
    this.#engine = null;
    this.#strip.stop();
    this.#replyMeter.clear();
    this.#userMeter.clear();
    this.#page.recording(false);
    this.#page.typing(false);
  }

  #unit(unit: ServerEventOf<"duologue.unit">): void {
    const end = this.#session?.serverClock.toLocal(unit.ready_ms);
    if (end === null || end === undefined) return;
    const length = this.#session?.info?.started?.unit_ms ?? 1000;
    this.#strip.unit({
      start: end - length,
      end,
      speaks: unit.decision === "speak",
      stale: unit.stale,
      missed: unit.deadline_missed,
    });
  }

  #tick(): void {
    const session = this.#session;
    if (session?.state.name === "live") {
      this.#showLive();
      this.#captions.show(session.captions, performance.now());
    }
    if (session && this.#ticks++ % FIGURES_EVERY === 0 && this.#settings.figures) {
      const gaps = (session.player?.status().gaps ?? 0) + session.networkGaps;
      this.#figures.show({ latency: session.latency, gaps, kind: session.kind ?? session.info?.kind ?? null });
    }
  }

  #mute(): void {
    if (!this.#engine) return;
    this.#muted = !this.#muted;
    this.#engine.capture.muted = this.#muted;
    this.#page.muted(this.#muted);
    if (this.#session?.state.name === "live") this.#showLive();
  }

  #showFigures(): void {
    this.#settings.figures = !this.#settings.figures;
    this.#page.figures(this.#settings.figures);
    this.#figuresNow();
    save(this.#store, this.#settings);
  }

  #figuresNow(): void {
    this.#ticks = 0;
    this.#tick();
  }

  async #settingChanged(name: keyof Settings): Promise<void> {
    save(this.#store, this.#settings);
    if (name === "theme") {
      applyTheme(this.#settings.theme);
      this.#strip.retheme();
    }
    if (name === "key") await this.#showServer();
    const engine = this.#engine;
    if (!engine) return;
    try {
      if (name === "speaker") await engine.output.choose(this.#settings.speaker);
      if (["microphone", "echoCancellation", "noiseSuppression", "autoGainControl"].includes(name)) {
        await this.#useMicrophone(engine);
      }
    } catch (error) {
      this.#page.remark(fromThrown(error).title);
    }
  }

  async #useMicrophone(engine: Engine): Promise<void> {
    await engine.capture.use(microphoneOf(this.#settings));
    await this.#session?.useTrack(engine.capture.track);
  }

  async #microphoneLost(): Promise<void> {
    if (!this.#engine) return;
    this.#page.remark("The microphone was disconnected; the system's default is used now.");
    this.#settings.microphone = "";
    await this.#settingChanged("microphone");
  }

  /** Phones stop the sound for a call or another app; only a touch may start it again. */
  #soundState(engine: Engine): void {
    const { context } = engine.output;
    if (context.state === "running" || context.state === "closed") return;
    this.#page.remark("The sound was paused. Touch the page to go on.");
    document.addEventListener("pointerdown", () => void context.resume(), { once: true });
  }

  async #showServer(): Promise<void> {
    const config = await this.#server.load();
    this.#sheet.showConfig(config);
    this.#page.suggestions(config?.suggestions ?? []);
    byId("random-weights", HTMLElement).hidden = config?.bundle.random_weights !== true;
  }

  async #saveRecording(): Promise<void> {
    const id = this.#session?.info?.id;
    if (id === undefined) return;
    try {
      offerFile(`duologue-${id}.wav`, await this.#server.recording(id));
    } catch (error) {
      this.#page.remark(`The recording could not be downloaded. ${fromThrown(error).text}`);
    }
  }

  #bind(): void {
    const click = (id: string, run: () => void) => byId(id, HTMLButtonElement).addEventListener("click", run);
    const actions = {
      Space: () => void this.toggle(),
      m: () => this.#mute(),
      i: () => this.#session?.interrupt(),
      l: () => this.#session?.forceListen(),
      t: () => this.#page.focusTyping(),
      f: () => this.#showFigures(),
      s: () => this.#sheet.open(),
    };
    listenToKeys(actions);
    click("talk", actions.Space);
    click("mute", actions.m);
    click("interrupt", actions.i);
    click("force-listen", actions.l);
    click("show-figures", actions.f);
    click("open-settings", actions.s);
    click("problem-settings", () => this.#sheet.open(this.#problem?.code === "unauthorized" ? "key" : "microphone"));
    this.#page.onTyped((text) => this.#session?.type(text));
    click("save-recording", () => void this.#saveRecording());
    click("save-transcript", () => {
      const text = this.#session?.captions.toText() ?? "";
      offerFile("duologue.txt", new Blob([text], { type: "text/plain" }));
    });
    window.addEventListener("pagehide", () => this.#session?.stop());
  }
}
