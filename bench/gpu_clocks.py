"""Timing on a GPU: host, device and wall clocks, CUDA graphs, and peak rates of the device."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.measure import Row

Call = Callable[[], Any]
CLOCKS = ("host", "event", "graph", "wall")
SAMPLE_S = 0.02
MAX_CALLS = 100
QUEUED = 3  # calls queued at once; the queue of the device holds about a thousand kernels
SLOW_S = 0.02  # launch gaps of longer calls are negligible
CYCLES = 2e9  # upper bound of clock cycles per second


def nothing(result: Any) -> None:
    """Do nothing."""


class Runner(NamedTuple):
    """A call to time.

    Attributes:
        call: the call, which may return before the device is done.
        seconds: its approximate time.
        wait: waits for the result of the call if torch does not track it.
        on_stream: whether CUDA events track its work.
        replay: replays a CUDA graph of the call, if there is one.
        within: returns the context to run in.
    """

    call: Call
    seconds: float
    wait: Callable[[Any], object] = nothing
    on_stream: bool = True
    replay: Call | None = None
    within: Callable[[], AbstractContextManager[None]] = nullcontext


def synchronize(device: torch.device) -> None:
    """Wait until all work of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class LostError(RuntimeError):
    """The device no longer responds."""


def alive(device: torch.device) -> None:
    """Raise LostError if the device no longer responds."""
    try:
        synchronize(device)
    except Exception as error:
        raise LostError(reason(error)) from None


def burst(call: Call, count: int, device: torch.device, wait: Callable[[Any], object] = nothing) -> tuple[float, float]:
    """Return the seconds until the first of `count` calls returns, and the seconds per call as in a training loop.

    The device is idle before the first call, and the host waits only for the last.
    """
    synchronize(device)
    started = time.perf_counter()
    result = call()
    returned = time.perf_counter()
    for _ in range(count - 1):
        result = call()
    wait(result)
    synchronize(device)
    return returned - started, (time.perf_counter() - started) / count


def until_returned(call: Call, count: int, device: torch.device, wait: Callable[[Any], object]) -> float:
    """Return the median of the seconds until a call returns on an idle device."""
    seconds = []
    for _ in range(count):
        synchronize(device)
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
        wait(result)
    synchronize(device)
    return median(seconds)


