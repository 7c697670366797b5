#!/usr/bin/env bash
# Everything that needs a GPU, in one resumable run of at most eight minutes: tools/device/check.sh OUT [PHASE DONE]...
#
# It needs no network and no venv: a python with torch and pytest, and either the CUDA engine that `make device-build` has
# put into build/device, or a C++ compiler and nvcc. Each phase has a time box and writes its results to OUT at once:
#   phases.csv    a row for each phase: status, seconds, and the last line that it printed
#   facts.txt     the device, the driver, torch, the engine
#   gpu_*.csv     timings, a row at a time (bench/gpu.py)
#   ncu.csv       hardware counters of the main kernels
#   log.txt.gz    all output of all phases (log.txt while it runs)
# PYTHON names another python, PHASES the phases to run, TOTAL_S the seconds of all (480), BENCH_S those of the timings
# (150), JOBS the test processes. It exits with 3 where there is no GPU, unless REHEARSAL is set. A phase that no time is left for is recorded as not begun.
set -u
cd "$(dirname "$0")/../.." || exit
out=${1:?"usage: tools/device/check.sh OUT [PHASE DONE]..."}
shift
done_before=" $* "
python=${PYTHON:-python3}
prebuilt=build/device
[ -n "${REHEARSAL:-}" ] || "$python" tools/device/engine.py "$prebuilt" --device || exit
mkdir -p "$out" && out=$(cd "$out" && pwd)
total_s=${TOTAL_S:-480}
bench_s=${BENCH_S:-150}
jobs=${JOBS:-$(($(nproc) < 8 ? $(nproc) : 8))}
log=$out/log.txt
export FASTSSM_CUDA_IMAGE=$PWD/$prebuilt/_kernels.fatbin  # the kernels of the phases that run without the package
failed=""
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 PYTORCH_NVML_BASED_CUDA_CHECK=1
[ -f "$out/phases.csv" ] || echo "phase,status,seconds,summary" >"$out/phases.csv"

# phase NAME SECONDS COMMAND...: run it in its time box, unless it is done or not wanted, and record what came of it.
phase() {
  local name=$1 limit=$2 started=$SECONDS status
  shift 2
  [[ $done_before == *" $name "* ]] && return
  [[ " ${PHASES:-$name} " == *" $name "* ]] || return
  ((limit = limit < total_s - SECONDS ? limit : total_s - SECONDS))
  if ((limit < 5)); then
    echo "$name,not begun,0,\"no time was left of $total_s s\"" >>"$out/phases.csv"
    failed+=" $name"
    return
  fi
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
  timeout --kill-after=5 "$limit" "$@" >"$out/.phase" 2>&1
  status=$?
  cat "$out/.phase" >>"$log"
  tail -n "${SHOWN:-12}" "$out/.phase"
  case $status in 0) status=ok ;; 124 | 137) status="stopped after $limit s" ;; *) status="failed ($status)" ;; esac
  printf '%s,%s,%d,"%s"\n' "$name" "$status" $((SECONDS - started)) \
    "$(grep -v '^[[:space:]]*$' "$out/.phase" | tail -n 1 | tr -d '"' | cut -c1-160)" >>"$out/phases.csv"
  [ "$status" = ok ] || failed+=" $name"
  rm -f "$out/.phase"
}

tests() {
  local name=$1 limit=$2
  shift 2
  phase "$name" "$limit" "$python" -m pytest -q -p no:cacheprovider --tb=short "${parallel[@]}" "$@"
}

parallel=()
"$python" -c "import xdist" 2>/dev/null && parallel=(--numprocesses "$jobs" --dist worksteal)

phase engine 60 "$python" tools/device/engine.py "$prebuilt"
phase facts 20 "$python" tools/device/facts.py "$out/facts.txt"
tests smoke 60 tests/cuda/test_smoke.py
phase bench "$((bench_s + 10))" "$python" -m bench.gpu --limit "$bench_s" --folder "$out"
phase products 30 "$python" -m bench.gpu_products --folder "$out"
FASTSSM_CUDA_FLAVOUR=device tests kernels 45 tests/cuda/test_rows.py tests/cuda/test_pointwise.py tests/cuda/test_tops.py \
  tests/cuda/test_gemm.py tests/cuda/test_gemm_up.py tests/cuda/test_small.py
tests device 60 tests/cuda/test_device.py tests/cuda/test_graphed.py
FASTSSM_DEVICE=cuda tests matrix 60 tests/test_equivalence.py -k "ops or eager"
sanitizer=${SANITIZER:-compute-sanitizer}
phase program 20 "$prebuilt/device_program"
phase memcheck 40 "$sanitizer" --tool memcheck --error-exitcode 9 "$prebuilt/device_program" --quick
phase ncu 45 tools/device/ncu.sh "$out/ncu.csv" "$python"
phase nvrtc 45 "$python" tools/device/nvrtc.py
for path in whole-net layers; do  # the slowest, so last
  phase "racecheck-$path" 60 "$sanitizer" --tool racecheck --error-exitcode 9 "$prebuilt/device_program" --quick "--$path"
done

gzip --stdout "$log" >>"$log.gz" && rm "$log"  # behind that of an earlier run
printf '\n'
cat "$out/phases.csv"
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
