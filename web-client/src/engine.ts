/** The sound of one conversation: output, microphone, and a transport of either kind with its player. */

import { Capture, type MicrophoneChoice } from "./audio/capture";
import { AudioOutput } from "./audio/context";
import { BufferedPlayer, type Player } from "./audio/player";
import { StreamPlayer } from "./audio/stream-player";
import type { Settings } from "./settings";
import type { Transport, TransportKind } from "./transport/transport";
import { WebRtcTransport } from "./transport/webrtc";
import { WebSocketTransport } from "./transport/websocket";

export class Engine {
  /** Level of what is heard, every 20 ms. */
  onReplyLevel: (rms: number, at: number) => void = () => {};
  #players = new Map<TransportKind, Player>();

  private constructor(
    readonly output: AudioOutput,
    readonly capture: Capture,
  ) {}

  /** Asks for the microphone. Must run inside a user's gesture. */
  static async open(settings: Settings): Promise<Engine> {
    const output = await AudioOutput.open();
    try {
      const capture = await Capture.open(output, microphoneOf(settings));
      if (settings.speaker !== "") await output.choose(settings.speaker).catch(() => output.choose(""));
      return new Engine(output, capture);
    } catch (error) {
      await output.close();
      throw error;
    }
  }

  /** A new transport; its player goes on from the one before, so that a reconnection is not heard. */
  transport(kind: TransportKind, key: string, iceServers: RTCIceServer[]): Transport {
    if (kind === "websocket") {
      return new WebSocketTransport({ key, player: this.#player(kind, () => new BufferedPlayer(this.output)) });
    }
    const player = this.#player(kind, () => new StreamPlayer(this.output));
    return new WebRtcTransport({ key, iceServers, track: this.capture.track, player });
  }

  close(): void {
    this.capture.close();
    for (const player of this.#players.values()) player.close();
    void this.output.close();
  }

  #player<P extends Player>(kind: TransportKind, make: () => P): P {
    const kept = this.#players.get(kind) as P | undefined;
    if (kept) return kept;
    const player = make();
    player.handlers = { event: () => {}, level: (rms, at) => this.onReplyLevel(rms, at) };
    this.#players.set(kind, player);
    return player;
  }
}

export function microphoneOf(settings: Settings): MicrophoneChoice {
  const { echoCancellation, noiseSuppression, autoGainControl } = settings;
  return { deviceId: settings.microphone, echoCancellation, noiseSuppression, autoGainControl };
}
