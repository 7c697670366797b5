"""Write bench/results/choice.csv: `python -m bench.choice` from the root of the repository.

Jets against plain autograd on every network of tests/nets that runs on jets: loss (SSM-VR) and all gradients, in
float32 on one thread, interleaved in one process. The choice of "auto" between the two is read off these rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

import fastssm
from bench.harness import RESULTS, WHO, environment, write_rows
from bench.measure import Row
from bench.table import header, line
from fastssm import backends
from fastssm.backends.choice import JETS_BYTES, JETS_DIRECTIONS, JETS_OPERATIONS
from fastssm.backends.trial import trial_of
from tests.nets import ALL, Net

OUT = RESULTS / "choice.csv"
COLUMNS = (
    *(*WHO, "threads", "network", "kind", "batch", "M", "operations", "bytes_per_operation"),
    *("jets_ms", "reference_ms", "ratio"),
)
BACKENDS = ("jets", "reference")


def repeated(t: Tensor, batch: int) -> Tensor:
    """Return a tensor of single samples for a larger batch, in single precision."""
    t = t.float() if t.is_floating_point() else t
    return t.repeat(-(-batch // len(t)), *[1] * (t.ndim - 1))[:batch]


def least(net: Net, request: backends.Request, count: int, repeats: int) -> dict[str, float]:
    """Return the least time of a loss and its gradients by each backend, in milliseconds, after one call of each."""
    times: dict[str, list[float]] = {name: [] for name in BACKENDS}
    for _ in range(repeats + 1):
        for name in BACKENDS:
            start = time.perf_counter()
            given = {"cond": request.cond or None, "kind": net.kind, "n_projections": count, "backend": name}
            fastssm.sliced_loss(request.model, request.x, **given).backward()  # type: ignore[no-untyped-call]
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(found[1:]) for name, found in times.items()}


def rows(nets: Sequence[Net], batches: Sequence[int], directions: Sequence[int], repeats: int) -> Iterator[Row]:
    """Yield a row for each network that jets run, each batch and each number of directions."""
    for net in nets:
        problem = net.problem()
        for batch in batches:
            x, cond = repeated(problem.x, batch), tuple(repeated(c, batch) for c in problem.cond)
            request = backends.make_request(problem.model.float(), x, cond or None, net.kind)
            refused = backends.BACKENDS["jets"].unsupported(request, "objective")
            if refused or isinstance(request.recognised, fastssm.Network):
                break
            trial = trial_of(request)
            for count in directions:
                found = least(net, request, count, repeats)
                yield {
                    **{"network": net.name, "kind": net.kind, "batch": batch, "M": count},
                    **{"operations": trial.operations, "bytes_per_operation": trial.bytes_of_an_operation * batch},
                    **{f"{name}_ms": value for name, value in found.items()},
                    "ratio": found["reference"] / found["jets"],
                }


RULES: dict[str, Callable[[Row], bool]] = {
    "always plain autograd": lambda row: False,
    "always jets": lambda row: True,
    f"M ≥ {JETS_DIRECTIONS}": lambda row: int(row["M"]) >= JETS_DIRECTIONS,
    f"M ≥ {JETS_DIRECTIONS}, or values of {JETS_BYTES >> 10} KiB": lambda row: wide(row),
    f"the same, or up to {JETS_OPERATIONS} operations (this is the rule)": lambda row: (
        wide(row) or int(row["operations"]) <= JETS_OPERATIONS
    ),
}


def wide(row: Row) -> bool:
    return int(row["M"]) >= JETS_DIRECTIONS or int(row["bytes_per_operation"]) >= JETS_BYTES


def judged(rows: Sequence[Row], rule: Callable[[Row], bool]) -> tuple[int, float, float, float]:
    """Return how often a rule names the faster one; of the others the median and worst slow-down; and the gain."""
    ratios = [(float(row["ratio"]), rule(row)) for row in rows]
    lost = [1 / ratio if jets else ratio for ratio, jets in ratios if jets != (ratio > 1)]
    gain = statistics.geometric_mean([ratio if jets else 1.0 for ratio, jets in ratios])
    return len(rows) - len(lost), statistics.median(lost), max(lost), gain


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per rule: how often it is right, what it loses where it is wrong, and what it gains over all."""
    if not rows:
        return
    yield from header(["jets run", "names the faster one", "median loss", "worst loss", "gain over plain autograd"])
    for name, rule in RULES.items():
        right, median, worst, gain = judged(rows, rule)
        yield line([name, f"{right} of {len(rows)}", f"{median:.2f}×", f"{worst:.2f}×", f"{gain:.2f}×"])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two networks, in seconds; writes nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = list(rows(ALL[:2], (8,), (1,), 1) if options.smoke else rows(ALL, (64, 1024), (1, 8), 7))
    assert found
    if not options.smoke:
        write_rows([{**environment(), "threads": 1, **row} for row in found], OUT, COLUMNS)


if __name__ == "__main__":
    main()
