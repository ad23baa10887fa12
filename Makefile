# GNU make 3.81 or newer, on Linux and macOS. What is installed has the versions of $(LOCK). pip's own variables are
# honoured: `make test` with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu avoids gigabytes of CUDA.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
STUDY ?= study
WORKERS ?= 2
# What shows a table measures a journey; the other files there are what these share. Each takes two or three minutes on
# two cores; `make bench BENCH_OPTIONS=--quick` runs all of them in one or two.
BENCHMARKS ?= $(shell grep -lE '^ +show\(' benchmarks/*.py)
BENCH_OPTIONS ?=
# pip reads these also where it builds the package itself, in an environment of its own; old and new versions of it differ
# in which. An empty LOCK installs the newest versions that pyproject.toml admits.
LOCK ?= requirements/lock.txt
PIP_INSTALL := $(if $(LOCK),PIP_CONSTRAINT='$(LOCK)' PIP_BUILD_CONSTRAINT='$(LOCK)') \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCK),,--upgrade --upgrade-strategy eager)
# What a file's tests share is made once where they stay on one worker; the others' tests are taken over at the end.
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: help demo test lint check slow documented coverage lock latest lowest bench study docs screenshots clean

help:
	@echo 'make demo     install the light core, index, caption and search 15 pictures, write $(OUT)/contact-sheet.html'
	@echo 'make test     install everything, run the tests (not those marked slow)'
	@echo 'make lint     format, lint, types, layers'
	@echo 'make check    lint and test: what CI runs'
	@echo 'make slow     every test that needs no network'
	@echo 'make documented  the blocks of the documents, notebooks and recipes that are slow: what CI runs beside check'
	@echo 'make coverage the fast tests, and which lines none of them reached: htmlcov/'
	@echo 'make latest   the tests with the newest versions that pyproject.toml admits, in $(VENV)-latest'
	@echo 'make lowest   the tests with the lowest, in $(VENV)-lowest'
	@echo 'make lock     write requirements/lock.txt and lowest.txt anew'
	@echo 'make bench    the benchmarks, then the tables of docs/performance.md; BENCH_OPTIONS=--quick for a smoke run'
	@echo 'make study    train four models and three sweeps, report, generate, run the notebooks: $(STUDY)/; goes on where it stopped'
	@echo 'make docs     write the generated pages anew: docs/cli.md, docs/credits.md'
	@echo 'make screenshots  take the pictures of the web app in docs/images anew'
	@echo 'make clean    remove .venv and its like, $(OUT) and caches'

demo: $(VENV)/demo.stamp
	@$(BIN)/python -m sightline.faces.demo --out '$(OUT)'

test: $(VENV)/all.stamp
	$(PYTEST) -m 'not slow and not hub'

lint: $(VENV)/all.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

slow: $(VENV)/all.stamp
	$(PYTEST) -m 'not hub'

# What is too slow for `test` of what the documents say: their blocks, the notebooks, and a short run of each recipe. The
# notebooks, which take longest, come first.
documented: $(VENV)/all.stamp
	$(PYTEST) -m 'slow and not hub' \
	  tests/test_notebooks.py tests/surface/test_documents.py tests/surface/test_recipes.py

coverage: $(VENV)/all.stamp
	$(PYTEST) -m 'not slow and not hub' --cov --cov-report=term:skip-covered --cov-report=html

# An environment of its own for each; what is there is brought up to date.
latest:
	rm -f $(VENV)-latest/all.stamp
	$(MAKE) VENV=$(VENV)-latest LOCK= test

lowest:
	$(MAKE) VENV=$(VENV)-lowest LOCK=requirements/lowest.txt test

lock: $(VENV)/venv.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
	$(BIN)/python scripts/lock.py

bench: $(VENV)/all.stamp
	@for script in $(BENCHMARKS); do \
	  echo "== $$script"; $(BIN)/python "$$script" $(BENCH_OPTIONS) || exit 1; \
	done
	$(BIN)/python benchmarks/table.py

study: $(VENV)/all.stamp
	$(BIN)/python scripts/study.py --output '$(STUDY)'

docs: $(VENV)/demo.stamp
	$(BIN)/python -m sightline.faces.cli.reference > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md
	$(BIN)/python scripts/model_tables.py docs/models.md docs/compare.md docs/evaluation.md docs/caption-metrics.md
	$(BIN)/python scripts/web_types.py
	$(BIN)/python -m sightline.faces.demo --credits > docs/credits.md.new
	mv docs/credits.md.new docs/credits.md

screenshots: $(VENV)/all.stamp
	SIGHTLINE_SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser/test_browser_screenshots.py

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lowest '$(OUT)' study-smoke htmlcov .coverage .coverage.* build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is as new as the pyproject.toml and the lock that it was installed from, so a second run installs nothing.
# The demo reads single files of large libraries that it never imports: compiling those would double the time and add
# 120 MB.
$(VENV)/demo.stamp: pyproject.toml $(LOCK) $(VENV)/venv.stamp
	@echo "Installing the light core and the demo's photos into $(VENV) ..."
	@$(PIP_INSTALL) --no-compile -e '.[demo]'
	@touch $@

$(VENV)/all.stamp: pyproject.toml $(LOCK) $(VENV)/venv.stamp
	@echo 'Installing everything, torch included, into $(VENV) ...'
	@$(PIP_INSTALL) -e '.[all,dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/venv.stamp:
	@command -v '$(PYTHON)' >/dev/null || { echo 'There is no $(PYTHON). Try: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Sightline needs CPython 3.11 or newer; $(PYTHON) is $$('$(PYTHON)' --version 2>&1). Try: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@'$(PYTHON)' -m venv $(VENV)
	@touch $@
