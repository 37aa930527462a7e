PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
# torch computes the bytes, so its version changes only on purpose.
TORCH ?= 2.13.0
TRANSFORMERLENS ?= 4.3.0
BIN := .venv/bin
STAMP := .venv/.installed
# Snakemake and DVC start `snakemake` and `lmsae` by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo test transformerlens check model lock clean
.DELETE_ON_ERROR:

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(STAMP) ## train, evaluate and report the sweep of config/ on the built-in model; see results/
	$(BIN)/snakemake --cores all $(ARGS)

test: $(STAMP) ## run the tests (WORKERS=2, ARGS="-k words")
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# SAELens needs a version below 4, so this one lies in a folder of its own, in front of the other on Python's path.
transformerlens: $(STAMP) ## run the tests of the TransformerLens backend under version 4 (TRANSFORMERLENS=4.3.0)
	rm -rf build/transformerlens
	$(BIN)/pip install --quiet --no-deps --target build/transformerlens transformer-lens==$(TRANSFORMERLENS)
	PYTHONPATH=build/transformerlens $(BIN)/python -c 'import transformer_lens as found; print(found.__file__); \
	  import sys; sys.exit("build/transformerlens" not in found.__file__)'
	PYTHONPATH=build/transformerlens $(BIN)/pytest -n $(WORKERS) --dist loadgroup -k "transformerlens or bridge or lens_models" \
	  tests/lm/test_backends.py tests/lm/test_probing.py tests/lm/test_lens_models.py $(ARGS)

check: $(STAMP) ## lint, format, types, import floors, workflow
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/snakefmt --check lmsae/project/Snakefile lmsae/workflow
	$(BIN)/snakemake --lint

model: $(STAMP) ## train the built-in language model again (one to two hours of two cores)
	$(BIN)/python recipes/stdlib_4m/train.py --out lmsae/lm/stdlib-4m $(ARGS)

# pip chooses between the CPU and the CUDA build of torch. The lock names neither, nor what only the CUDA build needs.
lock: ## pin the newest versions that pyproject.toml allows in requirements.lock (TORCH=2.13.0)
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install -e '.[test,check]' torch==$(TORCH)
	{ echo '# Made by `make lock` from pyproject.toml; do not edit. Installed by `make demo`, `make test` and `make check`.'; \
	  build/lock/bin/pip freeze --all --exclude-editable --exclude pip --exclude wheel \
	  | sed -E 's/\+[A-Za-z0-9.]+$$//' | grep -vE '^(nvidia|cuda|triton)'; } > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build/lock

clean: ## remove caches and build outputs; artifacts/ and results/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find lmsae tests recipes -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'lmsae needs Python 3.11 or later, and $(PYTHON) is not. Name another: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@
