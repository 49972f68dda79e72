# Two commands on a fresh machine: `make train` and `make test`.
# Each makes .venv and installs what it needs. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/watch
CONFIG ?= configs/watch.py

# For benchmarks/accelerator.py, where there is no network: what a CUDA image with JAX lacks.
WHEELS := .wheels
WHEELS_PYTHON ?= 3.12
WHEELS_PLATFORMS ?= manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64

.PHONY: train test test-processes test-slow lint docs tables wheels clean

$(VENV)/.train: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sft_jax needs Python 3.11 or newer, found $$($(PYTHON) --version): run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,watch]'
	@touch $@

$(VENV)/.test: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,watch,test]'
	@touch $@

$(VENV)/.docs: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,docs]'
	@touch $@

train: $(VENV)/.train
	$(BIN)/python train.py --config=$(CONFIG) --workdir=$(WORKDIR)
	$(BIN)/python eval.py --workdir=$(WORKDIR)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-processes: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "process and not slow"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Without the notice about MkDocs 2.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

# The figures of README and docs, from benchmarks/results.
tables: $(VENV)/.test
	$(BIN)/python -m benchmarks.study.pictures
	$(BIN)/python -m benchmarks.tables

wheels:
	rm -rf $(WHEELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
	  --python-version $(WHEELS_PYTHON) --implementation cp \
	  $(addprefix --platform ,$(WHEELS_PLATFORMS)) --dest $(WHEELS) \
	  'ml_collections >=1.0,<2' 'pydantic >=2.9,<3'
	@du -sh $(WHEELS)

clean:
	rm -rf $(VENV) $(WHEELS) site build *.egg-info
