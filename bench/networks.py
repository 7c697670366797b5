"""Write bench/results/networks.csv: ``python -m bench.networks`` from the root of the repository.

Networks as people write them, with convolutions, normalisations and attention: sliced score matching by jets against
double backward and other packages, interleaved in one process per network and number of directions; peak memory.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from bench import jobs
from bench.harness import RESULTS, TIMES, WHO, environment, read, write_rows
from bench.measure import Row, interleaved, peak_mib
from bench.networks_contenders import (
    COMPILED,
    CONTENDERS,
    DOUBLE,
    JETS,
    TOLERANCE,
    TOLERANCE_64,
    Setting,
    error_in_float64,
    errors,
    exact,
    setting,
)
from bench.networks_nets import COARSE, CONV, FINE, MLP, NETWORKS, SMALL, TINY, TRANSFORMER, UNET, Network
from bench.networks_table import target
from bench.problems import EXACT_LOSS, LOSSES, Answer
from bench.steps import BACKWARD, Step
from bench.worker import reason

OUT = RESULTS / "networks.csv"
TIMED = (CONV, TRANSFORMER, UNET, MLP)
DIRECTIONS = (1, 8)
MEMORY_BATCHES = (256, 1024, 4096)
COLUMNS = (
    *(*WHO, "threads", "dtype", "network", "kind", "d", "parameters", "B", "M", "loss", "mode", "contender", *TIMES),
    *("ratio_to_double_backward", "ratio_to_best_rival", "best_rival", "peak_MiB", "max_rel_error", "gradient_error"),
    *("error_in_float64", "prepare_s", "target", "status"),
)
KEY = ("threads", "network", "B", "M", "loss", "mode", "contender")


@dataclass(frozen=True)
class Job:
    """The work of one process: to compile contenders or time them, or to measure the memory of one."""

    network: str
    M: int
    B: int
    losses: tuple[str, ...]
    contenders: tuple[str, ...]
    budget_s: float
    task: str = "time"
    tiny: bool = False
    threads: int = 1

    @property
    def of(self) -> Network:
        """The network."""
        return (TINY if self.tiny else NETWORKS)[self.network]


def checked(name: str, job: Job, s: Setting, answer: Answer) -> tuple[Step | None, Row]:
    """Prepare a contender, and compare its loss and every gradient with the answer; an eager one in float64 too."""
    row: Row = {}
    try:
        if name not in COMPILED:
            row["error_in_float64"] = error_in_float64(name, job.of, s.loss, job.M)
            if not row["error_in_float64"] <= TOLERANCE_64:
                return None, row | {"status": f"wrong: error above {TOLERANCE_64:g} in float64"}
        before = time.perf_counter()
        step = CONTENDERS[name](s)
        found = Answer(*step.call())
        row |= {"prepare_s": time.perf_counter() - before} | errors(found, answer)
    except Exception as problem_met:
        return None, row | {"status": cause(problem_met)}
    if not row["max_rel_error"] <= TOLERANCE:
        return None, row | {"status": f"wrong: error above {TOLERANCE:g}"}
    return step, row | {"status": "ok"}


def cause(error: Exception) -> str:
    """Return why a contender failed; of an error of Dynamo the part that names what it cannot trace."""
    _, found, context = str(error).partition("Developer debug context: ")
    return f"failed: {type(error).__name__}: {' '.join(context.split())[:160]}" if found else reason(error)


def timings(job: Job) -> Iterator[Row]:
    """Yield one row per loss and contender: checked, timed in turns, and measured for memory."""
    for loss in job.losses:
        torch.compiler.reset()
        s = setting(job.of, loss, job.M, job.B)
        answer = exact(s)
        rows: dict[str, Row] = {}
        calls: dict[str, Callable[[], object]] = {}
        for name in job.contenders:
            print(f"started: {name}", flush=True)
            step, row = checked(name, job, s, answer)
            rows[name] = {"loss": loss, "mode": BACKWARD, "contender": name} | row
            if step:
                calls[name] = step.call
        for name, timing in interleaved(calls, job.budget_s).items():
            rows[name] |= timing._asdict() | {"peak_MiB": peak_mib(calls[name])}
        yield from compared(list(rows.values()))


def memory(job: Job) -> Iterator[Row]:
    """Measure the peak memory of one call of a contender that has run on two samples only, and been right there."""
    (name,), (loss,) = job.contenders, job.losses
    few = setting(job.of, loss, job.M, min(2, job.B))
    step, row = checked(name, job, few, exact(few))
    if step:
        row["peak_MiB"] = peak_mib(CONTENDERS[name](setting(job.of, loss, job.M, job.B)).call)
    yield {"loss": loss, "mode": "memory", "contender": name} | row


def compilation(job: Job) -> Iterator[Row]:
    """Fill the cache of Inductor, so that nothing but a look-up remains of the compilation when times are taken."""
    for loss in job.losses:
        s = setting(job.of, loss, job.M, job.B)
        for name in (name for name in job.contenders if name in COMPILED):
            with suppress(Exception):  # it is reported when times are taken
                CONTENDERS[name](s).call()
    yield from ()


TASKS: dict[str, Callable[[Job], Iterator[Row]]] = {"compile": compilation, "time": timings, "memory": memory}


def compared(rows: list[Row]) -> list[Row]:
    """Add the ratio to double backward, and to rows of fastssm the ratio to the fastest rival."""
    timed = {row["contender"]: row["min_ms"] for row in rows if "min_ms" in row}
    rivals = {name: time for name, time in timed.items() if not name.startswith("fastssm")}
    for row in (row for row in rows if "min_ms" in row):
        if DOUBLE in timed:
            row["ratio_to_double_backward"] = row["min_ms"] / timed[DOUBLE]
        if row["contender"] not in rivals and rivals:
            best = min(rivals, key=lambda name: rivals[name])
            row |= {"ratio_to_best_rival": row["min_ms"] / rivals[best], "best_rival": best}
    return rows


def time_jobs(chosen: argparse.Namespace) -> Iterator[Job]:
    for name in chosen.networks:
        for M in chosen.directions:
            B = (TINY if chosen.smoke else NETWORKS)[name].B
            contenders = tuple(chosen.contenders)
            yield Job(name, M, B, LOSSES, contenders, chosen.budget, "time", chosen.smoke, chosen.threads)


def compile_jobs(chosen: argparse.Namespace) -> Iterator[Job]:
    """Yield a job per problem, to run side by side."""
    for job in time_jobs(chosen):
        yield from (replace(job, losses=(loss,), task="compile") for loss in job.losses)


def memory_jobs(chosen: argparse.Namespace) -> Iterator[Job]:
    """Yield one job per measurement, so that no call reuses memory of another."""
    batches = (4, 8) if chosen.smoke else MEMORY_BATCHES
    places = [(SMALL, 1, B, "SSM-VR") for B in batches]
    for name in (COARSE, FINE):
        network = (TINY if chosen.smoke else NETWORKS)[name]
        places.append((name, prod(network.shape), network.B, EXACT_LOSS))
    for name, M, B, loss in places:
        for contender in (name for name in (DOUBLE, JETS) if name in chosen.contenders):
            yield Job(name, M, B, (loss,), (contender,), 0.0, "memory", chosen.smoke, chosen.threads)


def run(job: Job) -> list[Row]:
    """Run a job in a process. What dies has rows that say so, and the others run again without it."""
    try:
        return jobs.run("bench.networks", job)
    except subprocess.CalledProcessError as died:
        death, lines = died, died.stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    began = [line.removeprefix("started: ") for line in lines if line.startswith("started: ")]
    lost, done = (began or list(job.contenders))[-1], {row["loss"] for row in rows}
    loss, *later = [loss for loss in job.losses if loss not in done]
    mode, status = "memory" if job.task == "memory" else BACKWARD, f"crashed: {death.returncode}"
    rows.append({"loss": loss, "mode": mode, "contender": lost, "status": status})
    others = tuple(name for name in job.contenders if name != lost)
    rows += run(replace(job, losses=(loss,), contenders=others)) if others else []
    return rows + (run(replace(job, losses=tuple(later))) if later else [])


def measured(job: Job, shared: Row) -> list[Row]:
    """Run a job, print its rows, and return them with all columns."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in job.of.build(False).parameters())
    shared = shared | {"threads": job.threads, "network": job.network, "kind": job.of.kind, "B": job.B, "M": job.M}
    shared |= {"d": prod(job.of.shape), "parameters": parameters}
    rows = [shared | row for row in (TASKS[job.task](job) if job.tiny else run(job))]
    for row in rows:
        row["target"] = "" if job.tiny else target(row)
        report(row)
    return rows


