"""Train diffusion models with three forms of a likelihood bound, and evaluate held-out rows in nats.

A network predicts the noise of a variance-preserving diffusion. It is trained with the sliced form of the bound, the
denoising form, and the denoising form with soft truncation. Held-out rows are evaluated with the bound and with the
exact density of the probability-flow ODE, and compared with a Gaussian fitted to the training rows.

Run `python examples/diffusion_likelihood.py`, and with `--figure likelihood.png` (needs matplotlib) to plot samples
and densities.
"""

import argparse
from pathlib import Path

import torch

import fastssm
import fastssm.data
from fastssm.diffusion import VP, ElboLoss, SoftTruncation, TimeSampling, elbo, flow_log_prob, probability_flow

SDE, T_MIN = VP(), 1e-3
FORMS = {
    "sliced": {"form": "sliced", "times": TimeSampling(t_min=T_MIN)},
    "denoising": {"form": "denoising", "times": TimeSampling(t_min=T_MIN)},
    "soft truncation": {"form": "denoising", "times": TimeSampling(t_min=SoftTruncation(k=1.0, eps=T_MIN))},
}
NOISE = {"sde": SDE, "predicts": "noise"}


def train(rows: torch.Tensor, noise: float, steps: int, form: str) -> torch.nn.Module:
    """Minimise the bound on the negative log-likelihood, and return the moving average of the weights."""
    torch.manual_seed(0)
    columns = rows.shape[1]
    net = fastssm.nn.MLP(columns, [128, 128, 128], columns, "silu", fourier_time=True, conditioning="film")
    objective = ElboLoss(net, sde=SDE, predicts="noise", **FORMS[form])
    optimiser = torch.optim.Adam(objective.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    for _ in range(steps):
        x = rows[torch.randint(len(rows), (256,))]
        loss = objective(x + noise * torch.randn_like(x))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(net)
    return mean.module


def gaussian(train_rows: torch.Tensor, noise: float, test_rows: torch.Tensor) -> torch.Tensor:
    """Return the log-density of test rows under a Gaussian fitted to the training rows."""
    covariance = torch.cov(train_rows.T) + noise**2 * torch.eye(train_rows.shape[1])
    return torch.distributions.MultivariateNormal(train_rows.mean(0), covariance).log_prob(test_rows)


def report(name: str, values: torch.Tensor) -> str:
    """Return a mean and its standard error as text."""
    return f"{name} {values.mean():8.3f} ± {values.std() / len(values) ** 0.5:.3f}"


def study(name: str, steps: int, test: int) -> tuple[fastssm.data.Prepared, torch.nn.Module]:
    """Train on one data set with each form, print held-out nats, and return the model with soft truncation."""
    prepared = fastssm.data.prepare(fastssm.data.load(name))
    rows = prepared.test[:test]
    print(f"\n{name}: nats of {len(rows)} held-out rows (scaled, {rows.shape[1]} columns); more is better")
    print(f"{'fitted Gaussian':>16}  {report('exact', gaussian(prepared.train, prepared.noise, rows))}")
    for form in FORMS:
        net = train(prepared.train, prepared.noise, steps, form)
        times, generator = TimeSampling(t_min=T_MIN), torch.Generator().manual_seed(0)
        bound = elbo(net, rows, n_times=32, times=times, generator=generator, **NOISE)
        flow = flow_log_prob(net, rows, steps=40, solver="heun", t_min=T_MIN, **NOISE)
        print(f"{form:>16}  {report('bound', bound)}   {report('flow', flow)}")
    return prepared, net


def draw(studies: list[tuple[fastssm.data.Prepared, torch.nn.Module]], path: Path, cells: int) -> None:
    """Plot two-dimensional data, and samples and density of the flow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.3, 3.2 * len(studies)), layout="constrained", dpi=90)
    axes = figure.subplots(len(studies), 3, squeeze=False)
    for (prepared, net), row in zip(studies, axes, strict=True):
        torch.manual_seed(1)
        samples = probability_flow(net, SDE.prior_sample((3000, 2)), steps=40, **NOISE)
        reach = 1.15 * float(prepared.test.abs().max())
        line = torch.linspace(-reach, reach, cells)
        grid = torch.cartesian_prod(line, line).flip(1)
        density = flow_log_prob(net, grid, steps=40, **NOISE).exp().reshape(cells, cells)
        row[0].scatter(*prepared.train[:3000].T, s=1.5, linewidths=0, color="#0072B2")
        row[1].scatter(*samples.T, s=1.5, linewidths=0, color="#D55E00")
        row[2].imshow(density, origin="lower", extent=(-reach, reach, -reach, reach), vmax=density.quantile(0.998))
        for panel, title in zip(row, ("data", "samples of the flow", "density of the flow"), strict=True):
            panel.set(xlim=(-reach, reach), ylim=(-reach, reach), title=f"{prepared.dataset.name}: {title}")
            panel.set_box_aspect(1)
            panel.tick_params(labelbottom=False, labelleft=False, length=0)
    figure.savefig(path)
    print(f"\nfigure: {path}")


def main() -> None:
    """Evaluate a toy density and tabular data, and plot the toy density."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--figure", type=Path, help="path of a PNG file of the toy density")
    arguments = parser.parse_args()
    steps, test, cells = (10, 20, 12) if arguments.smoke else (6000, 1000, 80)

    toys = [study(name, steps, test) for name in ("moons",)]
    if arguments.figure:
        draw(toys, arguments.figure, cells)
    study("white-wine", steps, test)


if __name__ == "__main__":
    main()
