"""Write bench/results/cpu_zen5.csv: ``python -m bench.cpu`` from the root of the repository."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from bench import levels, training
from bench.contenders import CONTENDERS, GEMMS, NATIVE, PEAK, PEAK_BF16
from bench.harness import RESULTS, TIMES, WHO, measure, memory_jobs, parser, settle, time_jobs
from bench.problems import EXACT_LOSS, GRID, LOSSES, SMALLEST, Case, Size
from bench.steps import BACKWARD
from bench.targets import target
from bench.worker import Job
from fastssm.native import extension

OUT = RESULTS / "cpu_zen5.csv"  # what the documentation shows
HELD = {"avx2": RESULTS / "cpu_zen5_avx2.csv"}  # the same processor held to a level
SHOWN = {  # files that the documentation shows besides
    **HELD,
    "intel": RESULTS / "cpu_emerald_rapids.csv",
    "intel busy": RESULTS / "busy_emerald_rapids.csv",
    "intel avx2": RESULTS / "cpu_emerald_rapids_avx2.csv",
}
COLUMNS = (
    *(
        *WHO,
        "jax",
        "level",
        "threads",
        "dtype",
        "kind",
        "activation",
        *Size._fields,
        "loss",
        "mode",
        "contender",
        *TIMES,
    ),
    *("ratio_to_autograd", "ratio_to_fastssm", "ratio_to_best_rival", "best_rival", "gflops", "fraction_of_peak"),
    *("peak_MiB", "max_rel_error", "gradient_error", "target", "status"),
)
REFERENCES = ("autograd", "fastssm torch", "fastssm cpu", PEAK)
FEW = ("Taylor", "Taylor + compile", "JAX Taylor", *NATIVE, GEMMS, PEAK_BF16)
FOR_SCORES = ("jvp(grad)", "func.vjp + compile", *NATIVE, GEMMS, PEAK_BF16)
FOR_MEMORY = ("autograd", "fastssm torch", "fastssm cpu")
EXACT_SIZE = Size(10, 256, 3, 1024, 10)
SIGNS = Size(128, 1, 1, 1024, 1)  # 512 KiB of signs


def times(
    chosen: argparse.Namespace, folder: str, case: Case, names: Sequence[str], losses: tuple[str, ...] = LOSSES
) -> Iterator[Job]:
    """Yield jobs that time contenders on a case with each number of threads."""
    mine = tuple(n for n in CONTENDERS if n in REFERENCES or (n in names and n in chosen.contenders))
    for threads in chosen.threads:
        job = Job(case, threads, mine, chosen.budget, folder, losses=losses, modes=(BACKWARD,))
        yield from time_jobs(job, REFERENCES[1:])


def grid(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Time all contenders on energies with softplus."""
    for size in (*chosen.sizes, *(SMALLEST if tuple(chosen.sizes) == GRID else ())):
        yield from times(chosen, folder, Case(size), tuple(CONTENDERS))


def activations(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Time the fastest rivals on energies with tanh and SiLU."""
    for size in (size for size in (GRID[1], GRID[3]) if size in chosen.sizes):
        for name in ("tanh", "silu"):
            yield from times(chosen, folder, Case(size, name), FEW)


def exact(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Time the exact loss against a loop over autograd."""
    yield from times(chosen, folder, Case(EXACT_SIZE), (*FEW, "jvp(grad)"), (EXACT_LOSS,))


def score(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Time score networks."""
    for size in (size for size in (GRID[0], *GRID[3:]) if size in chosen.sizes):
        yield from times(chosen, folder, Case(size, kind="score"), FOR_SCORES)


def memory(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Measure the memory of large batches."""
    yield from memory_jobs(GRID[3], [name for name in FOR_MEMORY if name in chosen.contenders], folder)


def overhead(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Measure the overhead of a call over its arithmetic."""
    yield Job(Case(GRID[0]), 1, ("fastssm torch", "fastssm cpu"), chosen.budget, folder, "overhead")


def signs(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Time random signs."""
    names = ("fastssm cpu", "fastssm torch", "torch.randint", "randn.sign", "bernoulli_")
    yield Job(Case(SIGNS), 1, names, chosen.budget / 2, folder, "signs", losses=("",))


def train(chosen: argparse.Namespace, folder: str) -> Iterator[Job]:
    """Time whole commands."""
    names = tuple(name for name in training.BACKENDS if name in chosen.contenders)
    for command, case in training.COMMANDS.items():
        yield Job(case, 1, names, 0, folder, command, losses=LOSSES[1:])


PARTS: dict[str, Callable[[argparse.Namespace, str], Iterator[Job]]] = {
    part.__name__: part for part in (grid, activations, exact, score, memory, overhead, signs, train)
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser("cpu", str(__doc__), OUT, tuple(CONTENDERS), budget=3.0)
    options.add_argument("--level", default="", choices=tuple(levels.LEVELS), help="hold all contenders to this level")
    options.add_argument("--parts", nargs="+", default=tuple(PARTS), choices=PARTS, help="parts to measure")
    chosen = options.parse_args(argv)
    if chosen.quick and chosen.parts == tuple(PARTS):
        chosen.parts = ("grid", "activations", "score", "overhead", "signs")
    return settle(chosen, HELD.get(chosen.level, OUT))


def jax_version() -> str:
    try:
        return version("jax")
    except PackageNotFoundError:
        return ""


def level() -> str:
    """Return the instruction set of the engine's kernels."""
    module = extension.module()
    return "" if module is None else str(module.capability()["level"])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    chosen = arguments(argv)
    levels.hold(chosen.level)
    if chosen.level:
        chosen.contenders = tuple(name for name in chosen.contenders if "JAX" not in name)
    with tempfile.TemporaryDirectory() as folder:
        facts = {"jax": jax_version(), "level": level()}
        jobs = (job for part in chosen.parts for job in PARTS[part](chosen, folder))
        measure(jobs, chosen, COLUMNS, lambda row: {**facts, "target": target({**row, **facts})})
    if chosen.out:
        print(chosen.out)


if __name__ == "__main__":
    main()
