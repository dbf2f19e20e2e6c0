# Duologue. `make run` and `make test` are all a newcomer needs; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV     := models/.venv
PY       := $(VENV)/bin/python
EXPORTER := $(VENV)/bin/duologue-export
BIN      := target/release/duologue
GOLDEN   := tests/golden
BUNDLES  := out/bundles
BUNDLE   := $(BUNDLES)/golden-fp32
TALK     := out/talk
VAD      := out/vad/silero_vad.onnx
WEB      := web-client
CLIENTS  := tests/interop/.venv
# The pip package that holds the voice detector, and the sha256 of the one file used from it.
SILERO     := silero-vad==6.2.3
VAD_SHA256 := 1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3

# One version of ONNX Runtime for the server and for the exporter, which checks its graphs with it.
ORT        := $(shell grep '^onnxruntime==' models/requirements.txt)
RUNTIME    := target/release/libonnxruntime.so.$(subst onnxruntime==,,$(ORT))

export ORT_DISABLE_TELEMETRY = 1

.PHONY: help setup exporter bundle vad web build run talk test lint fmt doc bench fuzz mini mini-eval clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the system packages that are missing (C compiler, cmake)
	@bash .ci/system-packages

$(VENV)/.installed: models/pyproject.toml models/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r models/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e models
	touch $@

exporter: $(VENV)/.installed ## Python environment with duologue-export (PyTorch, about 7 GB on disk)

$(GOLDEN)/checkpoint/config.json: $(GOLDEN)/checkpoint.tar.xz
	tar -C $(GOLDEN) -xJf $< && touch $@

$(BUNDLE)/manifest.json: $(VENV)/.installed $(GOLDEN)/checkpoint/config.json $(shell find models/duologue_export -name '*.py')
	$(EXPORTER) export --checkpoint $(GOLDEN)/checkpoint --out $(BUNDLE) --precision fp32 --target cpu --name golden-tiny --random-weights --voice default=$(GOLDEN)/inputs/ref_public.wav

bundle: $(BUNDLE)/manifest.json ## export the small golden checkpoint (random weights) to an ONNX bundle

# Only the file is wanted: installing the package would bring a PyTorch.
$(VAD):
	python3 .ci/wheel_files.py $(SILERO) silero_vad/data/silero_vad.onnx $(@D)/new
	echo "$(VAD_SHA256)  $(@D)/new/$(@F)" | sha256sum --check --quiet
	mv $(@D)/new/$(@F) $@ && rmdir $(@D)/new

# The library lies beside the program, which looks there first.
$(RUNTIME):
	python3 .ci/wheel_files.py $(ORT) 'onnxruntime/capi/libonnxruntime*.so*' $(@D)
	touch $@

vad: $(VAD) ## fetch the voice detector (Silero VAD)

$(WEB)/node_modules/.installed: $(WEB)/package.json $(WEB)/package-lock.json
	cd $(WEB) && npm ci --silent
	touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.installed $(WEB)/build.mjs $(shell find $(WEB)/src $(WEB)/public -type f)
	cd $(WEB) && npm run --silent build
	touch $@

web: $(WEB)/dist/index.html ## build the web client (Node)

build: setup web $(RUNTIME) ## build target/release/duologue, the web client in it, ONNX Runtime beside it
	cargo build --release --locked --bin duologue

run: build vad ## start the server; it prints the address to open
	$(BIN) serve --set vad=$(VAD)

talk: build ## feed spoken questions through the whole chain; reply and timeline land in out/talk
	@mkdir -p $(TALK)
	$(BIN) talk --input models/mini/example/question.wav --output $(TALK)/reply.wav --timeline $(TALK)/timeline.jsonl

test: build bundle vad $(VENV)/.mini $(CLIENTS)/.installed ## every test: Rust, golden sessions, web client, browser, exporter
	@bash .ci/system-packages test
	cargo test --release --locked --workspace
	cd $(WEB) && npm test --silent
	node --test --test-reporter=spec tests/browser/talk.mjs tests/browser/scripted.mjs
	node --test --test-reporter=spec tests/browser/demo.mjs
	$(CLIENTS)/bin/python -m pytest -q tests/interop
	cargo build --release --locked --bin engine_load
	cd models && ../$(PY) -m pytest

