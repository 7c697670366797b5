"""A score model of a diffusion: what it is called with, what it predicts, and its terms on the engine."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fastssm import backends, checks
from fastssm.diffusion.sde import SDE, LinearSDE
from fastssm.diffusion.times import starts_in_data
from fastssm.directions import Directions
from fastssm.losses.reduction import Cond
from fastssm.sweeps import Terms

PREDICTS = ("score", "noise")


def check_sde(sde: object) -> SDE:
    """Return the SDE, and raise unless it is one."""
    if not isinstance(sde, SDE):
        raise TypeError(
            f"sde must be a diffusion of fastssm.diffusion, VP(), VE(), SubVP(), ReciprocalVE() or CustomSDE(f, g), "
            f"got {type(sde).__name__}."
        )
    return sde


def check_linear(sde: object) -> LinearSDE:
    """Return the SDE, and raise unless its kernel is known."""
    if not isinstance(check_sde(sde), LinearSDE):
        raise TypeError(
            f"sde must have a Gaussian kernel in closed form, as VP(), VE(), SubVP() and ReciprocalVE() have, got "
            f"{type(sde).__name__}; use fastssm.diffusion.sliced_diffusion_loss, or flow_log_prob to evaluate."
        )
    assert isinstance(sde, LinearSDE)
    return sde


def check_first(sde: SDE, t_min: object) -> float:
    """Return the earliest time, the SDE's own if None, and raise unless it lies in the SDE's interval."""
    if t_min is None:
        return sde.start
    if isinstance(t_min, bool) or not isinstance(t_min, int | float):
        raise TypeError(f"t_min must be a number, got {type(t_min).__name__}.")
    if not sde.start <= t_min < sde.end:
        raise ValueError(f"t_min must lie in [{sde.start:g}, {sde.end:g}), the times of {sde}, got {t_min}.")
    return float(t_min)


def check_predicts(sde: SDE, predicts: str, first: float | Tensor) -> None:
    """Raise unless the network's output means something at the earliest time."""
    checks.check_choice("predicts", predicts, PREDICTS)
    if predicts == "noise" and not isinstance(sde, LinearSDE):
        raise ValueError(
            'predicts="noise" needs a kernel in closed form, which a CustomSDE has not; predict the score.'
        )
    if predicts == "noise" and starts_in_data(sde, first):
        raise ValueError(
            'predicts="noise" makes the score -output / std(t), infinite at t = 0, where the likelihood is then minus '
            "infinity; pass t_min=1e-3, or predict the score."
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
    predicts: str

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
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    cond: Cond,
    kind: str,
    predicts: str,
    first: float | Tensor,
    backend: str,
    precision: str,
) -> ScoreModel:
    """Validate a model, its data and its conditioning arguments before anything is drawn."""
    checks.check_data(x)
    check_predicts(sde, predicts, first)
    stand_in = x.new_full(x.shape[:1], sde.end)
    if predicts == "noise":
        if kind == "energy":
            raise ValueError('predicts="noise" is for networks with one output per coordinate, kind="score".')
        kind = "score"
    request = backends.make_request(model, x, (*checks.check_cond(cond, x), stand_in), kind, precision)
    return ScoreModel(request, backends.select(request, backend), sde, predicts)


def check_t(t: object, x: Tensor) -> Tensor | None:
    """Return the times, None or one per sample."""
    if t is None:
        return None
    if not isinstance(t, Tensor) or not t.is_floating_point():
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t must be a floating-point torch.Tensor, one time per sample, got {kind}.")
    if t.shape != x.shape[:1] or t.device != x.device:
        raise ValueError(
            f"t must have shape ({x.shape[0]},), one time per sample, on {x.device}, got {tuple(t.shape)} on "
            f"{t.device}."
        )
    return checks.outside_inference(t).to(checks.widened(x).dtype)
