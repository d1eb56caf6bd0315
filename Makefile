# `make setup` once; every other target calls it and it takes no time when nothing changed.
.PHONY: setup demo test test-all check clean
.DEFAULT_GOAL := setup

VENV := .venv
# Python 3.11 is what the pinned versions are tested with. `make PYTHON=/path/to/python3.11` chooses another one.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# `pipefail`, because pip's exit code must survive the filter behind it.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	    echo "Caspi needs Python 3.11; found $$("$(PYTHON)" --version 2>&1 || echo none)." >&2; \
	    echo "Install it (Debian: apt-get install python3.11-venv) or say where it is: make PYTHON=/path/to/python3.11" >&2; \
	    exit 2; }
	@test -x $(VENV)/bin/python || { echo "creating $(VENV)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "installing Caspi and what it needs into $(VENV); about 2 GB the first time"
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off \
	    -c constraints.txt -e ".[dev,synthesis]" \
	    | { grep --line-buffered -oE '(Downloading|Using cached) .*[0-9.]+ [MG]B\)|^Installing' || true; }
	@# librosa compiles on its first use; then nobody waits for it later, and a read-only installation has it.
	@$(VENV)/bin/python -c "import librosa, numpy; librosa.feature.melspectrogram(y=numpy.zeros(16000))"
	@touch $@
	@echo "ready: $(VENV)/bin/caspi --help"

demo: setup  ## speech in, an endpoint that understands it out, on this machine
	@$(VENV)/bin/caspi demo

# Two files at a time, because half of what tests take is waiting for processes to start. In the order of tests/conftest.py:
# xdist's own, files of many tests first, leaves the longest tests for the end, when one worker has nothing to do.
test: setup  ## what .ci/run runs
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: setup  ## with the slow tests and the soak; tests that need a GPU skip without one
	$(VENV)/bin/python -m pytest -m ""

check: setup  ## format, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:  ## the environment and every cache; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
