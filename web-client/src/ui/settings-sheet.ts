/** The settings sheet: shows `Settings`, changes them, and says which changed. */

import { ProblemError } from "../errors";
import type { ServerConfig } from "../protocol/rest";
import type { Settings } from "../settings";
import { type VoiceReference, readVoice } from "../voice-file";
import { DevicePicker, canChooseSpeaker, listDevices, option } from "./devices";
import { byId, setText } from "./dom";

const DEFAULT_HINT = "One speaker, half a second to 17 seconds. Only voices you may use.";
const DEFAULT_MAX_UPLOAD = 4 << 20;

type Texts = "instructions" | "voice" | "bargeIn" | "window" | "microphone" | "speaker" | "key";
type Switches = "echoCancellation" | "noiseSuppression" | "autoGainControl" | "record";

export class SettingsSheet {
  /** The user's own voice for the reply; kept until the page closes. */
  voice: VoiceReference | null = null;
  readonly #dialog = byId("settings", HTMLDialogElement);
  readonly #settings: Settings;
  readonly #changed: (name: keyof Settings) => void;
  readonly #microphones = new DevicePicker(byId("microphone", HTMLSelectElement), "audioinput");
  readonly #speakers = new DevicePicker(byId("speaker", HTMLSelectElement), "audiooutput");
  #maxUpload = DEFAULT_MAX_UPLOAD;

  /** `settings` is changed in place; `changed` is told each time. */
  constructor(settings: Settings, changed: (name: keyof Settings) => void) {
    this.#settings = settings;
    this.#changed = changed;
    this.#bindText("instructions", byId("instructions", HTMLTextAreaElement));
    this.#bindText("voice", byId("voice", HTMLSelectElement));
    this.#bindText("bargeIn", byId("barge-in", HTMLSelectElement));
    this.#bindText("window", byId("window", HTMLSelectElement));
    this.#bindText("microphone", byId("microphone", HTMLSelectElement));
    this.#bindText("speaker", byId("speaker", HTMLSelectElement));
    this.#bindText("key", byId("key", HTMLInputElement));
    this.#bindSwitch("echoCancellation", "echo");
    this.#bindSwitch("noiseSuppression", "noise");
    this.#bindSwitch("autoGainControl", "gain");
    this.#bindSwitch("record", "record");
    this.#bindRadios("transport");
    this.#bindRadios("theme");
    this.#bindVoiceFile();
    byId("speaker-row", HTMLElement).hidden = !canChooseSpeaker();
    navigator.mediaDevices?.addEventListener("devicechange", () => void this.refreshDevices());
    this.#dialog.addEventListener("click", ({ target }) => target === this.#dialog && this.#dialog.close());
    this.showConfig(null);
    void this.refreshDevices();
  }

  open(focus?: string): void {
    void this.refreshDevices();
    this.#dialog.showModal();
    if (focus !== undefined) document.getElementById(focus)?.focus();
  }

  async refreshDevices(): Promise<void> {
    const devices = await listDevices();
    this.#microphones.show(devices, this.#settings.microphone);
    this.#speakers.show(devices, this.#settings.speaker);
  }

  /** What the server offers; null while it is not known. */
  showConfig(config: ServerConfig | null): void {
    const voices = config?.voices ?? [];
    const select = byId("voice", HTMLSelectElement);
    select.replaceChildren(option("", "The server's voice"), ...voices.map((name) => option(name, name)));
    if (config && !voices.includes(this.#settings.voice)) this.#settings.voice = "";
    select.value = this.#settings.voice;
    byId("record-row", HTMLElement).hidden = config?.recording.available !== true;
    byId("key-row", HTMLElement).hidden = config?.auth_required === false && this.#settings.key === "";
    if (!config) return;
    this.#maxUpload = config.max_upload_bytes;
    const days = config.recording.retention_days;
    setText(byId("record-hint", HTMLElement), `Both voices, kept on the server for ${days === 1 ? "1 day" : `${days} days`}`);
    const { name, precision, sha256, random_weights } = config.bundle;
    setText(
      byId("bundle-line", HTMLElement),
      `Model ${name}, ${precision}${random_weights ? ", random weights" : ""}, ${sha256.slice(0, 12)}`,
    );
  }

  #bindText(name: Texts, input: HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement): void {
    input.value = this.#settings[name];
    input.addEventListener("change", () => {
      // The options of a select are those of the setting's type.
      (this.#settings[name] as string) = input.value;
      this.#changed(name);
    });
  }

  #bindSwitch(name: Switches, id: string): void {
    const input = byId(id, HTMLInputElement);
    input.checked = this.#settings[name];
    input.addEventListener("change", () => {
      this.#settings[name] = input.checked;
      this.#changed(name);
    });
  }

  #bindRadios(name: "transport" | "theme"): void {
    for (const input of this.#dialog.querySelectorAll<HTMLInputElement>(`input[name="${name}"]`)) {
      input.checked = input.value === this.#settings[name];
      input.addEventListener("change", () => {
        (this.#settings[name] as string) = input.value;
        this.#changed(name);
      });
    }
  }

  #bindVoiceFile(): void {
    const input = byId("voice-file", HTMLInputElement);
    byId("choose-voice", HTMLButtonElement).addEventListener("click", () => input.click());
    byId("drop-voice", HTMLButtonElement).addEventListener("click", () => this.#setVoice(null, DEFAULT_HINT));
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      input.value = "";
      if (file) void this.#takeVoice(file);
    });
  }

  async #takeVoice(file: File): Promise<void> {
    try {
      const voice = await readVoice(file, this.#maxUpload);
      const length = `${voice.seconds.toFixed(1)} s`;
      this.#setVoice(voice, voice.cut ? `${voice.name}: its first ${length} are used.` : `${voice.name}, ${length}`);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.#setVoice(null, `${error.problem.title}. ${error.problem.text}`);
    }
  }

  #setVoice(voice: VoiceReference | null, hint: string): void {
    this.voice = voice;
    byId("drop-voice", HTMLButtonElement).hidden = voice === null;
    byId("voice", HTMLSelectElement).disabled = voice !== null;
    setText(byId("voice-hint", HTMLElement), hint);
  }
}
