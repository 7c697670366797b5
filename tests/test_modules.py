"""`fastssm.nn`: what the networks compute, against the same written out by hand."""

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastssm
from fastssm.activations import TABLE
from fastssm.nn import MLP, FourierFeatures, Sin, make_activation

B, D, C = 5, 3, 2


def inputs(cond, time, dtype=torch.float32):
    torch.manual_seed(3)
    given = [torch.randn(B, C, dtype=dtype)] if cond else []
    return torch.randn(B, D, dtype=dtype), given + ([torch.rand(B, dtype=dtype)] if time else [])


def filled(net):
    """Give every parameter a value: what starts at zero would hide mistakes."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def fourier(net, t):
    angles = 2 * math.pi * t[:, None] * net.time.frequencies[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


def by_hand(net, x, given, *, residual, conditioning, time):
    """softplus MLP of widths 4, 4, 6: two equal neighbours make one skip."""
    columns = [given[0]] if len(given) > time else []
    columns += [fourier(net, given[-1])] if time else []
    c = torch.cat(columns, 1) if columns else None
    h = x if c is None or conditioning != "concat" else torch.cat([x, c], 1)
    scales, shifts = [torch.ones(())] * 3, [torch.zeros(())] * 3
    if c is not None and conditioning != "concat":
        first, _, last = net.modulation
        out = last.weight @ F.silu(c @ first.weight.T + first.bias).T + last.bias[:, None]
        if conditioning == "film":
            scales = [1 + out[0:4].T, 1 + out[8:12].T, 1 + out[16:22].T]
            shifts = [out[4:8].T, out[12:16].T, out[22:28].T]
        else:
            shifts = [out[0:4].T, out[4:8].T, out[8:14].T]
    for index, layer in enumerate(net.hidden):
        new = F.softplus(scales[index] * (h @ layer.weight.T + layer.bias) + shifts[index])
        h = new + h if residual and index == 1 else new
    return h @ net.readout.weight.T + net.readout.bias


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("conditioning", "cond_dim", "time"), [
    ("concat", 0, False),
    *itertools.product(["concat", "film", "additive"], [0, C], [True]),
    *itertools.product(["concat", "film", "additive"], [C], [False]),
])  # fmt: skip
@pytest.mark.parametrize("out", [1, D])
def test_mlp_is_what_its_docstring_says(residual, time, cond_dim, conditioning, out):
    options = {"residual": residual, "conditioning": conditioning}
    net = filled(MLP(D, [4, 4, 6], out, cond_dim=cond_dim, fourier_time=time, **options)).double()
    x, given = inputs(cond_dim, time, torch.float64)
    found = net(x, *given)
    assert found.shape == (B, out)
    torch.testing.assert_close(found, by_hand(net, x, given, time=time, **options))


def test_residual_needs_equal_neighbours():
    net = MLP(D, [D, 4, 4, 6, 6], residual=True)
    assert [net.skips(index) for index in range(5)] == [False, False, True, False, True]  # never around the first
    assert not any(MLP(D, [4, 4]).skips(index) for index in range(2))


@pytest.mark.parametrize("conditioning", ["film", "additive"])
def test_modulated_networks_start_unconditioned(conditioning):
    net = MLP(D, [4, 6], cond_dim=C, conditioning=conditioning, fourier_time=True)
    x, (c, t) = inputs(True, True)
    plain = net.readout(F.softplus(net.hidden[1](F.softplus(net.hidden[0](x)))))
    torch.testing.assert_close(net(x, c, t), plain)
    torch.testing.assert_close(net(x, c, t), net(x, 3 * c, 1 - t))
    net(x, c, t).sum().backward()
    assert net.modulation[-1].weight.grad.any()  # but can learn otherwise


def test_concatenated_networks_start_conditioned():
    net = MLP(D, [4], cond_dim=C)
    x, (c,) = inputs(True, False)
    assert not torch.allclose(net(x, c), net(x, 3 * c))


def test_images_columns_and_empty_batches_enter_flat():
    net = MLP(8, [5], cond_dim=4, fourier_time=True)
    x, c, t = torch.randn(B, 2, 2, 2), torch.randn(B, 2, 2), torch.rand(B)
    expected = net(x.reshape(B, 8), c.reshape(B, 4), t)
    assert torch.equal(net(x, c, t[:, None]), expected)
    assert net(x[:0], c[:0], t[:0]).shape == (0, 1)


def test_no_hidden_layer_is_an_affine_map():
    net = MLP(D, [], D, cond_dim=C)
    x, (c,) = inputs(True, False)
    torch.testing.assert_close(net(x, c), F.linear(torch.cat([x, c], 1), net.readout.weight, net.readout.bias))


def test_every_name_of_the_table_makes_its_module():
    x, _ = inputs(False, False)
    for row in TABLE:
        module = make_activation(row.name)
        assert type(module).__name__ == row.module
        assert all(getattr(module, key) == value for key, value in row.matches), row.name
        net = MLP(D, [4], activation=row.name)
        torch.testing.assert_close(net(x), net.readout(module(net.hidden[0](x))))
        found = fastssm.recognize(net)
        assert isinstance(found, fastssm.Network), row.name
        assert found.specs[0].activation.name == row.name


def test_a_function_makes_one_activation_per_layer():
    net = MLP(D, [4, 4], activation=lambda: nn.Softplus(beta=3.0))
    first, second = net.activations
    assert first is not second
    assert first.beta == second.beta == 3.0
    assert isinstance(MLP(D, [4], activation=nn.Tanh).activations[0], nn.Tanh)


def test_sin():
    z = torch.linspace(-2, 2, 7)
    torch.testing.assert_close(Sin(3.0)(z), torch.sin(3.0 * z))
    assert Sin().omega == 1.0
    assert repr(Sin(30)) == "Sin(omega=30)"


def test_fourier_features():
    torch.manual_seed(0)
    features = FourierFeatures(2000, scale=3.0)
    assert features.frequencies.std() == pytest.approx(3.0, rel=0.1)
    t = torch.rand(B)
    found = features(t)
    angles = 2 * math.pi * t[:, None] * features.frequencies
    torch.testing.assert_close(found, torch.cat([angles.sin(), angles.cos()], 1))
    assert torch.equal(found, features(t[:, None]))
    assert not list(features.parameters())  # fixed, but saved
    assert list(features.state_dict()) == ["frequencies"]


def test_copies_and_state():
    net = filled(MLP(D, [4, 4], D, "silu", residual=True, cond_dim=C, conditioning="film", fourier_time=True))
    x, given = inputs(True, True)
    for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(clone(x, *given), net(x, *given))
    other = MLP(D, [4, 4], D, "silu", residual=True, cond_dim=C, conditioning="film", fourier_time=True)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, *given), net(x, *given))
    assert net.double()(x.double(), *(c.double() for c in given)).dtype == torch.float64


@pytest.mark.parametrize(("given", "message"), [
    ((), "takes 2 conditioning"),
    (("c",), "takes 2 conditioning"),
    (("t", "c"), "must have 2 features"),
    (("c", "c"), r"time must be \[B\]"),
])  # fmt: skip
def test_forward_refuses_other_arguments(given, message):
    net = MLP(D, [4], cond_dim=C, fourier_time=True)
    x, (c, t) = inputs(True, True)
    values = {"c": c, "t": t, "scalar": t[0]}
    with pytest.raises(ValueError, match=message):
        net(x, *(values[name] for name in given))
