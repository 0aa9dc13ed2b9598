# `make repro` runs the pipeline and `make test` the tests; both make a virtual environment first if there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# DVC runs each stage through the shell: `python` there must be the environment's. Programs are run as `python -m`, which
# works wherever the environment is: the first line of an installed script cannot name a path with blanks.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro test lint format constraints docs-figures docs clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

repro: $(VENV)/.installed  ## run the pipeline: data/sample -> models/final, reports/
	@python -m llm source
	@git rev-parse --git-dir >/dev/null 2>&1 || python -m dvc config --local core.no_scm true  # DVC would refuse to run
	python -m dvc repro
	@python -c 'from pathlib import Path; print("report:", Path("reports/index.html").resolve().as_uri())'

test: $(VENV)/.installed-dev  ## lint, type check and test
	$(MAKE) lint
	python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.installed-dev  ## ruff and mypy
	python -m ruff check .
	python -m ruff format --check .
	python -m mypy

format: $(VENV)/.installed-dev  ## let ruff fix and format the code
	python -m ruff check --fix .
	python -m ruff format .

constraints: $(VENV)/.installed-dev  ## renew constraints.txt: the newest versions that pyproject.toml allows
	python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
	  --no-emit-package folder-to-llm --custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

docs-figures: $(VENV)/.installed  ## renew the tables and figures of docs/how-it-works from the last run
	python docs/write_tables.py

docs: $(VENV)/.installed-docs  ## copy the last run's plots to docs/images and build the site in site/
	cp reports/plots/*.png docs/images/
	python -m mkdocs build --strict

clean:  ## delete caches and working state; keeps data, models and reports
	rm -rf .work site build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; use make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# constraints.txt names a version of every package, for each platform and Python, so that two installations are equal.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
