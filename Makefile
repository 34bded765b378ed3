# One command each; every one makes the virtual environment and installs by itself.
#   make demo   place a call through each carrier's protocol and measure what the caller hears
#   make run    serve until Ctrl-C
#   make test   lint, types and tests
#   make test-compiled   the compiled build (docs/performance.md), and the tests of what is compiled, run in it
# PYTHON names the interpreter (3.11 or later), VENV the folder of the environment. Tests in a browser run where Chromium
# is found; those with the official RTVI client and those of accessibility want npm, too.

# The first that runs: pyenv has shims of versions that are not switched on.
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3; do $$one -c '' 2>/dev/null && echo $$one && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NPM := $(shell command -v npm)
PACKAGES := tests/browser/node_modules/.installed
export CHROMIUM

.PHONY: demo run test test-compiled lint install clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[speech,dev]'
	touch $(STAMP)

# Where this fails, the tests that need it say so and are skipped.
$(VENV)/.browser: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]' || true
	touch $@

$(PACKAGES): tests/browser/package-lock.json tests/browser/page.js
	(cd tests/browser && npm ci --silent --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=2000 && npm run --silent bundle && touch node_modules/.installed) || true

demo: $(STAMP)
	$(BIN)/gateway demo

run: $(STAMP)
	$(BIN)/gateway run

# Most tests wait for calls to take place: pytest runs several at a time, auto being one more than there are cores (at most
# six: tests/conftest.py), and then those that need the machine for themselves. `make test PROCESSES=0` runs one after the
# other.
PROCESSES ?= auto

test: $(STAMP) $(if $(CHROMIUM),$(VENV)/.browser $(if $(NPM),$(PACKAGES)))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal -m "not alone"; \
	several=$$?; [ $$several -le 1 ] || exit $$several; $(BIN)/python -m pytest -m alone && exit $$several

# Apart from the sources: what was compiled would be run in their place for ever after. pip's cache never has it.
COMPILED := $(VENV)/compiled
HAS_COMPILER = command -v $${CC:-cc} >/dev/null && \
	$(BIN)/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
IN_COMPILED = tests/test_compiled.py tests/lean tests/serializers tests/media tests/gateway/test_core.py \
	tests/gateway/test_caller_audio.py tests/gateway/test_playout.py tests/gateway/test_genesys_sender.py \
	tests/gateway/test_genesys_states.py tests/gateway/test_garbage.py tests/gateway/test_stalls.py \
	tests/gateway/test_trail.py tests/gateway/test_vad_engine.py tests/gateway/test_floor.py \
	tests/simulator/test_playout.py tests/load/test_ear.py tests/load/test_line.py tests/load/test_sockets.py \
	tests/load/test_tally.py tests/load/test_wire.py tests/endtoend/test_session.py tests/endtoend/test_calls.py \
	tests/transports/test_calls.py tests/transports/test_serializers.py
# What mypyc makes of a coroutine throws in the old way at what it awaits: as good, and Python 3.12 says so each time.
OLD_WAY := ignore:the (type, exc, tb) signature of throw:DeprecationWarning

test-compiled: $(STAMP)
	@if $(HAS_COMPILER); then $(MAKE) --no-print-directory .test-compiled; \
	else echo "the compiled build: SKIPPED, no C compiler or no Python.h is here (gcc, python3-dev)"; fi

.PHONY: .test-compiled
.test-compiled:
	rm -rf $(COMPILED)
	GATEWAY_COMPILED=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) .
	cp -r tests pyproject.toml docs $(COMPILED)
	cd $(COMPILED) && GATEWAY_COMPILED=1 $(abspath $(BIN))/python -m pytest -n $(PROCESSES) --dist worksteal \
		-p no:cacheprovider -W '$(OLD_WAY)' $(IN_COMPILED)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache tests/browser/node_modules
