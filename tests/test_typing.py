"""What type checkers see: mypy's types of functions, twins and options, on a snippet of a user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPET = """
import fastssm
from fastssm.diffusion import VP, ElboLoss, TimeSampling, elbo_loss
from torch import Tensor, nn


def check(net: nn.Module, x: Tensor, flag: bool, loss: fastssm.SlicedScoreLoss) -> None:
    reveal_type(fastssm.sliced_loss(net, x, n_projections=2, projection="gaussian"))  # T: Tensor
    reveal_type(fastssm.sliced_loss(net, x, return_terms=True))  # T: tuple[Tensor, LossTerms]
    reveal_type(fastssm.sliced_loss(net, x, return_terms=flag))  # T: Tensor | tuple[Tensor, LossTerms]
    reveal_type(fastssm.denoising_loss(net, x, sigma=0.1))  # T: Tensor
    reveal_type(elbo_loss(net, x, sde=VP(), times=TimeSampling("uniform"), return_terms=True)[1].path)  # T: Tensor
    reveal_type(fastssm.divergence(net, x, return_value=True))  # T: tuple[Tensor, Tensor]
    reveal_type(fastssm.laplacian(net, x, exact=False))  # T: Tensor
    reveal_type(loss(x))  # T: Tensor
    reveal_type(fastssm.SlicedScoreLoss(net, n_projections=2)(x, v=x))  # T: Tensor
    reveal_type(fastssm.SlicedScoreLoss(net, return_terms=True)(x))  # T: tuple[Tensor, LossTerms]
    reveal_type(fastssm.DenoisingLoss(net, sigma=0.1)(x, noise=x))  # T: Tensor
    reveal_type(ElboLoss(net, sde=VP(), return_terms=True)(x))  # T: tuple[Tensor, ElboTerms]
    reveal_type(fastssm.CompositeLoss(net, net)(x, x))  # T: Tensor
    reveal_type(fastssm.SlicedScoreLoss(net).model)  # T: Module
    fastssm.sliced_loss(net, x, projektion="gaussian")  # E: "projektion"
    fastssm.sliced_loss(net, x, projection="gausian")  # E: No overload variant
    fastssm.exact_loss(net, x, return_terms=True, variance_reduced=True)  # E: "variance_reduced"
    fastssm.denoising_loss(net, x)  # E: "sigma"
    fastssm.denoising_loss(net, x, sigma=0.1, kind="enrgy")  # E: incompatible type
    fastssm.SlicedScoreLoss(net, projektion="gaussian")  # E: "projektion"
    fastssm.SlicedScoreLoss(net, v=x)  # E: "v"
    fastssm.DenoisingLoss(net)  # E: "sigma"
    loss(x, wieght=x)  # E: "wieght"
    TimeSampling("log")  # E: incompatible type
    fastssm.explain(net, x, what="loss")  # E: incompatible type
"""


ROOT = Path(__file__).parents[1]


def messages_of_mypy(folder: Path) -> dict[int, list[str]]:
    """Return what mypy says of the snippet, by line."""
    (folder / "snippet.py").write_text(SNIPPET)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *settings, "snippet.py"]  # with what `make lint` has cached
    variables = os.environ | {"MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode in (0, 1), done.stderr
    lines: dict[int, list[str]] = {}
    for number, message in re.findall(r"^snippet\.py:(\d+): (?:error|note): (.*)$", done.stdout, re.MULTILINE):
        lines.setdefault(int(number), []).append(message)
    return lines


def plain(message: str) -> str:
    """Return a revealed type without the paths of its names."""
    shown = re.sub(r"tuple\[[^\[\]]*, fallback=([\w.]+)\]", r"\1", message.split('"')[1])
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", shown)


def test_types_are_those_that_are_meant_and_mistakes_are_found(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    found = messages_of_mypy(tmp_path)
    for number, line in enumerate(SNIPPET.splitlines(), 1):
        messages = found.pop(number, [])
        if "# T: " in line:
            assert [plain(message) for message in messages] == [line.split("# T: ")[1]], line
        elif "# E: " in line:
            assert line.split("# E: ")[1] in " ".join(messages), line
        else:
            assert messages == [], line
    assert found == {}
