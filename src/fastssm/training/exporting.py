"""A model as graphs that run without fastssm: programs of `torch.export`, and ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import score
from fastssm.errors import UnsupportedError
from fastssm.training.autoregressive import Autoregressive
from fastssm.training.checkpoint import write_atomically
from fastssm.training.model import Model

FORMATS = {"torch-export": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-4  # of the largest value: the graphs compute in the precision of the network
CHECKED = (7, 3)  # batches that are compared


class _Graph(nn.Module):
    """What a model computes of rows `[n, D]` in data units, in float64 outside the network."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net, self.kind, self.log_det, self.dtype = model.evaluated, model.kind, model.log_det, model.dtype
        self.register_buffer("mean", model.scaler.mean)
        self.register_buffer("matrix", model.scaler.matrix)

    mean: Tensor
    matrix: Tensor

    def scaled(self, rows: Tensor) -> Tensor:
        return ((rows - self.mean) @ self.matrix).to(self.dtype)


class _Energy(_Graph):
    def forward(self, rows: Tensor) -> Tensor:
        energy: Tensor = self.net(self.scaled(rows))
        return energy.reshape(-1).double() - self.log_det


class _Score(_Graph):
    def forward(self, rows: Tensor) -> Tensor:
        return score(self.net, self.scaled(rows), kind=self.kind).double() @ self.matrix.T


def export(model: Model, folder: str | Path, form: str = "torch-export") -> tuple[dict[str, Path], str]:
    """Write graphs of a model that take rows in data units, and compare them with the model.

    The graphs take rows `[n, D]` in float64, for any n, and return the energy `[n]` or the score `[n, D]`.

    Args:
        model: the model.
        folder: where `energy` and `score` are written, with the extension of the form.
        form: "torch-export" or "onnx", which needs onnxscript.

    Returns:
        The files by "energy" and "score", and a sentence about the comparison.

    Raises:
        ImportError: if ONNX is wanted and onnxscript is not installed.
        UnsupportedError: for a composite model, whose quadrature has no graph.
        ValueError: if the form is unknown.
        RuntimeError: if a graph does not give what the model gives.

    Example:
        >>> export(fastssm.load("runs/white-wine"), "exported")  # doctest: +SKIP
    """
    if form not in FORMATS:
        raise ValueError(f"form must be one of {', '.join(FORMATS)}, got {form!r}.")
    if isinstance(model.net, Autoregressive):
        raise UnsupportedError(
            "a composite model is normalised by quadrature, which is not exported; use its networks."
        )
    folder, model = Path(folder), model.to("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    graphs: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {"score": (_Score(model), model.score)}
    if model.kind == "energy":
        graphs = {"energy": (_Energy(model), model.energy), **graphs}
    found, checked = {}, ""
    for name, (graph, truth) in graphs.items():
        path = folder / f"{name}{FORMATS[form]}"
        run = (_to_torch if form == "torch-export" else _to_onnx)(
            graph.eval(), some_rows(model, CHECKED[0]), name, path
        )
        checked = _compare(run, truth, model, name, path)
        found[name] = path
    return found, checked


def some_rows(model: Model, count: int) -> Tensor:
    """Return rows in data units, from the Gaussian with the moments of the training rows."""
    facts = model.facts
    variance, axes = torch.linalg.eigh(facts.covariance)
    generator = torch.Generator().manual_seed(count)
    white = torch.randn(count, facts.features, generator=generator, dtype=torch.float64)
    return model.scaler.unscale(facts.mean + (white * variance.clamp(min=0).sqrt()) @ axes.T)


Run = Callable[[Tensor], Tensor] | None


def _to_torch(graph: nn.Module, rows: Tensor, name: str, path: Path) -> Run:
    program = torch.export.export(graph, (rows,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    write_atomically(path, lambda file: torch.export.save(program, file))
    loaded = torch.export.load(path).module()
    run: Run = lambda x: loaded(x)  # noqa: E731
    return run


def _to_onnx(graph: nn.Module, rows: Tensor, name: str, path: Path) -> Run:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("ONNX needs onnxscript, which is not installed (pip install onnx onnxscript)") from None
    with _quiet():
        program: Any = torch.onnx.export(
            graph,
            (rows,),
            dynamo=True,
            verbose=False,
            input_names=["rows"],
            output_names=[name],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
        )
        program.save(str(path))
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path))
    return lambda x: torch.from_numpy(session.run([name], {"rows": x.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _compare(run: Run, truth: Callable[[Tensor], Tensor], model: Model, name: str, path: Path) -> str:
    if run is None:
        return "not compared with the model, as onnxruntime is not installed"
    worst = 0.0
    for count in CHECKED:
        rows = some_rows(model, count)
        expected = truth(rows)
        worst = max(worst, float((run(rows) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)))
    if not worst <= TOLERANCE:
        path.unlink()
        raise RuntimeError(
            f"the exported {name} must agree with the model to {TOLERANCE:.0e}, got a relative error of {worst:.1e}; "
            f"{path} was removed. Please report this model."
        )
    return f"agrees with the model to {max(worst, 1e-16):.0e}"
