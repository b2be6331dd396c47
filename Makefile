# Everything runs in .venv, which the targets make and keep up to date by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := pyproject.toml constraints.txt
export OMP_NUM_THREADS ?= 1

.PHONY: demo test setup fmt check bench docs clean

demo: $(VENV)/.ready
	$(BIN)/worldline demo -o out/demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

setup: $(VENV)/.ready-dev

fmt: $(VENV)/.ready-dev
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py

bench: $(VENV)/.ready-dev
	@for case in $(CASES); do $(BIN)/python benchmarks/uni4d_cases.py $$case || exit 1; done

docs: $(VENV)/.ready-dev
	$(BIN)/python -m pytest tests/test_docs.py tests/test_conventions.py

clean:
	rm -rf $(VENV) out

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python requirements.txt $(PINS)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: $(VENV)/bin/python requirements-dev.txt $(PINS)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.ready
