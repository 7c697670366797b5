"""One process of the benchmark: checks, times and weighs some contenders on one problem; rows go to stdout as JSON.

``bench.torch_path`` starts it with OMP_NUM_THREADS set, so that a contender that crashes takes nobody with it.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contenders import CONTENDERS, EMPTY, Contender, bare_sweeps, empty_function
from bench.measure import interleaved, peak_mib
from bench.problems import LOSSES, Answer, Problem, Size, cached_answer, problem, relative_error

MODES = ("forward", "forward+backward")
Row = dict[str, Any]
Step = Callable[[], tuple[Tensor, tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Job:
    """What one process does with ``contenders`` on ``size``: a task of ``TASKS``."""

    size: Size
    threads: int
    contenders: tuple[str, ...]
    budget_s: float
    folder: str
    task: str = "time"

    def to_json(self) -> str:
        """Write the job for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read what :meth:`to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"size": Size(*fields["size"]), "contenders": tuple(fields["contenders"])})


def make_step(contender: Contender, p: Problem, mode: str) -> Step:
    """Return the call that is timed: the value alone (on a frozen net), or the value and every parameter's gradient."""
    call, parameters = contender.prepare(p), list(p.net.parameters())

    def value() -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.set_grad_enabled(contender.grad_mode):
            return call().detach(), ()

    def value_and_gradients() -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = call()
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    p.net.requires_grad_(mode != "forward")
    return value if mode == "forward" else value_and_gradients


def checked_step(name: str, job: Job, loss: str, mode: str) -> tuple[Step | None, Row]:
    """Prepare a contender and compare its first result with the exact answer; say what is wrong, if anything is."""
    contender, p = CONTENDERS[name], problem(job.size, loss)
    row: Row = {"loss": loss, "mode": mode, "contender": name}
    try:
        exact = exact_for(contender, p, Path(job.folder), f"{job.size} {loss}")
        step = make_step(contender, p, mode)
        error = relative_error(*step(), exact)
    except Exception as problem_met:
        return None, row | {"status": reason(problem_met)}
    if not error <= contender.tolerance:
        return None, row | {"max_rel_error": error, "status": f"wrong: error above {contender.tolerance:g}"}
    return step, row | {"max_rel_error": error, "status": "ok"}


def exact_for(contender: Contender, p: Problem, folder: Path, key: str) -> Answer:
    """Return the exact answer for the directions this contender is going to use."""
    if contender.own_directions is None:
        return cached_answer(p, folder / f"{key}.pt")
    return cached_answer(p._replace(v=contender.own_directions(p)), folder / f"{key} own.pt")


def reason(error: Exception) -> str:
    kinds = {NotImplementedError: "not applicable", ImportError: "unavailable"}
    kind = next((word for type_, word in kinds.items() if isinstance(error, type_)), "failed")
    return f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def timings(job: Job) -> Iterator[Row]:
    """Time every contender that gives the right answer, interleaved, for each loss and mode."""
    for loss in LOSSES:
        for mode in MODES:
            torch.compiler.reset()
            checked = {name: checked_step(name, job, loss, mode) for name in job.contenders}
            steps = {name: step for name, (step, _) in checked.items() if step}
            times = interleaved(steps, job.budget_s)
            for name, (step, row) in checked.items():
                if step:
                    row |= {**times[name]._asdict(), "peak_MiB": peak_mib(step)}
                    row["ratio_to_autograd"] = ratio(times, name, "autograd")
                    row["ratio_to_fastssm"] = ratio(times, name, "fastssm torch")
                yield row


def ratio(times: dict[str, Any], name: str, reference: str) -> float | None:
    return times[name].min_ms / times[reference].min_ms if reference in times else None


def memory(job: Job) -> Iterator[Row]:
    """Weigh one call of the first contender; a small batch before it checks the answer and loads what is lazy."""
    (name,) = job.contenders
    warm_up = Job(job.size._replace(B=64), job.threads, job.contenders, 0, job.folder)
    for loss in LOSSES:
        step, row = checked_step(name, warm_up, loss, MODES[1])
        if step:
            row["peak_MiB"] = peak_mib(make_step(CONTENDERS[name], problem(job.size, loss), MODES[1]))
        yield row | {"mode": "memory"}


def overhead(job: Job) -> Iterator[Row]:
    """Time a step of fastssm less the sweeps it consists of, and an autograd function that does nothing: the floor."""
    for loss in LOSSES:
        (name,), p = job.contenders, problem(job.size, loss)
        step, row = checked_step(name, job, loss, MODES[1])
        if step:
            calls = {"step": step, "sweeps": bare_sweeps(p), EMPTY: empty_function(p)}
            times = interleaved(calls, job.budget_s)
            whole, part = times["step"], times["sweeps"]
            row |= {"min_ms": whole.min_ms - part.min_ms, "median_ms": whole.median_ms - part.median_ms}
            row["repeats"] = whole.repeats
            yield {"loss": loss, "contender": EMPTY, "mode": "overhead", "status": "ok", **times[EMPTY]._asdict()}
        yield row | {"mode": "overhead"}


TASKS: dict[str, Callable[[Job], Iterator[Row]]] = {"time": timings, "memory": memory, "overhead": overhead}


def main() -> None:
    """Run the job given on the command line."""
    job = Job.from_json(sys.argv[1])
    torch.set_num_threads(job.threads)
    warnings.simplefilter("ignore")
    for row in TASKS[job.task](job):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
