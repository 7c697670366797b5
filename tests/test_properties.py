"""Random networks, shapes, strides, dtypes and options: always the oracle's value and its every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastssm import backends
from fastssm.activations import TABLE
from fastssm.backends import fused
from fastssm.backends.entries import dispatcher
from fastssm.directions import PROJECTIONS, draw
from fastssm.nn import MLP, make_activation
from tests import oracle
from tests.judge import LAYOUTS, NoVerdict, agree, randomised

DTYPES = (torch.float64, torch.float32)
SMOOTH = [row.name for row in TABLE if row.curved]
OPERATORS = fused.Fused("torch", dispatcher)
SIZES = st.integers(1, 67)


def laid_out(t: Tensor, layout: str) -> Tensor:
    """Return the same shape with other strides; "expanded" repeats the first sample with stride 0."""
    if layout == "transposed":
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "strided":
        return torch.stack([t, -t], dim=-1).flatten(-2)[..., ::2]
    if layout == "offset":
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)
    return t[..., :1, :].expand(t.shape) if layout == "expanded" else t


@st.composite
def networks(choose: st.DrawFn, dim: int, out: int) -> tuple[nn.Module, list[int]]:
    """Return a network and the widths of its conditioning arguments."""
    activation = choose(st.sampled_from(SMOOTH))
    if choose(st.booleans()):
        width = choose(SIZES)
        widths = choose(st.one_of(st.lists(SIZES, max_size=3), st.just([width] * 3)))
        cond_dim, time = choose(st.sampled_from([0, 0, 1, 5])), choose(st.booleans())
        conditioning = choose(st.sampled_from(["concat", "film", "additive"]))
        model = MLP(
            dim,
            widths,
            out,
            activation,
            residual=choose(st.booleans()),
            cond_dim=cond_dim,
            conditioning=conditioning if widths and (cond_dim or time) else "concat",
            fourier_time=time,
        )
        return model, [cond_dim] * (cond_dim > 0) + [1] * time
    layers: list[nn.Module] = []
    width = dim
    for following in choose(st.lists(SIZES, max_size=3)):
        layers.append(nn.Linear(width, following, bias=choose(st.booleans())))
        layers += [make_activation(activation)] * choose(st.integers(0, 1))
        width = following
    last = [make_activation(activation)] * choose(st.integers(0, 1))
    return nn.Sequential(*layers, nn.Linear(width, out, bias=choose(st.booleans())), *last), []


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning")  # networks without any activation
def test_agrees_with_the_oracle(data: st.DataObject) -> None:
    choose = data.draw
    energy, loss, m = choose(st.booleans()), choose(st.sampled_from(oracle.LOSSES)), choose(st.integers(1, 5))
    dim, batch = choose(SIZES), choose(st.integers(2 if loss == "control" else 1, 40))
    dtype, seed = choose(st.sampled_from(DTYPES)), choose(st.integers(0, 2**31))
    torch.manual_seed(seed)
    model, cond_widths = choose(networks(dim, 1 if energy else dim))
    model = randomised(model, dtype)
    if loss == "control" and dtype == torch.float32:
        loss = "vr"  # the regression's coefficient is as ill-conditioned as the batch is small
    x = laid_out(torch.randn(batch, dim, dtype=dtype), choose(st.sampled_from(LAYOUTS)))
    cond = [laid_out(torch.randn(batch, width, dtype=dtype), choose(st.sampled_from(LAYOUTS))) for width in cond_widths]
    v = laid_out(
        draw(choose(st.sampled_from(list(PROJECTIONS))), (m, batch, dim), dtype=dtype), choose(st.sampled_from(LAYOUTS))
    )
    weight = choose(st.sampled_from([None, torch.rand(batch, dtype=dtype), torch.ones(1, dtype=dtype).expand(batch)]))
    reduction, inputs = choose(st.sampled_from(["mean", "sum", "none"])), choose(st.booleans())
    entry = choose(st.sampled_from(["torch", "torch", "ops", "reference"]))

    note(f"{entry}, {model}, D = {dim}")
    options: dict[str, Any] = {"energy": energy, "cond": cond, "weight": weight, "reduction": reduction}
    with pytest.MonkeyPatch.context() as patch:
        if entry == "ops":
            patch.setitem(backends.BACKENDS, "torch", OPERATORS)
        backend = "torch" if entry == "ops" else entry
        try:
            agree(model, x, v, loss, **options, inputs=inputs, backend=backend)
        except NoVerdict:
            reject()
