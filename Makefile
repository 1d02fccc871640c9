# Each target sets up .venv first, where it is missing or pyproject.toml has changed.
#   make demo     a real run on real data        make test    linters, types, tests
#   make bench    the benchmarks                 make docs    the pages, in docs/_build/html
#   make lint     linters and types only         make clean   remove all that was made here
#   make slurm-lab, make slurm-lab-stop          a SLURM cluster here; make test starts its own
# The interpreter is looked for; name one with: make PYTHON=/path/to/python test

VENV := .venv
# Clients of Snowflake that the emulator is tested with, each with what it pins: apart from the rest.
CONNECTOR4 := .venv-connector4
SNOW := .venv-snow
FAKESNOW := .venv-fakesnow
BIN := $(VENV)/bin
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python)
# The demo needs few packages; where the larger development set is installed, that one serves.
DEMO_READY := $(firstword $(wildcard $(VENV)/.installed-dev) $(VENV)/.installed-demo)

.DEFAULT_GOAL := test
.DELETE_ON_ERROR:
.PHONY: demo test ready bench docs lint clean slurm-lab slurm-lab-stop

demo: $(DEMO_READY)
	@$(BIN)/flowdist demo

# Thousands of processes start: what they compile is kept, and OpenBLAS makes no thread per core.
test: export PYTHONDONTWRITEBYTECODE =
test: export OPENBLAS_DEFAULT_NUM_THREADS = 1
test: $(VENV)/.installed-dev
	@$(MAKE) -s -j 2 lint ready $(CONNECTOR4)/.installed $(SNOW)/.installed
	@$(BIN)/python -m pytest -q -n 4 --dist worksteal

ready: $(VENV)/.installed-dev
	@$(BIN)/python -m compileall -q flowdist
	@$(BIN)/python -m pytest -q --collect-only > /dev/null || true  # the tests say what is wrong

bench: $(VENV)/.installed-bench $(FAKESNOW)/.installed
	@set -e; for file in benchmarks/[a-z]*.py; do $(BIN)/python "$$file"; done

docs: $(VENV)/.installed-docs
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --strict --no-error-summary flowdist

slurm-lab:
	@labs/slurm start

slurm-lab-stop:
	@labs/slurm stop

clean:
	rm -rf $(VENV) $(CONNECTOR4) $(SNOW) $(FAKESNOW) build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra: newer than pyproject.toml means that what it asks for is installed.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing flowdist[$*] into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

$(CONNECTOR4)/.installed: PACKAGES := 'snowflake-connector-python[pandas]>=4.8,<5'
$(SNOW)/.installed: PACKAGES := 'snowflake-cli>=3.26'
$(FAKESNOW)/.installed: PACKAGES := 'fakesnow[server]>=0.12' 'snowflake-connector-python<5'
$(CONNECTOR4)/.installed $(SNOW)/.installed $(FAKESNOW)/.installed: Makefile | $(BIN)/python
	@echo "Installing $(PACKAGES) into $(@D) ..."
	@$(BIN)/python -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@touch $@

$(BIN)/python:
	@for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then exec "$$candidate" -m venv --clear $(VENV); fi; \
	done; \
	echo "flowdist needs Python 3.11 or later with its venv module; tried: $(CANDIDATES)." \
	    "Name one with: make PYTHON=/path/to/python" >&2; exit 1
