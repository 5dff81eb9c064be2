# callreel: every activity is one command. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORES := $(VENV)/stores
DEMO_CAPTURE := tests/data/pcap/calls/baresip-pcmu-47hash.pcap

SOURCES := pyproject.toml setup.py MANIFEST.in $(wildcard native/*.pyx native/*.pxd native/include/callreel/*.h)
SECONDS ?= 60
JOBS ?= 1

# Native code with checks stands in folders of its own, in front of the ordinary one by PYTHONPATH.
SANITIZED := build/sanitize
FUZZED := build/fuzz/native
PACKAGE := $(shell find src -name '*.py')

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test faults soak bench sanitize fuzz lint wheel test-wheel clean

help:
	@echo "make demo        build callreel and record the calls of a capture that ships with it into ./recordings"
	@echo "make test        build callreel and run its tests (CALLREEL_TEST_DATA=folder adds tests over more files)"
	@echo "make faults      kill, starve and deny it for long (tests/faults; CALLREEL_FAULTS_SEED=n repeats a run), print figures"
	@echo "make soak        an hour of mixed traffic and faults against \`callreel serve\` (CALLREEL_SOAK_S=seconds), print figures"
	@echo "make bench       compare callreel with its peers on this machine"
	@echo "make sanitize    run the tests of all native code under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)"
	@echo "make fuzz        feed hostile bytes to every parser, SECONDS=60 each, JOBS=1 at a time (clang)"
	@echo "make lint        check style and types"
	@echo "make wheel       build a source distribution and a wheel into ./dist, audit them, try the wheel"
	@echo "make test-wheel  run the tests against that wheel on the oldest and the newest Python of this machine"
	@echo "make clean       remove everything that was built"

demo: $(VENV)/.built
	@$(BIN)/callreel record $(DEMO_CAPTURE) --out recordings
	@echo
	@$(BIN)/callreel inspect $$(find recordings -name '*_980bd020f3276a5c.wav')

# Some tests compute, the others mostly wait: side by side they take the time of the latter, who have the right of way.
COMPUTING := tests/conformance tests/fuzz tests/meta tests/native tests/property tests/unit
WAITING := tests/faults tests/service tests/soak $(wildcard tests/native/test_udp*.py) \
    $(foreach one,aio notify recorder service_rtp web,tests/unit/test_$(one).py)

test: $(VENV)/.test $(VENV)/.clients $(VENV)/.contract
	@$(MAKE) --no-print-directory --jobs=2 --keep-going .waiting .computing

.PHONY: .waiting .computing
.waiting:
	$(BIN)/python -m pytest $(WAITING)

.computing: # what it prints comes in one go, not between the dots of the others
	@mkdir -p build
	@nice -n 10 $(BIN)/python -m pytest -q -p no:cacheprovider $(COMPUTING) $(WAITING:%=--ignore=%) \
	    >build/computing.txt 2>&1; status=$$?; cat build/computing.txt; exit $$status

# In `make test` the same tests are short.
faults: $(VENV)/.test
	CALLREEL_FAULTS=long $(BIN)/python -m pytest tests/faults

# In `make test` it lasts half a minute.
soak: export CALLREEL_SOAK_S ?= 3600
soak: $(VENV)/.test $(VENV)/.clients
	$(BIN)/python -m pytest -s --show-capture=no tests/soak

bench: $(VENV)/.bench
	$(BIN)/python -m pytest benchmarks --benchmark-group-by=group --benchmark-columns=median,iqr,ops

# Leaks are not looked for: CPython frees little of what it has at its end.
sanitize: $(VENV)/.test $(SANITIZED)/.built
	PYTHONPATH=$(SANITIZED) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    $(BIN)/python -m pytest -p no:cacheprovider tests/native tests/property tests/unit tests/fuzz

fuzz: $(VENV)/.test $(VENV)/.fuzz $(FUZZED)/.built
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) --jobs $(JOBS) $(TARGETS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint native

wheel: $(VENV)/.wheel
	$(BIN)/python .ci/wheels.py build

test-wheel: wheel
	$(BIN)/python .ci/wheels.py test $(PYTHONS)

clean:
	rm -rf $(VENV) build dist recordings demo src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src -name '*.so' -delete

# ---- what the targets above need ------------------------------------------------------------------------------------

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "callreel needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3-venv"; exit 1; }
	@$(INSTALL) --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.built: $(VENV)/.made $(SOURCES)
	@echo "building callreel ..."
	@$(INSTALL) --editable .
	@touch $@

# Servers that tests start: in an environment of their own, where tests/support/limited_stores.py finds them.
$(VENV)/.stores: $(VENV)/.made pyproject.toml
	@$(PYTHON) -m venv --without-pip $(STORES)
	@$(BIN)/python -m pip --python $(STORES)/bin/python install --quiet --disable-pip-version-check --group stores
	@touch $@

$(VENV)/.test: $(VENV)/.stores

# A group of pyproject.toml each.
$(VENV)/.test $(VENV)/.clients $(VENV)/.contract $(VENV)/.bench $(VENV)/.fuzz $(VENV)/.lint: $(VENV)/.%: $(VENV)/.built
	@$(INSTALL) --group $*
	@touch $@

$(SANITIZED)/.built: $(VENV)/.made $(SOURCES) $(PACKAGE)
	@echo "building callreel with sanitizers ..."
	@CC=gcc CALLREEL_DEBUG=1 CALLREEL_SANITIZE=address,undefined,float-cast-overflow \
	    $(INSTALL) --no-deps --upgrade --target $(SANITIZED) .
	@touch $@

$(FUZZED)/.built: $(VENV)/.made $(SOURCES) $(PACKAGE)
	@echo "building callreel with sanitizers and counters ..."
	@CC=clang CALLREEL_SANITIZE=address,undefined,float-cast-overflow,fuzzer-no-link \
	    $(INSTALL) --no-deps --upgrade --target $(FUZZED) .
	@touch $@

$(VENV)/.wheel: $(VENV)/.made pyproject.toml
	@$(INSTALL) --group wheel
	@touch $@
