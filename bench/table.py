"""Print the timings as Markdown: ``python -m bench.table [--mode MODE] [--threads N] [CSV]``."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import training
from bench.contenders import CONTENDERS, PEAK, PEAK_BF16
from bench.harness import read
from bench.measure import Row
from bench.problems import LOSSES
from bench.steps import MODES
from bench.targets import Verdict, size_of, verdicts
from bench.torch_path import OUT


def timing_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per contender, one column per size: milliseconds (speed-up over autograd)."""
    yield from by_size([row for row in rows if row["contender"] not in (PEAK, PEAK_BF16)], cell)


def speed_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the same table of GFLOP/s: operations of the two sweeps over time (fraction of the measured peak)."""
    yield from by_size([row for row in rows if row["gflops"] or row["status"] != "ok"], speed)


def by_size(rows: Sequence[Row], show: Callable[[Row], str]) -> Iterator[str]:
    sizes = list(dict.fromkeys(size_of(row) for row in rows))
    cells = {(row["contender"], size_of(row)): show(row) for row in rows}
    yield from header(["d,H,L,B,M", *map(str, sizes)])
    for name in CONTENDERS:
        if any((name, size) in cells for size in sizes):
            yield line([name, *(cells.get((name, size), "") for size in sizes)])


def cell(row: Row) -> str:
    if row["status"] != "ok":
        return short(row)
    speed_up = f" ({1 / float(row['ratio_to_autograd']):.2f}×)" if row["ratio_to_autograd"] else ""
    milliseconds = float(row["min_ms"])
    return f"{milliseconds:.0f}{speed_up}" if milliseconds >= 100 else f"{milliseconds:.3g}{speed_up}"


def speed(row: Row) -> str:
    if row["status"] != "ok":
        return short(row)
    share = f" ({float(row['fraction_of_peak']):.2f})" if row["fraction_of_peak"] else ""
    return f"{float(row['gflops']):.0f}{share}"


def short(row: Row) -> str:
    return str(row["status"]).split(":")[0]


def memory_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per contender and loss, one column per batch: peak MiB above the inputs."""
    batches = list(dict.fromkeys(row["B"] for row in rows))
    cells = {(row["contender"], row["loss"], row["B"]): row["peak_MiB"] or cell(row) for row in rows}
    yield from header(["peak MiB", *(f"B = {batch}" for batch in batches)])
    for name, loss in dict.fromkeys((row["contender"], row["loss"]) for row in rows):
        yield line([f"{name}, {loss}", *(cells.get((name, loss, batch), "") for batch in batches)])


def training_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per command and contender: seconds from start to exit (speed-up over autograd)."""
    yield from header(["command", "loss by", "seconds"])
    for row in rows:
        if row["mode"] in training.COMMANDS:
            seconds = row | {"min_ms": float(row["min_ms"] or 0) / 1e3}
            yield line([f"`fastssm {row['mode']}`", row["contender"], cell(seconds)])


def sign_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per method to draw random signs: nanoseconds per sign."""
    yield from header(["signs", "ns each"])
    for row in (row for row in rows if row["mode"] == "signs"):
        yield line([row["contender"], scaled(row, 1e6 / count_signs(row), "{:.3f}")])


def count_signs(row: Row) -> int:
    size = size_of(row)
    return size.M * size.B * size.d


def overhead_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per contender and loss: microseconds of overhead per call."""
    yield from header(["overhead", *LOSSES])
    found = {(row["contender"], row["loss"]): row for row in rows if row["mode"] == "overhead"}
    for name in dict.fromkeys(name for name, _ in found):
        yield line([name, *(scaled(found.get((name, loss)), 1e3, "{:.0f} µs") for loss in LOSSES)])


def scaled(row: Row | None, scale: float, form: str) -> str:
    """Return the time of a row in another unit, or its status."""
    if row is None:
        return ""
    return form.format(scale * float(row["min_ms"])) if row["min_ms"] else short(row)


def target_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per target: size, quantity, bound, measured value, and whether it is met."""
    yield from header(["d,H,L,B,M", "of", "threads", "quantity", "target", "measured", "met"])
    for verdict in verdicts(rows):
        yield line(target_cells(verdict))


def target_cells(verdict: Verdict) -> Iterator[str]:
    row = verdict.row
    kind = "" if row["mode"] != "forward+backward" else f"{row['kind']}, {row['activation']}"
    bf16 = "bf16" if "bf16" in row["contender"] else ""
    mode = row["mode"] if row["mode"] != "forward+backward" else ""
    yield str(size_of(row))
    yield ", ".join(part for part in (row["loss"], mode, kind, bf16) if part)
    yield row["threads"]
    against = f" ({row['best_rival']})" if verdict.quantity == "x_best_rival" and row["best_rival"] else ""
    yield verdict.quantity.replace("_", " ") + against
    yield f"{'≥' if verdict.sense == '>=' else '≤'} {verdict.bound:g}"
    yield short(row) if verdict.measured is None and row["status"] != "ok" else measured(verdict)
    yield "yes" if verdict.met else "no"


def measured(verdict: Verdict) -> str:
    return "not measured" if verdict.measured is None else f"{verdict.measured:.3g}"


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield why a contender did not run, once per loss."""
    for name, loss, status in dict.fromkeys((r["contender"], r["loss"], r["status"]) for r in rows):
        if status != "ok":
            yield f"- {name}, {loss}: {status}"


def provenance(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the machine, torch version, commit and date of the rows, with their contenders."""
    origins = [tuple(row[column] for column in ("machine", "torch", "commit", "date")) for row in rows]
    for origin in dict.fromkeys(origins):
        names = dict.fromkeys(row["contender"] for row, its in zip(rows, origins, strict=True) if its == origin)
        machine, torch, commit, date = origin
        yield f"- {machine}, torch {torch}, commit {commit}, {date}: {', '.join(names)}"


def header(names: Sequence[str]) -> Iterator[str]:
    yield line(names)
    yield line(["---", *["---:"] * (len(names) - 1)])


def line(cells: Sequence[str] | Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table per network, number of threads and loss, and then the other tables of the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("csv", type=Path, nargs="?", default=OUT)
    parser.add_argument("--mode", choices=MODES, default=MODES[1])
    parser.add_argument("--threads", nargs="+")
    chosen = parser.parse_args(argv)
    everything = read(chosen.csv)
    timed = [row for row in everything if row["mode"] == chosen.mode]
    for loss, threads, *extra in dict.fromkeys(map(group, timed)):
        if not chosen.threads or threads in chosen.threads:
            print(f"\n{', '.join((loss, *extra))}, {chosen.mode}, {threads} thread(s): milliseconds (x autograd)\n")
            print(*timing_table([row for row in timed if group(row) == (loss, threads, *extra)]), sep="\n")
    print("\nPeak memory of loss and gradients above the resident memory before the call\n")
    print(*memory_table([row for row in everything if row["mode"] == "memory"]), sep="\n")
    for table in (overhead_table, sign_table, training_table, *([target_table] if "target" in everything[0] else [])):
        print("", *table(everything), sep="\n")
    print("\nNot timed\n", *remarks(timed), sep="\n")
    print("\nMeasured on\n", *provenance(everything), sep="\n")


def group(row: Row) -> tuple[str, ...]:
    """Return the key of a table; torch_path.csv has no column for the kind of network."""
    return (row["loss"], row["threads"], *(row[name] for name in ("kind", "activation") if name in row))


if __name__ == "__main__":
    main()
