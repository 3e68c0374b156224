# Needs only python3 >= 3.11, make and git. Everything else is installed into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SCALE  ?= 1
WORKERS ?= 2
export SCALE

.DEFAULT_GOAL := help
.PHONY: help demo up test check lint format unit conformance integration crash bench bench-peers docs lock clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Tidewire needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "python3 cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(VENV)/.ready  ## Collect from a local upstream, show live progress; Ctrl-C ends it
	@$(BIN)/tidewire demo $(ARGS)

up: $(VENV)/.ready  ## Collect what tidewire.yaml says: make up ARGS=my.yaml
	@$(BIN)/tidewire up $(ARGS)

test: $(VENV)/.ready  ## Every suite: unit, conformance, integration, crash (SCALE=10: ten times kills, rows, faults)
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/unit tests/conformance tests/docs tests/test_tidy.py
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/integration tests/crash

check: lint unit  ## Lint, types, import rules, unit tests: under five minutes

lint: $(VENV)/.ready  ## Style, format, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: $(VENV)/.ready  ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

unit: $(VENV)/.ready  ## Unit tests
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/unit tests/docs tests/test_tidy.py

conformance: $(VENV)/.ready  ## The suites every bus and store inherits
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/conformance

integration: $(VENV)/.ready  ## The whole product against the sandbox
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/integration

crash: $(VENV)/.ready  ## kill -9, power cuts, faults, mutants, upgrade (SCALE=10: ten times as much)
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal tests/crash tests/unit/journal/test_power_cut.py \
	  tests/unit/journal/test_machine.py

bench: $(VENV)/.ready  ## Benchmarks, side by side with a peer
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-peers: $(VENV)/.ready  ## Next to other programs on the same frames: docs/benchmarks.md
	@$(BIN)/python benchmarks/peers/run.py $(ARGS)

docs: $(VENV)/.ready  ## Write the generated reference pages
	@$(BIN)/python docs/generate.py

lock: $(VENV)/.ready  ## Resolve the dependencies anew
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  --group dev pyproject.toml --output-file requirements.lock

clean:  ## Remove what can be made again
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache tidewire-demo
