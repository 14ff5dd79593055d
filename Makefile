# Everything happens in .venv, made on first use from the hash-pinned locks: requirements.lock holds
# what running needs with any store, requirements-test.lock that and the tools. One of them is Node,
# which the tests use for clients: tests/node/package-lock.json holds those. Any target takes more:
#     make run ARGS="--port 9000"    make test ARGS="-k streams"    make lock ARGS=--upgrade

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# The pip of an old venv knows no more than this file does: never ask it whether it is current.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV_VERSION := 0.13.8
COMPILE := $(BIN)/uv pip compile pyproject.toml --group build --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url --no-config --system-certs --quiet \
	--custom-compile-command "make lock"

# What the proxy is compared with has an environment of its own: it is no part of what is locked.
PEERS := .venv-peers
LITELLM_VERSION := 1.106.2

# The certificates of the machine, as for uv: it may be behind a proxy that has its own.
NPM := NODE_USE_SYSTEM_CA=1 $(BIN)/npm --prefix tests/node
NPM_CLIENTS = $(shell sed -n 's/^    "\(.*\)": .*/\1/p' tests/node/package.json)

RUN_READY := $(VENV)/run-ready
TEST_READY := $(VENV)/test-ready
# Written by npm, last of all.
NODE_READY := tests/node/node_modules/.package-lock.json

.PHONY: help setup run demo test lint types bench bench-peers lock clean
.DELETE_ON_ERROR:

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##/\1	/p' $(MAKEFILE_LIST)

setup: $(RUN_READY)  ## make .venv with the llm-cache-proxy command

run: $(RUN_READY)  ## start the proxy on 127.0.0.1:8484
	@$(BIN)/llm-cache-proxy serve $(ARGS)

demo: $(RUN_READY)  ## watch a miss and a hit against a built-in provider
	@$(BIN)/llm-cache-proxy demo $(ARGS)

test: $(TEST_READY) $(NODE_READY)  ## run all tests
	@.ci/servers
	@$(BIN)/python -m pytest $(ARGS)

lint: $(TEST_READY)  ## check style
	@$(BIN)/ruff check $(ARGS) .
	@$(BIN)/ruff format --check .

types: $(TEST_READY)  ## check types
	@$(BIN)/mypy $(ARGS)

# The tests' environment has what the codec is compared with.
bench: $(TEST_READY)  ## measure the proxy beside nginx and bare servers
	@benchmarks/install
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(TEST_READY) $(PEERS)/litellm-$(LITELLM_VERSION)  ## measure hits beside LiteLLM's
	@benchmarks/install
	@$(BIN)/python -m benchmarks.peers $(PEERS) $(ARGS)

# Versions that still fit stay as they are; ARGS=--upgrade takes the newest. npm comes from the
# lock that was just written.
lock: $(VENV)/uv-$(UV_VERSION)  ## pin the dependencies again
	$(COMPILE) $(ARGS) --extra redis --extra postgres --output-file requirements.lock
	$(COMPILE) $(ARGS) --all-extras --constraint requirements.lock --output-file requirements-test.lock
	@$(MAKE) --no-print-directory $(TEST_READY)
	$(NPM) install --package-lock-only $(if $(filter --upgrade,$(ARGS)),$(NPM_CLIENTS:=@latest))
	$(if $(filter --upgrade,$(ARGS)),$(NPM) update --package-lock-only)

clean:  ## remove what was built and .venv
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	rm -rf tests/node/node_modules
	find proxy cache_backends tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is missing; on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is" \
			"$$($(PYTHON) -c 'import platform; print(platform.python_version())');" \
			"name another: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once, about half a minute)"
	@$(PYTHON) -m venv --clear $(VENV)

# setuptools is in the lock: the build takes it from .venv and fetches nothing by itself.
$(RUN_READY): $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_READY): requirements-test.lock | $(RUN_READY)
	@echo "Setting up the tools for tests (once)"
	@$(PIP) install --require-hashes -r requirements-test.lock
	@touch $@

$(NODE_READY): tests/node/package-lock.json | $(TEST_READY)
	@echo "Setting up the Node clients for tests (once)"
	@$(NPM) ci --loglevel=error >/dev/null
	@touch $@

$(VENV)/uv-$(UV_VERSION): $(VENV)/pyvenv.cfg
	@$(PIP) install uv==$(UV_VERSION)
	@touch $@

$(PEERS)/litellm-$(LITELLM_VERSION): | $(VENV)/pyvenv.cfg
	@echo "Setting up $(PEERS) (once, a minute or two, 750 MB)"
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install \
		"litellm[proxy]==$(LITELLM_VERSION)"
	@touch $@
