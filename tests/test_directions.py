"""Random directions: Philox's published answers, bits that depend on nothing but their place, and E[v v^T] = I."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssm.directions import PROJECTIONS, Directions, _signs_numpy, _signs_torch, draw, new_seed, philox, rademacher
from tests.covering import each

# Random123, kat_vectors, "philox4x32 10": counter, key, answer.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
MASK = 2**32 - 1
SHAPES = [(1, 1, 1), (2, 3, 31), (3, 2, 32), (2, 2, 33), (1, 3, 127), (2, 1, 128), (2, 3, 129), (1, 2, 1000), (7, 1, 2)]
PLACES = [(0, 0), (3, 5), (2**20, 2**32 - 1), (1, 2**40 + 7)]
SEEDS = [0, 1, 2**32, 2**63 - 2]


def words(text: str) -> list[list[int]]:
    return [[int(word, 16)] for word in text.split()]


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_known_answers(kind: type, counter: str, key: str, answer: str) -> None:
    assert philox(kind(words(counter)), kind(words(key))).tolist() == words(answer)


def test_philox_takes_many_counters_at_once() -> None:
    counters = np.array([words(c) for c, _, _ in KNOWN])[:, :, 0].T
    for index, (_, key, _) in enumerate(KNOWN):
        alone = philox(counters[:, index : index + 1], np.array(words(key)))
        assert (philox(counters, np.array(words(key)))[:, index : index + 1] == alone).all()


def test_signs_under_vmap_are_those_of_a_loop() -> None:
    seeds = torch.tensor(SEEDS)
    together = torch.func.vmap(lambda seed: rademacher(seed, (2, 3, 129), first_sample=5))(seeds)
    assert torch.equal(together, torch.stack([rademacher(seed, (2, 3, 129), first_sample=5) for seed in seeds]))


@each("projection", PROJECTIONS)
def test_vmap_draws_other_directions_for_each(projection: str) -> None:
    def draws(_: Tensor) -> Tensor:
        return draw(projection, (8, 4, 8), dtype=torch.float64)  # type: ignore[arg-type]

    found = torch.func.vmap(draws, randomness="different")(torch.zeros(3))
    assert found.shape == (3, 8, 4, 8)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    if projection != "gaussian":  # of the others every direction has length sqrt(D)
        torch.testing.assert_close(found.square().sum(3), 8.0 * torch.ones(3, 8, 4, dtype=torch.float64))


def philox_in_integers(counter: list[int], key: list[int]) -> list[int]:
    """Write the ten rounds out as the paper does, in Python's own integers."""
    a, b, c, d = counter
    k, q = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k, second & MASK, first >> 32 ^ d ^ q, first & MASK
        k, q = k + 0x9E3779B9 & MASK, q + 0xBB67AE85 & MASK
    return [a, b, c, d]


