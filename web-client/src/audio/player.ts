/** What the session needs of a player, and the one for the WebSocket: reply audio through the playback thread. */

import type { AudioOutput } from "./context";
import type { BufferStatus } from "./jitter-buffer";
import { toFloat32 } from "./pcm";
import type { PlaybackCommand, PlaybackMessage } from "./worklets/messages";

export interface PlayerStatus {
  /** Turn at the play head; null while nothing was played. */
  turn: number | null;
  played_ms: number;
  buffered_ms: number;
  gaps: number;
  played_samples: number;
  playing: boolean;
}

/** Times are ms of the audio clock, output latency included: when it was heard. */
export type PlayerEvent =
  | { type: "audible"; turn: number; at: number }
  | { type: "silent"; turn: number; at: number; cause: "end" | "flush" | "hold" | "starved" }
  | { type: "gap"; turn: number; at: number; ms: number };

export interface PlayerHandlers {
  event(event: PlayerEvent): void;
  /** Level of every 20 ms, 0..1, with its time on the page's clock. */
  level(rms: number, at: number): void;
}

/** Plays turns; knows nothing of wires. */
export interface Player {
  handlers: PlayerHandlers;
  begin(turn: number): void;
  push(turn: number, startMs: number, rate: number, samples: Int16Array): void;
  done(turn: number): void;
  /** Silences and forgets all turns below `turn`, within 5 ms. */
  flush(turn: number): void;
  hold(turn: number): void;
  unhold(): void;
  status(): PlayerStatus;
  close(): void;
}

export const NO_HANDLERS: PlayerHandlers = { event: () => {}, level: () => {} };

const NOTHING: BufferStatus = {
  turn: null,
  played_ms: 0,
  buffered_ms: 0,
  target_ms: 0,
  gaps: 0,
  gap_ms: 0,
  overflow_ms: 0,
  played_samples: 0,
  playing: false,
  held: false,
};

export class BufferedPlayer implements Player {
  handlers = NO_HANDLERS;
  readonly #output: AudioOutput;
  readonly #node: AudioWorkletNode;
  #status = NOTHING;

  constructor(output: AudioOutput) {
    this.#output = output;
    this.#node = new AudioWorkletNode(output.context, "duologue-playback", {
      numberOfInputs: 0,
      numberOfOutputs: 1,
      outputChannelCount: [1],
    });
    this.#node.connect(output.destination);
    this.#node.port.onmessage = ({ data }: MessageEvent<PlaybackMessage>) => this.#message(data);
  }

  /** Turns begin with their first audio here. */
  begin(): void {}

  push(turn: number, startMs: number, rate: number, samples: Int16Array): void {
    const floats = toFloat32(samples);
    this.#command({ type: "push", turn, start_ms: startMs, rate, samples: floats }, [floats.buffer]);
  }

  done(turn: number): void {
    this.#command({ type: "done", turn });
  }

  flush(turn: number): void {
    this.#command({ type: "flush", turn });
  }

  hold(turn: number): void {
    this.#command({ type: "hold", turn });
  }

  unhold(): void {
    this.#command({ type: "unhold" });
  }

  status(): PlayerStatus {
    return this.#status;
  }

  close(): void {
    this.#node.port.onmessage = null;
    this.#node.disconnect();
  }

  #message(message: PlaybackMessage): void {
    if (message.type === "level") {
      this.#status = message.status;
      this.handlers.level(message.rms, this.#output.toPage(message.time));
    } else {
      this.handlers.event({ ...message.event, at: message.time + this.#output.latencyMs });
    }
  }

  #command(command: PlaybackCommand, transfer: Transferable[] = []): void {
    this.#node.port.postMessage(command, transfer);
  }
}
