/**
 * Keeps one session connected: tries the kinds of transport in order, notices a dead connection, comes back with the
 * resume token, and lets every event through once. What the events mean is the session's business.
 */

import { type Clock, Timers } from "./clock";
import { type Problem, fromThrown, problem } from "./errors";
import type { ClientEvent, SessionRequest } from "./protocol/client";
import { HttpError } from "./protocol/rest";
import { type EventNumber, type ServerEvent, type StartedExtension, eventNumber, isAfter } from "./protocol/server";
import { Reconnect } from "./reconnect";
import { NoConnection, type Transport, type TransportKind } from "./transport/transport";

export interface ConnectionOptions {
  /** Kinds to try, in this order. */
  kinds: TransportKind[];
  open(kind: TransportKind): Transport;
  request: SessionRequest;
  clock: Clock;
  /** Asks the server over HTTP why a WebSocket was refused, which the browser does not say. */
  diagnose(): Promise<Problem | null>;
}

export interface ConnectionHandlers {
  connecting(kind: TransportKind, note: string): void;
  opened(transport: Transport): void;
  event(event: ServerEvent): void;
  /** Nothing flows until `opened`. */
  retrying(attempt: number): void;
  /** For good. */
  failed(problem: Problem): void;
}

const PING_MS = 2000;
/**
 * After so many pings without any message of the server the connection is gone, whatever the browser thinks. Counted,
 * not timed: a computer that slept finds the messages of before still waiting.
 */
const UNANSWERED_LIMIT = 4;
/** How long the server may take for its goodbye. */
const GOODBYE_MS = 1500;
/** Without an event for so long a connection that has no session yet counts as lost; a queue tells its place every 3 s. */
const FIRST_EVENT_MS = 10_000;

export class Connection {
  transport: Transport | null = null;
  readonly #options: ConnectionOptions;
  readonly #handlers: ConnectionHandlers;
  readonly #abort = new AbortController();
  readonly #timers: Timers;
  #kinds: TransportKind[];
  #started: StartedExtension | null = null;
  /** The transport on which the session runs. */
  #established: Transport | null = null;
  #reconnect: Reconnect | null = null;
  #lastEvent: EventNumber | null = null;
  #pings = 0;
  /** Pings since the last message. */
  #unanswered = 0;
  #closed = false;

  constructor(options: ConnectionOptions, handlers: ConnectionHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    this.#kinds = options.kinds;
    this.#timers = new Timers(options.clock);
  }

  start(): Promise<void> {
    return this.#connect(this.#options.request);
  }

  send(event: ClientEvent): boolean {
    return this.transport?.send(event) ?? false;
  }

  /** The session runs; from now on a lost connection is resumed. Returns whether this is such a resumption. */
  established(started: StartedExtension | null): boolean {
    const resumed = this.#reconnect !== null;
    this.#established = this.transport;
    this.#reconnect = null;
    this.#started = started;
    if (this.transport) this.#kinds = this.#kinds.slice(this.#kinds.indexOf(this.transport.kind));
    this.#timers.clear();
    if (started) this.#timers.every(PING_MS, () => this.#ping());
    return resumed;
  }

  /** Ends it from our side; `goodbye` says so to the server first and leaves it a moment to answer. */
  close(goodbye: boolean): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#timers.clear();
    const transport = this.transport;
    this.transport = null;
    if (goodbye && transport?.send({ type: "session.close" })) {
      this.#options.clock.after(GOODBYE_MS, () => transport.close());
      return;
    }
    transport?.close();
    this.#abort.abort();
  }

  async #connect(request: SessionRequest): Promise<void> {
    let failure: unknown = new NoConnection("the server offers no connection this page can use");
    let note = "";
    for (const kind of this.#kinds) {
      if (!this.#reconnect) this.#handlers.connecting(kind, note);
      try {
        return await this.#open(kind, request);
      } catch (error) {
        if (this.#closed) return;
        failure = error;
        // An offer cannot wait for a place, only a WebSocket can.
        if (error instanceof HttpError && error.code === "queue_full") continue;
        if (!(error instanceof NoConnection)) break;
        note = `${kind === "webrtc" ? "WebRTC" : "WebSocket"} could not connect`;
      }
    }
    if (!(failure instanceof NoConnection)) return this.#fail(fromThrown(failure));
    if (this.#reconnect) return this.#retry();
    await this.#failUnreachable();
  }

  async #open(kind: TransportKind, request: SessionRequest): Promise<void> {
    const transport = this.#options.open(kind);
    this.transport = transport;
    transport.handlers = {
      event: (event) => this.transport === transport && this.#event(event),
      lost: (reason) => this.transport === transport && this.#lost(reason),
    };
    this.#handlers.opened(transport);
    try {
      await transport.connect(request, this.#abort.signal);
    } catch (error) {
      transport.close();
      throw error;
    }
    this.#unanswered = 0;
    if (this.transport === transport) this.#expect(transport);
  }

  /** Until the session runs and is asked by pings. */
  #expect(transport: Transport): void {
    if (this.#established === transport || this.#closed) return;
    this.#timers.clear();
    this.#timers.after(FIRST_EVENT_MS, () => this.transport === transport && this.#lost("the server says nothing"));
  }

  #event(event: ServerEvent): void {
    this.#unanswered = 0;
    if (this.transport) this.#expect(this.transport);
    const number = eventNumber(event.event_id);
    if (number !== null) {
      if (this.#lastEvent && !isAfter(number, this.#lastEvent)) return; // sent again after a resume, and handled before
      this.#lastEvent = number;
    }
    this.#handlers.event(event);
  }

  #lost(reason: string): void {
    console.info(`connection lost: ${reason}`);
    this.#timers.clear();
    this.transport?.close();
    if (!this.#started) return void this.#failUnreachable();
    this.#reconnect ??= new Reconnect(this.#options.clock.now(), this.#started.resume_window_s * 1000);
    this.#retry();
  }

  #retry(): void {
    const wait = this.#reconnect?.next(this.#options.clock.now()) ?? null;
    if (!this.#started || wait === null) return this.#fail(problem("resume_expired"));
    this.#handlers.retrying(this.#reconnect?.attempts ?? 0);
    const duologue: SessionRequest["duologue"] = { units: true, resume_token: this.#started.resume_token };
    // Whether all parts of the last event came is not known: it is asked for again, and its known parts are skipped.
    const complete = (this.#lastEvent?.number ?? 0) - 1;
    if (complete >= 0) duologue.last_event_id = `evt_${complete}`;
    this.#timers.after(wait, () => void this.#connect({ duologue }));
  }

  #ping(): void {
    if (this.#unanswered >= UNANSWERED_LIMIT) return this.#lost("no answer from the server");
    this.#unanswered += 1;
    this.send({ type: "duologue.ping", id: `ping_${this.#pings++}`, t: this.#options.clock.now() });
  }

  async #failUnreachable(): Promise<void> {
    const told = await this.#options.diagnose();
    this.#fail(told ?? problem("unreachable"));
  }

  #fail(reason: Problem): void {
    if (this.#closed) return;
    this.close(false);
    this.#handlers.failed(reason);
  }
}
