"""Write bench/results/operators.csv: ``python -m bench.operators`` from the root of the repository.

Each operator is compared with `torch.func`, interleaved in one process per operator and number of threads.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench import jobs
from bench.harness import RESULTS, TIMES, WHO, environment, read, write
from bench.measure import Row, interleaved, peak_mib
from bench.operator_rivals import OPERATORS, Method
from bench.problems import LOSSES, Answer, Case, Problem, Size, problem, relative_error
from bench.table import header, line
from bench.worker import reason

OUT = RESULTS / "operators.csv"
FILES = {"AMD Zen 5, AVX-512": OUT, "Intel Xeon with AMX": RESULTS / "operators_emerald_rapids.csv"}  # by processor
COLUMNS = (
    *(
        *WHO,
        "threads",
        "dtype",
        "kind",
        "activation",
        *Size._fields,
        "operator",
        "mode",
        "contender",
        "chunk",
        *TIMES,
        "cpu_ms",
    ),
    *("ratio_to_best_rival", "best_rival", "peak_MiB", "max_rel_error", "target", "status"),
)
KEY = ("threads", *Size._fields, "operator", "mode", "contender")
SIZE = Size(100, 512, 3, 1024, 1)
EXACT = "divergence, exact"
VALUE, GRADIENT = MODES = ("value", "value+gradient")
OURS = {
    "fastssm torch": {"backend": "torch"},
    "fastssm cpu": {"backend": "cpu"},
    "fastssm cpu, bf16": {"backend": "cpu", "precision": "bf16"},  # rounded operands of products
}
CHUNKS = (256, 64, 16)  # samples per call; a rival with full matrices uses its fastest
CHECKED = 32  # samples compared with nested autograd in float64
TOLERANCE = {"float32": 1e-3, "bf16": 3e-2}  # maximum relative error
TARGET = 3.0
Call = Callable[[], Answer]


@dataclass(frozen=True)
class Job:
    """The work of one process."""

    operator: str
    mode: str
    threads: int
    budget_s: float
    rounds: int
    size: tuple[int, ...]


class Clocked:
    """A call that records the processor time of all threads, in milliseconds."""

    def __init__(self, call: Call) -> None:
        self.call, self.cpu_ms = call, list[float]()

    def __call__(self) -> Answer:
        """Run the call and record its time."""
        before = time.process_time()
        answer = self.call()
        self.cpu_ms.append(1e3 * (time.process_time() - before))
        return answer


def step(method: Method, p: Problem, mode: str, chunk: int) -> Call:
    """Return the call to time: values of all samples in chunks, and the gradient of a weighted sum."""
    parameters = list(p.net.parameters())
    weights = torch.linspace(1, 2, len(p.x), dtype=p.x.dtype)

    def call() -> Answer:
        values, total = [], [torch.zeros_like(t) for t in parameters] if mode == GRADIENT else []
        for start in range(0, len(p.x), chunk):
            part = slice(start, start + chunk)
            with torch.set_grad_enabled(mode == GRADIENT):
                value = method(p, p.x[part], p.v[:, part])
            values.append(value.detach())
            if mode == GRADIENT:
                loss = (value * (weights[part] if value.ndim == 1 else weights[part, None])).sum()
                found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                total = found if not values[1:] else [a + b for a, b in zip(total, found, strict=True)]
        return Answer(torch.cat(values), tuple(total))

    p.net.requires_grad_(mode == GRADIENT)
    return call


def methods(name: str, mode: str) -> dict[str, Method]:
    """Return all methods for an operator; alternatives of fastssm only for the value."""
    operator = OPERATORS[name]
    ours = {name: partial(operator.ours, **options) for name, options in OURS.items()}
    return operator.rivals | ours | (operator.tried if mode == VALUE else {})


def few(p: Problem, dtype: torch.dtype) -> Problem:
    """Return the first samples of a problem in a dtype."""
    return p._replace(net=deepcopy(p.net).to(dtype), x=p.x[:CHECKED].to(dtype), v=p.v[:, :CHECKED].to(dtype))


def error_of(name: str, method: Method, p: Problem, mode: str, size: int) -> float:
    """Return the maximum relative error on a few samples against nested autograd in float64."""
    found = step(method, few(p, p.x.dtype), mode, size)()
    exact = step(OPERATORS[name].truth, few(p, torch.float64), GRADIENT, CHECKED)()
    return relative_error(found, exact)


def best_chunk(method: Method, p: Problem, mode: str) -> int:
    """Return the number of samples per call at which a rival has the least time per sample."""
    parts = {chunk: p._replace(x=p.x[:chunk], v=p.v[:, :chunk]) for chunk in CHUNKS}
    calls = {str(chunk): step(method, part, mode, chunk) for chunk, part in parts.items()}
    times = interleaved(calls, 0.0, fewest=1)
    return min(CHUNKS, key=lambda chunk: times[str(chunk)].min_ms / len(parts[chunk].x))


def timings(job: Job) -> Iterator[Row]:
    """Yield one row per method: checked, timed interleaved, and measured for memory."""
    operator = OPERATORS[job.operator]
    p = problem(Case(Size(*job.size), kind=operator.kind), LOSSES[0])
    p.net.requires_grad_(job.mode == GRADIENT)
    rows: dict[str, Row] = {}
    calls: dict[str, Clocked] = {}
    for name, method in methods(job.operator, job.mode).items():
        rows[name] = {"operator": job.operator, "mode": job.mode, "contender": name, "status": "ok"}
        try:
            error = error_of(job.operator, method, p, job.mode, CHECKED)
            whole = name.startswith("fastssm") or not operator.exact
            chunk = len(p.x) if whole else best_chunk(method, p, job.mode)
        except Exception as problem_met:
            rows[name] |= {"status": reason(problem_met)}
            continue
        rows[name] |= {"max_rel_error": error, "chunk": chunk}
        bound = TOLERANCE["bf16" if "bf16" in name else "float32"]
        if error <= bound:
            calls[name] = Clocked(step(method, p, job.mode, chunk))
        else:
            rows[name] |= {"status": f"wrong: error above {bound:g}"}
    for name, timing in interleaved(calls, job.budget_s, job.rounds).items():
        rows[name] |= timing._asdict() | {"cpu_ms": min(calls[name].cpu_ms[1:])} | {"peak_MiB": peak_mib(calls[name])}
    yield from compared(list(rows.values()))


def compared(rows: Sequence[Row]) -> list[Row]:
    """Add the time ratio to the fastest rival, and the target, to rows of fastssm."""
    rivals = [row for row in rows if not row["contender"].startswith("fastssm") and "min_ms" in row]
    best = min(rivals, key=lambda row: row["min_ms"], default=None)
    for row in rows:
        if row["contender"].startswith("fastssm") and "min_ms" in row and best:
            row |= {"ratio_to_best_rival": row["min_ms"] / best["min_ms"], "best_rival": best["contender"]}
        if row["contender"] == "fastssm cpu" and row["mode"] == VALUE:
            row["target"] = f"x_best_rival>={TARGET:g}"
    return list(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    options = argparse.ArgumentParser(prog="python -m bench.operators", description=__doc__)
    options.add_argument("--operators", nargs="+", default=tuple(OPERATORS), choices=tuple(OPERATORS), metavar="NAME")
    options.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    options.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    options.add_argument("--size", type=Size.parse, default=SIZE, metavar="d,H,L,B,M")
    options.add_argument("--budget", type=float, default=3.0, help="seconds of interleaved rounds per job")
    options.add_argument("--rounds", type=int, default=3, help="minimum number of rounds")
    options.add_argument("--quick", action="store_true", help="smoke run: a small size, one thread; writes nothing")
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--job", help=argparse.SUPPRESS)
    chosen = options.parse_args(argv)
    if chosen.job:
        jobs.work(Job(**json.loads(chosen.job)), timings)
        return
    if chosen.quick:
        chosen.size, chosen.threads, chosen.budget = Size(4, 16, 3, 32, 1), (1,), 0.2
    kept = [] if chosen.quick else read(chosen.out)
    for name in chosen.operators:
        for mode in chosen.modes:
            for threads in chosen.threads:
                kept = measured(Job(name, mode, threads, chosen.budget, chosen.rounds, tuple(chosen.size)), kept)
                if not chosen.quick:
                    write(kept, chosen.out, COLUMNS)


def measured(job: Job, kept: list[Row]) -> list[Row]:
    """Run a job, print its rows, and return the kept rows updated with them."""
    size = Size(*job.size)
    shown = size._replace(M=size.d) if OPERATORS[job.operator].exact else size
    case = Case(shown, kind=OPERATORS[job.operator].kind)
    shared = environment() | case.columns() | {"threads": job.threads}
    fresh = [shared | row for row in jobs.run("bench.operators", job)]
    for row in fresh:
        wall, cpu = row.get("min_ms", float("nan")), row.get("cpu_ms", float("nan"))
        ratio = 1 / row.get("ratio_to_best_rival", float("nan"))
        print(f"{job.operator:27} {job.mode:15} {job.threads} {row['contender']:24} {wall:9.2f} ms {cpu:9.2f} cpu "
              f"{ratio:5.2f}x {row.get('peak_MiB') or 0.0:8.1f} MiB chunk {row.get('chunk', '')}  {row['status']}",
              flush=True)  # fmt: skip
    return jobs.replaced(kept, fresh, KEY)


def markdown(rows: Sequence[Row], which: str) -> Iterator[str]:
    """Yield the table of a mode, or, for "tried", of all methods for the exact divergence."""
    if which == "tried":
        yield from tried_table(rows)
        return
    yield from header(["operator", "threads", "fastest rival", "its MiB", *OURS, "MiB of fastssm cpu"])
    rows = [row for row in rows if row["mode"] == which]
    for operator, threads in dict.fromkeys((row["operator"], row["threads"]) for row in rows):
        found = {row["contender"]: row for row in rows if (row["operator"], row["threads"]) == (operator, threads)}
        ours = found["fastssm cpu"]
        rival = found[ours["best_rival"]]
        speeds = [faster(found[name]) if name in found else "" for name in OURS]
        yield line([operator, threads, rival["contender"], peak(rival), *speeds, peak(ours)])


def tried_table(rows: Sequence[Row]) -> Iterator[str]:
    yield from header(["exact divergence, one thread", "ms", "faster than the fastest rival", "MiB"])
    for row in rows:
        if (row["operator"], row["mode"], row["threads"]) == (EXACT, VALUE, "1"):
            yield line([row["contender"], f"{float(row['min_ms']):.0f}", faster(row), peak(row)])


def faster(row: Row) -> str:
    return f"{1 / float(row['ratio_to_best_rival']):.2f}×" if row["ratio_to_best_rival"] else ""


def peak(row: Row) -> str:
    return f"{float(row['peak_MiB']):.0f}"


if __name__ == "__main__":
    main()
