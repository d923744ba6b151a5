# make test | check | fuzz | coverage | bench | quickstart: each sets up .venv by itself the first time.
PYTHON ?= python3
VENV ?= .venv
# Second place to look for torch's CPU build, used only when pip's configured index does not have it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# GPU=1 installs requirements/gpu.txt (vLLM's CUDA build) in place of cpu.txt.
GPU ?=
REQUIREMENTS := requirements/$(if $(GPU),gpu,cpu).txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(if $(GPU),gpu,cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install check test fuzz browser bench coverage quickstart clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): $(REQUIREMENTS) requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "transfergrid needs Python 3.11 or newer, this is %d.%d; set PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps -r $(REQUIREMENTS) \
	  || $(PIP) install --quiet --no-deps --extra-index-url $(TORCH_INDEX) -r $(REQUIREMENTS)
	$(PIP) install --quiet --no-deps -r requirements/dev.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .build/mypy && ln -sfn $(CURDIR) .build/mypy/transfergrid
	cd .build/mypy && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p transfergrid.benchmarks -p transfergrid.engine \
	  -p transfergrid.trainers -p transfergrid.analysis -p transfergrid.commands -p transfergrid.config -p transfergrid.store -p transfergrid.view -p transfergrid.perf -m transfergrid.cli -m transfergrid.grid -m transfergrid.wording -m transfergrid.interrupts

# The report's tests need a browser. Root on Debian or Ubuntu gets one; for others a message is printed and those tests skip.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1 \
	  || { command -v apt-get >/dev/null && test "$$(id -u)" = 0 \
	    && { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1; } \
	  || echo "no browser and none could be installed: the tests of the report in a browser will be skipped (Debian package: chromium)"

# Two processes side by side: tests/conftest.py says which takes what. Threads that wait leave the other its core.
test: $(STAMP) browser
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not gpu" -n 2

# Tries damaged contents on every reader of files from outside; prints how many inputs were tried and held.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds 600

quickstart: $(STAMP)
	$(BIN)/grid quickstart

bench: $(STAMP)
	$(BIN)/python -m transfergrid.perf.planner
	$(BIN)/python -m transfergrid.perf.engine
	$(BIN)/python -m transfergrid.perf.flips
	$(BIN)/python -m transfergrid.perf.harness
	$(BIN)/python -m transfergrid.perf.training
	$(BIN)/python -m transfergrid.perf.training_at_once
	$(BIN)/python -m transfergrid.perf.analysis table
	$(BIN)/python -m transfergrid.perf.analysis full
	$(BIN)/python -m transfergrid.perf.scaling

# How often intervals and labels hold the truth in made-up runs.
coverage: $(STAMP)
	$(BIN)/python -m transfergrid.perf.coverage

clean:
	rm -rf .build .mypy_cache .ruff_cache .pytest_cache build *.egg-info
