# Everything that a person or CI runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make up ARGS=--once` ends after the table; `make test ARGS="-k serving"` runs a part.
ARGS ?=
# Built with the package where there is a C compiler.
KERNEL := serving/backends/factor_kernel.c
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help up test check proto dashboards pipeline bench soak fuzz clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/.installed-run ## Install, then turn the whole wheel on real data and keep serving
	$(BIN)/driftwheel up $(ARGS)

test: $(VENV)/.installed-dev ## Install, then run every test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: $(VENV)/.installed-dev ## Lint, types, import contracts, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	PYTHON=$(BIN)/python proto/check.sh
	PYTHON=$(BIN)/python monitoring/check.sh
	PYTHON=$(BIN)/python k8s/pipelines/check.sh

proto: $(VENV)/.installed-dev ## Generate serving/_proto from proto/
	PYTHON=$(BIN)/python proto/generate.sh

dashboards: $(VENV)/.installed-dev ## Write Prometheus' rules and Grafana's dashboards from monitoring/
	$(BIN)/python -m monitoring.alerts.rules
	$(BIN)/python -m monitoring.dashboards.build

pipeline: $(VENV)/.installed-dev ## Compile the pipeline for Kubeflow to k8s/pipelines
	$(BIN)/driftwheel pipeline compile

bench: $(VENV)/.installed-dev ## Run the load benchmark (docs/benchmarks.md names the others)
	$(BIN)/python -m benchmarks.load $(ARGS)

soak: $(VENV)/.installed-dev ## Ten minutes of mixed load while versions switch: nothing may leak or fail
	$(BIN)/python -m benchmarks.soak $(ARGS)

fuzz: $(VENV)/.installed-dev ## Ten minutes of damaged requests: no fault may be the server's own
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

clean: ## Delete the virtual environment and caches (not the home folder)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info

# A virtual environment with a shared libpython (Envoy embeds it) and a recent enough Python.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Driftwheel needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	@echo "Installing what serving, training and monitoring need (about 2 GB) …"
	$(PIP) --editable ".[serve,train,monitor]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	@echo "Installing what development and tests need …"
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.installed-run
