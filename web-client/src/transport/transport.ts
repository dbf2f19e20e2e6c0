/** What the session needs of a connection. The session does not know which kind it has. */

import type { Player } from "../audio/player";
import type { ClientEvent, SessionRequest } from "../protocol/client";
import type { ServerEvent } from "../protocol/server";

export type TransportKind = "websocket" | "webrtc";

export interface TransportHandlers {
  event(event: ServerEvent): void;
  /** The connection ended without `session.closed`; called at most once, and not after `close`. */
  lost(reason: string): void;
}

/** Figures the transport itself knows. */
export interface NetworkFigures {
  jitterMs: number | null;
  /** Times the browser had to invent audio. */
  gaps: number | null;
  roundTripMs: number | null;
}

export interface Transport {
  readonly kind: TransportKind;
  readonly player: Player;
  handlers: TransportHandlers;
  /**
   * Connects and asks for a session. Resolves when events can flow both ways; `session.started` comes later as an
   * event. Throws `HttpError` for a refusal and `NoConnection` when the way itself does not work.
   */
  connect(request: SessionRequest, signal: AbortSignal): Promise<void>;
  /** False when the connection cannot take it now; the message is dropped then. */
  send(event: ClientEvent): boolean;
  /** Packets of the microphone; asked for where `packetRate` is a number. */
  sendAudio(samples: Int16Array): boolean;
  /** Rate of microphone packets, or null when the transport takes the track itself. */
  readonly packetRate: number | null;
  /** The microphone was changed. */
  useTrack(track: MediaStreamTrack): Promise<void>;
  figures(): Promise<NetworkFigures>;
  close(): void;
}

/** This kind of connection does not come about here; another kind may. */
export class NoConnection extends Error {
  constructor(message: string) {
    super(message);
    this.name = "NoConnection";
  }
}
