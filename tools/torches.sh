#!/usr/bin/env bash
# Build and test both engines beside the oldest and the newest torch that pyproject.toml admits: tools/torches.sh [LOG]
#
# Writes bench/results/torches.csv. LOG is where the rehearsal of the device run is written.
# Each torch is PyPI's, with CUDA though no device is needed, in a venv of its own and of another Python where there is
# one, in a copy of the tree. The last of them also rehearses the device run (tools/device/rehearse.py), with an engine
# that was built beside the torch of this venv. Takes 10 GB while it runs; OLDEST and NEWEST name other versions.
set -euo pipefail
cd "$(dirname "$0")/.."
log=${1:-/dev/null}
oldest=${OLDEST:-2.10.0}
newest=${NEWEST:-2.14.1}
here=$PWD
jobs=${JOBS:-$(nproc)}
table=$here/bench/results/torches.csv
processor=$(awk -F ': ' '/model name/ {gsub(",", ""); print $2; exit}' /proc/cpuinfo)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1

# Print the first Python of these versions that is on the PATH or in pyenv.
python_of() {
  local version found
  for version in "$@"; do
    for found in "$(command -v "python$version")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      if [ -x "$found" ] && "$found" -c "import ensurepip" 2>/dev/null; then echo "$found" && return; fi
    done
  done
  echo "tools/torches.sh needs a Python of the versions $*" >&2
  return 1
}

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
  (cd "$tree" && "$python" -m pytest -q -p no:cacheprovider --numprocesses "$jobs" --dist worksteal "$@") | tee "$folder/log" || status=$?
  echo "$("$python" -c 'import platform, torch; print(torch.__version__, platform.python_version(), sep=",")'),$processor,$name,$(tail -n 1 "$folder/log" | sed 's/,//g; s/^=* *//; s/ *=*$//')" >>"$table"
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

step() { printf '\n== %s (at %d s)\n' "$*" "$SECONDS"; }

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
