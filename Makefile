# Both commands set up what they need in .venv; nothing but Python 3.11+ and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint setup clean help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup  ## train the demo's model, trace it, and print what was found
	@$(BIN)/python -m examples.demo.run

test: $(VENV)/.dev lint  ## all tests
	@echo "== tests"
	@$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## formatting, lint and the import rule of the three floors
	@echo "== lint"
	@$(BIN)/ruff check . && $(BIN)/lint-imports

setup: $(VENV)/.core  ## the Python environment alone

clean:  ## remove the environment; the lake in .headwater stays
	rm -rf $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Headwater needs Python 3.11 or newer, and {sys.executable} is {v.major}.{v.minor}; run make PYTHON=/path/to/python3.11")'
	@echo "== setting up $(VENV) (about three minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --progress-bar on -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "== setting up what the tests need"
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@$(BIN)/pip install -q --no-deps kronfluence==1.0.1
	@touch $@
