# One command each; every one makes the virtual environment and installs by itself.
#   make demo   place a call through each carrier's protocol and measure what the caller hears
#   make run    serve until Ctrl-C
#   make test   lint, types and tests
# PYTHON names the interpreter (3.11 or later), VENV the folder of the environment. Tests in a browser run where Chromium
# is found; those with the official RTVI client and those of accessibility want npm, too.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NPM := $(shell command -v npm)
PACKAGES := tests/browser/node_modules/.installed
export CHROMIUM

.PHONY: demo run test lint install clean

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

test: $(STAMP) $(if $(CHROMIUM),$(VENV)/.browser $(if $(NPM),$(PACKAGES)))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache tests/browser/node_modules
