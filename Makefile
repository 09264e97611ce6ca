# Every target makes its own environment from the complete lock when that is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The first interpreter that runs and that the stack has wheels for (a name on the path may be a shim that does not run).
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
# Two workers of one thread each beat one worker with two on small tensors.
WORKERS ?= 2
# Folder with the data sets; `recsys doctor` lists what it finds there.
RECSYS_DATA ?= $(abspath $(firstword $(wildcard data ../shared/data)))
ifneq ($(RECSYS_DATA),)
export RECSYS_DATA
endif

# Users of MovieLens-100K whose recommendations `make demo` shows, and what the first of them then searches for.
DEMO_USERS ?= 196 13 405 655 880
DEMO_QUERY ?= comedy romance

.PHONY: help venv demo server test lint docs bench clean lock

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

venv: $(STAMP) ## make the environment and install the package in it

# torch comes first: its CPU build has an index of its own, which need not be asked for every other package.
$(STAMP): requirements/cpu.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 is needed: install it, or name it with make PYTHON=/path/to/python"; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) "$$(grep '^torch==' $<)"
	$(BIN)/pip install --quiet --no-deps -r $<
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP) ## train, recommend and search on MovieLens-100K, promote what is better, refuse what is worse, roll back, simulate
	$(BIN)/python experiments/search_logs.py search_movielens
	experiments/demo.sh $(BIN)/recsys "$(DEMO_USERS)" "$(DEMO_QUERY)"

server: $(STAMP) ## show the runs of this folder at http://127.0.0.1:5000
	$(BIN)/recsys server

test: $(STAMP) ## run every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist worksteal

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## build the pages into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(STAMP) ## run every benchmark and write experiments/results/benchmarks
	for script in experiments/benchmarks/[a-z]*.py; do \
		case $$script in *_throughput.py|*/lightgcn_epoch.py) [ -n "$${RECSYS_PEERS_PYTHON:-}" ] || \
			{ echo "== $$script: left out, RECSYS_PEERS_PYTHON names no environment with the peers"; continue; };; esac; \
		echo "== $$script"; $(BIN)/python $$script; \
	done

clean: ## remove what was built and cached; the environment and the runs stay
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

UV := $(BIN)/uv
COMPILE = UV_CUSTOM_COMPILE_COMMAND='make lock' $(UV) pip compile --quiet pyproject.toml --group data --extra dev --extra docs \
	--extra server --extra ann --extra ray --python-version 3.11 --python-platform x86_64-manylinux_2_28 $(UPGRADE)

$(UV): | $(STAMP)
	$(BIN)/pip install --quiet uv==0.13.9

lock: $(UV) ## write requirements/cpu.txt and requirements/gpu.txt again
	$(COMPILE) --group cpu --override requirements/overrides-cpu.txt \
		$(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu) -o requirements/cpu.txt
	$(COMPILE) --group cuda --extra gpu -o requirements/gpu.txt
	touch $(STAMP)