def report(row: Row) -> None:
    what = f"{row['network']:24} M={row['M']:<3} B={row['B']:<4} {row['loss']:6} {row['contender']:26}"
    wall, ratio = row.get("min_ms", float("nan")), row.get("ratio_to_double_backward", float("nan"))
    peak = row.get("peak_MiB") or 0.0
    print(f"{what} {wall:9.3f} ms {ratio:6.3f}x {peak:8.1f} MiB  {row['status']}", flush=True)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench.networks", description=__doc__)
    options.add_argument("--networks", nargs="*", default=TIMED, choices=TIMED, metavar="NAME")
    options.add_argument("--directions", type=int, nargs="+", default=DIRECTIONS)
    options.add_argument("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--budget", type=float, default=2.0, help="seconds of interleaved rounds per problem")
    options.add_argument("--parts", nargs="+", default=tuple(TASKS), choices=tuple(TASKS))
    options.add_argument("--update", action="store_true", help="keep the rows of --out that are not measured")
    options.add_argument(
        *("--smoke", "--quick"),
        action="store_true",
        help="seconds: tiny networks in this process, nothing compiled unless named, nothing written without --out",
    )
    options.add_argument("--out", type=Path, help=f"CSV file (default: {OUT.name}; with --smoke: none)")
    options.add_argument("--job", help=argparse.SUPPRESS)
    return options


