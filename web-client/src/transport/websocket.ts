/** A session over one WebSocket: JSON events both ways, audio inside as base64 (proto/LIVE.md). */

import { encodePcm } from "../audio/pcm";
import type { Player } from "../audio/player";
import type { ClientEvent, SessionRequest } from "../protocol/client";
import { parseServerEvent } from "../protocol/server";
import { NoConnection, type NetworkFigures, type Transport, type TransportHandlers } from "./transport";

/** 24 kHz: the reply's own rate, so that nothing of it is lost on the way. */
const WIRE_RATE = 24_000;
/** From the address to the open socket. */
const CONNECT_LIMIT_MS = 10_000;
/** More unsent bytes than this (about 5 s of audio) means the network does not keep up: audio is dropped. */
const MAX_UNSENT_BYTES = 320_000;

export interface WebSocketOptions {
  /** Access key, "" for none. */
  key: string;
  player: Player;
  /** Where the server is; the page's own origin by default. */
  url?: string;
}

export class WebSocketTransport implements Transport {
  readonly kind = "websocket";
  readonly packetRate = WIRE_RATE;
  readonly player: Player;
  handlers: TransportHandlers = { event: () => {}, lost: () => {} };
  readonly #options: WebSocketOptions;
  #socket: WebSocket | null = null;

  constructor(options: WebSocketOptions) {
    this.#options = options;
    this.player = options.player;
  }

  connect(request: SessionRequest, signal: AbortSignal): Promise<void> {
    const { key, url = sessionsUrl() } = this.#options;
    // A browser cannot set headers here; the key travels as a subprotocol (proto/LIVE.md, Keys).
    const socket = new WebSocket(url, key === "" ? [] : ["realtime", `duologue.key.${key}`]);
    this.#socket = socket;
    const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_LIMIT_MS)]);
    return new Promise((resolve, reject) => {
      let opened = false;
      limit.addEventListener("abort", () => {
        if (opened) return;
        this.close();
        reject(signal.aborted ? signal.reason : new NoConnection(`no connection within ${CONNECT_LIMIT_MS / 1000} seconds`));
      });
      socket.onopen = () => {
        opened = true;
        const audio = { ...request.audio, format: { type: "audio/pcm" as const, rate: WIRE_RATE } };
        this.send({ type: "session.start", session: { ...request, audio } });
        resolve();
      };
      socket.onmessage = ({ data }) => this.#message(data);
      socket.onclose = ({ code, reason }) => {
        const words = reason === "" ? `connection closed (${code})` : reason;
        if (opened) this.handlers.lost(words);
        else reject(new NoConnection(words));
      };
    });
  }

  send(event: ClientEvent): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(event));
    return true;
  }

  sendAudio(samples: Int16Array): boolean {
    if ((this.#socket?.bufferedAmount ?? 0) > MAX_UNSENT_BYTES) return false;
    return this.send({ type: "session.input_audio.append", audio: encodePcm(samples) });
  }

  /** The microphone's packets already come from the new device. */
  async useTrack(): Promise<void> {}

  async figures(): Promise<NetworkFigures> {
    return { jitterMs: null, gaps: null, roundTripMs: null };
  }

  close(): void {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
  }

  #message(data: unknown): void {
    if (typeof data !== "string") return this.#broken("a binary message");
    try {
      const event = parseServerEvent(data);
      if (event) this.handlers.event(event);
    } catch (error) {
      this.#broken(String(error));
    }
  }

  /** A server that breaks the protocol is not talked to any further. */
  #broken(what: string): void {
    this.close();
    this.handlers.lost(`the server sent what this page does not understand: ${what}`);
  }
}

function sessionsUrl(): string {
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/v1/live/sessions`;
}
