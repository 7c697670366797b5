"""Print the timings as Markdown: ``python -m bench.table [--mode MODE] [--threads N] [CSV]``."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.contenders import CONTENDERS
from bench.problems import LOSSES, Size
from bench.torch_path import OUT, read
from bench.worker import MODES, Row


def timing_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per contender, one column per size: milliseconds (speed-up over autograd)."""
    sizes = list(dict.fromkeys(size_of(row) for row in rows))
    cells = {(row["contender"], size_of(row)): cell(row) for row in rows}
    yield from header(["d,H,L,B,M", *map(str, sizes)])
    for name in CONTENDERS:
        if any((name, size) in cells for size in sizes):
            yield line([name, *(cells.get((name, size), "") for size in sizes)])


def cell(row: Row) -> str:
    if row["status"] != "ok":
        return str(row["status"]).split(":")[0]
    speed_up = f" ({1 / float(row['ratio_to_autograd']):.2f}×)" if row["ratio_to_autograd"] else ""
    milliseconds = float(row["min_ms"])
    return f"{milliseconds:.0f}{speed_up}" if milliseconds >= 100 else f"{milliseconds:.3g}{speed_up}"


def memory_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per contender and loss, one column per batch: peak MiB above the inputs."""
    batches = list(dict.fromkeys(row["B"] for row in rows))
    cells = {(row["contender"], row["loss"], row["B"]): row["peak_MiB"] or cell(row) for row in rows}
    yield from header(["peak MiB", *(f"B = {batch}" for batch in batches)])
    for name, loss in dict.fromkeys((row["contender"], row["loss"]) for row in rows):
        yield line([f"{name}, {loss}", *(cells.get((name, loss, batch), "") for batch in batches)])


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what kept a contender from running, once for each loss it concerns."""
    for name, loss, status in dict.fromkeys((r["contender"], r["loss"], r["status"]) for r in rows):
        if status != "ok":
            yield f"- {name}, {loss}: {status}"


def provenance(rows: Sequence[Row]) -> Iterator[str]:
    """Yield where the numbers come from; rows of another commit or torch are named."""
    origins = [tuple(row[column] for column in ("machine", "torch", "commit", "date")) for row in rows]
    for origin in dict.fromkeys(origins):
        names = dict.fromkeys(row["contender"] for row, its in zip(rows, origins, strict=True) if its == origin)
        machine, torch, commit, date = origin
        yield f"- {machine}, torch {torch}, commit {commit}, {date}: {', '.join(names)}"


def header(names: Sequence[str]) -> Iterator[str]:
    yield line(names)
    yield line(["---", *["---:"] * (len(names) - 1)])


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def size_of(row: Row) -> Size:
    return Size(*(int(row[letter]) for letter in Size._fields))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each thread count and loss, then memory, overhead and remarks."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("csv", type=Path, nargs="?", default=OUT)
    parser.add_argument("--mode", choices=MODES, default=MODES[1])
    parser.add_argument("--threads", nargs="+")
    chosen = parser.parse_args(argv)
    everything = read(chosen.csv)
    timed = [row for row in everything if row["mode"] == chosen.mode]
    for threads in chosen.threads or dict.fromkeys(row["threads"] for row in timed):
        for loss in LOSSES:
            print(f"\n{loss}, {chosen.mode}, {threads} thread(s): milliseconds (speed-up over autograd)\n")
            print(*timing_table([r for r in timed if r["threads"] == threads and r["loss"] == loss]), sep="\n")
    if heavy := [row for row in everything if row["mode"] == "memory"]:
        print("\nPeak memory of loss and gradients above what is resident before the call\n")
        print(*memory_table(heavy), sep="\n")
    for row in (row for row in everything if row["mode"] == "overhead"):
        print(f"\nOverhead of one {row['contender']} call, {row['loss']}: {1e3 * float(row['min_ms']):.0f} µs")
    print("\nNot timed\n", *remarks(timed), sep="\n")
    print("\nMeasured on\n", *provenance(everything), sep="\n")


if __name__ == "__main__":
    main()