$(CLIENTS)/.installed: tests/interop/requirements.txt
	python3 -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

lint: exporter web ## formatting, clippy, docs, crate boundaries, TypeScript, Python lint
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --release --locked --no-deps --workspace
	python3 .ci/crate_boundaries.py
	cd $(WEB) && npm run --silent check
	$(VENV)/bin/ruff check models tests/interop
	$(VENV)/bin/ruff format --check models tests/interop
	$(VENV)/bin/ruff check --config models/pyproject.toml bench/gpu bench/reference
	$(VENV)/bin/ruff format --check --config models/pyproject.toml bench/gpu bench/reference

fmt: exporter ## format Rust and Python
	cargo fmt --all
	$(VENV)/bin/ruff format models tests/interop
	$(VENV)/bin/ruff format --config models/pyproject.toml bench/gpu bench/reference

doc: ## open the API documentation
	cargo doc --release --locked --no-deps --workspace --open

bench: build vad ## latencies in conversations (out/bench.html), then host code and server without a model
	@mkdir -p out
	$(BIN) bench bench/scenarios/short_questions.toml --set vad=$(VAD) --json out/bench.json --html out/bench.html
	cargo bench --locked -p duologue-bench

FUZZ_SECONDS ?= 300
FUZZ         := out/fuzz

fuzz: setup ## fuzz every decoder of network bytes, FUZZ_SECONDS (300) each; what is found lands in out/fuzz
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/.ci/fuzz-rustc cargo build --release --locked --workspace --bin fuzz --features duologue-tests/fuzz
	target/release/fuzz | while read -r name seeds; do \
	  echo "== $$name"; mkdir -p $(FUZZ)/$$name; \
	  DUOLOGUE_FUZZ=$$name target/release/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=20 -rss_limit_mb=2048 \
	    -print_final_stats=1 -artifact_prefix=$(FUZZ)/$$name- $(FUZZ)/$$name $$seeds; \
	done

MINI         := PYTHONPATH=models OMP_NUM_THREADS=1 $(PY) -m mini
MINI_WORK    := out/mini
MINI_PARTS   := models/mini/checkpoints
MINI_BUNDLE  := models/mini/bundle
MINI_MINUTES ?= 60
MINI_DEVICE  ?= cpu
MINI_COUNT   ?= 100
MINI_SHARDS  ?= 100

$(VENV)/.mini: $(VENV)/.installed models/requirements-mini.txt
	@bash .ci/system-packages headers
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r models/requirements-mini.txt
	touch $@

mini: exporter $(VENV)/.mini ## train duologue-mini from where it stands (MINI_MINUTES for each part, MINI_SHARDS of sentences) and export it
	bash .ci/system-packages mini
	$(MINI) corpus --work $(MINI_WORK) --shards $(MINI_SHARDS)
	$(MINI) train-hearing --work $(MINI_WORK) --checkpoint $(MINI_PARTS)/hearing.pt --minutes $(MINI_MINUTES) --device $(MINI_DEVICE)
	$(MINI) train-speaking --work $(MINI_WORK) --checkpoint $(MINI_PARTS)/speaking.pt --minutes $(MINI_MINUTES) --device $(MINI_DEVICE)
	$(MINI) train-flow --work $(MINI_WORK) --checkpoint $(MINI_PARTS)/flow.pt --minutes $(MINI_MINUTES) --device $(MINI_DEVICE)
	$(MINI) train-vocoder --work $(MINI_WORK) --checkpoint $(MINI_PARTS)/hift.pt --minutes $(MINI_MINUTES) --device $(MINI_DEVICE)
	$(MINI) curves --work $(MINI_WORK) --out models/mini/curves.svg
	$(MINI) export --checkpoints $(MINI_PARTS) --work $(MINI_WORK) --out $(MINI_BUNDLE) --precision int8

mini-eval: build exporter $(VENV)/.mini ## judge models/mini/bundle in the engine with held-out voices, and its voice with a recogniser
	bash .ci/system-packages mini
	$(MINI) judge --bundle $(MINI_BUNDLE) --binary $(BIN) --count $(MINI_COUNT) --errors 5
	$(MINI) judge-voice --checkpoints $(MINI_PARTS)

clean: ## remove build products and bundles, keep environments
	rm -rf target out
