#!/usr/bin/env bash
# Build and test both engines beside the oldest and the newest torch that pyproject.toml admits: tools/torches.sh [LOG]
#
# Writes bench/results/torches.csv. LOG is where the rehearsal of the device run is written.
# Each torch is PyPI's, with CUDA though no device is needed, in a venv of its own and of another Python where there is
# one, in a copy of the tree. The last of them also rehearses the device run (tools/device/rehearse.py), with an engine
# that was built beside the torch of this venv. Takes 10 GB while it runs. tools/venvs.sh lists its variables.
set -euo pipefail
cd "$(dirname "$0")/.."
log=${1:-/dev/null}
here=$PWD
table=$here/bench/results/torches.csv
. tools/venvs.sh

# Install a torch and what the tests need in a venv of its own: download VERSION PYTHON...
download() {
  local version=$1
  shift
  "$(python_of "$@")" -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install --quiet "torch==$version" "setuptools>=77" "cmake>=3.20" ninja "pybind11>=3,<4" numpy pytest pytest-xdist hypothesis mpmath pandas
}

# Install the package beside a torch; leave that python in $python and the copy of the tree in $tree.
install() {
  python=$folder/$1/bin/python tree=$folder/tree-$1
  mkdir "$tree"
  git ls-files -z --cached --others --exclude-standard | xargs --null cp --parents --target-directory "$tree"
  (cd "$tree" && FASTSSM_BUILD=auto "$python" -m pip install --quiet --no-build-isolation --no-deps --editable .)
}

# Run pytest in the copy of the tree, and write its closing line into the table: tests NAME ARGUMENTS...
tests() {
  local name=$1 status=0
  shift
  run_tests "$tree" "$@" || status=$?
  echo "$("$python" -c 'import platform, torch; print(torch.__version__, platform.python_version(), sep=",")'),$processor,$name,$closing" >>"$table"
  return $status
}

check() {
  local operators
  (cd "$tree" && "$python" -m fastssm)
  (cd "$tree" && "$python" -m fastssm | grep -q "CUDA engine: kernels by NVRTC at the first call")
  tests engines tests/test_equivalence.py tests/test_native.py tests/test_operators.py tests/test_compile.py \
    tests/test_contract.py tests/test_contract_autograd.py tests/test_cpu_engine.py
  tests "CUDA library" tests/test_cuda_build.py tests/test_cuda_library.py
  operators=$(cd "$tree" && FASTSSM_NO_NATIVE=1 "$python" -m tests.cuda.harness.operators)
  FASTSSM_NO_NATIVE=1 FASTSSM_OPERATORS=$operators tests "operators on the emulator" tests/test_equivalence.py -k ops
}

echo torch,python,processor,tests,result >"$table"
step "torch $oldest, the oldest"
download "$oldest" 3.10 3.11
download "$newest" 3.12 3.13 3.11 &  # while the oldest is tested
newest_downloaded=$!
install "$oldest"
check
rm -rf "${folder:?}/$oldest" "$tree"
step "torch $newest, the newest"
wait $newest_downloaded
install "$newest"
check
step "the device run, rehearsed"
"$here/.venv/bin/python" tools/device/engine.py build/device --build
"$python" tools/device/rehearse.py "$log"
