"""Train deep kernel exponential families by sliced, denoising and exact score matching and by curvature propagation.

The density is `fastssm.nn.KernelExpFamily`, on the wine and Parkinsons data with the library's split, scaling, noise.
Each step finds alpha in closed form from one half of a batch, and differentiates the loss of the other half through it.
Denoising takes rows without the data set's noise, and its own noise in its place. Of four checkpoints the one with the
least exact loss on validation rows counts; its alpha is found from training rows by the method's own objective.

Run `python -m experiments.kernel_families`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastssm
from bench import experiments
from fastssm import data, directions
from fastssm.nn import KernelExpFamily
from fastssm.sampling import langevin

SETS = ("red-wine", "white-wine", "parkinsons")
CHECKPOINTS = 4


class Size(NamedTuple):
    """Sizes of a run.

    Attributes:
        steps: of training.
        points: inducing points.
        half: samples for alpha, and for the loss, of each step.
        rows: training rows for the last alpha, and test rows at most.
        chains: of the annealed importance sampling.
        levels: its temperatures.
    """

    steps: int
    points: int
    half: int
    rows: int
    chains: int
    levels: int


FULL, SMOKE = Size(200, 100, 100, 1000, 100, 400), Size(4, 10, 20, 50, 10, 3)


def rademacher(x: Tensor) -> Tensor:
    """Return one direction for each sample."""
    return directions.draw("rademacher", (1, *x.shape))


def coordinates(x: Tensor) -> Tensor:
    """Return every coordinate's direction."""
    dim = x.shape[1]
    return math.sqrt(dim) * torch.eye(dim)[:, None].expand(dim, *x.shape)


def propagated(family: KernelExpFamily, x: Tensor, alpha: Tensor) -> Tensor:
    """Return curvature propagation's estimate of the trace of the Hessian of log p, `[B]`, from one draw of noise.

    With the Hessians `C_n` of all nodes n times their adjoints, and the Jacobians `J_n` of the nodes' inputs, the
    Hessian is `sum_n J_n^T C_n J_n`. So `(sum_n J_n^T e_n) . (sum_n J_n^T C_n e_n)` has the trace for its mean.
    """
    x = x.detach().requires_grad_()
    inputs, outputs, curves, total = [], [], [], 0.0
    for net, linear, length, weight in zip(
        family.networks, family.maps, family.log_lengths, family.log_weights, strict=True
    ):
        h, of = x, net(family.inducing) + linear(family.inducing)
        for layer in net.linears:
            z = layer(h)
            h, gate = nn.functional.softplus(z), torch.sigmoid(z)
            inputs, outputs, curves = [*inputs, z], [*outputs, h], [*curves, gate * (1 - gate)]
        at, of = (net.readout(h) + linear(x)) * (-length).exp(), of * (-length).exp()
        gap = -0.5 * (at.square().sum(1, keepdim=True) + of.square().sum(1) - 2.0 * (at @ of.mT))
        kernel = weight.exp() * gap.exp()
        inputs, outputs, curves = [*inputs, gap, at], [*outputs, kernel, gap], [*curves, kernel, None]
        total = total + (kernel * alpha).sum()
    adjoints = torch.autograd.grad(total, outputs, create_graph=True)
    scales = [
        -g.sum(1, keepdim=True).expand_as(z) if c is None else c * g
        for z, c, g in zip(inputs, curves, adjoints, strict=True)
    ]
    noise = [torch.randint(0, 2, z.shape) * 2.0 - 1.0 for z in inputs]
    (left,) = torch.autograd.grad(inputs, x, noise, create_graph=True)
    scaled = [s * e for s, e in zip(scales, noise, strict=True)]
    (right,) = torch.autograd.grad(inputs, x, scaled, create_graph=True)
    return (left * right).sum(1) - (-2 * family.base_log_scale).exp().sum()


class Method(NamedTuple):
    """A method.

    Attributes:
        directions: for alpha.
        loss: of a batch, given alpha.
        sigma: of denoising; 0 otherwise.
    """

    directions: Callable[[Tensor], Tensor]
    loss: Callable[[KernelExpFamily, Tensor, Tensor], Tensor]
    sigma: float = 0.0

    def coefficients(self, family: KernelExpFamily, x: Tensor, ridge: Tensor) -> Tensor:
        """Return alpha of some rows."""
        v, target = self.directions(x), None
        if self.sigma:
            z = torch.randn_like(x)
            x, target = x + self.sigma * z, -(v * z).sum(2) / self.sigma
        return fastssm.basis_coefficients(family.features, x, v, base=family.log_base, target=target, ridge=ridge.exp())


def sliced(variance_reduced: bool) -> Callable[[KernelExpFamily, Tensor, Tensor], Tensor]:
    """Return the sliced loss along one direction."""
    return lambda family, x, alpha: fastssm.sliced_loss(family, x, cond=alpha[None], variance_reduced=variance_reduced)


