#!/usr/bin/env bash
# Hardware counters of the engine's kernels, as a CSV: tools/device/ncu.sh OUT.csv PYTHON
set -eu
metrics=gpu__time_duration.sum,sm__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed,dram__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,dram__bytes_read.sum,dram__bytes_write.sum,sm__warps_active.avg.pct_of_peak_sustained_active
metrics+=,launch__registers_per_thread,launch__grid_size,launch__block_size
metrics+=,l1tex__data_bank_conflicts_pipe_lsu.sum,smsp__inst_executed.sum
ncu --profile-from-start off --clock-control none --csv --page raw --metrics "$metrics" --log-file "$1" \
  "$2" "$(dirname "$0")/profiled.py"
sed -i '/^==/d' "$1"
echo "$(($(wc -l <"$1") - 2)) kernels"
