"""Prepare a contender of ``bench.gpu``: warm up, compare with the exact answer, and capture a CUDA graph."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from bench.gpu_clocks import Runner, alive, captured, peak_mib, reason, roughly, synchronize
from bench.gpu_contenders import Contender, exact, on, tf32
from bench.measure import Row
from bench.ours import drawn
from bench.problems import Answer, Problem, gradient_error, relative_error

WARM_UP = 3  # calls: the first compiles, the second may capture a graph


class Prepared(NamedTuple):
    """A contender to time, or None and the reason in the row."""

    runner: Runner | None
    row: Row


def prepare(contender: Contender, p: Problem, answer: Callable[[Problem], Answer]) -> Prepared:
    """Prepare and warm up a contender, and compare its value and gradients with the exact ones."""
    device, began = p.x.device, time.perf_counter()
    p = on(device, p)
    with tf32(contender.tf32):
        row: Row = {"precision": torch.get_float32_matmul_precision()}
        step = contender.prepare(p)
        for _ in range(WARM_UP):
            step.wait(step.call())
        synchronize(device)
        row["prepare_s"] = time.perf_counter() - began
        want = exact(p._replace(v=drawn(p))) if contender.own_directions else answer(p)
        result = step.call()
        step.wait(result)
        error, gradients = errors(step.read(result), want)
        del result
        row |= {"max_rel_error": error, "gradient_error": gradients}
        if not error <= contender.tolerance:
            return Prepared(None, row | {"status": f"wrong: error {error:.2g} above {contender.tolerance:g}"})
        row["peak_mib"] = None if contender.pool else peak_mib(step.call, device)
        replay, why = graph(contender, step.call, step.read, want) if device.type == "cuda" else (None, "")
        seconds = roughly(step.call, device, step.wait)
    runner = Runner(step.call, seconds, step.wait, step.on_stream, replay, partial(tf32, contender.tf32))
    return Prepared(runner, row | {"graph_status": why, "status": "ok"})


def graph(contender: Contender, call: Callable[[], Any], read: Any, want: Answer) -> tuple[Any, str]:
    """Return a function that replays a CUDA graph of a call, or None, and the status."""
    if not contender.graphs:
        return None, ""
    device = want.value.device
    try:
        replays, outputs = captured(call, device)
        error, _ = errors(read(outputs), want)
    except Exception as problem_met:
        alive(device)
        return None, reason(problem_met)
    if not (contender.own_directions or error <= contender.tolerance):
        return None, f"wrong: error {error:.2g}"
    return replays.replay, "ok"


def errors(found: Answer, want: Answer) -> tuple[float, float | None]:
    """Return the maximum relative error, and the error of all gradients as one vector."""
    device = want.value.device
    here = Answer(found.value.to(device), tuple(g.to(device) for g in found.gradients))
    return relative_error(here, want), gradient_error(here, want)
