# make setup   .venv with everything, system libraries included       make demo   the demo recipe, end to end
# make test    lint, then all tests; CI runs this very line           make lint   ruff and mypy
# make gpu-check   on a GPU machine: its tests and benchmarks (PART=A, B or C: in under 9 minutes)
# make gpu-bundle   .whl with what a GPU machine without a network lacks for it (GPU_PYTHON: its Python, 3.12)
# Variables: PYTHON (an interpreter of 3.11 to 3.13), JOBS (stages side by side in `make demo`).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && command -v "$$p" && break; done)
export HARNESS_DATA ?= data
export HARNESS_RAW ?= raw
export HARNESS_RUNS ?= runs

.PHONY: setup demo test lint gpu-check gpu-bundle clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,5s/^# //p' Makefile

setup: $(STAMP)

# FFCV and our own C files are compiled on installation, against OpenCV and libjpeg-turbo, which are system libraries.
$(STAMP): pyproject.toml $(wildcard writers/dct/*.[ch] writers/jpeg/*.[ch] loaders/*.[ch] loaders/native/*.[ch])
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 to 3.13 was found. Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 2; }
	@packages=""; \
	pkg-config --exists opencv4 libturbojpeg libjpeg 2>/dev/null || packages="libopencv-dev libturbojpeg0-dev libjpeg-dev pkg-config libgl1"; \
	command -v g++ >/dev/null || packages="$$packages g++"; \
	"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || packages="$$packages python3-venv"; \
	header=$$("$(PYTHON)" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h; \
	[ -e "$$header" ] || packages="$$packages python3-dev"; \
	if [ -n "$$packages" ]; then \
		line="apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages"; \
		if ! command -v apt-get >/dev/null; then \
			echo "FFCV needs OpenCV 4 and libjpeg-turbo with headers, pkg-config and g++; install them, then run make setup again."; exit 2; \
		elif [ "$$(id -u)" = 0 ]; then echo "Installing system libraries: $$packages"; sh -c "$$line" >/dev/null || exit 1; \
		elif sudo -n true 2>/dev/null; then echo "Installing system libraries with sudo: $$packages"; sudo sh -c "$$line" >/dev/null || exit 1; \
		else echo "FFCV needs system libraries. Run this line, then make setup again:"; echo "  sudo sh -c '$$line'"; exit 2; fi; \
	fi
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing the package and what it needs into $(VENV) (torch is large: a few minutes on a slow line)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: setup
	@$(BIN)/harness run recipes/demo.yaml $(if $(JOBS),--jobs $(JOBS))

test: lint
	@timeout 3600 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	@$(BIN)/ruff format --check -q
	@$(BIN)/ruff check -q
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

# On a GPU machine, with its own Python where it has torch; a wheel folder .whl serves where there is no network.
gpu-check:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu_check $(addprefix --part ,$(PART)) $(GPU_CHECK)

gpu-bundle: setup
	@$(BIN)/python -m benchmarks.gpu_bundle $(addprefix --python ,$(GPU_PYTHON))

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
