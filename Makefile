# The first Python from 3.11 on this machine; name another as in: make serve PYTHON=python3.12
PYTHON ?= $(or $(shell for python in python3 python3.11 python3.12 python3.13; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
# Goes to the command behind a target, as in: make serve ARGS="--port 8000"
ARGS ?=
NAMES ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-service serve monitor demo bench soak chaos fuzz test test-unit images-test lint format \
	certs audit sbom proto docs dashboards clean

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

monitor: ## Prometheus and Alertmanager beside it, with our rules, until Ctrl-C (Debian packages)
	@$(PYTHON) scripts/setup.py --profile monitor
	@$(BIN)/python -m dashboards.local $(ARGS)

demo: setup ## serve, put a moving load on it, and compare with fixed lengths
	@$(BIN)/turbospec demo $(ARGS)

bench: setup ## the benchmark on real engines (long)
	@$(BIN)/turbospec bench engine $(ARGS)

soak: setup ## half an hour on a real engine: does anything grow? (ARGS="--minutes 5")
	@$(BIN)/python -m benchmarks.soak $(ARGS)

chaos: setup-test ## the table of faults; ARGS="--engine" adds a real SGLang server
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.chaos $(ARGS)

fuzz: setup-test ## a million mutated messages over decoders and lease logic
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.fuzz $(ARGS)

test: setup-test lint ## all tests: unit, integration, and the real engine
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: setup ## the fast tests
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/unit $(ARGS)

images-test: setup ## build our container images with Podman and run them (root, 10 GB, half an hour the first time)
	@$(PYTHON) scripts/setup.py --profile images
	@$(BIN)/python -m pytest tests/images -m images $(ARGS)

lint: setup ## ruff, mypy, buf, and the linters of compose.yaml and the Dockerfiles
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy -p scripts
	@$(BIN)/buf lint
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml compose.mtls.yaml
	@$(BIN)/yamllint --strict compose.yaml compose.mtls.yaml dashboards
	@$(BIN)/hadolint deploy/*.Dockerfile

format: setup ## let ruff format and repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

audit: setup ## known vulnerabilities of the pinned packages (error 3: no vulnerability service answers)
	@$(BIN)/python scripts/audit.py $(ARGS)

sbom: setup ## build/sbom.cdx.json: what is installed in .venv, as CycloneDX
	@mkdir -p build
	@$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible \
	  --output-format JSON --output-file build/sbom.cdx.json
	@echo build/sbom.cdx.json

certs: ## certificates for mutual TLS in certs/, as in: make certs NAMES="control.example.com 192.0.2.7"
	@scripts/certs.sh certs $(NAMES)

proto: setup ## generate the stubs of the wire contract anew
	@PYTHON=$(BIN)/python scripts/proto.sh

dashboards: setup ## write the Grafana dashboards anew
	@$(BIN)/python -m dashboards.generate

docs: setup ## write the pages of docs/ that are made from the code
	@$(BIN)/python scripts/docs.py

clean: ## remove what tests and runs leave; keeps .venv and the cached models
	@rm -rf .run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