def sign(seed: int, b: int, m: int, d: int) -> float:
    word = philox_in_integers([d // 128, m, b & MASK, b >> 32], [seed & MASK, seed >> 32])[d % 128 // 32]
    return 1.0 - 2.0 * (word >> d % 32 & 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each("seed", SEEDS)
def test_signs_are_where_the_documentation_says(shape: tuple[int, int, int], seed: int) -> None:
    for m0, b0 in PLACES:
        found = rademacher(torch.tensor(seed), shape, dtype=torch.float64, first_projection=m0, first_sample=b0)
        assert tuple(found.shape) == shape
        for m, b, d in {(0, 0, 0), (shape[0] - 1, shape[1] - 1, shape[2] - 1), (shape[0] // 2, 0, shape[2] // 2)}:
            assert found[m, b, d] == sign(seed, b0 + b, m0 + m, d)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each("seed", SEEDS)
def test_numpy_and_torch_agree_bit_for_bit(shape: tuple[int, int, int], seed: int) -> None:
    for place in PLACES:
        by_numpy, by_torch = _signs_numpy(seed, shape, *place), _signs_torch(torch.tensor(seed), shape, *place)
        assert np.array_equal(by_numpy, by_torch.numpy())
        assert set(np.unique(by_numpy)) <= {-1, 1}


def test_tiles_are_parts_of_the_whole() -> None:
    seed, x = torch.tensor(11), torch.empty(50, 40)
    every = Directions(9, seed=seed)
    whole = every.tile(slice(0, 50), slice(0, 9), x)
    given = Directions(9, v=whole.double())
    for samples, rows in ((slice(0, 1), slice(0, 9)), (slice(7, 33), slice(2, 5)), (slice(49, 50), slice(8, 9))):
        for directions in (every, given):
            tile = directions.tile(samples, rows, x[samples])
            assert tile.dtype == x.dtype
            assert torch.equal(tile, whole[rows, samples])
    unit = Directions(40).tile(slice(3, 5), slice(10, 30), x[3:5])
    assert torch.equal(unit, math.sqrt(40) * torch.eye(40)[10:30, None].expand(20, 2, 40))


@pytest.mark.parametrize("shape", [(3, 100_001, 2), (5001, 2, 3), (1, 2, 100_001)], ids=str)
def test_large_extents(shape: tuple[int, int, int]) -> None:
    signs = rademacher(torch.tensor(5), shape)
    last = tuple(n - 1 for n in shape)
    assert signs[last] == sign(5, last[1], last[0], last[2])
    assert abs(float(signs.mean())) < 6 / math.sqrt(signs.numel())


def samples_of(projection: str, m: int, count: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(2024)
    return draw(projection, (m, count, dim), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("dim", [1, 2, 5, 33])
def test_mean_zero_and_covariance_identity(projection: str, dim: int) -> None:
    """Within six standard errors: `Var(v_i v_j) <= max(2, D)`. The basis has no signs, so its mean is not zero."""
    count = 20_000
    v = samples_of(projection, 3, count, dim)
    for row in v:
        covariance = row.t() @ row / count
        assert float((covariance - torch.eye(dim)).abs().max()) < 6 * math.sqrt(max(2, dim) / count)
        if projection != "basis":
            assert float(row.mean(0).abs().max()) < 6 / math.sqrt(count)


@pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere"])
def test_directions_of_one_sample_are_independent(projection: str) -> None:
    a, b = samples_of(projection, 2, 20_000, 4)
    assert float((a.t() @ b / len(a)).abs().max()) < 6 / math.sqrt(len(a))


@pytest.mark.parametrize("projection", ["rademacher", "hadamard"])
def test_entries_are_signs(projection: str) -> None:
    assert (samples_of(projection, 9, 20, 7).abs() == 1).all()


@pytest.mark.parametrize("dim", [1, 3, 50])
def test_radius_of_the_sphere(dim: int) -> None:
    radii = samples_of("sphere", 2, 100, dim).norm(dim=2)
    assert torch.allclose(radii, torch.full_like(radii, math.sqrt(dim)), rtol=1e-14)


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("projection", "dim", "order"),
    [
        ("hadamard", 1, 1),
        ("hadamard", 2, 2),
        ("hadamard", 3, 4),
        ("hadamard", 8, 8),
        ("hadamard", 9, 16),
        ("basis", 1, 1),
        ("basis", 3, 3),
        ("basis", 10, 10),
    ],
)
@pytest.mark.parametrize("blocks", [1, 3])
def test_whole_blocks_are_exact(projection: str, dim: int, order: int, blocks: int) -> None:
    v = samples_of(projection, order * blocks, 20, dim)
    assert torch.allclose(torch.einsum("mbi,mbj->bij", v, v) / len(v), torch.eye(dim, dtype=v.dtype), atol=1e-14)
    part = samples_of(projection, order * blocks + 1, 20, dim)
    assert part.shape == (order * blocks + 1, 20, dim)


def test_hadamard_blocks_differ_and_rows_are_orthogonal() -> None:
    v = samples_of("hadamard", 16, 30, 8)
    gram = torch.einsum("mbd,nbd->bmn", v, v) / 8
    assert torch.equal(gram[:, :8, :8], torch.eye(8, dtype=v.dtype).expand(30, 8, 8))
    assert not torch.equal(v[:8], v[8:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each("projection", PROJECTIONS)
def test_the_seed_alone_decides(projection: str, dtype: torch.dtype) -> None:
    def once(seed: int) -> Tensor:
        return draw(projection, (3, 40, 5), dtype=dtype, generator=torch.Generator().manual_seed(seed))

    assert once(1).dtype == dtype
    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    torch.manual_seed(1)
    assert torch.equal(draw(projection, (3, 40, 5), dtype=dtype), once(1))


def test_seeds_are_scalar_tensors_that_advance_the_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (new_seed(torch.device("cpu"), generator) for _ in range(2))
    assert (first.shape, first.dtype) == ((), torch.int64)
    assert first != second


@each("projection", PROJECTIONS)
def test_more_directions_than_coordinates_and_none_of_samples(projection: str) -> None:
    assert samples_of(projection, 7, 4, 2).shape == (7, 4, 2)
    assert samples_of(projection, 2, 0, 3).shape == (2, 0, 3)
    assert samples_of(projection, 5, 2, 1).square().mean(2).numel() == 10


def test_unknown_projection() -> None:
    with pytest.raises(ValueError, match="projection must be one of rademacher, gaussian, sphere, hadamard, basis"):
        draw("cauchy", (1, 2, 3))
