# Everything runs in .venv, made from constraints.txt; delete the folder to start afresh.
PYTHON ?= python3
VENV ?= .venv
# Where a CPU or CUDA build of PyTorch comes from, if not from the package index that pip is set up with.
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: help demo test slow lint types layers unit clean

help:  ## Show what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tacit needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || { echo "Making an environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing PyTorch, which may be a large download"
	@# On Linux without an NVIDIA driver the CPU build saves gigabytes; where it is not to be had, the plain one does.
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
	  $(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch==2.13.0+cpu' 2>/dev/null \
	  || $(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch; \
	else $(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch; fi
	@echo "Installing Tacit and what else it needs: a minute or more without a word"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## Train a small federation, serve its model, ask it for a prediction
	@$(BIN)/python -m tacit.simulations.demo

test: lint types layers unit  ## Check style, types, layers, and run the fast tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy -p tacit

layers: $(STAMP)
	PYTHONPATH=src $(BIN)/lint-imports

unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

slow: $(STAMP)  ## Run the tests that take minutes, real data and real processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow -n 2 --dist loadfile

clean:  ## Remove the environment and what runs left behind
	rm -rf $(VENV) runs models-store tacit.db tacit.db-wal tacit.db-shm build dist
