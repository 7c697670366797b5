"""A benchmark process: check contenders on one problem, measure time and memory, and print rows as JSON.

``bench.harness`` starts it with OMP_NUM_THREADS set. A contender that crashes ends only its own process.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench import levels, signs, training
from bench.contenders import CONTENDERS, PEAK, PEAK_BF16, Contender
from bench.measure import Row, Timing, interleaved, peak_mib
from bench.ours import BARE, EMPTY, NotBuiltError, empty_function
from bench.problems import LOSSES, Answer, Case, Problem, Size, cached_answer, gradient_error, problem, relative_error
from bench.steps import BACKWARD, MODES, Step
from bench.yardsticks import arithmetic

STARTED = "started: "


@dataclass(frozen=True)
class Job:
    """The work of one process: a task of ``TASKS`` with ``contenders`` on ``case``."""

    case: Case
    threads: int
    contenders: tuple[str, ...]
    budget_s: float
    folder: str
    task: str = "time"
    losses: tuple[str, ...] = LOSSES
    modes: tuple[str, ...] = MODES

    def to_json(self) -> str:
        """Return the job as JSON, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Parse the result of :meth:`to_json`."""
        fields = json.loads(text)
        size, *rest = fields.pop("case")
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(case=Case(Size(*size), *rest), **fields | lists)

    @property
    def rows(self) -> tuple[str, ...]:
        """Modes of the rows of the job."""
        return self.modes if self.task == "time" else (self.task,)


def checked_step(contender: Contender, p: Problem, mode: str, folder: str) -> tuple[Step | None, Row]:
    """Prepare a contender, and compare its first result with the exact answer."""
    try:
        step = contender.prepare(p, mode)
        if step.read is None:
            step.call()
            return step, {"status": "ok"}
        exact = exact_for(contender, p, Path(folder))
        found = step.read(step.call())
    except Exception as problem_met:
        return None, {"status": reason(problem_met)}
    row: Row = {"max_rel_error": relative_error(found, exact), "gradient_error": gradient_error(found, exact)}
    if not row["max_rel_error"] <= contender.tolerance:
        return None, row | {"status": f"wrong: error above {contender.tolerance:g}"}
    return step, row | {"status": "ok"}


def start(name: str, p: Problem, mode: str, folder: str) -> tuple[Step | None, Row]:
    """Print the name of a contender, in case it crashes the process, and check it."""
    print(STARTED + name, flush=True)
    return checked_step(CONTENDERS[name], p, mode, folder)


def exact_for(contender: Contender, p: Problem, folder: Path) -> Answer:
    """Return the exact answer for the directions that this contender will use."""
    key = f"{p.case} {p.loss}"
    if contender.own_directions is None:
        return cached_answer(p, folder / f"{key}.pt")
    return cached_answer(p._replace(v=contender.own_directions(p)), folder / f"{key} own.pt")


def reason(error: Exception) -> str:
    kinds = {NotImplementedError: "not applicable", ImportError: "unavailable", NotBuiltError: "not built"}
    kind = next((word for type_, word in kinds.items() if isinstance(error, type_)), "failed")
    return f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def timings(job: Job) -> Iterator[Row]:
    """Time all contenders with correct answers, interleaved, for each loss and mode."""
    for loss in job.losses:
        for mode in job.modes:
            torch.compiler.reset()
            checked = {name: start(name, problem(job.case, loss), mode, job.folder) for name in job.contenders}
            steps = {name: step for name, (step, _) in checked.items() if step}
            times = interleaved({name: step.call for name, step in steps.items()}, job.budget_s)
            speeds = {n: (steps[n].flops or arithmetic(job.case, loss)) / t.min_ms / 1e6 for n, t in times.items()}
            for name, (step, row) in checked.items():
                if step:
                    row |= {**times[name]._asdict(), "peak_MiB": peak_mib(step.call)}
                    if mode == BACKWARD:
                        row |= {"gflops": speeds[name], "fraction_of_peak": fraction(name, speeds)}
                yield row | {"loss": loss, "mode": mode, "contender": name}


def fraction(name: str, speeds: dict[str, float]) -> float | None:
    """Return the speed as a fraction of the measured peak in the same arithmetic, if measured in this process."""
    peak = PEAK_BF16 if "bf16" in name else PEAK
    return speeds[name] / speeds[peak] if peak in speeds else None


def memory(job: Job) -> Iterator[Row]:
    """Measure the peak memory of one call of a contender that has only run on a small network before.

    Memory that an engine keeps between calls therefore counts. A small batch then checks the answer.
    """
    (name,) = job.contenders
    contender, tiny = CONTENDERS[name], job.case._replace(size=Size(2, 8, 2, 8, 1))
    few = job.case._replace(size=job.case.size._replace(B=64))
    for loss in job.losses:
        step, row = checked_step(contender, problem(tiny, loss), BACKWARD, job.folder)
        if step:
            peak = peak_mib(contender.prepare(problem(job.case, loss), BACKWARD).call)
            row = {"peak_MiB": peak} | checked_step(contender, problem(few, loss), BACKWARD, job.folder)[1]
        yield row | {"loss": loss, "contender": name, "mode": "memory"}


def overhead(job: Job) -> Iterator[Row]:
    """Time a step of fastssm minus its arithmetic, and an empty autograd function as a lower bound."""
    for loss in job.losses:
        p = problem(job.case, loss)
        checked = {name: checked_step(CONTENDERS[name], p, BACKWARD, job.folder) for name in job.contenders}
        whole = {name: step.call for name, (step, _) in checked.items() if step}
        parts = {f"{name} bare": BARE[name](p) for name in whole}
        times = interleaved(whole | parts | {EMPTY: empty_function(p)}, job.budget_s)
        for name, (step, row) in checked.items():
            found = less(times[name], times[f"{name} bare"])._asdict() if step else {}
            yield {"loss": loss, "contender": name, "mode": "overhead", **row, **found}
        yield {"loss": loss, "contender": EMPTY, "mode": "overhead", "status": "ok", **times[EMPTY]._asdict()}


def less(whole: Timing, part: Timing) -> Timing:
    return Timing(whole.min_ms - part.min_ms, whole.median_ms - part.median_ms, whole.repeats)


def sign_draws(job: Job) -> Iterator[Row]:
    """Time methods to draw the random signs of the problem."""
    draws, faults = signs.contenders(job.case.size)
    for name, timing in interleaved(draws, job.budget_s).items():
        yield {"loss": "", "mode": "signs", "contender": name, "status": "ok", **timing._asdict()}
    for name, error in faults.items():
        yield {"loss": "", "mode": "signs", "contender": name, "status": reason(error)}


def trainings(job: Job) -> Iterator[Row]:
    """Time whole commands, each once."""
    for name in job.contenders:
        row: Row = {"loss": job.losses[0], "mode": job.task, "contender": name}
        try:
            yield row | training.timed(job.task, name, Path(job.folder)) | {"status": "ok"}
        except Exception as problem_met:
            yield row | {"status": reason(problem_met)}


TASKS: dict[str, Callable[[Job], Iterator[Row]]] = {
    "time": timings,
    "memory": memory,
    "overhead": overhead,
    "signs": sign_draws,
    **dict.fromkeys(training.COMMANDS, trainings),
}


def keep_to(count: int) -> None:
    """Keep this process to as many cores as it has threads: JAX is up to three times as fast on small networks then."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    """Run the job on the command line."""
    job = Job.from_json(sys.argv[1])
    torch.set_num_threads(job.threads)
    keep_to(job.threads)
    warnings.simplefilter("ignore")
    levels.hold_inductor()
    for row in TASKS[job.task](job):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
