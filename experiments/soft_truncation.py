"""Train diffusion models with and without soft truncation: likelihoods, samples, and the loss over time.

The noise of a variance-preserving (VP) and of the reciprocal variance-exploding diffusion (RVE) is learned on the
digits of 8 x 8 pixels, mapped to (-1, 1), and on the white wine, by the denoising form of the bound: from the earliest
time on (`none`), or from a random time on, `P(tau) ~ tau^-k`. Held-out rows are evaluated by the bound and by the
density of the probability flow, and samples by their energy distance to held-out rows. Rows whose `what` is `time`
have the error of the noise at a time, and the mean and the deviation over samples of what the bound weights it to.

Run `python -m experiments.soft_truncation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastssm.data
import fastssm.nn
from bench import experiments
from fastssm.diffusion import (
    VP,
    ElboLoss,
    LinearSDE,
    ReciprocalVE,
    SoftTruncation,
    TimeSampling,
    elbo,
    flow_log_prob,
    probability_flow,
)

START, BATCH, GREYS = 1e-5, 128, 17
POWERS = (None, 0.8, 1.0, 1.2, 2.0)
SDES: dict[str, LinearSDE] = {"VP": VP(), "RVE": ReciprocalVE(0.01, 20.0, eta=1e-5, eps=START)}


class Size(NamedTuple):
    """What a run costs."""

    steps: int
    width: int
    rows: int
    n_times: int
    solver_steps: int
    points: int


FULL = Size(1000, 96, 300, 64, 25, 13)
SMOKE = Size(3, 8, 20, 2, 2, 3)


class Rows(NamedTuple):
    """Training and test rows, the noise that each batch adds, and what to add to bits per dimension."""

    train: Tensor
    test: Tensor
    noise: float
    bits: float


def rows_of(name: str, count: int) -> Rows:
    """Return a data set; the digits without noise but that of dequantisation, for bits per grey value."""
    if name == "digits":
        prepared = fastssm.data.prepare(fastssm.data.load(name), noise=0.0)
        return Rows(2 * prepared.train - 1, (2 * prepared.test - 1)[:count], 0.0, math.log2(GREYS / 2))
    prepared = fastssm.data.prepare(fastssm.data.load(name))
    return Rows(prepared.train, prepared.test[:count], prepared.noise, 0.0)


def times_of(power: float | None) -> TimeSampling:
    """Return the times of training."""
    return TimeSampling(t_min=START if power is None else SoftTruncation(k=power, eps=START))


def trained(rows: Rows, sde: LinearSDE, power: float | None, size: Size) -> nn.Module:
    """Learn the noise, and return the moving average of the weights."""
    columns = rows.train.shape[1]
    net = fastssm.nn.MLP(columns, [size.width] * 3, columns, "silu", fourier_time=True, conditioning="film")
    loss = ElboLoss(net, sde=sde, form="denoising", predicts="noise", times=times_of(power))
    optimiser = torch.optim.Adam(loss.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, size.steps)
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    for _ in range(size.steps):
        x = rows.train[torch.randint(len(rows.train), (BATCH,))]
        value = loss(x + rows.noise * torch.randn_like(x))
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(net)
    return mean.module


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return `2 E|x - y| - E|x - x'| - E|y - y'|`, without bias."""
    within = [torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - within[0] - within[1])


def scores(net: nn.Module, sde: LinearSDE, rows: Rows, size: Size) -> dict[str, Any]:
    """Return what held-out rows say of a model."""
    given: dict[str, Any] = {"sde": sde, "predicts": "noise"}
    first = sde.start or 1e-4  # of the flow; RVE has some noise at its start
    generator = torch.Generator().manual_seed(0)
    times = TimeSampling(t_min=START)
    bound = elbo(
        net, rows.test, form="denoising", times=times, n_times=size.n_times, unit="bits", generator=generator, **given
    )
    flow = flow_log_prob(net, rows.test, steps=size.solver_steps, t_min=first, unit="bits", trace="sliced",
                         n_projections=2, generator=generator, **given)  # fmt: skip
    start = sde.prior_sample((1000, rows.test.shape[1]), generator=generator)
    drawn = probability_flow(net, start, steps=size.solver_steps, t_min=first, **given)
    return {
        "bits": f"{bound.mean() + rows.bits:.4f}",
        "flow_bits": f"{flow.median() + rows.bits:.4f}",
        "energy_distance": f"{energy_distance(drawn, rows.test):.4f}",
    }


