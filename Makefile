# fastssm. `make help` lists the commands; each does all the set-up it needs, once.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
ARGS   ?=
BIN    := $(VENV)/bin
RUN    := runs/white-wine

.DEFAULT_GOAL := help
.PHONY: help train test lint format docs bench clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.demo  ## train on the white-wine data, print the table and the path of the figure
	$(BIN)/fastssm train white-wine --out $(RUN) --overwrite $(ARGS)

test: $(VENV)/.test  ## run the whole test suite (ARGS="-k name" picks)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.test  ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.test  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs  ## build the documentation into site/, every warning an error
	$(BIN)/zensical build --clean --strict

bench: $(VENV)/.bench  ## measure: rewrite bench/results/torch_path.csv and the tables of the documentation
	$(BIN)/python -m bench.torch_path $(ARGS)
	$(BIN)/python tools/fill_tables.py

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) .cache build dist site runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

# A venv with torch; then one stamp per extra, so that a second call is instant.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install $(TORCH)
	@touch $@

$(VENV)/.%: pyproject.toml setup.py $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@
