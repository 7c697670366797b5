"""Choose the number of projections from the gradient noise while an energy is trained on the white-wine data.

Run `python examples/diagnostics.py`.
"""

import argparse
from pathlib import Path

import torch

import fastssm
from fastssm.data import load, prepare
from fastssm.diagnostics import ProjectionStudy, projection_study, sliced_gap

COUNTS = (1, 2, 4, 8, 16)


def draw(studies: dict[str, ProjectionStudy], path: Path) -> None:
    """Plot the gradient noise and its cost over the number of projections."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=100)
    shares, work = figure.subplots(1, 2)
    for (name, study), colour in zip(studies.items(), ("#999999", "#56B4E9", "#0072B2"), strict=False):
        shares.plot(COUNTS, [100 * row.directions for row in study.rows], "o-", color=colour, label=name)
        work.plot(COUNTS, [row.work for row in study.rows], "o-", color=colour, label=name)
        best = next(row for row in study.rows if row.n_projections == study.recommended)
        work.plot([best.n_projections], [best.work], "*", ms=14, color=colour)
    for axes in (shares, work):
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.set_xlabel("projections per sample")
        axes.spines[["top", "right"]].set_visible(False)
    shares.set(ylabel="% of the gradient variance", title="noise due to directions")
    work.set(
        ylabel="cost × noise, one projection = 1", title="cost of a precise gradient (star: minimum)", ylim=(0, None)
    )
    shares.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Train in stages, and measure the gradient noise at each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/diagnostics.png"), help="where the figure goes")
    options = parser.parse_args()
    torch.manual_seed(0)
    prepared = prepare(load("white-wine"))
    net = fastssm.nn.MLP(prepared.train.shape[1], [128, 128], activation="softplus")
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    studies, done = {}, 0
    for until in (0, 10, 20) if options.smoke else (0, 300, 3000):
        for _ in range(until - done):
            batch = prepared.train[torch.randint(len(prepared.train), (256,))]
            loss = fastssm.sliced_loss(net, batch + prepared.noise * torch.randn_like(batch))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        done = until
        rows = prepared.train + prepared.noise * torch.randn_like(prepared.train)
        studies[f"after {until} steps"] = study = projection_study(net, rows, counts=COUNTS)
        print(f"after {until} steps\n{study}\n")
    print(sliced_gap(net, prepared.test))
    draw(studies, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
