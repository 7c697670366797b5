"""Write a loss of your own from `fastssm.terms`: score matching on the positive orthant.

Data on x > 0 with mass at the edge break ordinary score matching: its integration by parts leaves a boundary term.
Weighting coordinate j by `g_j(x) = min(x_j, 1)`, which vanishes at the edge, removes it (Yu, Drton and Shojaie, 2019):

    J_g = E sum_j [ g_j s_j^2 / 2 + g_j ds_j/dx_j + (dg_j/dx_j) s_j ]

The middle term is a weighted trace, so its sliced form is `w . J w` with the direction `w = sqrt(g) * v`: nothing but
another `v=`. (`fastssm.domain_loss` is this loss on many domains and with many weights.)

Run `python examples/custom_loss.py`.
"""

import argparse

import torch

import fastssm


def positive_orthant_loss(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the weighted sliced score matching loss of data on x > 0."""
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


def main() -> None:
    """Compare the learnt score with the truth, with and without the weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    steps = 20 if parser.parse_args().smoke else 400

    x = torch.empty(4096, 2).exponential_()
    print("mean squared error of the score of Exp(1) x Exp(1)")
    for name, loss_of in (("unweighted", fastssm.sliced_loss), ("weighted", positive_orthant_loss)):
        net = fit(loss_of, steps)
        with torch.no_grad():
            error = (fastssm.terms(net, x).score + 1).square().sum(1).mean()
        print(f"{name:>12}: {error:.4f}")


if __name__ == "__main__":
    main()
