"""Random directions `v` with `E[v v^T] = I`, among them Rademacher signs that need no storage.

A sign is a function of (seed, sample, direction, coordinate): bit `d mod 32` of word `(d mod 128) // 32` of
`Philox4x32-10(counter = (d // 128, m, b low, b high), key = seed)`; 0 means +1. The bits are the
same for every part of the batch, on every device and in every language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssm.options import Projection

_MULTIPLIERS = ((0xD2511F53,), (0xCD9E8D57,))
_WEYL = ((0x9E3779B9,), (0xBB67AE85,))
_MASK = 0xFFFFFFFF
_BITS = 128


def philox(counter: Any, key: Any) -> Any:
    """Return the four 32-bit words of Philox4x32-10.

    Args:
        counter: int64 array or tensor `[4, N]` of words.
        key: int64 array or tensor `[2, 1]` of words.

    Returns:
        int64 `[4, N]`, of the kind that came in.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    kind = (lambda a: torch.tensor(a, device=counter.device)) if isinstance(counter, Tensor) else np.array
    multipliers, weyl = kind(_MULTIPLIERS), kind(_WEYL)
    even, odd = counter[0::2], counter[1::2]
    for _ in range(10):
        product = even * multipliers  # wraps modulo 2^64: the low 64 bits are exact
        high, low = (product >> 32) & _MASK, product & _MASK
        even, odd = _swapped(high) ^ odd ^ key, _swapped(low)
        key = (key + weyl) & _MASK
    return _interleave(even, odd)


def _swapped(pair: Any) -> Any:
    return pair.flip(0) if isinstance(pair, Tensor) else pair[::-1]


def _interleave(even: Any, odd: Any) -> Any:
    join = torch.stack if isinstance(even, Tensor) else np.stack
    return join((even, odd), 1).reshape(4, -1)


def rademacher(
    seed: Tensor,
    shape: tuple[int, int, int],
    *,
    dtype: torch.dtype = torch.float32,
    first_projection: int = 0,
    first_sample: int = 0,
) -> Tensor:
    """Return random signs that depend only on the seed and their position.

    `v[m, b, d] = 1 - 2 bit(seed, b, m, d)`.

    Args:
        seed: int64 scalar tensor; its device is where the signs are made.
        shape: `(M, B, D)`.
        dtype: floating-point type of the result.
        first_projection: index of the first direction, to make a part of a larger block.
        first_sample: index of the first sample.

    Returns:
        Signs `[M, B, D]`.

    Example:
        >>> seed = torch.tensor(7)
        >>> whole, part = rademacher(seed, (2, 10, 3)), rademacher(seed, (2, 4, 3), first_sample=6)
        >>> torch.equal(whole[:, 6:], part)
        True

    Source: Salmon et al. 2011 (the generator); Hutchinson 1990 (the estimator that uses it).
    """
    traced = torch.compiler.is_compiling() or type(seed) is not Tensor
    if not traced and seed.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(seed):
        signs = _signs_numpy(int(seed), shape, first_projection, first_sample)
        return torch.from_numpy(signs).to(dtype)
    return _signs_torch(seed, shape, first_projection, first_sample).to(dtype)


