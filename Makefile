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

export ORT_DISABLE_TELEMETRY = 1

.PHONY: help setup exporter bundle build run test lint fmt doc bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the system packages that are missing (C compiler)
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

build: setup ## build target/release/duologue
	cargo build --release --locked --bin duologue

run: build bundle ## feed a spoken wav through the whole chain; reply and timeline land in out/talk
	@mkdir -p $(TALK)
	$(BIN) talk --bundle $(BUNDLE) --input $(GOLDEN)/inputs/public_input.wav --output $(TALK)/reply.wav --timeline $(TALK)/timeline.jsonl

test: build bundle ## every test: Rust, exporter, golden sessions, bad input
	cargo test --release --locked --workspace
	cd models && ../$(PY) -m pytest

lint: exporter ## formatting, clippy, docs, crate boundaries, Python lint
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --workspace
	python3 .ci/crate_boundaries.py
	$(VENV)/bin/ruff check models
	$(VENV)/bin/ruff format --check models

fmt: exporter ## format Rust and Python
	cargo fmt --all
	$(VENV)/bin/ruff format models

doc: ## open the API documentation
	cargo doc --locked --no-deps --workspace --open

bench: ## micro benches of the host code (bench/reference compares unit times with the official code)
	cargo bench --locked -p duologue-bench

clean: ## remove build products and bundles, keep environments
	rm -rf target out
