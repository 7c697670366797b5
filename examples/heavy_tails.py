"""Estimate heavy tails with preconditioned score matching.

Student's t has the score `-2 a x / (b + |x|^2)`, which decays in the tail, as does the contribution of the tail to the
loss. The metric `D(x) = (3 + |x|^2) I` gives the tail more weight, and with `div D = 2 x` the loss remains exact. Both
losses fit `E(x) = a log(1 + |x|^2 / b)` to many small samples, and are compared with maximum likelihood.

Run `python examples/heavy_tails.py`.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import fastssm

DIM, FREEDOM, SAMPLES = 2, 3, 500
EXPONENT, SCALE = (FREEDOM + DIM) / 2, float(FREEDOM)


class StudentT(nn.Module):
    """`E = a log(1 + |x|^2 / b)`."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy."""
        a, b = self.logs.exp()
        return a * torch.log1p(x.square().sum(1) / b)


def metric(x: Tensor) -> Tensor:
    """Return the diagonal of `D(x) = (3 + |x|^2) I`."""
    return (3 + x.square().sum(1, keepdim=True)).expand_as(x)


def likelihood(model: StudentT, x: Tensor) -> Tensor:
    """Return the mean of `E + log Z`; `a > D / 2`."""
    a, b = model.logs.exp()
    return model(x).mean() + DIM / 2 * (math.pi * b).log() + torch.lgamma(a - DIM / 2) - torch.lgamma(a)


LOSSES: dict[str, Callable[[StudentT, Tensor], Tensor]] = {
    "score matching": fastssm.exact_loss,
    "preconditioned": partial(fastssm.preconditioned_loss, precond=metric, exact=True),
    "maximum likelihood": likelihood,
}


def draw_sample(generator: torch.Generator) -> Tensor:
    """Draw `[500, 2]` from Student's t with three degrees of freedom."""
    z = torch.randn(SAMPLES, DIM, generator=generator, dtype=torch.float64)
    chi = torch.randn(SAMPLES, FREEDOM, generator=generator, dtype=torch.float64).square().sum(1, keepdim=True)
    return z * (FREEDOM / chi).sqrt()


def fitted(loss_of: Callable[[StudentT, Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a and b at the minimum of a loss."""
    model = StudentT()
    nn.init.constant_(model.logs, 1.0)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        return float(loss.detach())

    optimiser.step(closure)
    return model.logs.detach().exp()


def picture(found: dict[str, Tensor], path: Path) -> None:
    """Plot the estimates of the exponent and the scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), layout="constrained", dpi=110)
    colours = dict(zip(found, ("#D55E00", "#0072B2", "#666666"), strict=True))
    for panel, index, truth, name in zip(figure.subplots(1, 2), (0, 1), (EXPONENT, SCALE), "ab", strict=True):
        bins = torch.logspace(math.log10(truth / 3), math.log10(3 * truth), 40).numpy()
        for method, estimates in found.items():
            shown = estimates[:, index].clamp(truth / 2.99, 2.99 * truth).numpy()
            panel.hist(shown, bins=bins, histtype="step", color=colours[method], lw=1.6, label=method)
        panel.axvline(truth, color="k", lw=1, ls=":")
        panel.set(xscale="log", xlabel=f"estimate of {name} (outer bins: and beyond)", ylabel="samples of 500")
        ticks = [truth / 2, truth, 2 * truth]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Fit each sample with each loss, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few samples, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/heavy_tails.png"), help="where the figure goes")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    samples = [draw_sample(generator) for _ in range(2 if options.smoke else 200)]
    found = {name: torch.stack([fitted(loss_of, x) for x in samples]) for name, loss_of in LOSSES.items()}
    print(f"{len(samples)} samples of {SAMPLES}: root mean square of the relative error (of the logarithm)")
    for name, estimates in found.items():
        a, b = (estimates.log() - torch.tensor([EXPONENT, SCALE]).log()).square().mean(0).sqrt().tolist()
        print(f"{name:>20}: exponent a {a:.3f}, scale b {b:.3f}")
    try:
        picture(found, options.out)
    except ImportError:
        print("no figure was drawn: matplotlib is not installed (pip install matplotlib)")
    else:
        print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
