"""Write bench/results/gpu_<device>.csv, for the first person with a GPU: ``python -m bench.gpu``.

``--device cpu`` tries the program itself where there is none. No file of it has been measured yet.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from bench.contenders import RIVALS, TORCH_PATH, Contender
from bench.harness import RESULTS, TIMES, environment
from bench.measure import Row, interleaved
from bench.ours import fastssm
from bench.problems import GRID, LOSSES, Case, Problem, Size, exact_answer, gradient_error, problem, relative_error
from bench.steps import BACKWARD, Step

COLUMNS = (
    *("commit", "date", "machine", "device", "capability", "torch", "dtype", "kernels", *Size._fields, "loss"),
    *("contender", *TIMES, "ratio_to_autograd", "max_rel_error", "gradient_error", "status"),
)
FEW = ("autograd", "func.vjp + compile", "Taylor", "Taylor + compile", "FD-SSM", "FD-SSM + compile")
CUDA = {
    "fastssm cuda": Contender(fastssm("cuda")),
    "fastssm cuda tf32": Contender(fastssm("cuda", precision="tf32"), tolerance=0.02),
    "fastssm cuda bf16": Contender(fastssm("cuda", precision="bf16"), tolerance=0.1),
}
CONTENDERS = {name: RIVALS[name] for name in FEW} | {"fastssm torch": TORCH_PATH["fastssm torch"]} | CUDA
CALLS = 10  # between two looks at the clock: a training loop does not wait for each


def on(device: torch.device, p: Problem) -> Problem:
    """Return a problem on a device."""
    return p._replace(net=p.net.to(device), x=p.x.to(device), v=p.v.to(device))


def wait(device: torch.device) -> None:
    """Wait until all that a device was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def repeated(step: Step, device: torch.device) -> None:
    """Make some calls, and wait for them."""
    for _ in range(CALLS):
        step.call()
    wait(device)


def checked(name: str, p: Problem) -> tuple[Step | None, Row]:
    """Prepare a contender and compare it with nested autograd in float64; say what is wrong, if anything is."""
    contender = CONTENDERS[name]
    try:
        step = contender.prepare(p, BACKWARD)
        assert step.read is not None
        found = step.read(step.call())
        exact = exact_answer(p)
    except Exception as problem_met:
        return None, {"status": f"{type(problem_met).__name__}: {str(problem_met).splitlines()[0][:200]}"}
    row: Row = {"max_rel_error": relative_error(found, exact), "gradient_error": gradient_error(found, exact)}
    if not row["max_rel_error"] <= contender.tolerance:
        return None, row | {"status": f"wrong: error above {contender.tolerance:g}"}
    return step, row | {"status": "ok"}


def rows(size: Size, loss: str, names: tuple[str, ...], device: torch.device, budget: float) -> Iterator[Row]:
    """Yield a row for each contender on one problem, with its time if it is right."""
    p = on(device, problem(Case(size), loss))
    found = {name: checked(name, p) for name in names}
    calls = {name: partial(repeated, step, device) for name, (step, _) in found.items() if step is not None}
    times = interleaved(calls, budget)
    base = times["autograd"].min_ms if "autograd" in times else None
    for name, (_, row) in found.items():
        row |= size._asdict() | {"loss": loss, "contender": name}
        if name in times:
            timing = times[name]
            row |= {"min_ms": timing.min_ms / CALLS, "median_ms": timing.median_ms / CALLS}
            row |= {"repeats": timing.repeats * CALLS, "ratio_to_autograd": base and timing.min_ms / base}
        yield row


def where(device: torch.device) -> Row:
    """Return what is the same in every row of a run."""
    from fastssm import cuda

    facts = environment() | {"kernels": cuda.status()}
    if device.type != "cuda":
        return facts | {"device": str(device)}
    return facts | {"device": torch.cuda.get_device_name(device), "capability": cuda.capability(device)}


def write(out: Path, found: list[Row]) -> None:
    """Write the file."""
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in found:
            writer.writerow({k: f"{a:.4g}" if isinstance(a, float) else a for k, a in row.items() if k in COLUMNS})


def file_of(device: torch.device) -> Path:
    """Return the file for a device, by its name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return RESULTS / f"gpu_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}.csv"


def main(arguments: list[str] | None = None, say: Callable[[str], object] = print) -> int:
    """Measure, print as it goes, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Time every contender on a GPU.")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda", 0))
    parser.add_argument("--sizes", type=Size.parse, nargs="*", default=GRID, metavar="d,H,L,B,M")
    parser.add_argument("--contenders", nargs="+", default=tuple(CONTENDERS), choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each size and loss")
    parser.add_argument("--out", type=Path, help="CSV file (default: by the name of the device)")
    chosen = parser.parse_args(arguments)
    if chosen.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.gpu needs a GPU that torch sees; --device cpu tries the program itself.")
    facts, every = where(chosen.device), []
    for size in chosen.sizes:
        for loss in LOSSES:
            for row in rows(size, loss, tuple(chosen.contenders), chosen.device, chosen.budget):
                every.append(facts | row)
                say(f"{size} {loss:7} {row['contender']:20} {row.get('min_ms', '')!s:.8} ms  {row['status']}")
            torch.compiler.reset()
    out = chosen.out or file_of(chosen.device)
    write(out, every)
    say(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
