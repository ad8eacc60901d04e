# One command each. The environment is made once, in .venv, from whatever Python 3.11 to 3.13 is found; where pip fetches
# packages from is left to pip's own settings. Afterwards nothing here needs a network.

.DEFAULT_GOAL := help
.PHONY: help setup demo test check results clean

# Nothing of the caller's Python may leak in.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX
export PYTHONNOUSERSITE := 1

VENV := .venv
STAMP := $(VENV)/ready
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt

# A copied or moved tree must not run the code that its .venv was made for.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

help:
	@echo "make demo    train one private generator among four simulated hospitals and compare"
	@echo "make test    run the tests"
	@echo "make check   style, types, import contracts, doctests and tests: what a change must pass"
	@echo "make results the tables and pictures of docs/results.md, from the runs that are kept there"
	@echo "make setup   only make the environment in $(VENV)"
	@echo "make clean   remove the environment and everything that can be made again"

setup: $(STAMP)

demo: $(STAMP)
	@$(VENV)/bin/cloister demo

test: $(STAMP)
	@PYTHON=$(VENV)/bin/python scripts/check --tests

check: $(STAMP)
	@PYTHON=$(VENV)/bin/python scripts/check

results: $(STAMP)
	@$(VENV)/bin/python -m perf.results

$(STAMP): pyproject.toml constraints.txt
	@python=""; for found in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	    if $$found -c '$(SUITABLE)' >/dev/null 2>&1; then python=$$found; break; fi; done; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 with venv was found." >&2; \
	    echo "Install one (on Debian and Ubuntu also python3-venv), or say: make PYTHON=/path/to/python" >&2; \
	    exit 1; fi; \
	if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(CURDIR)" ]; then \
	    echo "Setting up $(VENV) with $$($$python --version), once; this takes some minutes."; \
	    $$python -m venv --clear $(VENV); else echo "Bringing $(VENV) up to date."; fi
	@rm -f $(STAMP)
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation "$$(grep '^torch==' constraints.txt)" -e '.[dev]'
	@printf '%s\n' "$(CURDIR)" > $(STAMP)

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
