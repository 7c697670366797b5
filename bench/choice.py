"""Write bench/results/choice.csv: `python -m bench.choice` from the root of the repository.

Jets against plain autograd on every network of tests/nets that runs on jets: loss (SSM-VR) and all gradients, in
float32 on one thread, interleaved in one process. The choice of "auto" between the two is read off these rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import fastssm
from bench.harness import RESULTS, WHO, environment, write_rows
from fastssm import backends
from fastssm.backends.trial import trial_of
from tests.nets import ALL, Net

OUT = RESULTS / "choice.csv"
COLUMNS = (*WHO, "threads", "network", "kind", "batch", "M", "bytes_per_operation", "jets_ms", "reference_ms", "ratio")
BACKENDS = ("jets", "reference")


def repeated(t: Tensor, batch: int) -> Tensor:
    """Return a tensor of single samples for a larger batch, in single precision."""
    t = t.float() if t.is_floating_point() else t
    return t.repeat(-(-batch // len(t)), *[1] * (t.ndim - 1))[:batch]


def rows(
    nets: Sequence[Net], batches: Sequence[int], directions: Sequence[int], repeats: int
) -> Iterator[dict[str, object]]:
    """Yield a row for each network, batch and number of directions."""
    for net in nets:
        problem = net.problem()
        model = problem.model.float()
        for batch in batches:
            x, cond = repeated(problem.x, batch), tuple(repeated(c, batch) for c in problem.cond)
            request = backends.make_request(model, x, cond or None, net.kind)
            if backends.BACKENDS["jets"].unsupported(request, "objective") or isinstance(
                request.recognised, fastssm.Network
            ):
                break
            for count in directions:
                times: dict[str, list[float]] = {name: [] for name in BACKENDS}
                for _ in range(repeats):
                    for name in BACKENDS:
                        start = time.perf_counter()
                        loss = fastssm.sliced_loss(
                            model, x, cond=cond or None, kind=net.kind, n_projections=count, backend=name
                        )
                        loss.backward()
                        times[name].append(time.perf_counter() - start)
                jets, reference = (1e3 * statistics.median(times[name][1:]) for name in BACKENDS)
                yield {
                    **{"network": net.name, "kind": net.kind, "batch": batch, "M": count},
                    "bytes_per_operation": trial_of(request).bytes_of_an_operation * batch,
                    **{
                        "jets_ms": f"{jets:.3f}",
                        "reference_ms": f"{reference:.3f}",
                        "ratio": f"{reference / jets:.3f}",
                    },
                }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two networks, in seconds; writes nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    nets, batches = (ALL[:2], (8,)) if options.smoke else (ALL, (64, 1024))
    found = list(rows(nets, batches, (1, 8), 4))
    assert found
    if not options.smoke:
        write_rows([{**environment(), "threads": 1, **row} for row in found], OUT, COLUMNS)


if __name__ == "__main__":
    main()
