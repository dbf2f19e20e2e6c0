/** A session over WebRTC: Opus both ways, events on the data channel "oai-events", candidates trickled over HTTP. */

import type { StreamPlayer } from "../audio/stream-player";
import type { ClientEvent, SessionRequest } from "../protocol/client";
import { HttpError, post, readCreated } from "../protocol/rest";
import { parseServerEvent } from "../protocol/server";
import { NoConnection, type NetworkFigures, type Transport, type TransportHandlers } from "./transport";

/** From the offer to the open data channel; after that another way is tried. */
export const CONNECT_LIMIT_MS = 5000;
/** A connection may stay "disconnected" (a change of network) this long before it counts as lost. */
const DISCONNECT_LIMIT_MS = 4000;

export interface WebRtcOptions {
  key: string;
  iceServers: RTCIceServer[];
  track: MediaStreamTrack;
  player: StreamPlayer;
}

export class WebRtcTransport implements Transport {
  readonly kind = "webrtc";
  readonly packetRate = null;
  readonly player: StreamPlayer;
  handlers: TransportHandlers = { event: () => {}, lost: () => {} };
  readonly #options: WebRtcOptions;
  #peer: RTCPeerConnection | null = null;
  #channel: RTCDataChannel | null = null;
  #sender: RTCRtpSender | null = null;
  #sessionId: string | null = null;
  #untold: RTCIceCandidate[] = [];
  #disconnected: ReturnType<typeof setTimeout> | undefined;
  #open = false;

  constructor(options: WebRtcOptions) {
    this.#options = options;
    this.player = options.player;
  }

  async connect(request: SessionRequest, signal: AbortSignal): Promise<void> {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_LIMIT_MS)]);
    try {
      await this.#establish(request, limit);
    } catch (error) {
      this.close();
      this.#hangUp();
      if (!signal.aborted && limit.aborted) {
        throw new NoConnection(`no connection within ${CONNECT_LIMIT_MS / 1000} seconds`);
      }
      throw isNoWay(error) ? new NoConnection(`WebRTC could not be set up: ${error.message}`) : error;
    }
    this.#open = true;
  }

  async #establish(request: SessionRequest, limit: AbortSignal): Promise<void> {
    if (typeof RTCPeerConnection === "undefined") throw new NoConnection("this browser has no WebRTC");
    const peer = new RTCPeerConnection({ iceServers: this.#options.iceServers });
    this.#peer = peer;
    const channel = peer.createDataChannel("oai-events");
    this.#channel = channel;
    const { track } = this.#options;
    this.#sender = peer.addTrack(track, new MediaStream([track]));
    peer.ontrack = ({ track: reply, streams }) => this.player.attach(streams[0] ?? new MediaStream([reply]));
    peer.onicecandidate = ({ candidate }) => candidate && this.#tell(candidate);
    const opened = this.#whenOpen(peer, channel, limit);
    opened.catch(() => {}); // it may fail while the offer is still being answered; awaited below

    await peer.setLocalDescription();
    const body = { session: request, transport: { type: "webrtc", sdp: peer.localDescription?.sdp ?? "" } };
    const answer = readCreated(await (await post("/v1/live/sessions", this.#options.key, body, limit)).json());
    this.#sessionId = answer.session.id;
    await peer.setRemoteDescription({ type: "answer", sdp: answer.transport.sdp });
    for (const candidate of this.#untold.splice(0)) this.#tell(candidate);
    await opened;
  }

  send(event: ClientEvent): boolean {
    if (this.#channel?.readyState !== "open") return false;
    this.#channel.send(JSON.stringify(event));
    return true;
  }

  /** The track itself is sent. */
  sendAudio(): boolean {
    return true;
  }

  async useTrack(track: MediaStreamTrack): Promise<void> {
    await this.#sender?.replaceTrack(track);
  }

  async figures(): Promise<NetworkFigures> {
    const figures: NetworkFigures = { jitterMs: null, gaps: null, roundTripMs: null };
    const report = await this.#peer?.getStats();
    report?.forEach((entry: Record<string, unknown>) => {
      if (entry.type === "inbound-rtp" && entry.kind === "audio") {
        if (typeof entry.jitter === "number") figures.jitterMs = entry.jitter * 1000;
        if (typeof entry.concealmentEvents === "number") figures.gaps = entry.concealmentEvents;
      }
      if (entry.type === "candidate-pair" && entry.nominated === true && typeof entry.currentRoundTripTime === "number") {
        figures.roundTripMs = entry.currentRoundTripTime * 1000;
      }
    });
    return figures;
  }

  close(): void {
    this.#open = false;
    clearTimeout(this.#disconnected);
    const peer = this.#peer;
    if (!peer) return;
    this.#peer = null;
    peer.onicecandidate = peer.ontrack = peer.onconnectionstatechange = null;
    if (this.#channel) this.#channel.onmessage = this.#channel.onclose = this.#channel.onopen = null;
    peer.close();
  }

  #whenOpen(peer: RTCPeerConnection, channel: RTCDataChannel, limit: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      limit.addEventListener("abort", () => reject(limit.reason));
      channel.onopen = () => resolve();
      channel.onmessage = ({ data }) => this.#message(data);
      channel.onclose = () => this.#lost("the data channel was closed");
      peer.onconnectionstatechange = () => {
        clearTimeout(this.#disconnected);
        if (peer.connectionState === "failed") {
          reject(new NoConnection("no network path to the server"));
          this.#lost("the network path was lost");
        } else if (peer.connectionState === "disconnected") {
          this.#disconnected = setTimeout(() => this.#lost("the network path was lost"), DISCONNECT_LIMIT_MS);
        }
      };
    });
  }

  /** The server would keep the place for a while: another way of connecting needs it. */
  #hangUp(): void {
    if (this.#sessionId === null) return;
    post(`/v1/live/sessions/${this.#sessionId}/hangup`, this.#options.key, {}).catch((error: unknown) => {
      console.warn("the server was not told", error);
    });
  }

  #tell(candidate: RTCIceCandidate): void {
    if (this.#sessionId === null) {
      this.#untold.push(candidate);
      return;
    }
    const body = {
      candidate: candidate.candidate,
      ...(candidate.sdpMid === null ? {} : { sdp_mid: candidate.sdpMid }),
      ...(candidate.sdpMLineIndex === null ? {} : { sdp_m_line_index: candidate.sdpMLineIndex }),
    };
    // One candidate that does not arrive is no failure: others may, and if none does the connection times out.
    post(`/v1/live/sessions/${this.#sessionId}/ice`, this.#options.key, body).catch((error: unknown) => {
      console.warn("a candidate could not be sent", error);
    });
  }

  #message(data: unknown): void {
    if (typeof data !== "string") return this.#lost("the server sent a binary message");
    try {
      const event = parseServerEvent(data);
      if (event) this.handlers.event(event);
    } catch (error) {
      this.#lost(`the server sent what this page does not understand: ${String(error)}`);
    }
  }

  #lost(reason: string): void {
    if (!this.#open) return;
    this.close();
    this.handlers.lost(reason);
  }
}

/**
 * The request did not arrive (`TypeError` is what fetch throws without a network), or the server or a proxy has no such
 * route at the moment. A refusal of the session itself is something else.
 */
function isNoWay(error: unknown): error is Error {
  return error instanceof TypeError || (error instanceof HttpError && [404, 405, 501, 502, 504].includes(error.status));
}
