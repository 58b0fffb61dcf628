# Needs Python 3.11 and nothing else; `make demo` and `make test` make .venv by themselves.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3.11 python3 python,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: help demo test check lint docs options bench clean

help:  ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(STAMP)  ## Align the shipped model on the shipped pairs; writes runs/demo/
	$(BIN)/penchant demo --overwrite

test: $(STAMP)  ## Run the tests, with coverage
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered

check: lint test  ## Format, lint, types, import contracts, documents, tests

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_options.py --check

docs: $(STAMP) options  ## Build the documents into site/
	$(BIN)/mkdocs build --strict

bench: $(STAMP)  ## Measure speed and memory of training, and the price of a sweep; writes runs/bench*.json
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/sweep.py

options: $(STAMP)  ## Write docs/options.md anew
	$(BIN)/python docs/generate_options.py

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 is needed: install it, or set PYTHON=/path/to/python3.11" >&2; exit 2; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV): $(STAMP)

clean:  ## Remove what was built, the virtual environment and runs/demo
	rm -rf $(VENV) site build dist htmlcov .coverage .coverage.* runs/demo
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
