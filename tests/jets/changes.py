"""Functions that change their argument, and functions without derivatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.jets.case import DTYPE, Case, curved, one


def _operators(x: Tensor) -> Tensor:
    h = curved(x)
    h += x.square()
    h -= 0.5 * x
    h *= torch.sin(x)
    h /= 1.0 + x.square()
    h **= 2
    h += 1.0
    return h


def _on_weights(x: Tensor, w: Tensor) -> Tensor:
    """A tensor that does not depend on x becomes one that does."""
    total = w.expand_as(x) * 1.0
    total += curved(x)
    total *= w
    scale: Tensor = 1.0 + w.square().expand_as(x)
    scale *= x
    return total + scale


def _arithmetic(x: Tensor) -> Tensor:
    h = curved(x)
    h.add_(x, alpha=0.5).sub_(x.square()).mul_(x.sin()).div_(2.0 + x.square()).neg_()
    h.addcmul_(x, x.cos(), value=0.3).addcdiv_(x, 2.0 + x.square()).lerp_(x, 0.3)
    h.clamp_(-1.9, 2.1).clamp_min_(-1.5).clamp_max_(1.8).masked_fill_(x > 1.2, 0.4)
    return h


def _functions(x: Tensor) -> Tensor:
    h = curved(x)
    h.sin_().cos_().exp_().log_().sqrt_().square_().sigmoid_().tanh_().erf_().expm1_().log1p_()
    h.add_(2.0).rsqrt_().reciprocal_().pow_(3).abs_().relu_()
    return h + torch.exp_(x.sin()) + F.relu_(x * x.flip(1)) + F.leaky_relu_(x * x.flip(1))


def _functions_written(x: Tensor) -> Tensor:
    """PyTorch itself cannot differentiate some of these in place."""
    h = curved(x)
    h = h.sin().cos().exp().log().sqrt().square().sigmoid().tanh().erf().expm1().log1p()
    h = (h + 2.0).rsqrt().reciprocal().pow(3).abs().relu()
    return h + torch.exp(x.sin()) + F.relu(x * x.flip(1)) + F.leaky_relu(x * x.flip(1))


def _activations(x: Tensor) -> Tensor:
    h = x.square() + x
    F.silu(h, inplace=True)
    F.elu_(h)
    F.celu(h, 0.5, True)
    F.mish(h, inplace=True)
    F.hardtanh_(h, -1.0, 1.5)
    F.leaky_relu(h, 0.2, inplace=True)
    h += 0.4 - x.square()
    torch.celu_(h)
    h += 0.5
    F.relu6(h, True)
    torch._C._nn.silu_(h)
    torch._C._nn.mish_(h)
    return h


def _activations_written(x: Tensor) -> Tensor:
    h = F.mish(F.celu(F.elu(F.silu(x.square() + x)), 0.5))
    h = F.leaky_relu(F.hardtanh(h, -1.0, 1.5), 0.2) + 0.4 - x.square()
    return F.mish(F.silu(F.relu6(torch.celu(h) + 0.5)))


def _shapes(x: Tensor) -> Tensor:
    h = curved(x)
    h.unsqueeze_(1).squeeze_(1).t_().transpose_(0, 1)
    return h


def _scattered(x: Tensor) -> Tensor:
    h, index = curved(x), torch.tensor([1, 4, 4])
    h.index_add_(1, index, x[:, :3].sin())
    return h.scatter_add_(1, index.expand(x.shape[0], 3), x[:, 3:].square())


def _set(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:4] = curved(x[:, :3])
    out[:, 0] = x[:, 5] * x[:, 4]
    out[x > 1.0] = 0.3
    out[:, [4, 5]] = x[:, :2].sin()
    return out * 2.0


def _set_weights(x: Tensor, w: Tensor) -> Tensor:
    out = curved(x)
    out[:, 2:4] = w
    out[:, 5] = 1.5
    return out * x


def _filled(x: Tensor) -> Tensor:
    h = curved(x)
    made = [
        torch.zeros_like(h),
        h.new_zeros(h.shape),
        torch.ones_like(h) * 0.2,
        h.new_ones(6),
        torch.full_like(h, 0.3),
        h.new_full((6,), 0.7),
    ]
    empty = torch.empty_like(h)
    empty[:] = h * x
    other = h.new_empty(x.shape[0], 6)
    other[:] = h.sin()
    count = torch.zeros_like(h, dtype=torch.long) + 1
    return torch.stack([t + h if t.ndim == 2 else t * h for t in made]).sum(0) + empty * other * count


def _compared(x: Tensor) -> Tensor:
    h, y = curved(x), x.flip(1)
    masks = [h == y, h != y, h < y, h <= y, h > y, h >= y, h.eq(0.5), h.ne(y), h.lt(0.1), h.le(y), h.gt(0.2), h.ge(0.3)]
    masks += [torch.isclose(h, y, 0.5), h.isnan(), h.isinf(), h.isfinite(), torch.isposinf(h), torch.isneginf(h)]
    assert isinstance(h.__gt__(y), Tensor)
    masks += [
        torch.logical_not(h),
        torch.logical_not(h > 0),
        torch.logical_and(h, y),
        torch.logical_or(h, y),
        h.signbit(),
        h.bool(),
    ]
    assert not torch.equal(h, y)
    assert not torch.allclose(h, y)
    factors = [(i + 1.0) * mask for i, mask in enumerate(masks)]
    return h * (torch.stack(factors).sum(0) / 60.0 + 0.1)


def _places(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    steps = torch.linspace(-1.2, 1.2, 5, dtype=DTYPE)
    found = [
        h.argmax(1),
        h.argmin(1),
        h.argsort(1)[:, 2],
        torch.searchsorted(steps, h)[:, 0],
        torch.bucketize(h, steps)[:, 1],
    ]
    found += [
        torch.count_nonzero(h > 0, 1),
        (h > 1).any(1).long(),
        h.all(1).long(),
        h.any(1).int().long(),
        h.count_nonzero(1) - 1,
    ]
    return tuple(x.sin().gather(1, (index % 6)[:, None]) for index in found)


def _steps(x: Tensor) -> tuple[Tensor, ...]:
    h = 3.0 * curved(x)
    made = [h.sign(), h.sgn(), h.floor(), h.ceil(), h.round(), h.trunc(), h.detach(), h.int(), h.long()]
    made += [torch.special.round(h), x.sin().floor_(), (2.0 * x).round_()]
    return tuple(t * x.sin() + 0.1 * t for t in made)


def _queried(x: Tensor) -> Tensor:
    """Ask for all that is known of a tensor before it is computed, and let the result depend on each answer."""
    h = curved(x)
    shapes = (
        *h.shape,
        *h.size(),
        h.size(1),
        h.dim(),
        h.ndim,
        h.ndimension(),
        h.numel(),
        h.nelement(),
        len(h),
        *h.stride(),
    )
    sizes = (h.element_size(), h.itemsize, h.nbytes, h.storage_offset(), h.get_device())
    yes = (h.is_cpu, h.is_floating_point(), h.is_signed(), h.is_same_size(x), h.is_contiguous(), h.device.type == "cpu")
    no = (
        h.is_cuda,
        h.is_meta,
        h.is_sparse,
        h.is_quantized,
        h.is_nested,
        h.is_mkldnn,
        h.is_mps,
        h.is_xpu,
        h.is_complex(),
        h.is_inference(),
    )
    assert h.dtype == DTYPE
    assert h.layout == torch.strided
    assert isinstance(h.requires_grad, bool)
    assert isinstance(h.is_leaf, bool)
    number = sum(shapes) + sum(sizes) + 2 * sum(yes) + 3 * sum(no) + h.new_tensor([0.5]).sum()
    return h * number / 100.0


def _drawn(x: Tensor) -> Tensor:
    h = curved(x)
    return h * torch.rand_like(h) + torch.randn_like(x) * h.square() + x * torch.randint_like(h, 5)


CASES: list[Case] = [
    one("operators in place", _operators),
    one("weights in place", _on_weights, (6,)),
    one("arithmetic in place", _arithmetic),
    one("functions in place", _functions, written=_functions_written),
    one("activations in place", _activations, written=_activations_written),
    one("shapes in place", _shapes),
    one("scattered in place", _scattered),
    one("set", _set),
    one("set weights", _set_weights, (2,)),
    one("filled", _filled),
    one("compared", _compared),
    one("places", _places),
    one("steps", _steps),
    one(
        "heaviside",
        lambda x: torch.heaviside(curved(x), torch.tensor(0.5, dtype=DTYPE)) * x.sin(),
        written=lambda x: (x > 0) * x.sin(),  # PyTorch has no derivative
    ),
    one("queried", _queried),
    one("drawn", _drawn),
]
