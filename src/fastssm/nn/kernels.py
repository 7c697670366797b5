"""Exponential families of deep kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastssm.nn.mlp import MLP, check_sizes


class KernelExpFamily(nn.Module):
    """An exponential family of a deep kernel, as an energy: linear in its coefficients alpha.

    `E(x) = -sum_m alpha_m k(x, z_m) - log q0(x)`, with the inducing points `z_m`, a normal density `q0` with mean
    `base_mean` and standard deviations `exp(base_log_scale)`, and the kernel

        k(x, y) = sum_r w_r exp(-|f_r(x) - f_r(y)|^2 / (2 l_r^2)),

    where `f_r` is a network of softplus layers plus a linear map. The kernel is bounded, so that `exp(-E)` can be
    normalised. Every part is a parameter. `fastssm.basis_coefficients` finds the alpha that minimises a sliced loss;
    pass it as `cond=alpha[None]` to differentiate a loss through it, or copy it to `alpha`.

    Args:
        inducing: inducing points `[F, D]`, for example rows of the data; their dtype and device are those of the
            parameters.
        components: number of kernels in the sum.
        widths: hidden widths of each network.
        out_features: width of its output.

    Shape:
        `x` is `[B, D]`, `alpha` `[B, F]` or `[1, F]`; the energy is `[B]`.

    Raises:
        TypeError: if inducing is not a floating-point tensor, or a size not an integer.
        ValueError: if inducing is not a finite matrix, or a size is not positive.

    Example:
        >>> family = KernelExpFamily(torch.randn(20, 2))
        >>> family(torch.zeros(5, 2)).shape
        torch.Size([5])

    Source: Wenliang et al. 2019, "Learning deep kernels for exponential family densities", section 3; their base
        density has a learned power in place of the square.
    """

    def __init__(
        self, inducing: Tensor, components: int = 3, widths: Sequence[int] = (30, 30), out_features: int = 30
    ) -> None:
        super().__init__()
        _check_inducing(inducing)
        check_sizes(list(widths), components=components, out_features=out_features)
        count, dim = inducing.shape
        self.inducing = nn.Parameter(inducing.detach().clone())
        self.alpha = nn.Parameter(torch.zeros(count))
        self.networks = nn.ModuleList(MLP(dim, list(widths), out_features) for _ in range(components))
        self.maps = nn.ModuleList(nn.Linear(dim, out_features, bias=False) for _ in range(components))
        self.log_weights = nn.Parameter(torch.full((components,), -math.log(components)))
        self.log_lengths = nn.Parameter(torch.linspace(-1.0, 1.0, components + 2)[1:-1].clone())
        self.base_mean = nn.Parameter(torch.zeros(dim))
        self.base_log_scale = nn.Parameter(torch.zeros(dim))
        self.to(inducing.device, inducing.dtype)

    def features(self, x: Tensor) -> Tensor:
        """Return `k(x, z_m)` for every inducing point, `[B, F]`."""
        parts = []
        for net, linear, length, weight in zip(
            self.networks, self.maps, self.log_lengths, self.log_weights, strict=True
        ):
            at, of = (net(points) + linear(points) for points in (x, self.inducing))
            at, of = at * (-length).exp(), of * (-length).exp()
            gap = at.square().sum(1, keepdim=True) + of.square().sum(1) - 2.0 * (at @ of.mT)
            parts.append(weight.exp() * (-0.5 * gap).exp())
        total: Tensor = sum(parts[1:], parts[0])
        return total

    def log_base(self, x: Tensor) -> Tensor:
        """Return `log q0(x)`, `[B]`."""
        off = (x - self.base_mean) * (-self.base_log_scale).exp()
        constant = self.base_log_scale.sum() + 0.5 * math.log(2 * math.pi) * len(self.base_mean)
        return -0.5 * off.square().sum(1) - constant

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Return the energy `[B]`, of the coefficients `[B, F]` or `[1, F]` if they are given.

        Raises:
            ValueError: if the coefficients have another shape.
        """
        if alpha is not None and (alpha.ndim != 2 or alpha.shape[1] != len(self.alpha)):
            raise ValueError(
                f"alpha must be [1, {len(self.alpha)}] or one row per sample, got {tuple(alpha.shape)}; pass "
                "cond=alpha[None] for one vector of coefficients."
            )
        return -((self.alpha if alpha is None else alpha) * self.features(x)).sum(1) - self.log_base(x)


def _check_inducing(inducing: object) -> None:
    if not isinstance(inducing, Tensor):
        raise TypeError(f"inducing must be a torch.Tensor, got {type(inducing).__name__}; use torch.as_tensor.")
    if not inducing.is_floating_point():
        raise TypeError(f"inducing must be floating point, got {inducing.dtype}; use inducing.float().")
    if inducing.ndim != 2 or 0 in inducing.shape:
        raise ValueError(
            f"inducing must be [F, D], at least one point of at least one coordinate, got shape "
            f"{tuple(inducing.shape)}; take some rows of the data."
        )
    if not bool(inducing.isfinite().all()):
        raise ValueError("inducing must be finite, got NaN or infinity; drop such rows.")
