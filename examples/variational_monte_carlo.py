"""Find ground states of quantum systems by variational Monte Carlo, with the Laplacian of a neural wave function.

The local energy of a wave function `psi > 0` is `E(x) = -(lap log psi + |d log psi / dx|^2) / 2 + V(x)`. Its mean over
`psi^2` is at least the energy of the ground state, for which it is constant. `fastssm.laplacian` returns both
derivatives in one pass, and `fastssm.sampling.langevin` draws from `psi^2`. The exact energies are 3 for two particles
in a harmonic trap, -1/2 for hydrogen, and 2 for two electrons that repel each other in a trap of frequency 1/2.

Run `python examples/variational_monte_carlo.py`. On two electrons: Taut 1993, Physical Review A 48, 3561.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastssm
from fastssm.sampling import langevin

WALKERS = 1024


def between(x: Tensor) -> Tensor:
    """Return the distance of two particles, `[B]`."""
    return (x[:, :3] - x[:, 3:]).norm(dim=1)


class System(NamedTuple):
    """A potential, what `log psi` adds to a network (of x and a decay), and numbers."""

    potential: Callable[[Tensor], Tensor]
    envelope: Callable[[Tensor, Tensor], Tensor]
    dim: int
    decay: float  # where the optimiser starts
    step: float
    exact: float


SYSTEMS = {
    "two particles": System(lambda x: x.square().sum(1) / 2, lambda x, a: -a * x.square().sum(1), 6, 0.3, 0.1, 3.0),
    "hydrogen": System(lambda x: -1 / x.norm(dim=1), lambda x, a: -a * x.norm(dim=1), 3, 0.7, 0.1, -0.5),
    "two electrons": System(
        lambda x: x.square().sum(1) / 8 + 1 / between(x),
        lambda x, a: 0.5 * between(x) / (1 + 0.3 * between(x)) - a * x.square().sum(1),  # slope 1/2 where they meet
        *(6, 0.2, 0.2, 2.0),
    ),
}


class LogPsi(nn.Module):
    """`log psi`, `[B]`: a network and the envelope of a system."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.net = fastssm.nn.MLP(system.dim, [32, 32], activation="silu")
        self.decay, self.envelope = nn.Parameter(torch.tensor(system.decay)), system.envelope

    def forward(self, x: Tensor) -> Tensor:
        """Return `log psi`."""
        return self.net(x)[:, 0] + self.envelope(x, self.decay)


def local_energy(log_psi: nn.Module, x: Tensor, potential: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the local energy, `[B]`."""
    lap, gradient = fastssm.laplacian(log_psi, x, return_gradient=True)
    return -0.5 * (lap + gradient.square().sum(1)) + potential(x)


def minimised(system: System, steps: int) -> Tensor:
    """Lower the energy, and return the local energies, `[steps, B]`; the wave function of the last quarter is fixed."""
    torch.manual_seed(0)
    log_psi, x, seen = LogPsi(system), torch.randn(WALKERS, system.dim), []
    optimiser = torch.optim.Adam(log_psi.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps * 3 // 4)
    for number in range(steps):
        x = langevin(lambda x: -2 * log_psi(x), x, step=system.step, n_steps=5, metropolis=True).x  # log p = -E
        with torch.no_grad():
            energy = local_energy(log_psi, x, system.potential)
        seen.append(energy)
        if number < steps * 3 // 4:
            optimiser.zero_grad()
            (2 * (energy - energy.mean()) * log_psi(x)).mean().backward()  # the gradient of the mean energy
            optimiser.step()
            schedule.step()
    return torch.stack(seen)


def draw(found: dict[str, Tensor], path: Path) -> None:
    """Plot the energies against the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(found), 3.0), layout="constrained", dpi=90)
    for panel, (name, energies) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        exact = SYSTEMS[name].exact
        panel.plot(energies.mean(1), lw=1, color="#0072B2", label="mean local energy")
        panel.axhline(exact, color="k", lw=1, ls=":", label="exact")
        panel.set(title=name, xlabel="step", ylim=(exact - 0.05 * abs(exact), exact + 0.16 * abs(exact)))
    panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main() -> None:
    """Minimise the energy of each system, and compare it with the exact one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/variational_monte_carlo.png"), help="of the figure")
    options = parser.parse_args()
    found = {name: minimised(system, 4 if options.smoke else 240) for name, system in SYSTEMS.items()}
    for name, energies in found.items():
        last = energies[len(energies) * 3 // 4 :].mean(0)  # of each walker
        print(f"{name:>13}: energy {last.mean():7.4f} ± {last.std() / WALKERS**0.5:.4f}, exact {SYSTEMS[name].exact}")
    draw(found, options.out)


if __name__ == "__main__":
    main()
