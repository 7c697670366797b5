"""Write bench/results/outliers.csv: ``python -m bench.outliers`` from the root of the repository.

Real outliers in data sets that scikit-learn and river ship, found without labels by fastssm and by three detectors of
scikit-learn, each with its default settings, on standardised columns. The default loss of fastssm's detector was chosen
on these sets. Every seed draws other outliers and other random numbers. The area under the ROC curve (AUC) is 1 if
every outlier ranks above every other row, and 0.5 for guesses.
"""

import argparse
import csv
import gzip
import importlib.util
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from bench.outliers_table import OUT
from fastssm.sklearn import OutlierDetector

COLUMNS = (
    *("date", "machine", "torch", "sklearn", "data", "rows", "columns", "outliers", "seed", "method", "auc", "seconds"),
)
Rows = np.ndarray[Any, Any]


class Problem(NamedTuple):
    """Rows, and which of them are outliers."""

    rows: Rows
    outlier: Rows


def chosen(inliers: Rows, others: Rows, count: int, seed: int) -> Problem:
    """Return all inliers with some of the others, without constant columns, in random order."""
    draw = np.random.default_rng(seed)
    rows = np.concatenate([inliers, others[draw.choice(len(others), count, replace=False)]])
    outlier = np.arange(len(rows)) >= len(inliers)
    order = draw.permutation(len(rows))
    rows = rows[:, rows.std(0) > 0]
    return Problem(StandardScaler().fit_transform(rows[order]), outlier[order])


def digits(seed: int) -> Problem:
    data, target = datasets.load_digits(return_X_y=True)
    return chosen(data[target == seed % 10], data[target != seed % 10], 20, seed)


def breast_cancer(seed: int) -> Problem:
    data, benign = datasets.load_breast_cancer(return_X_y=True)
    return chosen(data[benign == 1], data[benign == 0], 21, seed)


def wine(seed: int) -> Problem:
    data, target = datasets.load_wine(return_X_y=True)
    return chosen(data[target > 0], data[target == 0], 10, seed)


def river(file: str) -> Rows:
    """Return the cells of a file that river ships, without importing river."""
    found = importlib.util.find_spec("river")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("river is not installed (pip install --no-deps river)")
    path = Path(found.submodule_search_locations[0]) / "datasets" / file
    with gzip.open(path, "rt") as stream:
        return np.array(list(csv.reader(stream))[1:], dtype=float)


def shuttle(seed: int) -> Problem:
    table = river("shuttle.csv.gz")
    normal, anomaly = table[table[:, -1] == 0, :-1], table[table[:, -1] == 1, :-1]
    some = np.random.default_rng(seed).choice(len(normal), 4650, replace=False)
    return chosen(normal[some], anomaly, 350, seed)


def annealed(rows: Rows, seed: int) -> Rows:
    return -OutlierDetector(random_state=seed).fit(rows).score_samples(rows)


def sliced(rows: Rows, seed: int) -> Rows:
    return -OutlierDetector(loss="sliced", random_state=seed).fit(rows).score_samples(rows)


def forest(rows: Rows, seed: int) -> Rows:
    return -IsolationForest(random_state=seed).fit(rows).score_samples(rows)


def neighbours(rows: Rows, seed: int) -> Rows:
    return -LocalOutlierFactor().fit(rows).negative_outlier_factor_


def kernels(rows: Rows, seed: int) -> Rows:
    return -KernelDensity(bandwidth="scott").fit(rows).score_samples(rows)


DATA: dict[str, Callable[[int], Problem]] = {
    "breast-cancer": breast_cancer,
    "digits": digits,
    "shuttle": shuttle,
    "wine": wine,
}
METHODS: dict[str, Callable[[Rows, int], Rows]] = {
    "fastssm": annealed,
    "fastssm, loss sliced": sliced,
    "IsolationForest": forest,
    "LocalOutlierFactor": neighbours,
    "KernelDensity": kernels,
}


def measure(data: str, seed: int, method: str) -> dict[str, Any]:
    """Return one row of the file."""
    problem = DATA[data](seed)
    began = time.perf_counter()
    scores = METHODS[method](problem.rows, seed)
    seconds = time.perf_counter() - began
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "sklearn": sklearn.__version__,
        "data": data,
        "rows": len(problem.rows),
        "columns": problem.rows.shape[1],
        "outliers": int(problem.outlier.sum()),
        "seed": seed,
        "method": method,
        "auc": round(float(roc_auc_score(problem.outlier, scores)), 4),
        "seconds": round(seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.outliers", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", nargs="+", choices=tuple(DATA), default=tuple(DATA))
    parser.add_argument("--out", type=Path, default=OUT)
    chosen_options = parser.parse_args()
    torch.set_num_threads(1)
    with chosen_options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for data in chosen_options.data:
            for method in METHODS:
                rows = [measure(data, seed, method) for seed in range(chosen_options.seeds)]
                writer.writerows(rows)
                auc, seconds = ([row[name] for row in rows] for name in ("auc", "seconds"))
                print(f"{data:14} {method:20} {np.mean(auc):.3f} ± {np.std(auc):.3f}  {np.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
