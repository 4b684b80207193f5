# Each target installs what it needs into .venv by itself; a second run is quick.
# PYTHON chooses the interpreter (>= 3.11), ARGS is passed on: make demo ARGS="--headless --seconds 5"

SHELL := /bin/sh
PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
PROJECT := pyproject.toml setup.py $(wildcard proxy/*.c proxy/wire/*.c analyzers/sql/*.c)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo test test-slow test-all steady check artifact image orm verdicts compat fuzz bench screenshot requirements clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

venv: .venv/.dev ## install everything for development into .venv

demo: .venv/.demo ## PostgreSQL, a sample application and the profiler, in one terminal
	@$(BIN)/pgtattle demo $(ARGS)

# Tests wait more than they compute: there are more workers than cores.
SPREAD := -n 4 --dist loadscope

test: .venv/.dev ## run the tests that take less than ten seconds each
	$(BIN)/pytest $(SPREAD) -m "not slow" $(ARGS)

test-slow: .venv/.dev ## run the other ones
	$(BIN)/pytest $(SPREAD) -m slow --hypothesis-profile=full $(ARGS)

test-all: test test-slow image ## run all of them, and the image

steady: .venv/.dev ## run both tiers again and again, on an idle machine and beside load (takes hours)
	$(BIN)/python -m tests.steady $(ARGS)

check: .venv/.dev ## lint, format, types, layers, packaging
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_packaging.py tests/test_imports.py

artifact: .venv/.dev ## build, install and try what people install, on every Python at hand
	@$(BIN)/python -m tests.artifact $(ARGS)

image: .venv/.dev ## build the image with buildah and try it (as root; ten minutes)
	@$(BIN)/python -m tests.artifact.image --page docs/image.md $(ARGS)

bench: .venv/wheel/.built ## compare the wheel with a direct connection and with PgBouncer
	.venv/wheel/bin/python -m benchmarks $(ARGS)

verdicts: .venv/.dev ## one suite again and again, half of the times beside load: is the verdict the same
	@$(BIN)/python -m tests.verdicts $(ARGS)

orm: .venv/.dev ## a shop in every ORM, with loops of queries and without: are they found, and nothing else reported
	@$(BIN)/python -m tests.orm $(ARGS)

compat: .venv/.dev ## run public test suites directly and through pgtattle, and compare
	@$(BIN)/python -m tests.compat $(ARGS)

fuzz: .venv/fuzz/_frames.so ## feed hostile bytes to the frame scanner, for a minute each way (needs clang)
	PYTHONPATH=.typing .venv/fuzz/bin/python tests/fuzz/seeds.py .venv/fuzz/corpus
	$(FUZZ) --mode both $(or $(ARGS),-max_total_time=60) .venv/fuzz/corpus
	$(FUZZ) --mode compiled $(or $(ARGS),-max_total_time=60) .venv/fuzz/corpus

screenshot: .venv/.dev ## draw docs/tui.svg from the running demo
	$(BIN)/python docs/screenshot.py docs/tui.svg

clean: ## remove .venv and caches
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "make: no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: $$($(PYTHON) --version) is too old. pgtattle needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@echo "creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || { \
	    rm -rf .venv; echo "make: $(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/.demo: requirements/build.txt requirements/demo.txt $(PROJECT) | .venv/bin/python
	@echo "installing into .venv (once)"
	@$(PIP) install --quiet --require-hashes -r requirements/build.txt -r requirements/demo.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements/dev.txt $(PROJECT) | .venv/bin/python
	@echo "installing into .venv (once)"
	@$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch .venv/.demo $@

# The wheel as users install it; an editable installation is never compiled by mypyc.
.venv/wheel/.built: $(PROJECT) $(wildcard docs/rules/*.md proxy/*.py proxy/*/*.py analyzers/*.py analyzers/*/*.py) | .venv/.dev
	@echo "building the wheel into .venv/wheel (takes two minutes)"
	@rm -rf .venv/wheel
	@$(BIN)/python -m tests.artifact.build .venv/wheel
	@touch $@

# Not part of .dev: atheris is not there for every platform.
FUZZ = PYTHONPATH=.typing PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
    LD_PRELOAD=$$(.venv/fuzz/bin/python -c "import atheris; print(atheris.path())")/asan_with_fuzzer.so \
    .venv/fuzz/bin/python tests/fuzz/fuzz_frames.py --library $< -max_len=256 \
    -dict=tests/fuzz/frames.dict -artifact_prefix=.venv/fuzz/

.venv/fuzz/_frames.so: proxy/wire/_frames.c | .venv/fuzz/bin/python
	clang -shared -fPIC -O1 -g -fsanitize=address,fuzzer-no-link -o $@ \
	    -I$$(.venv/fuzz/bin/python -c "import sysconfig; print(sysconfig.get_path('include'))") $<

.venv/fuzz/bin/python: | .venv/bin/python
	@$(BIN)/python -m venv .venv/fuzz
	@.venv/fuzz/bin/pip --disable-pip-version-check install --quiet atheris hypothesis msgspec pytest

# Pins everything anew. One resolution (dev.txt) decides the versions of all files.
UV = .venv/pins/bin/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate --no-emit-index-url \
    --universal --python-version 3.11

requirements: .venv/pins/bin/uv ## pin requirements/*.txt anew, with hashes
	$(UV) --extra demo --group dev pyproject.toml -o requirements/dev.txt
	$(UV) -c requirements/dev.txt --extra demo pyproject.toml -o requirements/demo.txt
	$(UV) -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	$(UV) -c requirements/dev.txt --group build -o requirements/build.txt

.venv/pins/bin/uv: | .venv/bin/python
	@$(BIN)/python -m venv .venv/pins
	@.venv/pins/bin/pip --disable-pip-version-check install --quiet uv
