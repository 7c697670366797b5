"""Annealed importance sampling of the likelihood of binary rows under decoders (Neal 2001, Wu et al. 2017)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAPS = 2


def log_likelihood(decoder: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    """Return the log-probability of binary digits given codes."""
    logits = decoder(z)
    return (x * logits - F.softplus(logits)).sum(-1)


class State(NamedTuple):
    """Codes, the log-likelihoods that they give to their digits, and its gradients."""

    z: Tensor
    log: Tensor
    pull: Tensor


def state_of(decoder: nn.Module, z: Tensor, x: Tensor) -> State:
    """Return the state of some codes."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        log = log_likelihood(decoder, at, x)
        (pull,) = torch.autograd.grad(log.sum(), at)
    return State(z, log.detach(), pull)


def moved(decoder: nn.Module, x: Tensor, now: State, beta: float, step: float) -> tuple[State, float]:
    """Return the state after a Hamiltonian step for `exp(-|z|^2 / 2) p(x | z)^beta`, and how many rows took it."""
    momentum = torch.randn_like(now.z)
    before = 0.5 * (now.z.square() + momentum.square()).sum(1) - beta * now.log
    new = now
    momentum = momentum - 0.5 * step * (now.z - beta * now.pull)
    for leap in range(LEAPS):
        new = state_of(decoder, new.z + step * momentum, x)
        momentum = momentum - (1.0 if leap + 1 < LEAPS else 0.5) * step * (new.z - beta * new.pull)
    after = 0.5 * (new.z.square() + momentum.square()).sum(1) - beta * new.log
    taken = torch.rand(len(x)).to(before) < (before - after).exp()
    each = (torch.where(taken if n.ndim == 1 else taken[:, None], n, o) for n, o in zip(new, now, strict=True))
    return State(*each), taken.float().mean().item()


class Annealed(NamedTuple):
    """Log-weights `[chains, B]`, the steps of all levels, and the mean share of steps taken."""

    weights: Tensor
    steps: list[float]
    acceptance: float


@torch.no_grad()
def annealed(
    decoder: nn.Module, x: Tensor, latent: int, chains: int, levels: int, steps: list[float] | None = None
) -> Annealed:
    """Draw codes from the prior and move them to the posterior, level by level.

    Args:
        decoder: the logits of a digit, of its code.
        x: binary digits.
        latent: length of a code.
        chains: for each digit.
        levels: temperatures, logistic between -4 and 4, as in the code of Song et al. 2019.
        steps: one for each level; if None, they follow the share of steps taken, which makes weights for no use.
    """
    rows = x.repeat(chains, 1)
    betas = torch.linspace(-4.0, 4.0, levels + 1, dtype=torch.float64).sigmoid()
    betas = ((betas - betas[0]) / (betas[-1] - betas[0])).tolist()
    state = state_of(decoder, torch.randn(len(rows), latent).to(x), rows)
    weights, step, used, total = torch.zeros_like(state.log), 0.5, list[float](), 0.0
    for level in range(levels):
        weights += (betas[level + 1] - betas[level]) * state.log
        step = step if steps is None else steps[level]
        state, taken = moved(decoder, rows, state, betas[level + 1], step)
        used.append(step)
        step *= math.exp(0.5 * (taken - 0.65))
        total += taken / levels
    return Annealed(weights.reshape(chains, len(x)), used, total)
