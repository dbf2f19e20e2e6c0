// The wire: every fixture of proto/fixtures/live that the server can send is read; what breaks the protocol is refused.
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { readConfig, readCreated, readTimeline } from "../../src/protocol/rest";
import { eventNumber, isAfter, parseServerEvent } from "../../src/protocol/server";

const FIXTURES = path.resolve("../proto/fixtures/live");
/** Answers to messages this client never sends; they are skipped like unknown ones. */
const NOT_OURS = /^server\.(session\.(updated|input_audio\.|output_audio\.fixture|instructions|thinking|commentary))/;

const files = readdirSync(FIXTURES).filter((name) => name.endsWith(".json"));
const read = (name: string) => readFileSync(path.join(FIXTURES, name), "utf8");

test("the fixtures are there", () => {
  assert.ok(existsSync(FIXTURES) && files.filter((name) => name.startsWith("server.")).length > 20);
});

for (const name of files.filter((file) => file.startsWith("server."))) {
  test(`reads ${name}`, () => {
    const event = parseServerEvent(read(name));
    if (NOT_OURS.test(name)) assert.equal(event, null);
    else {
      const { type } = JSON.parse(read(name)) as { type: string };
      assert.equal(event?.type, type);
      assert.ok(name.startsWith(`server.${type}`));
    }
  });
}

test("reads the HTTP bodies", () => {
  assert.ok(readConfig(JSON.parse(read("rest.config.json"))).transports.length > 0);
  assert.match(readCreated(JSON.parse(read("rest.create.response.json"))).transport.sdp, /^v=0/);
  const timeline = readTimeline(JSON.parse(read("rest.timeline.json")));
  assert.ok(timeline.duration_ms > 0 && timeline.events.length > 0);
});

const BROKEN: [string, RegExp][] = [
  ["", /not JSON/],
  ["[]", /object is wanted/],
  ["{}", /type: a text/],
  ['{"type":"duologue.unit"}', /unit: a number/],
  ['{"type":"duologue.turn","turn":1,"state":"gone"}', /state: one of begin, done, interrupted/],
  ['{"type":"duologue.flush","turn":"1","cause":"voice"}', /turn: a number/],
  ['{"type":"session.started","session":{"id":"s","duologue":{"resume_token":1}}}', /session\.duologue\.resume_token: a text/],
];

for (const [text, problem] of BROKEN) {
  test(`refuses ${text.slice(0, 40)}`, () => assert.throws(() => parseServerEvent(text), problem));
}

test("an event nobody knows yet is skipped", () => {
  assert.equal(parseServerEvent('{"type":"duologue.tomorrow","x":1}'), null);
  assert.equal(parseServerEvent('{"type":"constructor"}'), null);
});

test("numbers of event ids", () => {
  assert.deepEqual(eventNumber("evt_17"), { number: 17, part: 0 });
  assert.deepEqual(eventNumber("evt_17.2"), { number: 17, part: 2 });
  assert.ok(isAfter({ number: 2, part: 1 }, { number: 2, part: 0 }) && !isAfter({ number: 2, part: 0 }, { number: 2, part: 0 }));
  assert.ok(isAfter({ number: 3, part: 0 }, { number: 2, part: 9 }));
  assert.equal(eventNumber("evt_x"), null);
  assert.equal(eventNumber(undefined), null);
});
