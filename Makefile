PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: help demo test
help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/'

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	$(RUN) pip install --quiet --editable ".[test]"
	touch $@

demo: $(VENV)/installed  ## train a capsule network on real handwritten digits and draw what it sees (no download, about a minute)
	$(RUN) capsule_lightning fit --config digits.yaml
	@echo "pictures:   $$(ls -td runs/digits/*/ | head -n 1)figures"

test: $(VENV)/installed  ## style, types and tests
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses auto --dist loadgroup