def by_events(call: Call, count: int, device: torch.device, sleep_s: float) -> float:
    """Return the device seconds per call. The device sleeps first, so that it never waits for the host."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    synchronize(device)
    if sleep_s:
        torch.cuda._sleep(int(CYCLES * sleep_s))
    start.record()
    for _ in range(count):
        call()
    end.record()
    synchronize(device)
    return start.elapsed_time(end) / 1e3 / count


def roughly(call: Call, device: torch.device, wait: Callable[[Any], object] = nothing) -> float:
    """Return the approximate seconds of a warm call."""
    return min(burst(call, 2, device, wait)[1] for _ in range(2))


def sample_of(runner: Runner, device: torch.device) -> dict[str, float]:
    """Return one sample of each available clock."""
    count = max(1, min(MAX_CALLS, int(SAMPLE_S / runner.seconds)))
    few = min(QUEUED, count)
    with runner.within():
        host, wall = burst(runner.call, count, device, runner.wait)
        if count > 1:
            host = until_returned(runner.call, few, device, runner.wait)
        sample = {"host": host, "wall": wall}
        if device.type == "cuda" and runner.on_stream:
            sleep = 0.0 if runner.seconds > SLOW_S else 1e-4 + 2 * few * host
            sample["event"] = by_events(runner.call, few, device, sleep)
        if runner.replay is not None:
            sleep = 0.0 if runner.seconds > SLOW_S else 5e-4
            sample["graph"] = by_events(runner.replay, min(10, count), device, sleep)
    return sample


def measure(
    runners: Mapping[str, Runner],
    budget_s: float,
    device: torch.device,
    fewest: int = 3,
    on_start: Callable[[str], object] = nothing,
) -> dict[str, Row]:
    """Time all runners in rounds in random order; return the columns of each, or a status if it fails.

    Args:
        runners: calls to time by name.
        budget_s: minimum total seconds of all rounds.
        device: device to run on.
        fewest: minimum number of rounds.
        on_start: called with the name of each runner before it runs.
    """
    left, failed = dict(runners), dict[str, Row]()
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
    started, rounds, shuffler = time.perf_counter(), 0, random.Random(0)
    while left and (rounds < fewest or time.perf_counter() - started < budget_s):
        for name in shuffler.sample(list(left), len(left)):
            on_start(name)
            try:
                if not rounds:  # captures empty the cache of the allocator
                    with left[name].within():
                        left[name].wait(left[name].call())
                samples[name].append(sample_of(left[name], device))
            except Exception as error:
                alive(device)
                failed[name] = {"status": reason(error)}
                del left[name]
        rounds += 1
    return {name: columns(samples[name]) for name in left} | failed


def columns(samples: list[dict[str, float]]) -> Row:
    """Return the median and the minimum of each clock, in microseconds."""
    row: Row = {"repeats": len(samples)}
    for clock in CLOCKS:
        if found := [1e6 * sample[clock] for sample in samples if clock in sample]:
            row |= {f"{clock}_us": median(found), f"{clock}_min_us": min(found)}
    return row


def reason(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def captured(call: Call, device: torch.device) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Capture a call after warm-up on a side stream; return the graph and its outputs."""
    if device.type != "cuda":
        raise NotImplementedError("a CUDA graph needs a GPU")
    gc.collect()  # gradient nodes from another stream must not outlive it
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    synchronize(device)
    gc.collect()
    graph, pool, before = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph, pool=pool, stream=side):
            outputs = call()
    except Exception as error:
        cause = error.__context__  # the error of the call; ending the capture then fails with a less informative one
        abandon(pool, before, device)
        raise RuntimeError(f"no capture: {reason(cause if isinstance(cause, Exception) else error)}") from None
    graph.replay()
    synchronize(device)
    return graph, outputs


def abandon(pool: Any, stream: Any, device: torch.device) -> None:
    """Restore the current stream and the allocator after a failed capture."""
    torch.cuda.set_stream(stream)
    with suppress(Exception):  # nothing to restore if the capture ended normally
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)


def free(device: torch.device) -> None:
    """Empty the cache of the allocator; raise LostError if that fails, as it can after a failed capture."""
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except Exception as error:
            raise LostError(reason(error)) from None


def peak_mib(call: Call, device: torch.device) -> float | None:
    """Return the peak memory that torch allocates during one call, in MiB; None without a GPU."""
    if device.type != "cuda":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


CEILINGS = ("copy", "GEMM float32", "GEMM tf32", "GEMM bf16")


def ceiling(name: str, device: torch.device, tf32: Callable[[bool], AbstractContextManager[None]]) -> Row:
    """Return the row of a peak rate of the device: copied bytes, or operations of a large product."""
    gpu = device.type == "cuda"
    if name == "GEMM tf32" and not gpu:
        raise NotImplementedError("TF32 needs a GPU")
    if name == "copy":
        source = torch.rand(2**28 if gpu else 2**22, device=device)
        target, amount, unit = torch.empty_like(source), 8.0 * len(source), "GB/s"
        call = lambda: target.copy_(source)  # noqa: E731
    else:
        width, dtype = 8192 if gpu else 512, torch.bfloat16 if name == "GEMM bf16" else torch.float32
        a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
        out, amount, unit = torch.empty_like(a), 2.0 * width**3, "TFLOP/s"
        call = lambda: torch.mm(a, b, out=out)  # noqa: E731
    with tf32(name == "GEMM tf32"):
        for _ in range(3):
            call()
        runner = Runner(call, roughly(call, device))
        row = measure({name: runner}, 0.2, device, fewest=10)[name]
    if "status" in row:
        return row
    seconds = 1e-6 * (row.get("event_us") or row["wall_us"])
    return row | {"rate": amount / seconds / (1e9 if unit == "GB/s" else 1e12), "unit": unit, "status": "ok"}
