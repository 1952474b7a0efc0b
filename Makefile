# The commands of Lapidary. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
READY := .venv/.ready
LOCAL := $(PYTHON) -m infra.local
BASE_PYTHON := $(shell for p in python3.11 python3; do command -v $$p >/dev/null && \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && \
	command -v $$p && break; done)

.PHONY: help setup retrain test check bench up down env built clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {gsub(/\$$\$$/, "$$", $$2); printf "  make %-9s%s\n", $$1, $$2}' Makefile

setup: $(READY) ## Build .venv with the tested versions of everything, and check Java

$(READY): pyproject.toml constraints.txt
	@test -n "$(BASE_PYTHON)" || { \
		echo "Lapidary needs Python 3.11, found $$(python3 --version 2>&1); install Python 3.11 as python3.11."; exit 2; }
	@echo "Installing into .venv; this takes a few minutes …"
	@$(BASE_PYTHON) -m venv --clear .venv
	@$(PYTHON) -m pip install --quiet --upgrade 'pip>=25.1'
	@$(PYTHON) -m pip install --quiet --group dev -c constraints.txt
	@$(LOCAL) check
	@touch $@

retrain: $(READY) ## Retrain the family on two days of the bundled log, or on DAY="2022-05-03 …" of RECIPE=…
	@$(LOCAL) retrain $(if $(RECIPE),--recipe $(RECIPE)) $(if $(DAY),--day $(DAY))

test: $(READY) ## Run the tests; MARK=slow runs the slow ones, MARK=gpu those that need a GPU
	@$(PYTHON) -m pytest $(if $(MARK),-m $(MARK)) \
		$(if $(filter gpu,$(MARK)),,-n 2 --dist loadfile --no-loadscope-reorder)

check: $(READY) ## Check format, lint, types and who may import whom
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports

bench: $(READY) ## Time histories and an incremental day; tests/bench says what is compared, and how
	@$(PYTHON) -m tests.bench.bench_timelines
	@$(PYTHON) -m tests.bench.bench_increment

up: $(READY) ## Start Airflow and MLflow to look at; LOG=simulated also makes a log and runs on schedule
	@$(LOCAL) up $(if $(LOG),--log $(LOG))

down: built ## Stop them
	@$(LOCAL) down

env: built ## Print what a shell needs for airflow's commands: eval "$$(make -s env)"
	@$(LOCAL) env $(if $(LOG),--log $(LOG))

built: # A shell reads what `env` prints: it must not set up anything on the way.
	@test -x $(PYTHON) || { echo "Nothing is set up yet; run make setup first." >&2; exit 2; }

clean: ## Remove .venv and caches; what was trained and logged, var/, stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
