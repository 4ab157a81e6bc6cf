# `make help` lists the targets. The first target run installs everything into .venv from requirements.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# questions per benchmark; LIMIT=all evaluates every question
LIMIT ?=
# where cells run: basic (the default), local, slurm
LAUNCHER ?=
RUN_OPTIONS := $(if $(LIMIT),limit=$(LIMIT)) $(if $(LAUNCHER),launcher=$(LAUNCHER))

export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo docs bench bench-harness gpu-check test lint audit format train-tiny score-tiny clean
.DEFAULT_GOAL := help

help:  ## list all targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1|/' | column -t -s '|'

setup: $(READY)  ## create .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: clasp needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -r requirements.lock
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q --no-deps -e .
	@touch $@

# The paper's tables and ablations, one file each in configs/experiment. BACKBONE=llava_1_5_7b (on a GPU machine) selects
# another backbone, TOKENS=192 or TOKENS=192,64 other budgets, LIMIT=all every question; PUBLISHED=1 adds published rows.
# Default benchmarks: the paper's, or the tiny backbone's own; BENCHMARKS=gqa,pope selects others.
BACKBONE ?= tiny
TOKENS ?=
BENCHMARKS ?=
PUBLISHED ?=
EXPERIMENT ?=
WATCH ?=
BUDGET_OPTIONS := $(if $(TOKENS),'grid.ratio=[]' 'grid.tokens=[$(TOKENS)]')
# log tables and figures as W&B artifacts: offline, online, off; WANDB_MODE takes precedence
WANDB ?= offline
REPORT_OPTIONS := $(if $(PUBLISHED),published=$(PUBLISHED)) wandb=$(WANDB)
# $(1): benchmarks on the tiny backbone, $(2): on others
benchmarks = $(if $(BENCHMARKS),'benchmarks.names=[$(BENCHMARKS)]',benchmarks=$(if $(filter tiny,$(BACKBONE)),$(1),$(2)))
# script to run on an experiment: run, plan, prefetch
STEP := run
# $(1): name of the experiment's record
reported = $(if $(filter run,$(STEP)),$(BIN)/python scripts/report.py experiment=$(1) $(REPORT_OPTIONS))
# $(1), $(2): as above; the experiment's name is the target's
define experiment
	$(BIN)/python scripts/$(STEP).py experiment=$(subst -,_,$@) backbone=$(BACKBONE) \
	  $(call benchmarks,$(1),$(2)) $(BUDGET_OPTIONS) $(RUN_OPTIONS)
	$(call reported,$(subst -,_,$@)_$(BACKBONE))
endef

TABLES := table-llava15 table-llava-next table-qwen25vl table-video table-efficiency
ABLATIONS := ablation-fusion ablation-pivots ablation-parts ablation-router ablation-completion ablation-queries \
  ablation-stages ablation-positions ablation-layers

.PHONY: tables $(TABLES) $(ABLATIONS) fidelity everything report calibrate retention router check-upper-bound reference plan prefetch status

tables: $(READY)  ## start here: methods and baselines on the tiny backbone, table and figure (a few minutes)
	$(BIN)/python scripts/$(STEP).py experiment=tiny_main $(RUN_OPTIONS)
	$(call reported,tiny_main)

table-llava15: $(READY)  ## every method at 192, 128, 64 tokens on eight benchmarks
	$(call experiment,tiny,paper8)

table-llava-next: $(READY)  ## every method at 320 of 2,880 tokens
	$(call experiment,tiny,paper8)

table-qwen25vl: $(READY)  ## every method with 66.7, 77.8, 88.9 % removed
	$(call experiment,tiny,paper8)

table-video: $(READY)  ## every method on video questions
	$(call experiment,tiny,video4)

table-video-methods: $(READY)  ## every method including those for videos; BACKBONE=video_llava_7b, llava_onevision_7b, qwen2_5_vl_7b
	$(call experiment,tiny,video4)

table-efficiency: $(READY)  ## times, FLOPs, KV cache, visual tokens, accuracy retained
	$(call experiment,tiny_pope,pope)

ablation-fusion: $(READY)  ## a: fusion strategies A to E by question category
	$(call experiment,tiny,mmvet)

ablation-pivots: $(READY)  ## b: pivot share 0 to 1 by question category
	$(call experiment,tiny,mmvet)

ablation-parts: $(READY)  ## c: contribution of fusion and of the class-adaptive split
	$(call experiment,tiny,ablation)

ablation-router: $(READY)  ## d: routers
	$(call experiment,tiny,ablation)

ablation-completion: $(READY)  ## e: completion rules
	$(call experiment,tiny,ablation)

ablation-queries: $(READY)  ## f: query tokens whose attention selects pivots
	$(call experiment,tiny,ablation)

ablation-stages: $(READY)  ## g: stage layers and their number
	$(call experiment,tiny,ablation)

ablation-positions: $(READY)  ## h: original and contiguous positions
	$(call experiment,tiny,ablation)

ablation-layers: $(READY)  ## i: fusion-layer sets
	$(call experiment,tiny,ablation)

fidelity: $(READY)  ## agreement of the tiny backbone's method ranking with published LLaVA-1.5-7B results; table and figure
	$(call experiment,tiny,paper8)

# the longest target first, next to targets that share few cells with it; the other tables reuse finished cells
everything: table-llava15 fidelity $(ABLATIONS) table-efficiency router retention table-llava-next table-qwen25vl table-video tables  ## all tables and ablations, then the report; -j2 uses two processes
	$(MAKE) report

report: $(READY)  ## rebuild results/report.html and every table and figure from stored results
	$(BIN)/python scripts/report.py experiment=all $(if $(PUBLISHED),published=$(PUBLISHED))

calibrate: $(READY)  ## choose fusion and pivot share per category on held-out data; writes configs/policy/
	$(BIN)/python scripts/calibrate.py backbone=$(BACKBONE)

retention: $(READY)  ## maps of the visual tokens that methods keep of a few images
	$(BIN)/python scripts/retention.py backbone=$(BACKBONE)

router: $(READY)  ## accuracy, confusion and speed of the text routers
	$(BIN)/python scripts/router.py

check-upper-bound: $(READY)  ## compare stored unpruned scores with published ones
	$(BIN)/python scripts/check_upper_bound.py backbone=$(BACKBONE)

reference: $(READY)  ## copy results/ to results/reference, the README and docs/
	$(BIN)/python scripts/reference.py

# the target of EXPERIMENT
target = $(or $(patsubst tiny-main,tables,$(subst _,-,$(EXPERIMENT))),$(error name an experiment: EXPERIMENT=table_llava15))

plan: $(READY)  ## preview of a run: cells to run and done, jobs, hours, disk; EXPERIMENT=table_llava15 BACKBONE=...
	@$(MAKE) --no-print-directory -s $(target) STEP=plan

prefetch: $(READY)  ## download and check models and data sets, for machines without hub access; EXPERIMENT=... BACKBONE=...
	@$(MAKE) --no-print-directory -s $(target) STEP=prefetch

status: $(READY)  ## cells done, running, failed, missing, and the time left; EXPERIMENT=table_llava15, WATCH=10
	@$(BIN)/python scripts/status.py $(if $(EXPERIMENT),experiment=$(EXPERIMENT)) $(if $(WATCH),watch=$(WATCH))

demo: $(READY)  ## local demo page: your image and question, answers and kept tokens of several methods; PORT=7860
	$(BIN)/python scripts/demo.py $(if $(PORT),port=$(PORT))

bench: $(READY)  ## times of every method on random weights; MEASURE=ops, growth, profile; GEOMETRY=llava_1_5_7b on a GPU
	$(BIN)/python scripts/bench.py measure=$(or $(MEASURE),methods) geometry=$(or $(GEOMETRY),small)

bench-harness: $(READY)  ## questions per second: default, loop of single questions, and no ViT cache
	$(BIN)/python scripts/bench_harness.py

gpu-check: $(READY)  ## checks that need a GPU, in under 8 minutes; GEOMETRY=small runs the same code on a CPU
	$(BIN)/python scripts/gpu_check.py geometry=$(or $(GEOMETRY),full)

docs: $(READY)  ## build docs/ and the Python API as a site in site/
	$(BIN)/python -m mkdocs build

test: $(READY) lint  ## lint, type check and the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

lint: $(READY)  ## ruff, mypy, pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pip check

audit: $(READY)  ## known vulnerabilities of the pinned packages (pip-audit), or their ages if it cannot run
	$(BIN)/python scripts/audit.py

format: $(READY)  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-tiny: $(READY)  ## train the tiny backbone from scratch and export it (hours on 2 cores; resumes from ./checkpoints)
	$(BIN)/python scripts/train_tiny.py

score-tiny: $(READY)  ## the tiny backbone's scores on calibration scenes: all tokens, gray image, pruned; SPLIT=test
	$(BIN)/python scripts/score_tiny.py split=$(or $(SPLIT),calibration)

clean:  ## remove generated files except the environment and the results
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .hypothesis build ./*.egg-info
	find clasp scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
