"""Compare sliced score matching by double backward, by finite differences, and by the engine and jets.

Two energies of the digits (8 x 8, with the library's noise), a perceptron and a convolutional net: time of a loss and
its gradients, memory, the error against the exact derivatives in float64 along the same directions, and the exact loss
on the test rows after training with each method. Differences move points by 0.1, the default of the authors' code
(`step=0.1 / sqrt(D)`), and by the library's default.

Run `python -m experiments.finite_differences`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastssm
from bench import experiments
from bench.measure import interleaved, peak_mib
from fastssm import data, directions

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
FULL, SMOKE = (400, 6.0), (4, 0.1)
BATCH, DIM = 128, 64


def double_backward(net: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    """Return the sliced loss by two derivatives on the tape of autograd."""
    x = x.detach().requires_grad_()
    (score,) = torch.autograd.grad(-net(x).sum(), x, create_graph=True)
    along = (score * v[0]).sum(1)
    (row,) = torch.autograd.grad(along.sum(), x, create_graph=True)
    return ((row * v[0]).sum(1) + 0.5 * along.square()).mean()


def sliced(backend: str) -> Loss:
    """Return the sliced loss by a backend."""
    return lambda net, x, v: fastssm.sliced_loss(net, x, v=v, variance_reduced=False, backend=backend)  # type: ignore[arg-type]


def differences(step: float | None) -> Loss:
    """Return the sliced loss by finite differences."""
    return lambda net, x, v: fastssm.finite_difference_loss(net, x, v=v, step=step)


METHODS: dict[str, Loss] = {
    "double backward": double_backward,
    "differences, step 0.1 / sqrt(D)": differences(0.1 / math.sqrt(DIM)),
    "differences, step 0.03": differences(None),
    "fastssm jets": sliced("jets"),
    "fastssm cpu": sliced("cpu"),
}


def perceptron() -> nn.Module:
    """Return an energy of flat pictures."""
    return nn.Sequential(nn.Linear(DIM, 256), nn.Softplus(), nn.Linear(256, 256), nn.Softplus(), nn.Linear(256, 1))


def convolutional() -> nn.Module:
    """Return an energy of flat pictures."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 16, 3, padding=1), nn.Softplus()),
        *(nn.Conv2d(16, 32, 3, 2, padding=1), nn.Softplus()),
        *(nn.Flatten(), nn.Linear(512, 64), nn.Softplus(), nn.Linear(64, 1)),
    )


NETS = {"perceptron": perceptron, "convolutional": convolutional}


def draw(x: Tensor) -> Tensor:
    """Return one direction for each sample."""
    return directions.draw("rademacher", (1, *x.shape))


def step_of(loss: Loss, net: nn.Module, x: Tensor, v: Tensor) -> list[Tensor]:
    """Return the loss and its gradients."""
    value = loss(net, x, v)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()), allow_unused=True)]


def gradient_error(found: list[Tensor], truth: list[Tensor]) -> float:
    """Return the error of all gradients relative to their norm; the last bias has none."""
    pairs = [(f.double(), t) for f, t in zip(found[1:], truth[1:], strict=True) if f is not None and t is not None]
    off = sum(float((f - t).square().sum()) for f, t in pairs)
    return math.sqrt(off / sum(float(t.square().sum()) for _, t in pairs))


def trained(loss: Loss, net: nn.Module, sets: data.Prepared, steps: int) -> float:
    """Return the exact loss on the test rows after training."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        x = sets.train[torch.randint(len(sets.train), (BATCH,))]
        x = x + sets.noise * torch.randn_like(x)
        optimiser.zero_grad()
        loss(net, x, draw(x)).backward()
        optimiser.step()
    with torch.no_grad():
        return fastssm.exact_loss(net, sets.test).item()


def rows(seeds: int, steps: int, budget: float) -> Iterator[dict[str, Any]]:
    """Yield one row per seed, net and method that runs it."""
    sets = data.prepare(data.load("digits"))
    for seed in range(seeds):
        for name, make in NETS.items():
            torch.manual_seed(seed)
            net, x = make(), sets.train[:BATCH] + sets.noise * torch.randn(BATCH, DIM)
            v = draw(x)
            usable = {label: f for label, f in METHODS.items() if name == "perceptron" or label != "fastssm cpu"}
            trained(double_backward, net, sets, min(steps, 50))  # errors are those of a net that has learned a little
            truth = step_of(double_backward, copy.deepcopy(net).double(), x.double(), v.double())
            calls = {label: partial(step_of, loss, net, x, v) for label, loss in usable.items()}
            times = interleaved(calls, budget) if seed == 0 else {}
            for label, loss in usable.items():
                found = calls[label]()
                torch.manual_seed(seed)
                fresh = make()
                memory = peak_mib(calls[label]) if seed == 0 else None
                row = {"seed": seed, "net": name, "D": DIM, "batch": BATCH, "method": label, "dtype": "float32"}
                row |= {"ms": f"{times[label].median_ms:.2f}" if times else ""}
                row |= {"mib": "" if memory is None else f"{memory:.1f}"}
                row |= {"loss_error": f"{abs(found[0].item() - truth[0].item()) / abs(truth[0].item()):.2e}"}
                row |= {"gradient_error": f"{gradient_error(found, truth):.2e}", "steps": steps}
                row |= {"final_loss": f"{trained(loss, fresh, sets, steps):.3f}"}
                print(", ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
                yield row


def draw_figure(found: list[dict[str, Any]], out: Path) -> None:
    """Draw the errors of the gradients against the time of a step."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(NETS), figsize=(10, 3.8), sharey=True)
    for axes, name in zip(panels, NETS, strict=True):
        for row in (row for row in found if row["net"] == name and row["ms"]):
            axes.loglog(float(row["ms"]), float(row["gradient_error"]), "o", label=row["method"])
        axes.set(title=name, xlabel="milliseconds of a loss and its gradients")
    panels[0].set_ylabel("relative error of the gradients")
    panels[0].legend(fontsize=8)
    experiments.save(figure, out)


def main() -> None:
    """Run the experiment."""
    experiments.run(
        "finite_differences",
        "Finite differences beside exact derivatives.",
        lambda seeds, smoke: rows(seeds, *(SMOKE if smoke else FULL)),
        draw_figure,
        seeds=3,
    )


if __name__ == "__main__":
    main()
