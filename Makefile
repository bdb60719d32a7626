# `make demo` and `make test` are all that a fresh machine needs; both set up first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check --no-compile
TRIALS := torch torchgen functorch numpy sympy mpmath networkx filelock jinja2 markupsafe fsspec tokenizers tqdm packaging
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: .venv/ready  ## the environment, hash-locked, and bubblewrap where it can be installed

# What trials import is compiled here, on all cores, since a sandbox cannot keep bytecode; the rest is when it is first imported.
.venv/ready: requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements-dev.txt
	$(PIP) torch==2.13.0
	$(PIP) --no-deps --no-build-isolation -e .
	@cd .venv/lib/python3*/site-packages && ../../../bin/python -m compileall -q -j 0 -x testing/_internal $(TRIALS)
	@sh .github/install-bubblewrap.sh
	@touch $@

demo: setup  ## the main job for real, offline: ends in a branch and a pull-request preview
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmark/demo.sh

test: setup  ## everything that is tested, lint and types included
	@sh .github/install-browser.sh
	@$(MAKE) --no-print-directory -k -j 2 suite lint

suite: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -n 2 --dist worksteal tests

battery: setup  ## the full-size versions of the long checks
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -m battery tests

lint: setup  ## style, types, workflows, shell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run .github/*.sh benchmark/*.sh
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet --persona auditor .
	$(BIN)/python docs/reference.py
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml .github/actions/*/action.yml

reference: setup  ## write docs/reference.md anew from the code
	$(BIN)/python docs/reference.py --write

format: setup  ## rewrite in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup  ## resolve the locked requirements anew
	$(BIN)/uv pip compile pyproject.toml $(LOCK) -o requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra data --extra ray $(LOCK) -o requirements-dev.txt

LOCK := --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q

bench: setup  ## every figure of README and docs, measured anew (about an hour)
	for name in overhead acceptance throughput "throughput --winners" null_edits "curves replay"; do PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmark/$${name%% *}.py $${name#"$${name%% *}"} || exit 1; done

.PHONY: help setup demo test suite battery lint reference format lock bench
