PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
RUN := $(VENV)/bin/python -m

# each process that a test starts would compile the package anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test types tests nightly lowest
help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/'

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	$(RUN) pip install --quiet --editable ".[test]"
	touch $@

demo: $(VENV)/installed  ## train a capsule network on real digits, draw what it sees, and look into one for MNIST (no download, about two minutes)
	$(RUN) capsule_lightning fit --config digits.yaml
	$(RUN) capsule_lightning report efficient_capsnet_mnist --output runs/mnist.html --overwrite
	@echo "pictures of the digits: $$(ls -td runs/digits/*/ | head -n 1)figures"
	@echo "a network for MNIST:    runs/mnist.html, open it and turn its dials"

# one worker more than processors: some tests wait for other processes
WORKERS := --numprocesses $$(( $$(getconf _NPROCESSORS_ONLN) + 1 ))
# each worker begins with tests that are neighbors, and takes others' when it has done its own
TESTS := pytest $(WORKERS) --dist worksteal

test: $(VENV)/installed  ## style, types, direction of imports, and the tests of the default tier
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/lint-imports --no-cache
	$(MAKE) --jobs 2 types tests

types: $(VENV)/installed
	$(RUN) mypy

tests: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) $(TESTS)

nightly: $(VENV)/installed lowest  ## all tests but those marked slow, also with the lowest versions that setup.cfg allows
	OMP_NUM_THREADS=1 $(RUN) pytest $(WORKERS) --dist loadgroup --no-loadscope-reorder -m "not slow"

lowest: $(LOWEST)/installed  ## the default tier with the lowest versions that setup.cfg allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m $(TESTS)

$(LOWEST)/installed: setup.cfg tests/helpers/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python tests/helpers/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable ".[test]"
	touch $@
