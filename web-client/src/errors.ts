/** Every failure a person can meet, in words that say what happened and what to do. */

import { HttpError } from "./protocol/rest";

export type ProblemCode =
  | "insecure_context"
  | "no_microphone"
  | "microphone_denied"
  | "microphone_busy"
  | "unsupported_browser"
  | "unreachable"
  | "full"
  | "unauthorized"
  | "draining"
  | "rate_limited"
  | "resume_expired"
  | "idle"
  | "max_duration"
  | "slow_client"
  | "bad_voice"
  | "ended_by_server"
  | "refused"
  | "internal";

export interface Problem {
  code: ProblemCode;
  title: string;
  text: string;
}

const WORDS: Record<ProblemCode, [title: string, text: string]> = {
  insecure_context: [
    "The browser keeps the microphone closed here",
    "Microphones work only on secure pages. Open this page with https://, or on the server's own machine as http://localhost.",
  ],
  no_microphone: ["No microphone found", "Connect a microphone or headset, then press Talk again."],
  microphone_denied: [
    "The microphone is blocked",
    "Allow the microphone for this page in the browser's address bar, then press Talk again.",
  ],
  microphone_busy: [
    "The microphone cannot be opened",
    "Another program may be using it. Close that program or choose another microphone in the settings.",
  ],
  unsupported_browser: ["This browser cannot do this", "A current Chrome, Edge, Firefox or Safari is needed."],
  unreachable: ["The server does not answer", "Check the connection, then press Talk again."],
  full: ["All places are taken", "There is no place to wait, either. Try again in a little while."],
  unauthorized: ["An access key is needed", "Enter the key you were given in the settings, then press Talk again."],
  draining: ["The server is about to restart", "It takes no new sessions at the moment. Try again in a minute."],
  rate_limited: ["Too many tries", "Wait a moment, then press Talk again."],
  resume_expired: ["The conversation could not be picked up", "The connection was gone for too long. Press Talk to start a new one."],
  idle: ["Ended after a long silence", "No sound arrived for a while. Press Talk to start again."],
  max_duration: ["Time is up", "The session reached the longest time the server allows. Press Talk to start a new one."],
  slow_client: ["The connection is too slow", "Reply audio could not be delivered in time. A better network helps."],
  bad_voice: ["This voice cannot be used", "A clear recording of one speaker, at least half a second long, is needed."],
  ended_by_server: ["The server ended the conversation", "Press Talk to start a new one."],
  refused: ["The server refused the session", ""],
  internal: ["Something went wrong on the server", "Press Talk to start again."],
};

/** A problem by code; `detail` replaces the general advice. */
export function problem(code: ProblemCode, detail = ""): Problem {
  const [title, text] = WORDS[code];
  return { code, title, text: detail || text };
}

/** An error that already knows how to be shown. */
export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.title);
    this.name = "ProblemError";
  }
}

const SERVER_CODES: Record<string, ProblemCode> = {
  queue_full: "full",
  server_busy: "full",
  unauthorized: "unauthorized",
  rate_limited: "rate_limited",
  resume_expired: "resume_expired",
  internal: "internal",
};

/** The `error` event's code, when it ends a session or keeps one from starting. */
export function fromServerCode(code: string | null | undefined, message: string): Problem {
  if (/drain|shut(s|ting)? down/i.test(message)) return problem("draining");
  const known = SERVER_CODES[code ?? ""];
  return known ? problem(known) : problem("refused", message);
}

/** `session.closed` with our detail; null when it is no problem. */
export function fromClose(reason: string, detail: string | undefined): Problem | null {
  const text = (detail ?? "").replaceAll("_", " ").toLowerCase();
  switch (reason) {
    case "close_requested":
      if (text.includes("drain")) return problem("draining", "The session ended because the server restarts. Try again in a minute.");
      return null;
    case "expired":
      return text.includes("idle") || text.includes("pause") ? problem("idle") : problem("max_duration");
    case "connection_lost":
      if (text.includes("slow client")) return problem("slow_client");
      if (text === "" || text.includes("connection lost")) {
        return problem("unreachable", "The connection was lost. Press Talk to start again.");
      }
      return problem("internal");
    default:
      return problem("ended_by_server");
  }
}

/** Whatever was thrown while starting: browser, network, HTTP. */
export function fromThrown(error: unknown): Problem {
  if (error instanceof ProblemError) return error.problem;
  if (error instanceof HttpError) return fromHttp(error);
  const name = error instanceof Error ? error.name : "";
  if (name === "NotAllowedError" || name === "SecurityError") return problem("microphone_denied");
  if (name === "NotFoundError" || name === "OverconstrainedError") return problem("no_microphone");
  if (name === "NotReadableError" || name === "AbortError") return problem("microphone_busy");
  if (name === "SyntaxError") return problem("unauthorized", "The key in the settings has characters no key has.");
  if (name === "TypeError") return problem("unreachable"); // what fetch throws without a connection
  return problem("internal", error instanceof Error ? error.message : String(error));
}

function fromHttp(error: HttpError): Problem {
  if (error.status === 403) return problem("refused", "This server does not accept sessions from this page's address.");
  if (error.code) return fromServerCode(error.code, error.message);
  if (error.status === 401) return problem("unauthorized");
  if (error.status === 429) return problem("rate_limited");
  if (error.status === 503) return problem("full");
  return error.status >= 500 ? problem("internal") : problem("refused", error.message);
}
