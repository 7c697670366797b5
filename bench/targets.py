"""Performance targets of the CPU engine, as text such as ``x_best_rival>=1.3``, and whether they are met."""

from collections.abc import Callable, Iterator, Sequence
from operator import ge, le
from typing import NamedTuple

from bench.contenders import GEMMS
from bench.measure import Row
from bench.problems import EXACT_LOSS, GRID, Size


class Bounds(NamedTuple):
    """What is expected of a size: a fraction of the peak, and speed-ups over the best rival by instruction set."""

    of_peak: float | None
    avx2: float
    avx512: float

    def rival(self, level: str) -> float:
        """Return the speed-up on a level."""
        return self.avx512 if level == "avx512" else self.avx2


ENERGY = {
    GRID[0]: Bounds(0.45, 1.4, 1.4),
    GRID[1]: Bounds(0.76, 1.3, 1.4),
    GRID[2]: Bounds(0.86, 1.3, 1.35),
    GRID[3]: Bounds(0.88, 1.15, 1.2),
    GRID[4]: Bounds(0.88, 1.08, 1.1),
    GRID[5]: Bounds(0.88, 1.15, 1.25),
}
EXACT = Bounds(0.85, 1.35, 1.5)
OTHER = Bounds(None, 1.0, 1.0)
OF_PEAK_ON_TWO_THREADS = {GRID[0]: 0.35}
SCORE = 1.3  # over the best rival


def target(row: Row) -> str:
    """Return the targets of a row, separated by spaces; empty if it has none."""
    return " ".join(_targets(row)) if row["contender"] in _RULES else ""


def _targets(row: Row) -> Iterator[str]:
    rules = _RULES[row["contender"]]
    if row["mode"] in rules:
        yield from rules[row["mode"]](row, size_of(row), int(row["threads"]))


def _native(row: Row, size: Size, threads: int) -> Iterator[str]:
    if row["kind"] == "score":
        yield f"x_best_rival>={SCORE}"
    else:
        yield from _energy(row, size, threads)


def _energy(row: Row, size: Size, threads: int) -> Iterator[str]:
    bounds = EXACT if row["loss"] == EXACT_LOSS else ENERGY.get(size, OTHER)
    if row["activation"] == "softplus":
        peak = bounds.of_peak if threads == 1 else OF_PEAK_ON_TWO_THREADS.get(size)
        if peak and row["loss"] != "SSM-VR":
            yield f"of_peak>={peak}"
        yield f"x_best_rival>={bounds.rival(row['level'])}"
    else:
        yield "x_best_rival>=1"
    if threads == 2 and size in GRID[2:]:
        yield "x_one_thread>=1.9"
    if row["loss"] == "SSM-VR":
        yield "time_of_SSM<=1.06"


def _bf16(row: Row, size: Size, threads: int) -> Iterator[str]:
    if row["kind"] == "energy" and size.H >= 512 and row["level"] == "avx512":
        yield "x_float32>=1.6"
        yield "gradient_error<=0.01"


def _memory(row: Row, size: Size, threads: int) -> Iterator[str]:
    if size.B == 65536:
        yield "MB<=80"
    if size.B > 4096:
        yield "of_B_4096<=1.1"


Rule = Callable[[Row, Size, int], Iterator[str]]
_RULES: dict[str, dict[str, Rule]] = {
    "fastssm cpu": {
        "forward+backward": _native,
        "memory": _memory,
        "overhead": lambda *row: iter(["microseconds<=40"]),
        "signs": lambda *row: iter(["ns_per_sign<=0.1"]),
    },
    "fastssm cpu bf16": {"forward+backward": _bf16},
}


class Verdict(NamedTuple):
    """A target of a row: its bound, the measured value (or None) and whether it is met."""

    row: Row
    quantity: str
    sense: str
    bound: float
    measured: float | None
    met: bool


def verdicts(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Yield every target of the rows of a file, with the measured value."""
    found = {_key(row): row for row in rows}
    for row in rows:
        for text in row["target"].split():
            sense = ">=" if ">=" in text else "<="
            quantity, bound = text.split(sense)
            measured = QUANTITIES[quantity](row, found)
            met = measured is not None and (ge if sense == ">=" else le)(measured, float(bound))
            yield Verdict(row, quantity, sense, float(bound), measured, met)


Found = dict[tuple[str, ...], Row]


def _key(row: Row, **other: str) -> tuple[str, ...]:
    names = ("threads", "kind", "activation", *Size._fields, "loss", "mode", "contender")
    return tuple((row | other)[name] for name in names)


def _number(row: Row | None, column: str) -> float | None:
    return float(row[column]) if row is not None and row[column] else None


def _inverse(column: str) -> Callable[[Row, Found], float | None]:
    def quantity(row: Row, found: Found) -> float | None:
        value = _number(row, column)
        return None if value is None else 1 / value

    return quantity


def _times_faster(**other: str) -> Callable[[Row, Found], float | None]:
    """Return the time of a reference row over the time of a row."""

    def quantity(row: Row, found: Found) -> float | None:
        mine, theirs = _number(row, "min_ms"), _number(found.get(_key(row, **other)), "min_ms")
        return None if mine is None or theirs is None else theirs / mine

    return quantity


def _slower_than_ssm(row: Row, found: Found) -> float | None:
    faster = _times_faster(loss="SSM")(row, found)
    return None if faster is None else 1 / faster


def _of_smallest_batch(row: Row, found: Found) -> float | None:
    mine, least = _number(row, "peak_MiB"), _number(found.get(_key(row, B="4096")), "peak_MiB")
    return None if mine is None or not least else mine / least


def _scaled(column: str, scale: Callable[[Row], float]) -> Callable[[Row, Found], float | None]:
    def quantity(row: Row, found: Found) -> float | None:
        value = _number(row, column)
        return None if value is None else value * scale(row)

    return quantity


QUANTITIES: dict[str, Callable[[Row, Found], float | None]] = {
    "of_peak": _scaled("fraction_of_peak", lambda row: 1),
    "x_autograd": _inverse("ratio_to_autograd"),
    "x_best_rival": _inverse("ratio_to_best_rival"),
    "x_bare_GEMMs": _times_faster(contender=GEMMS),
    "x_one_thread": _times_faster(threads="1"),
    "time_of_SSM": _slower_than_ssm,
    "x_float32": _times_faster(contender="fastssm cpu"),
    "gradient_error": _scaled("gradient_error", lambda row: 1),
    "microseconds": _scaled("min_ms", lambda row: 1e3),
    "ns_per_sign": _scaled("min_ms", lambda row: 1e6 / (int(row["M"]) * int(row["B"]) * int(row["d"]))),
    "MB": _scaled("peak_MiB", lambda row: 1.048576),
    "of_B_4096": _of_smallest_batch,
}


def size_of(row: Row) -> Size:
    """Return the size of the problem of a row."""
    return Size(*(int(row[letter]) for letter in Size._fields))
