# Needs make and a python3 >= 3.11 with venv; everything else goes into .venv, from the lock file.

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PYTHONS := python3 python3.11 python3.12 python3.13 python3.14

export UV_PROJECT_ENVIRONMENT := $(VENV)
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help install run test check test-long test-faults chaos bench docs

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make the environment in .venv; other targets do it as needed

run: $(INSTALLED) ## run the whole gateway here: prints its URL, a key and a curl line
	@$(PY) -m services.local

test: $(INSTALLED) ## run the tests, with a real PostgreSQL and RabbitMQ
	@$(PY) -m pytest -m 'not (long or faults or chaos)'

check: $(INSTALLED) ## lint, types, boundaries, completeness, generated docs, manifests
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(PY) -m pytest -q tests/test_boundaries.py tests/test_complete.py
	@$(PY) -m tests.docs --check
	@$(PY) -m tests.manifests

test-long: $(INSTALLED) ## run the long tests, with many more examples
	@$(call marked,long,--hypothesis-profile=long)

test-faults: $(INSTALLED) ## kill each part at its worst moments, RUNS=20 times a row of the crash matrix
	@FAULTS_RUNS=$(RUNS) $(call marked,faults)

chaos: $(INSTALLED) ## kill everything at random, under load, for MINUTES=10; SEED=… to have it again
	@CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) $(call marked,chaos)

bench: $(INSTALLED) ## measure, and print a table against the installed peers
	@$(PY) -m tests.bench

docs: $(INSTALLED) ## generate the parts of the documentation that come from the code
	@$(PY) -m tests.docs

# pytest ends with 5 where no test has the mark: that is said, and is no success.
marked = $(PY) -m pytest -m $(1) $(2) || { code=$$?; [ $$code != 5 ] || echo "No test is marked '$(1)' yet."; exit $$code; }

$(INSTALLED): pyproject.toml uv.lock
	@$(PY) -m pip --version >/dev/null 2>&1 || { $(new_venv); }
	@$(PY) -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@$(VENV)/bin/uv sync --locked
	@touch $@

define new_venv
for python in $(PYTHONS); do \
    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
    "$$python" -m venv --clear $(VENV) && exit 0; \
    rm -rf $(VENV); \
    echo "$$python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
done; \
echo "OpenToken needs Python 3.11 or newer; tried: $(PYTHONS). Install one, or: make PYTHONS=/path/to/python" >&2; exit 1
endef
