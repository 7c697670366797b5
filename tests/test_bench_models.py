"""The models of the benchmarks on closed forms: what bounds a step on a GPU, and the time to average gradients."""

from __future__ import annotations

import pytest

from bench import cuda_model, scaling
from bench.cuda_model import Work
from bench.problems import Size
from fastssm.nn import MLP

SIZE = Size(3, 8, 2, 5, 1)  # nobody measured it


def test_what_bounds_a_step() -> None:
    unit = cuda_model.launch_us()
    h100 = cuda_model.PLACES["H100"]
    bytes_of, flops_of = 1e-6 * h100.bandwidth, 1e-6 * h100.float32  # of a microsecond
    cases = {
        "launch": ([Work("a", 0, 0)] * 10, 10 * unit),
        "bytes": ([Work("a", 50 * bytes_of, 0), Work("b", 100 * bytes_of, 90 * flops_of)], 150),
        "flop": ([Work("a", 50 * bytes_of, 70 * flops_of), Work("b", 0, 0)], 70 + unit),
    }
    for bound, (works, gpu) in cases.items():
        row = cuda_model.row_of(SIZE, "H100", cuda_model.OURS, works, host=1e-3)
        assert row["bound"] == bound
        assert row["gpu_us"] == pytest.approx(gpu)
        assert (row["host_status"], row["gpu_status"]) == ("predicted", "predicted")
        assert cuda_model.row_of(SIZE, "H100", cuda_model.OURS, works, host=1e3)["bound"] == "host"
    first = scaling.GRID[0]
    measured = cuda_model.row_of(first, "H200", cuda_model.OURS, [Work("a", 0, 0)], host=0.0)
    assert measured["gpu_status"] == "measured"
    assert measured["gpu_us"] == float(cuda_model.measured(first, cuda_model.OURS)["event_us"])
    assert cuda_model.parameters(SIZE) == sum(p.numel() for p in MLP(SIZE.d, [SIZE.H] * SIZE.L).parameters())


def test_the_time_to_average_gradients() -> None:
    assert scaling.all_reduce_us(1e9, 1) == 0
    large = 1e12  # bytes, beside which no latency counts
    for gpus, inside, nodes in ((2, 2, 1), (8, 8, 1), (64, 8, 8), (1024, 8, 128)):
        within = 2 * (inside - 1) / inside * large / scaling.INSIDE
        across = 2 * (nodes - 1) / nodes * (large / inside) / scaling.BETWEEN
        assert scaling.all_reduce_us(large, gpus) == pytest.approx(1e6 * (within + across), rel=1e-3)
    latencies = [scaling.all_reduce_us(0, gpus) for gpus in (2, 8, 64, 1024)]
    assert latencies == sorted(latencies)
    assert latencies[-1] == scaling.CALL_US + 14 * scaling.HOP_US["inside"] + 14 * scaling.HOP_US["between"]
