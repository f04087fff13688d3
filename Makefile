# Two commands matter: `make demo` sets up and runs the main job, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-long test-clients lint bench validate setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up and run the demo: a deadlock, a gang, a recovery (under a minute)"
	@echo "make test   set up and run linters, type checker and tests"
	@echo "make bench  measured side by side on this machine"

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.base
	$(BIN)/kubarium demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.dev
	$(BIN)/pytest -n 2

test-long: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m "long" --timeout 900

test-clients: $(VENV)/.dev
	$(BIN)/pytest -m "kubectl" --timeout 600

bench: $(VENV)/.dev
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
