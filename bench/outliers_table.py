"""The table of results/outliers.csv, as Markdown."""

import csv
import statistics
from collections.abc import Iterator
from pathlib import Path

OUT = Path(__file__).parent / "results" / "outliers.csv"


def markdown() -> Iterator[str]:
    """Yield a row for each data set: the mean AUC of every method over the seeds, and its median time."""
    with OUT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    yield f"| data, rows × columns, outliers | {' | '.join(methods)} |"
    yield f"| --- | {' | '.join('---:' for _ in methods)} |"
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        cells = [_cell([row for row in mine if row["method"] == method]) for method in methods]
        first = mine[0]
        yield f"| {data}, {first['rows']} × {first['columns']}, {first['outliers']} | {' | '.join(cells)} |"


def _cell(rows: list[dict[str, str]]) -> str:
    auc = statistics.mean(float(row["auc"]) for row in rows)
    return f"{auc:.3f} ({statistics.median(float(row['seconds']) for row in rows):.2g} s)"
