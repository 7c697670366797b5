"""Random signs: the counter-based generator of fastssm against three methods in PyTorch."""

from collections.abc import Callable

import torch

from bench.ours import require
from bench.problems import Size

Draw = Callable[[], torch.Tensor]


def contenders(size: Size) -> tuple[dict[str, Draw], dict[str, Exception]]:
    """Return methods to draw signs `[M, B, d]` in float32, and errors of unavailable ones."""
    shape = (size.M, size.B, size.d)
    found: dict[str, Draw] = {
        "torch.randint": lambda: torch.randint(2, shape, dtype=torch.float32).mul_(2).sub_(1),
        "randn.sign": lambda: torch.randn(shape).sign_(),
        "bernoulli_": lambda: torch.empty(shape).bernoulli_().mul_(2).sub_(1),
        "fastssm torch": in_python(shape),
    }
    try:
        return found | {"fastssm cpu": native(shape)}, {}
    except RuntimeError as error:
        return found, {"fastssm cpu": error}


def in_python(shape: tuple[int, int, int]) -> Draw:
    from fastssm.directions import rademacher

    seed = torch.tensor(0)
    return lambda: rademacher(seed, shape)


def native(shape: tuple[int, int, int]) -> Draw:
    require("cpu")
    from fastssm import _C

    level = _C.capability()["level"]
    draw: Draw = lambda: _C.rademacher(0, 0, 0, *shape, level)  # noqa: E731
    from fastssm.directions import rademacher

    if not torch.equal(draw(), rademacher(torch.tensor(0), shape)):
        raise RuntimeError("the signs of the engine differ from those of fastssm.directions")
    return draw
