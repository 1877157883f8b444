# Everything runs inside .venv, made from requirements-dev.lock, whose hashes are checked.
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# How many run tests side by side, each with servers of its own; 0 for one after the other.
WORKERS := 2
PYTEST := $(PYTHON) -m pytest -q --numprocesses $(WORKERS)
MAKEFLAGS += --no-print-directory
# Else every process that a test starts compiles the whole package.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help up down destroy check format test test-fast test-servers simulate faults bench lock

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "Installing what requirements-dev.lock names into $(VENV); this takes a minute or two." >&2
	@python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

up: $(STAMP) ## servers, service and the demo user's OpenCode, in the background
	@$(VENV)/bin/opencode-lifecycle cluster up

down: $(STAMP) ## stop everything, keep all data
	@$(VENV)/bin/opencode-lifecycle cluster down

destroy: $(STAMP) ## stop everything and remove all data
	@$(VENV)/bin/opencode-lifecycle cluster destroy

check: $(STAMP) ## style, types, layers
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

format: $(STAMP) ## put the style right
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/ruff check --quiet --fix .

test: $(STAMP) ## everything that must always pass; the servers are built meanwhile where they are missing
	@$(VENV)/bin/opencode-lifecycle cluster fetch --require-mock-driver & fetching=$$!; \
	$(MAKE) test-fast; fast=$$?; \
	wait $$fetching || exit 1; \
	$(MAKE) test-servers && exit $$fast

test-fast: $(STAMP) ## what needs no Nomad, Consul, Vault or OpenCode
	@$(PYTEST) --dist worksteal -m "not servers and not opencode"

test-servers: $(STAMP) ## what needs them
	@$(PYTEST) --dist loadfile -m "servers or opencode"

simulate: $(STAMP) ## the reconcile core in virtual time: 200,000 schedules, every point to die at, planted bugs
	@PYTHONPATH=tests $(PYTHON) -m simulation $(SIMULATION)

faults: $(STAMP) ## the real servers killed, frozen, cut off and lied about, 20 times each: REPETITIONS=20 FAULTS="F1 F9"
	@PYTHONPATH=tests $(PYTHON) -m faults --repetitions $(or $(REPETITIONS),20) $(FAULTS)

bench: $(STAMP) ## speed, beside the least that does the same; FIGURES="hot fleet" for some of it
	@PYTHONPATH=tests $(PYTHON) -m bench $(FIGURES)

lock: $(STAMP) ## resolve the dependencies anew
	@$(VENV)/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --universal --python-version 3.11 -o requirements.lock pyproject.toml
	@$(VENV)/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --universal --python-version 3.11 --extra dev -o requirements-dev.lock pyproject.toml
