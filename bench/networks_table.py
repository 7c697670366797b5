"""Targets and tables of networks.csv."""

from collections.abc import Callable, Iterator, Sequence
from operator import ge, le

from bench.measure import Row
from bench.networks_contenders import DOUBLE, JETS, JETS_COMPILED
from bench.networks_nets import CONV, MLP, SMALL, TRANSFORMER, UNET
from bench.problems import EXACT_LOSS
from bench.steps import BACKWARD
from bench.table import header, line, short
from bench.targets import Verdict

EAGER_AND_COMPILED = {  # network, M, loss: least speed-up over eager double backward, eager and compiled
    (CONV, 1, "SSM"): (1.4, 1.8),
    (CONV, 1, "SSM-VR"): (1.25, 1.5),
}
BETTER = {(CONV, 8): 2.8, (TRANSFORMER, 1): 1.2, (TRANSFORMER, 8): 2.0, (UNET, 8): 1.8, (MLP, 1): 1.3, (MLP, 8): 1.3}
MEMORY = 0.1


def target(row: Row) -> str:
    """Return the target of a row, such as ``x_double_backward>=1.4``; empty if it has none."""
    network, contender, M = row["network"], row["contender"], int(row["M"])
    if row["mode"] == "memory":
        wanted = (network, contender, int(row["B"])) == (SMALL, JETS, 4096)
        return f"of_double_backward<={MEMORY:g}" if wanted else ""
    if row["mode"] != BACKWARD or contender not in (JETS, JETS_COMPILED):
        return ""
    bounds = EAGER_AND_COMPILED.get((network, M, row["loss"]))
    if bounds:
        return f"x_double_backward>={bounds[contender == JETS_COMPILED]:g}"
    better = BETTER.get((network, M))
    return f"better_x_double_backward>={better:g}" if better and contender == JETS else ""


Found = dict[tuple[str, ...], Row]


def place(row: Row, contender: str) -> tuple[str, ...]:
    return (*(str(row[name]) for name in ("threads", "network", "B", "M", "loss", "mode")), contender)


def quotient(row: Row, found: Found, column: str, contender: str) -> float | None:
    """Return the number of double backward over that of a contender."""
    rows = found.get(place(row, DOUBLE)), found.get(place(row, contender))
    numbers = [float(r[column]) for r in rows if r is not None and r[column]]
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[1] else None


def speed_up(row: Row, found: Found) -> float | None:
    return quotient(row, found, "min_ms", row["contender"])


def better_speed_up(row: Row, found: Found) -> float | None:
    both = [quotient(row, found, "min_ms", name) for name in (JETS, JETS_COMPILED)]
    return max((value for value in both if value is not None), default=None)


def share_of_memory(row: Row, found: Found) -> float | None:
    ratio = quotient(row, found, "peak_MiB", row["contender"])
    return None if ratio is None else 1 / ratio


QUANTITIES: dict[str, Callable[[Row, Found], float | None]] = {
    "x_double_backward": speed_up,
    "better_x_double_backward": better_speed_up,
    "of_double_backward": share_of_memory,
}


def verdicts(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Yield every target of the rows of a file, with the measured value."""
    found = {place(row, row["contender"]): row for row in rows}
    for row in rows:
        for text in row["target"].split():
            sense = ">=" if ">=" in text else "<="
            quantity, bound = text.split(sense)
            measured = QUANTITIES[quantity](row, found)
            met = measured is not None and (ge if sense == ">=" else le)(measured, float(bound))
            yield Verdict(row, quantity, sense, float(bound), measured, met)


def target_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per target: problem, bound, measured value, whether it is met, and how much the rivals leave."""
    what = {
        "x_double_backward": "speed-up",
        "better_x_double_backward": "speed-up, the better of eager and compiled",
        "of_double_backward": "peak memory, of double backward's",
    }
    found = {place(row, row["contender"]): row for row in rows}
    yield from header(["network", "loss", "M", "B", "quantity", "target", "measured", "met", "over the fastest rival"])
    for v in verdicts(rows):
        compiled = ", compiled" if v.row["contender"] == JETS_COMPILED else ""
        measured = "not measured" if v.measured is None else f"{v.measured:.3g}"
        bound = f"{'≥' if v.sense == '>=' else '≤'} {v.bound:g}"
        where = [v.row[name] for name in ("network", "loss", "M", "B")]
        met = "yes" if v.met else "no"
        yield line([*where, what[v.quantity] + compiled, bound, measured, met, over_rivals(v, found)])


def over_rivals(v: Verdict, found: Found) -> str:
    """Return the speed-up over the fastest rival, compiled ones too, and its name."""
    better = v.quantity == "better_x_double_backward"
    names = (JETS, JETS_COMPILED) if better else (v.row["contender"],)
    mine = [row for row in (found.get(place(v.row, name)) for name in names) if row and row["ratio_to_best_rival"]]
    if not mine:
        return ""
    best = min(mine, key=lambda row: float(row["ratio_to_best_rival"]))
    return f"{1 / float(best['ratio_to_best_rival']):.3g} ({best['best_rival']})"


def time_table(rows: Sequence[Row], loss: str) -> Iterator[str]:
    """Yield one line per contender, one column per problem: milliseconds (speed-up over double backward)."""
    mine = [row for row in rows if row["mode"] == BACKWARD and row["loss"] == loss]
    cells = {(row["contender"], row["network"], row["M"]): cell(row) for row in mine}
    places = list(dict.fromkeys((network, M) for _, network, M in cells))
    yield from header([loss, *(f"{network}, M = {M}" for network, M in places)])
    for name in dict.fromkeys(name for name, _, _ in cells):
        yield line([name, *(cells.get((name, *where), "") for where in places)])


def cell(row: Row) -> str:
    if row["status"] != "ok":
        return short(row)
    ratio = row["ratio_to_double_backward"]
    time = float(row["min_ms"])
    shown = f"{time:.0f}" if time >= 100 else f"{time:.3g}"
    return shown + (f" ({1 / float(ratio):.2f}×)" if ratio else "")


def memory_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per problem: peak MiB above the inputs, of double backward and of jets."""
    mine = [row for row in rows if row["mode"] == "memory"]
    cells = {place(row, row["contender"]): row["peak_MiB"] or short(row) for row in mine}
    yield from header(["peak MiB", DOUBLE, JETS])
    for row in {place(row, ""): row for row in mine}.values():
        M = f"M = D = {row['M']}" if row["loss"] == EXACT_LOSS else f"M = {row['M']}"
        name = f"{row['network']}, {row['loss']}, {M}, B = {row['B']}"
        yield line([name, *(cells.get(place(row, contender), "") for contender in (DOUBLE, JETS))])


def markdown(rows: Sequence[Row], which: str, *arguments: str) -> Iterator[str]:
    """Yield the table ``time | LOSS``, ``memory`` or ``targets``; nothing before anything is measured."""
    tables: dict[str, Callable[..., Iterator[str]]] = {
        "time": time_table,
        "memory": memory_table,
        "targets": target_table,
    }
    if rows:
        yield from tables[which](rows, *arguments)
