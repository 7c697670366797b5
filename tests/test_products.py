"""How many batch-sized products a loss and its gradients take: the counts that `docs/your_network.md` gives."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastssm

DEPTH, WIDTH, BATCH = 24, 16, 8
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class Multiplications(TorchDispatchMode):
    """Counts the multiplications of all matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            self.count += out.numel() * [a for a in args if isinstance(a, torch.Tensor)][-1].shape[-2]
        return out


def normed(out: int) -> nn.Module:
    """Return a network that no engine runs, almost all of whose products are between hidden layers."""
    hidden = [m for _ in range(DEPTH) for m in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, out))


COUNTS = {
    ("jets", "SSM"): lambda M: 3 * (M + 2),
    ("jets", "SSM-VR"): lambda M: 3 * (M + 2) + 1,
    ("jets", "score"): lambda M: 3 * (M + 1),
    ("reference", "SSM"): lambda M: 6 * (M + 1),
    ("reference", "SSM-VR"): lambda M: 6 * (M + 1),
    ("reference", "score"): lambda M: 3 * (M + 1),
}


@pytest.mark.parametrize("M", [1, 4])
@pytest.mark.parametrize(("backend", "what"), COUNTS)
def test_a_loss_takes_as_many_products_as_the_page_says(backend: str, what: str, M: int) -> None:
    kind = "score" if what == "score" else "energy"
    net, x = normed(WIDTH if kind == "score" else 1), torch.randn(BATCH, WIDTH)
    options = {"kind": kind, "backend": backend, "n_projections": M, "variance_reduced": what != "SSM"}
    fastssm.explain(net, x, kind=kind)  # the trial of jets has products of its own
    with Multiplications() as once:
        net(x)
    with Multiplications() as counted:
        fastssm.sliced_loss(net, x, **options).backward()
    assert counted.count / once.count == pytest.approx(COUNTS[backend, what](M), rel=0.04)
