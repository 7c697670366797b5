"""What the engines run: a network of affine maps, activations and skips, and why a module is not one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastssm.activations import Activation
from fastssm.compiling import constant_of_a_module
from fastssm.nn import MLP
from fastssm.options import Model

Modulation = tuple[Tensor | None, Tensor | None]  # scale and shift
_UNMODULATED: list[Modulation] = [(None, None)]


class Layer(NamedTuple):
    """One layer as tensors: `z = scale * (W h + b) + shift`, `h' = f(z) (+ h where skip)`."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    activation: Activation
    constants: tuple[float, ...]
    skip: bool


class LayerSpec(NamedTuple):
    """One layer as structure: the module that holds the affine map (None: the identity), and what follows it."""

    linear: nn.Linear | None
    activation: Activation
    constants: tuple[float, ...]
    skip: bool = False


@dataclass(frozen=True)
class Network:
    """A module that the engines can run.

    Attributes:
        specs: the layers, first to last.
        linears: the modules that hold their affine maps.
        flattens: whether the module flattens its input itself, so that data of any shape may enter.
        conditioned: the `MLP` whose conditioning arguments enter, None when the module takes `x` alone.
        component: the only output that is wanted, None for all.
    """

    specs: tuple[LayerSpec, ...]
    linears: tuple[nn.Linear, ...]
    flattens: bool
    conditioned: MLP | None = None
    component: int | None = None

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.linears[-1].out_features if self.component is None else 1

    @property
    def in_features(self) -> int:
        """Number of data coordinates, without conditioning columns."""
        first = self.linears[0].in_features
        if self.conditioned is None or self.conditioned.modulation is not None:
            return first
        return first - self.conditioned.cond_features

    @property
    def curved(self) -> bool:
        """Whether some activation is nonlinear in its derivative: without one, an energy has no curvature."""
        return any(spec.activation.curved for spec in self.specs)

    def conditioning(self, cond: tuple[Tensor | None, ...]) -> tuple[Tensor | None, list[Modulation]]:
        """Return the conditioning columns to append to `x`, and the scale and shift of every layer."""
        model = self.conditioned
        features = None if model is None else model.features(*cond)
        if model is None or model.modulation is None or features is None:
            return features, _UNMODULATED * len(self.specs)
        return None, model.modulations(features) + _UNMODULATED

    def read(self, cond: tuple[Tensor | None, ...], _: Model | None = None) -> tuple[list[Layer], Tensor | None]:
        """Return the layers as tensors, read once, and the conditioning columns to append to `x`."""
        columns, modulations = self.conditioning(cond)
        layers = [
            Layer(*self.affine(spec), scale, shift, spec.activation, spec.constants, spec.skip)
            for spec, (scale, shift) in zip(self.specs, modulations, strict=True)
        ]
        return self._wanted(layers), columns

    def only(self, component: int) -> Network | Refusal:
        """Return the network of one of the outputs."""
        if self.specs[-1].skip:
            return Refusal(("one output of a last layer with a skip is not a layer",))
        return replace(self, component=component)

    def _wanted(self, layers: list[Layer]) -> list[Layer]:
        """Return layers whose last has only the output that is wanted."""
        if self.component is None:
            return layers
        one, last = slice(self.component, self.component + 1), layers[-1]
        bias = None if last.bias is None else last.bias[one]
        scale, shift = [None if t is None else t[:, one] for t in (last.scale, last.shift)]
        return [*layers[:-1], last._replace(weight=last.weight[one], bias=bias, scale=scale, shift=shift)]

    def affine(self, spec: LayerSpec) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias of a layer."""
        return self._identity(spec) if spec.linear is None else _read(spec.linear)

    def _identity(self, spec: LayerSpec) -> tuple[Tensor, None]:
        """Return the identity map of an activation that follows no linear layer."""
        size = next(size for other, size in zip(self.specs, self._sizes(), strict=True) if other is spec)
        like = next(p for linear in self.linears for p in parameters_of(linear) if p is not None)
        return torch.eye(size, dtype=like.dtype, device=like.device), None

    def _sizes(self) -> list[int]:
        sizes, size = [], self.specs[0].linear.in_features if self.specs[0].linear else self.in_features
        for spec in self.specs:
            size = spec.linear.out_features if spec.linear is not None else size
            sizes.append(size)
        return sizes

    def __str__(self) -> str:
        """Describe the network in one line."""
        steps = [f"{s.activation.name}{' + skip' if s.skip else ''}" for s in self.specs]
        widths = [str(self.in_features), *map(str, self._sizes()[:-1]), str(self.out_features)]
        return f"MLP {'-'.join(widths)} ({', '.join(steps)})"


@dataclass(frozen=True)
class Refusal:
    """Why a module is not a `Network`; plain autograd runs it."""

    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """List the reasons."""
        return "not recognised: " + "; ".join(self.reasons)


@constant_of_a_module
def parametrized(module: nn.Module) -> bool:
    """Return whether a module is parametrized; `torch.nn.utils.parametrize.is_parametrized` takes microseconds more."""
    return "parametrizations" in module._modules


def parameters_of(linear: nn.Module) -> Iterable[Tensor | None]:
    """Return the parameters of a layer; `parameters()` is slow, and only parametrized layers need it."""
    return linear.parameters() if parametrized(linear) else linear._parameters.values()


def _read(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Return `linear.weight, linear.bias`, without `__getattr__` where possible: it costs a microsecond each."""
    own, state = linear._parameters, linear.__dict__
    if "weight" in own and "bias" in own and "weight" not in state and "bias" not in state:
        return own["weight"], own["bias"]  # type: ignore[return-value]
    return linear.weight, linear.bias
