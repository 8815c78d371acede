# make setup        install everything into .venv, system libraries included
# make demo         run the demo recipe to its report (JOBS: number of stages at once)
# make test         run lint and all tests, as CI does
# make test-slow    run longer forms of tests: kills of the demo, Ray nodes, torch.compile's cache, the demo's effects, fuzzing
# make fuzz         mutate JPEGs, restart indices, dct blobs and betons against sanitized C code (FUZZ: --count N --seed S, TARGET)
# make coverage     run all tests and print the share of lines that they execute
# make lint         check format, style, import order, types and prose
# make docs         build the documentation site into site/
# make gpu-check    run GPU tests and benchmarks on a GPU machine (PART=A, B or C: under 9 minutes each)
# make gpu-bundle   collect wheels in .whl for a GPU machine without a network (GPU_PYTHON=3.12)
# make clean        delete .venv and caches
# Variable PYTHON: a Python interpreter, 3.11 to 3.13.
# Variable CONSTRAINTS: a file of versions to install (default: constraints.txt); empty: the newest releases

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && command -v "$$p" && break; done)
CONSTRAINTS ?= constraints.txt
export HARNESS_DATA ?= data
export HARNESS_RAW ?= raw
export HARNESS_RUNS ?= runs

.PHONY: setup demo test test-slow fuzz coverage lint docs gpu-check gpu-bundle clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

setup: $(STAMP)

# FFCV and our C files are compiled on installation, against the system's OpenCV and libjpeg-turbo.
# Environment variables, unlike -c, also limit the tools of isolated builds; since version 26, pip reads the second one for these.
$(STAMP): pyproject.toml $(CONSTRAINTS) $(wildcard writers/dct/*.[ch] writers/jpeg/*.[ch] loaders/*.[ch] loaders/native/*.[ch])
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 to 3.13 found. Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 2; }
	@packages=""; \
	pkg-config --exists opencv4 libturbojpeg libjpeg 2>/dev/null || packages="libopencv-dev libturbojpeg0-dev libjpeg-dev pkg-config libgl1"; \
	command -v g++ >/dev/null || packages="$$packages g++"; \
	"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || packages="$$packages python3-venv"; \
	header=$$("$(PYTHON)" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h; \
	[ -e "$$header" ] || packages="$$packages python3-dev"; \
	if [ -n "$$packages" ]; then \
		line="apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages"; \
		if ! command -v apt-get >/dev/null; then \
			echo "FFCV needs OpenCV 4 and libjpeg-turbo with headers, pkg-config and g++. Install them, then run make setup again."; exit 2; \
		elif [ "$$(id -u)" = 0 ]; then echo "Installing system libraries: $$packages"; sh -c "$$line" >/dev/null || exit 1; \
		elif sudo -n true 2>/dev/null; then echo "Installing system libraries with sudo: $$packages"; sudo sh -c "$$line" >/dev/null || exit 1; \
		else echo "FFCV needs system libraries. Run this line, then make setup again:"; echo "  sudo sh -c '$$line'"; exit 2; fi; \
	fi
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing the package and its requirements into $(VENV) (torch is large: this may take minutes)"
	@install="$(BIN)/python -m pip install -q --disable-pip-version-check -e .[dev]"; \
	if [ -z "$(CONSTRAINTS)" ]; then $$install; else \
		PIP_CONSTRAINT="$(CONSTRAINTS)" PIP_BUILD_CONSTRAINT="$(CONSTRAINTS)" $$install || { \
			echo "The versions of $(CONSTRAINTS) cannot be installed here (see above). Installing the newest ones instead."; $$install; }; \
	fi
	@touch $(STAMP)

demo: setup
	@$(BIN)/harness run recipes/demo.yaml $(if $(JOBS),--jobs $(JOBS))

test: lint
	@timeout 3600 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	@$(BIN)/python -m pytest --timeout 3600 tests/runner/test_end_to_end.py --kill-demo 20
	@$(BIN)/python -m pytest --timeout 3600 tests/runner/launchers/test_ray.py --kill-nodes 6
	@$(BIN)/python -m pytest --timeout 3600 tests/train/test_compile_cache.py --compiler
	@$(BIN)/python -m pytest --timeout 3600 tests/recipes/test_demo.py --demo-effects
	@$(BIN)/python -m pytest --timeout 3600 tests/fuzz --fuzz 3000

# The C extensions are built in build/fuzz with AddressSanitizer and UndefinedBehaviorSanitizer (gcc).
fuzz: setup
	@$(BIN)/python -m tests.fuzz $(FUZZ)

# Worker processes and code compiled by numba are not counted.
coverage: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report term --cov-report xml:coverage.xml

lint: setup
	@$(BIN)/ruff format --check -q
	@$(BIN)/ruff check -q
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy
	@$(BIN)/python docs/check_prose.py

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q -d site
	@echo "Documentation: site/index.html"

# Uses .venv if it exists, otherwise the machine's Python, which must have torch.
gpu-check:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu_check $(addprefix --part ,$(PART)) $(GPU_CHECK)

gpu-bundle: setup
	@$(BIN)/python -m benchmarks.gpu_bundle $(addprefix --python ,$(GPU_PYTHON))

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
