"""Write bench/results/score.csv: ``python -m bench.score`` from the root of the repository.

Denoising score matching with different implementations of a differentiable score, interleaved in one process per
network, size and number of threads.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import jobs
from bench.harness import RESULTS, TIMES, WHO, environment, read, write
from bench.measure import Row, interleaved, peak_mib
from bench.problems import LOSSES, Answer, Case, Problem, Size, problem, relative_error
from bench.rivals import DERIVATIVES, linears, trainable
from bench.steps import BACKWARD, MODES, torch_step
from bench.table import cell, header, line
from bench.targets import size_of
from bench.worker import reason

OUT = RESULTS / "score.csv"
FILES = {"AMD Zen 5, AVX-512": OUT, "Intel Xeon with AMX": RESULTS / "score_emerald_rapids.csv"}  # by processor
SIGMA = 0.3
SIZES = (Size(2, 64, 2, 128, 1), Size(2, 128, 3, 512, 1), Size(10, 256, 3, 1024, 1), Size(100, 512, 3, 1024, 1))
KINDS = ("energy", "score")
COLUMNS = (
    *(*WHO, "threads", "dtype", "kind", "activation", *Size._fields, "loss", "mode", "contender", *TIMES),
    *("ratio_to_autograd", "ratio_to_best_rival", "best_rival", "peak_MiB", "max_rel_error", "status"),
)
KEY = ("threads", "kind", *Size._fields, "mode", "contender")
TOLERANCE = 1e-3
Method = Callable[[Problem], Tensor]  # computes the loss; the noise is the direction of the problem


@dataclass(frozen=True)
class Job:
    """The work of one process."""

    kind: str
    size: tuple[int, ...]
    threads: int
    budget_s: float


def mismatch(p: Problem, score: Tensor) -> Tensor:
    """Return the loss `mean_b |s + z / sigma|^2 / 2`."""
    return 0.5 * (score + p.v[0] / SIGMA).square().sum(1).mean()


def noisy(p: Problem) -> Tensor:
    return p.x + SIGMA * p.v[0]


def autograd(p: Problem) -> Tensor:
    """Double backward for an energy; one call for a score network."""
    point = noisy(p)
    if p.case.kind == "score":
        return mismatch(p, p.net(point))
    energy = p.net(point.requires_grad_()).sum()
    return mismatch(p, -torch.autograd.grad(energy, point, create_graph=trainable(p.net))[0])


def chain(p: Problem) -> Tensor:
    """The explicit gradient of an energy, `g <- (f' g) W`, which autograd differentiates once."""
    if p.case.kind != "energy":
        raise NotImplementedError("the score of a score network is its output")
    activation, slopes, h = DERIVATIVES[p.case.activation], [], noisy(p)
    *hidden, readout = linears(p.net)
    for layer in hidden:
        h, slope, _ = activation(nn.functional.linear(h, layer.weight, layer.bias))
        slopes.append(slope)
    g = readout.weight
    for layer, slope in zip(reversed(hidden), reversed(slopes), strict=True):
        g = (slope * g) @ layer.weight
    return mismatch(p, -g)


def ours(p: Problem, backend: str) -> Tensor:
    import fastssm

    return fastssm.denoising_loss(p.net, p.x, sigma=SIGMA, noise=p.v[0], backend=backend)


def methods() -> dict[str, Method]:
    """Return all methods by name. `torch.compile` has no second derivatives, so it gets the explicit gradient."""
    return {
        "autograd": autograd,
        "written out": chain,
        "written out + compile": torch.compile(chain, dynamic=False),
        "fastssm reference": partial(ours, backend="reference"),
        "fastssm torch": partial(ours, backend="torch"),
        "fastssm cpu": partial(ours, backend="cpu"),
    }


def exact(p: Problem) -> Answer:
    """Return the answer by nested autograd in float64."""
    wide = p._replace(net=deepcopy(p.net).double(), x=p.x.double(), v=p.v.double())
    return Answer(*torch_step(wide, BACKWARD, partial(autograd, wide)).call())


def timings(job: Job) -> Iterator[Row]:
    """Yield one row per method and mode: checked, timed interleaved, and measured for memory."""
    p = problem(Case(Size(*job.size), kind=job.kind), LOSSES[0])
    p = p._replace(v=torch.randn(1, *p.x.shape, generator=torch.Generator().manual_seed(1)))
    answer = exact(p)
    for mode in MODES:
        torch.compiler.reset()
        rows: dict[str, Row] = {}
        calls: dict[str, Callable[[], object]] = {}
        for name, method in methods().items():
            rows[name] = {"loss": "denoising", "mode": mode, "contender": name, "status": "ok"}
            step = torch_step(p, mode, partial(method, p), grad_mode=name == "autograd" and job.kind == "energy")
            try:
                error = relative_error(Answer(*step.call()), answer)
            except Exception as problem_met:
                rows[name] |= {"status": reason(problem_met)}
                continue
            rows[name] |= {"max_rel_error": error}
            if error <= TOLERANCE:
                calls[name] = step.call
            else:
                rows[name] |= {"status": f"wrong: error above {TOLERANCE:g}"}
        for name, timing in interleaved(calls, job.budget_s).items():
            rows[name] |= timing._asdict() | {"peak_MiB": peak_mib(calls[name])}
        yield from compared(list(rows.values()))


def compared(rows: list[Row]) -> list[Row]:
    """Add the ratio to autograd to each row, and the ratio to the fastest rival to rows of fastssm."""
    timed = {row["contender"]: row["min_ms"] for row in rows if "min_ms" in row}
    rivals = {name: time for name, time in timed.items() if not name.startswith("fastssm")}
    best = min(rivals, key=lambda name: rivals[name])
    for row in (row for row in rows if "min_ms" in row):
        row["ratio_to_autograd"] = row["min_ms"] / timed["autograd"]
        if row["contender"] not in rivals:
            row |= {"ratio_to_best_rival": row["min_ms"] / rivals[best], "best_rival": best}
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    options = argparse.ArgumentParser(prog="python -m bench.score", description=__doc__)
    options.add_argument("--sizes", type=Size.parse, nargs="*", default=SIZES, metavar="d,H,L,B,1")
    options.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    options.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    options.add_argument("--budget", type=float, default=2.0, help="seconds of interleaved rounds per mode")
    options.add_argument(
        "--quick", action="store_true", help="smoke run: the smallest size, one thread; writes nothing"
    )
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--job", help=argparse.SUPPRESS)
    chosen = options.parse_args(argv)
    if chosen.job:
        jobs.work(Job(**json.loads(chosen.job)), timings)
        return
    if chosen.quick:
        chosen.sizes, chosen.threads, chosen.budget = SIZES[:1], (1,), 0.2
    kept = [] if chosen.quick else read(chosen.out)
    for kind in chosen.kinds:
        for size in chosen.sizes:
            for threads in chosen.threads:
                kept = measured(Job(kind, tuple(size), threads, chosen.budget), kept)
                if not chosen.quick:
                    write(kept, chosen.out, COLUMNS)


def measured(job: Job, kept: list[Row]) -> list[Row]:
    """Run a job, print its rows, and return the kept rows updated with them."""
    case = Case(Size(*job.size)._replace(M=0), kind=job.kind)  # no directions
    shared = environment() | case.columns() | {"threads": job.threads}
    fresh = [shared | row for row in jobs.run("bench.score", job)]
    for row in fresh:
        wall, ratio = row.get("min_ms", float("nan")), row.get("ratio_to_autograd", float("nan"))
        print(f"{job.kind} {case.size} {row['mode']:16} {job.threads} {row['contender']:28} {wall:9.3f} ms "
              f"{ratio:6.3f}x {row.get('peak_MiB') or 0.0:8.1f} MiB  {row['status']}", flush=True)  # fmt: skip
    return jobs.replaced(kept, fresh, KEY)


def markdown(rows: Sequence[Row], kind: str, mode: str, threads: str) -> Iterator[str]:
    """Yield one line per contender, one column per size: milliseconds (speed-up over autograd)."""
    mine = [row for row in rows if (row["kind"], row["mode"], row["threads"]) == (kind, mode, threads)]
    cells = {(row["contender"], size_of(row)): cell(row) for row in mine}
    sizes = list(dict.fromkeys(size for _, size in cells))
    yield from header(["d,H,L,B", *(",".join(map(str, size[:4])) for size in sizes)])
    for name in dict.fromkeys(name for name, _ in cells):
        yield line([name, *(cells[name, size] for size in sizes)])


if __name__ == "__main__":
    main()
