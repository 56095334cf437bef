# make demo and make test are all a fresh clone needs; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test test-more test-reference test-pythons test-launchers test-ray test-slurm sanitize lint format clean

help:
	@echo "make demo    train a GRU on the adding problem and show what to look at"
	@echo "make test    the test suite"
	@echo "make test-more        the rest: benchmark scripts, simulations, LaTeX, and whether pictures can be read"
	@echo "make test-reference   those of what trains once more, without the compiled kernels"
	@echo "make test-launchers   sweeps with Hydra's launchers for joblib and submitit; installs them"
	@echo "make test-ray         those of the launcher for Ray, on a cluster of processes here; installs Ray"
	@echo "make test-slurm       sweeps on a Slurm cluster of two nodes that it starts here, as root, with Debian's packages"
	@echo "make test-pythons     those that need no torch, on each of Python 3.11 to 3.14 that is here, or on PYTHONS"
	@echo "make sanitize         those of the kernels, compiled with gcc's sanitizers"
	@echo "make lint    ruff and mypy"
	@echo "make setup   the virtual environment in $(VENV), which the others make when it is missing"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rnnbench needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/rnnbench run cell=gru task=adding

test: $(READY)
	$(BIN)/python -m pytest

test-more: $(READY)
	$(BIN)/python -m pytest -m more

test-reference: $(READY)
	RNNBENCH_KERNEL=reference $(BIN)/python -m pytest tests/test_cli.py tests/test_resume.py tests/test_tensorboard.py tests/test_members.py tests/test_sweeper.py

test-launchers: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,joblib,slurm]'
	$(BIN)/python -m pytest tests/cluster/test_launchers_of_hydra.py -n 0

test-ray: $(READY)
	@$(BIN)/python -c 'import ray' 2> /dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest tests/cluster/test_ray.py -n 0

test-slurm: $(READY)
	bash tests/cluster/install_slurm.sh
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,slurm]'
	$(BIN)/python -m pytest -n 0 tests/cluster/test_slurm.py

test-pythons:
	@$(PYTHON) tests/pythons.py

sanitize: $(READY)
	PYTHON=$(abspath $(BIN))/python bash tests/sanitize.sh

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
