"""Functions that stand in for PyTorch's: the same values, and third derivatives that finite differences confirm."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastssm
from fastssm.backends.primitives import primitives

DOUBLE = torch.float64


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


def third_derivatives_are_right(function, *inputs: Tensor) -> bool:
    """Compare the gradient of `v^T H v` in all inputs with finite differences."""
    v, leaves = torch.randn_like(inputs[0]), [t.detach().requires_grad_() for t in inputs]

    def curvature(x: Tensor, *parameters: Tensor) -> Tensor:
        y = function(x, *parameters)
        c = torch.linspace(0.3, 1.7, y.numel(), dtype=DOUBLE).view_as(y)
        (slope,) = torch.autograd.grad((y * c + 0.3 * (y * c) ** 2).sum(), x, create_graph=True)
        (moved,) = torch.autograd.grad((slope * v).sum(), x, create_graph=True)
        return (moved * v).sum()

    return torch.autograd.gradcheck(curvature, leaves, eps=1e-6, atol=1e-4, rtol=1e-3, raise_exception=False)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor([[True, False, True, True, True]]))


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], scale=0.3, enable_gqa=True)


def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.linspace(-1, 1, 25, dtype=DOUBLE).view(5, 5))


def batch(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, w, b, training=True)


QKV = ((2, 4, 5, 3),) * 3
CASES = {
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4, 5), w, b), (3, 4, 5), (4, 5), (4, 5)),
    "layer_norm, no weight": (lambda x: F.layer_norm(x, (5,), eps=1e-3), (3, 5)),
    "torch.layer_norm": (lambda x, w: torch.layer_norm(x, (5,), w), (3, 5), (5,)),
    "native_layer_norm": (lambda x, w, b: torch.native_layer_norm(x, (5,), w, b, 1e-5)[0], (3, 5), (5,), (5,)),
    "aten.native_layer_norm": (
        lambda x, w, b: torch.ops.aten.native_layer_norm.default(x, (5,), w, b, 1e-5)[0],
        *((3, 5), (5,), (5,)),
    ),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (3, 4, 5), (4,), (4,)),
    "batch_norm": (batch, (4, 3), (3,), (3,)),
    "batch_norm 2d": (batch, (4, 3, 2, 2), (3,), (3,)),
    "torch.batch_norm": (
        lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
        *((4, 3), (3,), (3,)),
    ),
    "attention": (F.scaled_dot_product_attention, *QKV),
    "attention, causal": (causal, *QKV),
    "attention, masked": (masked, *QKV),
    "attention, grouped": (grouped, *QKV),
    "attention, bias": (added, *QKV),
    "hardsigmoid": (lambda x: F.hardsigmoid(3 * x), (3, 5)),
    "hardsigmoid in place": (lambda x: F.hardsigmoid(3 * x, inplace=True), (3, 5)),
    "aten.hardsigmoid": (lambda x: torch.ops.aten.hardsigmoid(3 * x), (3, 5)),
    "cdist": (torch.cdist, (3, 5), (4, 5)),
    "logcumsumexp": (lambda x: torch.logcumsumexp(100.0 * x, 1) + x.logcumsumexp(0), (3, 5)),
    "cdist, p=3": (lambda a, b: torch.cdist(a, b, p=3.0), (3, 5), (4, 5)),
}


def test_the_same_numbers_and_right_third_derivatives(subtests: pytest.Subtests) -> None:
    for name in CASES:
        with subtests.test(name):
            check_numbers_and_derivatives(name)


def check_numbers_and_derivatives(name: str) -> None:
    torch.manual_seed(0)
    function, *shapes = CASES[name]
    inputs = [randn(*shape) for shape in shapes]
    expected = function(*inputs)
    with primitives():
        torch.testing.assert_close(function(*inputs), expected, rtol=1e-10, atol=1e-12)
        assert third_derivatives_are_right(function, *inputs)


@pytest.mark.parametrize("name", ["layer_norm", "instance_norm", "batch_norm"])
def test_torch_itself_is_wrong(name: str) -> None:
    """When this fails, PyTorch has mended it, and the replacement can go."""
    torch.manual_seed(0)
    function, *shapes = CASES[name]
    assert not third_derivatives_are_right(function, *(randn(*shape) for shape in shapes))


ELEMENTWISE = {
    name: getattr(F, name)
    for name in (
        *("gelu", "silu", "softplus", "elu", "celu", "selu", "mish", "tanh", "sigmoid", "softsign", "logsigmoid"),
        *("tanhshrink", "hardswish", "normalize"),
    )
}
RIGHT = {  # what the documentation lists as right without help, so that a new torch cannot change it unseen
    **{name: (function, (3, 5)) for name, function in ELEMENTWISE.items()},
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), (3, 5)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (3, 4, 3), (4,), (4,)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (5,), w), (3, 5), (5,)),
    "batch_norm, eval": (lambda x: F.batch_norm(x, torch.zeros(5).double(), torch.ones(5).double()), (3, 5)),
    "softmax": (lambda x: x.softmax(-1), (3, 5)),
    "log_softmax": (lambda x: x.log_softmax(-1), (3, 5)),
    "logsumexp": (lambda x: x.logsumexp(-1), (3, 5)),
    "erf": (torch.erf, (3, 5)),
    "norm": (lambda x: x.norm(dim=-1), (3, 5)),
    "cosine_similarity": (lambda x: F.cosine_similarity(x, x.flip(0) + 0.3, dim=-1), (3, 5)),
    "std": (lambda x: x.std(-1), (3, 5)),
    "prod": (lambda x: x.prod(-1), (3, 5)),
    "logdet": (lambda x: torch.logdet(x.t() @ x + torch.eye(5, dtype=DOUBLE)), (3, 5)),
    "glu": (lambda x: F.glu(x[:, :4]), (3, 5)),
    "conv2d": (lambda x, w: F.softplus(F.conv2d(x, w, padding=1)), (2, 2, 4, 4), (3, 2, 3, 3)),
    "conv_transpose2d": (lambda x, w: F.softplus(F.conv_transpose2d(x, w, stride=2)), (2, 2, 3, 3), (2, 3, 3, 3)),
    "interpolate": (lambda x: F.softplus(F.interpolate(x, scale_factor=2, mode="bilinear")), (2, 2, 3, 3)),
    "max_pool": (lambda x: F.max_pool1d(x, 2), (3, 5)),
    "avg_pool": (lambda x: F.softplus(F.adaptive_avg_pool1d(x, 2)), (3, 5)),
    "einsum": (lambda x, w: torch.einsum("bi,ij,bj->b", x, w, x), (3, 5), (5, 5)),
}


def test_torch_is_right_about_the_rest() -> None:
    wrong = []
    for name, (function, *shapes) in RIGHT.items():
        torch.manual_seed(0)
        if not third_derivatives_are_right(function, *(randn(*shape) for shape in shapes)):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_as_in_torch(momentum: float | None) -> None:
    layers = [nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)]
    x = torch.randn(4, 3, 2, 2)
    for _ in range(2):
        layers[0](x)
        with primitives():
            layers[1](x)
    torch.testing.assert_close(layers[1].state_dict(), layers[0].state_dict())


def test_running_statistics_of_instances_move_as_in_torch() -> None:
    layers = [nn.InstanceNorm1d(3, track_running_stats=True, affine=True) for _ in range(2)]
    x = torch.randn(4, 3, 5)
    layers[0](x)
    with primitives():
        layers[1](x)
        torch.testing.assert_close(layers[1].state_dict(), layers[0].state_dict())
        torch.testing.assert_close(layers[1].eval()(x), layers[0].eval()(x))


def test_bad_shapes_raise_as_in_torch() -> None:
    with primitives():
        with pytest.raises(RuntimeError, match="layer_norm needs an input that ends in"):
            F.layer_norm(torch.randn(3, 4), (5,))
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            nn.BatchNorm1d(3)(torch.randn(1, 3))
        with pytest.raises(fastssm.UnsupportedError, match="calls the operator _cdist_forward"):
            torch.ops.aten._cdist_forward(torch.randn(3, 2), torch.randn(3, 2), 2.0, None)


def test_a_query_without_a_key_gives_zero() -> None:
    q, mask = randn(1, 1, 2, 3), torch.tensor([[True, True], [False, False]])
    with primitives():
        found = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, q, q, attn_mask=mask))


@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention(weights: bool) -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    x = randn(2, 3, 4)
    expected = attention(x, x, x, need_weights=weights)
    with primitives():
        found = attention(x, x, x, need_weights=weights)
        assert third_derivatives_are_right(lambda z: attention(z, z, z, need_weights=weights)[0], x)
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is None) is not weights
