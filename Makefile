# Two commands matter: `make demo` sets up and runs the main job, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-torch test-long test-clients lint bench validate setup compiled clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up and run the demo: a deadlock, a gang, a recovery (under a minute)"
	@echo "make test   set up and run linters, type checker and tests"
	@echo "make test-torch  install torch and jax (CPU) and run the tests that need them"
	@echo "make validate  upstream's own tables, case by case"
	@echo "make bench  measured side by side on this machine"

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

setup: $(VENV)/.dev compiled

# Byte code once, for all processes that follow: where Python may not write it by itself
# (PYTHONDONTWRITEBYTECODE, as in many images), each `kubarium up` would compile 300 files anew.
compiled: $(VENV)/.base
	@$(BIN)/python -m compileall -q src

demo: $(VENV)/.base compiled
	$(BIN)/kubarium demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.dev compiled
	$(BIN)/pytest -n 2

# Frameworks that nodes run: their CPU wheels take 0.8 GB and half a minute. Where they cannot be
# installed, the reason is printed and the tests that need them skip, each saying so.
FRAMEWORKS ?= torch==2.13.0 jax==0.7.2
test-torch: $(VENV)/.dev compiled
	@for what in $(FRAMEWORKS); do \
	  timeout 900 $(BIN)/pip install --quiet --disable-pip-version-check "$$what" \
	    || echo "make test-torch: $$what cannot be installed (see above); its tests skip"; \
	done
	@du -sh $(VENV) | sed 's/^/with frameworks: /'
	$(BIN)/pytest -n 2 -m "torch or jax" -rs --timeout 400

test-long: $(VENV)/.dev compiled
	$(BIN)/pytest -n 2 -m "long" --timeout 900

test-clients: $(VENV)/.dev compiled
	$(BIN)/pytest -m "kubectl" --timeout 600

# Upstream's own tables, replayed, with passed, failed and deviating cases by name; they are taken
# from KUBARIUM_CORPUS (../shared/corpus), and the tests skip without it.
validate: $(VENV)/.dev compiled
	$(BIN)/pytest -q -s -rs tests/engine/devices/test_allocator_corpus.py \
	  tests/api/cel/test_corpus.py tests/engine/queueing/test_kueue_corpus.py

bench: $(VENV)/.dev compiled
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
