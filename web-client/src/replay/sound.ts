/** Plays a stereo recording, each voice with its own switch, both in the middle. */

export class ReplaySound {
  readonly element: HTMLAudioElement;
  #context: AudioContext | null = null;
  #gains: GainNode[] = [];
  #on = [true, true];

  constructor(audio: Blob) {
    this.element = new Audio(URL.createObjectURL(audio));
    this.element.preload = "auto";
  }

  get ms(): number {
    return this.element.currentTime * 1000;
  }

  set ms(ms: number) {
    this.element.currentTime = ms / 1000;
  }

  get playing(): boolean {
    return !this.element.paused;
  }

  async toggle(): Promise<void> {
    if (this.playing) return this.element.pause();
    this.#connect();
    await this.#context?.resume();
    await this.element.play();
  }

  /** Channel 0 is the user, 1 the model. */
  voice(channel: 0 | 1, on: boolean): void {
    this.#on[channel] = on;
    const gain = this.#gains[channel];
    if (gain) gain.gain.value = on ? 1 : 0;
  }

  /** Needs a gesture, so it is done at the first play. */
  #connect(): void {
    if (this.#context) return;
    const context = new AudioContext();
    this.#context = context;
    const splitter = context.createChannelSplitter(2);
    context.createMediaElementSource(this.element).connect(splitter);
    this.#gains = this.#on.map((on, channel) => {
      const gain = context.createGain();
      gain.gain.value = on ? 1 : 0;
      splitter.connect(gain, channel);
      gain.connect(context.destination);
      return gain;
    });
  }
}
