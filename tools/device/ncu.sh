#!/usr/bin/env bash
# Hardware counters of the kernels of some calls, as a CSV: tools/device/ncu.sh OUT.csv PYTHON
set -eu
here=$(dirname "$0")
raw=$(mktemp)
trap 'rm -f "$raw"' EXIT
metrics=gpu__time_duration.sum,sm__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed,dram__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,dram__bytes_read.sum,dram__bytes_write.sum,sm__warps_active.avg.pct_of_peak_sustained_active
metrics+=,launch__registers_per_thread,launch__grid_size,launch__block_size
metrics+=,l1tex__data_bank_conflicts_pipe_lsu.sum,smsp__inst_executed.sum
ncu --profile-from-start off --clock-control none --csv --page raw --metrics "$metrics" --log-file "$raw" \
  "$2" "$here/profiled.py"
sed -i '/^==/d' "$raw"
"$2" "$here/kernels.py" "$raw" "$1"
