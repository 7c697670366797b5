"""Write bench/results/gpu_<device>.csv, the times of every contender on a GPU: ``python -m bench.gpu``.

Each row is written to disk before the next begins, the most informative rows first, so a run can stop at any time.
``--resume`` continues it. ``--device cpu`` tests the program without a GPU.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bench import gpu_rows, gpu_watch
from bench.gpu_clocks import CEILINGS, LostError, Runner, alive, ceiling, free, measure, reason
from bench.gpu_contenders import BRIDGES, CONTENDERS, exact, on, tf32
from bench.gpu_prepare import prepare
from bench.gpu_rows import COLUMNS
from bench.harness import RESULTS
from bench.measure import Row
from bench.problems import GRID, LOSSES, Answer, Case, Problem, Size, problem

__all__ = ["COLUMNS", "main"]

LARGEST = Size(784, 4096, 4, 8192, 1)
LATER = 4.5  # rank offset of SSM-VR, which starts after SSM of the lower ranks
RESUME = "keep the rows of --out with status ok (or all rows), and measure the others"


class Batch(NamedTuple):
    """Contenders that are timed in the same rounds."""

    size: Size
    loss: str
    names: tuple[str, ...]


def batches(sizes: Sequence[Size], losses: Sequence[str], names: Sequence[str]) -> Iterator[Batch]:
    """Yield all batches, the most informative first, and compiled contenders after eager ones."""
    ranks = {(CONTENDERS[name].rank + LATER * (loss != LOSSES[0]), loss) for name in names for loss in losses}
    for rank, loss in sorted(ranks):
        for place, size in enumerate(sizes):
            group = [
                name
                for name in CONTENDERS
                if name in names
                and CONTENDERS[name].rank + LATER * (loss != LOSSES[0]) == rank
                and loss in CONTENDERS[name].losses
                and place < CONTENDERS[name].sizes
            ]
            if group:
                yield Batch(size, loss, tuple(group))


class Bench:
    """A benchmark run with its options, its file and its time limit."""

    def __init__(self, chosen: argparse.Namespace, say: Callable[[str], object]) -> None:
        self.chosen, self.say, self.device = chosen, say, chosen.device
        self.ends = chosen.ends or time.time() + (chosen.limit or float("inf"))
        self.log, self.facts = gpu_rows.Log(chosen.out, chosen.resume), gpu_rows.facts(chosen.device)

    def over(self) -> bool:
        """Return whether the time is up."""
        return time.time() > self.ends

    def write(self, row: Row) -> None:
        """Write and print a row."""
        whole = gpu_rows.derived(self.facts | row, self.log.gemm())
        self.log.write(whole)
        self.say(gpu_rows.shown(whole))

    def run(self) -> None:
        """Measure the ceilings, and then batches until the time is up."""
        for name in CEILINGS:
            if name in self.chosen.contenders and not self.log.has({"contender": name}) and not self.over():
                self.ceiling(name)
        names = [name for name in CONTENDERS if name in self.chosen.contenders]
        for batch in batches(self.chosen.sizes, self.chosen.losses, names):
            key = batch.size._asdict() | {"loss": batch.loss}
            left = tuple(name for name in batch.names if not self.log.has(key | {"contender": name}))
            if left and not self.over():
                self.batch(batch._replace(names=left))

    def ceiling(self, name: str) -> None:
        """Measure a peak rate of the device."""
        try:
            row = ceiling(name, self.device, tf32)
        except Exception as problem_met:
            row = {"status": reason(problem_met)}
        self.write(row | {"contender": name, "precision": "high" if name == "GEMM tf32" else ""})
        alive(self.device)

    def batch(self, batch: Batch) -> None:
        """Prepare the contenders of a batch and the bridge, time them together, and write one row per contender."""
        group = Group(on(self.device, problem(Case(batch.size), batch.loss)))
        for name in batch.names:
            if not self.over():
                self.prepare(name, group)
        bridge = self.bridge(group) if group.ready else ""
        seconds = min(self.chosen.budget * min(1.0, len(group.ready) / 4), self.ends - time.time())
        times = measure(group.ready, seconds, self.device, on_start=lambda name: self.begin(name, group))
        beside = {f"bridge_{clock}": times[bridge].get(clock) for clock in ("event_us", "wall_us")} if bridge else {}
        for name, row in group.rows.items():
            self.write(group.key(name) | row | times[name] | {"bridge": bridge} | beside)
        group.ready.clear()
        torch.compiler.reset()
        gc.collect()
        alive(self.device)
        free(self.device)

    def begin(self, name: str, group: "Group") -> None:
        """Record the running contender, in case this process dies."""
        self.log.begin(self.facts | group.key(name))

    def prepare(self, name: str, group: "Group") -> None:
        """Prepare a contender, or write a row with the reason why it is not timed."""
        self.begin(name, group)
        try:
            runner, row = prepare(CONTENDERS[name], group.problem, group.exact)
        except Exception as problem_met:
            runner, row = None, {"status": reason(problem_met)}
        if runner is not None:
            group.ready[name], group.rows[name] = runner, row
            return
        self.write(group.key(name) | row)
        gc.collect()
        alive(self.device)

    def bridge(self, group: "Group") -> str:
        """Add fastssm to every batch as a common reference; return its contender, or "" if it cannot run."""
        for name in BRIDGES:
            if name in group.ready:
                return name
            if self.log.status(group.key(name)) in ("", "ok"):
                self.begin(name, group)
                try:
                    runner = prepare(CONTENDERS[name], group.problem, group.exact).runner
                except Exception:
                    runner = None
                    alive(self.device)
                if runner is not None:
                    group.ready[name] = runner
                    return name
        return ""


class Group:
    """The prepared contenders of a batch."""

    def __init__(self, p: Problem) -> None:
        self.problem, self.ready, self.rows = p, dict[str, Runner](), dict[str, Row]()
        self.answer: Answer | None = None

    def exact(self, p: Problem) -> Answer:
        """Return the exact answer to the problem, computed once."""
        if self.answer is None:
            self.answer = exact(p)
        return self.answer

    def key(self, name: str) -> Row:
        """Return the key of the row of a contender."""
        return self.problem.case.size._asdict() | {"loss": self.problem.loss, "contender": name}


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Time every contender on a GPU.")
    names = (*CEILINGS, *CONTENDERS)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda", 0))
    parser.add_argument("--sizes", type=Size.parse, nargs="*", default=(*GRID, LARGEST), metavar="d,H,L,B,M")
    parser.add_argument("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    parser.add_argument("--contenders", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of rounds for four or more contenders")
    parser.add_argument("--limit", type=float, help="seconds after which no new measurement starts")
    parser.add_argument("--out", type=Path, help="CSV file (default: named after the device)")
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)  # --limit as a time of the clock
    parser.add_argument("--folder", type=Path, default=RESULTS, help="folder of the CSV file")
    parser.add_argument("--resume", nargs="?", const="ok", default="", choices=("", "ok", "all"), help=RESUME)
    parser.add_argument(
        "--patience", type=float, default=90.0, help="seconds without output after which a process is killed"
    )
    parser.add_argument("--alone", action="store_true", help="run in this process, without supervision")
    return parser.parse_args(arguments)


def print_now(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str] | None = None, say: Callable[[str], object] = print_now) -> int:
    """Run the benchmark; on a GPU, in a supervised process that is restarted if it dies."""
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = options(arguments)
    if chosen.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.gpu needs a GPU, but torch finds none; pass --device cpu to test the program.")
    chosen.out = chosen.out or gpu_rows.file_of(chosen.device, chosen.folder)
    if chosen.device.type == "cuda" and not chosen.alone:
        return gpu_watch.supervise([sys.executable, "-m", "bench.gpu", *arguments], chosen, say)
    if chosen.device.type == "cuda":
        chosen.device = torch.device("cuda", chosen.device.index or 0)
        torch.cuda.set_device(chosen.device)
    try:
        Bench(chosen, say).run()
    except LostError as problem_met:
        say(f"the device is lost ({problem_met})")
        return gpu_watch.LOST
    say(f"wrote {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
