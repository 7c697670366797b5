#!/usr/bin/env bash
# Install fastssm as people do, in new venvs, and test it there (`make installs`): tools/installs.sh [PYTHON...]
#
# Writes bench/results/installs.csv, or its rows of these Pythons: 3.10, and so on; by default all that pyproject.toml names.
# Every Python makes a venv with its own pip, which stays as it is, and installs torch: $newest of tools/venvs.sh, then $oldest.
# In a copy of that venv each way of WAYS installs fastssm, and TESTS run outside the source tree, with what was installed:
#   sdist           `pip install .` in the unpacked source distribution
#   no-isolation    the same with --no-build-isolation; in an old venv a sentence says what it takes
#   wheel           a wheel that was built beside the newest torch, one for each Python, where there is no compiler
# TOOLS is a folder with a Python that has setuptools 77, and with what REPAIR runs to repair a wheel (see the Makefile).
# Takes 15 GB while it runs. tools/venvs.sh lists more variables.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/venvs.sh
table=$PWD/bench/results/installs.csv
columns=python,pip,torch,processor,date,way,engine,tests,seconds
ways=${WAYS:-sdist no-isolation wheel}
tests=${TESTS:-tests/test_contract.py tests/test_equivalence.py tests/test_native.py tests/test_packaging.py tests/test_citations.py}
stock=$folder/stock venv=$folder/venv python=$folder/venv/bin/python
failed=0

# Put the source distribution into $folder/sdist, and what it has besides the package into $folder/outside.
unpack() {
  mkdir "$folder/sdist"
  FASTSSM_BUILD=none "$TOOLS/python" setup.py --quiet egg_info --egg-base "$folder" sdist --dist-dir "$folder"
  tar --extract --file "$folder"/fastssm-*.tar.gz --strip-components 1 --directory "$folder/sdist"
  cp -r "$folder/sdist" "$folder/outside"
  rm -r "$folder/outside/src"
}

# Make $stock: a venv of a Python, with a torch. NVIDIA's libraries are the same files for every Python: link them.
make_stock() {
  local libraries=$folder/nvidia-$2 packages
  rm -rf "$stock"
  "$(python_of "$1")" -m venv "$stock"
  packages=$(echo "$stock"/lib/python*/site-packages)
  if [ -d "$libraries" ]; then cp --archive --link "$libraries"/* "$packages"; fi
  "$stock/bin/python" -m pip install --quiet "torch==$2"
  if [ ! -d "$libraries" ]; then mkdir "$libraries" && cp --archive --link "$packages"/nvidia* "$libraries"; fi
}

# Install, ask what there is, test, and write a row: try WAY PATH ARGUMENTS OF PIP...
try() {
  local way=$1 path=$2 engine closing="not run" began installed=yes seconds
  shift 2
  step "Python $version, torch $torch, $way"
  rm -rf "$venv"
  cp --archive --link "$stock" "$venv"  # no way sees what another installed
  began=$SECONDS
  (cd "$folder/sdist" && PATH=$path "$python" -m pip install --quiet "$@") &>"$folder/pip" || installed=no
  seconds=$((SECONDS - began))
  if [ $installed = yes ]; then
    "$python" -m pip install --quiet pytest pytest-xdist hypothesis
    engine=$(cd "$folder/outside" && "$python" -m fastssm | grep -E "^ *(cuda|The compiled module|CUDA engine:) " | xargs -d '\n' echo | tr --squeeze-repeats ' ' | sed 's/^ //')
    run_tests "$folder/outside" $tests || failed=1
  else
    cat "$folder/pip"
    engine=$(grep --only-matching --max-count 1 "fastssm: .*" "$folder/pip") || { engine=$(tail -n 1 "$folder/pip") failed=1; }
  fi
  "$python" -c '
import csv, importlib.metadata as installed, platform, sys
row = platform.python_version(), *map(installed.version, ("pip", "torch")), *sys.argv[1:]
csv.writer(sys.stdout, lineterminator="\n").writerow(row)
' "$processor" "$(date +%F)" "$way" "$engine" "$closing" "$seconds" >>"$table"
  tail -n 1 "$table"
}

# Leave the wheel of this Python in $folder/wheels; the build goes on with what `pip install .` compiled.
build_wheel() {
  rm -rf "$folder/wheels" "$folder/built"
  rm -rf "$venv"
  cp --archive --link "$stock" "$venv"
  (cd "$folder/sdist" && "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/built" .)
  PATH=$TOOLS:$PATH eval "$REPAIR" --wheel-dir "$folder/wheels" "$folder"/built/*.whl
}

versions=${*:-$(grep -o '"Programming Language :: Python :: 3\.[0-9]*"' pyproject.toml | grep -o '3\.[0-9]*')}
unpack
if [ $# = 0 ] || [ ! -e "$table" ]; then echo "$columns" >"$table"; fi
for version in $versions; do
  sed -i "/^${version//./\\.}\./d" "$table"
  for torch in "$newest" "$oldest"; do
    step "Python $version, torch $torch"
    make_stock "$version" "$torch"
    for way in $ways; do
      case $way in
        sdist) try sdist "$PATH" . ;;
        no-isolation) try no-isolation "$PATH" --no-build-isolation . ;;
        wheel)
          if [ "$torch" = "$newest" ]; then build_wheel; fi
          CXX=false try wheel "$venv/bin" "$folder"/wheels/*.whl
          ;;
      esac
    done
  done
done
{ head -n 1 "$table" && tail -n +2 "$table" | sort --version-sort; } >"$folder/sorted"
cp "$folder/sorted" "$table"
exit $failed
