"""Options are typed, described and given defaults once, and every public function and twin shows all of its own."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import Required, TypedDict, Unpack

import fastssm
from fastssm import diffusion, directions, options
from fastssm.losses.module import ScoreLoss
from fastssm.options import described, entries, takes


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))


FUNCTIONS = {
    name: function
    for module in (fastssm, diffusion)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and name in module.__all__
}
OPTIONS = {name: function for name, function in FUNCTIONS.items() if hasattr(function, "__signature__")}
TWINS = {
    name: twin
    for module in (fastssm, diffusion)
    for name, twin in vars(module).items()
    if isinstance(twin, type) and issubclass(twin, ScoreLoss)
}
BUILT: dict[str, dict[str, Any]] = {  # what a twin needs
    "AnnealedDenoisingLoss": {"sigmas": [1.0, 0.1]},
    "AnnealedSlicedLoss": {"sigmas": [1.0, 0.1]},
    "DenoisingLoss": {"sigma": 0.1},
    "DomainLoss": {"domain": fastssm.domains.Box(-9.0, 9.0)},
    "ElboLoss": {"sde": diffusion.VP()},
    "FiniteDifferenceDenoisingLoss": {"sigma": 0.1},
    "ManifoldLoss": {"manifold": "torus"},
    "MissingLoss": {"proposal": fastssm.GaussianProposal(torch.zeros(2), torch.eye(2))},
    "PreconditionedLoss": {"precond": torch.ones(2)},
    "SlicedDiffusionLoss": {"sde": diffusion.VP()},
    "TemperedLoss": {"tempering": fastssm.GeometricTempering(0.1, 25.0)},
}
TOLD = (  # of a level or a time
    "AnnealedDenoisingLoss",
    "AnnealedSlicedLoss",
    "DensityRatioLoss",
    "ElboLoss",
    "SlicedDiffusionLoss",
)


def built(name: str, **more: Any) -> ScoreLoss[Any]:
    torch.manual_seed(0)
    model = fastssm.nn.MLP(3 if name == "TemperedLoss" else 2, [8], cond_dim=1 if name in TOLD else 0)
    nets = (torch.nn.Sequential(fastssm.nn.Periodic(), fastssm.nn.MLP(4, [8])) if name == "ManifoldLoss" else model,)
    if name == "CompositeLoss":
        nets = (fastssm.nn.MADEContext(2, 4, [8]), fastssm.nn.MLP(1, [8], cond_dim=4))
    return TWINS[name](*nets, **BUILT.get(name, {}), **more)


# --- functions ---


def test_a_function_shows_and_describes_every_option() -> None:
    for name in OPTIONS:
        function = OPTIONS[name]
        parameters = inspect.signature(function).parameters
        assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters.values())
        assert list(entries(function.__doc__)) != []
        assert set(entries(function.__doc__)) == set(parameters)
        assert [p.name for p in parameters.values() if isinstance(p.annotation, str)] == []


def test_every_loss_and_operator_takes_its_options_so() -> None:
    losses = {name for name in FUNCTIONS if name.endswith("_loss")}
    assert len(losses) == 16
    assert losses | {"terms", "score", "divergence", "laplacian", "hvp_form", "jacobian_diag", "elbo"} <= set(OPTIONS)


def test_a_misspelt_option_is_a_type_error() -> None:
    for name in OPTIONS:
        function = OPTIONS[name]
        required = {p.name: None for p in inspect.signature(function).parameters.values() if p.default is p.empty}
        with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'particles'$"):
            function(**required, particles=3)


@pytest.mark.parametrize("name", ["denoising_loss", "domain_loss", "elbo_loss"])
def test_a_missing_option_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing required keyword-only argument"):
        OPTIONS[name](net(), torch.zeros(3, 2))


def test_positions_and_keywords_are_those_of_the_signature() -> None:
    x = torch.randn(4, 2)
    v = torch.ones(1, 4, 2)
    loss = fastssm.sliced_loss(net(), x, v=v)
    assert torch.equal(loss, fastssm.sliced_loss(model=net(), x=x, v=v))
    with pytest.raises(TypeError, match="positional argument"):
        fastssm.sliced_loss(net(), x, None)
    assert pickle.loads(pickle.dumps(fastssm.sliced_loss)) is fastssm.sliced_loss


def test_names_are_defined_once() -> None:
    assert get_args(options.Projection) == tuple(directions.PROJECTIONS)
    assert {*fastssm.backends.BACKENDS, "auto"} == set(options.BACKEND_NAMES)
    parameters = inspect.signature(fastssm.sliced_loss).parameters
    assert {name: parameters[name].default for name in options.DEFAULTS} == options.DEFAULTS


class Base(TypedDict, total=False):
    """A base.

    Attributes:
        depth: of the base.
        width: of the base.
    """

    depth: int
    width: int | None


class Derived(Base, total=False):
    """A derived one.

    Attributes:
        depth: of the derived one,
            on two lines.
        name: required.
    """

    name: Required[str]


@takes(Derived, depth=3)
def example(x: int, *, flag: bool = False, **given: Unpack[Derived]) -> dict[str, Any]:
    """Return what came.

    Args:
        x: a number.
        options: keyword arguments of `Derived`.
        flag: a flag.

    Returns:
        A dictionary.
    """
    return {"x": x, "flag": flag, **given}


def test_takes() -> None:
    assert example(1, name="n") == {"x": 1, "flag": False, "name": "n", "depth": 3, "width": None}
    assert str(inspect.signature(example)) == (
        "(x: int, *, name: str, depth: int = 3, width: int | None = None, flag: bool = False) -> dict[str, typing.Any]"
    )
    assert entries(example.__doc__ or "") == {
        "x": "    x: a number.\n",
        "name": "    name: required.\n",
        "depth": "    depth: of the derived one,\n        on two lines.\n",
        "width": "    width: of the base.\n",
        "flag": "    flag: a flag.\n",
    }
    assert described(None, Derived) is None  # python -OO


def test_the_documentation_shows_every_option() -> None:
    """By the extension of griffe that mkdocs.yml names."""
    griffe = pytest.importorskip("griffe")
    root = Path(__file__).parents[1]
    assert "extensions: [tools/griffe_options.py]" in (root / "mkdocs.yml").read_text()
    extensions = griffe.load_extensions(str(root / "tools/griffe_options.py"))
    package = griffe.load("fastssm", search_paths=[str(root / "src")], extensions=extensions)
    for name, function in OPTIONS.items():
        shown = package[f"{function.__module__.removeprefix('fastssm.')}.{name}"]
        assert [p.name for p in shown.parameters] == list(inspect.signature(function).parameters)
        assert shown.docstring.value == (inspect.getdoc(function) or "").replace("\nExample:", "\nExamples:")
    twin = package["losses.sliced.SlicedScoreLoss"]
    assert twin.docstring.value == (inspect.getdoc(fastssm.SlicedScoreLoss) or "").replace("\nExample:", "\nExamples:")
    parameters = package["losses.sliced.sliced_loss"].parameters
    assert [str(parameters[name].annotation) for name in ("model", "cond", "kind")] == ["Model", "Cond", "Kind"]
    assert str(package["diffusion.likelihood.elbo_loss"].parameters["times"].annotation) == "TimeSampling | None"


# --- twins ---


def test_every_loss_has_a_twin() -> None:
    assert {twin.loss for twin in TWINS.values()} == {f for n, f in FUNCTIONS.items() if n.endswith("_loss")}


def test_a_twin_has_the_signatures_and_the_words_of_its_function() -> None:
    for name in TWINS:
        twin = TWINS[name]
        parameters = inspect.signature(twin.loss).parameters
        made, called = inspect.signature(twin).parameters, inspect.signature(twin.forward).parameters
        keywords = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert (set(made) | set(called)) - {"self"} == set(parameters)
        assert keywords & set(made) == keywords - set(called)
        assert all(made[n].default == parameters[n].default for n in made)
        assert list(called)[:2] == ["self", "x"]
        assert entries(twin.__doc__).keys() == made.keys()
        assert [
            part for part in ("Args:", "Raises:", "Example:", "Source:") if f"\n{part}" not in (twin.__doc__ or "")
        ] == []


def test_a_twin_is_copied_and_pickled() -> None:
    for name in TWINS:
        loss, x = built(name), torch.randn(6, 2)
        given = {"base": torch.randn(6, 2)} if "base" in loss.tensor_names else {}
        torch.manual_seed(1)
        expected = loss(x, **given)
        expected.backward()
        file = io.BytesIO()
        torch.save(loss, file)
        file.seek(0)
        for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), torch.load(file, weights_only=False)):
            torch.manual_seed(1)
            assert torch.equal(other(x, **given), expected)
            assert type(other) is type(loss)
        assert repr(loss).startswith(name)


def test_tensors_of_a_batch_by_place_and_by_name() -> None:
    x, weight, v = torch.randn(4, 2), torch.rand(4), torch.ones(1, 4, 2)
    loss = fastssm.SlicedScoreLoss(net())
    expected = fastssm.sliced_loss(net(), x, weight=weight, v=v)
    assert torch.equal(loss(x, None, weight, v), expected)
    assert torch.equal(loss(x, v=v, weight=weight), expected)
    assert torch.equal(loss(x, None, weight, v=v), expected)
    for tensors, named in (((None, weight, v, v), {}), ((None,), {"cond": None}), ((), {"projection": "basis"})):
        with pytest.raises(TypeError, match="takes x and the tensors cond, weight, v, each once, got"):
            loss(x, *tensors, **named)


def test_a_twin_of_your_own() -> None:
    class Mine(ScoreLoss, loss=fastssm.exact_loss):  # type: ignore[type-arg]
        """Mine.

        Example:
            >>> 1 + 1
            2
        """

        def __init__(self, model: nn.Module, **options: Any) -> None:
            super().__init__(model, **options)

    class Doubled(Mine):
        def evaluate(self, x: Tensor, **tensors: Any) -> Tensor:
            return 2 * super().evaluate(x, **tensors)

    x = torch.randn(4, 2)
    assert torch.equal(Mine(net())(x), fastssm.exact_loss(net(), x))
    assert torch.equal(Doubled(net())(x), 2 * fastssm.exact_loss(net(), x))
