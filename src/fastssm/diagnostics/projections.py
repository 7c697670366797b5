"""Choose the number of projections from the gradient noise and the number of matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from fastssm import backends, checks
from fastssm.diagnostics.estimate import check_samples
from fastssm.losses import sliced_loss
from fastssm.options import BackendName, Cond, Kind
from fastssm.text import table


@dataclass(frozen=True)
class ProjectionRow:
    """Cost and gradient noise of M directions per sample.

    Attributes:
        n_projections: M.
        noise: variance of the gradient of one sample over data and directions, summed over the parameters.
        directions: fraction of `noise` that is due to the directions.
        noise_scale: `noise / |gradient|^2`, the batch size at which noise and gradient have the same norm; infinite if
            the gradient is not distinguishable from noise.
        cost: matrix products per sample, relative to the first row.
        work: `cost * noise`, relative to the first row; the cost of a gradient of given precision.
    """

    n_projections: int
    noise: float
    directions: float
    noise_scale: float
    cost: float
    work: float


@dataclass(frozen=True)
class ProjectionStudy:
    """Cost and noise for several numbers of projections, and the recommended number.

    Attributes:
        rows: one per requested number.
        recommended: the number of projections with the least work.
        reason: one sentence that explains the recommendation.
    """

    rows: tuple[ProjectionRow, ...]
    recommended: int
    reason: str

    def __str__(self) -> str:
        """Return the table and the recommendation as text."""
        cells = [("projections", "gradient noise", "from directions", "noise scale", "cost", "cost × noise")]
        for r in self.rows:
            cells.append(
                (
                    f"{r.n_projections}{' *' if r.n_projections == self.recommended else ''}",
                    f"{r.noise:.4g}",
                    f"{r.directions:.0%}",
                    f"{r.noise_scale:.3g}",
                    f"{r.cost:.2f}",
                    f"{r.work:.2f}",
                )
            )
        return f"{table(cells)}\n{self.reason}"


def projection_study(
    model: nn.Module,
    x: Tensor,
    *,
    counts: Sequence[int] = (1, 2, 4, 8),
    chunks: int = 16,
    cond: Cond = None,
    kind: Kind = "auto",
    generator: Generator | None = None,
    backend: BackendName = "auto",
    **options: Any,
) -> ProjectionStudy:
    """Recommend a number of projections from the gradient noise and the number of matrix products.

    The gradient of one sample has the variance `V_data + V_directions(M)`, summed over the parameters. A batch of B
    samples has 1/B of it. A gradient of given precision therefore costs `cost(M) (V_data + V_directions(M))`, and the
    recommended M minimises it. For more precision, a larger batch is cheaper than a larger M. With independent
    directions, `V_directions(M) = V_directions(1) / M`, and the best M is near `sqrt(2 V_directions(1) / V_data)` for
    an energy and `sqrt(V_directions(1) / V_data)` for a score net.

    The samples are split into chunks. Two gradients of a chunk with independent directions differ only by the noise of
    the directions. Their common part varies between chunks by the noise of the data. Both variance estimates are
    unbiased. Costs are counted, not timed: `3 (M + 2)` products per layer for an energy on the fused backends,
    `6 (M + 1)` with plain autograd, and `3 (M + 1)` for a score net on either.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`; its `.grad` fields are not modified.
        x: samples `[B, ...]`, at least `2 chunks`; several hundred per chunk are recommended.
        counts: numbers of projections to measure.
        chunks: number of chunks, at least two; leftover rows are not used.
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score" or "auto".
        generator: source of the directions.
        backend: "auto" or the name of a backend.
        options: options of `fastssm.sliced_loss`: `projection`, `variance_reduced`.

    Returns:
        A `ProjectionStudy`, which prints as a table.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not match, there are too few samples, or no parameter requires a
            gradient.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> study = projection_study(net, torch.randn(256, 2), counts=[1, 2])
        >>> [row.cost for row in study.rows] == [1, 4 / 3]
        True

    Source: McCandlish et al. 2018, "An empirical model of large-batch training", section 2.2 (the noise scale).
    """
    checks.check_module(model)
    request = backends.make_request(model, x, cond, kind)
    chosen = backends.select(request, "objective", backend)
    for count in counts:
        checks.check_count("each of counts", count)
    checks.check_count("chunks", chunks)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if chunks < 2 or not counts or not parameters:
        raise ValueError(
            "projection_study needs at least two chunks, one count and one parameter with requires_grad=True, got "
            f"chunks={chunks}, counts={list(counts)} and {len(parameters)} parameter(s)."
        )
    check_samples(x, 2 * chunks)
    size = len(x) // chunks

    def gradient(chunk: int, count: int) -> Tensor:
        rows = slice(chunk * size, (chunk + 1) * size)
        part = request.at(x[rows].detach(), lambda c: c[rows])
        loss = sliced_loss(
            model, part.x, cond=part.kwargs or part.cond or None, n_projections=count, kind=kind, generator=generator,
            backend=backend, **options,
        )  # fmt: skip
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten().double() for g in grads])

    spreads = [_spread([(gradient(k, m), gradient(k, m)) for k in range(chunks)], size) for m in counts]
    return _study(counts, spreads, _costs(counts, _is_energy(request), isinstance(chosen, backends.OnePass)))


class _Spread(NamedTuple):
    """Squared norm of the gradient, and the variances of one sample's gradient due to data and directions."""

    signal: float
    data: float
    directions: float


def _spread(pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> _Spread:
    """Return unbiased estimates of all three from two gradients of each chunk of `size` samples."""
    count = len(pairs)
    first, second = (sum(pair[i] for pair in pairs) / count for i in (0, 1))
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    directions = sum(float((a - b).square().sum()) for a, b in pairs) / (2 * count)
    shared, overlap = sum(float(a @ b) for a, b in pairs) / count, float(first @ second)
    data = (shared - overlap) * count / (count - 1)
    return _Spread(overlap - data / count, data * size, directions * size)


def _costs(counts: Sequence[int], energy: bool, fused: bool) -> list[float]:
    """Return the matrix products per sample for each number of projections, relative to the first."""
    fixed = 2 if energy and fused else 1
    return [(count + fixed) / (counts[0] + fixed) for count in counts]


def _study(counts: Sequence[int], spreads: Sequence[_Spread], costs: Sequence[float]) -> ProjectionStudy:
    signal, data = (sum(spread[i] for spread in spreads) / len(spreads) for i in (0, 1))
    noises = [max(data, 0.0) + spread.directions for spread in spreads]
    rows = tuple(
        ProjectionRow(
            n_projections=count,
            noise=noise,
            directions=spread.directions / noise if noise else 0.0,
            noise_scale=noise / signal if signal > 0 else math.inf,
            cost=cost,
            work=cost * noise / noises[0] if noise else cost,
        )
        for count, spread, noise, cost in zip(counts, spreads, noises, costs, strict=True)
    )
    best, first = min(rows, key=lambda row: (row.work, row.n_projections)), rows[0]
    reason = (
        f"use {best.n_projections}: with {first.n_projections}, {first.directions:.0%} of the gradient variance is due "
        f"to directions; cost × noise is smallest at {best.n_projections} ({best.work:.2f})"
    )
    return ProjectionStudy(rows, best.n_projections, reason)


@torch.no_grad()
def _is_energy(request: backends.Request) -> bool:
    if request.kind != "auto":
        return request.kind == "energy"
    output = request.at(request.x[:1], lambda c: c[:1]).output()
    checks.check_output(output)
    return checks.kind_of_output(output.shape, request.x[:1].shape, "auto") == "energy"
