"""A model in a folder: the weights in `model.safetensors`, everything else in `model.json`, and no code in either."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

import fastssm
from fastssm.data import Scaler, Schema
from fastssm.training import checkpoint
from fastssm.training.config import TrainConfig
from fastssm.training.facts import Facts
from fastssm.training.model import Model
from fastssm.training.trainer import build_net

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT = 1
OWN = ("config", "columns", "noise", "reading", "weights")  # what a model has of its own, not only as information
FACTS = ("low", "high", "mean", "covariance")
SCALER = ("mean", "matrix")


def save(model: Model, folder: str | Path) -> None:
    """Write a model; a process killed between any two writes leaves no model, or a whole one.

    The description, which is written last, has the hash of the weights that it belongs to.

    Args:
        model: the model.
        folder: the folder, created if necessary; a model in it is replaced.

    Example:
        >>> save(model, "runs/mine")  # doctest: +SKIP
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove(folder)
    data = safetensors.torch.save(_tensors(model))
    description = _plain(_description(model, hashlib.sha256(data).hexdigest()))
    text = json.dumps(description, indent=2, allow_nan=False)
    checkpoint.write_atomically(folder / WEIGHTS, lambda file: file.write(data))
    checkpoint.write_atomically(folder / DESCRIPTION, lambda file: file.write(text.encode()))


def remove(folder: Path) -> None:
    """Remove a model from a folder, its description first."""
    for name in (DESCRIPTION, WEIGHTS):
        (folder / name).unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Return the versions that a model was made with."""
    return {
        "fastssm": fastssm.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def load(run: str | Path, *, device: str = "cpu") -> Model:
    """Load the model that `fastssm train` wrote.

    Nothing in the folder is executed, and no other file is read than `model.safetensors` and `model.json`.

    Args:
        run: the output folder of the run (`--out`).
        device: where its network goes; "auto" is CUDA if there is one.

    Returns:
        The model, which takes and gives rows in data units.

    Raises:
        ValueError: if the folder holds no whole model that this version can read.

    Example:
        >>> model = fastssm.load("runs/white-wine")  # doctest: +SKIP
    """
    folder = Path(run)
    description = _read_description(folder)
    tensors = _read_tensors(folder, description)
    try:
        model = _assemble(description, tensors)
    except _BadModelError as error:
        raise ValueError(f"{folder} holds no usable model: {error}; train it again") from None
    return model if device == "cpu" else model.to(device)


class _BadModelError(Exception):
    """What is wrong with a model, as the middle of a sentence."""


def _tensors(model: Model) -> dict[str, Tensor]:
    found = {f"net.{name}": tensor for name, tensor in model.net.state_dict().items()}
    found |= {f"facts.{name}": getattr(model.facts, name) for name in FACTS}
    found |= {f"scaler.{name}": getattr(model.scaler, name) for name in SCALER}
    found |= {} if model.held_out is None else {"held_out": model.held_out}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def _description(model: Model, digest: str) -> dict[str, Any]:
    made = {"versions": versions(), **model.info}
    return {
        "format": FORMAT,
        **made,
        "config": vars(model.config),
        "columns": list(model.columns),
        "noise": model.facts.noise,
        "reading": None if model.schema is None else model.schema.to_json(),
        "weights": {"file": WEIGHTS, "sha256": digest},
    }


def _plain(value: Any) -> Any:
    """Return a value with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(_no_model(folder))
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON ({type(error).__name__}); train the model again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise ValueError(
            f"{path} must have format {FORMAT}, which fastssm {fastssm.__version__} reads, got {got!r}; load it with "
            "the version that wrote it, or train again"
        )
    return found


def _no_model(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; pass the --out folder of a run of fastssm train"
    if (folder / checkpoint.CHECKPOINT).is_file():
        return f"{folder} holds a run that has not finished; continue it with fastssm train --resume"
    return f"{folder} must contain {DESCRIPTION}, but it does not; pass the --out folder of a run of fastssm train"


def _read_tensors(folder: Path, description: dict[str, Any]) -> dict[str, Tensor]:
    path, weights = folder / WEIGHTS, description.get("weights")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); train the model again") from None
    if not isinstance(weights, dict) or weights.get("sha256") != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{path} is not the file that {DESCRIPTION} beside it describes; train the model again")
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, and what torch and Python say of types and shapes
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not a file of safetensors ({why:.200}); train the model again") from None


