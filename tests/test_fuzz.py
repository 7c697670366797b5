"""Random networks, shapes, strides, dtypes, options, threads and entries: always the oracle's value and every gradient.

FASTSSM_FUZZ_EXAMPLES sets how many; under CI they are the same each time.
"""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from torch import nn

from fastssm import backends, directions
from fastssm.activations import TABLE, Activation
from fastssm.backends import fused
from fastssm.backends.entries import compiled, dispatcher
from fastssm.nn import MLP, module_class
from tests import oracle
from tests.judge import LAYOUTS, NoVerdict, agree, laid_out, randomised

EXAMPLES = int(os.environ.get("FASTSSM_FUZZ_EXAMPLES", "100"))
SIZES = st.integers(1, 67)
EIGHTHS = st.integers(1, 24).map(lambda n: n / 8)  # parameters of activations; torch rounds CELU's to float32
KINKED = {"relu", "leaky_relu", "elu", "celu", "softsign", "selu", "hardswish", "hardsigmoid", "hardtanh", "relu6"}
KINKED |= {"softshrink", "hardshrink"}  # rounding may put z on the other side
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
ENTRIES = [*("cpu",) * (4 if compiled.DEVICES else 0), "torch", "ops", "reference"]


@st.composite
def activations(choose: st.DrawFn, smooth: bool) -> nn.Module:
    row: Activation = choose(st.sampled_from([row for row in TABLE if not (smooth and row.name in KINKED)]))
    constants = {name: choose(EIGHTHS) for name in row.parameters}
    if "threshold" in constants:  # beyond it softplus is a line: a kink too
        constants["threshold"] = 20.0 if smooth else 8 * constants["threshold"]
    if "min_val" in constants:
        constants["min_val"] *= -1.0  # below max_val
    if row.module == "ReLU6":
        constants = {}
    return module_class(row.module)(**dict(row.matches), **constants)


@st.composite
def sequentials(choose: st.DrawFn, dim: int, out: int, smooth: bool) -> nn.Module:
    """Affine maps with any number of activations before, between and after them."""
    layers: list[nn.Module] = [nn.Flatten()] if choose(st.booleans()) else []
    widths = [dim, *choose(st.lists(SIZES, max_size=3)), out]
    following = st.lists(activations(smooth), max_size=2)
    layers += choose(st.one_of(st.just([]), following))
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width, bias=choose(st.booleans())), *choose(following)]
    return nn.Sequential(*layers)


@st.composite
def mlps(choose: st.DrawFn, dim: int, out: int, smooth: bool) -> MLP:
    """Skips, and conditioning of each sort."""
    width, cond_dim, time = choose(SIZES), choose(st.sampled_from([0, 1, 5])), choose(st.booleans())
    widths = choose(st.one_of(st.lists(SIZES, max_size=3), st.just([width] * 3)))
    conditioning = choose(st.sampled_from(["concat", "film", "additive"]))
    return MLP(
        dim,
        widths,
        out,
        lambda: choose(activations(smooth)),
        residual=choose(st.booleans()),
        cond_dim=cond_dim,
        conditioning=conditioning if widths and (cond_dim or time) else "concat",
        fourier_time=time,
    )


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")  # networks that are piecewise linear
def test_agrees_with_the_oracle(data: st.DataObject) -> None:
    choose, layouts = data.draw, st.sampled_from(LAYOUTS)
    entry, dtype = choose(st.sampled_from(ENTRIES)), choose(st.sampled_from(DTYPES))
    if entry == "reference":
        dtype = torch.float64  # in others, torch's own derivatives are less right than ours
    torch.manual_seed(choose(st.integers(0, 2**31)))
    energy, loss = choose(st.booleans()), choose(st.sampled_from(oracle.LOSSES))
    if loss == "control" and dtype != torch.float64:
        loss = "vr"  # the regression's coefficient is as ill-conditioned as the batch is small
    turns = choose(st.integers(0, 40)) == 40  # more directions than a tile takes
    m = choose(st.integers(255, 300) if turns else st.integers(1, 5))
    dim = choose(st.integers(1, 2 if turns else 16 if loss == "exact" else 67))
    samples = choose(st.integers(2 if loss == "control" else 1, 3 if turns else 150))

    out, smooth = 1 if energy else dim, dtype != torch.float64
    sorts = [sequentials(dim, out, smooth), *([] if dtype == torch.bfloat16 else [mlps(dim, out, smooth)])]
    model = randomised(choose(st.one_of(sorts)), dtype)  # a conditioning network would run in half precision itself
    cond = []
    if isinstance(model, MLP):
        widths = [model.cond_dim] * (model.cond_dim > 0) + [1] * (model.time is not None)
        cond = [laid_out(torch.randn(samples, width, dtype=dtype), choose(layouts)) for width in widths]
    x = laid_out(torch.randn(samples, dim, dtype=dtype), choose(layouts))
    if isinstance(model, MLP) or type(model[0]) is nn.Flatten:
        x = choose(st.sampled_from([x, x[:, None]]))
    weights = (None, torch.rand(samples, dtype=dtype), torch.rand(1, dtype=dtype).expand(samples))
    options: dict[str, object] = {
        "reduction": choose(st.sampled_from(["mean", "sum", "none"])),
        "weight": choose(st.sampled_from(weights)),
    }
    options |= {"inputs": choose(st.booleans()), "cond": cond, "energy": energy}
    projection, seed = choose(st.sampled_from(list(directions.PROJECTIONS))), choose(st.integers(0, 2**63 - 1))
    v = directions.draw(projection, (m, samples, dim), dtype=dtype, generator=torch.Generator().manual_seed(seed))
    if dtype != torch.bfloat16 and choose(st.booleans()):  # let the call draw the same itself
        generator = torch.Generator().manual_seed(seed)
        options |= {"n_projections": m, "projection": projection, "generator": generator}
    else:
        v = laid_out(v, choose(layouts))
    options["threads"] = choose(st.sampled_from([1, 2]))
    note(f"{entry}, {loss}, {dtype}, M = {m}, {projection}, {options}\n{model}")
    with pytest.MonkeyPatch.context() as patch:
        if entry == "ops":
            patch.setitem(backends.BACKENDS, "torch", fused.Fused("torch", dispatcher))
        try:
            agree(model, x, v, loss, backend="torch" if entry == "ops" else entry, **options)
        except NoVerdict:
            reject()