def _signs_numpy(seed: int, shape: tuple[int, int, int], m0: int, b0: int) -> Any:
    m, b, d = shape
    blocks = -(-d // _BITS)
    counter = np.empty((4, m, b, blocks), dtype=np.int64)
    counter[0], counter[1] = np.arange(blocks), np.arange(m0, m0 + m)[:, None, None]
    sample = np.arange(b0, b0 + b)[:, None]
    counter[2], counter[3] = sample & _MASK, sample >> 32
    key = np.array([[seed & _MASK], [(seed >> 32) & _MASK]])
    words = philox(counter.reshape(4, -1), key)[: -(-d // 32)]
    octets = np.ascontiguousarray(words.T.astype("<u4")).view(np.uint8)
    bits = np.unpackbits(octets, axis=1, bitorder="little").view(np.int8)
    return (1 - 2 * bits).reshape(m, b, blocks * bits.shape[1])[:, :, :d]


def _signs_torch(seed: Tensor, shape: tuple[int, int, int], m0: int, b0: int) -> Tensor:
    m, b, d = shape
    device, blocks = seed.device, -(-d // _BITS)
    block = torch.arange(blocks, device=device).expand(m, b, blocks)
    projection = torch.arange(m0, m0 + m, device=device)[:, None, None].expand(m, b, blocks)
    sample = torch.arange(b0, b0 + b, device=device)[:, None].expand(m, b, blocks)
    counter = torch.stack([block, projection, sample & _MASK, sample >> 32]).reshape(4, -1)
    key = torch.stack([seed & _MASK, (seed >> 32) & _MASK]).reshape(2, 1)
    words: Tensor = philox(counter, key)[: -(-d // 32)]
    bits = (words.T[:, :, None] >> torch.arange(min(d, 32), device=device)) & 1
    return torch.sub(1, bits, alpha=2).reshape(m, b, blocks * bits.shape[1] * bits.shape[2])[:, :, :d]


def new_seed(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draw an int64 seed from a generator (torch's default one if None); it stays a tensor, so nothing waits for it."""
    if generator is None:
        return torch.randint(2**63 - 1, (), device=device)
    return torch.randint(2**63 - 1, (), generator=generator, device=generator.device).to(device)


def gaussian(shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal directions."""
    if generator is None:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


def sphere(shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return directions uniform on the sphere of radius `sqrt(D)`."""
    v = gaussian(shape, like, generator)
    length: Tensor = torch.linalg.vector_norm(v, dim=2, keepdim=True)
    return v * (math.sqrt(shape[2]) / length)


def hadamard(shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return rows of a Hadamard matrix, one random sign per column and block: exact when M is its order, `>= D`."""
    m, b, d = shape
    order = 1 << (d - 1).bit_length()
    matrix = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while matrix.shape[0] < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    blocks = -(-m // order)
    signs = rademacher(new_seed(like.device, generator), (blocks, b, d), dtype=like.dtype)
    rows = matrix[: min(m, order), None, :d]
    return (signs[:, None] * rows).flatten(0, 1)[:m]


def basis(shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return `sqrt(D) e_i` for random coordinates, without repetition inside each block of D: exact when M = D."""
    m, b, d = shape
    blocks = -(-m // d)
    if generator is None:
        draws = torch.rand(blocks, b, d, device=like.device)
    else:
        draws = torch.rand(blocks, b, d, generator=generator, device=generator.device)
    chosen = draws.argsort(dim=2).transpose(1, 2).flatten(0, 1)[:m].to(like.device)
    return math.sqrt(d) * torch.nn.functional.one_hot(chosen, d).to(like.dtype)


def _signs(shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return rademacher(new_seed(like.device, generator), shape, dtype=like.dtype)


PROJECTIONS: dict[Projection, Callable[[tuple[int, int, int], Tensor, torch.Generator | None], Tensor]] = {
    "rademacher": _signs,
    "gaussian": gaussian,
    "sphere": sphere,
    "hadamard": hadamard,
    "basis": basis,
}


def check_projection(projection: object) -> None:
    """Raise ValueError, naming the choices, unless the projection is known."""
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}.")


def draw(
    projection: Projection,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw random directions with `E[v v^T] = I`.

    Args:
        projection: rademacher, gaussian, sphere (radius `sqrt(D)`), hadamard or basis (`sqrt(D) e_i`).
        shape: `(M, B, D)`.
        dtype: floating-point type.
        device: where the result lives.
        generator: source of randomness, torch's default one if None.

    Returns:
        Directions `[M, B, D]`.

    Raises:
        ValueError: for an unknown projection.

    Example:
        >>> draw("sphere", (1, 5, 4)).norm(dim=2).round()
        tensor([[2., 2., 2., 2., 2.]])

    Source: Song et al. 2019, section 3 (any `v` with `E[v v^T]` positive definite); scaled here so that it is I.
    """
    check_projection(projection)
    m, b, d = shape
    like = torch.empty(0, dtype=dtype, device=device)
    return PROJECTIONS[projection]((m, b, d), like, generator)


@dataclass(frozen=True)
class Directions:
    """M directions per sample: given (`v`), regenerated tile by tile (`seed`), or the scaled basis (neither).

    Attributes:
        count: M; 0 where nothing but the score is wanted.
        v: `[M, B, D]`, or None.
        seed: int64 scalar tensor, or None.
    """

    count: int
    v: Tensor | None = None
    seed: Tensor | None = None

    def tile(self, samples: slice, rows: slice, like: Tensor) -> Tensor:
        """Return some directions of some samples, `[m, t, D]`, in the dtype and on the device of `like [t, D]`."""
        if self.v is not None:
            return self.v[rows, samples].to(like.dtype)
        shape = (rows.stop - rows.start, *like.shape)
        if not self.count:
            return like.new_empty(shape)
        if self.seed is not None:
            return rademacher(
                self.seed, shape, dtype=like.dtype, first_projection=rows.start, first_sample=samples.start
            )
        d = like.shape[1]
        unit = math.sqrt(d) * torch.eye(d, dtype=like.dtype, device=like.device)[rows]
        return unit[:, None, :].expand(shape)
