"""Writes the benchmark tables of the README and the documentation from the CSV files in bench/results/.

Run `python tools/fill_tables.py`. A table stands between two comments; the first says which, and with names after the
last bar, which contenders:

    <!-- table: forward+backward | SSM-VR | 1 -->              mode, loss, threads, from torch_path.csv
    <!-- table: forward+backward | SSM | 2 | autograd, fastssm torch -->
    <!-- table: memory -->
    <!-- table: cpu | forward+backward | SSM | 1 -->           the same from cpu_zen5.csv, of a softplus energy
    <!-- table: cpu | speed | SSM | 1 | kind=score -->         GFLOP/s, of rows with that in that column
    <!-- table: cpu | targets -->                              also: overhead, signs, train, figure
    <!-- table: cpu avx2 | targets -->                         of the same held to AVX2; `cpu intel`: of another
    <!-- table: score | energy | forward+backward | 1 -->  from score.csv: kind of network, mode, threads; then
                                                           a processor other than the first of score.FILES
    <!-- table: operators | value -->                      from operators.csv: value, value+gradient or tried; then
                                                           a processor, as for `score`
    <!-- table: networks | time | SSM -->                  from networks.csv: loss; also: memory, targets
    <!-- table: choice -->                                 what decides between jets and plain autograd, from choice.csv
    <!-- table: limits | parts | avx512 | SSM -->          the parts of a call of the CPU engine, from cpu_parts.csv
    <!-- table: limits | ways | avx512 | SSM -->           what would not make it faster, from cpu_attempts.csv
    <!-- table: attempts -->                               what makes jets fast, from networks_attempts.csv
    <!-- table: examples | truncated -->                   what examples/truncated.py prints, from examples.csv
    <!-- table: experiments | graphical | auc | domain, eta | weight | n=80 -->
                                                           from experiments_graphical.csv: the column of numbers, those
                                                           of rows and of columns; then column=value, to pick
    <!-- table: cuda | calls -->                               from cuda_static.csv; also: whole net, passes
    <!-- table: products | errors -->                          from cuda_products.csv; also: code, traffic, choices
    <!-- table: cuda model -->                             from cuda_model.csv
    <!-- table: dispatched -->                             from dispatched.csv
    <!-- table: scaling | weak -->                         from scaling.csv; also: model
    <!-- table: outliers -->                               from outliers.csv
    <!-- table: reading -->                                from tables.csv
    <!-- table: installs -->                               from installs.csv
    <!-- table: gallery -->                                the examples, their figures and times, from gallery.csv
    <!-- table: rules -->                                  the functions that jets know, from fastssm.jets.table
    <!-- table: summary | processors | SSM-VR -->          speed-ups by processor; also: kinds | SSM, missed
    <!-- table: gpu | time | gpu_nvidia_h200 | event | SSM --> from gpu_<device>.csv; also: checks, ceilings, kernels
    <!-- end -->
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import (  # noqa: E402
    choice,
    cpu,
    cpu_attempts,
    cuda_model,
    cuda_table,
    dispatched,
    examples,
    experiments,
    gallery,
    gpu_table,
    installs_table,
    networks,
    networks_attempts,
    networks_table,
    operators,
    outliers_table,
    scaling,
    score,
    summary,
    table,
    tables,
    torch_path,
)
from bench.harness import read  # noqa: E402
from bench.measure import Row  # noqa: E402
from tools import rules_table  # noqa: E402

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLE = re.compile(r"(?P<start><!-- table: (?P<which>[^>]+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL)
USUAL = {"kind": "energy", "activation": "softplus"}


def figure(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the link to what `python -m bench.plot` draws from the rows, if there are any."""
    if rows:
        seen = "The CPU engine: speed-up over autograd and share of the peak by network, and peak memory by batch"
        yield f"![{seen}](../figures/cpu.png)"


def file_of(files: Mapping[str, Path], processor: str = "") -> Path:
    """Return the file of a processor, by default the first."""
    return files[processor] if processor else next(iter(files.values()))


