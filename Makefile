# Two commands need nothing but Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
DEMO ?= demo

.PHONY: demo test lint prove-skip prove-bytes prove-colours clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "gopstream needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/gopstream demo --out $(DEMO)

test: $(VENV)/installed
	$(BIN)/pytest

lint: $(VENV)/installed
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache .  # a stale cache has hidden an unsorted import
	$(BIN)/mypy
	$(BIN)/lint-imports

prove-skip: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.skip_proof $(DATA) --json docs/results/skip_proof.json

prove-bytes: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.same_bytes $(DATA) --json docs/results/same_bytes.json

prove-colours: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.jpeg_colours $(DATA) --json docs/results/jpeg_colours.json

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
