"""Write bench/results/scaling.csv: training steps on 1 and 2 processes, and predicted ones on up to 1,024 GPUs.

Run ``python -m bench.scaling`` on a machine without other load. Each process has one thread and its own batch (weak
scaling), and `DistributedDataParallel` averages gradients by gloo. ``--only model`` keeps the measured rows.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench import cuda_model
from bench.harness import RESULTS, ROOT, environment, read, write_rows
from bench.measure import Row
from bench.problems import GRID, Size
from bench.table import header, line

OUT = RESULTS / "scaling.csv"
COLUMNS = (
    *("part", *Size._fields, "processes", "threads", "device", "backend", "compute_us", "all_reduce_us", "step_us"),
    *("efficiency", "rounds", "steps_per_round", "seed", "status", "commit", "date", "machine", "torch", "command"),
)
RANKS, ROUNDS = (1, 2), 7
STEPS = dict(zip(GRID[:4], (20, 20, 5, 2), strict=True))  # of a round
GPUS = (1, 8, 64, 256, 1024)
PER_NODE = 8
INSIDE, BETWEEN = 450e9, 50e9  # bytes per second of a GPU: NVLink 4 one way, and a 400 Gb/s port
HOP_US = {"inside": 2.0, "between": 5.0}  # of a message, assumed
CALL_US = 20.0  # to start a collective, assumed


def step_us(size: Size, world: int) -> float:
    """Return the median time of a step on some processes; raise if one of them fails."""
    with tempfile.TemporaryDirectory() as folder:
        worker = [sys.executable, "-m", "bench.scaling_worker"]
        rest = [f"{folder}/store", str(size), str(STEPS[size]), str(ROUNDS), f"{folder}/times"]
        running = [subprocess.Popen([*worker, str(rank), str(world), *rest], cwd=ROOT) for rank in range(world)]
        if failed := [process.args for process in running if process.wait()]:
            raise RuntimeError(f"a process failed: {failed}")
        return 1e6 * statistics.median(torch.load(f"{folder}/times"))


def measured(sizes: Sequence[Size]) -> Iterator[Row]:
    """Yield a row for each size and number of processes."""
    for size in sizes:
        alone = math.nan
        for world in RANKS:
            step = step_us(size, world)
            alone = step if world == 1 else alone
            row: Row = {"part": "weak", **size._asdict(), "processes": world, "threads": 1, "device": "CPU"}
            row |= {"backend": "gloo" if world > 1 else "", "step_us": step, "efficiency": alone / step}
            yield row | {"rounds": ROUNDS, "steps_per_round": STEPS[size], "seed": "rank", "status": "measured"}


def all_reduce_us(size_bytes: float, gpus: int) -> float:
    """Return the time to average gradients, by a ring inside a node and then between the nodes, one part a GPU."""
    if gpus == 1:
        return 0.0
    inside, nodes = min(gpus, PER_NODE), -(-gpus // PER_NODE)
    within = 2 * (inside - 1) / inside * size_bytes / INSIDE
    across = 2 * (nodes - 1) / nodes * size_bytes / inside / BETWEEN
    hops = 2 * (inside - 1) * HOP_US["inside"] + 2 * math.ceil(math.log2(nodes)) * HOP_US["between"]
    return CALL_US + 1e6 * (within + across) + hops


def predicted() -> Iterator[Row]:
    """Yield a row for each size and number of GPUs: compute of cuda_model.csv, and the all-reduce after it."""
    for row in read(cuda_model.OUT):
        if (row["device"], row["contender"]) != ("H100", cuda_model.OURS):
            continue
        size = Size(*(int(row[letter]) for letter in Size._fields))
        compute = max(float(row["gpu_us"]), float(row["host_us"]))
        graphed = float(row["gpu_us"])
        for gpus in GPUS:
            reduction = all_reduce_us(4.0 * cuda_model.parameters(size), gpus)
            for backend, alone in (("nccl, eager", compute), ("nccl, no host", graphed)):
                each = {"processes": gpus, "device": "H100", "backend": backend, "compute_us": alone}
                each |= {"all_reduce_us": reduction, "step_us": alone + reduction, "status": "predicted"}
                yield {"part": "model", **size._asdict(), **each, "efficiency": alone / (alone + reduction)}


def weak_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per size: a step on one process and on two, and the efficiency, if there are rows."""
    mine = [row for row in rows if row["part"] == "weak"]
    if not mine:
        yield "Not measured yet. `python -m bench.scaling` measures it, on a machine without other load."
        return
    yield from header(["d,H,L,B,M", *(f"{n} process{'es' * (n > 1)}, ms" for n in RANKS), "efficiency"])
    for key in dict.fromkeys(map(cuda_model.cuda_table.size_of, mine)):
        its = [row for row in mine if cuda_model.cuda_table.size_of(row) == key]
        cells = [f"{float(row['step_us']) / 1000:.3g}" for row in its]
        yield line([str(key), *cells, f"{100 * float(its[-1]['efficiency']):.0f} %"])


def model_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per size: compute without the host, then for each number of GPUs the all-reduce and efficiency."""
    mine = [row for row in rows if row["part"] == "model" and row["backend"] == "nccl, no host"]
    yield from header(["d,H,L,B,M", "gradients, MB", "compute, µs", *(f"{n} GPUs" for n in GPUS[1:])])
    for key in dict.fromkeys(map(cuda_model.cuda_table.size_of, mine)):
        its = {int(row["processes"]): row for row in mine if cuda_model.cuda_table.size_of(row) == key}
        cells = (
            f"{float(its[n]['all_reduce_us']):.0f} µs, {100 * float(its[n]['efficiency']):.0f} %" for n in GPUS[1:]
        )
        size = 4e-6 * cuda_model.parameters(key)
        yield line([str(key), f"{size:.3g}", cuda_model.number(its[1]["compute_us"]), *cells])


TABLES = {"weak": weak_table, "model": model_table}


def main() -> None:
    """Measure and predict, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--only", choices=("weak", "model"), help="keep the other rows of the file")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    common = environment() | {"command": "bench.scaling"}
    parts = {"weak": lambda: measured(tuple(STEPS)), "model": predicted}
    kept = [row for row in read(OUT) if chosen.only and row["part"] != chosen.only]
    fresh = [common | row for part, make in parts.items() if chosen.only in (None, part) for row in make()]
    write_rows(sorted([*kept, *fresh], key=lambda row: list(parts).index(str(row["part"]))), chosen.out, COLUMNS)


if __name__ == "__main__":
    main()
