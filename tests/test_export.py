"""Exported programs: of networks that are recognised and of others, in PyTorch's own operators alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastssm
from fastssm.compiling import COMPILES
from fastssm.nn import MLP
from fastssm.options import BackendName

D = 3


class Score(nn.Module):
    """What a model is exported as to sample from it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return fastssm.score(self.net, x)


class Loss(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.loss = fastssm.SlicedScoreLoss(net)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        return self.loss(x, v=v)


class Own(nn.Module):
    """A network that is not recognised."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(D, 8), nn.LayerNorm(8), nn.Linear(8, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))) * self.first(x))


NETS = {
    "recognised energy": lambda: MLP(D, [8, 8]),
    "recognised score": lambda: MLP(D, [8, 8], D, "silu"),
    "own energy": lambda: Own(1),
    "own score": lambda: Own(D),
}


def exported(module: nn.Module, *given: Tensor) -> torch.export.ExportedProgram:
    program = torch.export.export(module, given)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert not [name for name in names if name.startswith("fastssm")]
    return program


@pytest.mark.parametrize("name", NETS)
def test_the_score_is_exported(name: str) -> None:
    torch.manual_seed(0)
    module, x = Score(NETS[name]()), torch.randn(4, D)
    program = exported(module, x)
    torch.testing.assert_close(program.module()(x), module(x))
    other = torch.randn(4, D)
    torch.testing.assert_close(program.module()(other), module(other))


@pytest.mark.parametrize("name", NETS)
def test_the_loss_is_exported(name: str) -> None:
    torch.manual_seed(0)
    module, x, v = Loss(NETS[name]()), torch.randn(4, D), torch.randn(2, 4, D)
    program = exported(module, x, v)
    torch.testing.assert_close(program.module()(x, v), module(x, v))


@pytest.mark.parametrize("name", ["recognised score", "own score"])
@pytest.mark.parametrize("operator", ["divergence", "jacobian_diag"])
def test_operators_are_exported(operator: str, name: str) -> None:
    class Operator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NETS[name]()

        def forward(self, x: Tensor) -> Tensor:
            return getattr(fastssm, operator)(self.net, x)

    torch.manual_seed(0)
    module, x = Operator(), torch.randn(4, D)
    torch.testing.assert_close(exported(module, x).module()(x), module(x))


def test_other_batches_and_what_is_given() -> None:
    """Sizes, directions and conditioning arguments are inputs of the program, not constants."""

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Own(1)

        def forward(self, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
            return fastssm.sliced_loss(lambda x, t: self.net(x * t[:, None]).square(), x, v=v, cond={"t": t})

    torch.manual_seed(0)
    module, batch = Conditional(), torch.export.Dim("batch")
    given = lambda size: (torch.randn(size, D), torch.rand(size), torch.randn(1, size, D))  # noqa: E731
    program = torch.export.export(module, given(4), dynamic_shapes=({0: batch}, {0: batch}, {1: batch}))
    other = given(7)
    found = program.module()
    torch.testing.assert_close(found(*other), module(*other))
    assert not program.constants
    grads = [torch.autograd.grad(run(*other), list(run.parameters()), allow_unused=True) for run in (found, module)]
    torch.testing.assert_close(*grads)


def test_directions_are_drawn_at_each_run() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Own(D)

        def forward(self, x: Tensor) -> Tensor:
            return fastssm.sliced_loss(self.net, x)

    torch.manual_seed(0)
    module, x = Drawing(), torch.randn(4, D)
    program = torch.export.export(module, (x,)).module()
    assert program(x) != program(x)
    losses = torch.stack([program(x) for _ in range(200)])
    exact = fastssm.exact_loss(module.net, x)
    assert (losses.mean() - exact).abs() < 4 * losses.std() / 200**0.5


@pytest.mark.skipif(not COMPILES, reason="before torch 2.13, Dynamo does not tell torch.export from torch.compile")
def test_strict_mode_says_what_to_do() -> None:
    with pytest.raises(Exception, match="leave strict out"):
        torch.export.export(Score(Own(1)), (torch.randn(4, D),), strict=True)


@pytest.mark.skipif(not COMPILES, reason="before torch 2.13 no export recognises a forward")
@pytest.mark.parametrize(("backend", "reason"), [("torch", "strict=True only"), ("jets", "does not record jets")])
def test_a_backend_that_export_has_not_says_why(backend: BackendName, reason: str) -> None:
    net, x = Own(1), torch.randn(4, D)

    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fastssm.sliced_loss(net, x, v=torch.ones_like(x)[None], backend=backend)

    with pytest.raises(fastssm.UnsupportedError, match=reason):
        torch.export.export(Named(), (x,))


def test_a_named_backend_is_exported_as_it_is() -> None:
    if fastssm.backends.BACKENDS["cpu"].missing():
        pytest.skip("the cpu engine is not built")
    net = MLP(D, [8])

    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fastssm.score(net, x, backend="cpu")

    program = torch.export.export(Named(), (torch.randn(4, D),))
    assert any("fastssm" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("name", NETS)
def test_onnx(name: str) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module, x = Score(NETS[name]()), torch.randn(4, D)
    with torch.no_grad():
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(x).detach(), rtol=1e-4, atol=1e-5)
