"""The same loss in JAX, with value and gradients under one ``jit``; imported only for JAX contenders.

The environment variable NPROC sets the number of threads of JAX when the process starts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from jax import nn
from jax import numpy as jnp

from bench.problems import Answer, Problem
from bench.rivals import energies_only, linears
from bench.steps import FORWARD, Step

Array = Any
Layers = list[tuple[Array, Array]]  # weight and bias, the readout last


def step(name: str, p: Problem, mode: str) -> Step:
    """Compile a rival for a problem: its value, or value and gradient of every weight and bias."""
    energies_only(p)
    layers = [(array(part.weight), array(part.bias)) for part in linears(p.net)]
    loss = partial(RIVALS[name], p.case.activation, p.variance_reduced)
    function = jax.jit(loss if mode == FORWARD else jax.value_and_grad(loss))
    arguments = layers, array(p.x), array(p.v)
    return Step(lambda: jax.block_until_ready(function(*arguments)), read_value if mode == FORWARD else read)


def array(tensor: torch.Tensor) -> Array:
    return jnp.asarray(tensor.detach().numpy())


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def read_value(result: Any) -> Answer:
    return Answer(tensor(result), ())


def read(result: Any) -> Answer:
    value, gradients = result
    return Answer(tensor(value), tuple(tensor(g) for layer in gradients for g in layer))


def jvp_grad(activation: str, variance_reduced: bool, layers: Layers, x: Array, v: Array) -> Array:
    """Forward over reverse, with ``vmap`` over the directions."""
    score = score_function(activation, layers)
    s, rows = over_directions(lambda one: jax.jvp(score, (x,), (one,)), v)
    return sliced((rows * v).sum(-1), (s * v).sum(-1), (s[0] ** 2).sum(-1) if variance_reduced else None)


def jvp_jvp(activation: str, variance_reduced: bool, layers: Layers, x: Array, v: Array) -> Array:
    """Forward over forward; SSM-VR needs one more gradient for the score."""

    def along(one: Array) -> Array:
        slope = lambda point: jax.jvp(partial(energy, activation, layers), (point,), (one,))[1]  # noqa: E731
        return jax.jvp(slope, (x,), (one,))

    slopes, curvatures = over_directions(along, v)
    sqnorm = (score_function(activation, layers)(x) ** 2).sum(-1) if variance_reduced else None
    return sliced(-curvatures, -slopes, sqnorm)


def taylor(activation: str, variance_reduced: bool, layers: Layers, x: Array, v: Array) -> Array:
    """Taylor mode by hand, as in ``bench.rivals``: tangents and one summed curvature, or an adjoint for SSM-VR.

    Values, tangents and curvature use separate products, which is faster here than stacking the rows.
    """
    count, batch = v.shape[:2]
    value, tangents, curvature, record = x, v.reshape(count * batch, -1), None, []
    for weight, bias in layers[:-1]:
        z, image = value @ weight.T + bias, (tangents @ weight.T).reshape(count, batch, -1)
        value, first, second = derivatives(activation, z)
        bend = second * (image * image).sum(0)
        record.append((weight, first, bend))
        curvature = bend if curvature is None else bend + first * (curvature @ weight.T)
        tangents = (first * image).reshape(count * batch, -1)
    readout = layers[-1][0][0]
    if not variance_reduced:
        slopes = (tangents @ readout).reshape(count, batch)
        return sliced(-(curvature @ readout)[None] / count, slopes, None)
    adjoint, total = readout, 0.0
    for weight, first, bend in reversed(record):
        total = total + (bend * adjoint).sum(-1)
        adjoint = (first * adjoint) @ weight
    return ((adjoint**2).sum(-1) / 2 - total / count).mean()


RIVALS: dict[str, Callable[..., Array]] = {"jvp(grad)": jvp_grad, "jvp(jvp)": jvp_jvp, "Taylor": taylor}


def energy(activation: str, layers: Layers, x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = getattr(nn, activation)(x @ weight.T + bias)
    weight, bias = layers[-1]
    return (x @ weight.T + bias)[..., 0]


def score_function(activation: str, layers: Layers) -> Callable[[Array], Array]:
    return jax.grad(lambda x: -energy(activation, layers, x).sum())


def over_directions(function: Callable[[Array], Any], v: Array) -> Any:
    """``vmap`` over the directions, skipped for a single direction."""
    return jax.tree.map(lambda a: a[None], function(v[0])) if len(v) == 1 else jax.vmap(function)(v)


def sliced(jacobian: Array, projected: Array, sqnorm: Array | None) -> Array:
    return (jacobian.mean(0) + ((projected**2).mean(0) if sqnorm is None else sqnorm) / 2).mean()


def derivatives(activation: str, z: Array) -> tuple[Array, Array, Array]:
    """Return f, f', f''."""
    if activation == "tanh":
        t = nn.tanh(z)
        return t, 1 - t * t, -2 * t * (1 - t * t)
    s = nn.sigmoid(z)
    bell = s * (1 - s)
    if activation == "silu":
        return z * s, s + z * bell, bell * (2 + z * (1 - 2 * s))
    return nn.softplus(z), s, bell