WHOLE: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "memory": lambda rows: table.memory_table([row for row in rows if row["mode"] == "memory"]),
    "targets": table.target_table,
    "overhead": table.overhead_table,
    "signs": table.sign_table,
    "train": table.training_table,
    "figure": figure,
}

# The other tables, by the first word of their comment; what follows the first bar are their arguments.
MADE: dict[str, Callable[..., Iterator[str]]] = {
    "rules": rules_table.markdown,
    "outliers": outliers_table.markdown,
    "reading": lambda: tables.markdown(read(tables.OUT)),
    "installs": lambda: installs_table.markdown(read(installs_table.OUT)),
    "operators": lambda mode, *of: operators.markdown(read(file_of(operators.FILES, *of)), mode),
    "score": lambda kind, mode, threads, *of: score.markdown(read(file_of(score.FILES, *of)), kind, mode, threads),
    "networks": lambda *which: networks_table.markdown(read(networks.OUT), *which),
    "choice": lambda: choice.markdown(read(choice.OUT)),
    "limits": cpu_attempts.markdown,
    "attempts": lambda: networks_attempts.markdown(read(networks_attempts.OUT)),
    "gallery": lambda: gallery.cards(read(gallery.OUT)),
    "examples": lambda name: examples.markdown(read(examples.OUT), name),
    "experiments": lambda name, *which: experiments.markdown(read(experiments.file_of(name)), *which),
    "cuda": lambda which: cuda_table.TABLES[which](read(cuda_table.OUT)),
    "products": lambda which: cuda_table.PRODUCT_TABLES[which](read(cuda_table.PRODUCTS)),
    "cuda model": lambda: cuda_model.markdown(read(cuda_model.OUT)),
    "dispatched": lambda: dispatched.markdown(read(dispatched.OUT)),
    "scaling": lambda part: scaling.TABLES[part](read(scaling.OUT)),
    "gpu": lambda *which: gpu_table.markdown(which),
    "summary": lambda which, *arguments: summary.TABLES[which](*arguments),
}


def filled(text: str, rows: Sequence[Row], cpu_rows: Sequence[Row] | None = None) -> str:
    """Return a page with every marked table made anew.

    Args:
        text: the page.
        rows: those of torch_path.csv.
        cpu_rows: those of cpu_zen5.csv; read from the file if None.
    """
    native = read(cpu.OUT) if cpu_rows is None else cpu_rows
    return TABLE.sub(lambda m: f"{m['start']}\n{render(m['which'], rows, native)}\n\n{m['end']}", text)


def render(which: str, rows: Sequence[Row], native: Sequence[Row]) -> str:
    """Return the Markdown of one table."""
    parts = [part.strip() for part in which.split("|")]
    if parts[0] in MADE:
        return "\n".join(MADE[parts[0]](*parts[1:]))
    if parts[0] == "cpu":
        rows, parts = native, parts[1:]
    elif parts[0].startswith("cpu "):
        rows, parts = read(cpu.SHOWN[parts[0].removeprefix("cpu ")]), parts[1:]
    if parts[0] in WHOLE:
        return "\n".join(WHOLE[parts[0]](rows))
    return "\n".join(timings(*parts, rows=rows))


def timings(mode: str, loss: str, threads: str, *choice: str, rows: Sequence[Row]) -> Iterator[str]:
    """Return a table of times, or of speeds, of the rows that are meant."""
    wanted = {"mode": mode.replace("speed", "forward+backward"), "loss": loss, "threads": threads}
    wanted |= USUAL | dict(part.split("=") for part in choice if "=" in part)
    mine = [row for row in rows if all(row.get(column, value) == value for column, value in wanted.items())]
    names = [name.strip() for part in choice if "=" not in part for name in part.split(",")]
    mine = [row for row in mine if not names or row["contender"] in names]
    return table.speed_table(mine) if mode == "speed" else table.timing_table(mine)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(), read(torch_path.OUT)))
