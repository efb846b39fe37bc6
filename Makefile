# The same verbs here and in CI. `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup check test bench docs services demo

# Hundreds of processes are started by the tests: without bytecode each would compile the libraries anew.
unexport PYTHONDONTWRITEBYTECODE

BENCH ?=
VENV := .venv
STAMP := $(VENV)/.stamp

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml uv.lock scripts/setup.sh
	@sh scripts/setup.sh

setup: $(STAMP) ## create .venv with everything that the lock names
	@:

check: setup ## format, lint, types, import contracts and the tests that need no servers; under 90 s
	@$(VENV)/bin/python scripts/check.py

test: setup ## every test, with real servers that are installed and started as needed; four at a time, since most wait
	@$(VENV)/bin/python -m pytest -n 4 --dist worksteal

bench: setup ## the benchmarks: all of them, or one with BENCH=name
	@$(VENV)/bin/python -m benchmarks $(BENCH)

docs: setup ## build the documentation into site/; a broken link is an error
	@sh scripts/setup.sh --group docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --config-file scripts/mkdocs.yml
	@echo "site/index.html"

services: setup ## start the test servers and leave them running until Ctrl-C
	@$(VENV)/bin/python -m tests.servers

demo: setup ## order fulfilment on SQLite, reconciled at the end
	@$(VENV)/bin/pillarbox demo
