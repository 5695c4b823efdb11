# `make demo` and `make test` need python3 (3.10 or newer) and nothing else; what they install stays in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A change of these installs anew.
BUILT_FROM := pyproject.toml hatch_build.py $(wildcard native/*.[ch])
PIP_ARGS ?=
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
# Progress for people; in a log the errors alone.
INSTALL = @quiet=; [ -t 1 ] || quiet=-q; $(BIN)/python -m pip install $$quiet $(PIP_ARGS)

.DEFAULT_GOAL := help
# Real backends to test against, built once for all checkouts.
export BACKENDS_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rollspan/backends
.PHONY: help demo test check bench bench-areal backends test-backends test-clusters test-areal clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train a tiny policy and see every rollout traced   (DEMO_ARGS='--steps 20')"
	@echo "make test    run the tests, some 15 minutes on two cores        (TEST_ARGS='-k fold')"
	@echo "make check   ruff and mypy"
	@echo "make bench   what a session costs, beside other tracers         (BENCH_ARGS='--rounds 10')"
	@echo "make bench-areal     what AReaL's executor costs, beside its own tracer and our executor  (installs AReaL)"
	@echo "make backends        build a real Collector and a real Jaeger (needs Go)"
	@echo "make test-backends   run the tests that need those; none may be skipped"
	@echo "make test-clusters   run the tests of torchrun, MPI, Ray and two hosts; likewise (needs Go, root, iproute2)"
	@echo "make test-areal      run the tests of AReaL's own rollouts, against those too (needs Go; installs AReaL)"
	@echo "make clean   remove .venv, caches and what a demo wrote here"

demo: $(VENV)/.demo
	$(BIN)/rollspan demo $(DEMO_ARGS)

# One thread a process: the tests start many of them.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs $(TEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-areal: $(VENV)/.areal
	$(BIN)/python -m benchmarks.areal_executor $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.areal_scopes $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.rollout_runtime $(BENCH_ARGS)

backends:
	otel-collector/backends/build.sh "$(BACKENDS_DIR)"

test-backends: $(VENV)/.dev backends
	OMP_NUM_THREADS=1 REQUIRE_ALL=1 $(BIN)/python -m pytest -q -rs tests/backends $(TEST_ARGS)

# Two hosts send to the real Collector too.
test-clusters: $(VENV)/.clusters backends
	OMP_NUM_THREADS=1 REQUIRE_ALL=1 $(BIN)/python -m pytest -q -rs tests/clusters $(TEST_ARGS)

# AReaL itself without what it asks for: all of that would be several gigabytes more.
test-areal: $(VENV)/.areal backends
	OMP_NUM_THREADS=1 REQUIRE_ALL=1 $(BIN)/python -m pytest -q -rs tests/areal $(TEST_ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build rollspan-data rollspan-demo

# A stamp is as new as the last installation, so the second time is quick.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "rollspan needs Python 3.10 or newer, and $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.created $(BUILT_FROM)
	@echo "$$DOWNLOADS"
	$(INSTALL) -e '.[demo]'
	@touch $@

# The demo is tested too, so its packages are among those of the tests.
$(VENV)/.dev: $(VENV)/.created $(BUILT_FROM)
	@echo "$$DOWNLOADS"
	$(INSTALL) -e '.[demo,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.clusters: $(VENV)/.created $(BUILT_FROM)
	@echo "$$DOWNLOADS"
	$(INSTALL) -e '.[demo,dev,clusters]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo

$(VENV)/.areal: $(VENV)/.created $(BUILT_FROM) tests/areal/requirements.txt
	@echo "$$DOWNLOADS"
	$(INSTALL) -e '.[demo,dev,areal]'
	$(INSTALL) --no-deps --require-hashes -r tests/areal/requirements.txt
	@touch $@ $(VENV)/.dev $(VENV)/.demo

define DOWNLOADS
Setting up $(VENV) in this folder; nothing outside it is changed. To be downloaded, unless pip has it cached:
  rollspan's own needs and the tools   about 80 MB
  torch, for the demo                  about 3 GB on Linux, with the CUDA libraries it brings (6 GB on disk);
                                       about 200 MB elsewhere, or as its CPU build
  Ray and Open MPI, for test-clusters  about 110 MB (400 MB on disk)
  AReaL and its needs, for test-areal  about 300 MB (1 GB on disk)
A CPU build of torch: make PIP_ARGS='--extra-index-url URL' with the CPU index that torch's site names.
This happens once, and again when what rollspan is built from changes.
endef
export DOWNLOADS
