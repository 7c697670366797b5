# For tools/torches.sh and tools/installs.sh, which source it: the torches and the Pythons, and tests as a row of a table.
# OLDEST and NEWEST name other torches, JOBS how many tests run at once, PYENV_ROOT where pyenv keeps its Pythons.
oldest=${OLDEST:-2.10.0}
newest=${NEWEST:-2.14.1}
jobs=${JOBS:-$(nproc)}
processor=$(awk -F ': ' '/model name/ {gsub(",", ""); print $2; exit}' /proc/cpuinfo)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1

step() { printf '\n== %s (at %d s)\n' "$*" "$SECONDS"; }

# Print the first Python of these versions that is on the PATH or in pyenv.
python_of() {
  local version found
  for version in "$@"; do
    for found in "$(command -v "python$version")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      if [ -x "$found" ] && "$found" -c "import ensurepip" 2>/dev/null; then echo "$found" && return; fi
    done
  done
  echo "$0 needs a Python of the versions $*" >&2
  return 1
}

# Run pytest by $python in a folder, with $path as its PATH if that is set, and leave its closing line, without the time, in $closing:
# run_tests FOLDER ARGUMENTS...
run_tests() {
  local place=$1 status=0
  shift
  (cd "$place" && PATH=${path:-$PATH} "$python" -m pytest -q -p no:cacheprovider --numprocesses "$jobs" --dist worksteal "$@") | tee "$folder/log" || status=$?
  closing=$(tail -n 1 "$folder/log" | sed 's/,//g; s/^=* *//; s/ in [0-9.]*s.*//')
  return $status
}
