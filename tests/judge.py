"""What tests of the compiled engine share: one comparison with the oracle in float64: the value and all gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import fastssm
from tests import oracle

RTOL = {torch.float64: 1e-10, torch.float32: 2.0**-23 * 1024, torch.bfloat16: 2.0**-8}
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


class NoVerdict(Exception):
    """The oracle says nothing.

    It is not finite: torch's own third derivative of GELU("tanh") is NaN past |z| = 26. Or it gives something else for
    conditioning arguments that differ by some roundings, as the phase of a fast Fourier feature does in float32.
    """


def randomised(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Fill a network with weights under which no layer fades out."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (1.2 / max(1, p.shape[-1]) ** 0.5 if p.ndim == 2 else 0.3))
        for frequencies in model.buffers():  # of times: the phase of a fast one has few digits in float32
            frequencies.mul_(0.2)
    return model.to(dtype)


def laid_out(t: Tensor, layout: str) -> Tensor:
    """Return the same shape with other strides; "expanded" repeats one entry of each row with stride 0."""
    if layout == "transposed":
        return t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.ndim > 1 else t
    if layout == "strided":
        return torch.stack([t, -t], dim=-1).flatten(-2)[..., ::2]
    if layout == "offset":
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)
    return t[..., :1].expand(t.shape) if layout == "expanded" else t


@contextmanager
def in_threads(count: int) -> Iterator[None]:
    """Give torch so many threads inside this block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate(model: nn.Module, x: Tensor, loss: str, **options: object) -> Tensor:
    """Return a loss of the library by the name that the oracle has for it."""
    if loss == "exact":
        directions = ("v", "n_projections", "projection", "generator")
        return fastssm.exact_loss(model, x, **{k: o for k, o in options.items() if k not in directions})
    return fastssm.sliced_loss(model, x, **options, **oracle.OPTIONS[loss])


def agree(
    model: nn.Module,
    x: Tensor,
    v: Tensor | None,
    loss: str,
    *,
    energy: bool,
    cond: Sequence[Tensor] = (),
    weight: Tensor | None = None,
    reduction: str = "mean",
    inputs: bool = True,
    rtol: float | None = None,
    backend: str = "cpu",
    threads: int = 1,
    **options: object,
) -> None:
    """Compare a loss and its gradients in every parameter, and (`inputs`) in x and cond; v is what options draw."""
    wide = copy.deepcopy(model).double()
    given = [t.detach().requires_grad_(inputs) for t in (x, *cond)]  # with their strides
    doubled = [t.detach().double().requires_grad_(inputs) for t in (x, *cond)]
    if not options.keys() & {"n_projections", "generator"}:
        options["v"] = None if v is None else v.reshape(len(v), *x.shape)
    options |= {"cond": tuple(given[1:]) or None, "weight": weight, "kind": "energy" if energy else "score"}
    with in_threads(threads):
        found = evaluate(model, given[0], loss, reduction=reduction, backend=backend, **options)
        found = oracle.contracted(found) if reduction == "none" else found
        grads = torch.autograd.grad(found, [*model.parameters(), *(given if inputs else [])])
    v = None if v is None else v.double()
    scale = None if weight is None else weight.double()

    def truth(given: Sequence[Tensor]) -> list[Tensor]:
        each = oracle.losses(wide, given[0], v, loss, energy=energy, cond=given[1:], weight=scale)
        value = oracle.reduced(each, scale, reduction)
        return [value, *oracle.gradients(value, [*wide.parameters(), *(given if inputs else [])])]

    expected = truth(doubled)
    sizes = oracle.magnitudes(wide, doubled[0], v, loss, energy=energy, cond=doubled[1:])
    if not all(g.isfinite().all() for g in expected[1:]):
        raise NoVerdict
    size = float(oracle.reduced(sizes.detach(), None if weight is None else weight.double().abs(), reduction))
    what = f"{loss} {reduction} {tuple(x.shape)} {x.dtype} {model}"
    tolerance = rtol or RTOL[x.dtype]
    try:
        oracle.assert_close([found, *grads], expected, tolerance, what, size)
    except AssertionError:
        nudge = 1 + 16 * torch.finfo(x.dtype).eps  # a conditioning network rounds some times
        rounded = [(c.detach() * nudge).requires_grad_(inputs) for c in doubled[1:]]
        if not agreeing(truth([doubled[0], *rounded]), expected, tolerance, size):
            raise NoVerdict from None
        raise


def agreeing(found: Sequence[Tensor], expected: Sequence[Tensor], rtol: float, magnitude: float) -> bool:
    """Say whether tensors are close, as `oracle.assert_close` asserts it."""
    try:
        oracle.assert_close(found, expected, rtol, magnitude=magnitude)
    except AssertionError:
        return False
    return True
