# `make help` lists the targets. Everything installs itself into .venv from requirements.lock on first use.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# questions per benchmark in `make tables` and `make methods`; LIMIT=all evaluates every question
LIMIT ?=
RUN_OPTIONS := $(if $(LIMIT),limit=$(LIMIT))

export TOKENIZERS_PARALLELISM := false

.PHONY: help setup tables methods reference test lint format train-tiny clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

setup: $(READY)  ## create .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: clasp needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -r requirements.lock
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q --no-deps -e .
	@touch $@

tables: $(READY)  ## evaluate the tiny backbone, write the main table and the accuracy-vs-FLOPs figure (LIMIT=all: every question)
	$(BIN)/python scripts/run.py experiment=tiny_main $(RUN_OPTIONS)
	$(BIN)/python scripts/report.py experiment=tiny_main

methods: $(READY)  ## the same with every method (LIMIT as above; cells of `make tables` are not run again)
	$(BIN)/python scripts/run.py experiment=tiny_methods $(RUN_OPTIONS)
	$(BIN)/python scripts/report.py experiment=tiny_methods

reference: tables methods  ## keep the tables and figures of both in results/reference and in the README
	$(BIN)/python scripts/reference.py

test: $(READY) lint  ## lint, type check and the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

lint: $(READY)  ## ruff, mypy, pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pip check

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-tiny: $(READY)  ## train the tiny backbone anew (about an hour on 2 cores; resumes from ./checkpoints)
	$(BIN)/python scripts/train_tiny.py

clean:  ## remove what was generated, not the environment and not the results
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build ./*.egg-info
	find clasp scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
