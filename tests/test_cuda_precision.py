"""Who computes the products of precision="full" on a GPU: the engine may split them, or PyTorch has them all."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import fastssm
from fastssm import backends
from fastssm.backends import cuda
from fastssm.nn import MLP
from tests.covering import each

PRINT = """
import torch
from torch import nn
from fastssm.backends.cuda import _leaves_products
def f(x):
    return x + 1 if _leaves_products() else x
def seen():
    torch.compiler.reset()
    compiled = bool(torch.compile(f, backend="eager", fullgraph=True)(torch.zeros(())))
    class Model(nn.Module):
        def forward(self, x):
            return f(x)
    exported = bool(torch.export.export(Model(), (torch.zeros(()),)).module()(torch.zeros(())))
    assert _leaves_products() == compiled == exported
    print(compiled)
"""
ALLOWED = {
    "by default": "seen()",
    "one setting": """
for precision in ("medium", "high", "highest"):
    torch.set_float32_matmul_precision(precision)
    seen()
""",
    "the older setting": "torch.backends.cuda.matmul.allow_tf32 = True\nseen()",
    "the newer setting": "torch.backends.cuda.matmul.fp32_precision = 'tf32'\nseen()",
    "switched off": "import os\nos.environ['FASTSSM_SPLIT'] = '0'\nseen()",
}
SEEN = {"by default": [False], "one setting": [True, True, False]}


@each("setting", ALLOWED)
def test_what_torch_may_round_is_left_to_it(setting: str) -> None:
    if setting == "the newer setting" and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has the older setting alone")
    done = subprocess.run([sys.executable, "-c", PRINT + ALLOWED[setting]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(seen) for seen in SEEN.get(setting, [True])]


@each("allowed", [False, True])
def test_an_older_torch_is_asked_for_what_it_has(monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
    assert cuda._leaves_products() == allowed


@each("off", [False, True])
def test_the_engine_is_told(monkeypatch: pytest.MonkeyPatch, off: bool) -> None:
    monkeypatch.setenv(cuda.NO_SPLIT, str(int(not off)))
    engine = cuda.Cuda()
    for precision in ("full", "split", "tf32", "bf16"):
        request = backends.make_request(MLP(4, [8]), torch.randn(3, 4), precision=precision)  # type: ignore[arg-type]
        assert engine.products(request) == ("torch" if off and precision == "full" else precision)


@pytest.mark.usefixtures("_fresh_dynamo")
def test_a_compiled_loss_asks_without_a_graph_break(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = cuda.Cuda()
    monkeypatch.setattr(backends.BACKENDS["torch"], "products", engine.products)
    net, x, v = MLP(4, [8]), torch.randn(3, 4), torch.randn(1, 3, 4)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return fastssm.sliced_loss(net, x, v=v, backend="torch")

    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(x), loss(x))
