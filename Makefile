# Two commands need nothing but Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
GOLDEN ?= ../shared/golden
DEMO ?= demo

.PHONY: demo test lint prove-skip prove-bytes prove-colours prove-vectors prove-faults prove-fuzz \
	prove-memory prove-kill prove-scale prove-many prove-resume prove-loading-faults \
	prove-loading-leaks prove-loading-scale prove-motion-place prove-models \
	prove-motion-matters prove-training prove-recipes clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "gopstream needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/gopstream demo --out $(DEMO)

test: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile

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

prove-vectors: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.same_vectors $(DATA) --json docs/results/same_vectors.json

prove-faults: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.fault_table --json docs/results/fault_table.json \
		--document docs/faults.md

prove-fuzz: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.fuzz $(DATA) --count 2000 --seed 0 --json docs/results/fuzz.json

prove-memory: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.flat_memory --json docs/results/flat_memory.json

prove-kill: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.sharding_kills --json docs/results/sharding_kills.json

prove-scale: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.sharding_scale --json docs/results/sharding_scale.json

prove-many: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.sharding_many --json docs/results/sharding_many.json

prove-resume: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.loading_resume --json docs/results/loading_resume.json

prove-loading-faults: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.loading_faults --json docs/results/loading_faults.json

prove-loading-leaks: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.loading_leaks --json docs/results/loading_leaks.json

prove-loading-scale: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.loading_scale --json docs/results/loading_scale.json

prove-motion-place: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.motion_place $(DATA) --json docs/results/motion_place.json

prove-motion-matters: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.motion_matters --json docs/results/motion_matters.json

prove-training: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.training_kills --json docs/results/training_kills.json

prove-recipes: $(VENV)/installed
	$(BIN)/python -m gopstream.jobs.bench.debug_recipes --json docs/results/debug_recipes.json

prove-models: $(VENV)/installed
	$(BIN)/python -m tests.models.golden $(GOLDEN)/*.npz
	$(BIN)/python -m gopstream.jobs.bench.models_compiled --json docs/results/models_compiled.json

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
