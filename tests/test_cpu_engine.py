"""The compiled CPU engine where test_equivalence.py does not reach: SIMD tails, tiles, turns, strides, absurd sizes.

FASTSSM_CPU_LEVEL is read once in a process, so test_cpu_levels.py runs this file again with each lower level.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm import directions
from fastssm.backends import fused
from fastssm.backends.entries import compiled
from fastssm.native import extension
from fastssm.nn import MLP
from tests import oracle
from tests.covering import each
from tests.judge import LAYOUTS, agree, evaluate, laid_out, randomised

C = extension.module()
pytestmark = [
    pytest.mark.skipif("cpu" not in compiled.DEVICES, reason=extension.status()),
    pytest.mark.filterwarnings("ignore::fastssm.FastSSMWarning"),
]
LOSSES = ("ssm", "vr", "exact")
DTYPES = (torch.float64, torch.float32)
KINDS = pytest.mark.parametrize("energy", [True, False], ids=["energy", "score"])
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


def mlp(dim: int, widths: Sequence[int], energy: bool, dtype: torch.dtype, **options: object) -> nn.Module:
    torch.manual_seed(dim + 100 * sum(widths))
    return randomised(MLP(dim, widths, 1 if energy else dim, **options), dtype)


def batch(samples: int, dim: int, m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, dim, dtype=dtype), directions.draw("gaussian", (m, samples, dim), dtype=dtype)


def test_the_level_is_the_one_asked_for() -> None:
    found = C.capability()
    assert found["level"] == os.environ.get("FASTSSM_CPU_LEVEL", found["levels"][-1])


# ---- sizes -----------------------------------------------------------------------------------------------------------


@EACH_DTYPE
@KINDS
def test_every_width(energy: bool, dtype: torch.dtype) -> None:
    for width in range(1, 68):
        dim, samples = 1 + width * 2 % 13, 1 + width % 5
        widths = [width] if width % 3 else [width, 1 + width % 7, width]
        model = mlp(dim, widths, energy, dtype, activation=("softplus", "tanh")[width % 2], residual=True)
        x, v = batch(samples, dim, 1 + width % 2, dtype)
        agree(model, x, v, LOSSES[width // 3 % 3], energy=energy, reduction=("mean", "none")[width // 9 % 2])


@EACH_DTYPE
@KINDS
def test_every_dimension(energy: bool, dtype: torch.dtype) -> None:
    for dim in (*range(1, 36), 63, 64, 65, 127, 128, 129):
        x, v = batch(3, dim, 2, dtype)
        agree(mlp(dim, [5], energy, dtype, activation="silu"), x, v, ("ssm", "vr")[dim % 2], energy=energy)
        conditioned = mlp(dim, [5], energy, dtype, cond_dim=3)
        agree(conditioned, x, v, ("vr", "ssm")[dim % 2], energy=energy, cond=[torch.randn(3, 3, dtype=dtype)])


@EACH_DTYPE
@KINDS
@pytest.mark.parametrize("loss", ["ssm", "vr"])
def test_batches_around_the_tiles(loss: str, energy: bool, dtype: torch.dtype) -> None:
    for samples, m in itertools.product((1, 2, 47, 48, 49, 63, 64, 65, 129, 200), (1, 2)):
        x, v = batch(samples, 3, m, dtype)
        weight = torch.rand(samples, dtype=dtype)
        for reduction in ("sum", "none"):
            model = mlp(3, [6, 6], energy, dtype, residual=True)
            agree(model, x, v, loss, energy=energy, weight=weight, reduction=reduction)


@KINDS
def test_a_wide_network_over_several_tiles(energy: bool) -> None:
    x, v = batch(140, 3, 1, torch.float32)
    for loss in ("ssm", "vr"):
        agree(mlp(3, [800, 30], energy, torch.float32, activation="tanh"), x, v, loss, energy=energy)


@EACH_DTYPE
@KINDS
@pytest.mark.parametrize("m", [9, 254, 255, pytest.param(300, marks=pytest.mark.slow)])
def test_more_directions_than_a_tile_takes(m: int, energy: bool, dtype: torch.dtype) -> None:
    models = [mlp(2, [3, 3], energy, dtype, cond_dim=2, conditioning=how, residual=True) for how in ("film", "concat")]
    for model, samples in zip((*models, mlp(2, [], energy, dtype, cond_dim=2)), (1, 3, 2), strict=True):
        x, v = batch(samples, 2, m, dtype)
        for loss, reduction in (("ssm", "mean"), ("vr", "mean"), ("ssm", "none")):
            cond = [torch.randn(samples, 2, dtype=dtype)]
            agree(model, x, v, loss, energy=energy, cond=cond, reduction=reduction)


@KINDS
@pytest.mark.parametrize("dim", [254, 255, 300])
def test_exact_loss_in_turns(dim: int, energy: bool) -> None:
    x, _ = batch(2, dim, 1, torch.float64)
    for reduction in ("mean", "none"):
        agree(mlp(dim, [6], energy, torch.float64), x, None, "exact", energy=energy, reduction=reduction)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "activation last": lambda out: nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, out), nn.Softplus()),
    "activation first": lambda out: nn.Sequential(nn.SiLU(), nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, out)),
    "no bias": lambda out: nn.Sequential(
        nn.Linear(5, 17, False), nn.SiLU(), nn.Linear(17, 3, False), nn.Tanh(), nn.Linear(3, out, False)
    ),
    "affine only": lambda out: nn.Sequential(nn.Linear(5, 9), nn.Linear(9, out)),
    "one map": lambda out: nn.Linear(5, out),
    "one map, activation": lambda out: nn.Sequential(nn.Linear(5, out), nn.Tanh()),
}


@EACH_DTYPE
@KINDS
@each("name", NETWORKS)
def test_networks_of_another_form(name: str, energy: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(len(name))
    model = NETWORKS[name](1 if energy else 5)
    randomised(model, dtype)
    x, v = batch(7, 5, 3, dtype)
    for loss, reduction, inputs in itertools.product(LOSSES, ("mean", "none"), (True, False)):
        agree(model, x, v, loss, energy=energy, reduction=reduction, inputs=inputs)


# ---- what is drawn, and what is asked -------------------------------------------------------------------------------


def test_the_kernels_pass_opcheck() -> None:
    """With what test_compile.py leaves out: a seed, a weight, skips, float32."""
    model = mlp(3, [5, 5], True, torch.float32, cond_dim=2, residual=True)
    x, cond = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    call = fastssm.backends.make_request(model, x, cond)
    inputs, tensors, static = fused.flat(call, directions.Directions(2, seed=torch.tensor(3)))
    given, numbers = (*inputs, tensors), (*static.structure, static.n_projections, static.precision)
    every = (*given, torch.rand(4), *numbers, True, True, True, True)
    torch.library.opcheck(torch.ops.fastssm.objective.default, every)
    torch.library.opcheck(torch.ops.fastssm.terms.default, (*given, *numbers))


@EACH_DTYPE
@KINDS
@pytest.mark.parametrize(("loss", "reduction"), [("ssm", "mean"), ("vr", "mean"), ("ssm", "none")])
def test_drawn_directions_are_those_of_the_generator(
    loss: str, reduction: str, energy: bool, dtype: torch.dtype
) -> None:
    for dim, m, samples in ((1, 1, 1), (33, 3, 70), (129, 2, 5), (3, 300, 2)):
        model, x = mlp(dim, [7], energy, dtype), torch.randn(samples, dim, dtype=dtype)
        drawn = torch.Generator().manual_seed(dim)
        v = directions.rademacher(directions.new_seed(x.device, drawn), (m, samples, dim), dtype=dtype)
        given = [{"v": v}, {"n_projections": m, "generator": torch.Generator().manual_seed(dim)}]
        every = []
        for options in given:
            kind = "energy" if energy else "score"
            value = evaluate(model, x, loss, kind=kind, reduction=reduction, backend="cpu", **options)
            every.append([value, *torch.autograd.grad(value.sum(), list(model.parameters()))])
        assert all(torch.equal(a, b) for a, b in zip(*every, strict=True))


@KINDS
def test_gradients_do_not_depend_on_what_else_is_asked(energy: bool) -> None:
    model, (x, v) = mlp(5, [17, 17], energy, torch.float32, cond_dim=2), batch(9, 5, 2, torch.float32)
    cond = torch.randn(9, 2)
    leaves = {"x": x.requires_grad_(), "cond": cond.requires_grad_(), **dict(model.named_parameters())}
    for loss, reduction in itertools.product(LOSSES, ("mean", "none")):
        options = {"v": v, "cond": cond, "reduction": reduction, "backend": "cpu"}
        value = evaluate(model, x, loss, **options).sum()
        everything = dict(zip(leaves, torch.autograd.grad(value, leaves.values()), strict=True))
        for asked in ({"x"}, {"cond"}, {"x", "cond"}, set(leaves) - {"x", "cond"}, {"hidden.0.weight"}):
            for name, leaf in leaves.items():
                leaf.requires_grad_(name in asked)
            value = evaluate(model, x, loss, **options).sum()
            found = torch.autograd.grad(value, [leaves[name] for name in asked])
            assert all(torch.equal(g, everything[name]) for name, g in zip(asked, found, strict=True))
            for leaf in leaves.values():
                leaf.requires_grad_()


# ---- numbers ---------------------------------------------------------------------------------------------------------


@EACH_DTYPE
@KINDS
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, lambda: fastssm.nn.Sin(1.5)])
@pytest.mark.parametrize("hidden", [[19, 19], []])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_finite_comes_out_as_nan(
    loss: str, hidden: list[int], activation: Callable[[], nn.Module], energy: bool, dtype: torch.dtype
) -> None:
    """NaN and infinity in the data or in a parameter, also where every activation saturates on it."""
    model = mlp(3, hidden, energy, dtype, activation=activation, cond_dim=2, residual=True)
    x, v = batch(5, 3, 2, dtype)
    cond = torch.randn(5, 2, dtype=dtype)
    sources = [x, cond, *(p.detach() for p in model.parameters())]
    for source, broken in itertools.product(sources, (math.nan, math.inf, -math.inf)):
        entries = source.view(-1)
        for place in {0, entries.numel() // 2, entries.numel() - 1}:
            kept = entries[place].clone()
            entries[place] = broken
            for reduction in ("mean", "none"):
                value = evaluate(model, x, loss, v=v, cond=cond, reduction=reduction, backend="cpu")
                where = slice(None) if source is not x and source is not cond else 5 * place // entries.numel()
                assert value.isnan().all() if value.ndim == 0 else value[where].isnan().all()
            entries[place] = kept
    assert evaluate(model, x, loss, v=v, cond=cond, backend="cpu").isfinite()  # nothing of it is left behind


@KINDS
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("loss", ["ssm", "vr"])
def test_strides_of_inputs_and_parameters(loss: str, layout: str, energy: bool) -> None:
    model = mlp(5, [7, 7], energy, torch.float64, cond_dim=2, residual=True)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(laid_out(p.detach(), layout)))
    assert layout == "offset" or not all(p.is_contiguous() for p in model.parameters())
    shapes = ((6, 5), (3, 6, 5), (6, 2), (6,))
    x, v, cond, weight = (laid_out(torch.randn(shape, dtype=torch.float64), layout) for shape in shapes)
    for reduction in ("mean", "none"):
        agree(model, x, v, loss, energy=energy, cond=[cond], weight=weight, reduction=reduction)


# ---- bfloat16 --------------------------------------------------------------------------------------------------------

NARROW = C is not None and C.capability()["bf16"]


@pytest.mark.skipif(not NARROW, reason="this level has no bfloat16 products")
@KINDS
@pytest.mark.parametrize("loss", ["ssm", "vr", "none"])
def test_bf16_gradients_are_right_to_a_hundredth(loss: str, energy: bool) -> None:
    model, (x, v) = mlp(100, [512, 512], energy, torch.float32), batch(96, 100, 1, torch.float32)
    options = {"reduction": "none"} if loss == "none" else {}
    name = "vr" if loss == "none" else loss
    found = {}
    for precision in ("full", "bf16"):
        value = evaluate(model, x, name, v=v, backend="cpu", precision=precision, **options).mean()
        found[precision] = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])
    wide = copy.deepcopy(model).double()
    each = oracle.losses(wide, x.double(), v.double(), name, energy=energy)
    expected = torch.cat([g.flatten() for g in oracle.gradients(each.mean(), wide.parameters())])
    errors = {p: float((g.double() - expected).norm() / expected.norm()) for p, g in found.items()}
    assert errors["full"] < 1e-5 < errors["bf16"] <= 1e-2, errors


@pytest.mark.skipif(NARROW, reason="this level has bfloat16 products")
def test_a_level_without_bf16_products_says_so() -> None:
    with pytest.raises(fastssm.UnsupportedError, match="needs a processor"):
        fastssm.sliced_loss(mlp(3, [40], True, torch.float32), torch.zeros(4, 3), precision="bf16", backend="cpu")


# ---- absurd sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2**32 + 1, 2**40, 2**62, 2**63 - 1])
def test_more_directions_than_there_are_indices(count: int) -> None:
    model = mlp(2, [4], True, torch.float32)
    for reduction in ("mean", "none"):
        with pytest.raises((RuntimeError, ValueError), match=str(2**32)):
            fastssm.sliced_loss(model, torch.zeros(3, 2), n_projections=count, reduction=reduction, backend="cpu")


@pytest.mark.parametrize(("samples", "count"), [(2**50, 1), (2**61, 1), (2**61, 2**31), (2**40, 2**30)])
def test_sizes_that_overflow(samples: int, count: int) -> None:
    model = mlp(2, [4], True, torch.float32)
    x = torch.zeros(1, 2).expand(samples, 2)
    for reduction in ("mean", "none"):
        with pytest.raises((RuntimeError, MemoryError, ValueError)):
            fastssm.sliced_loss(model, x, n_projections=count, reduction=reduction, backend="cpu")
    assert fastssm.sliced_loss(model, torch.zeros(3, 2), backend="cpu").isfinite()