@torch.no_grad()
def over_time(net: nn.Module, sde: LinearSDE, rows: Rows, size: Size) -> Iterator[dict[str, Any]]:
    """Yield the error of the noise per dimension at each time, and its weight in the bound."""
    generator = torch.Generator().manual_seed(1)
    for step in range(size.points):
        t = torch.full((len(rows.test),), START ** (1 - step / (size.points - 1)))
        z = torch.randn(rows.test.shape, generator=generator)
        found = net(sde.perturb(rows.test, t, z), sde.condition(t))
        each = 0.5 * (found - z).square().mean(1)
        weighted = float(sde.noise_ratio_rate(t)[0]) * each
        yield {"t": f"{float(t[0]):.3g}", "error": f"{each.mean():.5g}", "weighted": f"{weighted.mean():.5g}",
               "weighted_std": f"{weighted.std():.5g}"}  # fmt: skip


def rows(seeds: int, size: Size) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, data set, diffusion and truncation, and one per time."""
    for seed in range(seeds):
        for name in ("digits", "white-wine"):
            data = rows_of(name, size.rows)
            for kind, sde in SDES.items():
                for power in POWERS:
                    torch.manual_seed(seed)
                    row: dict[str, Any] = {"seed": seed, "data": name, "D": data.train.shape[1], "sde": kind}
                    row |= {"k": "none" if power is None else f"{power:g}", "steps": size.steps, "B": BATCH}
                    net = trained(data, sde, power, size)
                    found = row | {"what": "model"} | scores(net, sde, data, size)
                    print(", ".join(f"{key} {cell}" for key, cell in found.items()), flush=True)
                    yield found
                    yield from (row | {"what": "time"} | point for point in over_time(net, sde, data, size))


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the loss over time of the digits, its noise, what soft truncation makes of it, and the errors learned."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(12, 6.4))
    for line, kind in zip(panels, SDES, strict=True):
        mine = [row for row in found if (row["data"], row["sde"], row["what"]) == ("digits", kind, "time")]
        times = list(dict.fromkeys(row["t"] for row in mine))
        t = torch.tensor([float(time) for time in times])

        def mean(value: str, power: str, mine: list[dict[str, Any]] = mine, times: list[str] = times) -> Tensor:
            wanted = [[float(r[value]) for r in mine if r["k"] == power and r["t"] == time] for time in times]
            return torch.tensor(wanted).mean(1)

        for power in POWERS:
            name = "none" if power is None else f"{power:g}"
            kept = torch.ones_like(t) if power is None else SoftTruncation(k=power, eps=START).weight(t)
            kept[kept == 0] = math.nan  # left out
            line[0].plot(t, kept * mean("weighted", name), "o-", markersize=3, label=f"k = {name}")
            line[1].plot(t, kept * mean("weighted_std", name), "o-", markersize=3)
            line[2].plot(t, mean("error", name) / mean("error", "none"), "o-", markersize=3)
        for panel, title in zip(line, ("loss", "deviation of the loss", "error by that of k = none"), strict=True):
            panel.set(xscale="log", xlabel="t", title=f"{kind}: {title}")
        line[0].set_yscale("log")
        line[1].set_yscale("log")
    panels[0, 0].legend(fontsize=8)
    experiments.save(figure, out, dpi=110)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "soft_truncation",
        "Bits per dimension with and without soft truncation.",
        lambda seeds, smoke: rows(seeds, SMOKE if smoke else FULL),
        draw_figure,
        seeds=2,
    )


if __name__ == "__main__":
    main()