def parsed(text: str) -> Job:
    fields = json.loads(text)
    return Job(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    chosen = parser().parse_args(argv)
    if chosen.job:
        job = parsed(chosen.job)
        jobs.work(job, TASKS[job.task])
        return
    if chosen.smoke:
        chosen.budget = 0.0
    if not chosen.contenders:
        chosen.contenders = tuple(name for name in CONTENDERS if not (chosen.smoke and name in COMPILED))
    if "compile" in chosen.parts and not chosen.smoke and set(COMPILED) & set(chosen.contenders):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, compile_jobs(chosen)))
    measure(chosen, chosen.out or (None if chosen.smoke else OUT))


def order(row: Row) -> tuple[int, ...]:
    """Return what the rows of the file are sorted by: times by network, memory by number of directions."""
    memory, M = row["mode"] == "memory", int(row["M"])
    network = M if memory else list(NETWORKS).index(row["network"])
    loss = [*LOSSES, EXACT_LOSS].index(row["loss"])
    return int(memory), network, M, loss, int(row["B"]), list(CONTENDERS).index(row["contender"])


def measure(chosen: argparse.Namespace, out: Path | None) -> None:
    """Run the chosen parts, and update the file after each process."""
    kept = read(out) if out and chosen.update else []
    parts, shared = {"time": time_jobs, "memory": memory_jobs}, environment()
    for part in (part for part in parts if part in chosen.parts):
        for job in parts[part](chosen):
            kept = jobs.replaced(kept, measured(job, shared), KEY)
            if out:
                write_rows(sorted(kept, key=order), out, COLUMNS)


if __name__ == "__main__":
    main()