def _assemble(description: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    _require_finite(tensors)
    made = description.get("versions")
    config = _config(description.get("config"), made.get("fastssm") if isinstance(made, dict) else None)
    columns, noise = description.get("columns"), description.get("noise")
    if not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns):
        raise _BadModelError(f"{DESCRIPTION} needs a list of column names, got {columns!r:.60}")
    if not isinstance(noise, int | float) or not 0 <= noise < math.inf:
        raise _BadModelError(f"noise must be a number from 0 on, got {noise!r:.60}")
    features = len(columns)
    shapes = {"low": (features,), "high": (features,), "mean": (features,), "covariance": (features, features)}
    facts = Facts(float(noise), **{name: _one(tensors, f"facts.{name}", shape) for name, shape in shapes.items()})
    matrix = _one(tensors, "scaler.matrix", (features, features))
    scaler = Scaler(_one(tensors, "scaler.mean", (features,)), matrix)
    if not bool(torch.linalg.slogdet(matrix).logabsdet.isfinite()):
        raise _BadModelError("the matrix of the scaler is singular")
    held_out = tensors.get("held_out")
    if held_out is not None and (held_out.ndim != 1 or not len(held_out) or held_out.dtype != torch.float64):
        raise _BadModelError("held_out must hold the energies of at least one row in float64")
    net = _net(config, features, {name[4:]: t for name, t in tensors.items() if name.startswith("net.")})
    info = {name: value for name, value in description.items() if name not in OWN}
    held_out = None if held_out is None else held_out.sort().values
    schema = _schema(description.get("reading"), columns)
    return Model(net, config, facts, scaler, tuple(columns), held_out, info, schema)


def _schema(saved: Any, columns: list[str]) -> Schema | None:
    if saved is None:
        return None
    try:
        schema = Schema.from_json(saved)
    except ValueError as error:
        raise _BadModelError(f"how its file was read is not told rightly ({error})") from None
    if list(schema.names) != columns:
        raise _BadModelError(f"reading a file gives columns {list(schema.names)}, but the model has {columns}")
    return schema


def _require_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise _BadModelError(f"{name} holds values that are NaN or infinite")


def _config(saved: Any, version: Any) -> TrainConfig:
    """Return the settings; those that an earlier version did not have yet take their defaults."""
    names = {field.name for field in fields(TrainConfig)}
    wrong = names.symmetric_difference(saved) if isinstance(saved, dict) else names
    if version != fastssm.__version__:
        wrong = wrong - names
    if wrong or not isinstance(saved, dict):
        raise _BadModelError(
            f"{DESCRIPTION} has other settings than this version ({', '.join(sorted(map(str, wrong)))})"
        )
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    try:
        return TrainConfig(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise _BadModelError(f"a setting of {DESCRIPTION} is wrong ({error})") from None


def _one(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    found = tensors.get(name)
    if found is None:
        raise _BadModelError(f"{WEIGHTS} lacks {name}")
    if found.shape != shape or not found.is_floating_point():
        raise _BadModelError(f"{name} must be numbers of shape {shape}, got {found.dtype} {tuple(found.shape)}")
    return found


def _net(config: TrainConfig, features: int, weights: dict[str, Tensor]) -> nn.Module:
    """Build the network; its sizes are compared with the weights before any memory is taken."""
    try:
        with torch.device("meta"):
            expected = build_net(config, features).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _BadModelError(f"its settings make no network ({str(error).splitlines()[0]})") from None
    for name, tensor in expected.items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            got = "nothing" if found is None else f"{found.dtype} {tuple(found.shape)}"
            raise _BadModelError(f"net.{name} must be {tensor.dtype} {tuple(tensor.shape)}, got {got}")
    extra = sorted(set(weights) - set(expected))
    if extra:
        raise _BadModelError(f"its network has no weights of the name {extra[0]!r}")
    net = build_net(config, features)
    net.load_state_dict(weights)
    return net
