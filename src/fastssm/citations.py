"""The papers behind each loss, operator and estimator, as BibTeX entries."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from typing import Any

# By public name, the keys of `papers.bib`; the docstring of each says what it has from them. A module twin has the
# papers of its function.
CITED = {
    # losses
    "sliced_loss": "song2019sliced",
    "exact_loss": "hyvarinen2005estimation",
    "finite_difference_loss": "pang2020efficient",
    "finite_difference_denoising_loss": "pang2020efficient",
    "denoising_loss": "vincent2011connection",
    "annealed_denoising_loss": "song2019generative",
    "annealed_sliced_loss": "song2019generative",
    "domain_loss": "yu2022generalized hyvarinen2007some liu2022estimating",
    "preconditioned_loss": "qin2023fit",
    "manifold_loss": "mardia2016score hyvarinen2005estimation",
    "missing_loss": "givens2025missing louis1982finding",
    "GaussianProposal": "dempster1977maximum",
    "tempered_loss": "qin2023fit",
    "ContinuousTempering": "qin2023fit",
    "GeometricTempering": "song2019generative qin2023fit",
    "density_ratio_loss": "choi2022density yu2025density",
    "log_density_ratio": "choi2022density",
    "composite_loss": "meng2020autoregressive",
    "composite_log_prob": "meng2020autoregressive",
    "composite_sample": "meng2020autoregressive",
    "entropy_gradient": "song2019sliced li2018gradient",
    # operators and directions
    "terms": "song2019sliced",
    "score": "hyvarinen2005estimation",
    "divergence": "grathwohl2019ffjord hutchinson1990stochastic",
    "jacobian_diag": "rolland2022score sanchez2023diffusion",
    "laplacian": "li2024forward dangel2025collapsing",
    "hvp_form": "bettencourt2019taylor",
    "basis_terms": "bettencourt2019taylor",
    "basis_coefficients": "wenliang2019learning song2019sliced",
    "draw": "song2019sliced",
    # domains and graphs
    "Box": "yu2022generalized",
    "Positive": "hyvarinen2007some yu2019generalized",
    "Halfspaces": "yu2022generalized",
    "Ball": "yu2022generalized liu2022estimating",
    "Simplex": "yu2023interaction",
    "Intervals": "yu2022generalized",
    "OutsideBall": "yu2022generalized",
    "Polynomial": "yu2022generalized",
    "Intersection": "yu2022generalized",
    "Weight": "yu2019generalized yu2022generalized",
    "Interaction": "yu2019generalized yu2023interaction",
    "quadratic": "yu2019generalized yu2022generalized",
    "path": "lin2016estimation yu2019generalized",
    "multiplier": "yu2019generalized",
    "ebic": "chen2008extended yu2019generalized",
    # diffusions and samplers
    "elbo_loss": "huang2021variational kim2022soft",
    "elbo": "huang2021variational kingma2021variational",
    "sliced_diffusion_loss": "song2021score huang2021variational",
    "flow_log_prob": "song2021score chen2018neural",
    "euler_maruyama": "song2021score huang2021variational",
    "predictor_corrector": "song2021score",
    "probability_flow": "song2021score",
    "VP": "song2021score",
    "SubVP": "song2021score",
    "VE": "song2021score",
    "ReciprocalVE": "kim2022soft",
    "CustomSDE": "huang2021variational",
    "TimeSampling": "huang2021variational kim2022soft",
    "SoftTruncation": "kim2022soft",
    "langevin": "roberts1996exponential",
    "annealed_langevin": "song2019generative jolicoeur2021adversarial",
    # diagnostics
    "fisher_divergence": "hyvarinen2005estimation",
    "sliced_gap": "song2019sliced",
    "loss_per_level": "song2019generative",
    "projection_study": "mccandlish2018empirical",
    "jacobian_trace": "meyer2021hutch epperly2024xtrace",
    # networks and estimators
    "MLP": "perez2018film",
    "Sin": "sitzmann2020implicit",
    "FourierFeatures": "tancik2020fourier song2021score",
    "MADEContext": "germain2015made",
    "KernelExpFamily": "wenliang2019learning",
    "ScoreMatchingDensity": "song2019sliced",
    "SlicedScoreMatching": "song2019sliced",
    "ExactScoreMatching": "hyvarinen2005estimation",
    "DenoisingScoreMatching": "vincent2011connection",
}
SELF = "fastssm song2019sliced"  # what to cite for the package


class Citation(str):
    """BibTeX entries, which a prompt and a notebook show as they are."""

    __slots__ = ()
    __repr__ = str.__str__


def cite(*what: Any) -> Citation:
    """Return the BibTeX entries of the papers behind losses, operators and estimators.

    Args:
        what: functions or classes of fastssm, instances of them, or their names, such as `fastssm.domain_loss`, a
            `DomainLoss`, or `"domain_loss"`; nothing for fastssm itself and the paper on sliced score matching.

    Returns:
        Each paper once, in the order of the arguments. A prompt and a notebook show the entries as text.

    Raises:
        LookupError: for what is not of fastssm, or has no paper.

    Example:
        >>> fastssm.cite(fastssm.denoising_loss)
        @article{vincent2011connection,
          author = {Vincent, Pascal},
          title = {A Connection between Score Matching and Denoising Autoencoders},
          journal = {Neural Computation},
          volume = {23},
          year = {2011},
        }
    """
    entries = papers()
    keys = [key for one in what for key in keys_of(one)] if what else SELF.split()
    return Citation("\n\n".join(entries[key] for key in dict.fromkeys(keys)))


def papers() -> dict[str, str]:
    """Return every entry of `papers.bib` by its key."""
    text = resources.files("fastssm").joinpath("papers.bib").read_text("utf-8")
    return {re.split("[{,]", entry, maxsplit=2)[1]: entry for entry in text.strip().split("\n\n")}


def keys_of(what: Any) -> list[str]:
    """Return the keys of the papers behind a function, a class, an instance or a name."""
    names = [name for found in _names(what) for name in (found, _function_of(found))]
    for name in names:
        if name in CITED:
            return CITED[name].split()
    near = difflib.get_close_matches(names[0], CITED) if names else []
    hint = f"; did you mean {' or '.join(near)}?" if near else "; see `fastssm.citations.CITED` for those that have."
    raise LookupError(f"fastssm knows no paper behind {what!r}{hint}")


def _names(what: Any) -> list[str]:
    """Return the names under which something may stand in the table: of a class, those of its bases too."""
    if isinstance(what, str):
        return [what.rpartition(".")[2]]
    classes = what.__mro__ if isinstance(what, type) else [what, *type(what).__mro__]
    ours = [one for one in classes if str(getattr(one, "__module__", "")).split(".")[0] == "fastssm"]
    return [one.__name__ for one in ours if hasattr(one, "__name__")]


def _function_of(twin: str) -> str:
    """Return the name of the function of a module twin: `sliced_loss` for `SlicedScoreLoss`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", twin).lower().replace("_score_loss", "_loss")
