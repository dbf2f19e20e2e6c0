// The scripted server, and a microphone with real words in it; shared by the tests here and by bench/barge_in.mjs.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { wav } from "../../web-client/tests/mock/babble.mjs";

export const root = fileURLToPath(new URL("../..", import.meta.url));
const RATE = 16_000;

/** Starts tests/src/bin/scripted_server.rs, which `cargo test` builds. It stops with its standard input. */
export async function startScripted(args) {
  const server = spawn("target/release/scripted_server", args, { cwd: root, stdio: ["pipe", "pipe", "inherit"] });
  for await (const line of createInterface({ input: server.stdout })) {
    const found = line.match(/^talk at (http:\S+)$/);
    if (found) return { address: found[1].replace("127.0.0.1", "localhost"), stop: () => server.stdin.end() };
  }
  return assert.fail("the scripted server prints its address");
}

/** Silence, then a recorded interruption, for each of `words` in turn, as one wav. */
export async function spokenMicrophone({ quietS, words }) {
  const quiet = new Int16Array(quietS * RATE);
  const parts = [];
  for (const word of words) parts.push(quiet, await samples(`${root}/tests/audio/interruption/${word}`));
  const whole = new Int16Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return wav([whole], RATE);
}

/** Samples of a 16-bit mono wav at 16 kHz. */
async function samples(file) {
  const bytes = await readFile(file);
  assert.equal(bytes.readUInt32LE(24), RATE, `${file} has another rate`);
  const data = bytes.indexOf("data") + 8;
  return new Int16Array(bytes.buffer.slice(bytes.byteOffset + data, bytes.byteOffset + data + bytes.readUInt32LE(data - 4)));
}
