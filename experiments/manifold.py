"""Recover the concentrations of densities on the sphere and the torus by score matching, exact and sliced.

Energies linear in their parameters, `kappa mu . x` for von Mises-Fisher densities on the sphere of D = 3 and 10
coordinates, and `kappa cos(x - mu)` for von Mises densities of two angles, are trained by L-BFGS on 4,000 samples. The
estimate of Mardia, Kent and Laha 2016 in closed form, and maximum likelihood, are for comparison.

Run `python -m experiments.manifold`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastssm
from bench import experiments

FULL, SMOKE = ((1.0, 4.0, 16.0), 4_000), ((4.0,), 500)
FORMS: dict[str, dict[str, Any]] = {"exact": {"exact": True}, "sliced": {"n_projections": 1}}


def features(x: Tensor, manifold: str) -> Tensor:
    """Return what the energy is linear in."""
    return x if manifold == "sphere" else torch.cat([x.cos(), x.sin()], 1)


class Linear(nn.Module):
    """`log p = theta . features`."""

    def __init__(self, manifold: str, count: int) -> None:
        super().__init__()
        self.manifold, self.theta = manifold, nn.Parameter(torch.zeros(count, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        return -features(x, self.manifold) @ self.theta


def von_mises_fisher(dim: int, kappa: float, count: int) -> Tensor:
    """Draw unit vectors around the first axis, by the rejection sampler of Wood 1994."""
    b = (dim - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (dim - 1) ** 2))
    x0 = (1 - b) / (1 + b)
    c = kappa * x0 + (dim - 1) * math.log(1 - x0**2)
    heights = torch.zeros(0, dtype=torch.float64)
    beta = torch.distributions.Beta(*(torch.tensor((dim - 1) / 2, dtype=torch.float64),) * 2)
    while len(heights) < count:
        z = beta.sample((count,))
        w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        kept = kappa * w + (dim - 1) * (1 - x0 * w).log() - c >= torch.rand_like(w).log()
        heights = torch.cat([heights, w[kept]])
    w = heights[:count, None]
    side = nn.functional.normalize(torch.randn(count, dim - 1, dtype=torch.float64), dim=1)
    return torch.cat([w, (1 - w.square()).clamp(min=0).sqrt() * side], 1)


def fitted(x: Tensor, manifold: str, options: dict[str, Any]) -> Tensor:
    """Return the parameters with the least loss; directions are drawn once."""
    model = Linear(manifold, features(x[:1], manifold).shape[1])
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")
    seed = int(torch.randint(2**31, ()))

    def closure() -> Tensor:
        optimiser.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        loss = fastssm.manifold_loss(model, x, manifold=manifold, kind="energy", generator=generator, **options)
        loss.backward()
        return loss

    optimiser.step(closure)
    return model.theta.detach()


def closed_form(x: Tensor, manifold: str) -> Tensor:
    """Return the minimum of the exact loss: the Laplacian of each feature, over the products of their gradients."""
    if manifold == "sphere":
        dim = x.shape[1]
        return (dim - 1) * torch.linalg.solve(torch.eye(dim).double() - x.mT @ x / len(x), x.mean(0))
    found = []
    for angle in x.T:
        s, c = angle.sin(), angle.cos()
        products = torch.stack([torch.stack([s * s, -s * c]), torch.stack([-s * c, c * c])]).mean(2)
        found.append(torch.linalg.solve(products, torch.stack([c.mean(), s.mean()])))
    return torch.stack(found, 1).flatten()


def likelihood_fit(x: Tensor, manifold: str, concentrations: Callable[[Tensor], Tensor]) -> float:
    """Return the concentration whose mean resultant length is that of the samples, by bisection."""
    mean = x.mean(0).norm() if manifold == "sphere" else features(x[:, :1], manifold).mean(0).norm()
    low, high = torch.tensor(1e-3).double(), torch.tensor(200.0).double()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if concentrations(middle) < mean else (low, middle)
    return float(low)


def resultant(dim: int) -> Callable[[Tensor], Tensor]:
    """Return the mean of `mu . x` as a function of kappa, by quadrature over the height."""
    angle = (torch.arange(4000, dtype=torch.float64) + 0.5) * math.pi / 4000

    def length(kappa: Tensor) -> Tensor:
        weight = (kappa * (angle.cos() - 1)).exp() * angle.sin() ** (dim - 2)
        return (weight * angle.cos()).sum() / weight.sum()

    return length


def rows(seeds: int, kappas: tuple[float, ...], count: int) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, manifold, concentration and estimator."""
    settings = [("sphere", "von Mises-Fisher, D = 3", 3), ("sphere", "von Mises-Fisher, D = 10", 10)]
    for seed in range(seeds):
        for manifold, name, dim in (*settings, ("torus", "von Mises, two angles", 2)):
            for kappa in kappas:
                torch.manual_seed(seed)
                if manifold == "sphere":
                    x = von_mises_fisher(dim, kappa, count)
                else:
                    x = torch.distributions.VonMises(torch.tensor([0.5, -2.0]).double(), kappa).sample((count,))
                found = {form: fitted(x, manifold, options) for form, options in FORMS.items()}
                found["closed form"] = closed_form(x, manifold)
                lengths = {
                    form: float(theta.norm() if manifold == "sphere" else theta[::2].norm())
                    for form, theta in found.items()
                }
                lengths["maximum likelihood"] = likelihood_fit(x, manifold, resultant(dim))
                for estimator, value in lengths.items():
                    row = {"seed": seed, "density": name, "kappa": f"{kappa:g}", "n": count, "estimator": estimator}
                    row |= {"dtype": "float64", "estimate": f"{value:.5f}", "relative": f"{value / kappa:.5f}"}
                    print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
                    yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the estimates relative to the true concentration."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["density"] for row in found))
    figure, panels = plt.subplots(1, len(names), figsize=(12, 3.4), sharey=True)
    for axes, name in zip(panels, names, strict=True):
        for index, estimator in enumerate(dict.fromkeys(row["estimator"] for row in found)):
            mine = [row for row in found if (row["density"], row["estimator"]) == (name, estimator)]
            places = [float(row["kappa"]) * 1.1**index for row in mine]
            axes.semilogx(places, [float(row["relative"]) for row in mine], ".", label=estimator)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set(title=name, xlabel="concentration")
    panels[0].set_ylabel("estimate / truth")
    panels[0].legend(fontsize=8)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "manifold",
        "Concentrations on sphere and torus.",
        lambda seeds, smoke: rows(seeds, *(SMOKE if smoke else FULL)),
        draw_figure,
        seeds=10,
    )


if __name__ == "__main__":
    main()
