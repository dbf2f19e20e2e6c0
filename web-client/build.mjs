// Builds the page into dist/ (what the server embeds), or with --tests the unit tests into .test-build/.
//
// dist/index.html, dist/replay.html and everything they load under dist/assets/. No file names an outside host.
import { build } from "esbuild";
import { cp, mkdir, readdir, rm } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(fileURLToPath(import.meta.url));
const at = (...parts) => path.join(root, ...parts);

const common = {
  bundle: true,
  format: "esm",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
};

async function page() {
  await rm(at("dist"), { recursive: true, force: true });
  await mkdir(at("dist/assets"), { recursive: true });
  await build({
    ...common,
    entryPoints: {
      app: at("src/main.ts"),
      replay: at("src/replay.ts"),
      style: at("src/ui/style.css"),
      // One file each: an audio thread loads exactly one module by its address.
      "capture.worklet": at("src/audio/worklets/capture.worklet.ts"),
      "playback.worklet": at("src/audio/worklets/playback.worklet.ts"),
      "meter.worklet": at("src/audio/worklets/meter.worklet.ts"),
    },
    minify: true,
    outdir: at("dist/assets"),
  });
  await cp(at("public"), at("dist"), { recursive: true });
}

async function tests() {
  await rm(at(".test-build"), { recursive: true, force: true });
  const files = (await readdir(at("tests/unit"))).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    platform: "node",
    sourcemap: "inline",
    entryPoints: files.map((name) => at("tests/unit", name)),
    outExtension: { ".js": ".mjs" },
    outdir: at(".test-build"),
  });
}

await (process.argv.includes("--tests") ? tests() : page());
