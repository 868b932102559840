# The first Python from 3.11 on this machine; name another as in: make serve PYTHON=python3.12
PYTHON ?= $(or $(shell for python in python3 python3.11 python3.12 python3.13; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
# Goes to the command behind a target, as in: make serve ARGS="--port 8000"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-service serve demo bench chaos fuzz test test-unit lint format proto clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv with everything: SGLang on CPU and the service (2 GB; seconds when done)
	@$(PYTHON) scripts/setup.py

setup-test: ## setup, and what tests run against: Redis, Prometheus, Alertmanager, Chromium (Debian packages)
	@$(PYTHON) scripts/setup.py --profile test

setup-service: ## .venv with the control service and the command line only (no SGLang)
	@$(PYTHON) scripts/setup.py --profile service

serve: setup ## SGLang under control on http://127.0.0.1:30000, until Ctrl-C
	@$(BIN)/turbospec up $(ARGS)

demo: setup ## serve, put a moving load on it, and compare with fixed lengths
	@$(BIN)/turbospec demo $(ARGS)

bench: setup ## the benchmark on real engines (long)
	@$(BIN)/turbospec bench engine $(ARGS)

chaos: setup-test ## the table of faults; ARGS="--engine" adds a real SGLang server
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.chaos $(ARGS)

fuzz: setup-test ## a million mutated messages over decoders and lease logic
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.fuzz $(ARGS)

test: setup-test lint ## all tests: unit, integration, and the real engine
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(ARGS)

test-unit: setup ## the fast tests
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/unit $(ARGS)

lint: setup ## ruff, mypy, buf
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy scripts/setup.py
	@$(BIN)/buf lint

format: setup ## let ruff format and repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: setup ## generate the stubs of the wire contract anew
	@PYTHON=$(BIN)/python scripts/proto.sh

clean: ## remove what tests and runs leave; keeps .venv and the cached models
	@rm -rf .run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
