# Every command sets up what it needs in .venv; nothing but Python 3.11+ and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo ui test test-slow test-ui bench lint docs docs-serve setup clean help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup  ## train the demo's model, trace it, and print what was found
	@$(BIN)/python -m examples.demo.run

ui: setup  ## Dagster's and MLflow's interfaces on what was run; PORT=… and MLFLOW_PORT=… choose other ports
	@$(BIN)/headwater ui $(if $(PORT),--port $(PORT)) $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT))

test: $(VENV)/.dev lint  ## all tests but the slow ones and those of the interfaces
	@echo "== tests"
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/.dev  ## whole runs with a judge, BM25 or a second study, and servers that are started and killed
	@echo "== slow tests"
	@$(BIN)/python -m pytest -m slow

test-ui: $(VENV)/.ui-tests  ## the interfaces, driven in a headless Chromium, which is installed where it can be
	@$(BIN)/python -m tests.ui.browser
	@echo "== tests of the interfaces"
	@$(BIN)/python -m pytest tests/ui

bench: $(VENV)/.dev .venv-bergson/.installed  ## the engine, its peers and a training pass side by side; BENCH_ARGS=… (--help lists them)
	@$(BIN)/python -m benchmarks.engine $(BENCH_ARGS)

lint: $(VENV)/.dev  ## formatting, lint and the import rule of the three floors
	@echo "== lint"
	@$(BIN)/ruff check . && $(BIN)/lint-imports

docs: $(VENV)/.docs  ## the documentation as pages, into build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo "build/docs/index.html"

docs-serve: $(VENV)/.docs  ## the documentation on 127.0.0.1:8000, built again when a page of docs/ changes; DOCS_PORT=… chooses another port
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:$(or $(DOCS_PORT),8000)

setup: $(VENV)/.core  ## the Python environment alone

clean:  ## remove the environment; the lake in .headwater stays
	rm -rf $(VENV) .venv-bergson

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

$(VENV)/.docs: $(VENV)/.core
	@echo "== setting up what the documentation needs"
	@$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/.ui-tests: $(VENV)/.dev
	@echo "== setting up what the tests of the interfaces need"
	@$(BIN)/pip install -q -c constraints.txt -e '.[ui-tests]'
	@touch $@

.venv-bergson/.installed: benchmarks/engine/bergson.txt constraints.txt
	@echo "== setting up what bergson needs, in .venv-bergson"
	@$(PYTHON) -m venv .venv-bergson
	@.venv-bergson/bin/pip install -q -c constraints.txt -r benchmarks/engine/bergson.txt
	@.venv-bergson/bin/pip install -q --no-deps bergson==2.5.1
	@touch $@
