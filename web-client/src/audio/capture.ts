/** The microphone: permission, device, processing switches, level, packets and mute. */

import { ProblemError, problem } from "../errors";
import type { AudioOutput } from "./context";
import { decibel } from "./pcm";
import { VoiceTracker } from "./voice";
import type { CaptureCommand, CaptureMessage } from "./worklets/messages";

export interface MicrophoneChoice {
  /** "" is the system's default. */
  deviceId: string;
  echoCancellation: boolean;
  noiseSuppression: boolean;
  autoGainControl: boolean;
}

export class Capture {
  /** Level of every 20 ms (0..1) as the server gets it, with its time on the page's clock: 0 while muted. */
  onLevel: (rms: number, at: number) => void = () => {};
  /** A packet of the rate given to `sendPackets`. */
  onPacket: (samples: Int16Array) => void = () => {};
  /** The device was unplugged or taken away. */
  onLost: () => void = () => {};
  /** Speaking began or ended. */
  onVoice: (speaking: boolean) => void = () => {};
  readonly voice = new VoiceTracker();

  readonly #output: AudioOutput;
  readonly #node: AudioWorkletNode;
  #source: MediaStreamAudioSourceNode | null = null;
  #stream: MediaStream | null = null;
  #muted = false;
  #closed = false;

  private constructor(output: AudioOutput) {
    this.#output = output;
    this.#node = new AudioWorkletNode(output.context, "duologue-capture", { numberOfInputs: 1, numberOfOutputs: 1 });
    // Its output is silence; without a way to the speaker the browser would not run it.
    this.#node.connect(output.context.destination);
    this.#node.port.onmessage = ({ data }: MessageEvent<CaptureMessage>) => this.#message(data);
  }

  static async open(output: AudioOutput, choice: MicrophoneChoice): Promise<Capture> {
    const capture = new Capture(output);
    await capture.use(choice);
    return capture;
  }

  /** Opens another device, or the same with other processing; the old one is closed after. */
  async use(choice: MicrophoneChoice): Promise<void> {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new ProblemError(problem(window.isSecureContext ? "unsupported_browser" : "insecure_context"));
    }
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: {
        ...(choice.deviceId === "" ? {} : { deviceId: { exact: choice.deviceId } }),
        channelCount: 1,
        echoCancellation: choice.echoCancellation,
        noiseSuppression: choice.noiseSuppression,
        autoGainControl: choice.autoGainControl,
      },
    });
    if (this.#closed) {
      // The conversation ended while the browser asked for the device.
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#release();
    this.#stream = stream;
    this.track.enabled = !this.#muted;
    this.track.onended = () => this.onLost();
    this.#source = this.#output.context.createMediaStreamSource(stream);
    this.#source.connect(this.#node);
  }

  /** The track WebRTC sends. */
  get track(): MediaStreamTrack {
    const track = this.#stream?.getAudioTracks()[0];
    if (!track) throw new Error("the microphone is not open");
    return track;
  }

  /** Packets of this rate from now on; null stops them. */
  sendPackets(rate: number | null): void {
    this.#command({ type: "packets", rate });
  }

  /** Silence instead of the microphone; the stream goes on, and with it the server's clock. */
  set muted(muted: boolean) {
    this.#muted = muted;
    this.#command({ type: "mute", muted });
    if (this.#stream) this.track.enabled = !muted;
  }

  close(): void {
    this.#closed = true;
    this.#release();
    this.#node.disconnect();
    this.#node.port.onmessage = null;
  }

  #message(message: CaptureMessage): void {
    if (message.type === "packet") return this.onPacket(message.samples);
    this.onLevel(message.rms, this.#output.toPage(message.time));
    if (this.voice.push(decibel(message.rms), message.time)) this.onVoice(this.voice.speaking);
  }

  #command(command: CaptureCommand): void {
    this.#node.port.postMessage(command);
  }

  #release(): void {
    this.#source?.disconnect();
    for (const track of this.#stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    this.#stream = null;
  }
}
