"""A score model of a diffusion: what it is called with, what it predicts, and its terms on the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor
from typing_extensions import Required

from fastssm import backends, checks
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE
from fastssm.diffusion.times import starts_in_data
from fastssm.directions import Directions
from fastssm.options import BackendName, Kind, Model, ModelTensors, Precision, What
from fastssm.sweeps import Terms

Predicts = Literal["score", "noise"]
Unit = Literal["nats", "bits"]


class ScoreModelArguments(ModelTensors, total=False):
    """A diffusion and the model of its scores.

    Attributes:
        sde: the diffusion: `VP()`, `VE()`, `SubVP()`, `ReciprocalVE()`, or a `CustomSDE`, whose states are simulated.
        predicts: what the model returns: "score", or "noise" for `-std(t) s`.
        cond: further arguments of the model, before the time: `model(x, *cond, t)`.
        kind: "energy", "score", or "auto" by the shape of the output (ambiguous for D = 1).
        backend: "auto", or "reference", "jets", "torch", "cpu", "cuda", which must then run.
    """

    sde: Required[SDE]
    predicts: Predicts
    kind: Kind
    backend: BackendName


class FixedTimeArguments(ScoreModelArguments, total=False):
    """What samplers and the likelihood of the flow take.

    Attributes:
        sde: the diffusion that the model was trained for, a `CustomSDE` included.
        t_min: the earliest time; the SDE's own start if None, or `T / 1000` where that is free of noise.
    """

    t_min: float | None


def check_sde(sde: object) -> SDE:
    """Return the SDE, and raise unless it is one."""
    if not isinstance(sde, SDE):
        raise TypeError(
            f"sde must be a diffusion of fastssm.diffusion, VP(), VE(), SubVP(), ReciprocalVE() or CustomSDE(f, g), "
            f"got {type(sde).__name__}."
        )
    return sde


def check_bounded(sde: object) -> LinearSDE | CustomSDE:
    """Return the SDE, and raise unless its bound can be computed: its kernel is known, or can be simulated."""
    if not isinstance(check_sde(sde), LinearSDE | CustomSDE):
        raise TypeError(
            f"sde must have a Gaussian kernel in closed form, as VP(), VE(), SubVP() and ReciprocalVE() have, or be a "
            f"CustomSDE(f, g), which is simulated, got {type(sde).__name__}; use "
            "fastssm.diffusion.sliced_diffusion_loss, or flow_log_prob to evaluate."
        )
    assert isinstance(sde, LinearSDE | CustomSDE)
    return sde


def check_predicts(sde: SDE, predicts: Predicts, first: float | Tensor) -> None:
    """Raise unless the network's output means something at the earliest time."""
    checks.check_choice("predicts", predicts, get_args(Predicts))
    if predicts == "noise" and not isinstance(sde, LinearSDE):
        raise ValueError(
            'predicts="noise" needs a kernel in closed form, which a CustomSDE does not have; predict the score.'
        )
    if predicts == "noise" and starts_in_data(sde, first):
        raise ValueError(
            'predicts="noise" makes the score -output / std(t), infinite at t = 0, where the likelihood is then minus '
            "infinity; pass times=TimeSampling(t_min=1e-3), or predict the score."
        )


@dataclass(frozen=True)
class ScoreModel:
    """A validated model of scores `s(x, t)`, called as `model(x, *cond, sde.condition(t))`.

    Attributes:
        request: the call on data, whose last conditioning argument stands for the time.
        backend: what runs it.
        sde: the diffusion.
        predicts: "score", or "noise" for an output `-std(t) s`.
    """

    request: backends.Request
    backend: backends.Backend
    sde: SDE
    predicts: Predicts

    def at(self, x: Tensor, t: Tensor) -> backends.Request:
        """Return the call at states x `[B, ...]` and times t `[B]`."""
        told = self.sde.condition(t).to(self.request.x.dtype)
        return self.request._replace(x=x.to(self.request.x.dtype), cond=(*self.request.cond[:-1], told))

    def _scale(self, t: Tensor) -> Tensor | None:
        """Return what turns the output into the score, `[B]`."""
        if self.predicts == "score":
            return None
        assert isinstance(self.sde, LinearSDE)
        return -1.0 / self.sde.std(t)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score `[B, D]`."""
        found, scale = self.backend.score(self.at(x, t)), self._scale(t)
        return found if scale is None else scale[:, None] * found

    def terms(self, x: Tensor, t: Tensor, directions: Directions) -> Terms:
        """Return the terms of every sample and direction."""
        found, scale = self.backend.terms(self.at(x, t), directions), self._scale(t)
        if scale is None:
            return found
        return Terms(scale * found.projected_score, scale * found.projected_jacobian, scale[:, None] * found.score)


def score_model(
    model: Model,
    x: Tensor,
    first: float,
    what: What,
    options: ScoreModelArguments,
    precision: Precision = "full",
) -> ScoreModel:
    """Validate a model, its data and its conditioning arguments before anything is drawn.

    Args:
        model: the model.
        x: data or states.
        first: the earliest time at which the model is called.
        what: what its backend has to compute.
        options: the options of the call, with an SDE that was checked.
        precision: of the products.
    """
    checks.check_data(x)
    sde, predicts, kind = options["sde"], options["predicts"], options["kind"]
    check_predicts(sde, predicts, first)
    if predicts == "noise":
        if kind == "energy":
            raise ValueError('predicts="noise" is for networks with one output per coordinate, kind="score".')
        kind = "score"
    time = x.new_full(x.shape[:1], sde.end)
    request = backends.make_request(model, x, options["cond"], kind, precision, last=time)
    return ScoreModel(request, backends.select(request, what, options["backend"]), sde, predicts)
