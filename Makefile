# `make demo` and `make test` need Python 3.11 or newer and nothing else; everything goes into $(VENV).
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help install demo test check format format-check lint types wheel docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

install: $(INSTALLED) ## create .venv and install vbdguard into it

demo: $(INSTALLED) ## the whole story on a small set of natural images, offline
	$(BIN)/vbdguard demo

test: $(INSTALLED_TEST) ## run the tests
	$(BIN)/python -m pytest

check: format-check lint types test ## what CI runs: format, lint, types, tests

format: $(INSTALLED_DEV) ## bring the code into its format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

format-check: $(INSTALLED_DEV)
	$(BIN)/ruff format --check

lint: $(INSTALLED_DEV) ## look for faults that can be seen in the text
	$(BIN)/ruff check

types: $(INSTALLED_DEV) ## check the types
	$(BIN)/mypy

wheel: $(INSTALLED_DEV) ## build the wheel, install it elsewhere and scan there
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python .ci/check_wheel.py dist/*.whl

docs: $(INSTALLED_DOCS) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove what was built, but not .venv
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vbdguard needs Python 3.11 or newer, $(PYTHON) is `$(PYTHON) --version 2>&1`; try make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(INSTALLED_TEST): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(INSTALLED_DEV): $(INSTALLED_TEST)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@