def propagation_loss(family: KernelExpFamily, x: Tensor, alpha: Tensor) -> Tensor:
    """Return score matching with the trace by curvature propagation."""
    score = fastssm.score(family, x, cond=alpha[None])
    return (propagated(family, x, alpha) + 0.5 * score.square().sum(1)).mean()


def denoising(sigma: float) -> Method:
    """Return denoising score matching."""
    return Method(
        rademacher, lambda family, x, alpha: fastssm.denoising_loss(family, x, cond=alpha[None], sigma=sigma), sigma
    )


METHODS = {
    "SSM": Method(rademacher, sliced(False)),
    "SSM-VR": Method(rademacher, sliced(True)),
    "DSM, sigma 0.05": denoising(0.05),
    "DSM, sigma 0.2": denoising(0.2),
    "CP": Method(rademacher, propagation_loss),
    "exact": Method(coordinates, lambda family, x, alpha: fastssm.exact_loss(family, x, cond=alpha[None])),
}


def rows_of(part: Tensor, count: int, noise: float) -> Tensor:
    """Return random rows with noise."""
    some = part[torch.randint(len(part), (count,))]
    return some + noise * torch.randn_like(some)


def trained(method: Method, sets: data.Prepared, size: Size) -> KernelExpFamily:
    """Return the best checkpoint."""
    noise = 0.0 if method.sigma else sets.noise
    family = KernelExpFamily(rows_of(sets.train, size.points, sets.noise))
    ridge = nn.Parameter(torch.tensor(-4.0))
    optimiser = torch.optim.Adam([*family.parameters(), ridge], lr=1e-2)
    best, state = math.inf, family.state_dict()
    for step in range(1, size.steps + 1):
        fit, judge = rows_of(sets.train, 2 * size.half, noise).split(size.half)
        optimiser.zero_grad()
        method.loss(family, judge, method.coefficients(family, fit, ridge)).backward()
        optimiser.step()
        if step % (size.steps // CHECKPOINTS) == 0:
            with torch.no_grad():
                family.alpha.copy_(method.coefficients(family, rows_of(sets.train, size.rows, noise), ridge))
                value = fastssm.exact_loss(family, sets.validation[: size.rows]).item()
            if value < best:
                best, state = value, {name: t.clone() for name, t in family.state_dict().items()}
    family.load_state_dict(state)
    return family


class Between(nn.Module):
    """The energy between the base and the family."""

    def __init__(self, family: KernelExpFamily) -> None:
        super().__init__()
        self.family, self.beta = family, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        return -self.beta * (self.family.features(x) @ self.family.alpha) - self.family.log_base(x)


@torch.no_grad()
def log_normaliser(family: KernelExpFamily, size: Size) -> tuple[float, float, float]:
    """Return log Z by annealed importance sampling from the base, the effective number of chains, and acceptance."""
    x = family.base_mean + family.base_log_scale.exp() * torch.randn(size.chains, len(family.base_mean))
    between, weight, accepted = Between(family), torch.zeros(size.chains), 0.0
    step = 0.02 * (2 * family.base_log_scale).exp().min().item()
    for level in range(1, size.levels + 1):
        weight += family.features(x) @ family.alpha / size.levels
        between.beta = level / size.levels
        moved = langevin(between, x, step=step, n_steps=2, metropolis=True)
        x, accepted = moved.x, accepted + moved.acceptance.mean().item() / size.levels
    found = weight.logsumexp(0) - math.log(size.chains)
    effective = (2 * weight.logsumexp(0) - (2 * weight).logsumexp(0)).exp()
    return found.item(), effective.item(), accepted


def rows(seeds: int, size: Size) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, data set and method."""
    for seed in range(seeds):
        for name in SETS:
            sets = data.prepare(data.load(name))
            for label, method in METHODS.items():
                torch.manual_seed(seed)
                family = trained(method, sets, size)
                test = sets.test[: size.rows]
                with torch.no_grad():
                    loss = fastssm.exact_loss(family, test).item()
                    normaliser, effective, accepted = log_normaliser(family, size)
                    likelihood = -family(test).mean().item() - normaliser
                row = {"seed": seed, "data": name, "D": test.shape[1], "method": label, "dtype": "float32"}
                row |= {**size._asdict(), "loss": f"{loss:.4f}", "log_likelihood": f"{likelihood:.4f}"}
                row |= {"effective_chains": f"{effective:.1f}", "acceptance": f"{accepted:.3f}"}
                print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
                yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the losses and likelihoods of all runs."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(SETS), figsize=(10, 5.5), sharex=True)
    for column, name in enumerate(SETS):
        for axes, value in zip(panels[:, column], ("loss", "log_likelihood"), strict=True):
            mine = [row for row in found if row["data"] == name]
            axes.plot([row["method"] for row in mine], [float(row[value]) for row in mine], "o")
            axes.tick_params(axis="x", rotation=60)
            axes.set_ylabel(value.replace("_", "-"))
        panels[0, column].set_title(name)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "kernel_families",
        "Deep kernel exponential families.",
        lambda seeds, smoke: rows(seeds, SMOKE if smoke else FULL),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
