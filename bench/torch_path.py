"""Write bench/results/torch_path.csv: ``python -m bench.torch_path`` from the root of the repository."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence

from bench.contenders import RIVALS, TORCH_PATH
from bench.harness import RESULTS, TIMES, WHO, measure, memory_jobs, parser, read, settle, time_jobs
from bench.problems import GRID, Case, Size
from bench.worker import Job

__all__ = ["COLUMNS", "OUT", "main", "read"]

OUT = RESULTS / "torch_path.csv"
COLUMNS = (
    *(*WHO, "threads", "dtype", *Size._fields, "loss", "mode", "contender", *TIMES),
    *("ratio_to_autograd", "ratio_to_fastssm", "peak_MiB", "max_rel_error", "status"),
)
REFERENCES = ("autograd", "fastssm torch")
FOR_MEMORY = ("autograd", "Taylor", "fastssm torch")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser("torch_path", str(__doc__), OUT, (*RIVALS, *TORCH_PATH), budget=6.0)
    options.add_argument("--no-memory", action="store_true", help="skip the memory of large batches")
    chosen = settle(options.parse_args(argv), OUT)
    chosen.no_memory |= chosen.quick
    return chosen


def jobs(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Yield per problem a job with eager contenders and one with compiled ones, and then memory and overhead."""
    names = tuple(name for name in (*RIVALS, *TORCH_PATH) if name in (*chosen.contenders, *REFERENCES))
    for size in chosen.sizes:
        for threads in chosen.threads:
            yield from time_jobs(Job(Case(size), threads, names, chosen.budget, folder), REFERENCES[1:])
    if not chosen.no_memory:
        yield from memory_jobs(GRID[3], [name for name in FOR_MEMORY if name in chosen.contenders], folder)
    if REFERENCES[1] in chosen.contenders:
        yield Job(Case(GRID[0]), 1, REFERENCES[1:], chosen.budget / 2, folder, "overhead")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    chosen = arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        measure(jobs(chosen, folder), chosen, COLUMNS)
    if chosen.out:
        print(chosen.out)


if __name__ == "__main__":
    main()
