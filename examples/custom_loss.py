"""Write a custom loss with `fastssm.terms`: score matching on the positive orthant.

Standard score matching is biased for data on x > 0 with mass at the boundary, because integration by parts leaves a
boundary term. The weight `g_j(x) = min(x_j, 1)` of coordinate j vanishes at the boundary and removes the term (Yu,
Drton and Shojaie, 2019):

    J_g = E sum_j [ g_j s_j^2 / 2 + g_j ds_j/dx_j + (dg_j/dx_j) s_j ]

The middle term is a weighted trace, so its sliced form is `w . J w` with the direction `w = sqrt(g) * v`, passed as
`v=`. `fastssm.domain_loss` provides this loss for many domains and weights.

Run `python examples/custom_loss.py`, and with `--figure orthant.png` (needs matplotlib) to plot both scores.
"""

import argparse

import torch

import fastssm


def positive_orthant_loss(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the weighted sliced score matching loss for data on x > 0."""
    weight, slope = x.clamp(max=1), (x < 1).to(x)
    signs = 2.0 * torch.randint_like(x, 2) - 1
    terms = fastssm.terms(net, x, v=weight.sqrt() * signs)
    first_order = weight * terms.score.square() / 2 + slope * terms.score
    return (terms.projected_jacobian + first_order.sum(1)).mean()


def fit(loss_of, steps: int) -> torch.nn.Module:
    """Train an energy on exponentially distributed data, whose true score is -1 in every coordinate."""
    torch.manual_seed(0)
    net = fastssm.nn.MLP(2, [64, 64], activation="softplus")
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = loss_of(net, torch.empty(512, 2).exponential_())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def draw(nets: dict[str, torch.nn.Module], path: str) -> None:
    """Plot the first coordinate of each score along the line on which the second is 1."""
    from matplotlib.figure import Figure

    first = torch.linspace(0, 4, 200)
    line = torch.stack([first, torch.ones_like(first)], 1)
    figure = Figure(figsize=(5, 3.5), layout="constrained", dpi=100)
    panel = figure.subplots()
    for (name, net), colour in zip(nets.items(), ("#D55E00", "#0072B2"), strict=True):
        with torch.no_grad():
            panel.plot(first, fastssm.score(net, line)[:, 0], color=colour, label=name)
    panel.axhline(-1, color="black", linestyle=":", label="true score")
    panel.set(xlabel="$x_1$, with $x_2 = 1$", ylabel="first coordinate of the score", ylim=(-3, 3))
    panel.legend()
    figure.savefig(path)


def main() -> None:
    """Compare the learned score with the true score, with and without the weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--figure", help="path of the figure (default: no figure)")
    options = parser.parse_args()
    steps = 20 if options.smoke else 400

    x = torch.empty(4096, 2).exponential_()
    print("mean squared error of the score of Exp(1) x Exp(1)")
    nets = {}
    for name, loss_of in (("unweighted", fastssm.sliced_loss), ("weighted", positive_orthant_loss)):
        net = nets[name] = fit(loss_of, steps)
        with torch.no_grad():
            error = (fastssm.terms(net, x).score + 1).square().sum(1).mean()
        print(f"{name:>12}: {error:.4f}")
    if options.figure:
        draw(nets, options.figure)


if __name__ == "__main__":
    main()
