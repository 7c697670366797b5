"""fastssm: energy-based and score-based models trained by sliced score matching, exactly and fast."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastssm import domains, nn
from fastssm.backends import Plan, backend, explain
from fastssm.conditionals import composite_log_prob, composite_sample
from fastssm.errors import FastSSMWarning, UnsupportedError
from fastssm.graphs import GraphedStep, graphed
from fastssm.losses import (
    AnnealedDenoisingLoss,
    AnnealedSlicedLoss,
    CompositeLoss,
    ContinuousTempering,
    DenoisingLoss,
    DensityRatioLoss,
    DomainLoss,
    ExactScoreLoss,
    FiniteDifferenceDenoisingLoss,
    FiniteDifferenceLoss,
    GaussianProposal,
    GeometricTempering,
    LossTerms,
    ManifoldLoss,
    MissingLoss,
    PreconditionedLoss,
    SlicedScoreLoss,
    TemperedLoss,
    annealed_denoising_loss,
    annealed_sliced_loss,
    composite_loss,
    denoising_loss,
    density_ratio_loss,
    domain_loss,
    entropy_gradient,
    exact_loss,
    finite_difference_denoising_loss,
    finite_difference_loss,
    log_density_ratio,
    manifold_loss,
    missing_loss,
    preconditioned_loss,
    sliced_loss,
    tempered_loss,
)
from fastssm.operators import (
    BasisTerms,
    Terms,
    basis_coefficients,
    basis_terms,
    divergence,
    hvp_form,
    jacobian_diag,
    laplacian,
    score,
    terms,
)
from fastssm.recognition import Network, Refusal, recognize

if TYPE_CHECKING:  # what follows is imported on first use, by `__getattr__`
    from fastssm import data, diagnostics, diffusion, graphical, integrations, sampling, training
    from fastssm.citations import cite
    from fastssm.training import Model, load

__version__ = "0.1.0"

_LAZY = {  # names by the module that is imported on their first use
    **{
        name: f"fastssm.{name}"
        for name in ("data", "diagnostics", "diffusion", "graphical", "integrations", "sampling", "training")
    },
    "Model": "fastssm.training",
    "cite": "fastssm.citations",
    "load": "fastssm.training",
}

__all__ = [
    "AnnealedDenoisingLoss",
    "AnnealedSlicedLoss",
    "BasisTerms",
    "CompositeLoss",
    "ContinuousTempering",
    "DenoisingLoss",
    "DensityRatioLoss",
    "DomainLoss",
    "ExactScoreLoss",
    "FastSSMWarning",
    "FiniteDifferenceDenoisingLoss",
    "FiniteDifferenceLoss",
    "GaussianProposal",
    "GeometricTempering",
    "GraphedStep",
    "LossTerms",
    "ManifoldLoss",
    "MissingLoss",
    "Model",
    "Network",
    "Plan",
    "PreconditionedLoss",
    "Refusal",
    "SlicedScoreLoss",
    "TemperedLoss",
    "Terms",
    "UnsupportedError",
    "annealed_denoising_loss",
    "annealed_sliced_loss",
    "backend",
    "basis_coefficients",
    "basis_terms",
    "cite",
    "composite_log_prob",
    "composite_loss",
    "composite_sample",
    "data",
    "denoising_loss",
    "density_ratio_loss",
    "diagnostics",
    "diffusion",
    "divergence",
    "domain_loss",
    "domains",
    "entropy_gradient",
    "exact_loss",
    "explain",
    "finite_difference_denoising_loss",
    "finite_difference_loss",
    "graphed",
    "graphical",
    "hvp_form",
    "integrations",
    "jacobian_diag",
    "laplacian",
    "load",
    "log_density_ratio",
    "manifold_loss",
    "missing_loss",
    "nn",
    "preconditioned_loss",
    "recognize",
    "sampling",
    "score",
    "sliced_loss",
    "tempered_loss",
    "terms",
    "training",
]

if not TYPE_CHECKING:  # type checkers know the names above, and no others

    def __getattr__(name: str) -> Any:
        """Import a part of the package, or a name from it, on first use."""
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = importlib.import_module(_LAZY[name])
        value = found if _LAZY[name] == f"{__name__}.{name}" else getattr(found, name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return the public names, those that are not imported yet included."""
        return sorted({*globals(), *_LAZY})
