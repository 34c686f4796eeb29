# Every target sets up what it needs: a .venv built from pyproject.toml, and rebuilt when the
# metadata changed or PYTHON names another version. Without PYTHON the existing .venv is kept.
#
#   make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell $(BIN)/python -c '' 2>/dev/null && echo $(BIN)/python || echo python3)
EXTRAS := test
STAMPS = $(EXTRAS:%=$(VENV)/.installed-%)
COMMA := ,
EMPTY :=
LISTED = $(subst $(EMPTY) $(EMPTY),$(COMMA),$(strip $(EXTRAS)))
VERSION := import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))

# Two processes of one thread each beat one process of two threads: most tests are small. One
# that has nothing left takes tests from the other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PYTEST := $(TESTS) -n 2 --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv test lint types devices unit check long demo docs tutorials bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

venv:  ## build or refresh .venv (PYTHON=python3.12 picks the interpreter, 3.11 or newer)
	@set -e; old=; \
	fail() { echo "error: PYTHON=$(PYTHON) $$1; name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }; \
	want=$$($(PYTHON) -c '$(VERSION)' 2>/dev/null) || \
	  if [ "$$want" ]; then fail "is Python $$want, older than 3.11"; else fail "does not run"; fi; \
	have=$$($(BIN)/python -c '$(VERSION)' 2>/dev/null) || true; \
	if [ "$$have" != "$$want" ]; then rm -rf $(VENV); fi; \
	for stamp in $(STAMPS); do \
	  if ! [ $$stamp -nt pyproject.toml ] || ! [ $$stamp -nt setup.cfg ]; then old=$$stamp; fi; done; \
	if [ -z "$$old" ]; then exit 0; fi; \
	echo "installing bayesprior[$(LISTED)] for Python $$want into $(VENV) (first time: some minutes, 6 GB)"; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[$(LISTED)]'; \
	touch $(STAMPS)

test: lint  ## lint, types, tests: while working
	@$(MAKE) types & job=$$!; $(MAKE) devices; status=$$?; wait $$job && exit $$status
	$(PYTEST)

lint: venv  ## ruff: rules and format; the package's size
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python tests/code_size.py

types: venv  ## mypy on the package
	$(BIN)/python -m mypy

devices: venv  ## the tests on a device in pure Python, which registers itself for good
	$(TESTS) tests/devices

unit: devices  ## the tests and the docstrings' examples (not those marked slow)
	$(PYTEST)

check: EXTRAS := test docs
check: lint  ## everything CI runs: test, the site, the notebooks and what the pages say is run
	@$(MAKE) docs & job=$$!; $(MAKE) types devices; status=$$?; wait $$job && exit $$status
	$(PYTEST) -m 'not long'

long: venv  ## studies of hours: real data, every network, thousands of hostile inputs
	$(PYTEST) -m long

demo: venv  ## the embedded example, offline; report in demo/
	$(BIN)/bayesprior demo --out demo

docs: EXTRAS := docs
docs: venv  ## the site in docs/_build; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build
	@echo "docs/_build/index.html"

tutorials: EXTRAS := docs
tutorials: venv  ## run the notebooks and keep what they print and draw
	OMP_NUM_THREADS=2 $(BIN)/jupyter execute --inplace tutorials/*.ipynb

bench: venv  ## every benchmark script, one after the other
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:  ## remove caches and build products (.venv stays)
	rm -rf build dist *.egg-info docs/_build docs/reference/names docs/reference/modules docs/tutorials docs/jupyter_execute .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find bayesprior tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +
